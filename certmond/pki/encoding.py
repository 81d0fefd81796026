"""Bytes of a file -> the certificates and the key in them: PEM, DER and PKCS#12, as operators' tools write them.

Every certificate that can be read is read: a bad block becomes a Fault with its number and hides no other. A private
key is parsed only to learn its public half and is dropped at once. Any bytes whatever give a `Document`, never an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_private_key,
    load_pem_private_key,
    load_pem_public_key,
    pkcs12,
)

from certmond.errors import MalformedError
from certmond.pki.certificate import Certificate, PublicKey, describe_key, parse_certificate, public_key_of
from certmond.pki.reason import Fault, Reason

MAX_CERTIFICATES = 512
"""More certificates than this in one file are not read: no component of Kubernetes has use for them."""

_CERTIFICATE_LABELS = frozenset({"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"})
_IGNORED_LABELS = frozenset({"EC PARAMETERS", "DH PARAMETERS", "DSA PARAMETERS", "CERTIFICATE REQUEST",
                             "NEW CERTIFICATE REQUEST", "X509 CRL"})  # fmt: skip
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")
_PKCS12_START = re.compile(rb"\x30[\x80-\x84].{0,4}\x02\x01\x03\x30", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Document:
    """What the bytes of one file hold, in their order. `key` is the public half of the (first) private key, `public_key`
    that of a bare public key; `encrypted_key` says that there is a key which needs a passphrase."""

    certificates: tuple[Certificate, ...] = ()
    key: PublicKey | None = None
    public_key: PublicKey | None = None
    encrypted_key: bool = False
    faults: tuple[Fault, ...] = ()

    @property
    def only_keys(self) -> bool:
        """It holds a key and no certificate: good as a key file, and no news in a directory of certificates."""
        return not self.certificates and (self.key is not None or self.public_key is not None or self.encrypted_key)


def decode(data: bytes, path: str, password: bytes | None = None) -> Document:
    """The certificates and keys in `data`; `path` only names the file in faults. `password` is for PKCS#12."""
    if not data.strip(b"\x00 \t\r\n"):
        return Document(faults=(Fault(Reason.MALFORMED, f"{path} is empty"),))
    if _BEGIN.search(data):
        return _decode_pem(data, path)
    if _PKCS12_START.match(data):
        return _decode_pkcs12(data, path, password)
    return _decode_der(data, path)


def _decode_pem(data: bytes, path: str) -> Document:
    certificates: list[Certificate] = []
    faults: list[Fault] = []
    key = public_key = None
    encrypted = False
    for number, (label, block, rest) in enumerate(_blocks(data), start=1):
        try:
            if label in _CERTIFICATE_LABELS:
                if len(certificates) == MAX_CERTIFICATES:
                    faults.append(Fault(Reason.MALFORMED, f"{path} holds more than {MAX_CERTIFICATES} certificates"))
                    break
                der = _body(block)
                head = _leading_value(der)
                certificates.append(_certificate(head))
                if head != der and not label.startswith("TRUSTED"):  # a TRUSTED block has OpenSSL's settings behind it
                    detail = f"{path}, PEM block {number}: {len(der) - len(head)} bytes after the certificate"
                    faults.append(Fault(Reason.TRAILING_DATA, detail))
            elif label.endswith("PRIVATE KEY"):
                if label.startswith("ENCRYPTED") or b"ENCRYPTED" in block[:200]:
                    encrypted = True
                elif key is None:
                    key = _private_key(block)
            elif label.endswith("PUBLIC KEY"):
                public_key = public_key or _public_key(block)
            elif label not in _IGNORED_LABELS:
                raise MalformedError(f"has the label {label!r}, which is no certificate and no key")
        except MalformedError as error:
            faults.append(Fault(Reason.MALFORMED, f"{path}, PEM block {number}: {error}"))
        if rest.strip(b"\x00 \t\r\n") and not _BEGIN.search(rest):
            faults.append(Fault(Reason.TRAILING_DATA, f"{path} has {len(rest.strip())} bytes of text after the last PEM block"))
    return Document(tuple(certificates), key, public_key, encrypted, tuple(faults))


