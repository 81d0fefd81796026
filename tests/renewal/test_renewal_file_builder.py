"""The result of a signer is verified before it replaces a file: it must be of the CA to which a rotation leads, and
match the key that will be beside it.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.errors import RefusedError
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.validator import validated
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Issue
from certmond.pki.signing.template import builder
from certmond.renewal.renewal_file_builder import Renewal, certified_key
from tests.builders import NOW, YEAR, Issued, make_ca, make_leaf, new_key

OLD, NEW, UNRELATED = (make_ca(not_before=NOW - YEAR) for _ in range(3))
HELD = make_leaf(OLD, "leaf", usages=["digital signature"], not_after=NOW + YEAR / 2)
KEY: Any = new_key()


def row(name: str, **fields: Any) -> CertificateSpec:
    pair = {"name": name, "path": f"/pki/{name}.crt", "key": f"/pki/{name}.key"}
    return validated(CertificateSpec, pair | fields)


def see(spec: CertificateSpec, issued: Issued, name: str = "") -> Observation:
    return Observation(
        name or spec.name, spec, spec.path, (issued.facts,), key=issued.facts.key, key_path=spec.key
    )  # fmt: skip


def step(asked: frozenset[str] | None = None) -> Issue:
    """A certificate of the old CA, on a node that trusts both and signs with the new one."""
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
    Renewal(made, KEY, pem, NOW).verify({"/pki/leaf.key": key_pem, "/pki/leaf.crt": pem}.get)


WRONG_CA = (
    r"^the certificate from local for leaf is from a CA that must not sign in this phase of the rotation; wait "
    rf"until the signer local signs with the CA with the SHA-256 {NEW.facts.sha256[:16]}…, or configure this signer to "
    r"do so, then run: certmond renew leaf$"
)


def test_a_certificate_of_the_old_ca_is_refused_in_a_rotation() -> None:
    """In a rotation the new certificate has to be of the new CA, although the node trusts both. A command accepts
    either.
    """
    verify(step(), NEW)
    with pytest.raises(RefusedError, match=WRONG_CA):
        verify(step(), OLD)
    by_hand = step(frozenset({"leaf"}))
    verify(by_hand, OLD)
    verify(by_hand, NEW)


def test_what_no_anchor_of_the_node_has_signed_is_refused() -> None:
    """In a rotation as at any other time."""
    for made in (step(), step(frozenset({"leaf"}))):
        with pytest.raises(RefusedError, match="leaf has no certification path to ca on this node"):
            verify(made, UNRELATED)


def test_what_go_or_cryptography_does_not_read_is_not_installed() -> None:
    """A signer that gives such a certificate is named, with the reason."""
    made = step(frozenset({"leaf"}))
    signed = builder(made.template, KEY.public_key(), 1, NEW.cert)
    malformed = signed.add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.36"), b"\x30\x00"), critical=False
    )
    pem = malformed.sign(NEW.key, SHA256()).public_bytes(Encoding.PEM)
    key_pem = Issued(b"", KEY, HELD.subject, None, None).key_pem
    with pytest.raises(
        RefusedError,
        match=r"^the certificate from local for leaf .* cryptography, with which certmond renews certificates, refuses",
    ):
        Renewal(made, KEY, pem, NOW).verify({"/pki/leaf.key": key_pem, "/pki/leaf.crt": pem}.get)


def kept(**fields: Any) -> Issue:
    """A step that keeps the key that the entry has."""
    authority = row("ca", authority=True, usages="cert sign")
    leaf = see(row("leaf", ca="ca", usages="client auth", keep_key=True, **fields), HELD)
    made = plan(assess(Inventory((see(authority, OLD), leaf)), NOW), Policy(), {}, Circumstances(), frozenset({"leaf"}))
    (found,) = made.steps
    assert isinstance(found, Issue)
    assert found.keep_key
    return found


def signed_for(made: Issue, key: Any) -> bytes:
    certificate = builder(made.template, key.public_key(), 1, OLD.cert).sign(OLD.key, SHA256())
    return certificate.public_bytes(Encoding.PEM)


def test_a_certificate_is_proven_against_the_key_that_is_in_place() -> None:
    """Where the key is kept, the file that has it is read: a certificate for another key than that is refused, whatever
    key the signer has shown.
    """
    made, other = kept(), Issued(b"", KEY, HELD.subject, None, None)
    own: Any = HELD.key
    Renewal(made, own, signed_for(made, own), NOW).verify(
        {"/pki/leaf.key": HELD.key_pem, "/pki/leaf.crt": signed_for(made, own)}.get
    )
    for key, beside in ((KEY, HELD.key_pem), (own, other.key_pem)):
        pem = signed_for(made, key)
        with pytest.raises(RefusedError, match=r"/pki/leaf.crt does not match the key in /pki/leaf.key$"):
            Renewal(made, key, pem, NOW).verify({"/pki/leaf.key": beside, "/pki/leaf.crt": pem}.get)
    with pytest.raises(RefusedError, match=r"would not match its key: /pki/leaf.key does not exist$"):
        Renewal(made, own, signed_for(made, own), NOW).verify({"/pki/leaf.crt": signed_for(made, own)}.get)


def test_a_pair_of_another_key_than_requested_is_refused() -> None:
    """A matching pair does not suffice: it must be the requested one."""
    made = kept()
    unrelated = Issued(b"", KEY, HELD.subject, None, None)
    with pytest.raises(RefusedError, match=r"is not for the requested key$"):
        Renewal(made, HELD.key, signed_for(made, HELD.key), NOW).verify(  # type: ignore[arg-type]
            {"/pki/leaf.key": unrelated.key_pem, "/pki/leaf.crt": signed_for(made, KEY)}.get
        )


def test_a_signer_that_makes_a_key_for_an_entry_that_keeps_its_own_is_refused() -> None:
    """Before anything is written, with what to write in the configuration; the same key given back is no other key."""
    own: Any = HELD.key
    said = "^local created a new key for leaf, whose entry keeps the present key; set `keep_key: false`, or"
    with pytest.raises(RefusedError, match=said):
        certified_key(kept(), own, KEY)
    assert certified_key(kept(), own, own) is own
    assert certified_key(kept(), own, None) is own
    assert certified_key(step(), own, KEY) is KEY
