"""The exporters with which the benchmarks compare certmond, and the commands that start these exporters.

The flags, the configuration and the series are from the source of each exporter: `cmd/node-cert-exporter/main.go` of
amimof/node-cert-exporter, `ssl_exporter.go` and `prober/metrics.go` of ribbybibby/ssl_exporter, `main.go` and
`src/metrics/metrics.go` of joe-elliott/cert-exporter, and `internal/config/config.go` of
enix/x509-certificate-exporter.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fixture import Leaves
from benchmarks.measuring import scratch
from benchmarks.processes import Exporter, free_port

_TRIAL_FILES = 3
_TRIAL_SECONDS = 20.0


@dataclass(frozen=True)
class Usage:
    """The use of an exporter for the certificates in a directory.

    `{directory}`, `{port}` and `{configuration}` are placeholders for a directory, a port of the loopback address and
    the path of a file that contains `configuration`.
    """

    arguments: tuple[str, ...]
    # The series with the expiry of each certificate.
    series: str
    path: str = "/metrics"
    configuration: str = ""


USAGES: Mapping[str, Usage] = {
    "node-cert-exporter": Usage(
        ("--listen=127.0.0.1:{port}", "--path={directory}", "--logtostderr"), "ssl_certificate_expiry_seconds"
    ),
    "ssl_exporter": Usage(
        ("--web.listen-address=127.0.0.1:{port}",),
        "ssl_file_cert_not_after",
        "/probe?module=file&target={directory}/*.crt",
    ),
    "cert-exporter": Usage(
        (
            "-include-cert-glob={directory}/*.crt",
            "-prometheus-listen-address=127.0.0.1:{port}",
            "-polling-period=1s",
            "-logtostderr",
        ),
        "cert_exporter_cert_not_after_timestamp",
    ),
    "x509-certificate-exporter": Usage(
        ("--config={configuration}",),
        "x509_cert_not_after",
        configuration=(
            "server: {{listen: '127.0.0.1:{port}'}}\n"
            "cache: {{filePoll: {{interval: 1s}}}}\n"
            "sources: [{{kind: file, name: benchmark, paths: ['{directory}/*.crt']}}]\n"
        ),
    ),
}


@dataclass(frozen=True)
class Peer:
    """An exporter that is installed on this machine."""

    name: str
    program: str

    def start(self, work: Path, leaves: Leaves) -> Exporter:
        """Start the exporter for `leaves`. `work` is a new directory for its files."""
        work.mkdir()
        usage, port = USAGES[self.name], free_port()
        values = {"directory": str(leaves.directory), "port": str(port), "configuration": str(work / "config.yaml")}
        (work / "config.yaml").write_text(usage.configuration.format(**values))
        command = [self.program, *(argument.format(**values) for argument in usage.arguments)]
        return Exporter([command], work / "log", port, usage.path.format(**values), usage.series)

    @property
    def version(self) -> str:
        """The version or the commit that Go has recorded in the program, or "" without such a record."""
        built = Path(self.program).read_bytes()
        version = re.search(rb"\nmod\t\S+\t(v[\w.+-]+)", built)
        commit = re.search(rb"\nbuild\tvcs\.revision=([0-9a-f]{12})", built)
        return version[1].decode() if version else f"commit {commit[1].decode()}" if commit else ""


def parse_peer(text: str) -> Peer:
    """Return the peer of a command-line argument NAME=PROGRAM. Raises ValueError for a wrong argument."""
    name, sign, program = text.partition("=")
    if not sign:
        raise ValueError(f"{text!r} is not NAME=PROGRAM")
    if name not in USAGES:
        raise ValueError(f"{name!r} is not one of the compared exporters: {', '.join(USAGES)}")
    found = shutil.which(program)
    if found is None:
        raise ValueError(f"{program!r} of {name} is not an executable program; name its path")
    return Peer(name, found)


def check(peers: Sequence[Peer], begin: Callable[[str], None]) -> None:
    """Start each exporter with a few certificates. Raises ValueError if one does not export all of them.

    Call `begin` with the name of each trial at its start.
    """
    with scratch() as work:
        leaves = Leaves.make(work / "node", _TRIAL_FILES)
        for peer in peers:
            begin(f"trial of {peer.name}")
            try:
                _try(peer, work / peer.name, leaves)
            except TimeoutError as error:
                raise ValueError(f"{peer.name} does not export {USAGES[peer.name].series}: {error}") from error
            except OSError as error:
                raise ValueError(f"cannot start {peer.name}: {error}") from error


def _try(peer: Peer, work: Path, leaves: Leaves) -> None:
    with peer.start(work, leaves) as running:
        running.until(lambda: running.expiries() >= leaves.count, every=0.05, at_most=_TRIAL_SECONDS)
