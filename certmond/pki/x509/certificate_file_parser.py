"""Parser of certificates and keys in the bytes of a file: PEM, DER and PKCS#12.

`decode` returns a `Document` for any bytes, and raises no error. A fault quotes no bytes of the file, because a user
who reads the message might not be permitted to read the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from itertools import islice
from typing import NamedTuple
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_private_key,
    load_der_public_key,
    pkcs12,
)

from certmond.errors import LimitError, MalformedError, UnreachableError
from certmond.immutable_class import immutable
from certmond.pki.asn1.der import leading_value, read_value
from certmond.pki.asn1.key_limits import check_private_key, check_public_key
from certmond.pki.findings import Fault, Reason
from certmond.pki.go.private_key import parse_private_key
from certmond.pki.x509.certificate import Anchor, Certificate, parse_certificate
from certmond.pki.x509.encoding_faults import encoding_faults
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.pem import BLANK, CERTIFICATE_LABELS, Block, blocks_in, is_pem
from certmond.pki.x509.pkcs12_cost_check import check_iterations
from certmond.pki.x509.public_key import PublicKey, describe_key, public_key_of

MAX_BLOCKS, MAX_PRIVATE_KEYS = 512, 16
"""Maximum number of PEM blocks, and maximum number of private keys, that certmond reads in one file."""

_IGNORED_LABELS = frozenset({"EC PARAMETERS", "DH PARAMETERS", "DSA PARAMETERS", "CERTIFICATE REQUEST",
                             "NEW CERTIFICATE REQUEST", "X509 CRL"})  # fmt: skip
_KEY_LABELS = frozenset({"PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"})
"""Labels of the private keys that Go reads. A block with another label can refer to a key in a TPM."""
_SEQUENCE = 0x30
_OPEN_AGAIN = "free memory, processes or descriptors of the host, then run: systemctl reload certmond"
_PKCS12_START = re.compile(rb"\x30[\x80-\x84].{0,4}\x02\x01\x03\x30", re.DOTALL)


@immutable
class Document:
    """Certificates and keys of one file, in the order of the file.

    `key` is the public key of the first private key. `public_keys` contains the public keys outside certificates. `pem`
    is also True for an unknown format.
    """

    certificates: tuple[Certificate, ...] = ()
    key: PublicKey | None = None
    public_keys: tuple[PublicKey, ...] = ()
    encrypted_key: bool = False
    faults: tuple[Fault, ...] = ()
    pem: bool = field(default=True, compare=False)

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """The possible trust anchors in the file: its certificates, or its public keys if it has no certificate."""
        return self.certificates or self.public_keys

    @property
    def only_keys(self) -> bool:
        """Whether the file contains a key, but no certificate."""
        return not self.certificates and bool(self.key or self.public_keys or self.encrypted_key)


class Opened(NamedTuple):
    """Contents of a PKCS#12 file: its certificates, and the public key of its private key, each in DER."""

    certificates: tuple[bytes, ...]
    key: bytes | None


Opening = Callable[[bytes, bytes | None], Opened]
"""Function that opens a PKCS#12 file with a password. The function raises MalformedError if the password does not open
the file, and LimitError if the decryption takes too long.
"""


def opened_here(data: bytes, password: bytes | None) -> Opened:
    """Open a PKCS#12 file in this process, without a time limit, and return its contents.

    Raises MalformedError if the file does not open with `password`.
    """
    with guarded("is a PKCS#12 file that certmond cannot decrypt with the password of its entry (`password_file`)"):
        store = pkcs12.load_pkcs12(data, password)  # None also opens a file with an empty password
        found = filter(None, (store.cert, *store.additional_certs))
        key = None if store.key is None else public_key_of(store.key).der
        return Opened(tuple(each.certificate.public_bytes(Encoding.DER) for each in found), key)


def not_opened(_data: bytes, _password: bytes | None) -> Opened:
    """Raise LimitError, because the cost of decrypting the PKCS#12 file is unknown."""
    raise LimitError("is a PKCS#12 file whose encrypted part this check does not open; convert the file to PEM")


def is_pkcs12(data: bytes) -> bool:
    """Return whether `data` begins with the first fields of a PKCS#12 file (RFC 7292, 4)."""
    return _PKCS12_START.match(data) is not None


def decode(data: bytes, path: str, password: bytes | None = None, opening: Opening = not_opened) -> Document:
    """Return the certificates, keys and faults in the bytes of a file.

    `path` names the file in the faults. `opening` opens a PKCS#12 file with an encrypted part.
    """
    if not data.strip(b"\x00 \t\r\n"):
        return Document(faults=(Fault(Reason.MALFORMED, f"{path} is empty"),))
    if is_pem(data):
        return _decode_pem(data, path)
    if is_pkcs12(data):
        return replace(_decode_pkcs12(data, path, password, opening), pem=False)
    found = _decode_der(data, path)
    is_known = found.certificates or found.key or found.encrypted_key or _is_der(data)
    return replace(found, pem=not is_known)


