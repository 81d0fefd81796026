"""Choice of the coordinator of rotations, of the users of API objects, and of their credentials."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from certmond.config.model import Config
from certmond.controllers.coordinator_interface import Coordinator, SingleNode
from certmond.errors import RefusedError

if TYPE_CHECKING:
    from certmond.controllers.cluster_objects.cluster_certificate_reader import ClusterReader
    from certmond.controllers.cluster_objects.node_condition import NodeConditionReport
    from certmond.controllers.cluster_objects.serving_request_check import ServingRequestCheck

KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
"""Kubeconfig of the kubelet, with which a node writes to its Node object and reads its certificate requests."""
_GLANCE, _ANSWER = timedelta(seconds=2), timedelta(seconds=5)
"""Timeouts of an API request: for a command that only reads, and for a process that executes steps."""


def awake() -> float:
    """Return the seconds since boot, including time in suspend (CLOCK_BOOTTIME).

    With this clock, the Lease expires even while the host is suspended.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def coordinator_of(
    config: Config,
    *,
    node: str,
    real: Callable[[str], str],
    root: str,
    acting: bool,
    clock: Callable[[], datetime],
    monotonic: Callable[[], float],
    alive: Callable[[], None],
) -> Coordinator:
    """Return the coordinator for the node `node`. If `acting` is False, the coordinator only reads.

    `real` resolves the path of a file of the node, and can raise RefusedError.
    """
    kubeconfig = config.cluster.kubeconfig
    if kubeconfig is None:
        asks = None
        if acting and root == "/":
            from certmond.controllers.pod_trust_check import PublicationCheck

            asks = PublicationCheck(config, real, alive, monotonic)
        return SingleNode(config, clock=clock, monotonic=monotonic, publication=asks)
    from certmond.cluster.api_access import Access

    find = partial(real, kubeconfig)
    if not acting:
        from certmond.cluster.mutual_authentication_check import estranged

        ask = partial(estranged, Access(find, _GLANCE, alive))
        return SingleNode(config, clock=clock, monotonic=monotonic, strange=ask)
    from certmond.cluster.lease_lock import ROTATION, ClusterLease
    from certmond.cluster.rotation_coordinator import ClusterConductor
    from certmond.state.boot import boot_id

    lead = ClusterLease(find, identity=node, name=ROTATION, alive=alive, monotonic=awake)
    access, own = (Access(rights, _ANSWER, alive) for rights in (find, partial(_as_itself, real, kubeconfig)))
    return ClusterConductor(access, lead, config, node=node, own=own, boot=boot_id(), clock=clock, monotonic=monotonic)


class ClusterObjects(NamedTuple):
    """The check of the kubelet's request for its serving certificate, the report to the Node of this node, and the
    reader of the cluster. Each is None if the configuration does not enable it. A command has no reader.
    """

    serving_request: ServingRequestCheck | None = None
    node_condition: NodeConditionReport | None = None
    reader: ClusterReader | None = None


def cluster_objects_of(
    config: Config,
    *,
    node: str,
    real: Callable[[str], str],
    clock: Callable[[], datetime],
    monotonic: Callable[[], float],
    alive: Callable[[], None],
    wake: Callable[[], None] | None,
) -> ClusterObjects:
    """Return what reads and writes objects of the cluster for the node `node`.

    `real` resolves the path of a file of the node, and can raise RefusedError. The reader calls `wake` after each
    change. Without `wake`, the reader is None.
    """
    cluster, kubeconfig = config.cluster, config.cluster.kubeconfig
    if kubeconfig is None:
        return ClusterObjects()
    from certmond.controllers.cluster_objects.cluster_certificate_reader import ClusterReader, ReaderTerms
    from certmond.controllers.cluster_objects.node_condition import NodeConditionReport
    from certmond.controllers.cluster_objects.serving_request_check import ServingRequestCheck

    find = partial(_as_itself, real, kubeconfig)
    report = reader = None
    if cluster.node_condition:
        report = NodeConditionReport(find, node=node, alive=alive, clock=clock, monotonic=monotonic)
    if cluster.reader and wake:
        terms = ReaderTerms(
            partial(real, kubeconfig), node, cluster.reader_namespaces, cluster.reader_interval,
            cluster.lease_duration, config.renew_before,
        )  # fmt: skip
        reader = ClusterReader(terms, wake=wake, clock=clock, monotonic=monotonic)
    check = ServingRequestCheck(find, node=node, poll=config.poll, alive=alive, clock=clock, monotonic=monotonic)
    return ClusterObjects(check, report, reader)


def _as_itself(real: Callable[[str], str], otherwise: str) -> str:
    """Return the resolved path of KUBELET_CONF if this file exists, otherwise the resolved path of `otherwise`."""
    with suppress(RefusedError):
        if Path(own := real(KUBELET_CONF)).exists():
            return own
    return real(otherwise)
