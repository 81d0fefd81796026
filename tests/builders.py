"""Certificates for tests: a sane default plus what is different this time.

    ca = make_ca()                                             # as kubeadm makes one: CN=kubernetes, ten years
    leaf = make_leaf(ca, "kube-apiserver", extended_usages=["server auth"], names=["DNS:kubernetes", "IP:10.96.0.1"])
    old = make_leaf(ca, "etcd", not_after=NOW - DAY, authority_key_id=None)
    twin = make_ca()                                           # the same name, another key: a rotation
    bridge = cross_sign(twin, by=ca)                           # the twin's name and key, signed by the first

What comes back is an `Issued`: `.der`, `.pem`, `.key_pem` (unencrypted PKCS#8), `.key`, `.cert` (cryptography's object)
and `.facts` (certmond's). Every call makes another key, on P-256 because that is quick. Modifiers that are lists take
None for "no such extension". Everything is encoded here, byte by byte, because a test needs what no library agrees to
make: serial number 0, version 1, MD5, a wrong signature.

Times count from `NOW`, which is a constant: no test here depends on the day it is run.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any, TypedDict, Unpack

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from certmond.pki.x509.certificate import EXTENDED_USAGES, KEY_USAGES, Certificate, parse_certificate
from tests.rsa_keys import COUNT, rsa_keys

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECOND, HOUR, DAY, YEAR = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1), timedelta(days=365)

Key = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | dsa.DSAPrivateKey
)
RawExtension = tuple[str, bool, bytes]
"""An extension as it is in the certificate: its OID, whether it is critical, and the DER inside."""

UNKNOWN_OID = "1.3.6.1.4.1.99999.1"


class Modifiers(TypedDict, total=False):
    """The modifications of a certificate. An absent field keeps the value of the kind of certificate."""

    key: str | Key  # "rsa", "rsa-1024", "ec", "ec-p384", "ed25519", … (see `new_key`), or a key to use again
    serial: int
    version: int
    not_before: datetime
    not_after: datetime
    subject: str | x509.Name  # a common name, or a whole name
    issuer_name: x509.Name  # the name written into it, where that is not the signer's
    is_ca: bool | None  # None: no basicConstraints
    path_length: int | None
    usages: Sequence[str] | None  # Kubernetes' names, as in certificate.KEY_USAGES
    extended_usages: Sequence[str] | None  # Kubernetes' names, as in certificate.EXTENDED_USAGES, or OIDs
    names: Sequence[str] | None  # "DNS:…", "IP:…", "email:…", "URI:…", "dirName:…"
    names_critical: bool
    subject_key_id: bytes | None
    authority_key_id: bytes | None
    permitted: Sequence[str]  # name constraints in the form of names; "IP:" takes a network
    excluded: Sequence[str]
    constraints_critical: bool
    extra: Sequence[RawExtension]
    hash: str  # of the signature: "sha1", "sha224", "sha256", …; with an RSA signer also "md5" and "sha256-pss"
    signing_key: Key  # in place of the issuer's: the signature is then bad


@dataclass(frozen=True, eq=False)
class Issued:
    """A certificate with its key and the parameters of its construction."""

    der: bytes = field(repr=False)
    key: Key = field(repr=False)
    subject: x509.Name
    subject_key_id: bytes | None
    names: tuple[str, ...] | None

    @cached_property
    def cert(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.der)

    @cached_property
    def facts(self) -> Certificate:
        return parse_certificate(self.der)

    @cached_property
    def pem(self) -> bytes:
        return pem_block("CERTIFICATE", self.der)

    @cached_property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def key_as(self, form: PrivateFormat, password: bytes | None = None, encoding: Encoding = Encoding.PEM) -> bytes:
        """Return the key as PKCS#1 or SEC1 (TraditionalOpenSSL) or PKCS#8, encrypted if a password is given."""
        lock: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
        return self.key.private_bytes(encoding, form, lock)

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_ca(name: str = "kubernetes", **modifiers: Unpack[Modifiers]) -> Issued:
    """A self-signed Root CA, as kubeadm makes it. Two calls give two keys, whatever the name."""
    return _make(None, _CA | {"subject": name, "names": [f"DNS:{name}"]} | modifiers)


