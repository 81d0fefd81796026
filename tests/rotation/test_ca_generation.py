"""A Root CA that follows the present one: its inherited and new fields, and its acceptance by real peers."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certmond.errors import KeyUnusableError, RefusedError, WriteError
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.rotation.ca_validation import judge
from certmond.pki.signing.template import Terms
from certmond.pki.x509.certificate import Certificate, load, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import describe_key
from certmond.rotation.ca_generation import generate, present_key, reissue
from certmond.transaction.commit import Transactions
from tests.builders import DAY, NOW, UNKNOWN_OID, YEAR, Issued, bundle, make_ca, make_leaf, make_server
from tests.conftest import real_part
from tests.node import PKI, Node, pem

SPEC = CertificateSpec(
    name="ca", path="/etc/kubernetes/pki/ca.crt", key="/etc/kubernetes/pki/ca.key", authority=True,
    usages=("cert sign",), validity=10 * YEAR,
)  # fmt: skip
TERMS = Terms(NOW, None, {})


def extensions(certificate: Certificate) -> dict[str, tuple[bool, bytes]]:
    return {each.oid.dotted_string: (each.critical, each.value.public_bytes())
            for each in load(certificate.der).extensions}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "made"), [("rsa", "RSA-2048"), ("rsa-3072", "RSA-3072"), ("ec", "ECDSA-256"), ("ec-p384", "ECDSA-384"),
                       ("ed25519", "Ed25519")]
)  # fmt: skip
def test_a_new_key_of_the_same_kind(kind: str, made: str) -> None:
    """By default the new key is of the kind of the present one. The result is fit to follow it."""
    old = make_ca(key=kind, not_before=NOW)
    new = generate(old.facts, SPEC, TERMS)
    assert str(new.certificate.key) == made
    assert describe_key(new.key.public_key()) == new.certificate.key != old.facts.key
    verdict = judge(new.certificate, new.certificate.key, [old.facts], NOW + YEAR, NOW)
    assert (verdict.mode, verdict.problems, verdict.warnings) == ("overlap", (), ())


def test_as_kubeadm_makes_one() -> None:
    """A generated CA has the usages, names and constraints of kubeadm's, the name of the present one byte for byte, its
    own key identifier, and begins five minutes ago.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes", _type=x509.name._ASN1Type.PrintableString)])
    old = make_ca(subject=name)
    new = generate(old.facts, SPEC, TERMS).certificate
    assert new.subject_der == old.facts.subject_der == new.issuer_der
    assert new.usages == frozenset({"digital signature", "cert sign"})  # which an ECDSA key cannot have
    assert generate(make_ca(key="rsa").facts, SPEC, TERMS).certificate.usages == old.facts.usages
    assert (new.is_ca, new.path_length, new.extended_usages) == (True, None, None)
    assert new.names == frozenset({"DNS:kubernetes"})
    assert new.subject_key_id == new.authority_key_id != old.subject_key_id
    assert (new.not_before, new.not_after) == (NOW - timedelta(minutes=5), NOW + 10 * YEAR)
    assert new.serial > 1 << 64


@pytest.mark.parametrize("name", ["Example Root", "Zürich", ""])
def test_a_name_that_is_no_dns_name(name: str) -> None:
    """If the common name is missing or no DNS name, there is no subjectAltName either."""
    subject = name or x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")])
    assert generate(make_ca(subject=subject, names=None).facts, SPEC, TERMS).certificate.names == frozenset()


def test_the_entry_takes_precedence() -> None:
    """The kind of key and the validity come from the entry if it has them."""
    spec = replace(SPEC, key_algorithm=KeyAlgorithm.ECDSA_P384, validity=3 * YEAR)
    new = generate(make_ca().facts, spec, TERMS).certificate
    assert (str(new.key), new.not_after) == ("ECDSA-384", NOW + 3 * YEAR)


def test_the_same_key_again() -> None:
    """A reissued CA has key, name and each extension of the present one; serial number and dates are new."""
    old = make_ca(
        key="rsa", subject_key_id=b"verbatim", authority_key_id=b"verbatim", path_length=0,
        permitted=["DNS:example.com"], extra=[(UNKNOWN_OID, False, b"\x05\x00")],
    )  # fmt: skip
    new = reissue(old.facts, old.key, SPEC, TERMS)  # type: ignore[arg-type]
    assert new.certificate.key == old.facts.key
    assert extensions(new.certificate) == extensions(old.facts)
    assert new.certificate.subject_der == old.facts.subject_der
    assert new.certificate.serial != old.facts.serial
    assert (new.certificate.not_before, new.certificate.not_after) == (NOW - timedelta(minutes=5), NOW + 10 * YEAR)
    verdict = judge(new.certificate, new.certificate.key, [old.facts], NOW + YEAR, NOW)
    assert (verdict.mode, verdict.problems) == ("reissue", ())


