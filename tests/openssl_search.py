"""A search for files with certificates that uses only openssl, and no code of certmond."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

PLACES = ("etc", "var/lib", "opt", "run", "var/snap", "srv", "mnt")
"""The directories with certificates: /run for k0s, /var/snap for snaps, /srv and /mnt for kOps."""
_TOKEN = re.compile(rb"[A-Za-z0-9+/]{200,}={0,2}")
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


def certificate_files(root: Path, openssl: str) -> set[str]:
    """Return the path below `root` of each file with a certificate. Symlinks are replaced by their targets."""
    names = (Path(parent) / name for place in PLACES for parent, _, files in os.walk(root / place) for name in files)
    files = {real_path(root, f"/{name.relative_to(root)}") for name in names}
    return {path for path in files if (root / path[1:]).is_file() and has_certificate(root / path[1:], openssl)}


def real_path(root: Path, path: str) -> str:
    """Return a path without symlinks. An absolute symlink begins at `root`."""
    done = ""
    parts = path.split("/")[1:]
    while parts:
        part = parts.pop(0)
        if part == "..":
            done = done.rpartition("/")[0]
        elif part not in {"", "."}:
            done = f"{done}/{part}"
            if (root / done[1:]).is_symlink():
                target = os.readlink(root / done[1:])
                done = "" if target.startswith("/") else done.rpartition("/")[0]
                parts = target.split("/") + parts
    return done


def has_certificate(path: Path, openssl: str) -> bool:
    """Return whether openssl finds a certificate in the file: PEM, DER, PKCS#12, base64, or PEM in a text."""
    # A bundle of PEM, a certificate in DER, or PKCS#12 without a password.
    command = [openssl, "storeutl", "-noout", "-certs", "-passin", "pass:", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if re.search(r"Total found: [1-9]", done.stdout):
        return True
    return any(_is_certificate(each, openssl) for each in _candidates(path.read_bytes()))


def _candidates(content: bytes) -> Iterator[bytes]:
    texts = [content]
    for token in _TOKEN.findall(content):
        decoded = base64.b64decode(token + b"=" * (-len(token) % 4))
        if decoded[:1] == b"\x30":
            yield decoded
        texts.append(decoded)
    for text in texts:  # the lines of a block in YAML are indented
        yield from (b"\n".join(block.split(b"\n")).replace(b" " * 2, b"") for block in _BLOCK.findall(text))


def _is_certificate(content: bytes, openssl: str) -> bool:
    command = [openssl, "x509", "-noout", *(["-inform", "DER"] if content[:1] == b"\x30" else [])]
    return subprocess.run(command, input=content, capture_output=True, check=False).returncode == 0
