"""The ledger of renewals: an entry is read again, and no content of its file causes harm."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import StateError, WriteError
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.planning.renewal_quota import RENEWALS
from certmond.state.renewals import Ledger

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LEAF = ("apiserver", "/etc/kubernetes/pki/apiserver.crt")
INSTANTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - naive, as hypothesis asks
NAMEABLE = st.text(st.characters(codec="utf-8", exclude_characters="\0"))  # what a name or a cookie can be
ATTEMPTS = st.builds(
    Attempt,
    at=INSTANTS,
    failures=st.integers(0, 50),
    message=st.text(),
    sha256=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    issued_at=st.none() | INSTANTS,
    wait_until=st.none() | INSTANTS,
    cookie=st.none() | NAMEABLE,
    common_name=st.none() | NAMEABLE,
)


@pytest.mark.long
@given(ATTEMPTS)
def test_an_attempt_is_remembered_as_it_was(tmp_path_factory: pytest.TempPathFactory, attempt: Attempt) -> None:
    """Every field of an attempt is there again for the next process, whatever is in it."""
    state = tmp_path_factory.mktemp("state")
    Ledger(state).store(LEAF, attempt)
    assert Ledger(state).attempts() == {LEAF: attempt}
    assert Ledger(state).attempt(LEAF) == attempt


def test_one_attempt_is_found_in_a_batch_and_outside(tmp_path: Path) -> None:
    """In a batch, the last attempt counts also before the batch ends."""
    ledger, other = Ledger(tmp_path), ("etcd", "/etc/kubernetes/pki/etcd/server.crt")
    ledger.store(LEAF, Attempt(NOW))
    with ledger.batch():
        ledger.store(LEAF, Attempt(NOW + DAY))
        assert (ledger.attempt(LEAF), ledger.attempt(other)) == (Attempt(NOW + DAY), None)
    assert (ledger.attempt(LEAF), ledger.attempt(other)) == (Attempt(NOW + DAY), None)


def test_a_name_that_is_not_utf8_is_recorded(tmp_path: Path) -> None:
    """A path with bytes that are no UTF-8 is distinct from others."""
    odd = ("nginx", "/etc/nginx/\udcff.pem")
    Ledger(tmp_path).store(odd, Attempt(NOW))
    Ledger(tmp_path).store(LEAF, Attempt(NOW))
    assert Ledger(tmp_path).attempts().keys() == {odd, LEAF}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[1]", b'[{"name": "a"}]', b"\xff\xfe", b"[" * 100_000,
        b'[{"name": "a", "path": "b", "at": "yesterday"}]',
        b'[{"name": "a", "path": "b", "at": "2026-11-24T12:00:00"}]',
        b'[{"name": "a", "path": "b", "at": "2026-11-24T12:00:00Z", "failures": "many"}]',
        b'[{"name": "a", "path": "b", "at": "2026-11-24T12:00:00Z", "failures": -1}]',
        b'[{"name": "a", "path": "b", "at": "2026-11-24T12:00:00Z", "failures": %s}]' % (b"9" * 4300),
        b'[{"name": "a", "path": "/b\\u0000", "at": "2026-11-24T12:00:00Z"}]',
        b'[{"name": "a", "path": "/b\\ud800", "at": "2026-11-24T12:00:00Z"}]',
        b'[{"name": "a", "path": "/b", "at": "2026-11-24T12:00:00Z", "cookie": "c\\u0000"}]',
        b'[{"name": "a", "path": "b", "at": "0001-01-01T00:00:00+05:00"}]',
        b'[{"name": "a", "path": "b", "at": "0001-01-01T00:00:00Z"}]',
        b'[{"name": "a", "path": "b", "at": "2026-11-24T12:00:00Z", "wait_until": "9999-12-31T23:59:59-05:00"}]',
        b'[{"name": "a", "path": "b", "at": "2026-11-24T12:00:00Z", "issued_at": "9999-12-31T23:59:59Z"}]',
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_no_memory(tmp_path: Path, content: bytes) -> None:
    """What is not a list of attempts, each at an instant with a time zone, is as if it were not there."""
    (tmp_path / "renewals.json").write_bytes(content)
    assert Ledger(tmp_path).attempts() == {}
    Ledger(tmp_path).store(LEAF, Attempt(NOW))
    assert Ledger(tmp_path).attempts() == {LEAF: Attempt(NOW)}


def test_a_pipe_counts_as_empty(tmp_path: Path) -> None:
    """certmond does not wait for a writer of a pipe at the path of the file, and replaces it."""
    os.mkfifo(tmp_path / "renewals.json")
    assert Ledger(tmp_path).attempts() == {}
    Ledger(tmp_path).store(LEAF, Attempt(NOW))
    assert Ledger(tmp_path).attempts() == {LEAF: Attempt(NOW)}


def test_an_instant_is_in_utc(tmp_path: Path) -> None:
    """Whatever zone the file has, the instant that is read is in UTC."""
    (tmp_path / "renewals.json").write_text('[{"name": "a", "path": "b", "at": "2026-11-24T17:00:00+05:00"}]')
    (attempt,) = Ledger(tmp_path).attempts().values()
    assert (attempt.at, attempt.at.tzinfo) == (NOW, UTC)


@given(st.binary())
def test_arbitrary_bytes_are_no_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Any bytes give a memory, if only an empty one."""
    state = tmp_path_factory.mktemp("state")
    (state / "renewals.json").write_bytes(content)
    assert isinstance(Ledger(state).attempts(), dict)


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    """A field that this version does not know costs nothing."""
    Ledger(tmp_path).store(LEAF, Attempt(NOW, 2, "no"))
    (entry,) = json.loads((tmp_path / "renewals.json").read_text())["content"]
    (tmp_path / "renewals.json").write_text(json.dumps([{**entry, "colour": "blue"}]))
    assert Ledger(tmp_path).attempts() == {LEAF: Attempt(NOW, 2, "no")}


