"""The messages of the scan process arrive unchanged, and contain no secret."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from certmond.files.forked_worker_messages import pack, unpack
from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import Document, decode
from certmond.pki.x509.path_building import Path, PathSearch, Refusal, Rejection, find_paths
from tests.builders import bundle, make_ca, make_intermediate, make_leaf, new_key
from tests.files.test_catalog_observer import secrets
from tests.node import Node

CA = make_ca()
MIDDLE = make_intermediate(CA)
LEAF = make_leaf(MIDDLE, names=["DNS:a", "IP:10.0.0.1"])
DOCUMENTS = {
    "certificate": decode(LEAF.pem, "/a"),
    "chain": decode(bundle(LEAF, MIDDLE, CA), "/a"),
    "with its key": decode(LEAF.pem + LEAF.key_pem, "/a"),
    "Ed25519": decode(make_leaf(CA, key=new_key("ed25519")).pem, "/a"),
    "public key": decode(LEAF.public_pem, "/a"),
    "cut off": decode(LEAF.pem + CA.pem[:-30], "/a"),
    "nothing": decode(b"", "/a"),
    "DER": decode(LEAF.facts.der, "/a"),
    "remedy": Document(faults=(Fault(Reason.UNREADABLE, "/a is not read", "read it"),)),
}


def parts(value: Any) -> Any:
    """A fact by all of its fields: certificates call themselves equal by less."""
    if isinstance(value, tuple | list):
        return [parts(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value), [parts(getattr(value, each.name)) for each in fields(value)]
    return value


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_arrives_as_it_was(document: Document) -> None:
    """With every field of all that is in it, and nothing that is only like it."""
    found = unpack(pack(document))
    assert found == document
    assert parts(found) == parts(document)


def test_paths_and_refusals_arrive_as_they_were() -> None:
    """A path knows again from when until when it holds."""
    search = find_paths(LEAF.facts, [CA.facts], [MIDDLE.facts])
    refused = PathSearch((), (Rejection(Refusal.NOT_CA, LEAF.facts),))
    assert parts(unpack(pack([search, refused]))) == parts([search, refused])
    assert search.paths
    assert search.paths[0].until - search.paths[0].since > timedelta(0)


def test_a_shared_object_is_sent_by_its_index() -> None:
    """The receiver gets its own object, not a copy. An object of one side only is sent completely."""
    there = [CA.facts, MIDDLE.facts]
    packed = pack([CA.facts, Path((LEAF.facts, MIDDLE.facts, CA.facts))], there)
    root, path = unpack(packed, there)
    assert root is CA.facts
    assert path.certificates[1:] == (MIDDLE.facts, CA.facts)
    assert all(one is other for one, other in zip(path.certificates[1:], reversed(there), strict=True))
    assert isinstance(path.certificates[0], Certificate)
    assert path.certificates[0] == LEAF.facts
    assert CA.facts.der not in packed


def test_a_certificate_in_memory_is_reused() -> None:
    """The receiver would share it, too: ten thousand files with the chain of their CA have that in memory once."""
    here = decode(bundle(CA, MIDDLE), "/here")
    found = [unpack(pack(decode(bundle(leaf, CA), "/there"))) for leaf in (LEAF, make_leaf(CA))]
    assert all(document.certificates[1] is here.certificates[0] for document in found)
    assert found[0].certificates[0] is not found[1].certificates[0]


def test_no_part_of_a_private_key_is_sent(node: Node) -> None:
    """This holds for every file of a node: only the public half of a key is sent."""
    wanted = secrets(node.root)
    files = [path for path in node.root.rglob("*") if path.is_file()]
    packed = b"".join(pack(decode(path.read_bytes(), str(path))) for path in files)
    assert sum(decode(path.read_bytes(), str(path)).key is not None for path in files) > 5
    assert not [secret for secret in wanted if secret in packed]
