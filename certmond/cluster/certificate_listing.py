"""Listing of the objects for the reader of the cluster: TLS Secrets, CertificateSigningRequests, and CA bundles.

The API server sends whole Secrets. certmond keeps only the facts of the certificates in `tls.crt` and `ca.crt`. After
certmond has parsed a page of the list, certmond drops the Secrets of this page, with their private keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from lightkube import AsyncClient
from lightkube.resources.certificates_v1 import CertificateSigningRequest
from lightkube.resources.core_v1 import Secret

from certmond.cluster.api_access import Access
from certmond.cluster.ca_bundle_kinds import BUNDLE, KINDS, Kind, places
from certmond.cluster.client import PAGE, Connection
from certmond.errors import CertmondError, RefusedError
from certmond.pki.findings import printable
from certmond.pki.services.cluster_objects import (
    CHAIN,
    CertificateData,
    ClusterRequest,
    Listing,
    Place,
    RequestPhase,
    Unread,
    certificate_data,
    requests_with_issued,
)

MAX_OBJECTS = 10_000
"""Maximum number of objects in one listing."""

_TLS = "kubernetes.io/tls"
_PAGES = dict.fromkeys(("Secret", "CertificateSigningRequest", "CustomResourceDefinition"), 20)
"""Number of objects in one page, for kinds whose objects can contain one MiB. A page is in memory at once."""
_BUNDLES = {kind.resource.__name__: kind for kind in KINDS}
_PHASES = (("Denied", RequestPhase.DENIED), ("Failed", RequestPhase.FAILED), ("Approved", RequestPhase.APPROVED))
_PERMISSIONS = {
    "Secret": ("''", "secrets"),
    "CertificateSigningRequest": ("certificates.k8s.io", "certificatesigningrequests"),
    **{name: (kind.group, kind.plural) for name, kind in _BUNDLES.items()},
}

T = TypeVar("T")


def sources(namespaces: Iterable[str]) -> tuple[Place, ...]:
    """Return the lists to read: Secrets of each namespace, CertificateSigningRequests, and each kind with CA bundles.

    If `namespaces` is empty, return one list for the Secrets of all namespaces.
    """
    secrets = [Place("Secret", namespace) for namespace in dict.fromkeys(namespaces)] or [Place("Secret")]
    return (*secrets, Place("CertificateSigningRequest"), *(Place(name) for name in _BUNDLES))


def listing(access: Access, source: Place, before: Listing | None, now: datetime) -> Listing:
    """Return the objects of one source, at most MAX_OBJECTS. `unread` contains the reason if objects are missing.

    If certmond cannot list the objects, return the objects of `before`, which is the previous result for this source.
    certmond does not parse unchanged certificates again.
    """
    known = before or Listing(source)
    try:
        return access.run(partial(_listed, source, known, now))
    except CertmondError as error:
        fact, _, remedy = str(error).partition("; ")
        since = known.unread.since if known.unread else now
        remedy = remedy or "check that the API server answers; certmond repeats the request"
        return replace(known, unread=Unread(source, fact, remedy, since, isinstance(error, RefusedError)))


async def _listed(source: Place, before: Listing, now: datetime, connection: Connection) -> Listing:
    group, plural = _PERMISSIONS[source.kind]
    where = f" in the namespace {source.namespace}" if source.namespace else ""
    doing = f"list the {plural}{where}"
    role = f"role in {source.namespace}" if source.namespace else "cluster role"
    rule = f"grant this user a {role} with apiGroups [{group}], resources [{plural}], verbs [list]"
    found = _Limited(MAX_OBJECTS)
    if source.kind == "CertificateSigningRequest":
        requests = await connection.listed(doing, rule, lambda: found.parsed(_requests(connection.client), _request))
        made = Listing(source, now, found.count, requests=requests_with_issued(tuple(requests), before.requests))
    else:
        known = {each.place: each for each in before.data}
        items, parse = _certificates(connection.client, source)
        data = await connection.listed(doing, rule, lambda: found.parsed(items(), lambda each: parse(each, known)))
        made = Listing(source, now, found.count, tuple(each for one in data for each in one))
    if not found.exceeded:
        return made
    since = before.unread.since if before.unread else now
    fact = f"the cluster has more than {MAX_OBJECTS} {plural}{where}, and certmond reads only these"
    remedy = (
        "set `cluster.reader_namespaces` to fewer namespaces" if source.kind == "Secret" else f"delete unused {plural}"
    )
    return replace(made, unread=Unread(source, fact, remedy, since, lasting=True))


class _Limited:
    """Counter that ends a list after `limit` objects. Each call of `parsed` counts from zero."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count, self.exceeded = 0, False

    async def parsed(self, items: AsyncIterable[Any], parse: Callable[[Any], T]) -> AsyncIterator[T]:
        self.count, self.exceeded = 0, False
        async for each in items:
            if self.count == self._limit:
                self.exceeded = True
                return
            self.count += 1
            yield parse(each)


