"""The audit of dependencies reports known vulnerabilities, and no success if a query failed."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.documents import ROOT

audit = SimpleNamespace(**runpy.run_path(str(ROOT / "packaging/audit.py")))
KNOWN = {"id": "PYSEC-2026-7", "aliases": ["CVE-2026-7"], "fix_versions": ["2.1"], "description": "…"}


def asked(name: str, *known: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": "2.0", "vulns": list(known)}


SKIPPED = {"name": "other", "skip_reason": "Dependency not found on PyPI and could not be audited: other (1.0)"}


@pytest.mark.parametrize(
    ("dependencies", "status", "said"),
    [
        ([asked("one"), asked("two")], 0, "2 locked dependencies have no known vulnerability."),
        ([asked("one", KNOWN), SKIPPED], 1, "one 2.0: PYSEC-2026-7 (CVE-2026-7); fixed in 2.1"),
        ([asked("one", KNOWN | {"fix_versions": []})], 1, "one 2.0: PYSEC-2026-7 (CVE-2026-7); no version fixes it"),
        ([asked("one"), SKIPPED], 3, "The audit is incomplete: pip-audit could not query 1 of 2: other."),
        ([], 3, "The audit is incomplete: pip-audit could not query any dependency."),
    ],
)
def test_an_unchecked_dependency_is_not_good(dependencies: list[dict[str, Any]], status: int, said: str) -> None:
    """Known vulnerabilities come first, then unchecked dependencies. Only if all were checked, the result is clean."""
    found, lines = audit.judge({"dependencies": dependencies, "fixes": []})
    assert (found, lines[0]) == (status, said)


@pytest.mark.parametrize("answer", ["exit 2", "echo connection refused >&2; exit 1", "echo '{'"])
def test_a_failed_audit_exits_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    """A pip-audit that fails, or has unreadable output, is no answer: exit status 3, with the command."""
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert audit.main(["requirements.txt"]) == 3
    assert "check the network connection" in capsys.readouterr().out
