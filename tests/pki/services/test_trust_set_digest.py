"""The trust of the readers of an anchor file: a set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Fault, Reason
from certmond.pki.services.trust_set_digest import digest_of, trust_sets
from tests.builders import Issued, make_ca

OLD, NEW, UNRELATED = make_ca("kubernetes"), make_ca("kubernetes"), make_ca("unrelated")
CA = CertificateSpec(name="ca", path="/pki/ca.crt", authority=True)
SA = CertificateSpec(name="sa", path="/pki/sa.pub", key="/pki/sa.key", kind=Kind.KEY_PAIR)
LEAF = CertificateSpec(name="leaf", path="/pki/ca.crt", ca=("ca",))


def of_ca(*issued: Issued, **fields: Any) -> list[Observation]:
    """Return the observations of a CA's file with these certificates: one for each."""
    rows = [Observation("ca", CA, CA.path, (each.facts,), **fields) for each in issued]
    return [replace(row, name=row.name if number == 1 else f"ca#{number}") for number, row in enumerate(rows, 1)]


@given(st.permutations([OLD, NEW, UNRELATED]), st.lists(st.sampled_from([OLD, NEW, UNRELATED]), max_size=3))
def test_a_set_of_anchors_has_one_digest(order: list[Any], again: list[Any]) -> None:
    """The order and duplicates do not matter. Any other set has another digest."""
    same = digest_of(each.facts for each in (*order, *again))
    assert same == digest_of([OLD.facts, NEW.facts, UNRELATED.facts])
    assert same != digest_of([each.facts for each in order[:2]])


def test_the_order_in_a_file_does_not_matter() -> None:
    """The rule covers the certificates of a CA's file, and the public keys of tokens."""
    assert (
        trust_sets(of_ca(OLD, NEW)) == trust_sets(of_ca(NEW, OLD)) == {"/pki/ca.crt": digest_of([OLD.facts, NEW.facts])}
    )
    assert trust_sets(of_ca(OLD)) != trust_sets(of_ca(OLD, NEW))
    keys = OLD.facts.key, NEW.facts.key
    for order in (keys, keys[::-1]):
        assert trust_sets([Observation("sa", SA, SA.path, public_keys=order)]) == {"/pki/sa.pub": digest_of(keys)}


def test_in_any_other_file_every_byte_counts() -> None:
    """The cases are a file with a fault, an empty one, and one that another entry describes differently."""
    assert trust_sets(of_ca(OLD, faults=(Fault(Reason.TRAILING_DATA, "there is more"),))) == {}
    assert trust_sets([Observation("ca", CA, CA.path)]) == {}
    leaf = Observation("leaf", LEAF, LEAF.path, (OLD.facts,))
    assert trust_sets([*of_ca(OLD, NEW), leaf]) == trust_sets([leaf, *of_ca(OLD, NEW)]) == trust_sets([leaf]) == {}