def make_intermediate(issuer: Issued, name: str = "intermediate", **modifiers: Unpack[Modifiers]) -> Issued:
    """A CA that `issuer` signed."""
    return _make(issuer, _CA | {"subject": name, "names": None} | modifiers)


def make_leaf(issuer: Issued, cn: str = "leaf", **modifiers: Unpack[Modifiers]) -> Issued:
    """A client certificate that `issuer` signed, as kubeadm makes it: one year, no subjectAltName."""
    return _make(issuer, _LEAF | {"subject": cn} | modifiers)


def make_server(issuer: Issued, cn: str = "kube-apiserver", **modifiers: Unpack[Modifiers]) -> Issued:
    """A server certificate that `issuer` signed."""
    default = {"subject": cn, "extended_usages": ["server auth"], "names": [f"DNS:{cn}", "IP:10.96.0.1"]}
    return _make(issuer, _LEAF | default | modifiers)


def cross_sign(ca: Issued, by: Issued, **modifiers: Unpack[Modifiers]) -> Issued:
    """Return a certificate with the name, key and identifier of `ca`, signed by another CA: the bridge of a
    rotation.
    """
    return _make(by, _CA | _identity(ca) | modifiers)


def reissue(ca: Issued, **modifiers: Unpack[Modifiers]) -> Issued:
    """Return a new self-signed certificate with the name, key and identifier of `ca`: a Root CA that was renewed with
    its key.
    """
    return _make(None, _CA | _identity(ca) | modifiers)


def _identity(ca: Issued) -> dict[str, Any]:
    return {"key": ca.key, "subject": ca.subject, "subject_key_id": ca.subject_key_id, "names": ca.names}


def bundle(*certificates: Issued) -> bytes:
    """Their PEM, one after another."""
    return b"".join(certificate.pem for certificate in certificates)


def pem_block(label: str, der: bytes, eol: bytes = b"\n", width: int = 64) -> bytes:
    """Return one PEM block (RFC 7468)."""
    import base64

    text = base64.b64encode(der)
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    frame = label.encode("ascii")
    return eol.join([b"-----BEGIN " + frame + b"-----", *lines, b"-----END " + frame + b"-----", b""])


# --- keys -------------------------------------------------------------------------------------------------------------

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "ec": ec.SECP256R1,
    "ec-p224": ec.SECP224R1,
    "ec-p384": ec.SECP384R1,
    "ec-p521": ec.SECP521R1,
    "ec-secp256k1": ec.SECP256K1,
}


def new_key(kind: str = "ec") -> Key:
    """A key: "ec" (P-256), "ec-p384", "ec-secp256k1", …, "rsa" (2048), "rsa-<bits>", "ed25519", "ed448", "dsa".

    RSA keys are slow to make, so there are sixteen of 2048 bits, eight of 4096, and four of 3072. After the last key of
    a size, the first one follows again. There is one DSA key.
    """
    match kind.split("-"):
        case ["rsa", *bits]:
            return next(_rsa_turns(int(bits[0]) if bits else 2048))
        case ["ed25519"]:
            return ed25519.Ed25519PrivateKey.generate()
        case ["ed448"]:
            return ed448.Ed448PrivateKey.generate()
        case ["dsa"]:
            return _dsa()
        case _:
            return ec.generate_private_key(_CURVES[kind]())


@cache
def _rsa_turns(size: int) -> Iterator[rsa.RSAPrivateKey]:
    """Return an iterator over the shared keys of this size, or over sixteen new ones, again and again."""
    if size in COUNT:
        return itertools.cycle(rsa_keys(size))
    return itertools.cycle(rsa.generate_private_key(65537, size) for _ in range(16))


@cache
def _dsa() -> dsa.DSAPrivateKey:
    return dsa.generate_private_key(2048)


# --- the certificate, byte by byte ------------------------------------------------------------------------------------