def _blocks(data: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """(label, the whole block, what follows it) of each PEM block; a block without an end ends where the next begins."""
    begin = _BEGIN.search(data)
    while begin:
        label = begin[1].decode("ascii")
        following = _BEGIN.search(data, begin.end())
        limit = following.start() if following else len(data)
        marker = b"-----END " + begin[1] + b"-----"
        end = data.find(marker, begin.end(), limit)
        stop = limit if end < 0 else end + len(marker)
        yield label, data[begin.start() : stop], data[stop:]
        begin = following


def _body(block: bytes) -> bytes:
    """The decoded content of a PEM block (RFC 7468, lax: any white space, headers skipped)."""
    start, end = block.find(b"-----", 11) + 5, block.rfind(b"-----END ")
    if end < start:
        raise MalformedError("is cut off: its END line is missing")
    text = block[start:end]
    if b":" in text:  # RFC 1421 headers, as OpenSSL writes them before an encrypted key
        text = text.replace(b"\r\n", b"\n").rpartition(b"\n\n")[2]
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise MalformedError(f"is not base64 ({error})") from error


@lru_cache(maxsize=4096)
def _certificate(der: bytes) -> Certificate:
    """One object for the same certificate, however many files and kubeconfigs embed it."""
    return parse_certificate(der)


def _private_key(data: bytes) -> PublicKey:
    # The consistency check of an RSA key takes 36 ms; a key that is inconsistent does not match its certificate either.
    try:
        return public_key_of(_load_private(data))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("is not a usable private key") from error  # `error` may quote the key: it is not shown


def _load_private(data: bytes) -> PrivateKeyTypes:
    if data.startswith(b"-----"):
        return load_pem_private_key(data, password=None, unsafe_skip_rsa_key_validation=True)
    return load_der_private_key(data, password=None, unsafe_skip_rsa_key_validation=True)


def _public_key(data: bytes) -> PublicKey:
    try:
        return describe_key(load_pem_public_key(data))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("is not a usable public key") from error


def _decode_der(data: bytes, path: str) -> Document:
    try:
        return Document(certificates=(_certificate(data),))
    except MalformedError as error:
        malformed = error
    head = _leading_value(data)
    if head != data:
        try:
            certificate = _certificate(head)
        except MalformedError:
            pass
        else:
            detail = f"{path} has {len(data) - len(head)} bytes after its DER certificate"
            return Document(certificates=(certificate,), faults=(Fault(Reason.TRAILING_DATA, detail),))
    try:
        return Document(key=_private_key(data))
    except MalformedError:
        return Document(faults=(Fault(Reason.MALFORMED, f"{path} is neither PEM nor DER nor PKCS#12: {malformed}"),))


def _decode_pkcs12(data: bytes, path: str, password: bytes | None) -> Document:
    for attempt in (password,) if password is not None else (None, b""):
        try:
            store = pkcs12.load_pkcs12(data, attempt)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        ders = [entry.certificate.public_bytes(Encoding.DER) for entry in (store.cert, *store.additional_certs) if entry]
        try:
            key = None if store.key is None else public_key_of(store.key)
            return Document(certificates=tuple(map(_certificate, ders)), key=key)
        except MalformedError as error:
            return Document(faults=(Fault(Reason.MALFORMED, f"{path}: {error}"),))
    return Document(faults=(Fault(Reason.UNREADABLE, f"{path} is a PKCS#12 file that the given password does not open"),))


def _leading_value(data: bytes) -> bytes:
    """The first DER value of `data`, without what follows it; `data` itself where its length field makes no sense."""
    if len(data) < 2 or data[0] != 0x30:
        return data
    size, header = data[1], 2
    if size & 0x80:
        octets = size & 0x7F
        size, header = int.from_bytes(data[2 : 2 + octets]), 2 + octets
    return data[: header + size]
