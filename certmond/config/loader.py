"""Loader of the effective configuration, from the profile, the main file and conf.d/*.yaml.

The module `source_files` reads the files. The module `model` validates their texts.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from certmond.config.model import EVERY_KEY, Config, parse
from certmond.config.source_files import read_files
from certmond.errors import ConfigError


def load(
    path: Path | None = None,
    *,
    profile: str | None = None,
    explicit: bool = False,
    acting: bool = False,
    keys: Container[str] = EVERY_KEY,
) -> Config:
    """Return the configuration from the profile, the file `path` and the files conf.d/*.yaml beside it, in this order.

    The default of `path` is `DEFAULT_PATH`. A missing file `path` is a problem only if `explicit` is true. Write
    permission for other users is a problem only if `acting` is true, or if the configuration `acts`. Raises ConfigError
    with all problems.
    """
    files = read_files(path, explicit=explicit)
    config = parse(files.sources, profile=profile, unread=files.unread, keys=keys)
    if files.open_to_others and (acting or config.acts):
        raise ConfigError(tuple(map(str, files.open_to_others)))
    return config
