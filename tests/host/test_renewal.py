"""What a signer gave is proven before it replaces anything: here, that it is of the CA that a rotation leads to."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.errors import RefusedError
from certmond.host.renewal import Renewal
from certmond.pki.assess import assess
from certmond.pki.catalog import CertificateSpec
from certmond.pki.inventory import Inventory, Observation
from certmond.pki.issuance import builder
from certmond.pki.plan import Circumstances, Policy, plan
from certmond.pki.steps import Issue
from tests.builders import NOW, YEAR, Issued, make_ca, make_leaf, new_key

OLD, NEW, STRANGER = (make_ca(not_before=NOW - YEAR) for _ in range(3))
HELD = make_leaf(OLD, "leaf", usages=["digital signature"], not_after=NOW + YEAR / 2)
KEY: Any = new_key()


def row(name: str, **fields: Any) -> CertificateSpec:
    pair = {"name": name, "path": f"/pki/{name}.crt", "key": f"/pki/{name}.key"}
    return CertificateSpec.model_validate(pair | fields)


def see(spec: CertificateSpec, issued: Issued, name: str = "") -> Observation:
    return Observation(
        name or spec.name, spec, spec.path, (issued.facts,), key=issued.facts.key, key_path=spec.key
    )  # fmt: skip


def step(asked: frozenset[str] | None = None) -> Issue:
    """A certificate of the former CA, on a node that trusts both and signs with the new one."""
    authority = row("ca", authority=True, usages="cert sign")
    leaf = see(row("leaf", ca="ca", usages="client auth"), HELD)
    seen = see(authority, NEW), see(authority, OLD, "ca#2"), leaf
    made = plan(
        assess(Inventory(seen), NOW), Policy(), {}, Circumstances(), asked, reissue={leaf.identity: NEW.facts}
    )  # fmt: skip
    (found,) = made.steps
    assert isinstance(found, Issue)
    return found


def verify(made: Issue, signer: Issued) -> None:
    certificate = builder(made.template, KEY.public_key(), 1, signer.cert).sign(signer.key, SHA256())
    pem = certificate.public_bytes(Encoding.PEM)
    key_pem = Issued(b"", KEY, HELD.subject, None, None).key_pem
    Renewal(made, KEY, pem, NOW).verify({"/pki/leaf.key": key_pem, "/pki/leaf.crt": pem})


def test_a_signer_that_still_issues_from_the_former_ca_is_refused_by_name() -> None:
    """In a rotation the new certificate has to be of the new CA, though the node trusts both; by hand either does."""
    verify(step(), NEW)
    with pytest.raises(RefusedError, match=r"^what local issued for leaf is of the CA that is on its way out$"):
        verify(step(), OLD)
    by_hand = step(frozenset({"leaf"}))
    verify(by_hand, OLD)
    verify(by_hand, NEW)


def test_what_no_anchor_of_the_node_has_signed_is_refused() -> None:
    """In a rotation as at any other time."""
    for made in (step(), step(frozenset({"leaf"}))):
        with pytest.raises(RefusedError, match="leaf has no certification path to ca on this node"):
            verify(made, STRANGER)