def test_a_failure_does_not_forget_when_the_certificate_was_put_in_place(tmp_path: Path) -> None:
    """`renewed` has the instant at which a certificate was put in place, also after a later attempt has failed."""
    later = NOW + timedelta(days=30)
    Ledger(tmp_path).store(LEAF, Attempt(later, 1, "no", sha256="ab", issued_at=NOW))
    assert Ledger(tmp_path).renewed() == {"ab": NOW}


@pytest.mark.long
def test_attempts_of_removed_files_are_dropped_except_the_latest(tmp_path: Path) -> None:
    """Of removed files only the latest attempts stay, however many there were; of existing files, all."""
    there = {("leaf", f"/there/{number}.pem"): Attempt(NOW - timedelta(days=400)) for number in range(150)}
    gone = {("leaf", f"/gone/{number}.pem"): Attempt(NOW + timedelta(minutes=number)) for number in range(250)}
    ledger = Ledger(tmp_path, lambda path: path.startswith("/there/"))
    for identity, attempt in {**there, **gone}.items():
        ledger.store(identity, attempt)
    kept = ledger.attempts()
    assert there.items() <= kept.items()
    assert 100 <= len(kept.keys() & gone.keys()) <= 200
    assert set(list(gone)[-100:]) <= kept.keys()


@pytest.mark.long
def test_the_last_renewal_of_each_common_name_is_kept(tmp_path: Path) -> None:
    """However many files of other names have come and gone since. Attempts that installed nothing do not count, and
    other entries have their own.
    """
    failed = Attempt(NOW + HOUR, failures=1, sha256="ab", issued_at=NOW - DAY, common_name="app")
    first = {
        ("leaf", "/gone/0"): failed,
        ("leaf", "/gone/1"): Attempt(NOW, sha256="cd", common_name="app"),
        ("leaf", "/gone/2"): Attempt(NOW + HOUR, common_name="app"),
        ("other", "/gone/3"): Attempt(NOW + HOUR, sha256="ef", common_name="app"),
    }
    flood = {("leaf", f"/flood/{number}"): Attempt(NOW + DAY, common_name="other") for number in range(250)}
    ledger = Ledger(tmp_path, lambda _: False)
    for identity, attempt in {**first, **flood}.items():
        ledger.store(identity, attempt)
    assert [identity for identity, each in ledger.attempts().items() if each.common_name == "app"] == [
        ("leaf", "/gone/1"),
        ("other", "/gone/3"),
    ]


