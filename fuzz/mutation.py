"""Keys, PKCS#12 files, certificates and kubeconfigs with structural damage. The same seed gives the same files.

The damage consists of wrong lengths, other tags and OIDs, numbers of up to a million bits, and repeated, nested,
exchanged or truncated values. The rest of the encoding remains valid, so that the first parser accepts the file.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from functools import cache
from random import Random

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import x448, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)

from certmond.errors import MalformedError
from certmond.pki.asn1.der import read_value
from tests.builders import integer, make_ca, make_intermediate, make_leaf, make_server, new_key, oid, pem_block, tlv

MAX_SIZE = 1 << 20
_PASSWORD = b"secret"
_KEYS = ("rsa", "ec", "ec-p384", "ec-p521", "ec-p224", "ec-secp256k1", "ed25519", "ed448", "dsa")
_NAMES = ("DNS:a.example.com", "IP:10.0.0.1", "email:a@example.com", "URI:https://example.com/")
_OIDS = (
    "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10", "1.2.840.113549.1.3.1", "1.2.840.10040.4.1", "1.2.840.10046.2.1",
    "1.2.840.10045.2.1", "1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35", "1.3.132.0.39", "1.3.101.110",
    "1.3.101.111", "1.3.101.112", "1.3.101.113", "1.2.840.113549.1.5.12", "1.2.840.113549.1.5.13",
    "1.3.6.1.4.1.11591.4.11", "1.2.840.113549.1.12.1.3", "1.2.840.113549.1.12.1.6", "1.2.840.113549.1.12.10.1.2",
    "1.2.840.113549.1.7.1", "1.2.840.113549.1.7.6", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.37",
    "2.16.840.1.101.3.4.3.17", "1.2.840.113549.1.1.11", "1.2.840.113549.1.1.4", f"1.2.{1 << 400}",
)  # fmt: skip
_BITS = (0, 1, 31, 64, 128, 2048, 16_384, 16_385, 20_000, 100_000, 1_000_000)


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """Return the undamaged inputs, each with its PEM label, or with "" for DER."""
    return tuple(_seeds())


def _seeds() -> Iterator[tuple[str, bytes]]:
    raw = Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    for kind in _KEYS:
        key = new_key(kind)
        yield "PRIVATE KEY", key.private_bytes(*raw)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        yield "PUBLIC KEY", public
        yield "ENCRYPTED PRIVATE KEY", key.private_bytes(*raw[:2], BestAvailableEncryption(_PASSWORD))
        if not kind.startswith("ed"):
            label = {"r": "RSA", "e": "EC", "d": "DSA"}[kind[0]]
            yield f"{label} PRIVATE KEY", key.private_bytes(raw[0], PrivateFormat.TraditionalOpenSSL, raw[2])
    for other in (x25519.X25519PrivateKey.generate(), x448.X448PrivateKey.generate()):
        yield "PRIVATE KEY", other.private_bytes(*raw)
    for kind in ("1.2.840.113549.1.3.1", "1.2.840.10046.2.1"):
        numbers = tlv(0x30, integer((1 << 1024) - 105), integer(2), integer(7))
        yield "PRIVATE KEY", tlv(0x30, integer(0), tlv(0x30, oid(kind), numbers), tlv(0x04, integer(1 << 500)))
    ca = make_ca(permitted=["DNS:example.com", "IP:10.0.0.0/8"], excluded=["email:a@example.org"])
    middle = make_intermediate(ca)
    for made in (
        ca, middle, make_leaf(middle), make_server(ca, names=_NAMES), make_ca(key="ed25519"), make_ca(key="rsa"),
        make_ca(key="dsa", hash="sha256"), make_ca(key="ed448"), make_ca(version=1), make_ca(serial=0),
    ):  # fmt: skip
        yield "CERTIFICATE", made.der
    for algorithm in (None, *pkcs12.PBES):
        form = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(10).hmac_hash(hashes.SHA256())
        for password in (_PASSWORD, b""):
            protection = form.key_cert_algorithm(algorithm).build(password or b"x") if algorithm else NoEncryption()
            yield "", pkcs12.serialize_key_and_certificates(b"a", ca.key, ca.cert, [middle.cert], protection)


def damaged(random: Random) -> bytes:
    """Return a damaged file."""
    label, der = random.choice(seeds())
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        der = _damaged_der(der, random)[:MAX_SIZE]
    data = der
    if label and random.random() < 0.85:
        data = pem_block(label if random.random() < 0.9 else random.choice(seeds())[0] or "CERTIFICATE", der)
        if random.random() < 0.3:
            data = pem_block("CERTIFICATE", make_or_get(random)) + data
    if random.random() < 0.05:
        data = _cut(data, random)
    return data[:MAX_SIZE]


def kubeconfig(data: bytes, random: Random) -> bytes:
    """Return a kubeconfig that embeds `data` as a certificate, a key or a CA."""
    text = base64.b64encode(data[: MAX_SIZE // 2]).decode()
    good = base64.b64encode(pem_block("CERTIFICATE", make_or_get(random))).decode()
    first, second, third = random.sample((text, good, good), 3)
    return (
        f"users: [{{name: u, user: {{client-certificate-data: {first}, client-key-data: {second}}}}}]\n"
        f"clusters: [{{name: c, cluster: {{server: 'https://a', certificate-authority-data: {third}}}}}]\n"
        "contexts: [{name: x, context: {user: u, cluster: c}}]\ncurrent-context: x\n"
    ).encode()


def make_or_get(random: Random) -> bytes:
    """Return an undamaged certificate."""
    return random.choice([der for label, der in seeds() if label == "CERTIFICATE"])


def _damaged_der(der: bytes, random: Random) -> bytes:
    """Return the encoding with one damaged value. The lengths of the outer values are correct."""
    try:
        value = read_value(der)
    except MalformedError:
        return _cut(der, random)
    rest = der[value.end :]
    inner = _values(value.content) if value.tag & 0x20 or random.random() < 0.5 else None
    if inner and random.random() < 0.9:
        place = random.randrange(len(inner))
        inner[place] = _damaged_der(inner[place], random)
        lead = b"\0" if value.tag == 0x03 else b""
        return tlv(value.tag, lead, *inner) + rest
    return random.choice(_WAYS)(value.tag, value.content, random) + rest


def _values(content: bytes) -> list[bytes] | None:
    """Return the nested values in `content`, including values in an octet string or a bit string, or None."""
    found, at = list[bytes](), 0
    content = content[1:] if content[:1] == b"\0" else content
    try:
        while at < len(content):
            value = read_value(content, at)
            found.append(value.encoded)
            at = value.end
    except MalformedError:
        return None
    return found


def _lying(tag: int, content: bytes, random: Random) -> bytes:
    return bytes([tag]) + random.choice((b"\x80", b"\x84\xff\xff\xff\xff", b"\x82\0\x05", b"\0", b"\x7f")) + content


def _other_tag(_tag: int, content: bytes, random: Random) -> bytes:
    return tlv(random.choice((0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x17, 0x30, 0x31, 0xA0, 0x80, 0x1F)), content)


def _large(_tag: int, _content: bytes, random: Random) -> bytes:
    number = random.getrandbits(random.choice(_BITS) or 1) | random.getrandbits(1)
    return integer(number if random.random() < 0.9 else -number)


def _other_oid(_tag: int, _content: bytes, random: Random) -> bytes:
    return oid(random.choice(_OIDS))


def _repeated(tag: int, content: bytes, random: Random) -> bytes:
    times = random.choice((2, 10, 1000, 30_000))
    return tlv(tag, content) * min(times, 1 + (MAX_SIZE // 2) // (len(content) + 4))


def _wider(tag: int, content: bytes, random: Random) -> bytes:
    return tlv(tag, content * min(random.choice((2, 100, 10_000)), 1 + (MAX_SIZE // 2) // (len(content) + 1)))


def _nested(tag: int, content: bytes, random: Random) -> bytes:
    for _ in range(random.choice((1, 5, 200, 2_000))):
        content = tlv(tag | 0x20, content)
    return content


def _exchanged(_tag: int, _content: bytes, random: Random) -> bytes:
    value = random.choice(seeds())[1]
    while (inner := _values(read_value(value).content)) and random.random() < 0.7:
        value = random.choice(inner)
    return value


def _emptied(tag: int, _content: bytes, _random: Random) -> bytes:
    return tlv(tag)


def _gone(_tag: int, _content: bytes, _random: Random) -> bytes:
    return b""


def _shorter(tag: int, content: bytes, random: Random) -> bytes:
    return tlv(tag, content[: random.randrange(len(content) + 1)])


def _longer(tag: int, content: bytes, random: Random) -> bytes:
    return tlv(tag, content, random.randbytes(random.choice((1, 2, 33, 1000))))


def _flipped(tag: int, content: bytes, random: Random) -> bytes:
    changed = bytearray(content or b"\0")
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return tlv(tag, bytes(changed))


def _random(tag: int, content: bytes, random: Random) -> bytes:
    return tlv(tag, random.randbytes(len(content)))


_WAYS: tuple[Callable[[int, bytes, Random], bytes], ...] = (
    _lying, _other_tag, _large, _large, _other_oid, _other_oid, _repeated, _wider, _nested, _exchanged, _emptied,
    _gone, _shorter, _longer, _flipped, _flipped, _random,
)  # fmt: skip


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]
