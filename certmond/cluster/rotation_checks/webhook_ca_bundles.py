"""Check of the CA bundles of webhooks and extension API servers.

certmond writes only to objects with the annotation `certmond.io/ca-bundle: <family>`. For other objects, certmond only
reports outdated bundles.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from typing import Any

from lightkube.types import PatchType

from certmond.cluster.api_access import Access
from certmond.cluster.ca_bundle_kinds import BUNDLE, KINDS, Kind, places
from certmond.cluster.client import PAGE, ConflictError, Connection, NotFoundError
from certmond.cluster.rotation_checks.check import LIMIT, CheckResult, differs, first_names, run_check
from certmond.immutable_class import immutable
from certmond.pki.x509.certificate import Certificate, to_pem
from certmond.pki.x509.certificate_file_parser import decode

NAME = "ca_bundles"
ANNOTATION = "certmond.io/ca-bundle"


@immutable
class _OutdatedBundle:
    """An object with outdated CA bundles at the JSON pointers `pointers` (RFC 6901).

    `owned` means that the annotation of the object permits certmond to write the bundles.
    """

    kind: Kind
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
    family_cas: Iterable[Certificate],
    wanted: Iterable[Certificate],
    *,
    update: bool = False,
    limit: timedelta = LIMIT,
) -> CheckResult:
    """Check the CAs of the family in each CA bundle.

    `family_cas` are the old and new CAs. If a bundle contains at least one of these CAs, this bundle must contain all
    CAs in `wanted`, and no other CA of the family. The bundle of an annotated object must contain exactly `wanted`.
    With `update`, replace the outdated bundles of annotated objects with `wanted`.
    """
    trust = tuple(wanted)
    # A CA certificate with the same key as one of these CAs counts as this CA.
    keys = frozenset(each.key.sha256 for each in (*family_cas, *trust))

    async def work(connection: Connection) -> CheckResult:
        behind = [each for kind in KINDS for each in await _listed(connection, kind, family, keys, trust)]
        done = [each for each in behind if update and each.owned and await _updated(connection, each, trust)]
        left = [each for each in behind if each not in done]
        if left:
            owned = all(each.owned for each in left)
            remedy = (
                "certmond updates the bundle during a rotation"
                if owned
                else f"replace the CA in the bundle, or run: kubectl annotate KIND NAME {ANNOTATION}={family}"
            )
            return CheckResult(
                NAME, False, f"the CA bundle of {first_names(f'{each} {each.fact}' for each in left)}", remedy
            )
        updated = f"; updated: {first_names(map(str, done))}" if done else ""
        return CheckResult(NAME, True, f"each CA bundle contains the expected CAs{updated}")

    return run_check(access, NAME, work, limit)


async def _listed(
    connection: Connection, kind: Kind, family: str, keys: frozenset[str], wanted: tuple[Certificate, ...]
) -> list[_OutdatedBundle]:
    async def found() -> AsyncIterator[_OutdatedBundle]:
        async for each in connection.client.list(kind.resource, chunk_size=PAGE):
            if (behind := _outdated(kind, each, family, keys, wanted)) is not None:
                yield behind

    rule = f"grant this user a cluster role with apiGroups [{kind.group}], resources [{kind.plural}], verbs [list]"
    return await connection.listed(f"list the {kind.plural}", rule, found)


def _outdated(
    kind: Kind, found: Mapping[str, Any], family: str, keys: frozenset[str], wanted: tuple[Certificate, ...]
) -> _OutdatedBundle | None:
    metadata = found["metadata"]
    owned = (metadata.get("annotations") or {}).get(ANNOTATION) == family
    facts = {}
    for pointer, fields in places(found, kind.place):
        if (fact := _fact(str(fields.get(BUNDLE) or ""), owned, keys, wanted)) is not None:
            facts[f"{pointer}/{BUNDLE}"] = fact
    if not facts:
        return None
    fact = next(iter(facts.values()))
    return _OutdatedBundle(kind, metadata["name"], metadata["resourceVersion"], owned, fact, tuple(facts))


def _fact(bundle: str, owned: bool, keys: frozenset[str], wanted: tuple[Certificate, ...]) -> str | None:
    try:
        pem = base64.b64decode(bundle)
    except ValueError:
        pem = b""
    if owned:
        return differs(pem, wanted, "it") if pem else "is empty"
    family_cas = [each for each in decode(pem, "it").certificates if each.key.sha256 in keys]
    return differs(b"".join(map(to_pem, family_cas)), wanted, "it") if family_cas else None


async def _updated(connection: Connection, behind: _OutdatedBundle, wanted: tuple[Certificate, ...]) -> bool:
    """Write the CAs `wanted` to the outdated bundles of an object.

    Return False if another client has changed or deleted the object.
    """
    bundle = base64.b64encode(b"".join(map(to_pem, wanted))).decode("ascii")
    patch = [
        # The resource version limits the change to the version that certmond read. Therefore, each index still refers
        # to the same webhook.
        {"op": "replace", "path": "/metadata/resourceVersion", "value": behind.version},
        *({"op": "add", "path": pointer, "value": bundle} for pointer in behind.pointers),
    ]
    kind = behind.kind
    rule = f"grant this user a cluster role with apiGroups [{kind.group}], resources [{kind.plural}], verbs [patch]"
    client = connection.client
    try:
        await connection.call(
            f"patch the {behind}",
            f"{rule}, and preferably resourceNames [{behind.name}]",
            lambda: client.patch(kind.resource, behind.name, patch, patch_type=PatchType.JSON),
        )
    except (ConflictError, NotFoundError):
        return False
    return True
