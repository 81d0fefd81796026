"""The commands `config validate`, `config show` and `config schema`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadline import DEADLINE


def certmond(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "certmond", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.mark.long
def test_config_verbs(tmp_path: Path) -> None:
    """`config validate` says that all is good, `show` prints what validates again, `schema` is a JSON Schema."""
    assert certmond("config", "validate").returncode == 0
    shown = certmond("config", "show")
    path = tmp_path / "shown.yaml"
    path.write_text(shown.stdout)
    assert certmond("config", "validate", "--config", path).returncode == 0
    schema = json.loads(certmond("config", "schema").stdout)
    assert "certificates" in schema["properties"]


def test_a_short_overlap_is_a_warning(tmp_path: Path) -> None:
    """`config validate` warns that Pods may lose the API server, with the setting. The configuration is valid."""
    path = tmp_path / "config.yaml"
    for overlap, warned in (("30s", True), ("130s", False), ("10m", False)):
        path.write_text(f"root_ca: {{overlap: {overlap}}}\n")
        done = certmond("config", "validate", "--config", path)
        assert done.returncode == 0
        assert "the configuration is valid" in done.stdout
        assert (
            "warning: root_ca.overlap is 30 s, but Pods might not trust a new CA for up to 130 s" in done.stderr
        ) is warned
