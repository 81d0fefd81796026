"""Text of a serial number (RFC 5280, 4.1.2.2)."""

from __future__ import annotations


def hexadecimal(serial: int) -> str:
    """Return a serial number in hexadecimal digits, as in the output of `openssl x509 -text`, but without colons.

    Each byte has two lowercase digits, so that a search for a serial number finds the number in every text.
    """
    digits = f"{abs(serial):x}"
    return f"{'-' if serial < 0 else ''}{'0' * (len(digits) % 2)}{digits}"
