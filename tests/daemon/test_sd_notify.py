"""What the service manager is told, on a socket as systemd has one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from certmond.daemon.sd_notify import Notifier

pytest.importorskip("systemd.daemon")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


@pytest.mark.parametrize("tell", [Notifier.status, Notifier.ready])
def test_a_name_says_nothing_to_the_service_manager(manager: socket.socket, tell: object) -> None:
    """A status is one line, however a certificate is called: each more would be an order, such as to end certmond."""
    assert callable(tell)
    tell(Notifier(), "1 critical (a\nWATCHDOG=trigger\nMAINPID=1\udcff: malformed)")
    told = manager.recv(4096).decode().removeprefix("READY=1\n")
    assert told == r"STATUS=1 critical (a\nWATCHDOG=trigger\nMAINPID=1\udcff: malformed)"


def test_a_status_of_any_length_is_told(manager: socket.socket) -> None:
    """Cut off, for a message has a limit."""
    Notifier().status("x" * (1 << 24))
    assert manager.recv(4096) == b"STATUS=" + b"x" * 500


def test_a_service_manager_that_does_not_listen_ends_nothing(manager: socket.socket, tmp_path: Path) -> None:
    """What is told is for it, and nothing of the work depends on it."""
    notifier = Notifier()
    (tmp_path / "notify").unlink()
    notifier.ready("well")
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.recv(1)