_CA: dict[str, Any] = {
    "not_before": NOW - 30 * DAY,
    "not_after": NOW + 10 * YEAR,
    "is_ca": True,
    "usages": ["digital signature", "key encipherment", "cert sign"],
    "extended_usages": None,
}
_LEAF: dict[str, Any] = {
    "not_before": NOW - 5 * timedelta(minutes=1),
    "not_after": NOW + YEAR,
    "is_ca": False,
    "usages": ["digital signature", "key encipherment"],
    "extended_usages": ["client auth"],
    "names": None,
}
_SIGNATURES = {
    ("rsa", "md5"): "1.2.840.113549.1.1.4",
    ("rsa", "sha1"): "1.2.840.113549.1.1.5",
    ("rsa", "sha224"): "1.2.840.113549.1.1.14",
    ("rsa", "sha256"): "1.2.840.113549.1.1.11",
    ("rsa", "sha384"): "1.2.840.113549.1.1.12",
    ("rsa", "sha512"): "1.2.840.113549.1.1.13",
    ("ec", "sha1"): "1.2.840.10045.4.1",
    ("ec", "sha224"): "1.2.840.10045.4.3.1",
    ("ec", "sha256"): "1.2.840.10045.4.3.2",
    ("ec", "sha384"): "1.2.840.10045.4.3.3",
    ("ec", "sha512"): "1.2.840.10045.4.3.4",
    ("dsa", "sha256"): "2.16.840.1.101.3.4.3.2",
}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "md5": hashes.MD5(),  # noqa: S303 - a test makes what certmond must refuse
    "sha1": hashes.SHA1(),  # noqa: S303 - the same
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_PSS, _MGF1, _SHA256 = "1.2.840.113549.1.1.10", "1.2.840.113549.1.1.8", "2.16.840.1.101.3.4.2.1"
_EKU_OIDS = {name: oid.dotted_string for oid, name in EXTENDED_USAGES.items()}
_serials = itertools.count(1000)


def _make(issuer: Issued | None, wanted: dict[str, Any]) -> Issued:
    kind = wanted.get("key", "ec")
    key: Key = new_key(kind) if isinstance(kind, str) else kind
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    subject = _as_name(wanted["subject"])
    defaults = {
        "subject_key_id": own_id if wanted["is_ca"] else None,
        "authority_key_id": own_id if issuer is None else issuer.subject_key_id,
        "issuer_name": subject if issuer is None else issuer.subject,
        "version": 3,
        "hash": "sha256",
    }
    wanted = defaults | wanted
    signing_key = wanted.get("signing_key", key if issuer is None else issuer.key)
    algorithm = _algorithm(signing_key, wanted["hash"])
    fields = [
        tlv(0xA0, integer(wanted["version"] - 1)) if wanted["version"] > 1 else b"",
        integer(wanted.get("serial", next(_serials))),
        algorithm,
        wanted["issuer_name"].public_bytes(),
        tlv(0x30, _time(wanted["not_before"]), _time(wanted["not_after"])),
        subject.public_bytes(),
        spki,
        tlv(0xA3, tlv(0x30, *_extensions(wanted))) if wanted["version"] == 3 else b"",
    ]
    body = tlv(0x30, *fields)
    signature = tlv(0x03, b"\x00", _sign(signing_key, body, wanted["hash"]))
    names = None if wanted["names"] is None else tuple(wanted["names"])
    return Issued(tlv(0x30, body, algorithm, signature), key, subject, wanted["subject_key_id"], names)


def tlv(tag: int, *content: bytes) -> bytes:
    """A DER value: tag, length, content."""
    value = b"".join(content)
    length = len(value)
    if length < 0x80:
        return bytes([tag, length]) + value
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(size)]) + size + value


