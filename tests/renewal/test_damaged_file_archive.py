"""Retention of damaged files that certmond has replaced, and the number of its reads."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers.archive_retention import Retention
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.catalog.entries import CertificateSpec
from certmond.renewal.damaged_file_archive import DamagedFiles
from certmond.state.archive import Archive, ArchivedFile
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import DAY, NOW, make_ca, make_leaf

SPECS = (CertificateSpec(name="web", path="/web.crt", key="/web.key"),)
CA = make_ca()
KEY = make_leaf(CA).key_pem
CONFIG = """\
profile: none
certificates: [{name: web, path: /web.crt, key: /web.key}]
hold: {unsynchronised_clock: false}
"""


class DamagedKeys:
    """The archived damaged key files of one entry, with at least two generations."""

    def __init__(self, place: Path) -> None:
        self.root, self.state, self.now = place / "root", place / "state", NOW
        self.root.mkdir()
        self.archive = Archive(self.state)
        self.files = NodeFiles(str(self.root))
        self.damaged = DamagedFiles(self.state, 2, SPECS, self.files)

    def add(self, *contents: bytes) -> None:
        """Archive one generation of each content, an hour apart."""
        for content in contents:
            self.now += timedelta(hours=1)
            (self.root / "web.key").write_bytes(content)
            self.damaged.keep("web", {"/web.key": self.root / "web.key"}, self.now, {})

    def contents(self) -> list[bytes]:
        """Return the archived contents, oldest first."""
        generations = (self.archive.load("web.damaged", each) for each in self.archive.ids("web.damaged"))
        return [file.content for files in generations for file in files]

    def expire(self) -> None:
        """Apply `archive.keep_for`."""
        config, audit = parse([Source("test", CONFIG)]), Audit(Journal("none"), self.state, "test")
        Retention(self.archive, config, audit, lambda: self.now, self.files).apply()


@pytest.fixture
def keys(tmp_path: Path) -> DamagedKeys:
    return DamagedKeys(tmp_path)


def test_the_newest_generations_and_the_only_copies_stay(keys: DamagedKeys) -> None:
    """Of several copies of a private key, the newest one stays. The key is PEM or DER, and complete or truncated."""
    der = make_leaf(CA).key_as(PrivateFormat.PKCS8, encoding=Encoding.DER)
    keys.add(KEY, b"1", KEY, der, KEY[:90], b"2", b"3", b"4")
    assert keys.contents() == [KEY, der, KEY[:90], b"3", b"4"]


def test_a_key_with_another_copy_is_removed(keys: DamagedKeys) -> None:
    """The other copy is in a generation of the entry, or in a file of an entry on the node."""
    (keys.root / "web.key").write_bytes(KEY)
    keys.archive.store("web", {"/web.key": keys.root / "web.key"}, NOW, {})
    other = make_leaf(CA).key_pem
    (keys.root / "web.crt").write_bytes(other)
    keys.add(KEY, other, b"1", b"2")
    assert keys.contents() == [b"1", b"2"]


def test_the_only_copy_of_a_key_does_not_expire(keys: DamagedKeys) -> None:
    """The newest copy of a private key without another copy stays longer than `archive.keep_for`. It expires after the
    operator has restored the key on the node.
    """
    keys.add(KEY, b"1", b"2")
    keys.now += 401 * DAY
    keys.add(b"3")
    keys.expire()
    assert keys.contents() == [KEY, b"3"]
    (keys.root / "web.key").write_bytes(KEY)
    keys.now += DAY
    keys.expire()
    assert keys.contents() == [b"3"]


def test_a_large_file_does_not_outlast_the_others(keys: DamagedKeys) -> None:
    """A file that is larger than any private key stays only among the newest generations, whatever its content."""
    large = [b"-----BEGIN PRIVATE KEY-----\n%d" % number + b"A" * 200_000 for number in range(5)]
    keys.add(*large)
    assert keys.contents() == large[-2:]


def test_a_repair_reads_each_generation_once(keys: DamagedKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of reads of a repair is linear in the number of generations."""
    keys.add(*(make_leaf(CA).key_pem for _ in range(8)))
    reads, load = Counter[str](), Archive.load

    def counted(self: Archive, name: str, generation: str) -> tuple[ArchivedFile, ...]:
        reads[generation] += 1
        return load(self, name, generation)

    monkeypatch.setattr(Archive, "load", counted)
    keys.add(b"1")
    assert len(reads) == 9
    assert max(reads.values()) <= 2  # `store` also compares the newest one with the new content
