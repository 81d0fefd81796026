"""Damaged files that certmond replaced: how long they are kept, and what that costs."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from certmond.config import Source, parse
from certmond.host.archive import Archive, ArchivedFile
from certmond.host.audit import Audit
from certmond.host.damaged import DamagedFiles
from certmond.host.journal import Journal
from certmond.host.node_files import NodeFiles
from certmond.host.retention import Retention
from certmond.pki.catalog import CertificateSpec
from tests.builders import DAY, NOW, make_ca, make_leaf

SPECS = (CertificateSpec(name="web", path="/web.crt", key="/web.key"),)
CA = make_ca()
KEY = make_leaf(CA).key_pem
CONFIG = """\
profile: none
certificates: [{name: web, path: /web.crt, key: /web.key}]
hold: {unsynchronised_clock: false}
"""


class Kept:
    """What is kept of one entry, two generations in any case."""

    def __init__(self, place: Path) -> None:
        self.root, self.state, self.now = place / "root", place / "state", NOW
        self.root.mkdir()
        self.archive = Archive(self.state)
        self.files = NodeFiles(str(self.root))
        self.damaged = DamagedFiles(self.state, 2, SPECS, self.files)

    def keep(self, *contents: bytes) -> None:
        for content in contents:
            self.now += timedelta(hours=1)
            (self.root / "web.key").write_bytes(content)
            self.damaged.keep("web", {"/web.key": self.root / "web.key"}, self.now, {})

    def left(self) -> list[bytes]:
        """The contents that are kept, oldest first."""
        kept = (self.archive.load("web.damaged", each) for each in self.archive.ids("web.damaged"))
        return [file.content for files in kept for file in files]

    def expire(self) -> None:
        config, audit = parse([Source("test", CONFIG)]), Audit(Journal("none"), self.state, "test")
        Retention(self.archive, config, audit, lambda: self.now, self.files).apply()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_the_last_generations_and_the_only_copies_are_kept(kept: Kept) -> None:
    """Of several copies of a private key the newest one stays, in PEM or DER, whole or a part of one."""
    der = make_leaf(CA).key_as(PrivateFormat.PKCS8, encoding=Encoding.DER)
    kept.keep(KEY, b"1", KEY, der, KEY[:90], b"2", b"3", b"4")
    assert kept.left() == [KEY, der, KEY[:90], b"3", b"4"]


def test_a_key_that_is_elsewhere_goes_with_the_others(kept: Kept) -> None:
    """A private key that a generation of the entry has, or a file of an entry on the node, need not be kept twice."""
    (kept.root / "web.key").write_bytes(KEY)
    kept.archive.store("web", {"/web.key": kept.root / "web.key"}, NOW, {})
    other = make_leaf(CA).key_pem
    (kept.root / "web.crt").write_bytes(other)
    kept.keep(KEY, other, b"1", b"2")
    assert kept.left() == [b"1", b"2"]


def test_the_only_copy_of_a_key_has_no_end(kept: Kept) -> None:
    """A private key that is nowhere else stays beyond `archive.keep_for`, in the newest of its copies; when it is on
    the node again, it goes with the other damaged files.
    """
    kept.keep(KEY, b"1", b"2")
    kept.now += 401 * DAY
    kept.keep(b"3")
    kept.expire()
    assert kept.left() == [KEY, b"3"]
    (kept.root / "web.key").write_bytes(KEY)
    kept.now += DAY
    kept.expire()
    assert kept.left() == [b"3"]


def test_what_is_large_outlasts_nothing(kept: Kept) -> None:
    """A file that is larger than any private key is kept among the last generations only, whatever words are in it."""
    large = [b"-----BEGIN PRIVATE KEY-----\n%d" % number + b"A" * 200_000 for number in range(5)]
    kept.keep(*large)
    assert kept.left() == large[-2:]


def test_each_generation_is_read_once_for_a_repair(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a repair reads of the archive grows with the number of generations, not with its square."""
    kept.keep(*(make_leaf(CA).key_pem for _ in range(8)))
    read, load = Counter[str](), Archive.load

    def counted(self: Archive, name: str, generation: str) -> tuple[ArchivedFile, ...]:
        read[generation] += 1
        return load(self, name, generation)

    monkeypatch.setattr(Archive, "load", counted)
    kept.keep(b"1")
    assert len(read) == 9
    assert max(read.values()) <= 2  # the newest one is compared with what is stored, too