def integer(number: int) -> bytes:
    return tlv(0x02, number.to_bytes((number + (number < 0)).bit_length() // 8 + 1, signed=True))


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    octets = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc >> shift & 0x7F for shift in range(0, max(arc.bit_length(), 1), 7)]
        octets += bytes([group | 0x80 for group in groups[:0:-1]] + groups[:1])
    return tlv(0x06, bytes(octets))


def general_name(text: str) -> bytes:
    """ "DNS:…", "IP:…" (an address or a network), "email:…", "URI:…" or "dirName:<common name>" as DER."""
    kind, _, value = text.partition(":")
    match kind:
        case "email" | "DNS" | "URI":
            return tlv({"email": 0x81, "DNS": 0x82, "URI": 0x86}[kind], value.encode("latin-1"))
        case "IP" if "/" in value:
            network = ipaddress.ip_network(value)
            return tlv(0x87, network.network_address.packed + network.netmask.packed)
        case "IP":
            return tlv(0x87, ipaddress.ip_address(value).packed)
        case _:
            return tlv(0xA4, _as_name(value).public_bytes())


def _as_name(name: str | x509.Name) -> x509.Name:
    return name if isinstance(name, x509.Name) else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _time(moment: datetime) -> bytes:
    text = moment.strftime("%Y%m%d%H%M%SZ").encode("ascii")
    return tlv(0x17, text[2:]) if 1950 <= moment.year < 2050 else tlv(0x18, text)


def _algorithm(key: Key, digest: str) -> bytes:
    match key:
        case ed25519.Ed25519PrivateKey():
            return tlv(0x30, oid("1.3.101.112"))
        case ed448.Ed448PrivateKey():
            return tlv(0x30, oid("1.3.101.113"))
        case rsa.RSAPrivateKey() if digest == "sha256-pss":
            sha256 = tlv(0x30, oid(_SHA256), b"\x05\x00")
            mgf1 = tlv(0x30, oid(_MGF1), sha256)
            return tlv(0x30, oid(_PSS), tlv(0x30, tlv(0xA0, sha256), tlv(0xA1, mgf1), tlv(0xA2, integer(32))))
        case rsa.RSAPrivateKey():
            return tlv(0x30, oid(_SIGNATURES["rsa", digest]), b"\x05\x00")
        case _:
            return tlv(0x30, oid(_SIGNATURES["ec" if isinstance(key, ec.EllipticCurvePrivateKey) else "dsa", digest]))


def _sign(key: Key, data: bytes, digest: str) -> bytes:
    match key:
        case rsa.RSAPrivateKey() if digest == "sha256-pss":
            return key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        case rsa.RSAPrivateKey():
            return key.sign(data, padding.PKCS1v15(), _HASHES[digest])
        case ec.EllipticCurvePrivateKey():
            return key.sign(data, ec.ECDSA(_HASHES[digest]))
        case dsa.DSAPrivateKey():
            return key.sign(data, _HASHES[digest])
        case _:
            return key.sign(data)


def _extensions(wanted: dict[str, Any]) -> Iterable[bytes]:
    """The extensions in the order that Go's x509.CreateCertificate writes them."""
    if (usages := wanted["usages"]) is not None:
        yield _extension("2.5.29.15", True, _key_usage(usages))
    if (extended := wanted["extended_usages"]) is not None:
        yield _extension("2.5.29.37", False, tlv(0x30, *(oid(_EKU_OIDS.get(usage, usage)) for usage in extended)))
    if (is_ca := wanted["is_ca"]) is not None:
        length = wanted.get("path_length")
        content = [b"\x01\x01\xff"] if is_ca else []
        yield _extension("2.5.29.19", True, tlv(0x30, *content, b"" if length is None else integer(length)))
    if wanted["subject_key_id"] is not None:
        yield _extension("2.5.29.14", False, tlv(0x04, wanted["subject_key_id"]))
    if wanted["authority_key_id"] is not None:
        yield _extension("2.5.29.35", False, tlv(0x30, tlv(0x80, wanted["authority_key_id"])))
    if wanted["names"] is not None:
        yield _extension(
            "2.5.29.17", wanted.get("names_critical", False), tlv(0x30, *map(general_name, wanted["names"]))
        )
    if "permitted" in wanted or "excluded" in wanted:
        subtrees = [
            tlv(tag, *(tlv(0x30, general_name(name)) for name in wanted[field]))
            for tag, field in ((0xA0, "permitted"), (0xA1, "excluded"))
            if wanted.get(field)
        ]
        yield _extension("2.5.29.30", wanted.get("constraints_critical", True), tlv(0x30, *subtrees))
    for dotted, critical, der in wanted.get("extra", ()):
        yield _extension(dotted, critical, der)


def _extension(dotted: str, critical: bool, der: bytes) -> bytes:
    return tlv(0x30, oid(dotted), b"\x01\x01\xff" if critical else b"", tlv(0x04, der))


def _key_usage(usages: Sequence[str]) -> bytes:
    bits = 0
    for position, name in enumerate([*KEY_USAGES.values(), "encipher only", "decipher only"]):
        bits |= (name in usages) << (15 - position)
    octets = bits.to_bytes(2).rstrip(b"\x00")
    unused = (octets[-1] & -octets[-1]).bit_length() - 1 if octets else 0
    return tlv(0x03, bytes([unused]), octets)
