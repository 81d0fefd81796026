"""The CA bundles with which the API server trusts webhooks and extension API servers, where they hold the cluster's CA.

They are in webhook configurations, APIServices and the conversion of CustomResourceDefinitions. certmond writes only
those with the annotation `certmond.io/ca-bundle: <family>`, and reports the others. It ignores a bundle without a CA of
the family. Imports lightkube.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lightkube.generic_resource import GenericGlobalResource, create_global_resource
from lightkube.types import PatchType

from certmond.cluster.client import PAGE, Connection, GoneError, TakenError
from certmond.cluster.connection import Access
from certmond.cluster.rotation_checks.check import LIMIT, Canary, checked, differs, named
from certmond.pki.x509.certificate import Certificate, to_pem
from certmond.pki.x509.parsing import decode

NAME = "ca_bundles"
ANNOTATION = "certmond.io/ca-bundle"

_WEBHOOKS, _CONVERSION = ("webhooks", "*", "clientConfig"), ("spec", "conversion", "webhook", "clientConfig")
_BUNDLE = "caBundle"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of objects, read as raw fields, so that fields unknown to certmond stay intact."""

    resource: type[GenericGlobalResource]
    group: str
    plural: str
    place: tuple[str, ...]  # the fields around the bundle; a star is each item of a list


def _kind(group: str, kind: str, plural: str, place: tuple[str, ...]) -> _Kind:
    return _Kind(create_global_resource(group, "v1", kind, plural), group, plural, place)


_ADMISSION = "admissionregistration.k8s.io"
_KINDS = (
    _kind(_ADMISSION, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", _WEBHOOKS),
    _kind(_ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", _WEBHOOKS),
    _kind("apiregistration.k8s.io", "APIService", "apiservices", ("spec",)),
    _kind("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", _CONVERSION),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Behind:
    """An object with outdated bundles, at the given `pointers` (RFC 6901)."""

    kind: _Kind
    name: str
    version: str
    owned: bool
    fact: str
    pointers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind.resource.__name__} {self.name}"


def ca_bundles(
    access: Access,
    family: str,
    ours: Iterable[Certificate],
    wanted: Iterable[Certificate],
    *,
    update: bool = False,
    limit: timedelta = LIMIT,
) -> Canary:
    """Check that every bundle with a CA of `ours`, the old and new ones of the family, holds exactly `wanted` of them.

    A CA belongs to `ours` by its key. With `update`, the annotated bundles then hold only `wanted`, in the given order.
    Each is changed only in the version that was read.
    """
    trust = tuple(wanted)
    keys = frozenset(each.key.sha256 for each in (*ours, *trust))

    async def work(connection: Connection) -> Canary:
        behind = [each for kind in _KINDS for each in await _listed(connection, kind, family, keys, trust)]
        done = [each for each in behind if update and each.owned and await _updated(connection, each, trust)]
        left = [each for each in behind if each not in done]
        if left:
            owned = all(each.owned for each in left)
            remedy = (
                "let certmond update it" if owned else f"exchange the CA there, or annotate it {ANNOTATION}: {family}"
            )
            return Canary(NAME, False, f"the CA bundle of {named(f'{each} {each.fact}' for each in left)}", remedy)
        updated = f"; updated: {named(map(str, done))}" if done else ""
        return Canary(NAME, True, f"no CA bundle is behind{updated}")

    return checked(access, NAME, work, limit)


async def _listed(
    connection: Connection, kind: _Kind, family: str, keys: frozenset[str], wanted: tuple[Certificate, ...]
) -> list[_Behind]:
    async def found() -> AsyncIterator[_Behind]:
        async for each in connection.client.list(kind.resource, chunk_size=PAGE):
            if (behind := _behind(kind, each, family, keys, wanted)) is not None:
                yield behind

    rule = f"a cluster role of its user has to have apiGroups [{kind.group}], resources [{kind.plural}], verbs [list]"
    return await connection.listed(f"list the {kind.plural}", rule, found)


def _behind(
    kind: _Kind, found: Mapping[str, Any], family: str, keys: frozenset[str], wanted: tuple[Certificate, ...]
) -> _Behind | None:
    metadata = found["metadata"]
    owned = (metadata.get("annotations") or {}).get(ANNOTATION) == family
    facts = {}
    for pointer, fields in _places(found, kind.place):
        if (fact := _fact(str(fields.get(_BUNDLE) or ""), owned, keys, wanted)) is not None:
            facts[f"{pointer}/{_BUNDLE}"] = fact
    if not facts:
        return None
    fact = next(iter(facts.values()))
    return _Behind(kind, metadata["name"], metadata["resourceVersion"], owned, fact, tuple(facts))


def _places(value: Any, place: tuple[str, ...], pointer: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the fields around each bundle, with their JSON pointer."""
    if not place:
        if isinstance(value, Mapping):
            yield pointer, value
    elif place[0] == "*":
        for number, each in enumerate(value if isinstance(value, list) else ()):
            yield from _places(each, place[1:], f"{pointer}/{number}")
    elif isinstance(value, Mapping):
        yield from _places(value.get(place[0]), place[1:], f"{pointer}/{place[0]}")


def _fact(bundle: str, owned: bool, keys: frozenset[str], wanted: tuple[Certificate, ...]) -> str | None:
    try:
        pem = base64.b64decode(bundle)
    except ValueError:
        pem = b""
    if owned:
        return differs(pem, wanted, "it") if pem else "is empty"
    ours = [each for each in decode(pem, "it").certificates if each.key.sha256 in keys]
    return differs(b"".join(map(to_pem, ours)), wanted, "it") if ours else None


async def _updated(connection: Connection, behind: _Behind, wanted: tuple[Certificate, ...]) -> bool:
    """Write the bundle. Return False where the object was changed or deleted since it was read."""
    bundle = base64.b64encode(b"".join(map(to_pem, wanted))).decode("ascii")
    patch = [
        # The resource version limits the change to the object that was read, so each index still names the same
        # webhook.
        {"op": "replace", "path": "/metadata/resourceVersion", "value": behind.version},
        *({"op": "add", "path": pointer, "value": bundle} for pointer in behind.pointers),
    ]
    kind = behind.kind
    rule = f"a cluster role of its user has to have apiGroups [{kind.group}], resources [{kind.plural}], verbs [patch]"
    client = connection.client
    try:
        await connection.call(
            f"patch the {behind}",
            f"{rule}, best with resourceNames [{behind.name}]",
            lambda: client.patch(kind.resource, behind.name, patch, patch_type=PatchType.JSON),
        )
    except (TakenError, GoneError):
        return False
    return True
