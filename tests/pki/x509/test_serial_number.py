"""Text of a serial number."""

from __future__ import annotations

import subprocess

import pytest

from certmond.pki.x509.serial_number import hexadecimal
from tests.builders import make_ca
from tests.deadline import DEADLINE


@pytest.mark.parametrize(
    ("serial", "text"),
    [(0, "00"), (10, "0a"), (255, "ff"), (256, "0100"), (2**158 + 1, f"40{'00' * 18}01"), (-1, "-01")],
)
def test_each_byte_has_two_lowercase_digits(serial: int, text: str) -> None:
    """A serial number has two lowercase hexadecimal digits for each byte, and a sign if it is negative."""
    assert hexadecimal(serial) == text


@pytest.mark.real("openssl")
@pytest.mark.parametrize("serial", [0, 10, 2**70 + 3, 2**158 + 1, -1])
def test_openssl_prints_the_same_digits(serial: int) -> None:
    """`openssl x509 -serial` prints the same digits, in uppercase."""
    made = make_ca("ca", serial=serial)
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"], input=made.pem, capture_output=True, timeout=DEADLINE, check=True
    ).stdout.decode()
    assert shown.strip().partition("=")[2].lower() == hexadecimal(serial)
