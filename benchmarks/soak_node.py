"""The node of the soak test: a CA, leaves that are valid for minutes, a service, and the changes to their files.

openssl creates the certificates. All files are in one directory, but the root is "/", because certmond restarts
services only for this root. This module uses no code of certmond, and depends only on the renewal point of certmond.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from benchmarks.processes import free_port

FEWEST, MOST = 30, 50
"""Minimum and maximum number of leaves at the same time."""
DUE, LIFE = (1, 20), 300
"""Seconds from the creation of a leaf until the leaf is due (minimum, maximum), and the lifetime in seconds."""
DAY = 86400
SERVICE = "server"


class SoakNode:
    """The node below `work`. The service runs during the `with` block."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.leaves, self.served = work, work / "leaves", work / "served.pem"
        self.leaves.mkdir(parents=True)
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.done = Counter[str]()
        self._number = 0
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._sh("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=soak", "-days", "30")
        (work / "ca.key").chmod(0o600)
        for name, usage in (("leaf", "clientAuth"), ("served", "serverAuth")):
            (work / f"{name}.says").write_text(
                f"basicConstraints=critical,CA:FALSE\nextendedKeyUsage={usage}\nkeyUsage=critical,digitalSignature\n"
                "authorityKeyIdentifier=keyid\nsubjectAltName=IP:127.0.0.1\n"
            )
            self._sh("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self._put(self.served, "served", DUE[1] - LIFE * 2 / 3, LIFE)  # certmond renews the first certificate
        self.port = free_port()
        for _ in range(FEWEST):
            self.change()

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.served", str(self.served), str(self.port), str(self._starts)]
        self._service = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._service.terminate()
        self._service.wait()

    def config(self) -> str:
        """Return the configuration of certmond, with seconds instead of the minutes of a real node."""
        return f"""
profile: none
mode: enforce
hold: {{unsynchronised_clock: false}}
key_algorithm: ECDSA-P256
spread: 1s
restart: {{stable: 2s, ready_within: 1m, spacing: 1s}}
certificates:
  - {{name: ca, path: {self.work}/ca.crt, key: {self.work}/ca.key, authority: true}}
  - {{name: leaf, path: '{self.leaves}/*.pem', ca: ca, usages: [client auth]}}
  - {{name: served, path: {self.served}, ca: ca, usages: [server auth], consumers: {SERVICE}}}
services:
  - name: {SERVICE}
    kind: command
    command: [/bin/kill, -HUP, '{self._service.pid}']
    serves: {{served: '127.0.0.1:{self.port}'}}
    health: https://127.0.0.1:{self.port}/
hooks:
  - {{name: received, command: [/bin/true]}}
"""

    # Changes to the files

    def change(self) -> None:
        """Change, add or remove a random file."""
        present = sorted(self.leaves.glob("*.pem"))
        acts: list[Callable[[Path], None]] = [self._break, self._rename, self._touch, self._remove]
        if len(present) < FEWEST or (len(present) < MOST and self.chance.random() < 0.5):
            self._number += 1
            # certmond renews a leaf after two thirds of its lifetime, and this leaf reaches this age within seconds.
            self._put(self.leaves / f"{self._number:06d}.pem", "leaf", self.chance.randint(*DUE) - LIFE * 2 / 3, LIFE)
            self.done["_add"] += 1
        else:
            act = self.chance.choice(acts)
            act(self.chance.choice(present))
            self.done[act.__name__] += 1

    def replace_served(self) -> None:
        """Replace the certificate of the service."""
        self._put(self.served, "served", 0, DAY)
        self.done["replace_served"] += 1

    def fill(self, count: int) -> Iterator[Path]:
        """Create `count` leaves, at most 500 in one file, and yield the files. The caller must remove the files."""
        for number in range(-(-count // 500)):
            path = self.leaves / f"filling-{number}.pem"
            path.write_bytes(b"".join(self._issued("leaf", 0, 30 * DAY) for _ in range(min(500, count))))
            yield path

    def _break(self, path: Path) -> None:
        path.write_bytes(b"junk")

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _touch(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            os.utime(path)

    def _rename(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f"moved-{path.name}"))

    def _put(self, path: Path, name: str, begin: float, life: float) -> None:
        """Replace the content of a file with a certificate and its key."""
        staged = self.work / "staged"
        staged.write_bytes(self._issued(name, begin, life) + (self.work / f"{name}.key").read_bytes())
        staged.chmod(0o600)
        staged.rename(path)

    def _issued(self, name: str, begin: float, life: float) -> bytes:
        """Return a certificate that is valid from `begin` seconds after now, for `life` seconds."""
        first, last = (
            f"{datetime.fromtimestamp(time.time() + begin + shift, UTC):%Y%m%d%H%M%SZ}" for shift in (0, life)
        )
        return self._sh("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-extfile",
                        f"{name}.says", "-not_before", first, "-not_after", last)  # fmt: skip

    # Observations

    def ends(self) -> dict[str, float | None]:
        """Return the expiry of each certificate by path, as openssl reads it, or None for an invalid file."""
        found: dict[str, float | None] = {}
        for path in [self.work / "ca.crt", self.served, *self.leaves.glob("*.pem")]:
            command = ["openssl", "x509", "-in", str(path), "-noout", "-enddate", "-dateopt", "iso_8601"]
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("=")[2].strip()
            found[str(path)] = datetime.fromisoformat(said).timestamp() if said else None
        return found

    def uses(self) -> tuple[str, str]:
        """Return the SHA-256 of the certificate that the service serves, and of the certificate in its file."""
        at = f"127.0.0.1:{self.port}"
        command = ["openssl", "s_client", "-connect", at]
        shown = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).stdout
        return self._digest(shown), self._digest(self.served.read_bytes())

    def starts(self) -> int:
        """Return the number of starts of the service."""
        return len(self._starts.read_text().splitlines()) if self._starts.exists() else 0

    @property
    def _starts(self) -> Path:
        return self.work / "starts"

    def _digest(self, pem: bytes) -> str:
        command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
        said = subprocess.run(command, input=pem, capture_output=True, check=False).stdout.decode()
        return said.partition("=")[2].strip().replace(":", "").lower()

    def _sh(self, *words: str) -> bytes:
        return subprocess.run(["openssl", *words], cwd=self.work, check=True, capture_output=True).stdout
