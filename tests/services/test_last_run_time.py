"""The latest time at which a stopped service may have run, from the processes, the log and the unit of the node."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certmond.services.containers import process_start
from certmond.services.last_run_time import pod_idle_since, unit_idle_since
from tests.services.test_containers import APISERVER, PLACE, STATIC, Tree

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
EARLY = -10_000_000_000  # ticks: a boot before every file of the test


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.process(1, "/init.scope", command=("/sbin/init",), ticks=EARLY, name="systemd")
    return tree


def changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_ctime, UTC)


def idle_since(tree: Tree) -> datetime | None:
    return pod_idle_since(APISERVER, str(tree.proc), str(tree.logs), str(tree.proc.parent / "pods"))


def attempts(tree: Tree, end: datetime, *minutes: float) -> list[datetime]:
    """Create the termination log of an attempt for each number of minutes before `end`. Return the starts."""
    directory = tree.proc.parent / "pods" / STATIC / "containers" / "kube-apiserver"
    directory.mkdir(parents=True, exist_ok=True)
    starts = [end - timedelta(minutes=each) for each in minutes]
    for number, start in enumerate(starts):
        (directory / f"{number:08x}").touch()
        os.utime(directory / f"{number:08x}", (start.timestamp(), start.timestamp()))
    return starts


def started(tree: Tree) -> datetime:
    found = process_start(1, str(tree.proc))
    assert found
    return found


def near(one: datetime | None, other: datetime) -> bool:
    """Return whether two times are equal, except for the inaccuracy of a time in /proc."""
    return one is not None and abs(one - other) < timedelta(seconds=5)


def test_a_container_that_never_ran_is_idle_since_the_start_of_the_node(tree: Tree) -> None:
    """Without a log, the first process of the node gives the time, also in a node that is a container."""
    assert near(idle_since(tree), started(tree))


def test_a_container_is_idle_since_its_last_line_in_the_log(tree: Tree) -> None:
    """The newest log file of the container gives the time, if the file is newer than the node."""
    directory = tree.logs / f"kube-system_kube-apiserver-node-1_{STATIC}" / "kube-apiserver"
    (directory / "0.log").write_text("older")
    (directory / "1.log").write_text("newest")
    assert idle_since(tree) == changed(directory / "1.log")
    (directory / "0.log").unlink()
    (directory / "1.log").unlink()
    (directory / "1.log").symlink_to("/nonexistent")  # a runtime that has removed its file
    assert near(idle_since(tree), started(tree))


def test_the_start_of_the_node_counts_after_a_boot(tree: Tree) -> None:
    """A log that is older than the node gives no time before its start: after a boot, the container is not late."""
    directory = tree.logs / f"kube-system_kube-apiserver-node-1_{STATIC}" / "kube-apiserver"
    (directory / "0.log").write_text("before the boot")
    tree.process(1, "/init.scope", command=("/sbin/init",), ticks=1 << 40, name="systemd")
    assert near(idle_since(tree), started(tree))


def last_line(tree: Tree) -> datetime:
    """Write a line into the log of the last attempt, and return its time."""
    log = tree.logs / f"kube-system_kube-apiserver-node-1_{STATIC}" / "kube-apiserver" / "7.log"
    log.write_text("the last attempt")
    return changed(log)


@pytest.mark.parametrize(
    ("minutes", "steady"),
    [
        ([60, 20, 14, 8.5, 3, 0.1], 1),
        ([60, 50.5, 20, 9.9, 0.1], 3),
        ([4.9], 0),
        ([60, 4.9], 1),
    ],
    ids=["maximum back-off", "ran for ten minutes", "first attempt", "second attempt"],
)
def test_attempts_that_end_early_are_no_steady_run(tree: Tree, minutes: list[float], steady: int) -> None:
    """The kubelet creates a file for each attempt. If the last attempt was short, and others began less than ten
    minutes before the next one, the container is idle since the start of the first of these attempts.
    """
    end = last_line(tree)
    starts = attempts(tree, end, *minutes)
    assert near(idle_since(tree), max(starts[steady], started(tree)))


def test_a_steady_last_attempt_ends_with_its_log(tree: Tree) -> None:
    """If the last attempt ran for five minutes, its last line gives the time. A later file is an attempt without a log,
    which certmond ignores: the result is never later than the last line.
    """
    end = last_line(tree)
    attempts(tree, end, 8, 5.1, -1)
    assert idle_since(tree) == end


def test_attempts_before_a_boot_do_not_count(tree: Tree) -> None:
    """A crash before the boot does not make the container late after the boot."""
    attempts(tree, last_line(tree), 9, 3, 1)
    tree.process(1, "/init.scope", command=("/sbin/init",), ticks=1 << 40, name="systemd")
    assert near(idle_since(tree), started(tree))


def test_a_process_of_the_program_in_any_place_is_no_idle_container(tree: Tree) -> None:
    """If the program runs outside the expected Pod, certmond does not claim that the container does not run."""
    tree.process(40, "/user.slice")
    assert idle_since(tree) is None
    tree.process(40, PLACE, command=("/pause", ""))
    assert idle_since(tree)


def test_a_process_of_another_user_outside_a_pod_is_no_evidence(tree: Tree) -> None:
    """Any user can choose the command line of a process. So outside a Pod, only a process of root counts, and a
    program of root that another user has started (setuid) does not.
    """
    tree.process(40, "/user.slice", uid=65534)
    assert near(idle_since(tree), started(tree))
    tree.process(40, PLACE, uid=65534)
    assert idle_since(tree) is None


@pytest.mark.parametrize("stat", [None, "1 (systemd) S"])
def test_without_the_processes_of_the_node_nothing_is_known(tree: Tree, tmp_path: Path, stat: str | None) -> None:
    """If certmond cannot see the first process, the time is unknown, for a Pod and for a unit."""
    os.unlink(tree.proc / "1/stat")
    if stat is not None:
        (tree.proc / "1/stat").write_text(stat)
    assert idle_since(tree) is None
    assert unit_idle_since(str(tmp_path), [LONG_AGO], str(tree.proc)) is None


def test_a_process_that_ends_during_the_search_is_no_evidence(tree: Tree) -> None:
    """certmond skips a process whose files vanish, and directories without logs."""
    (tree.proc / "41").mkdir()
    assert near(idle_since(tree), started(tree))


def test_a_unit_is_idle_since_its_end_or_its_last_change(tree: Tree, tmp_path: Path) -> None:
    """The latest of the start of the node, the end of the unit and the change of its file gives the time."""
    unit, proc = tmp_path / "kubelet.service", str(tree.proc)
    late = datetime.now(UTC) + timedelta(days=1)
    assert near(unit_idle_since(str(unit), [LONG_AGO], proc), max(LONG_AGO, started(tree)))
    unit.write_text("[Service]")
    assert unit_idle_since(str(unit), [LONG_AGO], proc) == changed(unit)
    assert unit_idle_since(str(unit), [LONG_AGO, late], proc) == late