def _decode_pem(data: bytes, path: str) -> Document:
    blocks = list(islice(blocks_in(data), MAX_BLOCKS + 1))
    keys = [each for each in blocks if each.is_private_key][MAX_PRIVATE_KEYS:]
    parts = [
        _read(block, data, f"{path}, PEM block {number}")
        for number, block in enumerate(blocks[:MAX_BLOCKS], start=1)
        if not keys or block not in keys
    ]
    if keys:
        detail = f"{path} contains more than {MAX_PRIVATE_KEYS} private keys; certmond does not read the others"
        parts.append(Document(faults=(Fault(Reason.MALFORMED, detail),)))
    if len(blocks) > MAX_BLOCKS:
        detail = f"{path} contains more than {MAX_BLOCKS} PEM blocks; certmond does not read the others"
        parts.append(Document(faults=(Fault(Reason.MALFORMED, detail),)))
    elif rest := data[blocks[-1].stop :].strip(b"\x00" + BLANK):
        detail = f"{path} contains {len(rest)} bytes of text after the last PEM block"
        parts.append(Document(faults=(Fault(Reason.TRAILING_DATA, detail),)))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: Sequence[Document]) -> Document:
    return Document(
        certificates=tuple(certificate for part in parts for certificate in part.certificates),
        key=next((part.key for part in parts if part.key), None),
        public_keys=tuple(key for part in parts for key in part.public_keys),
        encrypted_key=any(part.encrypted_key for part in parts),
        faults=tuple(fault for part in parts for fault in part.faults),
    )


def _read(block: Block, data: bytes, where: str) -> Document:
    """Return the contents of one PEM block of the file `data`. `where` names the block in faults."""
    try:
        document = _contents(block, where)
    except MalformedError as error:
        return Document(faults=(Fault(Reason.MALFORMED, f"{where}: {error}"),))
    if block.label not in _IGNORED_LABELS and (overlooked := block.overlooked_in(data)):
        return replace(document, faults=(*document.faults, Fault(Reason.MALFORMED, f"{where}: {overlooked}")))
    return document


def _contents(block: Block, where: str) -> Document:
    if block.label in CERTIFICATE_LABELS:
        der = block.body()
        head = leading_value(der)
        document = certificate_document(head, where)
        if head == der or block.label.startswith("TRUSTED"):  # OpenSSL appends its trust settings
            return document
        detail = (
            f"{where}: the block contains {len(der) - len(head)} bytes after the certificate, so Go refuses the "
            "certificate"
        )
        surplus = Fault(Reason.MALFORMED, detail)
        return replace(document, faults=(*document.faults, surplus))
    if block.is_private_key:
        try:
            return _key_document(block.key_body(), where, encrypted=block.is_encrypted)
        except MalformedError as error:
            if block.label in _KEY_LABELS or isinstance(error, LimitError):
                raise
        fact = f"{where}: only the program that wrote this {block.label} can read it, so its public key is unknown"
        return Document(faults=(Fault(Reason.UNREADABLE, fact, "change this key only with the program that wrote it"),))
    if block.label.endswith("PUBLIC KEY"):
        return Document(public_keys=(_public_key(block.body()),))
    if block.label in _IGNORED_LABELS:
        return Document()
    raise MalformedError("has a label that is not a label of a certificate or of a key")


def certificate_document(der: bytes, where: str) -> Document:
    """Return a document with the certificate in `der`, or with a fault if `der` is not a certificate."""
    try:
        certificate = _certificate(der)
    except MalformedError as error:
        return Document(faults=(Fault(Reason.MALFORMED, f"{where}: {error}"),))
    return Document((certificate,), faults=tuple(encoding_faults(certificate, where)))


_held = WeakValueDictionary[bytes, Certificate]()
"""Parsed certificates of possible CAs by their DER. The references are weak, so that unused certificates free their
memory.
"""


def _certificate(der: bytes) -> Certificate:
    return held(der, lambda: parse_certificate(der))


def held(der: bytes, make: Callable[[], Certificate]) -> Certificate:
    """Return the parsed certificate for `der`. All files that contain a certificate of a CA share one object for it.

    A self-issued certificate without basicConstraints can also be a CA (a root of version 1). `make` creates the
    certificate if there is no such object.
    """
    certificate = _held.get(der)
    if certificate is None:
        certificate = make()
        if certificate.is_ca or certificate.self_issued:
            _held[der] = certificate
    return certificate


