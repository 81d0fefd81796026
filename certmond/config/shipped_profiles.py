"""The profiles that certmond ships: the names and the YAML texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

DEFAULT_PROFILE = "kubeadm"
NO_PROFILE = "none"


@cache
def profiles() -> Mapping[str, str]:
    """Return the YAML text of each shipped profile, by the name of the profile."""
    shipped = sorted((Path(__file__).parents[1] / "profiles").iterdir())
    return {file.name[:-5]: file.read_text("utf-8") for file in shipped if file.name.endswith(".yaml")}
