"""Search for workloads whose Pods might not trust a CA, because the Pods started before the cluster published the CA.

A process usually reads its CAs only at its start. This module does not find a Pod whose only token is in a Secret.
`workload_rollout` restarts the workloads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from lightkube.models.meta_v1 import OwnerReference
from lightkube.resources.apps_v1 import DaemonSet, Deployment, ReplicaSet, StatefulSet
from lightkube.resources.core_v1 import Pod

from certmond.cluster.api_access import Access
from certmond.cluster.client import PAGE, Connection
from certmond.cluster.rotation_checks.check import LIMIT, CheckResult, first_names, run_check
from certmond.cluster.rotation_checks.cluster_trust_bundles import API_SERVER_SERVING
from certmond.immutable_class import immutable

NAME = "workloads"
KINDS: dict[str, Any] = {"Deployment": Deployment, "DaemonSet": DaemonSet, "StatefulSet": StatefulSet}

_MIRROR, _PUBLISHED = "kubernetes.io/config.mirror", "kube-root-ca.crt"


class Workload(NamedTuple):
    """Controller of Pods, or a Pod without a controller."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@immutable
class StaleWorkloads:
    """Workloads with a Pod that might not trust a new CA.

    `by_hand` contains the workloads that an operator must restart, each with the reason. `bare` contains the Pods
    without a controller.
    """

    restartable: tuple[Workload, ...] = ()
    by_hand: tuple[tuple[Workload, str], ...] = ()
    bare: tuple[Workload, ...] = ()


def stale_workloads(access: Access, since: datetime, not_ready: Collection[str] = ()) -> StaleWorkloads:
    """Return the workloads with a Pod that started before `since`.

    Ignore mirror Pods, Pods in deletion, Pods on the nodes `not_ready`, and Pods with neither a token nor the published
    CA. Raises RefusedError or UnreachableError if a call fails.
    """
    return access.run(lambda connection: _stale(connection, since, not_ready))


def workloads(
    access: Access, since: datetime, limit: timedelta = LIMIT, *, not_ready: Collection[str] = ()
) -> CheckResult:
    """Check that each running Pod with a token or the published CA started at `since` or later.

    Ignore mirror Pods and Pods in deletion. Also ignore Pods on the nodes `not_ready`, because the API server lists
    these Pods until an operator deletes the Node.
    """

    async def work(connection: Connection) -> CheckResult:
        found = await _stale(connection, since, not_ready)
        everything = [
            *map(str, found.restartable),
            *(f"{each} ({reason})" for each, reason in found.by_hand),
            *(f"{each} (no controller replaces it)" for each in found.bare),
        ]
        if everything:
            fact = f"started before {since:%Y-%m-%dT%H:%M:%SZ}: {first_names(everything)}"
            return CheckResult(
                NAME,
                False,
                fact,
                "delete the Pods without a controller; to restart the workloads, set `cluster.workloads: restart`, or "
                "run: kubectl rollout restart -n NAMESPACE KIND/NAME",
            )
        fact = f"each Pod with a token or the published CA started at {since:%Y-%m-%dT%H:%M:%SZ} or later"
        return CheckResult(NAME, True, fact)

    return run_check(access, NAME, work, limit)


def why_not_restarted(kind: str, spec: Any) -> str | None:
    """Return why a new Pod template would not replace all Pods, or None if the template would replace all Pods."""
    strategy = getattr(spec, "updateStrategy", None)
    if kind == "Deployment" and spec.paused:
        return "is paused"
    if strategy and strategy.type == "OnDelete":
        return "replaces its Pods only when they are deleted (OnDelete)"
    if kind == "StatefulSet" and strategy and strategy.rollingUpdate and strategy.rollingUpdate.partition:
        return f"replaces only Pods with an ordinal of at least {strategy.rollingUpdate.partition} (partition)"
    return None


