"""Benchmark of the reissue of all certificates of a control-plane node, compared with the generation of their keys.

The Enforcer of certmond reissues the certificates in this process, on a real file system. The benchmark measures the
time of the key generations in the same run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.fixture import kubeadm_node
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers import executor as execute
from certmond.daemon.enforcer import Enforcer
from certmond.files.catalog_observer import Store
from certmond.formats import private_key as keys
from certmond.formats.private_key import PrivateKey
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.entries import KeyAlgorithm


@dataclass(frozen=True)
class Reissue:
    """Results of one run: the total time, and the time of the key generations, in seconds."""

    certificates: int
    total: float
    keys: float


def reissue_node(algorithm: KeyAlgorithm) -> Reissue:
    """Renew every leaf of a kubeadm node, each with a new key of the type `algorithm`."""
    with tempfile.TemporaryDirectory(prefix="certmond-bench-") as directory:
        root = kubeadm_node(Path(directory) / "node")
        config = _configuration(algorithm)
        state = Path(directory) / "state"
        enforcer = Enforcer(
            config, root=str(root), state_dir=state, audit=Audit(Journal("none"), state, "benchmark"), clock=_now
        )
        assessment = assess(Store(config.certificates, str(root)).observe(), _now())
        names = frozenset(s.seen.name for s in assessment.certificates if not s.seen.spec.authority)
        with _key_time() as spent:
            start = time.perf_counter()
            outcomes = enforcer.executor.execute(enforcer.plan(assessment, names))
            total = time.perf_counter() - start
        assert all(outcome.result == "done" for outcome in outcomes)
        return Reissue(len(outcomes), total, sum(spent))


def _configuration(algorithm: KeyAlgorithm) -> Config:
    plain = parse(())
    entries = "".join(
        f"- {{name: {spec.name}, key_algorithm: {algorithm.value}, keep_key: false}}\n"
        for spec in plain.certificates
        if not spec.authority and spec.kind.value != "key-pair"
    )
    return parse([Source("benchmark", f"certificates:\n{entries}")])


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _key_time() -> Iterator[list[float]]:
    """Yield a list to which each key generation during the `with` block adds its time in seconds."""
    spent: list[float] = []
    make = keys.make_key

    def timed(algorithm: KeyAlgorithm) -> PrivateKey:
        start = time.perf_counter()
        key = make(algorithm)
        spent.append(time.perf_counter() - start)
        return key

    execute.make_key = timed  # type: ignore[attr-defined]  # where the executor finds it
    try:
        yield spent
    finally:
        execute.make_key = make  # type: ignore[attr-defined]  # as it was
