"""Loader of the effective configuration, from the profile, the main file and conf.d/*.yaml.

The module `source_files` reads the files. The module `parser` validates their texts.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from certmond.config.model import EVERY_KEY, Config
from certmond.config.parser import Parsed, parse_tree
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
    return load_tree(path, profile=profile, explicit=explicit, acting=acting, keys=keys).config


def load_tree(
    path: Path | None = None,
    *,
    profile: str | None = None,
    explicit: bool = False,
    acting: bool = False,
    keys: Container[str] = EVERY_KEY,
) -> Parsed:
    """Return the configuration as `load` does, with the tree of the keys that the profile and the files set."""
    files = read_files(path, explicit=explicit)
    parsed = parse_tree(files.sources, profile=profile, unread=files.unread, keys=keys)
    if files.open_to_others and (acting or parsed.config.acts):
        raise ConfigError(tuple(map(str, files.open_to_others)))
    return parsed
