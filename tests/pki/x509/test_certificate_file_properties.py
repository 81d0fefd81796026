"""The content of a document: its end entity, and the facts of its key."""

from __future__ import annotations

import pytest

from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate_file_parser import Document
from certmond.pki.x509.certificate_file_properties import (
    encrypted_key_in,
    has_key,
    is_broken,
    leaf_of,
    may_hide_key,
    not_pem,
    public_key_in,
    without_missing,
)
from tests.builders import make_ca, make_leaf

CA = make_ca("kubernetes")
LEAF, OTHER = make_leaf(CA, "a"), make_leaf(CA, "b")
ENCRYPTED = Document(encrypted_key=True)


def faulty(*reasons: Reason) -> Document:
    return Document(faults=tuple(Fault(reason, f"it is {reason}") for reason in reasons))


def test_the_end_entity_comes_first() -> None:
    """It is the one whose key is in the file, otherwise the first that is no CA, otherwise the first. The result has
    its position.
    """
    several = (CA.facts, LEAF.facts, OTHER.facts)
    assert leaf_of(Document(several)) == {"certificates": (LEAF.facts, CA.facts, OTHER.facts), "leaf_first": False}
    assert leaf_of(Document(several, key=OTHER.facts.key))["certificates"][0] == OTHER.facts
    assert leaf_of(Document(several, key=CA.facts.key)) == {"certificates": several, "leaf_first": True}
    assert leaf_of(Document((CA.facts, make_ca("other").facts)))["certificates"][0] == CA.facts
    assert leaf_of(Document((CA.facts, LEAF.facts)))["certificates"] == (LEAF.facts, CA.facts)
    assert leaf_of(Document((LEAF.facts,))) == {"certificates": (LEAF.facts,)}


def test_the_public_key_is_the_one_of_the_private_key() -> None:
    """Otherwise the first one counts: a separate one before that of a private key, and that before those of
    certificates.
    """
    mine, other = LEAF.facts.key, OTHER.facts.key
    assert public_key_in(Document(public_keys=(other, mine)), mine) == mine
    assert public_key_in(Document(public_keys=(other,)), mine) == other
    assert public_key_in(Document((LEAF.facts,), key=other), None) == other
    assert public_key_in(Document((LEAF.facts,), key=other), mine) == mine
    assert public_key_in(Document(), mine) is None


@pytest.mark.parametrize(
    ("document", "has", "may_hide", "broken"),
    [
        (Document((LEAF.facts,)), False, False, False), (Document(key=LEAF.facts.key), True, False, False),
        (ENCRYPTED, True, True, False), (faulty(Reason.MALFORMED), False, True, True),
        (faulty(Reason.UNREADABLE), False, True, True), (faulty(Reason.MISSING), False, False, True),
        (faulty(Reason.TRAILING_DATA), False, False, False),
        (faulty(Reason.TRAILING_DATA, Reason.MALFORMED), False, True, True),
    ],
)  # fmt: skip
def test_the_facts_of_a_key(document: Document, has: bool, may_hide: bool, broken: bool) -> None:
    """An unreadable or malformed file may hide a key. Trailing bytes are no such fault."""
    assert (has_key(document), may_hide_key(document), is_broken(document)) == (has, may_hide, broken)


def test_an_encrypted_key_is_a_fault_that_names_the_file() -> None:
    """The fault has the remedy. Another key has no fault."""
    (fault,) = encrypted_key_in(ENCRYPTED, "/a.key")
    assert (fault.reason, fault.remedy) == (
        Reason.UNREADABLE,
        "decrypt the key (openssl pkey), and set mode 0600",
    )
    assert (
        fault.detail
        == "the private key in /a.key is encrypted, and no component of Kubernetes can read an encrypted key"
    )
    assert list(encrypted_key_in(Document(key=LEAF.facts.key), "/a.key")) == []


def test_what_is_missing_is_left_out() -> None:
    """All other faults stay, in their order."""
    faults = faulty(Reason.MALFORMED, Reason.MISSING, Reason.UNREADABLE).faults
    assert [fault.reason for fault in without_missing(faults)] == [Reason.MALFORMED, Reason.UNREADABLE]


def test_certificates_that_are_not_pem_are_a_fault_if_kubernetes_reads_them() -> None:
    """A file without a certificate has no such fault."""
    (fault,) = not_pem(Document((LEAF.facts,), pem=False), "/a.crt")
    assert (fault.reason, fault.detail.startswith("/a.crt is not PEM")) == (Reason.MALFORMED, True)
    assert [*not_pem(Document((LEAF.facts,)), "/a.crt"), *not_pem(Document(pem=False), "/a.crt")] == []
