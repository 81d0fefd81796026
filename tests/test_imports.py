"""The modules that the two processes load: each module uses memory on every node, during the whole run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import certmond

ROOT = Path(certmond.__file__).parents[1]


def loaded(*modules: str) -> set[str]:
    """Return the modules that a process has after these imports, packages by their name and with their content."""
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    own = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it loads many
    run = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


def test_the_command_line_that_serves_is_small() -> None:
    """`certmond serve` loads click and the standard library: nothing that reads a configuration or a certificate, no
    event loop, no terminal, and not OpenSSL.
    """
    found = loaded("certmond.cli.main", "certmond.expose.http.server", "certmond.notify.library_log")
    assert "certmond.expose.http.server" in found
    assert not found & {"asyncio", "cryptography", "hashlib", "jeepney", "pydantic", "rich", "ssl", "watchdog", "yaml"}


@pytest.mark.long
def test_the_daemon_loads_no_terminal_library() -> None:
    """`certmond run` as a unit loads nothing for terminals or for the Kubernetes API, no HTTP server or client, and no
    event loop before it probes an endpoint.
    """
    found = loaded("certmond.cli.main", "certmond.daemon.loop", "certmond.notify.event_log")
    assert {"certmond.daemon.loop", "structlog"} <= found
    assert not found & {
        "asyncio",
        "attr",
        "http",
        "httpx",
        "lightkube",
        "pygments",
        "rich",
        "structlog.dev",
        "urllib.request",
    }
