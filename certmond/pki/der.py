"""The values of a certificate that are compared as they stand, cut out of its DER: X.690 as far as that takes.

Owns lengths and nothing of their meaning. What is given here has been parsed by cryptography, or is only measured.
"""

from __future__ import annotations

from typing import NamedTuple

_VERSION = 0xA0  # the tag of the only field before the serial number, which may be absent (RFC 5280, 4.1)


class Parts(NamedTuple):
    """Of a Certificate (RFC 5280, 4.1): what is signed, with which algorithm by its own word and by that beside the
    signature, and the two names.
    """

    signed: bytes
    inner_algorithm: bytes
    issuer: bytes
    subject: bytes
    outer_algorithm: bytes


def parts_of(certificate: bytes) -> Parts:
    """The parts of a certificate that can be loaded."""
    signed_at, _ = _content(certificate, 0)
    at, signed_end = _content(certificate, signed_at)
    serial_at = _content(certificate, at)[1] if certificate[at] == _VERSION else at
    algorithm_at = _content(certificate, serial_at)[1]
    issuer_at = _content(certificate, algorithm_at)[1]
    validity_at = _content(certificate, issuer_at)[1]
    subject_at = _content(certificate, validity_at)[1]
    subject_end = _content(certificate, subject_at)[1]
    outer_end = _content(certificate, signed_end)[1]
    return Parts(
        certificate[signed_at:signed_end],
        certificate[algorithm_at:issuer_at],
        certificate[issuer_at:validity_at],
        certificate[subject_at:subject_end],
        certificate[signed_end:outer_end],
    )


def leading_value(data: bytes) -> bytes:
    """The first DER value of `data`, without what follows it; `data` itself where its length field makes no sense."""
    return data[: _content(data, 0)[1]] if len(data) >= 2 and data[0] == 0x30 else data


def _content(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the value at `at` begins, and where it ends."""
    size, begin = data[at + 1], at + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(data[at + 2 : begin])
    return begin, begin + size
