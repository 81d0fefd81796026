"""The real logrotate rotates the audit log with the packaged snippet, while certmond writes it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certmond.notify.audit import LOG, Audit
from certmond.notify.event_log import Event, Journal
from tests.conftest import real_part
from tests.deadline import DEADLINE

SNIPPET = Path(__file__).parents[2] / "packaging/logrotate"
ROTATIONS = 6


def numbers(state: Path) -> list[int]:
    """The entries of all files of the trail."""
    texts = [
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in state.glob(f"{LOG}*")
    ]
    return sorted(int(json.loads(line)["number"]) for text in texts for line in text.splitlines())


def write_until(state: Path, stop: Path) -> None:
    """Note one step after the other, each with its number."""
    audit, number = Audit(Journal("none"), state, "daemon"), 0
    while not stop.exists():
        audit.note(Event.STEP_DONE, datetime.now(UTC), "done", fields={"number": str(number)})
        number += 1


def written(state: Path, more_than: int) -> int:
    """The size of the trail, once a line of the present file comes after so many bytes."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        size = (state / LOG).stat().st_size if (state / LOG).exists() else 0
        if size > more_than:
            return size
        os.sched_yield()
    raise AssertionError("certmond no longer writes")


@pytest.mark.real("logrotate")
def test_no_line_is_lost_while_the_trail_is_rotated(tmp_path: Path) -> None:
    """Each entry is in one of the files, once and complete. certmond continues in a new one that only its user can
    read.
    """
    state, conf, stop = tmp_path / "state", tmp_path / "certmond", tmp_path / "stop"
    conf.write_text(SNIPPET.read_text().replace("/var/lib/certmond/", f"{state}/"))
    conf.chmod(0o644)
    command = [real_part("logrotate"), "--force", "--state", str(tmp_path / "rotated"), str(conf)]
    if not (child := os.fork()):
        try:
            write_until(state, stop)
        finally:
            os._exit(0)
    try:
        for _ in range(ROTATIONS):
            written(state, 0)
            subprocess.run(command, check=True, capture_output=True)
        written(state, 0)
    finally:
        stop.touch()
        os.waitpid(child, 0)
    found = numbers(state)
    assert found == list(range(len(found)))
    files = sorted(path.name for path in state.glob(f"{LOG}*"))
    assert files == [LOG, f"{LOG}.1", *(f"{LOG}.{number}.gz" for number in range(2, ROTATIONS + 1))]
    assert {path.stat().st_mode & 0o777 for path in state.glob(f"{LOG}*")} == {0o600}


def test_the_trail_is_bounded() -> None:
    """The snippet names a size and a number of files, and neither copies the file nor makes one in certmond's place."""
    words = SNIPPET.read_text().partition("{")[2].split()
    assert {"maxsize", "rotate", "nocreate", "nocopytruncate", "delaycompress"} <= set(words)