def _key_document(der: bytes, where: str, *, encrypted: bool = False) -> Document:
    """Return a document with the public key of the private key `der`, and with a fault if Go refuses this key.

    If the private key requires a passphrase, the document contains no public key. Raises MalformedError if `der` is not
    a private key, and LimitError if the key exceeds a limit.
    """
    found = parse_private_key(der)
    if encrypted and found.objection:
        return Document(encrypted_key=True)
    try:
        key = _private_key(der)
    except LimitError:
        raise
    except MalformedError:
        key = describe_key(found.public)
    if found.objection is None or key is None:
        return Document(key=key, encrypted_key=key is None)
    detail = f"{where}: Go refuses this private key, and so does every component of Kubernetes ({found.objection})"
    return Document(key=key, faults=(Fault(Reason.KEY_UNUSABLE, detail),))


def _private_key(der: bytes) -> PublicKey | None:
    """Return the public key of the private key `der`, or None if the private key requires a passphrase.

    Raises MalformedError if cryptography cannot load the private key, and LimitError if the key exceeds a limit.
    """
    check_private_key(der)
    with guarded("is not a usable private key"):
        try:
            # The consistency check of an RSA key takes 36 ms; `pki.go.private_key` does the relevant checks of Go.
            return public_key_of(load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True))
        except TypeError:  # cryptography's exception for a missing password
            return None


def check_private_keys(data: bytes) -> None:
    """Raise LimitError if a private key in `data` is too large, or its decryption needs too many iterations.

    `data` is PEM or DER.
    """
    if not is_pem(data):
        _check_private_key(lambda: data)
        return
    for block in islice(blocks_in(data), MAX_BLOCKS):
        if block.is_private_key:
            _check_private_key(block.body)


def _check_private_key(read: Callable[[], bytes]) -> None:
    try:
        check_private_key(der := read())
        check_iterations(der)
    except LimitError:
        raise
    except MalformedError:
        pass


def _public_key(der: bytes) -> PublicKey:
    check_public_key(der)
    with guarded("is not a usable public key"):
        return describe_key(load_der_public_key(der))


def _decode_der(data: bytes, path: str) -> Document:
    head = leading_value(data)
    try:
        certificate = _certificate(head)
        faults = [*encoding_faults(certificate, path)]
        if head != data:
            detail = f"{path} contains {len(data) - len(head)} bytes after the DER certificate"
            faults.append(Fault(Reason.TRAILING_DATA, detail))
        return Document(certificates=(certificate,), faults=tuple(faults))
    except LimitError as error:
        return Document(faults=(Fault(Reason.MALFORMED, f"{path} {error}"),))
    except MalformedError as error:
        malformed = str(error)  # keep only the text: the error and this frame would refer to each other
    try:
        document = _key_document(data, path)
    except LimitError as error:
        return Document(faults=(Fault(Reason.MALFORMED, f"{path} {error}"),))
    except MalformedError:
        why = f": {malformed}" if _is_der(data) else ""  # for any other file, the message would quote the first bytes
        return Document(faults=(Fault(Reason.MALFORMED, f"{path} is neither PEM nor DER nor PKCS#12{why}"),))
    detail = f"{path} is a private key in DER, and Kubernetes loads private keys only in PEM"
    faults = [] if document.key is None else [Fault(Reason.KEY_UNUSABLE, detail)]
    return replace(document, faults=(*document.faults, *faults))


def _is_der(data: bytes) -> bool:
    """Return whether `data` is exactly one DER SEQUENCE, like a certificate or a key."""
    try:
        value = read_value(data)
    except MalformedError:
        return False
    return (value.tag, value.end) == (_SEQUENCE, len(data))


def _decode_pkcs12(data: bytes, path: str, password: bytes | None, opening: Opening) -> Document:
    try:
        encrypted = check_iterations(data)
    except MalformedError as error:
        return Document(faults=(Fault(Reason.MALFORMED, f"{path} is a PKCS#12 file that {error}"),))
    try:
        found = opening(data, password) if encrypted else opened_here(data, password)
        key = None if found.key is None else _public_key(found.key)
    except MalformedError as error:
        reason = Reason.MALFORMED if isinstance(error, LimitError) else Reason.UNREADABLE
        return Document(faults=(Fault(reason, f"{path} {error}"),))
    except UnreachableError as error:  # a fact about this host, not about the file
        return Document(faults=(Fault(Reason.UNREADABLE, f"{path} {error}", _OPEN_AGAIN),))
    documents = [
        certificate_document(der, f"{path}, certificate {number}")
        for number, der in enumerate(found.certificates, start=1)
    ]
    return replace(_joined(documents), key=key)
