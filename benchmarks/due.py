"""Benchmark of the time until the daemon publishes damage to a file while it renews a directory of due certificates.

The node has `count` due certificates in one directory, and one certificate in another directory. The benchmark damages
this certificate after the first renewal. The daemon is a separate process, and its metrics show the damage.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from benchmarks.measuring import Figure, scratch

_LONGEST = 300.0
_CONFIG = """
profile: none
mode: enforce
hold: {unsynchronised_clock: false}
key_algorithm: ECDSA-P256
spread: 1s
certificates:
  - {name: ca, path: /ca.crt, key: /ca.key, authority: true}
  - {name: due, path: '/due/*.pem', ca: ca, usages: [client auth]}
  - {name: elsewhere, path: /elsewhere/leaf.pem, ca: ca, usages: [client auth]}
"""


@dataclass(frozen=True)
class Authority:
    """A CA with a P-256 key. The files of the CA are below `root`."""

    root: Path
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, root: Path) -> Authority:
        made = cls(root, ec.generate_private_key(ec.SECP256R1()))
        made.put("ca.crt", made.signed("ca", 3650, made.key, authority=True))
        made.put("ca.key", _pem(made.key))
        return made

    def put(self, path: str, content: bytes) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(content)
        (self.root / path).chmod(0o600)

    def leaf(self, name: str, days: int) -> bytes:
        """Return a certificate and its key. The certificate is valid from one year ago until `days` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self.signed(name, days, key) + _pem(key)

    def signed(self, name: str, days: int, key: ec.EllipticCurvePrivateKey, *, authority: bool = False) -> bytes:
        now = datetime.now(UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=365))
            .not_valid_after(now + timedelta(days=days))
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if not authority:
            usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(usages, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def measure_due(count: int) -> Iterator[Figure]:
    """Yield the rows about `count` due renewals with damage in another directory."""
    with scratch() as work:
        root = work / "node"
        ca = Authority.make(root)
        for number in range(count):
            ca.put(f"due/{number:05d}.pem", ca.leaf(f"due-{number}", 10))
        ca.put("elsewhere/leaf.pem", ca.leaf("elsewhere", 360))
        (work / "config.yaml").write_text(_CONFIG)
        command = [
            sys.executable, "-m", "certmond", "--root", str(root), "--config", str(work / "config.yaml"), "--state-dir",
            str(work / "state"), "run", "--runtime-dir", str(work / "run"), "--log", "json",
        ]  # fmt: skip
        with (work / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
            metrics = work / "run" / "metrics.prom"
            try:
                _until(lambda: "step_done" in (work / "log").read_text())
                begun = time.monotonic()
                ca.put("elsewhere/leaf.pem", b"damaged")
                _until(lambda: 'certmond_finding{certificate="elsewhere"' in metrics.read_text())
                seen = time.monotonic() - begun
                _until(lambda: 'certmond_planned_steps{step="issue"} 0.0\n' in metrics.read_text())
                done = time.monotonic() - begun
            finally:
                daemon.terminate()
        yield Figure(
            f"{count} due renewals: time from the damage of another file until the metrics show it",
            "s",
            [seen],
            "≤ 3 s",
        )
        yield Figure("  time until all certificates are renewed", "s", [done], "")


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + _LONGEST
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition was not true within {_LONGEST:g} s")
        time.sleep(0.02)
