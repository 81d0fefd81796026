"""The profiles that certmond ships."""

from __future__ import annotations

import yaml

from certmond.config.shipped_profiles import DEFAULT_PROFILE, NO_PROFILE, profiles


def test_each_profile_is_a_yaml_mapping() -> None:
    """The name of a profile differs from the name for no profile, and its text is a YAML mapping."""
    assert DEFAULT_PROFILE in profiles()
    assert NO_PROFILE not in profiles()
    assert all(isinstance(yaml.safe_load(text), dict) for text in profiles().values())


def test_the_files_are_read_once() -> None:
    """Each call returns the same texts."""
    assert profiles() is profiles()
