"""Replaced files are archived for a while, and the newest good generation of each certificate as long as it is
needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers.archive_retention import Retention, belongs_together
from certmond.errors import BusyError
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.state.archive import DID_NOT_WORK, Archive, ArchivedFile
from certmond.transaction.commit import Transactions
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import DAY, HOUR, NOW, make_ca, make_leaf, pem_block
from tests.test_renewal import Host, kubeconfig

CA = make_ca()
LEAVES = [make_leaf(CA) for _ in range(2)]


class Kept:
    """The archive of a certificate, as its generations are stored over the years."""

    def __init__(self, place: Path) -> None:
        self.place, self.state, self.now = place, place / "state", NOW
        self.archive = Archive(self.state, 10)
        self.certificate, self.key = place / "a.crt", place / "a.key"

    def store(self, days: int, certificate: bytes, key: bytes, detail: str = "") -> str:
        """Store a pair so many days ago; the id of the generation."""
        self.certificate.write_bytes(certificate)
        self.key.write_bytes(key)
        files = {"/a.crt": self.certificate, "/a.key": self.key}
        return self.archive.store("a", files, NOW - days * DAY, {"detail": detail}).id

    def pair(self, days: int, detail: str = "") -> str:
        leaf = make_leaf(CA)
        return self.store(days, leaf.pem, leaf.key_pem, detail)

    def mismatched(self, days: int) -> str:
        return self.store(days, make_leaf(CA).pem, make_leaf(CA).key_pem)

    def rule(self, keep_for: timedelta, alive: Callable[[], None] = lambda: None) -> Retention:
        given = f"archive: {{keep_for: {keep_for.days}d}}\nhold: {{unsynchronised_clock: false}}\n"
        audit, files = Audit(Journal("none"), self.state, "test"), NodeFiles(str(self.place))
        return Retention(self.archive, parse([Source("test", given)]), audit, lambda: self.now, files, alive=alive)

    def left(self, keep_for: timedelta = 400 * DAY) -> list[str]:
        """The generations that are there after the rule was applied."""
        self.rule(keep_for).apply()
        return list(self.archive.ids("a"))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_older_generations_are_removed_and_the_others_stay(kept: Kept) -> None:
    """The keys of a generation beyond its time are removed from the disk. One of exactly that age stays."""
    first, second, third = kept.pair(900), kept.pair(401), kept.pair(400)
    content = (kept.state / "archive/a" / first / "1-a.key").read_bytes()
    assert kept.left() == [third]
    assert not any(content == path.read_bytes() for path in kept.state.rglob("*") if path.is_file())
    assert first != second


def test_the_newest_good_one_stays_however_old_it_is(kept: Kept) -> None:
    """A damaged one, a pair that does not belong together, and files that did not work do not count as good."""
    _, good = kept.pair(2000), kept.pair(1900)
    damaged = kept.pair(1800)
    (kept.state / "archive/a" / damaged / "description.json").write_text("{")
    kept.mismatched(1700)
    kept.pair(1600, DID_NOT_WORK)
    assert kept.left() == [good]


def test_without_a_good_generation_the_newest_stays(kept: Kept) -> None:
    """It is the only evidence."""
    kept.mismatched(1700)
    last = kept.mismatched(1600)
    assert kept.left() == [last]


def test_each_certificate_has_its_own(kept: Kept) -> None:
    """The newest of one is no reason to remove the newest of another."""
    kept.pair(900)
    kept.archive.store("b", {"/a.crt": kept.certificate}, NOW - 800 * DAY, {})
    assert (kept.left(), kept.archive.names()) == (list(kept.archive.ids("a")), ("a", "b"))
    assert len(kept.archive.ids("a")) == 1


def test_of_a_later_certmonds_none_goes(kept: Kept) -> None:
    """Which of its generations are good, this certmond cannot tell."""
    first, second = kept.pair(900), kept.pair(800)
    path = kept.state / "archive/a" / second / "description.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    assert kept.left() == [first, second]


def test_a_directory_with_no_time_in_its_name_stays(kept: Kept) -> None:
    """Its age is unknown."""
    kept.pair(10)
    odd = kept.state / "archive/a/000000-99999999T999999Z"
    odd.mkdir()
    assert odd.name in kept.left()


def test_it_is_applied_once_an_hour(kept: Kept) -> None:
    """It also runs at once after the clock was set back."""
    rule = kept.rule(DAY)
    assert rule.due()
    rule.apply()
    found = []
    for later in (HOUR / 2, HOUR, -HOUR):
        kept.now = NOW + later
        found.append(rule.due())
    assert found == [False, True, True]


def test_the_watchdog_is_notified_for_each_certificate(kept: Kept) -> None:
    """An archive with many names can take longer than WatchdogSec= of the unit."""
    for name in ("a", "b", "c"):
        for days in (30, 20):
            kept.certificate.write_bytes(make_leaf(CA).pem)
            kept.archive.store(name, {"/a.crt": kept.certificate}, NOW - days * DAY, {})
    left = list[int]()
    kept.rule(DAY, lambda: left.append(sum(len(kept.archive.ids(name)) for name in ("a", "b", "c")))).apply()
    assert left == [6, 5, 4]


def test_leftovers_of_a_killed_process_are_removed(kept: Kept) -> None:
    """The keys in a generation that a killed process had partly stored or partly removed are removed from the disk,
    also if the certificate has no other generation. A directory that other users can write stays.
    """
    here = kept.pair(10)
    names = [("a", ".000000-20200101T000000Z"), ("b", ".0123456789abcdef"), ("c", ".0123456789abcdef")]
    left = [kept.state / "archive" / name / draft for name, draft in names]
    for draft in left:
        draft.mkdir(parents=True)
        (draft / "1-a.key").write_bytes(LEAVES[0].key_pem)
    left[2].parent.chmod(0o777)
    assert kept.left() == [here]
    assert [draft.exists() for draft in left] == [False, False, True]


@pytest.mark.parametrize(
    ("contents", "good"),
    [
        ([LEAVES[0].pem, LEAVES[0].key_pem], True), ([LEAVES[0].pem, LEAVES[1].key_pem], False),
        ([LEAVES[0].pem + LEAVES[0].key_pem], True), ([LEAVES[0].pem], True), ([b"rubbish"], True),
        ([kubeconfig(CA, LEAVES[0])], True),
        ([kubeconfig(CA, LEAVES[0]).replace(b"client-certificate-data", b"x")], False), ([LEAVES[0].key_pem], False),
    ],
)  # fmt: skip
def test_what_belongs_together(contents: list[bytes], good: bool) -> None:
    """A key with one of its certificates, in files or in a kubeconfig; or no key at all."""
    files = [ArchivedFile(f"/{number}", content, 0o600, (0, 0)) for number, content in enumerate(contents)]
    assert belongs_together(files) is good


def test_a_public_key_belongs_to_its_private_key(kept: Kept) -> None:
    """The keys of service-account tokens have no certificate."""
    public = pem_block("PUBLIC KEY", CA.facts.key.der)
    files = [ArchivedFile("/sa.pub", public, 0o644, (0, 0)), ArchivedFile("/sa.key", CA.key_pem, 0o600, (0, 0))]
    assert belongs_together(files)
    assert not belongs_together([files[0], ArchivedFile("/sa.key", LEAVES[0].key_pem, 0o600, (0, 0))])


def test_a_start_and_each_hour_of_the_daemon_apply_it(tmp_path: Path) -> None:
    """It holds the lock and is recorded in the audit log. With an unsynchronized clock nothing is removed."""
    host = Host(tmp_path / "host", "apiserver", archive={"keep": 10, "keep_for": "30d"})
    kept = Kept(tmp_path)
    kept.archive = Archive(host.state, 10)
    host.state.mkdir(mode=0o700)
    first, second = kept.pair(900), kept.pair(800)
    host.settings["hold"] = {"unsynchronised_clock": True}
    doubtful = host.enforcer()
    del host.settings["hold"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("certmond.controllers.host_holds.clock_is_synchronised", lambda: False)
        doubtful.executor.recover()
    assert kept.archive.ids("a") == (first, second)
    executor = host.enforcer().executor
    executor.recover()
    assert kept.archive.ids("a") == (second,)
    (noted,) = [entry for entry in host.audit() if entry.get("step") == "expire"]
    assert (noted["target"], noted["generation"], noted["event"]) == ("a", first, "step_done")
    third = kept.pair(700)
    executor.tidy()
    assert kept.archive.ids("a") == (second, third)
    host.now += 2 * HOUR
    with Transactions(str(host.root), host.state).lock(), pytest.raises(BusyError):
        executor.tidy()
    executor.tidy()
    assert kept.archive.ids("a") == (third,)