Known = dict[Place, CertificateData]
Parse = Callable[[Any, Known], tuple[CertificateData, ...]]


def _certificates(client: AsyncClient, source: Place) -> tuple[Callable[[], AsyncIterable[Any]], Parse]:
    """Return a function that lists the objects of a source, and a function that parses one object."""
    if source.kind == "Secret":
        namespace = source.namespace or "*"
        items = partial(client.list, Secret, namespace=namespace, fields={"type": _TLS}, chunk_size=_PAGES["Secret"])
        return items, _secret
    kind = _BUNDLES[source.kind]
    return partial(client.list, kind.resource, chunk_size=_PAGES.get(source.kind, PAGE)), partial(_bundles, kind)


def _secret(found: Any, known: Known) -> tuple[CertificateData, ...]:
    """Return the data of `tls.crt` and `ca.crt` in a Secret. Omit an empty `ca.crt`: some issuers supply no CA."""
    namespace, name = _name(found.metadata.namespace), _name(found.metadata.name)
    data = found.data or {}
    texts = {key: data[key] for key in (CHAIN, "ca.crt") if data.get(key) or (key == CHAIN and key in data)}
    return tuple(_parsed(Place("Secret", namespace, name, key), text or "", known) for key, text in texts.items())


def _bundles(kind: Kind, found: Any, known: Known) -> tuple[CertificateData, ...]:
    name = _name(found["metadata"]["name"])
    texts = {f"{pointer}/{BUNDLE}".lstrip("/"): fields.get(BUNDLE) for pointer, fields in places(found, kind.place)}
    place = Place(kind.resource.__name__, "", name)
    return tuple(_parsed(replace(place, key=key), str(text), known) for key, text in texts.items() if text)


def _parsed(place: Place, text: str, known: Known) -> CertificateData:
    return certificate_data(place, text, known.get(place))


def _requests(client: AsyncClient) -> AsyncIterable[Any]:
    return client.list(CertificateSigningRequest, chunk_size=_PAGES["CertificateSigningRequest"])


def _request(found: Any) -> ClusterRequest:
    status = found.status
    kinds = {each.type for each in ((status and status.conditions) or ())}
    phase = next((phase for kind, phase in _PHASES if kind in kinds), RequestPhase.PENDING)
    if status and status.certificate:
        phase = RequestPhase.ISSUED
    created_at = found.metadata.creationTimestamp.astimezone(UTC)
    user, signer = printable(found.spec.username or ""), printable(found.spec.signerName)
    return ClusterRequest(_name(found.metadata.name), signer, user, created_at, phase)


def _name(name: Any) -> str:
    """Return the name of an object. Raises ValueError if `name` is not a printable string, or is empty."""
    if not (isinstance(name, str) and name and name.isprintable()):
        raise ValueError(name)
    return name
