"""The notifications to the service manager, on a socket like that of systemd."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from certmond.daemon.sd_notify import Notifier
from certmond.errors import CertmondError

pytest.importorskip("systemd.daemon")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


@pytest.mark.parametrize("tell", [Notifier.status, Notifier.ready])
def test_a_name_cannot_add_a_notification(manager: socket.socket, tell: object) -> None:
    """A status is one line, whatever the name of a certificate: another line would be a command, such as to end
    certmond.
    """
    assert callable(tell)
    tell(Notifier(), "1 critical (a\nWATCHDOG=trigger\nMAINPID=1\udcff: malformed)")
    reported = manager.recv(4096).decode().removeprefix("READY=1\n")
    assert reported == r"STATUS=1 critical (a\nWATCHDOG=trigger\nMAINPID=1\udcff: malformed)"


@pytest.mark.parametrize("interval", ["abc", "", "-1", "1.5", "²", "9" * 5000])
def test_a_malformed_interval_of_the_watchdog_is_an_error(interval: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed WATCHDOG_USEC is an error with the name of the variable. For another process, it has no effect."""
    monkeypatch.setenv("WATCHDOG_USEC", interval)
    with pytest.raises(CertmondError, match="WATCHDOG_USEC has the value"):
        Notifier()
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier().watchdog == 0


def test_a_long_status_is_truncated(manager: socket.socket) -> None:
    """A message has a size limit."""
    Notifier().status("x" * (1 << 24))
    assert manager.recv(4096) == b"STATUS=" + b"x" * 500


def test_a_missing_service_manager_stops_nothing(manager: socket.socket, tmp_path: Path) -> None:
    """A notification that fails does not affect the work."""
    notifier = Notifier()
    (tmp_path / "notify").unlink()
    notifier.ready("well")
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.recv(1)


def test_a_start_and_a_reload_can_take_long(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sign of life also extends the time limit of a start and of a reload, and afterwards only the watchdog."""
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    notifier = Notifier()
    extension = b"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000"
    for begin in (None, notifier.reloading):
        if begin:
            begin()
            manager.recv(4096)
        notifier.alive()
        assert manager.recv(4096) == extension
        notifier.ready("well")
        manager.recv(4096)
        notifier.alive()
        assert manager.recv(4096) == b"WATCHDOG=1"
    notifier.stops = True
    notifier.reloading()
    manager.recv(4096)
    notifier.alive()
    assert manager.recv(4096) == b"WATCHDOG=1", "a stop has its own time limit"


def test_without_a_watchdog_a_start_can_take_long(manager: socket.socket) -> None:
    """After the start, there is nothing to tell."""
    notifier = Notifier()
    notifier.alive()
    assert manager.recv(4096) == b"EXTEND_TIMEOUT_USEC=60000000"
    notifier.ready("well")
    manager.recv(4096)
    notifier.alive()
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.recv(1)