async def _stale(connection: Connection, since: datetime, not_ready: Collection[str]) -> StaleWorkloads:
    client, since = connection.client, since.replace(microsecond=0)  # the precision of a container's start time

    async def old_pods() -> AsyncIterator[tuple[Workload, OwnerReference | None]]:
        # Reduce each Pod here, so that a list of ten thousand Pods keeps only these fields in memory.
        async for pod in client.list(Pod, namespace="*", fields={"status.phase": "Running"}, chunk_size=PAGE):
            if _is_covered(pod, not_ready) and _start_time(pod) < since:
                yield _as_workload("Pod", pod), _controller(pod)

    pods = await connection.listed("list the Pods", _rule("", "pods"), old_pods)
    sets = {owner.uid for _, owner in pods if owner and owner.kind == "ReplicaSet"}

    async def owners() -> AsyncIterator[tuple[str, OwnerReference]]:
        async for each in client.list(ReplicaSet, namespace="*", chunk_size=PAGE):
            if each.metadata and each.metadata.uid in sets and (owner := _controller(each)):
                yield each.metadata.uid, owner

    above = dict(await connection.listed("list the replicasets", _rule("apps", "replicasets"), owners)) if sets else {}
    by_kind = {kind: set[Workload]() for kind in KINDS}
    by_hand, bare = dict[Workload, str](), list[Workload]()
    for pod, owner in pods:
        made_by = above.get(owner.uid, owner) if owner else None
        if made_by is None:
            bare.append(pod)
        elif made_by.kind in KINDS and made_by.apiVersion.startswith("apps/"):
            by_kind[made_by.kind].add(Workload(made_by.kind, pod.namespace, made_by.name))
        else:
            by_hand[Workload(made_by.kind, pod.namespace, made_by.name)] = "certmond does not restart this kind"
    restartable = []
    for kind, old in by_kind.items():
        excluded = await _unrestartable(connection, kind) if old else {}
        restartable += [each for each in old if each not in excluded]
        by_hand |= {each: excluded[each] for each in old if each in excluded}
    return StaleWorkloads(tuple(sorted(restartable)), tuple(sorted(by_hand.items())), tuple(sorted(bare)))


async def _unrestartable(connection: Connection, kind: str) -> dict[Workload, str]:
    """Return the workloads of a kind whose Pods a new Pod template would not replace, each with the reason."""

    async def unrestartable() -> AsyncIterator[tuple[Workload, str]]:
        async for each in connection.client.list(KINDS[kind], namespace="*", chunk_size=PAGE):
            if reason := why_not_restarted(kind, each.spec):
                yield _as_workload(kind, each), reason

    plural = f"{kind.lower()}s"
    return dict(await connection.listed(f"list the {plural}", _rule("apps", plural), unrestartable))


def _as_workload(kind: str, found: Any) -> Workload:
    return Workload(kind, found.metadata.namespace, found.metadata.name)


def _controller(found: Any) -> OwnerReference | None:
    return next((each for each in found.metadata.ownerReferences or () if each.controller), None)


def _is_covered(pod: Any, not_ready: Collection[str]) -> bool:
    """Return whether the check covers the Pod.

    The check covers a Pod with a volume that contains a token or the published CA. The check omits mirror Pods, Pods in
    deletion, and Pods on the nodes `not_ready`.
    """
    metadata = pod.metadata
    if metadata.deletionTimestamp or _MIRROR in (metadata.annotations or {}) or pod.spec.nodeName in not_ready:
        return False
    return any(_has_token_or_ca(volume) for volume in pod.spec.volumes or ())


def _has_token_or_ca(volume: Any) -> bool:
    """Return whether the volume contains a service-account token or the published CA."""
    sources: Iterable[Any] = (volume.projected and volume.projected.sources) or ()
    projected = any(
        each.serviceAccountToken
        or (each.configMap and each.configMap.name == _PUBLISHED)
        or (each.clusterTrustBundle and _contains_api_server_ca(each.clusterTrustBundle))
        for each in sources
    )
    return projected or bool(volume.configMap and volume.configMap.name == _PUBLISHED)


def _contains_api_server_ca(source: Any) -> bool:
    """Return whether the source selects a ClusterTrustBundle of the API server, by its signer or by its name.

    The name of such an object begins with the name of its signer, with ":" in place of "/" (constructBundleName in
    pkg/controller/certificates/clustertrustbundlepublisher/publisher.go).
    """
    named = (source.name or "").startswith(API_SERVER_SERVING.replace("/", ":") + ":")
    return named or source.signerName == API_SERVER_SERVING


def _start_time(pod: Any) -> datetime:
    """Return the start of the oldest running container, or of the Pod if no container runs.

    A container that the kubelet has restarted has read its files again.
    """
    status = pod.status
    running = [
        each.state.running.startedAt
        for each in (*(status.initContainerStatuses or ()), *(status.containerStatuses or ()))
        if each.state and each.state.running and each.state.running.startedAt
    ]
    began: datetime = min(running, default=status.startTime or pod.metadata.creationTimestamp)
    return began


def _rule(group: str, plural: str) -> str:
    return f"grant this user a cluster role with apiGroups [{group or repr('')}], resources [{plural}], verbs [list]"
