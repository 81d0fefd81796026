"""Check of the CA that the cluster publishes to its workloads for the API server.

Checks the ConfigMap kube-root-ca.crt in every namespace, and on request the Secrets with service account tokens.
kube-controller-manager writes both, certmond neither. certmond reads no token. Imports lightkube.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from lightkube.resources.core_v1 import ConfigMap, Namespace, Secret

from certmond.cluster.client import PAGE, Connection
from certmond.cluster.connection import Access
from certmond.cluster.rotation_checks.check import LIMIT, Canary, checked, differs, named
from certmond.pki.x509.certificate import Certificate

PUBLISHED, SECRETS = "published_trust", "token_secrets"

_CONFIG_MAP, _KEY = "kube-root-ca.crt", "ca.crt"
_TOKEN_TYPE = "kubernetes.io/service-account-token"  # noqa: S105 - a type of Secrets
_REMEDY = "see that a kube-controller-manager leads, and was restarted since its --root-ca-file changed"


def published_trust(
    access: Access, wanted: Iterable[Certificate], limit: timedelta = LIMIT, *, at_least: bool = False
) -> Canary:
    """Check that `kube-root-ca.crt` holds exactly `wanted`, as a set, in every namespace that is not being deleted.

    With `at_least` it may hold more.
    """
    trust = tuple(wanted)

    async def work(connection: Connection) -> Canary:
        client = connection.client
        spaces = await connection.listed(
            "list the namespaces",
            "a cluster role of its user has to have apiGroups [''], resources [namespaces], verbs [list]",
            lambda: client.list(Namespace, chunk_size=PAGE),
        )
        maps = await connection.listed(
            f"list the ConfigMaps {_CONFIG_MAP}",
            f"a cluster role of its user has to have apiGroups [''], resources [configmaps], resourceNames"
            f" [{_CONFIG_MAP}], verbs [list]",
            # With this selector, the API server checks the permission for this name only.
            lambda: client.list(ConfigMap, namespace="*", fields={"metadata.name": _CONFIG_MAP}, chunk_size=PAGE),
        )
        found = {str(each.metadata.namespace): (each.data or {}).get(_KEY, "") for each in maps if each.metadata}
        live = sorted(str(each.metadata.name) for each in spaces if each.metadata and not _terminating(each))
        if not live:
            return Canary(PUBLISHED, False, "the cluster has no namespace, as it seems", "see what answers there")
        facts = {space: _fact(found.get(space, "").encode(), trust, at_least=at_least) for space in live}
        behind = [f"{space} {fact}" for space, fact in facts.items() if fact is not None]
        if behind:
            return Canary(PUBLISHED, False, f"{_CONFIG_MAP} of {named(behind)}", _REMEDY)
        return Canary(PUBLISHED, True, f"{_CONFIG_MAP} is as wanted in {len(live)} namespaces")

    return checked(access, PUBLISHED, work, limit)


def token_secrets(
    access: Access, wanted: Iterable[Certificate], *, look: bool = False, limit: timedelta = LIMIT
) -> Canary:
    """Check that the CA in every Secret with a service account's token is exactly `wanted`, as a set.

    Without `look`, the check is skipped, because it needs the right to read all Secrets.
    """
    trust = tuple(wanted)
    if not look:
        fact = "not looked at: the Secrets with tokens of service accounts, since that takes the right to all Secrets"
        return Canary(SECRETS, True, fact, "bind certmond-rotation-secrets (config/rbac.yaml), and ask for this check")

    async def work(connection: Connection) -> Canary:
        found = await connection.listed(
            "list the Secrets",
            "a cluster role of its user has to have apiGroups [''], resources [secrets], verbs [list]",
            lambda: connection.client.list(Secret, namespace="*", fields={"type": _TOKEN_TYPE}, chunk_size=PAGE),
        )
        facts = {
            f"{each.metadata.namespace}/{each.metadata.name}": _fact(_decoded((each.data or {}).get(_KEY)), trust)
            for each in found
            if each.metadata and not each.metadata.deletionTimestamp
        }
        behind = [f"{name} {fact}" for name, fact in sorted(facts.items()) if fact is not None]
        if behind:
            return Canary(SECRETS, False, f"{_KEY} in the Secret {named(behind)}", _REMEDY)
        return Canary(SECRETS, True, f"{_KEY} is as wanted in {len(facts)} Secrets with tokens")

    return checked(access, SECRETS, work, limit)


def _terminating(space: Any) -> bool:
    return bool(space.metadata.deletionTimestamp or (space.status and space.status.phase == "Terminating"))


def _fact(pem: bytes, wanted: tuple[Certificate, ...], *, at_least: bool = False) -> str | None:
    return differs(pem, wanted, "it", at_least=at_least) if pem else "has none"


def _decoded(data: str | None) -> bytes:
    try:
        return base64.b64decode(data or "")
    except ValueError:
        return b"no base64"
