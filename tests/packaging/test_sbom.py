"""The software bill of materials of a package."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

bill = runpy.run_path(str(Path(__file__).parents[2] / "packaging/sbom.py"))["bill"]


@pytest.mark.parametrize(
    "archive_info",
    [{"hashes": {"sha256": "ab12"}, "hash": "sha256=ab12"}, {"hash": "sha256=ab12"}],
    ids=["pip 23.1 and later", "pip 23.0"],
)
def test_a_component_has_the_hash_that_pip_reports(archive_info: dict[str, Any]) -> None:
    """A component has the SHA-256 hash of the installed file, also from the pip of Debian 12."""
    installed = {
        "metadata": {"name": "Some_Name", "version": "1.0", "license": "MIT"},
        "download_info": {"url": "file:///wheels/some_name-1.0-py3-none-any.whl", "archive_info": archive_info},
    }
    (component,) = bill({"install": [installed]}, "0.1.0")["components"]
    assert component["hashes"] == [{"alg": "SHA-256", "content": "ab12"}]
    assert component["purl"] == "pkg:pypi/some-name@1.0?file_name=some_name-1.0-py3-none-any.whl"
