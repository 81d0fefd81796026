"""The tables of the commands fit the terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console

from certmond.cli.fitted_tables import columns
from certmond.expose.documents.forecast_table import forecast_table, plan_table
from tests.deadline import DEADLINE
from tests.node import NOW, PKI, Node

AT = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
DUE, OVER = "2027-11-10T00:00:00Z", "2028-01-01T00:00:00Z"


def lines(*arguments: str | Path, width: int | None = None, cwd: Path | None = None) -> list[str]:
    """Return the output of a command whose stdout is no terminal. `width` is the value of COLUMNS."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"COLUMNS": str(width)} if width else {}
    command = [sys.executable, "-m", "certmond", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, check=False, env=environment, cwd=cwd
    )
    assert done.returncode < 3, done.stderr
    return [line.rstrip() for line in done.stdout.splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("width", [None, 80, 64, 140])
def test_the_forecast_fits(node: Node, width: int | None) -> None:
    """The chart and the table fit the width, which is 80 columns without a terminal. Each name is complete."""
    node.path(f"{PKI}/front-proxy-ca.key").unlink()
    shown = lines("forecast", "--root", ".", "--at", AT, width=width, cwd=node.root)
    assert max(map(len, shown)) <= (width or 80)
    names = {line.split()[0] for line in shown if "──" in line}
    assert {"apiserver-kubelet-client", "etcd-healthcheck-client", "controller-manager.conf"} <= names
    targets = " ".join(shown[shown.index("") :])
    assert "apiserver, apiserver-kubelet-client, " in targets


@pytest.mark.long
def test_the_wide_forecast_has_a_line_for_each_event(node: Node) -> None:
    """With `-o wide`, each event is one line, whatever the width is."""
    shown = lines("forecast", "--root", node.root, "--at", AT, "--for", "1y", "-o", "wide", width=60)
    assert [line for line in shown if line.startswith("2027-10-22  renew    apiserver-etcd-client  ")]


def test_a_long_name_has_a_separate_line() -> None:
    """The chart keeps a readable width, and the name stays whole."""
    name = "certificates-of-the-" + "very-" * 10 + "long-name"
    event = {"at": "2027-02-01T00:00:00Z", "what": "renew", "target": name, "detail": "is due", "bad": False}
    document = {
        "since": "2027-01-01T00:00:00Z", "until": "2028-01-01T00:00:00Z", "complete": True, "mode": "enforce",
        "next_event": None, "events": [event],
    }  # fmt: skip
    console = Console(soft_wrap=True, width=400)
    with console.capture() as text:
        console.print(forecast_table(document, width=60))
    shown = text.get().splitlines()
    assert shown[1] == name
    assert shown[2].startswith("  ────●──")
    assert len(shown[2]) == 60


@pytest.mark.long
def test_a_narrow_plan_groups_steps_that_differ_only_in_the_target(node: Node) -> None:
    """Each target is named once, in the order of the steps, with the services to restart."""
    full = lines("plan", "--root", node.root, "--at", DUE, width=300)
    narrow = lines("plan", "--root", node.root, "--at", DUE)
    assert max(map(len, narrow)) <= 80
    order = [line.split()[1] for line in full if line.startswith("issue")]
    found = " ".join(narrow).replace(",", "").split()
    assert [each for each in found if each in order][: len(order)] == order
    assert narrow[0] == "STEP     REASON   TARGET, DETAIL"
    assert any(line.endswith("; restarts kubelet") or line.strip() == "restarts kubelet" for line in narrow)


@pytest.mark.long
def test_a_narrow_table_of_certificates_is_complete(node: Node) -> None:
    """In 80 columns, each row of `check` fits. No name and no reason is cut. Only the time of day is left out."""
    shown = lines("check", "--root", node.root, "--at", OVER, width=80)
    rows = shown[: shown.index("")]
    assert [row.split()[0] for row in rows[2:4]] == ["ca", "apiserver"]
    assert rows[3].split() == ["apiserver", "2027-11-24", "-37d", "ca", "no", "matches", "expired"]
    assert max(map(len, rows)) <= 85
    assert "Nov 24, 2027 14:15 UTC" in lines("check", "--root", node.root, "--at", OVER)[2]


def test_the_width_of_the_terminal_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS overrides the terminal, and the default applies without both."""
    code = "from certmond.cli.fitted_tables import columns; print(columns(7))"
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # readline can set it
    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 93, 0, 0))
    with os.fdopen(other, "wb") as terminal:
        subprocess.run([sys.executable, "-c", code], stdout=terminal, env=environment, check=True, timeout=DEADLINE)
        assert os.read(own, 100).decode().strip() == "93"
    os.close(own)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, check=True, timeout=DEADLINE
    )
    assert done.stdout.strip() == b"7"
    monkeypatch.setenv("COLUMNS", "42")
    assert columns(7) == 42


def test_a_document_without_steps_has_no_table() -> None:
    """The plan of an older document has neither due certificates nor findings."""
    console = Console(soft_wrap=True, width=400)
    with console.capture() as text:
        console.print(plan_table({"steps": [], "held": [], "changes_at": None}))
    assert text.get() == "nothing to do now\n"


def test_a_held_file_of_a_pattern_is_named() -> None:
    """If the plan contains several files of an entry, each held step has its path."""
    held = [
        {"target": name, "path": f"/srv/{path}.pem", "because": "the key is shared", "until": None}
        for name, path in (("many", "a"), ("many", "b"), ("leaf", "c"))
    ]
    console = Console(width=100)
    with console.capture() as text:
        console.print(plan_table({"steps": [], "held": held, "changes_at": None}))
    assert [" ".join(line.split()) for line in text.get().splitlines()] == [
        "no step now",
        "held many (/srv/a.pem): the key is shared",
        "held many (/srv/b.pem): the key is shared",
        "held leaf: the key is shared",
    ]
