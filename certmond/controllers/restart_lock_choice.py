"""Choice of the lock for the restarts of a node, by its role in the cluster.

A single node needs no lock, a worker has a delay, and a control-plane node takes a Lease. An agent of k3s or RKE2 has a
delay, and reads the Lease.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from certmond.config.model import Config
from certmond.controllers.coordinator_factory import KUBELET_CONF, awake
from certmond.controllers.restart_lock import AgentDelay, RestartLock, SingleNodeLock, WorkerDelay
from certmond.pki.catalog.component_certificate_flags import K3S, RKE2
from certmond.transaction.node_file_reader import NodeFiles

API_SERVER = "/etc/kubernetes/manifests/kube-apiserver.yaml"
"""Manifest that only a control-plane node has.

A node that calls the API server with kubelet.conf, and that does not have this file, is a worker, which takes no Lease.
"""
_SERVER, _AGENT = "/var/lib/rancher/{}/server/cred/passwd", "/var/lib/rancher/{}/agent/kubelet.kubeconfig"
"""Files that only a server of k3s or RKE2 has, and that servers and agents have (pkg/agent/config/config.go)."""


def restart_lock_of(
    config: Config,
    *,
    node: str,
    files: NodeFiles,
    real: Callable[[str], str],
    alive: Callable[[], None],
    scattered: bool,
    called: Callable[[], bool],
) -> RestartLock:
    """Return the lock for the restarts of the node `node`.

    `real` resolves the path of a file of the node. If `scattered` is True, a worker delays its restarts unless its
    batch is released (`called`).
    """
    kubeconfig = config.cluster.kubeconfig
    if kubeconfig is None:
        return SingleNodeLock()
    if kubeconfig == KUBELET_CONF and not files.exists(API_SERVER):  # a worker takes no Lease
        if not scattered:
            return SingleNodeLock()
        return WorkerDelay(node, config.cluster.spread, called=called)
    from certmond.cluster.lease_lock import RESTART, ClusterLease

    lease = ClusterLease(
        partial(real, kubeconfig),  # resolved late, because a process that only plans might lack permission
        identity=node, name=RESTART, duration=config.cluster.lease_duration, alive=alive,
        monotonic=awake,
    )  # fmt: skip
    if not is_rancher_agent(files):
        return lease
    if not scattered:
        return SingleNodeLock()
    return AgentDelay(
        node, config.cluster.spread, servers=lease.obstacle, node=lease.node_problem, called=called
    )  # fmt: skip


def is_rancher_agent(files: NodeFiles) -> bool:
    """Return whether the node is an agent of k3s or RKE2, and not a server."""
    server = any(files.exists(_SERVER.format(program)) for program in (K3S, RKE2))
    return not server and any(files.exists(_AGENT.format(program)) for program in (K3S, RKE2))
