"""Comparison of the findings of certmond with the results of Go, for mutated chains and pairs of certificate and key.

    python -m fuzz.differential --chains 27000 --pairs 2000

This program writes each case to files, and assesses the files as `certmond check` does. Go parses and verifies the same
chain, or loads the same pair and makes a TLS handshake with this pair. The program prints the number of cases in each
class; docs/path-validation.md describes the classes. The exit status is 1 if Go fails and certmond reports no critical
finding, or if only Go or only certmond can parse a certificate. To repeat a run, use `--seed`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import Refusal
from fuzz.mutated_chains import Chain, chains
from fuzz.mutated_pairs import Pair, pairs
from tests.builders import NOW
from tests.go_oracle import Batch, build, is_old, lines, version_of

SEED = 20261127


@dataclass
class Comparison:
    """The number of cases by class, and each case without a class."""

    counts: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)

    def note(self, title: str, *, go: str, criticals: list[Finding]) -> None:
        """Count one case. `go` is the error of Go, or "" on success. `criticals` are the critical findings."""
        if bool(go) == bool(criticals):
            self.counts["both refuse" if go else "both accept"] += 1
        elif go:
            self.counts["GO FAILS, CERTMOND SAYS OK"] += 1
            self.unexplained.append(f"{title}: Go says {go!r}, certmond nothing critical")
        else:
            name = class_of(criticals)
            self.counts[name] += 1
            if name not in MUTANTS:
                self.unexplained.append(
                    f"{title}: only certmond refuses it: {'; '.join(each.message for each in criticals)}"
                )

    def differ(self, title: str, *, go: str, mine: str) -> None:
        """Count a certificate or key that only Go or only certmond can parse."""
        self.counts["READ BY ONE OF THEM ONLY"] += 1
        self.unexplained.append(f"{title}: Go says {go!r}, certmond {mine!r}")


MUTANTS: dict[str, Callable[[Finding], bool]] = {
    "a key that TLS cannot use": lambda found: found.reason in {Reason.WEAK_KEY, Reason.KEY_UNUSABLE},
    "a root that did not sign itself": lambda found: found.reason is Reason.CA_NOT_SELF_SIGNED,
    "a keyUsage of an anchor without a bit": lambda found: found.reason is Reason.CA_CANNOT_SIGN,
    "an end within seven days": lambda found: found.reason is Reason.NEARING_EXPIRY,
    "certificate policies": lambda found: Refusal.POLICIES in found.message,
    "an exponent of the key file alone": lambda found: found.reason is Reason.KEY_MISMATCH,
    "damage beside what TLS reads": lambda found: found.reason is Reason.MALFORMED and "PEM block" in found.message,
}
"""The classes of cases that only certmond refuses, by finding. docs/path-validation.md describes the reason of each."""


def class_of(criticals: list[Finding]) -> str:
    """Return the class of the first finding that has a class. Without a class, return the reasons of the findings."""
    fitting = (name for name, fits in MUTANTS.items() if any(map(fits, criticals)))
    return next(fitting, ", ".join(sorted({each.reason.value for each in criticals})))


def leaf_row(usage: str, key: str | None = None) -> CertificateSpec:
    """Return the entry of a server or client certificate whose file also contains its chain."""
    return CertificateSpec(
        name="leaf", path="/pki/leaf.crt", key=key, key_optional=key is None, ca=("ca",), chain=True,
        usages=(usage,) if usage else (),
    )  # fmt: skip


def ca_row() -> CertificateSpec:
    """Return the entry of the trust anchors."""
    return CertificateSpec(name="ca", path="/pki/ca.crt", authority=True, key_optional=True)


class Node:
    """A directory with the files of one case."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "pki").mkdir(exist_ok=True)

    def judged(self, files: dict[str, bytes], rows: tuple[CertificateSpec, ...], now: datetime) -> Assessment:
        """Return the assessment of `files` for the catalogue `rows` at the time `now`."""
        for name, content in files.items():
            path = self._root / "pki" / name
            path.write_bytes(content)
            path.chmod(0o600)
        return assess(Store(rows, str(self._root)).observe(), now)


def criticals_of(assessment: Assessment) -> list[Finding]:
    """Return the critical findings of an assessment."""
    return [each for status in assessment.statuses for each in status.findings if each.severity is Severity.CRITICAL]


def certificates_of(assessment: Assessment) -> Iterator[Certificate]:
    """Yield every certificate that certmond has parsed."""
    for status in assessment.statuses:
        yield from status.seen.certificates


def compare_chain(case: Chain, node: Node, go: Batch, into: Comparison) -> None:
    """Compare the results for one chain, which Go parses and verifies, and certmond assesses."""
    answer = go.verify(case.leaf, case.anchors, case.intermediates, case.usage, NOW)
    assessment = node.judged(case.files, (leaf_row(case.usage), ca_row()), NOW)
    into.note(case.title, go=answer["error"] or answer["parse"], criticals=criticals_of(assessment))
    read = [*certificates_of(assessment)]
    objections = [each for certificate in read for each in certificate.objections]
    unread = len({case.leaf, *case.anchors, *case.intermediates}) - len({certificate.der for certificate in read})
    if bool(answer["parse"]) != bool(objections or unread):
        into.differ(case.title, go=answer["parse"], mine="; ".join(objections) or f"{unread} not read")


def compare_pair(case: Pair, node: Node, go: Batch, into: Comparison) -> None:
    """Compare the results for one pair, which Go loads and uses for a handshake, and certmond assesses."""
    answer = go.shake(case.certificate, case.key, case.anchors, NOW)
    files = {"leaf.crt": case.certificate, "leaf.key": case.key, "ca.crt": case.anchors}
    assessment = node.judged(files, (leaf_row("server auth", "/pki/leaf.key"), ca_row()), NOW)
    into.note(case.title, go=answer["load"] or answer["handshake"], criticals=criticals_of(assessment))


def compare(program: Path, *, chain_count: int, pair_count: int, seed: int) -> tuple[Comparison, Comparison]:
    """Compare the results for `chain_count` mutated chains and `pair_count` mutated pairs."""
    of_chains, of_pairs = Comparison(), Comparison()
    memory = Path("/dev/shm")  # noqa: S108 - the program makes a new directory in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory, Batch(program) as go:
        node = Node(Path(directory))
        for chain in chains(seed, chain_count):
            compare_chain(chain, node, go, of_chains)
        for pair in pairs(seed, pair_count):
            compare_pair(pair, node, go, of_pairs)
    return of_chains, of_pairs


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz.differential", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chains", type=int, default=27000, help="number of mutated chains (default: 27000)")
    parser.add_argument("--pairs", type=int, default=2000, help="number of mutated pairs (default: 2000)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of the random numbers ({SEED})")
    options = parser.parse_args()
    go = shutil.which("go")
    if go is None or is_old(version_of(go)):
        print("Go 1.24 or newer is required; install it: apt-get install golang-go", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as place:
        program = build(go, Path(place))
        found = compare(program, chain_count=options.chains, pair_count=options.pairs, seed=options.seed)
    for title, comparison in zip(("chains", "pairs"), found, strict=True):
        print(f"{comparison.counts.total()} {title}, against {version_of(go)}:")
        print(*lines(comparison.counts), *comparison.unexplained, sep="\n")
    return 1 if any(comparison.unexplained for comparison in found) else 0


if __name__ == "__main__":
    sys.exit(main())
