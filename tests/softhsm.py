"""A SoftHSM token with the keys of CAs, made by the commands of docs/signers.md.

The token is outside of every node. Its keys cannot be read: only the program of the documentation signs with them.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.signers.command import CommandSigner
from certmond.signers.protocol import Request
from tests.builders import Issued
from tests.conftest import real_part, unavailable
from tests.deadline import DEADLINE
from tests.documents import ROOT, Block, blocks

PIN = b"73519046"
CREDENTIALS = "/run/credentials/certmond.service"
SECTION = "## PKCS#11"
PAGE = ROOT / "docs" / "signers.md"
"""Seconds for one command of the set-up."""
_TYPED = ("openssl ", "OPENSSL_CONF", "pkcs11-tool ", "softhsm2-util ", "install ")


def section() -> list[Block]:
    """Return the blocks of the section about PKCS#11."""
    lines = PAGE.read_text().splitlines()
    begin = lines.index(SECTION)
    end = next(number for number, line in enumerate(lines) if number > begin and line.startswith("## "))
    return [block for block in blocks(PAGE) if begin < block.line <= end]


class Token:
    """A SoftHSM token with a CA key, made by the commands of the documentation below `place`, outside of every node."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "tokens").mkdir(parents=True)
        (place / ".config/softhsm2").mkdir(parents=True)
        settings = f"directories.tokendir = {place}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        (place / ".config/softhsm2/softhsm2.conf").write_text(settings)
        (place / "credentials").mkdir(0o700)
        self.pin = place / "credentials/ca-pin"
        self.pin.write_bytes(PIN)
        self.pin.chmod(0o600)
        for command in _set_up():
            self.type(self.local(command))
        (self.signer,) = [each for block in section() if block.language == "yaml" for each in self.specs(block)]
        self.ca = self.certificate("ca.crt")
        self.public = public_key(self.ca)

    def certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.place / "certmond/pkcs11" / name).read_bytes())

    @cached_property
    def another(self) -> tuple[x509.Certificate, list[str]]:
        """A second CA of the same name in the token, and the command of its signer."""
        names = {"--label ca --id 01": "--label new --id 02", "object=ca;": "object=new;", "/ca.crt": "/new.crt"}
        for command in (each for each in _set_up() if each.startswith(("pkcs11-tool", "OPENSSL_CONF"))):
            self.type(self.local(_renamed(command, names)))
        return self.certificate("new.crt"), [_renamed(word, names) for word in self.signer["command"]]

    def local(self, text: str) -> str:
        """Return the text with the directories of this test."""
        return text.replace("/etc/certmond", f"{self.place}/certmond").replace(CREDENTIALS, f"{self.place}/credentials")

    def specs(self, block: Block) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = yaml.safe_load(self.local(block.text)).get("signers", [])
        return found

    def type(self, command: str) -> None:
        """Run the command in a terminal of the repository, and type the PIN at each prompt."""
        terminal, other = pty.openpty()
        words = ["setsid", "--ctty", "--wait", "/bin/sh", "-c", command]  # programs read a PIN from /dev/tty
        environment = os.environ | {"HOME": str(self.place)}
        process = subprocess.Popen(words, stdin=other, stdout=other, stderr=other, cwd=ROOT, env=environment)
        os.close(other)
        said, shown, end = b"", b"", time.monotonic() + DEADLINE
        with process, os.fdopen(terminal, "r+b", buffering=0) as typed:
            while chunk := _read(typed.fileno(), end):
                said, shown = said + chunk, shown + chunk
                if re.search(rb"(PIN|pass phrase)[^\n]*: ?$", said) and _is_hidden(typed.fileno(), end):
                    typed.write(PIN + b"\n")
                    said = b""
        assert process.returncode == 0, shown

    def sign(self, request: Request, command: Sequence[str] = ()) -> bytes:
        """Return the certificate of the signer in the documentation, or of another command."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("HOME", str(self.place))
            command = tuple(command or self.signer["command"])
            return CommandSigner("token", command, time_limit=timedelta(seconds=DEADLINE)).sign(request).pem

    def files(self) -> list[Path]:
        return [path for path in (self.place / "tokens").rglob("*") if path.is_file()]


def _read(terminal: int, end: float) -> bytes:
    """Return the next output of the terminal, or b"" after the end of the command, which Linux reports as EIO."""
    assert select.select([terminal], [], [], end - time.monotonic())[0], "the command does not end"
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def _is_hidden(terminal: int, end: float) -> bool:
    """Wait until the program does not echo its input. Some programs discard what was typed before."""
    while termios.tcgetattr(terminal)[3] & termios.ECHO:
        assert time.monotonic() < end, "the command echoes the PIN"
        if select.select([terminal], [], [], 0.02)[0]:
            return False  # more output: the prompt was not the last
    return True


def _set_up() -> list[str]:
    """Return the commands of the documentation that make the token, its key and the CA."""
    ran = [command for block in section() if block.is_commands for command in block.commands()]
    return [each for each in ran if each.startswith(_TYPED)]


def _renamed(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    found = certificate.public_key()
    assert isinstance(found, ec.EllipticCurvePublicKey)
    return found


def issued(certificate: x509.Certificate, key: Any) -> Issued:
    """Return a certificate with the key of its subject. The issuer of a token has no key here."""
    return Issued(certificate.public_bytes(Encoding.DER), key, certificate.subject, None, None)


def token(place: Path) -> Token:
    """Return a new token below `place`. Skip the test if a part is missing."""
    openssl, _, _ = map(real_part, ("openssl", "softhsm2-util", "pkcs11-tool"))
    command = [openssl, "list", "-providers", "-provider", "pkcs11"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        unavailable("pkcs11-provider not installed")
    return Token(place)
