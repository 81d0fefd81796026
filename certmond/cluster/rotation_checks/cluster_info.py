"""Check of the ConfigMap kube-public/cluster-info, from which a joining node reads the CA.

With `update`, certmond replaces the CAs of the rotation and keeps other CAs. kube-controller-manager (bootstrap-signer)
then signs the kubeconfig again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import yaml
from lightkube.resources.core_v1 import ConfigMap
from lightkube.types import PatchType

from certmond.cluster.api_access import Access
from certmond.cluster.client import ConflictError, Connection, NotFoundError
from certmond.cluster.rotation_checks.check import LIMIT, CheckResult, differs, run_check
from certmond.errors import MalformedError, UnreachableError
from certmond.formats.kubeconfig import load_mapping
from certmond.pki.x509.certificate import Certificate, to_pem
from certmond.pki.x509.certificate_file_parser import decode

NAME = "cluster_info"

_NAMESPACE, _CONFIG_MAP, _KEY, _TRUST = "kube-public", "cluster-info", "kubeconfig", "certificate-authority-data"
_WHERE = f"the ConfigMap {_NAMESPACE}/{_CONFIG_MAP}"


def cluster_info(
    access: Access,
    family_cas: Iterable[Certificate],
    wanted: Iterable[Certificate],
    *,
    update: bool = False,
    limit: timedelta = LIMIT,
) -> CheckResult:
    """Check the CAs of the family in the kubeconfig of the ConfigMap cluster-info.

    `family_cas` are the old and new CAs. Of these CAs, the kubeconfig must contain exactly the CAs in `wanted`. With
    `update`, replace an outdated bundle with `wanted`, followed by the other CAs of the bundle that are not in
    `family_cas`. If the ConfigMap does not exist, the check succeeds.
    """
    trust = tuple(wanted)
    # A CA certificate with the same key as one of these CAs counts as this CA.
    keys = frozenset(each.key for each in (*family_cas, *trust))

    async def work(connection: Connection) -> CheckResult:
        try:
            found = await _call(connection, "get", lambda: _read(connection))
        except NotFoundError:
            return CheckResult(NAME, True, f"skipped: {_WHERE} does not exist, so no node can join with this ConfigMap")
        text = (found.data or {}).get(_KEY, "")
        try:
            document, cluster = _cluster(text)
        except MalformedError as error:
            return CheckResult(
                NAME, False, f"the kubeconfig in {_WHERE} {error}", "run: kubeadm init phase bootstrap-token"
            )
        embedded = _embedded(cluster)
        others = tuple(each for each in decode(embedded, "it").certificates if each.key not in keys)
        if (fact := differs(embedded, (*trust, *others), "it")) is None:
            return CheckResult(NAME, True, f"{_WHERE} contains the expected CAs")
        if not update:
            return CheckResult(
                NAME,
                False,
                f"the CA in {_WHERE} {fact}",
                "certmond updates the ConfigMap during a rotation; to update it now, run: "
                "kubectl -n kube-public edit configmap cluster-info",
            )
        cluster[_TRUST] = base64.b64encode(b"".join(map(to_pem, (*trust, *others)))).decode("ascii")
        patch = {
            # The resource version limits the change to the object that was read.
            "metadata": {"resourceVersion": found.metadata.resourceVersion},
            "data": {_KEY: yaml.safe_dump(document)},
        }
        try:
            await _call(connection, "patch", lambda: _patch(connection, patch))
        except (ConflictError, NotFoundError):
            raise UnreachableError(f"another client has changed or deleted {_WHERE} during the update") from None
        return CheckResult(NAME, True, f"certmond has updated {_WHERE}; before the update, its CA {fact}")

    return run_check(access, NAME, work, limit)


async def _read(connection: Connection) -> ConfigMap:
    found = await connection.client.get(ConfigMap, _CONFIG_MAP, namespace=_NAMESPACE)
    if found.metadata is None or not found.metadata.resourceVersion:
        raise ValueError
    return found


async def _patch(connection: Connection, patch: dict[str, Any]) -> ConfigMap:
    return await connection.client.patch(
        ConfigMap, _CONFIG_MAP, patch, namespace=_NAMESPACE, patch_type=PatchType.MERGE
    )


async def _call(connection: Connection, verb: str, call: Any) -> Any:
    rule = f"apiGroups [''], resources [configmaps], resourceNames [{_CONFIG_MAP}], verbs [{verb}]"
    return await connection.call(f"{verb} {_WHERE}", f"grant this user a role in {_NAMESPACE} with {rule}", call)


def _cluster(text: str) -> tuple[Any, dict[str, Any]]:
    """Return the kubeconfig in `text`, and the fields of its only cluster.

    Raises MalformedError if `text` is not a kubeconfig with exactly one cluster.
    """
    document = load_mapping(text.encode("utf-8"))
    match document:
        case {"clusters": [{"cluster": dict() as cluster}]}:
            return document, cluster
        case _:
            raise MalformedError("does not contain exactly one cluster")


def _embedded(cluster: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(cluster.get(_TRUST, "")), validate=True)
    except ValueError:
        return b""
