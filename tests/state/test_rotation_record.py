"""The record of a rotation: present, absent, or an error if unreadable; and the recorded anchors of the node."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certmond.errors import MalformedError, RotationError, StateError
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort, following, sequence
from certmond.pki.x509.certificate import to_pem
from certmond.state.rotation_record import RotationRecord
from tests.builders import DAY, NOW, bundle, make_ca
from tests.json_documents import edited
from tests.tracing import kill_at, record

OLD, OTHER, NEW = make_ca(), make_ca(), make_ca()
BEGUN = Rotation("20261124T120000Z-abcdef", "ca", Mode.OVERLAP, (OLD.facts,), NEW.facts, Phase.TRUST, NOW)


@pytest.mark.parametrize(
    "rotation",
    [BEGUN, replace(BEGUN, old=(OLD.facts, OTHER.facts), mode=Mode.REPLACE, phase=Phase.ISSUE, aborted=True,
                    found=True, excluded=("node-2", "node-3"), published=NOW + DAY, signature="c2lnbmVk")],
    ids=["plain", "with everything"],
)  # fmt: skip
def test_a_record_is_read_by_the_next_process(tmp_path: Path, rotation: Rotation) -> None:
    """All of it is read, from a file that only root can read."""
    assert RotationRecord(tmp_path / "state").load() is None
    (tmp_path / "state").mkdir()
    RotationRecord(tmp_path / "state").save(rotation)
    assert RotationRecord(tmp_path / "state").load() == rotation
    path = tmp_path / "state/rotation/record.json"
    assert [each.stat().st_mode & 0o777 for each in (path, path.parent)] == [0o600, 0o700]
    assert b"PRIVATE" not in path.read_bytes()


def test_the_interim_trust_is_recorded(tmp_path: Path) -> None:
    """It is recorded by family, independently of the rotation's record. If it is unreadable, there is no interim."""
    known, interim = RotationRecord(tmp_path), replace(BEGUN, found=True)
    assert known.interims() == {}
    known.note_interims({"ca": interim})
    assert (known.interims(), known.load()) == ({"ca": interim}, None)
    path = tmp_path / "rotation/interim_trust.json"
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_text()
    for rubbish in ("rubbish", content.replace('"trust"', '"detach"')):  # a found one has no such phase
        path.write_text(rubbish)
        assert known.interims() == {}
    for _ in range(2):
        known.note_interims({})
        assert (known.interims(), path.exists()) == ({}, False)


def test_a_field_of_a_later_version_is_ignored(tmp_path: Path) -> None:
    """An older certmond continues with the record of a newer one."""
    RotationRecord(tmp_path).save(BEGUN)
    path = tmp_path / "rotation/record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": {"a": 1}}))
    assert RotationRecord(tmp_path).load() == BEGUN


