"""Key material in texts and values, in each form in which a message may quote it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from certmond.pki.findings import printable
from certmond.redaction import REMOVED, redacted, redacted_value
from tests.builders import make_ca, new_key

PKCS8, TRADITIONAL, OPENSSH = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH
KEYS = {
    "PKCS#8": new_key("ec").private_bytes(Encoding.PEM, PKCS8, NoEncryption()),
    "RSA": new_key("rsa").private_bytes(Encoding.PEM, TRADITIONAL, NoEncryption()),
    "EC": new_key("ec").private_bytes(Encoding.PEM, TRADITIONAL, NoEncryption()),
    "encrypted": new_key("ec").private_bytes(Encoding.PEM, PKCS8, BestAvailableEncryption(b"secret")),
    "OpenSSH": new_key("ed25519").private_bytes(Encoding.PEM, OPENSSH, NoEncryption()),
}
PEM = {name: key.decode() for name, key in KEYS.items()}

PUBLIC = new_key("ec").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def folded(text: str) -> str:
    """The base64 of a text in lines, as a YAML block has it."""
    encoded = b64encode(text.encode()).decode()
    return "\n    ".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda pem: pem,
    "with CRLF": lambda pem: pem.replace("\n", "\r\n"),
    "on one line": printable,
    "as JSON": lambda pem: pem.replace("\n", "\\n"),
    "without its end": lambda pem: pem[: len(pem) * 3 // 4],
    "without its beginning": lambda pem: pem[40:],
    "twice": lambda pem: pem + pem,
    "without its beginning, before a whole one": lambda pem: pem[40:] + pem,
    "in base64": lambda pem: b64encode(pem.encode()).decode(),
    "in base64, one byte later": lambda pem: b64encode(b"\n" + pem.encode()).decode(),
    "in base64, two bytes later": lambda pem: b64encode(b"\r\n" + pem.encode()).decode(),
    "in folded base64": folded,
    "in base64, behind a certificate": lambda pem: b64encode(make_ca().pem + pem.encode()).decode(),
}


def pieces(text: str) -> set[str]:
    """Each group of 16 base64 characters of a text, from wherever it is quoted."""
    body = "".join(line for line in text.splitlines() if not line.startswith("-----"))
    return {body[start : start + 16] for start in range(len(body) - 15)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", PEM)
def test_no_part_of_a_key_remains(kind: str, form: str) -> None:
    """The private key is removed completely, and the text around it stays."""
    quoted = FORMS[form](PEM[kind])
    text = redacted(f"signer: the answer was: {quoted}; see: certmond check")
    assert text.startswith("signer: the answer was:")
    if form != "without its end":  # the following text may be part of the key
        assert text.endswith("; see: certmond check")
    assert REMOVED in text
    flat = text.replace("\\n", "").replace("\n", "")
    assert not any(piece in flat for piece in pieces(PEM[kind]) | pieces(quoted.replace("\n    ", "")))


def test_values_of_any_type_are_redacted() -> None:
    """Bytes, containers and objects with a text are searched as a text is; numbers stay numbers."""
    key = PEM["PKCS#8"]
    assert redacted_value(key.encode()) == f"{REMOVED}\n"
    assert redacted_value({"a": [key, 3], key: (None, True)}) == {
        "a": [f"{REMOVED}\n", 3],
        f"{REMOVED}\n": [None, True],
    }
    assert redacted_value(ValueError(key)) == f"{REMOVED}\n"
    assert [redacted_value(value) for value in (3, 1.5, None, False)] == [3, 1.5, None, False]


@pytest.mark.parametrize(
    "text",
    [
        "/etc/kubernetes/pki/apiserver.key is not the private key of apiserver.crt",
        "a file with 2 PRIVATE KEY blocks; see: certmond check",
        make_ca().pem.decode(),
        b64encode(make_ca().pem).decode(),
        PUBLIC.decode(),
        "",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    """A text without a private key is not changed: words, certificates and public keys stay."""
    assert redacted(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PRIVATE KEY-----" * 20_000,
        "-----END PRIVATE KEY-----" * 20_000,
        "A" * 500_000 + "-----END PRIVATE KEY-----",
        "-----BEGIN " * 50_000 + "PRIVATE KEY",
        "UFJJVkFURSBLRV " * 30_000,
        "PRIVATE KEY" + "-" * 500_000,
    ],
    ids=lambda text: f"{text[:30]}…",
)
@pytest.mark.timeout(60)  # milliseconds; a search of quadratic time takes hours
def test_half_a_megabyte_is_searched_in_linear_time(text: str) -> None:
    """A name of half a megabyte that looks like many keys, or half of one, is searched once."""
    assert "-----BEGIN PRIVATE KEY" not in redacted(text)
