"""Generation of the key and the self-signed certificate of the Root CA that replaces the present Root CA."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.errors import KeyUnusableError, RefusedError
from certmond.formats.private_key import PrivateKey, load_key, make_key
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.rotation.ca_template import following, reissued
from certmond.pki.signing.template import Terms
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import describe_key
from certmond.renewal.operator_ca_reader import RootCAKeyPair
from certmond.signers.local_ca import read_file, self_signed, signed
from certmond.transaction.commit import Transactions
from certmond.transaction.dirfd import blaming


def generate(present: Certificate, spec: CertificateSpec, terms: Terms) -> RootCAKeyPair:
    """Return a CA with the subject of the present CA and a new key.

    Raises RefusedError if cryptography cannot parse the present CA.
    """
    _require_read(present, spec)
    template = following(present, spec, terms)
    key = make_key(template.key)
    return RootCAKeyPair(_only(self_signed(template, key)), key)


def reissue(present: Certificate, key: PrivateKey, spec: CertificateSpec, terms: Terms) -> RootCAKeyPair:
    """Return the present CA with the same key, a new serial number and new dates.

    Raises KeyUnusableError if the key does not match the present CA, and RefusedError if cryptography cannot parse the
    present CA.
    """
    _require_read(present, spec)
    if describe_key(key.public_key()) != present.key:
        fact = f"{spec.key} is not the private key of {present.subject} (serial {present.serial_hex})"
        raise KeyUnusableError(f"{fact}; restore the matching pair")
    made = signed(reissued(present, spec, terms, x509.random_serial_number()), key, spec.key or "")
    return RootCAKeyPair(_only(made.public_bytes(Encoding.PEM)), key)


def present_key(spec: CertificateSpec, transactions: Transactions) -> PrivateKey:
    """Return the private key of the present CA.

    Raises KeyUnusableError if the entry has no usable key, and WriteError if the key file is unreadable.
    """
    if spec.key is None:
        raise KeyUnusableError(f"the entry {spec.name} has no `key`; set `key` in the entry")
    real = str(transactions.real(spec.key))
    with blaming(spec.key, "read"):
        return load_key(read_file(real), spec.key)


def _only(pem: bytes) -> Certificate:
    return decode(pem, "the new Root CA").certificates[0]


def _require_read(present: Certificate, spec: CertificateSpec) -> None:
    if present.unread:
        fact = f"{spec.path}: the library cryptography cannot parse the present CA: {present.unread}"
        raise RefusedError(f"{fact}; create the new CA elsewhere and stage it: certmond root-ca stage --help")
