"""A separate control group for a test: the processes that the test starts in it end with it, and no others."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import unavailable
from tests.deadline import DEADLINE


@contextmanager
def control_group(name: str) -> Iterator[Path]:
    """Create a control group of version 2 below that of this process. Skip the test, or fail it in CI, if this is
    impossible.
    """
    if os.geteuid() != 0:
        unavailable("only root can make control groups")
    mounts = map(str.split, Path("/proc/self/mountinfo").read_text().splitlines())
    mount = next((fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"), None)
    groups = dict(line.split(":", 1) for line in Path("/proc/self/cgroup").read_text().splitlines())
    if mount is None or "0" not in groups:
        unavailable("no control groups of version 2 here")
    group = Path(mount, groups["0"].lstrip(":/"), f"certmond-test-{name}-{os.getpid()}")
    try:
        group.mkdir(exist_ok=True)
    except OSError as error:
        unavailable(f"no control group can be made here ({error.strerror})")
    try:
        yield group
    finally:
        empty(group)
        for directory, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # an empty group is no burden
                os.rmdir(directory)


def empty(group: Path) -> None:
    """Kill whatever is in the group or below it, and wait until it has ended (Linux 5.14)."""
    with suppress(OSError):
        (group / "cgroup.kill").write_text("1")
        with (group / "cgroup.events").open() as events:
            changed = select.poll()
            changed.register(events, select.POLLPRI)
            while "populated 1" in events.read() and changed.poll(DEADLINE * 1000):
                events.seek(0)
