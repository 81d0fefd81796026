"""Since which start the machine runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from certmond.state.boot import boot_id
from tests.conftest import real_part


@pytest.mark.real("sysctl")
def test_the_boot_id_is_that_of_the_kernel() -> None:
    """As a kubelet reads it."""
    command = [real_part("sysctl"), "-n", "kernel.random.boot_id"]
    assert f"{boot_id()}\n" == subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"x/y", b"0A6F2A6B-7D1C-4D0E-9F3A-2B1C0D9E8F7A"])
def test_what_is_no_boot_id_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None) -> None:
    """As a container may show: it is empty then, and the node is known by its name alone."""
    file = tmp_path / "boot_id"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr("certmond.state.boot._BOOT_ID", file)
    assert boot_id() == ""
