"""A disk that fails at any single call: the report is true, nothing is lost, and the next start completes the work."""

from __future__ import annotations

import errno
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from certmond.errors import CertmondError, WriteError
from certmond.state.archive import Archive
from tests.builders import DAY, Issued
from tests.controllers.test_rotation import Watched, rotates, staged  # noqa: F401  # a fixture
from tests.rotation_node import RotatingNode
from tests.sampling import EVERY_STOP, sample
from tests.test_renewal import FORMS, Host, copies, readable
from tests.tracing import READING, SHORT, fail_at, record

PLACES, SHARES = 10, 2
"""The number of calls of a rotation that fail, one after the other, and the number of tests."""
FAILURES = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EDQUOT)


def renews(host: Host) -> None:
    """Run a pass like the daemon: whatever the disk does, each error that is raised is a CertmondError with its
    sentence.
    """
    try:
        enforcer = host.enforcer()
        enforcer.executor.recover()
        enforcer.executor.execute(enforcer.plan(host.look()))
    except CertmondError as error:
        assert str(error)  # noqa: PT017 - in a child that is traced


def defects(state: Path) -> list[str]:
    """Return the defects of certmond that the audit log records."""
    trail = state / "audit.log"
    lines = trail.read_text(errors="replace").splitlines() if trail.exists() else []
    return [line for line in lines if "please report it" in line]


@pytest.mark.long
@pytest.mark.sampled("call")
@pytest.mark.parametrize("form", FORMS)
def test_any_call_that_changes_something_may_fail(quick: Path, form: str) -> None:
    """With EIO, ENOSPC, EROFS, ESTALE or EDQUOT, or with half of a write: the renewal is complete or absent, no pair is
    torn, and no key is readable by others. An hour later it is complete, without leftovers.
    """
    original = Host(quick / "original", *FORMS[form], plain=form == "plain")
    before = original.serials()
    twins = copies(original, quick)
    whole = next(twins)
    stops = record(lambda: renews(whole))
    calls = [stop.removeprefix("entry ") for stop in stops if stop.startswith("entry ")]
    places = range(len(calls) - 1)  # exit_group cannot fail
    done, chosen = 0, sample(places, 16, f"a renewal, {form}", kind=lambda n: (calls[n], n == places[-1]))
    for n in chosen:
        failures = [*(FAILURES if EVERY_STOP else FAILURES[n % len(FAILURES) :][:1])]
        for failure in (*failures, *([SHORT] if calls[n : n + 1] == ["write"] else [])):
            twin = next(twins)
            call = fail_at(lambda twin=twin: renews(twin), n, failure)  # type: ignore[misc]
            where = f"{call} {n} failed with {errno.errorcode.get(failure, 'half a write')}"
            assert readable(twin) == [], where
            assert defects(twin.state) == [], where
            torn = [each.seen.name for each in twin.look().certificates if each.key_matches is False]
            assert torn == [], where
            done += twin.serials() != before
            twin.now += DAY / 24
            twin.start()
            assert twin.unwell() == [], where
            assert before.items().isdisjoint(twin.serials().items()), where
            archive = Archive(twin.state)
            assert all(archive.load(name, kept) for name in archive.names() for kept in archive.ids(name)), where
    assert len(calls) > 30
    assert done


def test_a_lock_that_cannot_be_had_begins_nothing(quick: Path) -> None:
    """If the file system of the state directory supports no locks (ENOLCK), certmond reports it and changes nothing."""
    host, locks = Host(quick / "host"), re.compile("flock")
    before = host.serials()
    host.look()

    def fails() -> None:
        with pytest.raises(WriteError, match=r"\.lock could not be locked \(No locks available\)"):
            host.enforcer().executor.recover()

    assert fail_at(fails, 0, errno.ENOLCK, calls=locks) == "flock"
    assert host.serials() == before


@pytest.mark.sampled("call")
@pytest.mark.long
@pytest.mark.parametrize("failure", [errno.EIO, errno.ESTALE])
def test_any_call_that_only_reads_may_fail(quick: Path, failure: int) -> None:
    """An unreadable file is a finding, or is absent in this pass: there is never an exception, and never a change of
    the node.
    """
    host = Host(quick / "host")
    host.look()  # modules of the first scan are loaded
    seen = quick / "seen"

    def looks() -> None:
        assessment = host.look()
        seen.write_text(json.dumps([item.reason for status in assessment.statuses for item in status.findings]))

    calls = [stop for stop in record(looks, calls=READING) if stop.startswith("entry ")]
    assert len(calls) > 50
    found = set[str]()
    for n in sample(range(len(calls)), 30, f"a pass, {failure}", kind=lambda n: calls[n]):
        assert fail_at(looks, n, failure, calls=READING), n
        found |= set(json.loads(seen.read_text()))
    assert "unreadable" in found


def tries(node: RotatingNode) -> None:
    """The command, to its end or to a sentence."""
    done = node.hurry("root-ca", "rotate")
    assert done.code in {0, 3}, done
    assert done.code == 0 or "certmond: " in done.err, done
    assert "Traceback" not in done.err, done


@pytest.mark.sampled("call")
@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize(
    "share", [pytest.param(each, marks=pytest.mark.long if each else ()) for each in range(SHARES)]
)
def test_any_call_of_a_rotation_may_fail(quick: Path, staged: tuple[RotatingNode, Issued], share: int) -> None:  # noqa: F811
    """The call may concern the record, the stored keys, or the node's files: the command completes or reports the
    obstacle. No key of a CA is lost or readable by others. The next run completes the rotation without leftovers.
    """
    original, new = staged
    stops = record(partial(rotates, original.copy(quick / "whole")))
    calls = [stop for stop in stops if stop.startswith("entry ") and stop != "entry exit_group"]
    assert len(calls) > 200
    places = range(share, len(calls), SHARES)
    for number, n in enumerate(sample(places, PLACES // SHARES, f"a rotation {share}", kind=lambda n: calls[n])):
        node, failure = original.copy(quick / "twin"), FAILURES[number % len(FAILURES)]
        where = f"{fail_at(partial(tries, node), n, failure)} {n} failed with {errno.errorcode[failure]}"
        watched = Watched(node, new)
        watched.look("exit")
        assert watched.problems == [], where
        assert defects(node.state) == [], where
        again = node.hurry("root-ca", "rotate")
        over = (
            again.code == 3 and "no new CA is staged" in again.err
        )  # the failed call was at the end, or had no effect
        assert again.code == 0 or over, (where, again)
        assert node.unwell(new) == [], where
        assert node.findings() == {}, where
        shutil.rmtree(node.place)