@pytest.mark.long
def test_the_last_hour_of_a_flood_is_kept(tmp_path: Path) -> None:
    """Of files that come and go, the attempts of the last hour are kept, up to the quota of each entry."""
    flood = {("apps", f"/gone/{number}.pem"): Attempt(NOW + timedelta(seconds=number)) for number in range(1200)}
    old = {("apps", f"/old/{number}.pem"): Attempt(NOW - timedelta(hours=2)) for number in range(150)}
    ledger = Ledger(tmp_path, lambda _: False)
    with ledger.batch():
        for identity, attempt in {**old, **flood}.items():
            ledger.store(identity, attempt)
    kept = ledger.attempts()
    assert set(list(flood)[-RENEWALS:]) <= kept.keys()
    assert len(kept) <= RENEWALS + 100


@pytest.mark.long
def test_the_ledger_of_a_large_node_is_read_completely(tmp_path: Path) -> None:
    """Ten thousand renewed certificates are within the limit of the reader: no size loses entries."""
    entries = [{"name": "leaf", "path": f"/certs/{number:06d}.crt", "at": NOW.isoformat(), "sha256": f"{number:064x}"}
               for number in range(10_000)]  # fmt: skip
    (tmp_path / "renewals.json").write_text(json.dumps(entries))
    Ledger(tmp_path).store(LEAF, Attempt(NOW))
    assert len(Ledger(tmp_path).attempts()) == 10_001


# Many at a time

OTHER = ("etcd-server", "/etc/kubernetes/pki/etcd/server.crt")


def test_many_attempts_write_the_document_once(tmp_path: Path) -> None:
    """While the memory is held each attempt is on the disk at once, as a line of the log, where any process reads it;
    the document is written at the end, and takes over the log.
    """
    document, log = tmp_path / "renewals.json", tmp_path / "renewals.log"
    ledger = Ledger(tmp_path)
    ledger.store(LEAF, Attempt(NOW))
    before = document.stat().st_ino
    with ledger.batch():
        for number in range(20):
            ledger.store(OTHER, Attempt(NOW, number))
            assert Ledger(tmp_path).attempts() == ledger.attempts() == {LEAF: Attempt(NOW), OTHER: Attempt(NOW, number)}
        ledger.remove(LEAF)
        ledger.remove(("nothing", "/nowhere"))
        assert Ledger(tmp_path).attempts() == ledger.attempts() == {OTHER: Attempt(NOW, 19)}
        assert (document.stat().st_ino, log.exists()) == (before, True)
        assert log.stat().st_mode & 0o777 == 0o600
    assert not log.exists()
    assert Ledger(tmp_path).attempts() == {OTHER: Attempt(NOW, 19)}
    assert len(json.loads(document.read_text())["content"]) == 1


def killed_while_it_noted(state: Path, *attempts: Attempt) -> None:
    """What a process leaves that was killed: the log, and no document yet."""
    ledger, log = Ledger(state), state / "renewals.log"
    with ledger.batch():
        for attempt in attempts:
            ledger.store(LEAF, attempt)
        content = log.read_bytes()
    (state / "renewals.json").unlink()
    log.write_bytes(content)


