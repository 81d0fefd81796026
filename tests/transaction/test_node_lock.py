"""Which process acts on a node: one at a time, for as long as it lives."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from certmond.transaction.node_lock import ACTING, COMMAND, Holder, NodeLock, holder_of, is_held

PROGRAM = """
import sys
from pathlib import Path
from certmond.transaction.node_lock import ACTING, NodeLock
lock = NodeLock(Path(sys.argv[1]), ACTING)
print(lock.take(Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_until_its_holder_is_killed(tmp_path: Path) -> None:
    """Another process does not get the lock and gets its holder. The kernel releases it at `kill -9`."""
    state = tmp_path / "state"
    command = [sys.executable, "-c", PROGRAM, str(state), "/run/certmond"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "True\n"
        mine = NodeLock(state, ACTING)
        assert not mine.take()
        assert holder_of(state, ACTING) == Holder(other.pid, Path("/run/certmond"))
        assert str(holder_of(state, ACTING)) == f"the daemon (process {other.pid})"
        assert NodeLock(state, COMMAND).take()
        other.kill()
        other.wait()
    assert holder_of(state, ACTING) is None
    assert mine.take()
    assert holder_of(state, ACTING) == Holder(os.getpid())
    mine.release()
    assert not is_held(state, ACTING)


def test_a_lock_is_for_its_owner_alone(tmp_path: Path) -> None:
    """The state directory and the file are made so that no other user can hold the lock against certmond."""
    lock = NodeLock(tmp_path / "state", ACTING)
    assert lock.take()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state", tmp_path / "state" / ACTING)]
    assert modes == [0o700, 0o600]
    lock.release()


def test_a_query_of_the_lock_causes_no_event(tmp_path: Path) -> None:
    """A query of the holder causes no write event for a watcher of the directory."""
    lock = NodeLock(tmp_path, ACTING)
    assert lock.take()
    before = (tmp_path / ACTING).stat()
    assert is_held(tmp_path, ACTING)
    assert not NodeLock(tmp_path, ACTING).take()
    after = (tmp_path / ACTING).stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    lock.release()


@pytest.mark.long
def test_a_query_does_not_block_the_lock(tmp_path: Path) -> None:
    """A process can take a free lock while other processes query its holder."""
    asking = f"""
from pathlib import Path
from certmond.transaction.node_lock import ACTING, is_held
print("ready", flush=True)
while True:
    is_held(Path({str(tmp_path)!r}), ACTING)
"""
    lock = NodeLock(tmp_path, ACTING)
    assert lock.take()
    lock.release()
    with subprocess.Popen([sys.executable, "-c", asking], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        try:
            for _ in range(2000):
                assert lock.take()
                lock.release()
        finally:
            other.kill()
