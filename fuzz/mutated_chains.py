"""Chains with one certificate whose DER was changed and signed again, so that only the change can cause a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cache
from random import Random

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fuzz.der_mutants import Node, mutant, parse
from fuzz.extension_cases import EXTENSIONS
from tests.builders import Issued, make_ca, make_intermediate, make_server, new_key, oid, pem_block, tlv

SERVER = "server auth"
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "1": hashes.SHA1(),  # noqa: S303 - a digest that must be refused
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_HASH_OIDS = {
    "1": "1.3.14.3.2.26", "256": "2.16.840.1.101.3.4.2.1", "384": "2.16.840.1.101.3.4.2.2",
    "512": "2.16.840.1.101.3.4.2.3",
}  # fmt: skip
_NULL = b"\x05\x00"


@dataclass(frozen=True)
class Chain:
    """A leaf, the anchors and the intermediates, as DER. `title` describes the change."""

    title: str
    leaf: bytes
    anchors: tuple[bytes, ...]
    intermediates: tuple[bytes, ...]
    usage: str

    @property
    def files(self) -> dict[str, bytes]:
        """Return the files of a node with this chain."""
        leaf = b"".join(pem_block("CERTIFICATE", der) for der in (self.leaf, *self.intermediates))
        return {"leaf.crt": leaf, "ca.crt": b"".join(pem_block("CERTIFICATE", der) for der in self.anchors)}


@dataclass(frozen=True)
class _Base:
    name: str
    leaf: Issued
    issuers: tuple[Issued, ...]
    """The issuers, from the issuer of the leaf to the root."""


@cache
def bases() -> tuple[_Base, ...]:
    """Return valid chains with each type of key, with and without an intermediate CA, names and name constraints."""
    found = []
    for kind in ("ec", "rsa", "ed25519", "ec-p384"):
        root = make_ca(key=kind)
        names = [
            "DNS:a.example.com",
            "IP:10.96.0.1",
            "IP:fd00::1",
            "URI:spiffe://example.com/ns",
            "email:a@example.com",
        ]
        found.append(_Base(f"{kind} straight", make_server(root, key=kind, names=names), (root,)))
        between = make_intermediate(root, key=kind, path_length=1)
        found.append(_Base(f"{kind} by an intermediate", make_server(between, key=kind), (between, root)))
        limited = make_ca(
            key=kind, permitted=["DNS:example.com", "IP:10.0.0.0/8", "email:example.com", "URI:example.com"],
            excluded=["DNS:b.example.com"],
        )  # fmt: skip
        inner = ["DNS:a.example.com", "IP:10.96.0.1", "URI:https://a.example.com/x", "email:a@example.com"]
        found.append(_Base(f"{kind} under constraints", make_server(limited, key=kind, names=inner), (limited,)))
    return tuple(found)


def chains(seed: int, count: int) -> Iterator[Chain]:
    """Yield `count` mutated chains."""
    for number in range(count):
        rng = Random(f"{seed}/chain/{number}")  # noqa: S311 - no secret
        yield _chain(rng, number)


def _chain(rng: Random, number: int) -> Chain:
    base = rng.choice(bases())
    line = [base.leaf, *base.issuers]
    place = rng.choices(range(len(line)), [6, *([3] * (len(line) - 1))])[0]
    changed, signer = line[place], line[min(place + 1, len(line) - 1)]
    how = rng.choices(list(_WAYS), list(_WAYS.values()))[0]
    ders = [each.der for each in line]
    ders[place] = how(rng, changed, signer)
    role = "leaf" if place == 0 else "root" if place == len(line) - 1 else "intermediate"
    title = f"{number} ({base.name}, {role}, {how.__name__.strip('_')})"
    return Chain(title, ders[0], (ders[-1],), tuple(ders[1:-1]), SERVER)


def sign(signer: Issued, content: bytes) -> bytes:
    """Return the signature of `content` with the algorithm of the signer's certificates."""
    match signer.key:
        case rsa.RSAPrivateKey() as key:
            return key.sign(content, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey() as key:
            return key.sign(content, ec.ECDSA(hashes.SHA256()))
        case ed25519.Ed25519PrivateKey() as key:
            return key.sign(content)
        case other:
            raise AssertionError(other)


def signed(signer: Issued, content: bytes, algorithm: bytes, signature: bytes | None = None) -> bytes:
    """Return a certificate with the signed part `content`."""
    value = sign(signer, content) if signature is None else signature
    return tlv(0x30, content + algorithm + tlv(0x03, b"\x00" + value))


def fields_of(certificate: Node) -> dict[str, Node]:
    """Return the fields of the signed part, by name."""
    content, *_ = certificate.within
    names = ("version", "serial", "algorithm", "issuer", "validity", "subject", "key", "extensions")
    return dict(zip(names, content.within, strict=False))


def unchanged(_rng: Random, changed: Issued, _signer: Issued) -> bytes:
    """Return the certificate without a change."""
    return changed.der


def anything(rng: Random, changed: Issued, signer: Issued) -> bytes:
    """Change any value of the signed part."""
    certificate = parse(changed.der)
    content, algorithm, _ = certificate.within
    return signed(signer, mutant(rng, content.encoded), algorithm.encoded)


def one_field(rng: Random, changed: Issued, signer: Issued) -> bytes:
    """Change a value of one field."""
    certificate = parse(changed.der)
    content, algorithm, _ = certificate.within
    name = rng.choice(["serial", "validity", "subject", "subject", "key", "extensions", "extensions", "extensions"])
    field = fields_of(certificate).get(name) or content
    replaced = mutant(rng, field.encoded)
    octets = b"".join(replaced if each is field else each.encoded for each in content.within)
    return signed(signer, tlv(0x30, octets), algorithm.encoded)


def outside(rng: Random, changed: Issued, _signer: Issued) -> bytes:
    """Change a value outside of the signed part."""
    certificate = parse(changed.der)
    content, *beside = certificate.within
    place = rng.randrange(len(beside))
    octets = [mutant(rng, each.encoded) if at == place else each.encoded for at, each in enumerate(beside)]
    return tlv(0x30, content.encoded + b"".join(octets))


def some_octet(rng: Random, changed: Issued, signer: Issued) -> bytes:
    """Change one octet of the signed part."""
    certificate = parse(changed.der)
    content, algorithm, _ = certificate.within
    octets = bytearray(content.encoded)
    octets[rng.randrange(len(octets))] = rng.randrange(256)
    return signed(signer, bytes(octets), algorithm.encoded)


def key_of_another_form(rng: Random, changed: Issued, signer: Issued) -> bytes:
    """Replace the key with a compressed point, or with a key of different parameters, type, size or exponent."""
    return with_key(changed, signer, rng.choice(key_forms(changed)))


def with_key(changed: Issued, signer: Issued, info: bytes) -> bytes:
    """Return the certificate with the SubjectPublicKeyInfo `info`."""
    certificate = parse(changed.der)
    content, algorithm, _ = certificate.within
    field = fields_of(certificate)["key"]
    octets = b"".join(info if each is field else each.encoded for each in content.within)
    return signed(signer, tlv(0x30, octets), algorithm.encoded)


def rsa_info(modulus: int, exponent: int, identifier: bytes | None = None) -> bytes:
    """Return the SubjectPublicKeyInfo of an RSA key. The key can be malformed."""
    numbers = b"".join(tlv(0x02, each.to_bytes(each.bit_length() // 8 + 1)) for each in (modulus, exponent))
    identifier = tlv(0x30, oid("1.2.840.113549.1.1.1") + _NULL) if identifier is None else identifier
    return tlv(0x30, identifier + tlv(0x03, b"\x00" + tlv(0x30, numbers)))


def key_forms(changed: Issued) -> list[bytes]:
    """Return other encodings of the key of the certificate, and keys of other types."""
    public = changed.key.public_key()
    forms = [
        _information(new_key(kind).public_key()) for kind in ("ec-p224", "ec-secp256k1", "ed448", "dsa", "rsa-1024")
    ]
    modulus = (1 << 2047) + (1 << 1000) + 1
    forms += [rsa_info(modulus, exponent) for exponent in (3, 2, 1, 65536, (1 << 31) + 1, (1 << 62) + 1, (1 << 64) + 1)]
    forms += [rsa_info((1 << size) + 1, 65537) for size in (500, 1022, 1023, 8191, 8192, 9000)] + [
        rsa_info(modulus - 1, 3)
    ]
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        identifier = parse(_information(public)).within[0]
        forms.append(tlv(0x30, identifier.encoded + tlv(0x03, b"\x00" + point)))
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        for identifier_octets in (
            tlv(0x30, oid("1.2.840.113549.1.1.1")),
            tlv(0x30, oid("1.2.840.113549.1.1.10")),
            tlv(0x30, oid("1.2.840.113549.1.1.10") + pss_parameters("256", "256", 32)),
        ):
            forms.append(rsa_info(numbers.n, numbers.e, identifier_octets))
    return forms


def _information(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def pss_parameters(digest: str, mask: str, salt: int, *, null: bool = True, trailer: bytes = b"") -> bytes:
    """Return RSASSA-PSS-params (RFC 4055, 3.1)."""
    hashing, masking = (tlv(0x30, oid(_HASH_OIDS[each]) + (_NULL if null else b"")) for each in (digest, mask))
    generator = tlv(0x30, oid("1.2.840.113549.1.1.8") + masking)
    return tlv(0x30, tlv(0xA0, hashing) + tlv(0xA1, generator) + tlv(0xA2, tlv(0x02, bytes([salt]))) + trailer)


def signed_by_pss(rng: Random, changed: Issued, signer: Issued) -> bytes:
    """Sign with RSASSA-PSS, with a salt and digests that might not match."""
    if not isinstance(signer.key, rsa.RSAPrivateKey):
        return anything(rng, changed, signer)
    digest = rng.choice(["256", "384", "512"])
    mask = rng.choice([digest, digest, digest, "1", "256"])
    salt = rng.choice([_HASHES[digest].digest_size] * 3 + [0, 20, 32, 64])
    trailer = rng.choice([b"", b"", tlv(0xA3, b"\x02\x01\x01"), tlv(0xA3, b"\x02\x01\x02")])
    return pss_signed(changed, signer, digest, mask, salt, null=rng.random() < 0.7, trailer=trailer)


def pss_signed(
    changed: Issued, signer: Issued, digest: str, mask: str, salt: int, *, null: bool = True, trailer: bytes = b""
) -> bytes:
    """Return the certificate with an RSASSA-PSS signature of `salt` octets of salt and these digests ("1" is SHA-1)."""
    assert isinstance(signer.key, rsa.RSAPrivateKey)
    parameters = pss_parameters(digest, mask, salt, null=null, trailer=trailer)
    algorithm = tlv(0x30, oid("1.2.840.113549.1.1.10") + parameters)
    certificate = parse(changed.der)
    field = fields_of(certificate)["algorithm"]
    content, *_ = certificate.within
    octets = tlv(0x30, b"".join(algorithm if each is field else each.encoded for each in content.within))
    how = padding.PSS(padding.MGF1(_HASHES[mask]), salt)
    return signed(signer, octets, algorithm, signer.key.sign(octets, how, _HASHES[digest]))


def other_version(rng: Random, changed: Issued, signer: Issued) -> bytes:
    """Set version 1, 2 or 4, with or without the extensions."""
    certificate = parse(changed.der)
    content, algorithm, _ = certificate.within
    number, extensions = rng.choice([(0, False), (0, True), (1, False), (1, True), (3, True)])
    children = [copy(each) for each in content.within]
    version = tlv(0xA0, tlv(0x02, bytes([number]))) if number else b""
    octets = version + b"".join(each.encoded for each in children[1 : None if extensions else -1])
    return signed(signer, tlv(0x30, octets), algorithm.encoded)


def an_extension_more(rng: Random, changed: Issued, signer: Issued) -> bytes:
    """Add an extension for which Go has separate rules. The extension can be malformed."""
    certificate = parse(changed.der)
    content, algorithm, _ = certificate.within
    field = fields_of(certificate).get("extensions")
    if field is None or not field.children or field.children[0].children is None:
        return anything(rng, changed, signer)
    name, value = rng.choice(EXTENSIONS)
    critical = rng.choice([b"", b"", b"\x01\x01\xff", b"\x01\x01\x00", b"\x01\x01\x01"])
    extra = parse(tlv(0x30, oid(name) + critical + tlv(0x04, value)))
    several = [each for each in field.children[0].children if oid(name) not in each.encoded or rng.random() < 0.2]
    several.insert(rng.randrange(len(several) + 1), extra)
    field.children[0].children = several
    return signed(signer, content.encoded, algorithm.encoded)


_Way = Callable[[Random, Issued, Issued], bytes]
_WAYS: dict[_Way, int] = {
    unchanged: 1,
    anything: 20,
    one_field: 30,
    outside: 4,
    some_octet: 10,
    key_of_another_form: 8,
    signed_by_pss: 6,
    other_version: 4,
    an_extension_more: 18,
}
