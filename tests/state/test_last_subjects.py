"""The record of the last subject of each entry that accepts several subjects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from certmond.pki.catalog.entries import CertificateSpec
from certmond.state.last_subjects import LastSubjects
from tests.builders import DAY, YEAR, Issued, make_ca, make_leaf
from tests.test_renewal import ENTRIES, Host, kubeconfig

PATH = ENTRIES["admin.conf"]["path"]
ADMINS, MASTERS = (f"CN=kubernetes-admin,O={group}" for group in ("kubeadm:cluster-admins", "system:masters"))


class Node(Host):
    """A node whose entry admin.conf accepts two subjects."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, "admin.conf", "apiserver")
        self.entries["admin.conf"]["subject"] = [ADMINS, MASTERS]
        self.subjects = self.next_process()

    def next_process(self) -> LastSubjects:
        """Return the record as the next process reads it."""
        return LastSubjects(self.state, self.config.certificates)

    def install(self, name: str, **more: Any) -> None:
        if name == "admin.conf":
            self.issue(ADMINS)
        else:
            super().install(name, **more)

    def issue(self, subject: str, ca: Issued | None = None) -> None:
        """Write admin.conf with a certificate of `subject`, which `ca` signs, or the CA of the node."""
        dates: Any = {"not_before": self.now - DAY, "not_after": self.now + YEAR}
        dates["subject"] = x509.Name.from_rfc4514_string(subject)
        leaf = make_leaf(ca or self.ca, **dates)
        self.put(PATH, kubeconfig(self.ca, leaf), 0o600)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def recorded(subjects: LastSubjects) -> set[str] | None:
    """Return the attributes of the recorded subject of admin.conf."""
    text = subjects.read().get("admin.conf")
    return None if text is None else set(text.split(","))


def test_the_next_process_reads_the_last_subject(node: Node) -> None:
    """The record has the newest of several subjects. It omits an entry that accepts one subject."""
    for subject in (MASTERS, ADMINS):
        node.issue(subject)
        node.subjects.record(node.look())
        assert recorded(node.next_process()) == set(subject.split(","))
        assert node.next_process().read().keys() == {"admin.conf"}


@pytest.mark.parametrize("content", ["damaged", "missing", "of another CA"])
def test_a_file_without_a_certificate_of_its_ca_does_not_change_the_record(node: Node, content: str) -> None:
    """The damaged file needs the record, and a certificate of another CA proves no subject."""
    node.issue(MASTERS)
    node.subjects.record(node.look())
    match content:
        case "damaged":
            node.put(PATH, b"x", 0o600)
        case "missing":
            node.at(PATH).unlink()
        case _:
            node.issue(ADMINS, make_ca(not_before=node.now - YEAR))
    node.subjects.record(node.look())
    assert recorded(node.subjects) == set(MASTERS.split(","))


def test_an_entry_with_a_pattern_is_not_recorded(tmp_path: Path) -> None:
    """The record has no name for a single file of a pattern."""
    node = Node(tmp_path)
    pattern = CertificateSpec(name="admin.conf", path=PATH.replace("admin", "*"), subject=(ADMINS, MASTERS))
    subjects = LastSubjects(node.state, (pattern,))
    subjects.record(node.look())
    assert subjects.read() == {}


def test_an_unchanged_certificate_is_not_written_again(node: Node) -> None:
    """An operator may remove the record while the daemon runs: the next certificate creates it again."""
    assessment = node.look()
    node.subjects.record(assessment)
    (node.state / "subjects.json").unlink()
    node.subjects.record(assessment)
    assert node.subjects.read() == {}
    node.issue(MASTERS)
    node.subjects.record(node.look())
    assert recorded(node.subjects) == set(MASTERS.split(","))


def test_a_failed_write_is_repeated(node: Node) -> None:
    """`record` raises no error if it cannot write the record, and writes it at the next call."""
    assessment = node.look()
    node.state.write_bytes(b"")  # a file instead of the directory
    node.subjects.record(assessment)
    assert node.subjects.read() == {}
    node.state.unlink()
    node.subjects.record(assessment)
    assert recorded(node.subjects) == set(ADMINS.split(","))


def test_a_damaged_record_is_replaced(node: Node) -> None:
    """`read` returns no subject, and the next certificate replaces the record, which only its owner can read."""
    node.subjects.record(node.look())
    record = node.state / "subjects.json"
    record.write_bytes(b"{")
    assert node.subjects.read() == {}
    node.issue(MASTERS)
    node.subjects.record(node.look())
    assert recorded(node.subjects) == set(MASTERS.split(","))
    assert os.stat(record).st_mode & 0o777 == 0o600
