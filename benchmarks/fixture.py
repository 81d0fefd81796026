"""Inputs of the benchmarks: a directory of leaves of one CA, and the files of a kubeadm node."""

from __future__ import annotations

import tarfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from benchmarks.processes import Exporter

TREE = Path(__file__).parents[1] / "tests" / "data" / "kubeadm-1.24.tar"
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


@dataclass
class Leaves:
    """`count` leaves of one CA (RSA-2048, as in kubeadm), each in a separate file, with a configuration of certmond."""

    root: Path
    directory: Path
    config: Path
    key: rsa.RSAPrivateKey
    leaf_key: ec.EllipticCurvePrivateKey
    count: int

    @classmethod
    def make(cls, root: Path, count: int) -> Leaves:
        directory = root / "certs"
        directory.mkdir(parents=True)
        config = root.parent / "config.yaml"
        config.write_text(
            "profile: none\ncertificates:\n"
            "  - {name: ca, path: /ca.crt, authority: true, key_optional: true}\n"
            "  - {name: leaf, path: '/certs/*.crt', ca: ca, usages: [server auth]}\n"
        )
        key = rsa.generate_private_key(65537, 2048)
        leaves = cls(root, directory, config, key, ec.generate_private_key(ec.SECP256R1()), count)
        (root / "ca.crt").write_bytes(leaves._signed("bench-ca", None))
        for number in range(count):
            (directory / f"{number:06d}.crt").write_bytes(leaves._signed(f"leaf-{number}", START + timedelta(days=365)))
        return leaves

    def _signed(self, name: str, end: datetime | None) -> bytes:
        authority = end is None
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench-ca")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .serial_number(x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(end or START + timedelta(days=3650))
            .public_key(self.key.public_key() if authority else self.leaf_key.public_key())
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{name}.example")]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def replace_one(self, exporter: Exporter, number: int) -> float:
        """Return the seconds from the rename of one file until the metrics contain the new expiry."""
        end = START + timedelta(days=364, seconds=number)
        target = self.replace(number, end)
        start = time.perf_counter()
        exporter.until(lambda: exporter.shows(target.name, int(end.timestamp())))
        return time.perf_counter() - start

    def replace_many(self, exporter: Exporter, count: int) -> float:
        """Return the seconds from the first of `count` successive renames until the metrics contain each new expiry."""
        end = START + timedelta(days=363)
        staged = [(self.root / f"staged-{number}", self.directory / f"{number:06d}.crt") for number in range(count)]
        for number, (path, _) in enumerate(staged):
            path.write_bytes(self._signed(f"burst-{number}", end))
        start = time.perf_counter()
        for path, target in staged:
            path.rename(target)
        wanted = f"}} {int(end.timestamp())}\n".encode()
        exporter.until(lambda: exporter.count(wanted) >= count)
        return time.perf_counter() - start

    def replace(self, number: int, end: datetime) -> Path:
        """Replace the leaf in one file with a leaf that expires at `end`. Return the file, which `number` selects."""
        target = self.directory / f"{number * 7919 % self.count:06d}.crt"
        staged = self.root / "staged"
        staged.write_bytes(self._signed(f"again-{number}", end))
        staged.rename(target)
        return target


def parse_loop(directory: Path) -> int:
    """Read and parse every file without a verification, as the simplest possible program for comparison."""
    return sum(1 for path in directory.iterdir() if x509.load_pem_x509_certificate(path.read_bytes()).serial_number)


def kubeadm_node(root: Path) -> Path:
    """Extract the files of a real kubeadm node into `root`, and return the root of the node."""
    root.mkdir()
    with tarfile.open(TREE) as archive:
        archive.extraction_filter = lambda member, _: (
            member
        )  # the archive is trusted; Python 3.11.2 has no argument `filter=`
        archive.extractall(root)  # noqa: S202 - trusted data, with relevant modes and symlinks
    return root
