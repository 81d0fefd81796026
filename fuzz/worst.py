"""Files of up to 1 MB that have the highest cost of their type. A scan of each file may take at most one second.

Each file causes at least the maximum work that the limits of certmond permit in one stage.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from certmond.pki.asn1.der import read_value
from tests.builders import Issued, bundle, integer, make_ca, make_intermediate, make_leaf, oid, pem_block, tlv

_RANDOM = Random(1)  # noqa: S311 - a repeatable sequence
_SIZE = (1 << 20) - 4096


def with_key(der: bytes, key: bytes) -> bytes:
    """Return the certificate with the SubjectPublicKeyInfo `key`."""
    body, *rest = read_value(der).values()
    fields = [field.encoded for field in body.values()]
    place = 6 if fields[0][0] == 0xA0 else 5
    fields[place] = key
    return tlv(0x30, tlv(0x30, *fields), *(each.encoded for each in rest))


def rsa_key(bits: int, exponent: int = (1 << 64) - 1) -> bytes:
    """Return a SubjectPublicKeyInfo with a modulus of `bits` bits."""
    modulus = _RANDOM.getrandbits(bits) | 1 << bits - 1 | 1
    numbers = tlv(0x30, integer(modulus), integer(exponent))
    return tlv(0x30, tlv(0x30, oid("1.2.840.113549.1.1.1"), tlv(0x05)), tlv(0x03, b"\0", numbers))


def rsa_candidates(bits: int) -> bytes:
    """Return a leaf, and the maximum number of certificates that could have issued it."""
    body, algorithm, _ = read_value(make_leaf(make_ca("ca", key="rsa")).der).values()
    signature = tlv(
        0x03, b"\0", b"\x11" * (bits // 8)
    )  # the same length as the keys: OpenSSL refuses any other length immediately
    leaf = pem_block("CERTIFICATE", tlv(0x30, body.encoded, algorithm.encoded, signature))
    ca = make_ca("ca").der
    found = [pem_block("CERTIFICATE", with_key(ca, rsa_key(bits))) for _ in range(511)]
    return _fitting(leaf, found)


def curve_candidates() -> bytes:
    """Return a leaf and its possible issuers, with keys on a curve for which OpenSSL has no optimized code."""
    leaf, ca = make_leaf(make_ca("ca")), make_ca("ca").der
    found = []
    for _ in range(511):
        key = ec.generate_private_key(ec.BrainpoolP512R1()).public_key()
        found.append(
            pem_block("CERTIFICATE", with_key(ca, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)))
        )
    return _fitting(leaf.pem, found)


def chain() -> bytes:
    """Return CAs with the same name, each of which has signed the next CA."""
    links = [make_ca("ca", permitted=["DNS:"])]
    while len(links) < 300:
        links.append(make_intermediate(links[-1], "ca", permitted=["DNS:"]))
    return bundle(make_leaf(links[-1]), *reversed(links))


def same_key() -> bytes:
    """Return CAs with the same subject and the same key, which differ only in their subject alternative names."""
    ca = make_ca("ca")
    others = [make_ca("ca", key=ca.key, names=[f"DNS:{n}.{'a' * 60}"] * 15) for n in range(500)]
    return _fitting(make_leaf(ca).pem, [each.pem for each in others])


def names_and_constraints(count: int, subtrees: int, kind: str = "DNS") -> Callable[[], bytes]:
    """Return a function that creates a leaf with `count` names below three CAs, each with name constraints."""

    def name(number: int) -> str:
        return f"DNS:{number:x}" if kind == "DNS" else f"IP:10.{number >> 16}.{number >> 8 & 255}.{number & 255}"

    def made() -> bytes:
        inside = (
            [name(n) for n in range(subtrees - 1)] if kind == "DNS" else [f"{name(n)}/32" for n in range(subtrees - 1)]
        )
        every = "DNS:" if kind == "DNS" else "IP:10.0.0.0/8"
        links: list[Issued] = [make_ca("ca", permitted=[*inside, every])]
        for _ in range(2):
            links.append(make_intermediate(links[-1], "ca", permitted=[*inside, every]))
        return bundle(make_leaf(links[-1], names=[name(n) for n in range(count)]), *links)

    return made


def long_names() -> bytes:
    """Return names with 100,000 labels, below a CA with name constraints."""
    ca = make_ca("ca", permitted=["DNS:a", "DNS:"])
    return bundle(make_leaf(ca, names=[f"DNS:{'a.' * 100_000}a"] * 3), ca)


def distinguished_name() -> bytes:
    """Return a subject with thousands of attributes that require escapes."""
    attributes = [x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, ',+"\\<>;=' * 2)])] * 4_500
    return make_ca(subject=x509.Name(attributes)).pem


def one_attribute() -> bytes:
    """Return a subject with one attribute of 0.3 MB, which consists of characters that require escapes."""
    key = make_ca()
    subject = tlv(0x30, tlv(0x31, tlv(0x30, oid("2.5.4.3"), tlv(0x0C, b',+"\\' * 80_000))))
    body, *rest = read_value(key.der).values()
    fields = [field.encoded for field in body.values()]
    fields[5] = subject
    return pem_block("CERTIFICATE", tlv(0x30, tlv(0x30, *fields), *(each.encoded for each in rest)))


def extensions() -> bytes:
    """Return a certificate with 30,000 unknown critical extensions."""
    return make_ca(extra=[(f"1.2.3.{n}", True, b"") for n in range(30_000)]).pem


def huge_oid() -> bytes:
    """Return an algorithm whose OID contains a number of 1.4 million bits."""
    key = tlv(0x30, tlv(0x30, tlv(0x06, b"\x2a\x03" + b"\xff" * 200_000 + b"\x7f")), tlv(0x03, b"\0" * 40))
    return pem_block("CERTIFICATE", with_key(make_ca().der, key))


def kubeconfig(key: bytes, with_certificate: bool) -> bytes:
    """Return a kubeconfig with the maximum number of users, each with a key."""
    ca, text = make_ca("ca", key="rsa-4096"), base64.b64encode(key).decode()
    certificate = base64.b64encode(make_leaf(ca, key="ec").pem + ca.pem).decode() if with_certificate else ""
    users, size = list[str](), 0
    while size < _SIZE - 4096:
        found = f"client-certificate-data: {certificate}, " if certificate else ""
        users.append(f"- {{name: u{len(users)}, user: {{{found}client-key-data: {text}}}}}")
        size += len(users[-1]) + 1
    return ("clusters: []\nusers:\n" + "\n".join(users) + "\n").encode()


def bare_key(curve: ec.EllipticCurve) -> bytes:
    """Return a private key without its public key, which a reader must compute."""
    key = ec.generate_private_key(curve)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    number = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8)
    algorithm = next(read_value(public).values()).encoded
    return pem_block(
        "PRIVATE KEY", tlv(0x30, integer(0), algorithm, tlv(0x04, tlv(0x30, integer(1), tlv(0x04, number))))
    )


def dsa_keys() -> bytes:
    """Return DSA keys of the largest accepted size, more than certmond reads."""
    p, q = (1 << 3072) - 1_103_717 | 1, (1 << 256) - 189
    algorithm = tlv(0x30, oid("1.2.840.10040.4.1"), tlv(0x30, integer(p), integer(q), integer(p - 5)))
    key = tlv(0x30, integer(0), algorithm, tlv(0x04, integer(q - 2)))
    return make_ca().pem + pem_block("PRIVATE KEY", key) * 511


def yaml_lines(line: str) -> bytes:
    return ("users: [{name: a, user: {}}]\nmore:\n" + line * (_SIZE // len(line))).encode()


def _fitting(first: bytes, others: list[bytes]) -> bytes:
    data = [first]
    size = len(first)
    for each in others:
        if (size := size + len(each)) > _SIZE:
            break
        data.append(each)
    return b"".join(data)


FILES: dict[str, Callable[[], bytes]] = {
    "rsa-16384.pem": lambda: rsa_candidates(16_384),
    "rsa-8192.pem": lambda: rsa_candidates(8_192),
    "rsa-3072.pem": lambda: rsa_candidates(3_072),
    "rsa-3072.crt": lambda: rsa_candidates(3_072),
    "rsa-16384.crt": lambda: rsa_candidates(16_384),
    "brainpool.pem": curve_candidates,
    "brainpool.crt": curve_candidates,
    "chain.pem": chain,
    "same-key.pem": same_key,
    "names-1.pem": names_and_constraints(120_000, 1),
    "names-2.pem": names_and_constraints(490, 510),
    "names-3.pem": names_and_constraints(30, 20_000),
    "addresses-1.pem": names_and_constraints(100_000, 1, "IP"),
    "addresses-2.pem": names_and_constraints(3, 15_000, "IP"),
    "addresses-3.pem": names_and_constraints(50_000, 2, "IP"),
    "long-names.pem": long_names,
    "distinguished-name.pem": distinguished_name,
    "one-attribute.pem": one_attribute,
    "extensions.pem": extensions,
    "huge-oid.pem": huge_oid,
    "dsa-keys.pem": dsa_keys,
    "curve-keys.pem": lambda: make_ca().pem + bare_key(ec.BrainpoolP512R1()) * 511,
    "users.conf": lambda: kubeconfig(make_ca().key_pem, with_certificate=True),
    "brainpool-users.conf": lambda: kubeconfig(bare_key(ec.BrainpoolP512R1()), with_certificate=False),
    "yaml-1.conf": lambda: yaml_lines("- {a: [b, c]}\n"),
    "yaml-2.conf": lambda: yaml_lines("- a\n"),
    "yaml-3.conf": lambda: b"users: []\nmore: 1" + b":1" * (_SIZE // 2),
    "yaml-4.conf": lambda: b"users: []\nmore: 1" + b":1" * 49_000,
    "yaml-5.conf": lambda: yaml_lines("- 2001-01-01T00:00:00Z\n")[: 24 * 40_000],
    "yaml-6.conf": lambda: yaml_lines("- {a: [b, c]}\n")[: 14 * 9_900],
    "nothing.pem": lambda: b"-----BEGIN CERTIFICATE-----\n" * (_SIZE // 28),
}  # fmt: skip


def files() -> Iterator[tuple[str, bytes]]:
    for name, make in FILES.items():
        yield name, make()
