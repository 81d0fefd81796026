"""The staging area of a CA: complete or reported as incomplete, readable only for root at any instant, and removed
completely.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certmond.errors import ConfigError, KeyUnusableError, WriteError
from certmond.rotation.staged_ca import Part, Recorded, StagedCA, Staging
from tests.builders import Issued, bundle, make_ca
from tests.conftest import unavailable
from tests.sampling import sample
from tests.tracing import kill_at, record

FIRST, SECOND = make_ca("first"), make_ca("second")


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "state")


def put(staging: Staging, ca: Issued = FIRST, part: Part = Part.NEW, *, key: bool = True) -> None:
    assert isinstance(ca.key, ec.EllipticCurvePrivateKey)
    staging.put(part, "ca", ca.facts, ca.key if key else None)


def files(staging: Staging) -> dict[str, Path]:
    return {each.name: each for each in staging.directory.iterdir()} if staging.directory.is_dir() else {}


def whole(ca: Issued, part: Part = Part.NEW) -> StagedCA:
    return StagedCA(part, "ca", ca.facts, ca.facts.key)


@pytest.mark.parametrize("part", Part)
def test_a_staged_ca_is_read(staging: Staging, part: Part) -> None:
    """Certificate, family and key are read back. The key is read only on request."""
    assert staging.read(part) is None
    put(staging, FIRST, part)
    assert staging.read(part) == whole(FIRST, part)
    assert staging.key(part).private_numbers() == FIRST.key.private_numbers()  # type: ignore[union-attr]
    assert "PRIVATE" not in repr(staging.read(part))
    assert [staging.read(other) for other in Part if other is not part] == [None]


def test_only_root_can_read_it(staging: Staging) -> None:
    """Directory and files are closed to others, with any umask and also if the directory was open before."""
    staging.directory.mkdir(parents=True, mode=0o755)
    before = os.umask(0)
    try:
        put(staging)
    finally:
        os.umask(before)
    assert stat.S_IMODE(staging.directory.stat().st_mode) == 0o700
    assert {name: oct(stat.S_IMODE(path.stat().st_mode)) for name, path in files(staging).items()} == {
        "new.crt": "0o600", "new.key": "0o600", "new.family": "0o600",
    }  # fmt: skip


def test_the_key_is_as_kubeadm_writes_one(staging: Staging) -> None:
    """PEM without a passphrase, SEC1 for ECDSA."""
    put(staging)
    assert files(staging)["new.key"].read_bytes().startswith(b"-----BEGIN EC PRIVATE KEY-----\n")


def test_a_node_without_the_key(staging: Staging) -> None:
    """A certificate without a key is complete, replaces a pair with its key, and reports the missing key."""
    put(staging, FIRST)
    put(staging, SECOND, key=False)
    assert staging.read(Part.NEW) == StagedCA(Part.NEW, "ca", SECOND.facts, None)
    assert "new.key" not in files(staging)
    with pytest.raises(ConfigError, match=r"new.key does not exist; stage the CA with its key"):
        staging.key(Part.NEW)


def test_another_ca_replaces_it(staging: Staging) -> None:
    """A new part replaces the old one. The other part stays."""
    put(staging, FIRST, Part.OLD)
    put(staging, FIRST)
    put(staging, SECOND)
    assert (staging.read(Part.NEW), staging.read(Part.OLD)) == (whole(SECOND), whole(FIRST, Part.OLD))


def test_destroyed(staging: Staging) -> None:
    """A destroyed part is removed, the record of the rotation stays, and another destruction is no error."""
    staging.destroy(*Part)
    put(staging)
    put(staging, SECOND, Part.OLD)
    (staging.directory / "record.json").write_text("{}")
    staging.destroy(Part.NEW)
    assert (staging.read(Part.NEW), staging.read(Part.OLD)) == (None, whole(SECOND, Part.OLD))
    staging.destroy(*Part)
    staging.destroy(*Part)
    assert set(files(staging)) == {"record.json"}


def test_a_key_of_another_is_not_staged(staging: Staging) -> None:
    """A key that does not match the certificate is refused, and the staged CA stays."""
    put(staging)
    assert isinstance(FIRST.key, ec.EllipticCurvePrivateKey)
    with pytest.raises(ConfigError, match="is not the key of CN=second"):
        staging.put(Part.NEW, "ca", SECOND.facts, FIRST.key)
    assert staging.read(Part.NEW) == whole(FIRST)


@pytest.mark.parametrize(
    ("name", "content", "reported"),
    [
        ("new.crt", None, "new.* is incomplete"),
        ("new.family", None, "new.* is incomplete"),
        ("new.crt", b"rubbish", "new.crt is damaged"),
        ("new.crt", b"", "new.crt is damaged"),
        ("new.crt", bundle(FIRST, SECOND), "new.crt is damaged"),
        ("new.key", b"rubbish", "new.key is not the key of"),
        ("new.key", SECOND.key_pem, "new.key is not the key of"),
    ],
)
def test_an_incomplete_ca_is_reported(staging: Staging, name: str, content: bytes | None, reported: str) -> None:
    """A missing, damaged or foreign file is a fault with its name and remedy. Staging again repairs it."""
    put(staging)
    if content is None:
        files(staging)[name].unlink()
    else:
        files(staging)[name].write_bytes(content)
    found = staging.read(Part.NEW)
    assert found
    assert found.fault
    assert reported in found.fault
    assert "again" in found.fault
    put(staging, SECOND)
    assert staging.read(Part.NEW) == whole(SECOND)


def test_a_damaged_key_is_not_quoted(staging: Staging) -> None:
    """The message about a key that cannot be used names its file and nothing of its content."""
    put(staging)
    files(staging)["new.key"].write_bytes(FIRST.key_pem.replace(b"M", b"!"))
    with pytest.raises(KeyUnusableError) as caught:
        staging.key(Part.NEW)
    assert "new.key" in str(caught.value)
    assert not any(line in str(caught.value) for line in FIRST.key_pem.decode().splitlines()[1:-1])


def states(staging: Staging, *wholes: StagedCA) -> Iterator[str]:
    """Return the defects of the state directory at this instant, at which it may be one of `wholes`, or incomplete."""
    for path in [each for each in (staging.directory, *files(staging).values()) if each.exists()]:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield f"{path.name} is open to others"
    found = staging.read(Part.NEW)
    if found and not found.fault and found not in wholes:
        yield f"{found} is treated as complete"


def test_a_draft_alone_is_incomplete(staging: Staging) -> None:
    """A leftover draft of a key is reported, so that no key stays there unnoticed."""
    put(staging)
    files(staging)["new.key"].rename(staging.directory / ".new.key")
    for name in ("new.crt", "new.family"):
        files(staging)[name].unlink()
    found = staging.read(Part.NEW)
    assert found
    assert found.fault
    staging.destroy(Part.NEW)
    assert not files(staging)


@pytest.mark.long
@pytest.mark.real("ptrace")
@pytest.mark.parametrize(
    ("before", "key"), [(None, True), (FIRST, True), (FIRST, False)], ids=["nothing", "another", "without its key"]
)
def test_killed_at_every_system_call(tmp_path: Path, before: Issued | None, key: bool) -> None:
    """At every instant of staging the result is empty, complete, or reported as incomplete, and no key is open to
    others. After a kill at any of them, staging again works and destruction leaves nothing.
    """
    work = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    place = work / f"certmond-staged-{os.getpid()}"
    staging = Staging(place)
    after = StagedCA(Part.NEW, "ca", SECOND.facts, SECOND.facts.key if key else None)
    wholes = (whole(FIRST), after)

    def prepare() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        if before:
            put(staging, before)

    def act() -> None:
        put(staging, SECOND, key=key)

    try:
        prepare()
        problems = list[str]()
        stops = record(act, lambda stop: problems.extend(f"{stop}: {p}" for p in states(staging, *wholes)))
        assert not problems
        assert staging.read(Part.NEW) == after
        halves = 0
        for n in sample(range(len(stops) - 1), 15, f"staging, {before is None} {key}", kind=lambda n: stops[n]):
            prepare()
            stop = kill_at(act, n)
            assert not list(states(staging, *wholes)), (n, stop)
            found = staging.read(Part.NEW)
            halves += bool(found and found.fault)
            if n % 2:
                put(staging, FIRST)
                assert staging.read(Part.NEW) == whole(FIRST), (n, stop)
            else:
                staging.destroy(Part.NEW)
                assert not files(staging), (n, stop)
        assert halves
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.long
@pytest.mark.real("ptrace")
def test_killed_while_destroying(tmp_path: Path) -> None:
    """After a kill at any call of the destruction, the rest is complete or reported as incomplete, never a certificate
    without its key.
    """
    staging = Staging(tmp_path)
    put(staging)
    stops = len(record(lambda: staging.destroy(Part.NEW)))
    for n in range(stops - 1):
        put(staging)
        kill_at(lambda: staging.destroy(Part.NEW), n)
        found = staging.read(Part.NEW)
        assert found is None or found.fault or found == whole(FIRST), n
    staging.destroy(Part.NEW)
    assert not files(staging)


def test_a_full_disk(tmp_path: Path) -> None:
    """Without space, the staged CA stays, no draft is left, and the message has the remedy."""
    if os.geteuid() != 0:
        unavailable("only root can mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", place], check=False).returncode:
        unavailable("no file system can be mounted here")
    try:
        staging = Staging(place)
        put(staging)
        with (place / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        with pytest.raises(WriteError, match=r"rotation could not be written .*: free space on its file system"):
            put(staging, SECOND)
        assert staging.read(Part.NEW) == whole(FIRST)
        assert set(files(staging)) == {"new.crt", "new.key", "new.family"}
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_directory_that_is_a_symlink(staging: Staging, tmp_path: Path) -> None:
    """A symlink in place of the directory is not followed: nothing is written, read or destroyed there."""
    elsewhere = Staging(tmp_path / "elsewhere")
    put(elsewhere)
    (tmp_path / "state").mkdir()
    staging.directory.symlink_to(elsewhere.directory)
    found = staging.read(Part.NEW)
    assert found
    assert found.fault
    with pytest.raises(WriteError):
        put(staging, SECOND)
    with pytest.raises(WriteError):
        staging.destroy(Part.NEW)
    assert elsewhere.read(Part.NEW) == whole(FIRST)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, None),
        ('{"id": "x", "family": "ca", "phase": "trust", "mode": "overlap"}', Recorded("x", "ca", "trust")),
        ('{"id": "x", "family": "ca", "phase": "done"}', Recorded("x", "ca", "done")),
        ("{", Recorded()),
        ("[]", Recorded()),
        ('{"phase": 1}', Recorded()),
        ("[" * 100_000, Recorded()),
    ],
    ids=["none", "trust", "done", "cut off", "a list", "a number", "deep"],
)
def test_the_record(staging: Staging, text: str | None, said: Recorded | None) -> None:
    """An existing record is reported, with its readable fields. None represents no record."""
    staging.directory.mkdir(parents=True)
    if text is not None:
        (staging.directory / "record.json").write_text(text)
    assert staging.recorded() == said
