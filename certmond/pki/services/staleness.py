"""Search for the services that use a certificate, and for the services that have an older certificate in memory.

One kind of evidence is a TLS handshake in which the service presents another certificate. The other kind is a process
that started before the file changed and does not reload the file. A correct handshake overrides the start time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from certmond.errors import MalformedError
from certmond.immutable_class import immutable
from certmond.pki.catalog.endpoint import Endpoint, Served, Unserved
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Observation, Provenance, Salvage
from certmond.pki.catalog.served_entries import ServedSpec
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.findings import Finding, Reason
from certmond.pki.services.restart_episode import Past, Result
from certmond.pki.services.service_observation import Content, Demand, Live, ServiceSeen, Survey
from certmond.pki.services.serving_request_state import RequestState
from certmond.pki.x509.certificate import parse_certificate

if TYPE_CHECKING:
    from certmond.pki.services.cluster_objects import ClusterState

RELOAD_WITHIN = timedelta(seconds=90)
"""Time that a service has to reload a changed file."""

_SETTLED = timedelta(seconds=2)  # after a change to a certificate, a program can still change the key for this time
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@immutable
class Consumer:
    """Service that uses a certificate.

    `files` contains the files of the entry that the command line of the service names. If the command line names none
    of these files, `files` contains all files of the entry.
    """

    service: str
    reloads: bool
    running: bool | None = None
    started_at: datetime | None = None
    files: tuple[str, ...] = ()


@immutable
class ServedAt:
    """Observation of an endpoint.

    `sha256` is the digest of the served certificate, and `matches` is True if the file contains this certificate. If
    the file contains no certificate, `matches` is None. If the endpoint served no certificate, both fields are None,
    and `reason` is the cause.
    """

    endpoint: Endpoint
    service: str
    sha256: str | None
    matches: bool | None
    reason: str = ""
    der: bytes = field(default=b"", repr=False)


@immutable
class Stale:
    """Service whose certificate in memory is older than the file `path`. The file changed at `since`.

    A restart is `due` from `due_at` on. At `due_at`, the time for a reload is over. `ends_at` is the end of the served
    certificate, or None if certmond does not know this certificate.
    """

    service: str
    reason: Reason
    path: str
    since: datetime
    due_at: datetime
    due: bool
    detail: str
    ends_at: datetime | None = None


@immutable
class Refusing:
    """Server that serves no certificate in a TLS handshake after the file `path` changed.

    `due` is False directly after the change, because another program might not have written the key yet.
    """

    at: ServedAt
    path: str
    due: bool


@immutable
class Presence:
    """State of a certificate outside its files.

    `judged` is True if certmond observed the services after the last change to the files. `failures` contains the
    messages of the failed or unproven restarts for the present files. `refusing` contains the servers that serve no
    certificate. `salvage` contains the sources for a repair of damaged files. `request` is the state of the request for
    a missing serving certificate of the kubelet.
    """

    consumers: tuple[Consumer, ...] = ()
    served: tuple[ServedAt, ...] = ()
    stale: tuple[Stale, ...] = ()
    failures: tuple[str, ...] = ()
    failed_at: datetime | None = None
    judged: bool = False
    findings: tuple[Finding, ...] = ()
    provenance: Provenance | None = None
    refusing: tuple[Refusing, ...] = ()
    salvage: Salvage | None = None
    request: RequestState | None = None


NOWHERE = Presence()


@immutable(slots=False)
class Surroundings:
    """State of the node, except its certificates.

    `live` is None before the first observation of the services. `elsewhere` is True below another root (`--root`),
    where no service runs. `served` contains the served certificates that are in no file. `demands` contains the
    services that static Pod manifests start. `request` is the state of the kubelet's request for its serving
    certificate, or None if certmond has not read the request. `cluster` contains the objects that the reader of the
    cluster has read, or is None without the reader.
    """

    services: Sequence[ServiceSpec] = ()
    survey: Survey = field(default_factory=Survey)
    live: Live | None = None
    contents: Mapping[str, Content] = field(default_factory=dict)
    past: Mapping[str, Past] = field(default_factory=dict)
    reload_within: timedelta = RELOAD_WITHIN
    findings: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    provenance: Mapping[tuple[str, str], Provenance] = field(default_factory=dict)
    elsewhere: bool = False
    salvage: Mapping[tuple[str, str], Salvage] = field(default_factory=dict)
    served: tuple[Observation, ...] = ()
    demands: Mapping[str, Demand] = field(default_factory=dict)
    request: RequestState | None = None
    cluster: ClusterState | None = None

    def presence(self, seen: Observation, renewed_at: datetime | None = None) -> Presence:
        """Return the state of the certificate in `seen` outside its files.

        `renewed_at` is the time at which certmond installed the certificate, or None if certmond did not install it.
        """
        if isinstance(seen.spec, ServedSpec):
            return Presence(served=tuple(self._served_at(Endpoint.parse(seen.path), seen.spec.service, seen)))
        findings, provenance = self.findings.get(seen.name, ()), self.provenance.get(seen.identity)
        salvage, request = self.salvage.get(seen.identity), self.request if seen.requested else None
        if seen.name != seen.spec.name or not (self._mentioned(seen) or seen.spec.consumers):
            known = findings or provenance or salvage or request
            only = Presence(findings=findings, provenance=provenance, salvage=salvage, request=request)
            return only if known else NOWHERE
        consumers, served = tuple(self._consumers(seen, renewed_at)), tuple(self._served(seen))
        stale = tuple(self._stale(seen, consumers, served, renewed_at, self.live)) if self.live else ()
        changed = self._changed(seen)
        judged = self.live is not None and changed is not None and self.live.at >= changed
        failed = self.failed(seen)
        at = max((past.ended_at for past in failed if past.ended_at), default=None)
        messages = tuple(past.message for past in failed)
        refusing = tuple(self._refusing(seen, self.live)) if self.live and judged else ()
        return Presence(
            consumers, served, stale, messages, at, judged, findings, provenance, refusing, salvage, request
        )  # fmt: skip

    def _changed(self, seen: Observation) -> datetime | None:
        return max((self.contents[path].since for path in files_of(seen) if path in self.contents), default=None)

    def failed(self, seen: Observation) -> tuple[Past, ...]:
        """Return the failed or unproven restarts for the present files of this certificate."""
        return tuple(past for names, past in self._failed if seen.name in names)

    @cached_property
    def _failed(self) -> tuple[tuple[frozenset[str], Past], ...]:
        """The failed or unproven restarts for the present files, each with the names of its entries."""
        contents = {path: content.sha256 for path, content in self.contents.items()}
        return tuple((frozenset(past.targets), past) for past in self.past.values() if past.failure(contents))

    @cached_property
    def _paths(self) -> frozenset[str]:
        """Paths of all files that services use or serve."""
        used = {path for paths in self.survey.uses.values() for path in paths}
        return frozenset(used | {path for _, path in self.survey.serving.values()})

    def _mentioned(self, seen: Observation) -> bool:
        return seen.path in self._paths or seen.key_path in self._paths

    def _consumers(self, seen: Observation, renewed_at: datetime | None) -> Iterator[Consumer]:
        for service in self.services:
            reloads = self._reloads(service, seen, renewed_at)
            if reloads is not None:
                now = self._seen(service.name)
                yield Consumer(service.name, reloads, now.running, now.started_at, self._read(service, seen))

    def _reloads(self, service: ServiceSpec, seen: Observation, renewed_at: datetime | None) -> bool | None:
        """Return whether the service reloads this certificate, or None if the service does not use this certificate."""
        known, spec = self.survey.uses.get(service.name), seen.spec
        if known is not None and spec.kind is not Kind.KUBELET:
            found = [known[path].reloads for path in files_of(seen) if path in known]
            if found or spec.name not in service.serves:
                return all(found) if found else None
        if service.name not in spec.consumers:
            return None
        if spec.kind is Kind.KUBELET and renewed_at is not None:
            return False  # the kubelet reloads only certificates that it requested itself
        return spec.name in service.reloads

    def _read(self, service: ServiceSpec, seen: Observation) -> tuple[str, ...]:
        """Return the files of the certificate that the service reads.

        The command line of the service names these files. If the command line names no file of the certificate, or if
        the entry is of kind `kubelet`, the result contains all files.
        """
        known, files = self.survey.uses.get(service.name, {}), files_of(seen)
        named = tuple(path for path in files if path in known)
        return named if named and seen.spec.kind is not Kind.KUBELET else files

    def _served(self, seen: Observation) -> Iterator[ServedAt]:
        for endpoint, (service, path) in self.survey.serving.items():
            if path == seen.path:
                yield from self._served_at(endpoint, service, seen)

    def _served_at(self, endpoint: Endpoint, service: str, seen: Observation) -> Iterator[ServedAt]:
        """Yield the result of the TLS probe of the endpoint, if certmond has probed the endpoint."""
        own = seen.certificates[0].sha256 if seen.certificates else None
        found = self.live.served.get(endpoint) if self.live else None
        if isinstance(found, Served):
            matches = None if own is None else found.sha256 == own
            yield ServedAt(endpoint, service, found.sha256, matches, der=found.der)
        elif found:
            yield ServedAt(endpoint, service, None, None, found.reason)

    def _refusing(self, seen: Observation, live: Live) -> Iterator[Refusing]:
        changed = self._changed(seen)
        due = changed is not None and live.at >= changed + _SETTLED
        for at in self._served(seen):
            found = live.served[at.endpoint]
            if isinstance(found, Unserved) and found.spoke_tls:
                yield Refusing(at, seen.path, due)

    def _stale(
        self,
        seen: Observation,
        consumers: Sequence[Consumer],
        served: Sequence[ServedAt],
        renewed_at: datetime | None,
        live: Live,
    ) -> Iterator[Stale]:
        changed = self._changed(seen)
        if changed is None or live.at < changed or _is_broken(seen):
            return
        reloading = {consumer.service: consumer.reloads for consumer in consumers}
        for at in served:
            if at.matches is False:
                due_at = changed + (self.reload_within if reloading.get(at.service) else timedelta())
                where = f"{at.service or 'the listener'} at {at.endpoint}"
                detail = f"{where} serves a certificate other than the certificate in {seen.path}"
                yield Stale(
                    at.service, Reason.SERVED_DIFFERS, seen.path, changed, due_at, live.at >= due_at, detail,
                    _end_of(at.der),
                )  # fmt: skip
        for consumer in consumers:
            if any(at.service == consumer.service and at.matches is not None for at in served):
                continue  # the handshake overrides the start time of the process
            yield from self._held(seen, consumer, renewed_at)

    def _held(self, seen: Observation, consumer: Consumer, renewed_at: datetime | None) -> Iterator[Stale]:
        """Yield evidence for the first changed file that the running consumer has not read."""
        name = consumer.service
        now, past = self._seen(name), self.past.get(name)
        # certmond cannot observe a service of kind command without a PID file, or with an unusable one.
        by_runs = name in self._commands and now.running is None
        began = self._last_run(seen.name, past, renewed_at) if by_runs else now.started_at
        if now.running is False or began is None:
            return
        for path in consumer.files:
            content = self.contents.get(path)
            if content is None or began >= content.since or self._reads_again(consumer, seen, path):
                continue
            if past and past.has_read(path, content.sha256, now.instance):
                continue
            changed = f"changed at {_second(content.since)}"
            detail = (
                f"{name} has not been restarted since {path} {changed}" if by_runs
                else f"{name} has run since {_second(began)}, and has not read {path}, which {changed}"
            )  # fmt: skip
            yield Stale(name, Reason.RESTART_PENDING, path, content.since, content.since, True, detail)
            return

    @cached_property
    def _commands(self) -> frozenset[str]:
        """Names of the services of kind command."""
        return frozenset(service.name for service in self.services if service.kind == "command")

    def _last_run(self, target: str, past: Past | None, renewed_at: datetime | None) -> datetime | None:
        """Return the last time at which the command of a service of kind `command` ran.

        If no run is recorded, but certmond has renewed the certificate or has tried a restart because of this
        certificate, return the earliest possible time. Otherwise return None.
        """
        if past and past.ended_at and past.result not in {Result.REFUSED, Result.SUPERSEDED}:
            return past.ended_at
        # The time is unknown. The earliest possible time makes a restart due.
        return _LONG_AGO if renewed_at or (past and target in past.targets) else None

    def _reads_again(self, consumer: Consumer, seen: Observation, path: str) -> bool:
        if path == seen.spec.kubeconfig:
            return False  # no client reloads its kubeconfig
        use = self.survey.uses.get(consumer.service, {}).get(path)
        return use.reloads if use and seen.spec.kind is not Kind.KUBELET else consumer.reloads

    def _seen(self, service: str) -> ServiceSeen:
        return (self.live.services.get(service) if self.live else None) or ServiceSeen(None)


def files_of(seen: Observation) -> tuple[str, ...]:
    """Return the paths of the certificate, its key, and the kubeconfig of a kubelet.

    Omits a key file that certmond must not change.
    """
    kubeconfig = seen.spec.kubeconfig if seen.spec.kind is Kind.KUBELET else None
    key = None if seen.foreign_key else seen.key_path
    return tuple(dict.fromkeys(path for path in (seen.path, key, kubeconfig) if path))


def _is_broken(seen: Observation) -> bool:
    """Return whether the files contain neither a certificate nor a key pair that a service could load."""
    return not seen.certificates and (seen.spec.kind is not Kind.KEY_PAIR or seen.key is None)


def _end_of(der: bytes) -> datetime | None:
    try:
        return parse_certificate(der).not_after
    except MalformedError:
        return None


def _second(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
