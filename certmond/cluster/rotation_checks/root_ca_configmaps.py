"""Check of the CAs that the cluster publishes to its workloads.

This module checks the ConfigMap kube-root-ca.crt of every namespace, and optionally the service-account token
Secrets. kube-controller-manager, not certmond, writes these objects.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from lightkube.resources.core_v1 import ConfigMap, Namespace, Secret

from certmond.cluster.api_access import Access
from certmond.cluster.client import PAGE, Connection
from certmond.cluster.rotation_checks.check import LIMIT, CheckResult, differs, first_names, run_check
from certmond.pki.x509.certificate import Certificate

PUBLISHED, SECRETS = "published_trust", "token_secrets"

_CONFIG_MAP, _KEY = "kube-root-ca.crt", "ca.crt"
_TOKEN_TYPE = "kubernetes.io/service-account-token"  # noqa: S105 - a type of Secrets
NOT_PUBLISHED = (
    "check that a kube-controller-manager is the leader, and that it restarted after the file in --root-ca-file changed"
)


def published_trust(
    access: Access, wanted: Iterable[Certificate], limit: timedelta = LIMIT, *, at_least: bool = False
) -> CheckResult:
    """Check that `kube-root-ca.crt` of every namespace contains exactly the CAs `wanted`, in any order.

    Ignore terminating namespaces. With `at_least`, the ConfigMap may also contain other CAs.
    """
    trust = tuple(wanted)

    async def work(connection: Connection) -> CheckResult:
        client = connection.client
        spaces = await connection.listed(
            "list the namespaces",
            "grant this user a cluster role with apiGroups [''], resources [namespaces], verbs [list]",
            lambda: client.list(Namespace, chunk_size=PAGE),
        )
        maps = await connection.listed(
            f"list the ConfigMaps {_CONFIG_MAP}",
            f"grant this user a cluster role with apiGroups [''], resources [configmaps], resourceNames"
            f" [{_CONFIG_MAP}], verbs [list]",
            # With this selector, the API server checks the permission for this name only.
            lambda: client.list(ConfigMap, namespace="*", fields={"metadata.name": _CONFIG_MAP}, chunk_size=PAGE),
        )
        found = {str(each.metadata.namespace): (each.data or {}).get(_KEY, "") for each in maps if each.metadata}
        live = sorted(str(each.metadata.name) for each in spaces if each.metadata and not _terminating(each))
        if not live:
            return CheckResult(
                PUBLISHED, False, "the API server lists no namespace", "check `server` in the kubeconfig"
            )
        facts = {space: _fact(found.get(space, "").encode(), trust, at_least=at_least) for space in live}
        behind = [f"{space} {fact}" for space, fact in facts.items() if fact is not None]
        if behind:
            return CheckResult(PUBLISHED, False, f"{_CONFIG_MAP} of {first_names(behind)}", NOT_PUBLISHED)
        return CheckResult(PUBLISHED, True, f"{_CONFIG_MAP} contains the expected CAs in {len(live)} namespaces")

    return run_check(access, PUBLISHED, work, limit)


def token_secrets(
    access: Access, wanted: Iterable[Certificate], *, enabled: bool = False, limit: timedelta = LIMIT
) -> CheckResult:
    """Check that every service-account token Secret contains exactly the CAs `wanted`, in any order.

    Without `enabled`, skip the check, which needs permission to read all Secrets.
    """
    trust = tuple(wanted)
    if not enabled:
        fact = "skipped: to check the service-account token Secrets, certmond needs permission to read all Secrets"
        return CheckResult(
            SECRETS,
            True,
            fact,
            "bind the ClusterRole certmond-rotation-secrets (config/rbac.yaml), and set `cluster.token_secrets: true`",
        )

    async def work(connection: Connection) -> CheckResult:
        found = await connection.listed(
            "list the Secrets",
            "grant this user a cluster role with apiGroups [''], resources [secrets], verbs [list]",
            lambda: connection.client.list(Secret, namespace="*", fields={"type": _TOKEN_TYPE}, chunk_size=PAGE),
        )
        facts = {
            f"{each.metadata.namespace}/{each.metadata.name}": _fact(_decoded((each.data or {}).get(_KEY)), trust)
            for each in found
            if each.metadata and not each.metadata.deletionTimestamp
        }
        behind = [f"{name} {fact}" for name, fact in sorted(facts.items()) if fact is not None]
        if behind:
            return CheckResult(SECRETS, False, f"{_KEY} in the Secret {first_names(behind)}", NOT_PUBLISHED)
        return CheckResult(
            SECRETS, True, f"{_KEY} contains the expected CAs in {len(facts)} service-account token Secrets"
        )

    return run_check(access, SECRETS, work, limit)


def _terminating(space: Any) -> bool:
    return bool(space.metadata.deletionTimestamp or (space.status and space.status.phase == "Terminating"))


def _fact(pem: bytes, wanted: tuple[Certificate, ...], *, at_least: bool = False) -> str | None:
    return differs(pem, wanted, "it", at_least=at_least) if pem else "contains no CA"


def _decoded(data: str | None) -> bytes:
    try:
        return base64.b64decode(data or "")
    except ValueError:
        return b"no base64"
