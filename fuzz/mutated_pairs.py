"""Pairs of a certificate file and a key file. One of the files has a changed format, number, PEM block or octet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fuzz.der_mutants import mutant
from fuzz.mutated_chains import anything, key_of_another_form, one_field
from tests.builders import Issued, make_ca, make_intermediate, make_server, new_key, oid, pem_block, tlv

_NULL = b"\x05\x00"
_RSA, _PSS, _EC = (oid(text) for text in ("1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10", "1.2.840.10045.2.1"))
_CURVES = {"secp224r1": "1.3.132.0.33", "secp256r1": "1.2.840.10045.3.1.7", "secp384r1": "1.3.132.0.34",
           "secp521r1": "1.3.132.0.35", "secp256k1": "1.3.132.0.10"}  # fmt: skip
_PRIME = (1 << 256) - (1 << 224) + (1 << 192) + (1 << 96) - 1


@dataclass(frozen=True)
class Pair:
    """A server certificate with its chain, its key, and the trust anchors, in PEM. `title` describes the change."""

    title: str
    certificate: bytes
    key: bytes
    anchors: bytes


@dataclass(frozen=True)
class _Base:
    kind: str
    leaf: Issued
    issuers: tuple[Issued, ...]

    @property
    def chain(self) -> bytes:
        return b"".join(each.pem for each in (self.leaf, *self.issuers[:-1]))


@cache
def _bases() -> tuple[_Base, ...]:
    root = make_ca(key="ec")
    between = make_intermediate(root, key="ec")
    kinds = (
        "rsa",
        "rsa",
        "rsa-1024",
        "rsa-3072",
        "ec",
        "ec",
        "ec-p224",
        "ec-p384",
        "ec-p521",
        "ed25519",
        "ec-secp256k1",
    )
    return tuple(
        _Base(kind, make_server(issuers[0], key=kind), issuers)
        for kind in kinds
        for issuers in ((root,), (between, root))
    )


def pairs(seed: int, count: int) -> Iterator[Pair]:
    """Yield `count` mutated pairs."""
    for number in range(count):
        rng = Random(f"{seed}/pair/{number}")  # noqa: S311 - no secret
        base = rng.choice(_bases())
        how = rng.choices(list(_WAYS), list(_WAYS.values()))[0]
        certificate, key = how(rng, base)
        title = f"{number} ({base.kind}, {how.__name__.strip('_')})"
        yield Pair(title, certificate, key, base.issuers[-1].pem)


def forms(key: object) -> list[tuple[str, bytes]]:
    """Return the key in each format of other programs: the label of the PEM block, and the DER."""
    found = [("PRIVATE KEY", _der(key, PrivateFormat.PKCS8))]
    if isinstance(key, rsa.RSAPrivateKey):
        found.append(("RSA PRIVATE KEY", _der(key, PrivateFormat.TraditionalOpenSSL)))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        found.append(("EC PRIVATE KEY", _der(key, PrivateFormat.TraditionalOpenSSL)))
    return found


def _der(key: object, form: PrivateFormat) -> bytes:
    encoded: bytes = key.private_bytes(Encoding.DER, form, NoEncryption())  # type: ignore[attr-defined]
    return encoded


def _as_it_is(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    label, der = rng.choice(forms(base.leaf.key))
    return base.chain, pem_block(label, der)


def _other_label(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    _, der = rng.choice(forms(base.leaf.key))
    labels = ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "ANY PRIVATE KEY", "DSA PRIVATE KEY", "PRIVATEKEY",
              "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY", "XPRIVATE KEY", "PUBLIC KEY"]  # fmt: skip
    return base.chain, pem_block(rng.choice(labels), der)


def _other_label_of_certificate(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    label = rng.choice(["X509 CERTIFICATE", "TRUSTED CERTIFICATE", "CERT", "CERTIFICATE REQUEST", "X509 CRL"])
    first, *rest = [base.leaf.der, *(each.der for each in base.issuers[:-1])]
    blocks = [pem_block(label, first), *(pem_block("CERTIFICATE", each) for each in rest)]
    return b"".join(blocks), base.leaf.key_pem


def _mutated_key(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    label, der = rng.choice(forms(base.leaf.key))
    return base.chain, pem_block(label, mutant(rng, der))


def _some_octet(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    label, der = rng.choice(forms(base.leaf.key))
    octets = bytearray(der)
    octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
    return base.chain, pem_block(label, bytes(octets))


def _mutated_text(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    label, der = rng.choice(forms(base.leaf.key))
    return base.chain, _damaged(rng, pem_block(label, der))


def _mutated_text_of_certificate(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    return _damaged(rng, base.chain), base.leaf.key_pem


def _damaged(rng: Random, text: bytes) -> bytes:
    at = rng.randrange(len(text))
    pieces = [b"\n", b" ", b"\r", b"-", b"=", b"A", b"\t", b"\x00", b"Name: value\n", b"-----BEGIN ", b"\xff", b":"]
    return rng.choice(
        [
            text[:at] + rng.choice(pieces) + text[at:],
            text[:at] + text[at + rng.choice([1, 2, 64]) :],
            text.replace(b"\n", b"\r\n"),
            b"\xef\xbb\xbf" + text,
            b"a comment\n" + text,
            text + b"a comment",
            text.replace(b"-----\nM", b"-----\nName: value\nOther: value\n\nM", 1),
            text.replace(b"-----\nM", b"-----\nName: value\nM", 1),
            text.replace(b"-----\nM", b"-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nM", 1),
            text.replace(b"-----\nM", b"-----\n\n\nM", 1),
            b"\n".join(b" " + line for line in text.split(b"\n")),
            text.rstrip(),
            text + text,
        ]
    )


def _der_file(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    _, der = rng.choice(forms(base.leaf.key))
    return rng.choice([(base.chain, der), (base.leaf.der, base.leaf.key_pem)])


def _encrypted(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    traditional = isinstance(base.leaf.key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    form = rng.choice([PrivateFormat.PKCS8, *([PrivateFormat.TraditionalOpenSSL] if traditional else [])])
    return base.chain, base.leaf.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))


def _other_key(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    kind = rng.choice(["rsa", "ec", "ec-p384", "ed25519", "ed448", "ec-secp256k1", "dsa", "rsa-1024"])
    label, der = rng.choice(forms(new_key(kind)))
    return base.chain, pem_block(label, der)


def _several_blocks(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    label, der = rng.choice(forms(base.leaf.key))
    own, other = pem_block(label, der), pem_block("PRIVATE KEY", forms(new_key("ec"))[0][1])
    extra = [
        other,
        base.leaf.pem,
        pem_block("EC PARAMETERS", oid(_CURVES["secp256r1"])),
        pem_block("PRIVATE KEY", b"\x30\x00"),
    ]
    blocks = [own, rng.choice(extra)]
    rng.shuffle(blocks)
    return base.chain, b"".join(blocks)


def _written_by_hand(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    """Return a pair in a format that standards permit or programs write, and that libraries treat differently."""
    key = base.leaf.key
    if isinstance(key, rsa.RSAPrivateKey):
        return base.chain, rng.choice(_rsa_forms(key))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return base.chain, rng.choice(_ec_forms(key))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return base.chain, rng.choice(_ed25519_forms(key))
    return _as_it_is(rng, base)


def _number(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def _wrapped(algorithm: bytes, inner: bytes, version: int = 0, tail: bytes = b"") -> bytes:
    return tlv(0x30, _number(version) + tlv(0x30, algorithm) + tlv(0x04, inner) + tail)


def _rsa_forms(key: rsa.RSAPrivateKey) -> list[bytes]:
    numbers = key.private_numbers()
    n, e = numbers.public_numbers.n, numbers.public_numbers.e
    values = [0, n, e, numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp]
    plain = tlv(0x30, b"".join(map(_number, values)))
    swapped = [0, n, e, numbers.d, numbers.q, numbers.p, numbers.dmq1, numbers.dmp1, pow(numbers.p, -1, numbers.q)]
    found = [
        ("PRIVATE KEY", _wrapped(_PSS, plain)),
        ("PRIVATE KEY", _wrapped(_PSS + _NULL, plain)),
        ("PRIVATE KEY", _wrapped(_RSA, plain)),
        ("PRIVATE KEY", _wrapped(_RSA + _NULL, plain, version=1)),
        ("PRIVATE KEY", _wrapped(_RSA + _NULL, plain, tail=tlv(0xA0, b""))),
        ("PRIVATE KEY", _wrapped(_RSA + _NULL, plain) + b"\x00"),
        ("RSA PRIVATE KEY", plain + b"\x00"),
        ("RSA PRIVATE KEY", tlv(0x30, b"".join(map(_number, values[:6])))),
        ("RSA PRIVATE KEY", tlv(0x30, b"".join(map(_number, values[:8])))),
        ("RSA PRIVATE KEY", tlv(0x30, b"".join(map(_number, swapped)))),
        ("RSA PRIVATE KEY", tlv(0x30, b"".join(map(_number, [1, *values[1:]])))),
        ("RSA PRIVATE KEY", tlv(0x30, b"".join(map(_number, [2, *values[1:]])))),
    ]
    for place in range(1, 9):
        for change in (values[place] + 1, values[place] + 2, values[place] - 1, 0, 1, 3):
            changed = [*values[:place], change, *values[place + 1 :]]
            found.append(("RSA PRIVATE KEY", tlv(0x30, b"".join(map(_number, changed)))))
    order = (numbers.p - 1) * (numbers.q - 1)
    for exponent in (3, 5, 17, (1 << 31) - 1, (1 << 31) + 11, (1 << 33) + 9):
        try:
            d = pow(exponent, -1, order)
        except ValueError:
            continue
        crt = [d % (numbers.p - 1), d % (numbers.q - 1), numbers.iqmp]
        found.append(
            ("RSA PRIVATE KEY", tlv(0x30, b"".join(map(_number, [0, n, exponent, d, numbers.p, numbers.q, *crt]))))
        )
    return [pem_block(label, der) for label, der in found]


def _ec_forms(key: ec.EllipticCurvePrivateKey) -> list[bytes]:
    curve, size = oid(_CURVES[key.curve.name]), (key.curve.key_size + 7) // 8
    scalar = key.private_numbers().private_value.to_bytes(size)
    points = [key.public_key().public_bytes(Encoding.X962, form) for form in
              (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint)]  # fmt: skip
    foreign = (
        ec.generate_private_key(key.curve).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    field = tlv(0x30, oid("1.2.840.10045.1.1") + _number(_PRIME))
    explicit = tlv(
        0x30,
        _number(1) + field + tlv(0x30, tlv(0x04, bytes(32)) + tlv(0x04, bytes(32))) + tlv(0x04, points[0]) + _number(7),
    )

    def sec1(parameters: bytes, public: bytes | None, private: bytes = scalar, version: int = 1) -> bytes:
        public_part = tlv(0xA1, tlv(0x03, b"\x00" + public)) if public is not None else b""
        named = tlv(0xA0, parameters) if parameters else b""
        return tlv(0x30, _number(version) + tlv(0x04, private) + named + public_part)

    found = [
        ("EC PRIVATE KEY", sec1(curve, public))
        for public in (points[0], points[1], None, foreign, b"", b"\x04" + bytes(2 * size))
    ]
    found += [
        ("PRIVATE KEY", _wrapped(_EC + curve, sec1(named, public)))
        for named in (b"", curve, oid(_CURVES["secp384r1"]))
        for public in (points[0], points[1], None, foreign)
    ]
    found += [
        ("EC PRIVATE KEY", sec1(explicit, points[0])),
        ("EC PRIVATE KEY", sec1(b"", points[0])),
        ("PRIVATE KEY", _wrapped(_EC + explicit, sec1(b"", points[0]))),
        ("PRIVATE KEY", _wrapped(_EC + explicit, sec1(curve, points[0]))),
        ("PRIVATE KEY", _wrapped(_EC, sec1(curve, points[0]))),
        ("EC PRIVATE KEY", sec1(curve, points[0], private=b"\x00" + scalar)),
        ("EC PRIVATE KEY", sec1(curve, points[0], private=scalar.lstrip(b"\x00"))),
        ("EC PRIVATE KEY", sec1(curve, points[0], private=bytes(size))),
        ("EC PRIVATE KEY", sec1(curve, points[0], private=b"\xff" * size)),
        ("EC PRIVATE KEY", sec1(curve, points[0], private=b"")),
        ("EC PRIVATE KEY", sec1(curve, points[0], version=0)),
        ("EC PRIVATE KEY", sec1(curve, points[0]) + b"\x00"),
        ("EC PRIVATE KEY", sec1(_NULL, points[0])),
    ]
    return [pem_block(label, der) for label, der in found]


def _ed25519_forms(key: ed25519.Ed25519PrivateKey) -> list[bytes]:
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    name = oid("1.3.101.112")
    found = [
        _wrapped(name, tlv(0x04, seed)),
        _wrapped(name + _NULL, tlv(0x04, seed)),
        _wrapped(name, tlv(0x04, seed), version=1, tail=tlv(0x81, b"\x00" + public)),
        _wrapped(name, tlv(0x04, seed), version=1, tail=tlv(0x81, b"\x00" + bytes(32))),
        _wrapped(name, tlv(0x04, seed) + b"\x00"),
        _wrapped(name, tlv(0x04, seed[:-1])),
        _wrapped(name, tlv(0x04, seed + b"\x00")),
        _wrapped(name, seed),
        _wrapped(oid("1.3.101.110"), tlv(0x04, seed)),
        _wrapped(oid("1.3.101.113"), tlv(0x04, seed)),
    ]
    return [pem_block("PRIVATE KEY", der) for der in found]


def _mutated_certificate(rng: Random, base: _Base) -> tuple[bytes, bytes]:
    how = rng.choice([anything, one_field, key_of_another_form])
    der = how(rng, base.leaf, base.issuers[0])
    rest = [each.pem for each in base.issuers[:-1]]
    return pem_block("CERTIFICATE", der) + b"".join(rest), base.leaf.key_pem


_Way = Callable[[Random, _Base], tuple[bytes, bytes]]
_WAYS: dict[_Way, int] = {
    _as_it_is: 6,
    _other_label: 6,
    _other_label_of_certificate: 2,
    _mutated_key: 22,
    _some_octet: 10,
    _mutated_text: 8,
    _mutated_text_of_certificate: 4,
    _der_file: 3,
    _encrypted: 2,
    _other_key: 4,
    _several_blocks: 4,
    _written_by_hand: 20,
    _mutated_certificate: 9,
}
