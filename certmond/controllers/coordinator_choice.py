"""Which conductor speaks for all nodes in a rotation, put together from a configuration.

Owns with whose rights the Kubernetes API is asked for it. Decides nothing of a rotation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from certmond.config.model import Config
from certmond.controllers.ca_publication import Publication
from certmond.controllers.coordinator_protocol import Conductor, SingleNode
from certmond.errors import RefusedError
from certmond.state.boot import boot_id

KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
"""With whose rights the Kubernetes API is asked where the configuration does not say, and a node writes to its Node."""
_GLANCE, _ANSWER = timedelta(seconds=2), timedelta(seconds=5)
"""So long at most waits for an answer of the Kubernetes API a command that only looks, and whoever acts."""


def awake() -> float:
    """Seconds, those that the host sleeps included: a host that sleeps does not hold its turn."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def conductor_of(
    config: Config,
    *,
    node: str,
    real: Callable[[str], str],
    root: str,
    acting: bool,
    clock: Callable[[], datetime],
    monotonic: Callable[[], float],
    alive: Callable[[], None],
) -> Conductor:
    """Return the conductor for the node `node`. `real` tells where a file of the node really is, and may raise
    RefusedError; who is not `acting` only looks. Below another `root` than this host's there is no API to ask.
    """
    kubeconfig = config.cluster.kubeconfig
    if kubeconfig is None:
        asks = Publication(config, real, alive, monotonic) if acting and root == "/" else None
        return SingleNode(config, clock=clock, monotonic=monotonic, publication=asks)
    from certmond.cluster.connection import Access

    find = partial(real, kubeconfig)
    if not acting:
        from certmond.cluster.api_identity_check import estranged

        ask = partial(estranged, Access(find, _GLANCE, alive))
        return SingleNode(config, clock=clock, monotonic=monotonic, strange=ask)
    from certmond.cluster.coordinator import ClusterConductor
    from certmond.cluster.lease import ROTATION, ClusterLease

    lead = ClusterLease(find, identity=node, name=ROTATION, alive=alive, monotonic=awake)
    access, own = (Access(rights, _ANSWER, alive) for rights in (find, partial(_as_itself, real, kubeconfig)))
    return ClusterConductor(access, lead, config, node=node, own=own, boot=boot_id(), clock=clock, monotonic=monotonic)


def _as_itself(real: Callable[[str], str], otherwise: str) -> str:
    """With whose rights the node writes to its own Node: the kubelet's, where it has one in the usual place."""
    with suppress(RefusedError):
        if Path(own := real(KUBELET_CONF)).exists():
            return own
    return real(otherwise)
