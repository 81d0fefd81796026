"""The version in the metrics."""

from __future__ import annotations

from importlib.metadata import version

from certmond.expose.metrics.installed_version import installed_version


def test_the_version_is_that_of_the_package() -> None:
    """The version is the version that Python reads from the metadata of the package."""
    assert installed_version() == version("certmond")