def damaged(**fields: object) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return write


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def leads_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "read (it is not JSON)"),
    "cut": (cut, "read (it is not JSON)"),
    "rubbish": (lambda path: path.write_bytes(b"\xff\x00"), "read (it is not JSON)"),
    "endless": (lambda path: path.write_bytes(b"[" * 100_000), "read (it is not JSON)"),
    "a list": (lambda path: path.write_bytes(b"[]"), "read (it must be an object)"),
    "an unknown phase": (damaged(phase="later"), "read (phase must be one of prepare, detach, trust"),
    "a phase of another mode": (
        damaged(mode="reissue"), "use (a rotation of ca in the mode reissue has no phase trust)"
    ),
    "a phase of another family": (
        damaged(family="etcd-ca", phase="detach"),
        "use (a rotation of etcd-ca in the mode overlap has no phase detach)",
    ),
    "an unknown mode": (damaged(mode="slowly"), "read (mode must be one of overlap, reissue, replace)"),
    "no old": (damaged(old=[]), "read (old must contain at least one CA or public key)"),
    "two old": (
        damaged(old=[OLD.pem.decode(), OTHER.pem.decode()]), "use (it has several old anchors)"
    ),
    "a key follows a CA": (
        damaged(new=NEW.public_pem.decode()),
        "use (it mixes certificates and public keys as anchors, but all anchors must be of one kind)",
    ),
    "no PEM": (damaged(new="rubbish"), "read (new is not exactly one certificate or public key in PEM)"),
    "two certificates": (damaged(new=bundle(OLD, NEW).decode()), "read (new is not exactly one"),
    "no date": (damaged(since="yesterday"), "read (since must be a time with an offset)"),
    "a name of two lines": (damaged(id="a\nb"), "read (id must be a name of at most 63 letters"),
    "a name with a line feed": (damaged(id="a\n"), "read (id must be a name of at most 63 letters"),
    "a part of the workers": (damaged(released=1.5), "read (released must be from 0 to 1)"),
    "a number as text": (damaged(released="1"), "read (released must be a number)"),
    "a version before the first": (damaged(version=0), "read (version must be from 1 to "),
    "no anchor in text": (damaged(old=[OLD.pem.decode(), 5]), "read (old.1 must be text)"),
    "a directory": (directory, "read (it is not a regular file)"),
    "a symlink without a target": (leads_nowhere, "read (Too many levels of symbolic links)"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_record_is_not_absent(tmp_path: Path, damage: str) -> None:
    """The progress of the rotation is then unknown. The error has the file, the fact and both remedies."""
    RotationRecord(tmp_path).save(BEGUN)
    path = tmp_path / "rotation/record.json"
    act, said = DAMAGES[damage]
    act(path)
    with pytest.raises(MalformedError) as caught:
        RotationRecord(tmp_path).load()
    verb, fact = said.split(" ", 1)
    assert str(caught.value).startswith(f"certmond cannot {verb} {path} {fact}")
    assert str(caught.value).endswith(
        "), so the phase of a rotation is unknown; restore the file from a backup, or remove the file if no rotation "
        "is in progress"
    )


def test_a_record_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """The error has the file, the version, and the remedy, which is not to remove the file."""
    RotationRecord(tmp_path).save(BEGUN)
    path = tmp_path / "rotation/record.json"
    damaged(version=2)(path)
    with pytest.raises(StateError) as caught:
        RotationRecord(tmp_path).load()
    assert str(caught.value) == (
        f"{path} has the format version 2 of a later version of certmond, but this version reads only 1; "
        "install the later version again, or move the file away"
    )


@pytest.mark.long
@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_content_is_parsed_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Any JSON, and a record with any of its fields changed, is a rotation whose phases follow each other, or an error
    with one printable sentence and its remedy.
    """
    place = Path(tempfile.mkdtemp(dir=tmp_path))  # no example has the files of another one
    noted = RotationRecord(place)
    noted.save(BEGUN)
    path = place / "rotation/record.json"
    document = data.draw(edited(json.loads(path.read_text())))
    path.write_text(json.dumps(document))
    found, said = None, ""
    try:
        found = noted.load()
    except (MalformedError, StateError) as error:
        said = str(error)
    if found is None:
        file = re.escape(str(path))
        later = isinstance(document, dict) and type(document.get("version")) is int and document["version"] > 1
        fact = rf"{file} has the format version" if later else rf"certmond cannot (read|use) {file} \("
        assert re.match(fact, said)
        assert said.isprintable()
        return
    assert following(found, NOW).phase in sequence(found)
    with suppress(RotationError):
        abort(found, NOW)


def test_a_rotation_that_is_over(tmp_path: Path) -> None:
    """It is no longer under way, and its id is recorded beside those before, including the one before an abort. An
    unreadable list counts as empty.
    """
    noted = RotationRecord(tmp_path)
    assert noted.closed() == set()
    back = replace(BEGUN, id="r-2-back", phase=Phase.DONE, aborted=True)
    for each in (replace(BEGUN, phase=Phase.DONE), back):
        noted.save(each)
        noted.close(each)
    assert (noted.load(), noted.closed()) == (None, frozenset({BEGUN.id, "r-2", "r-2-back"}))
    (tmp_path / "rotation/closed.json").write_bytes(b"rubbish")
    assert (noted.load(), noted.closed()) == (None, frozenset({"r-2", "r-2-back"}))
    (tmp_path / "rotation/last.json").write_bytes(b"rubbish")
    assert (noted.load(), noted.closed()) == (None, frozenset())


def test_the_recorded_anchors(tmp_path: Path) -> None:
    """The anchors of each family are read in their order. An unreadable file counts as empty."""
    noted = RotationRecord(tmp_path)
    assert noted.anchors() == {}
    noted.accept({"ca": (NEW.facts, OLD.facts), "etcd-ca": (OTHER.facts,)})
    assert noted.anchors() == {"ca": (NEW.facts, OLD.facts), "etcd-ca": (OTHER.facts,)}
    assert (tmp_path / "anchors.json").stat().st_mode & 0o777 == 0o600
    for content in (b"", b"rubbish", json.dumps({"ca": ["rubbish"]}).encode(),
                    json.dumps({"ca": to_pem(OLD.facts).decode()}).encode()):  # fmt: skip
        (tmp_path / "anchors.json").write_bytes(content)
        assert noted.anchors() == {}


@pytest.mark.long
@pytest.mark.parametrize("act", ["save", "close"])
def test_killed_anywhere(tmp_path: Path, act: str) -> None:
    """Killed at any system call, the record says the former phase or the later one, and never that it cannot be read;
    done again, it is done.
    """
    later = replace(BEGUN, phase=Phase.DONE)
    original = tmp_path / "original"
    original.mkdir()
    RotationRecord(original).save(BEGUN)

    def run(state: Path) -> None:
        getattr(RotationRecord(state), act)(later)

    shutil.copytree(original, tmp_path / "whole")
    stops = record(partial(run, tmp_path / "whole"))
    end = None if act == "close" else later
    seen = set[Phase | None]()
    for n in range(len(stops)):
        state = tmp_path / str(n)
        shutil.copytree(original, state)
        kill_at(partial(run, state), n)
        found = RotationRecord(state).load()
        seen.add(found.phase if found else None)
        run(state)
        assert RotationRecord(state).load() == end
    assert seen == {Phase.TRUST, Phase.DONE, *({None} if act == "close" else ())}
