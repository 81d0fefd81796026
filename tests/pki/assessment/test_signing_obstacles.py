"""Obstacles to the renewal of a certificate, in the finding about its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from certmond.files.catalog_file_reader import bundle_observations
from certmond.pki.assessment.assess import CertificateStatus, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.validator import validated
from tests.assessments import status_in
from tests.builders import DAY, NOW, SECOND, YEAR, Issued, make_ca, make_leaf

CA = make_ca()
RENEW = "renew the certificate: certmond renew leaf"
NO_KEY = "the CA's key /pki/ca.key is not on this node, or does not match the CA"


def authority(ca: Issued = CA, **fields: Any) -> Observation:
    spec = CertificateSpec(name="ca", path="/pki/ca.crt", authority=True)
    return Observation("ca", spec, spec.path, (ca.facts,), key_path="/pki/ca.key", **{"key": ca.facts.key, **fields})


def leaf(ca: Issued = CA, **fields: Any) -> Observation:
    spec = validated(CertificateSpec, {"name": "leaf", "path": "/pki/leaf.crt", "ca": "ca", **fields})
    return Observation("leaf", spec, spec.path, (make_leaf(ca, not_after=NOW - DAY).facts,))


def verdict(ca: Observation, seen: Observation, previous: Any = None) -> CertificateStatus:
    made = assess(Inventory((ca, seen), {}), NOW, previous)
    return status_in(made, "leaf", "/pki/leaf.crt")


def remedy(ca: Observation, seen: Observation) -> str:
    """The remedy in the finding `expired` about the leaf."""
    (found,) = (each for each in verdict(ca, seen).findings if each.reason == "expired")
    return found.message.partition("; ")[2]


@pytest.mark.parametrize("fields", [{}, {"key": None, "key_unknown": True}])
def test_a_node_with_the_key_of_the_ca_renews(fields: dict[str, Any]) -> None:
    """The remedy for an expired certificate is a renewal, if the node has the key of the CA, or might have the key."""
    assert remedy(authority(**fields), leaf()) == RENEW


@pytest.mark.parametrize("key", [None, make_ca().facts.key])
def test_a_node_without_the_key_of_the_ca_names_the_key(key: Any) -> None:
    """`certmond renew` would fail, so the remedy is the key. For the kubelet of a worker, it is the runbook."""
    assert remedy(authority(key=key), leaf()) == f"{NO_KEY}; restore the key, or choose another signer"
    assert remedy(authority(key=key), leaf(kind="kubelet")) == f"{NO_KEY}; see: certmond explain expired"


def test_another_signer_needs_no_key_of_the_ca() -> None:
    """With another signer, the remedy is a renewal. With `signer: none`, the remedy is another signer."""
    assert remedy(authority(key=None), leaf(signer="vault")) == RENEW
    assert remedy(authority(key=None), leaf(signer="none")).startswith("its entry has `signer: none`; ")


def test_the_other_cas_of_a_bundle_need_no_key() -> None:
    """During a rotation, the CA file contains the new CA and the old CA, and the node has the key of the first."""
    old = make_ca()
    first, second = bundle_observations(authority(), (CA.facts, old.facts))
    made = assess(Inventory((first, second, leaf(old)), {}), NOW)
    (found,) = (each for each in status_in(made, "leaf", "/pki/leaf.crt").findings if each.reason == "expired")
    assert found.message.partition("; ")[2] == RENEW


def test_an_expired_ca_is_replaced_first() -> None:
    """An expired CA signs no valid certificate, so the remedy is a new CA. A CA is valid at its last instant."""
    old = make_ca(not_before=NOW - YEAR, not_after=NOW - SECOND)
    first = "its CA ca has expired, too; first replace the CA as the finding of ca describes"
    assert remedy(authority(old), leaf(old)) == first
    last = make_ca(not_before=NOW - YEAR, not_after=NOW)
    assert remedy(authority(last), leaf(last)) == RENEW


def test_a_restored_key_changes_the_remedy() -> None:
    """A verdict of the previous pass does not remain after the key of the CA has returned."""
    seen, without = leaf(), authority(key=None)
    before = assess(Inventory((without, seen), {}), NOW)
    assert NO_KEY in status_in(before, "leaf", "/pki/leaf.crt").findings[0].message
    assert verdict(without, seen, before) is status_in(before, "leaf", "/pki/leaf.crt")
    assert RENEW in verdict(replace(without, key=CA.facts.key), seen, before).findings[0].message