def test_without_an_identifier_it_cannot_be_reissued() -> None:
    """A present CA without a key identifier is reissued without it, and the validation refuses that."""
    old = make_ca(subject_key_id=None, authority_key_id=None)
    new = reissue(old.facts, old.key, SPEC, TERMS).certificate  # type: ignore[arg-type]
    assert extensions(new) == extensions(old.facts)
    (problem,) = judge(new, new.key, [old.facts], None, NOW).problems
    assert "no subject key identifier" in problem


def test_a_present_ca_that_cryptography_does_not_parse() -> None:
    """Its subject cannot be copied byte for byte: the error names the file, and the remedy."""
    old = make_ca(extra=[("2.5.29.36", False, b"\x30\x00")])
    with pytest.raises(
        RefusedError, match=r"pki/ca.crt: the library cryptography cannot parse the present CA: .*root-ca stage"
    ):
        generate(old.facts, SPEC, TERMS)
    with pytest.raises(RefusedError, match=r"pki/ca.crt: the library cryptography cannot parse the present CA"):
        reissue(old.facts, old.key, SPEC, TERMS)  # type: ignore[arg-type]


def test_the_key_of_another() -> None:
    """A key that is not that of the present CA is refused, and not quoted."""
    with pytest.raises(KeyUnusableError, match=r"pki/ca.key is not the private key of CN=kubernetes \(serial"):
        reissue(make_ca().facts, make_ca().key, SPEC, TERMS)  # type: ignore[arg-type]


def test_the_present_key(node: Node) -> None:
    """The key is read below the root, and an error names its path on the node."""
    transactions = Transactions(str(node.root), node.root / "state")
    assert describe_key(present_key(SPEC, transactions).public_key()) == describe_key(
        node.key(f"{PKI}/ca.key").public_key()
    )
    node.path(f"{PKI}/ca.key").write_bytes(b"rubbish")
    with pytest.raises(KeyUnusableError, match=r"^/etc/kubernetes/pki/ca.key contains no usable private key"):
        present_key(SPEC, transactions)
    node.path(f"{PKI}/ca.key").unlink()
    with pytest.raises(WriteError, match=r"^/etc/kubernetes/pki/ca.key could not be read"):
        present_key(SPEC, transactions)
    with pytest.raises(KeyUnusableError, match="the entry ca has no `key`"):
        present_key(replace(SPEC, key=None), transactions)


@pytest.mark.real("openssl")
@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("again", [False, True])
def test_openssl_accepts_the_leaves_of_both(tmp_path: Path, kind: str, again: bool) -> None:
    """OpenSSL verifies the leaves of the present CA and of the new one: with both of them in any order, and with the
    new one alone if its key is the same.
    """
    old = make_ca(key=kind, subject_key_id=b"verbatim", authority_key_id=b"verbatim")
    made = reissue(old.facts, old.key, SPEC, TERMS) if again else generate(old.facts, SPEC, TERMS)  # type: ignore[arg-type]
    new = Issued(made.certificate.der, made.key, old.subject, made.certificate.subject_key_id, None)
    assert new.pem == to_pem(made.certificate)
    at = str(int((NOW + DAY).timestamp()))
    leaves = [make_server(old, subject_key_id=b"1"), make_leaf(old, subject_key_id=b"2"),
              make_server(new, subject_key_id=b"3"), make_leaf(new, subject_key_id=b"4")]  # fmt: skip
    for trusted in [(old, new), (new, old), *([(new,)] if again else [])]:
        (tmp_path / "ca.pem").write_bytes(bundle(*trusted))
        for leaf in leaves:
            (tmp_path / "leaf.pem").write_bytes(leaf.pem)
            command = [real_part("openssl"), "verify", "-attime", at, "-CAfile", "ca.pem", "leaf.pem"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


@pytest.mark.real("openssl")
def test_it_follows_what_kubeadm_made(node: Node, tmp_path: Path) -> None:
    """OpenSSL verifies certificates of kubeadm with a CA that certmond reissued with kubeadm's key."""
    (old,) = decode(pem(node.certificate(f"{PKI}/ca.crt")), "ca.crt").certificates
    made = reissue(old, node.key(f"{PKI}/ca.key"), SPEC, Terms(NOW + 10 * DAY, None, {}))
    (tmp_path / "ca.pem").write_bytes(to_pem(made.certificate))
    for name in ("apiserver", "apiserver-kubelet-client"):
        command = [real_part("openssl"), "verify", "-attime", str(int((NOW + 11 * DAY).timestamp())), "-CAfile",
                   str(tmp_path / "ca.pem"), str(node.path(f"{PKI}/{name}.crt"))]  # fmt: skip
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