def test_what_a_killed_process_has_noted_is_read(tmp_path: Path) -> None:
    """Without its end, and with a last line that is torn, the log has what was noted; the next document has it, too."""
    killed_while_it_noted(tmp_path, Attempt(NOW), Attempt(NOW, 1, "no"))
    with (tmp_path / "renewals.log").open("ab") as log:
        log.write(b'{"entry": {"name": "apise')
    assert Ledger(tmp_path).attempts() == {LEAF: Attempt(NOW, 1, "no")}
    ledger = Ledger(tmp_path)
    with ledger.batch():
        ledger.store(OTHER, Attempt(NOW))
        assert Ledger(tmp_path).attempts() == {LEAF: Attempt(NOW, 1, "no"), OTHER: Attempt(NOW)}
    assert not (tmp_path / "renewals.log").exists()
    assert Ledger(tmp_path).attempts() == {LEAF: Attempt(NOW, 1, "no"), OTHER: Attempt(NOW)}


def test_each_version_writes_the_same_lines(tmp_path: Path) -> None:
    """A stored attempt, and a removed one. Other versions of certmond read the lines, so the text does not change."""
    ledger, odd = Ledger(tmp_path), ("web", "/srv/\udcff")
    attempt = Attempt(
        NOW, 1, "é", "ab", NOW, NOW, "c", NOW, "web", restored=True, repaired_at=NOW, repairs=2, subject="CN=é"
    )
    with ledger.batch():
        ledger.store(odd, attempt)
        ledger.store(LEAF, Attempt(NOW))
        ledger.remove(LEAF)
        *lines, last = (tmp_path / "renewals.log").read_text().splitlines()
    at = '"2026-11-24T12:00:00+00:00"'
    assert lines[0] == (
        f'{{"version": 1, "entry": {{"name": "web", "path": "/srv/\\udcff", "at": {at}, "failures": 1, '
        f'"message": "\\u00e9", "sha256": "ab", "issued_at": {at}, "wait_until": {at}, "cookie": "c", "ends_at": {at}, '
        f'"common_name": "web", "restored": true, "repaired_at": {at}, "repairs": 2, "subject": "CN=\\u00e9"}}, '
        '"forgotten": false}'
    )
    assert (json.loads(last)["entry"]["name"], json.loads(last)["forgotten"]) == (LEAF[0], True)
    (tmp_path / "renewals.json").unlink()
    (tmp_path / "renewals.log").write_text("\n".join([*lines, last]))
    assert Ledger(tmp_path).attempts() == {odd: attempt}


@pytest.mark.long
@given(st.binary())
def test_arbitrary_bytes_in_the_log_are_no_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Any bytes give a memory, and what is noted behind them is read."""
    state = tmp_path_factory.mktemp("state")
    (state / "renewals.log").write_bytes(content)
    assert Ledger(state).attempts() == {}
    killed_while_it_noted(state, Attempt(NOW))
    assert Ledger(state).attempts() == {LEAF: Attempt(NOW)}


def test_that_nothing_could_be_noted_is_known_beforehand(tmp_path: Path) -> None:
    """`check` fails where the document cannot be written and, later in the same block, where no line can be added."""
    ledger = Ledger(tmp_path)
    with ledger.batch():
        ledger.check()
        ledger.check()
        (tmp_path / "renewals.log").unlink()
        (tmp_path / "renewals.log").mkdir()
        with pytest.raises(WriteError, match=r"renewals\.log"):
            ledger.check()
    (tmp_path / "renewals.json").unlink()
    (tmp_path / "renewals.json").mkdir()
    with ledger.batch(), pytest.raises(WriteError, match=r"renewals\.json"):
        ledger.check()


def test_a_line_of_a_later_version_is_neither_used_nor_removed(tmp_path: Path) -> None:
    """What a later certmond has noted is as if it were not there, and nothing replaces it: the error names the file."""
    state = tmp_path / "state"
    with Ledger(state).batch():
        pass
    Ledger(state).store(("web", "/web.crt"), Attempt(NOW))
    log = state / "renewals.log"
    log.write_text('{"version": 99, "what": "else"}\n')
    log.chmod(0o600)
    ledger = Ledger(state)
    assert ledger.attempts().keys() <= {("web", "/web.crt")}
    with pytest.raises(StateError, match=r"renewals\.log has the format version 99 of a later version of certmond"):
        ledger.store(("web", "/web.crt"), Attempt(NOW))
    assert log.read_text() == '{"version": 99, "what": "else"}\n'
