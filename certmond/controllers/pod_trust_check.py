"""Checks of the Pods in the rotation of a single node: their trust in the new CA, and their client certificates.

This module chooses the kubeconfig and the interval of the requests. `pki.rotation.pod_trust_gates` evaluates the
response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from certmond.cluster.api_access import Access
from certmond.config.model import Config
from certmond.errors import CertmondError
from certmond.pki.catalog.entries import Kind
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Rotation, desired
from certmond.pki.rotation.pod_trust_gates import (
    Answer,
    Asked,
    certificates_gate,
    concerns,
    gate,
    published_gate,
    searches_certificates,
)
from certmond.pki.x509.certificate import certificates_of

_KUBECONFIGS = ("admin.conf", "super-admin.conf", "controller-manager.conf")
"""Names of the kubeconfigs whose users may list the objects of all namespaces, in order of preference."""
_ANSWER, _LIMIT = timedelta(seconds=5), timedelta(seconds=20)
"""Time limits of one API request, and of all requests of a check."""


class PublicationCheck:
    """Checks of the Pods of the cluster. `real` resolves the path of a file of the node."""

    def __init__(
        self, config: Config, real: Callable[[str], str], alive: Callable[[], None], monotonic: Callable[[], float]
    ) -> None:
        paths = {s.name: s.path for s in config.certificates if s.kind is Kind.KUBECONFIG}
        self._paths = [paths[name] for name in _KUBECONFIGS if name in paths]
        self._real, self._alive, self._monotonic = real, alive, monotonic
        self._pause = config.poll
        self._known: tuple[tuple[str, datetime], float, Asked] | None = None

    def gate(self, rotation: Rotation, own: Gate, now: datetime) -> Gate:
        """Return the gate `own`, combined with the result of the check. Never raises CertmondError."""
        if searches_certificates(rotation):
            paths = self._present()
            return certificates_gate(rotation, own, self._asked(rotation, paths), now) if paths else own
        if not concerns(rotation):
            return own
        if rotation.published is not None:
            return published_gate(rotation, own, now)
        if not (paths := self._present()):
            return own
        return gate(rotation, own, self._asked(rotation, paths), now, self._pause)

    def _present(self) -> list[str]:
        """Return the resolved paths of the kubeconfigs that exist on this node."""
        found = list[str]()
        for path in self._paths:
            try:
                real = self._real(path)
            except CertmondError:
                continue
            if Path(real).exists():
                found.append(real)
        return found

    def _asked(self, rotation: Rotation, paths: Sequence[str]) -> Asked:
        """Return the answer of the API server for the present phase.

        Send a new request only if the last answer is from another phase, or older than `poll`. If the API server
        refuses the user of one kubeconfig, use the next kubeconfig.
        """
        phase, now = (rotation.id, rotation.since), self._monotonic()
        if (
            self._known is None
            or self._known[0] != phase
            or not 0 <= now - self._known[1] < self._pause.total_seconds()
        ):
            found = [self._ask(rotation, path) for path in paths[:1]]
            while found[-1].answer is Answer.REFUSED and len(found) < len(paths):
                found.append(self._ask(rotation, paths[len(found)]))
            given = next((each for each in found if each.answer is not Answer.REFUSED), found[0])
            self._known = phase, self._monotonic(), given
        return self._known[2]

    def _ask(self, rotation: Rotation, path: str) -> Asked:
        try:
            from certmond.cluster.rotation_checks.cluster_trust_bundles import cluster_trust_bundles
            from certmond.cluster.rotation_checks.pod_certificates import pod_certificates
            from certmond.cluster.rotation_checks.root_ca_configmaps import published_trust
        except ImportError:
            return Asked(
                Answer.REFUSED, "the package lightkube is missing; run: pip install lightkube lightkube-models"
            )
        wanted, access = desired(rotation), Access(lambda: path, _ANSWER, self._alive)
        trust = certificates_of(wanted.trust) if wanted else ()
        if searches_certificates(rotation):
            found = pod_certificates(access, _LIMIT)
        elif (found := published_trust(access, trust, _LIMIT, at_least=True)).ok:
            bundles = cluster_trust_bundles(access, trust, _LIMIT, at_least=True)
            found = found if bundles.ok else bundles
        if found.ok:
            return Asked(Answer.PUBLISHED, found.fact)
        return Asked(found.failure or Answer.BEHIND, f"{found.fact}; {found.remedy}")
