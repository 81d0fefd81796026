"""The invariants of every point of a rotation: I1 to I7 of `pki.rotation`, each a function on the cluster model.

Each yields a sentence for every violation. They depend only on the state, whatever led to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from certmond.pki.rotation.worker_batches import in_batches
from certmond.pki.x509.certificate import Certificate
from tests.pki.cluster_model import BATCH, SHARED, Cluster, Trust, verifies


def servers_accept(cluster: Cluster) -> Iterator[str]:
    """I1: every server accepts the client certificates of all clients."""
    clients = list(_clients(cluster))
    for node in cluster.nodes:
        for name, process in node.processes.items():
            for who, presents, _ in clients if name == "apiserver" else _api_servers(cluster):
                if process.accepts is not None and not verifies(presents, process.accepts):
                    yield f"the {name} of {node.name} refuses {who}"


def clients_accept(cluster: Cluster) -> Iterator[str]:
    """I2: every client accepts the server certificates of all servers."""
    for node in cluster.nodes:
        if server := node.processes.get("apiserver"):
            for who, _, trusts in _clients(cluster):
                if not verifies(server.serves, trusts):
                    yield f"{who} refuses the API server of {node.name}"


def signers_are_trusted(cluster: Cluster) -> Iterator[str]:
    """I3: each component trusts a signer before it signs."""
    parties = list(cluster.trusting())
    for node in cluster.nodes:
        for signer in filter(None, {node.signer(), node.trust[0] if node.key else None}):
            yield from (f"{node.name} signs, and {who} trusts not" for who, trust in parties if signer not in trust)


def signers_verify(cluster: Cluster) -> Iterator[str]:
    """I3 with the same key: a component need not have the new certificate to accept what its key signs."""
    parties = list(cluster.trusting())
    for node in cluster.nodes:
        for signer in filter(None, {node.signer(), node.trust[0] if node.key else None}):
            yield from (f"{who} refuses {node.name}" for who, trust in parties if not verifies(signer, trust))


def anchor_fits_key(cluster: Cluster) -> Iterator[str]:
    """I4: the first certificate of the anchor's file matches the key beside it, as kubeadm signs."""
    for node in cluster.nodes:
        if node.key and node.trust[0].key != node.key.key:
            yield f"ca.key of {node.name} is not the key of the first certificate"


def leaves_are_trusted(cluster: Cluster) -> Iterator[str]:
    """I5: a leaf is issued again only if each component trusts its new issuer, whenever it is read."""
    parties = list(cluster.trusting())
    for issuer in {issuer for node in cluster.nodes for issuer in node.leaves()}:
        yield from (f"{who} would refuse a new leaf" for who, trust in parties if not verifies(issuer, trust))


def distrusted_has_no_leaves(cluster: Cluster) -> Iterator[str]:
    """I6: an anchor is distrusted only where no leaf is left that it has signed, in a file or in memory."""
    left = {issuer for node in cluster.nodes for issuer in node.leaves()}
    for node in cluster.nodes:
        for process in node.processes.values():
            left |= {issuer for issuer in (process.serves, process.presents) if issuer}
    for who, trust in (each for node in cluster.nodes for each in node.anchors()):
        if not all(verifies(issuer, trust) for issuer in left):
            yield f"{who} distrusts a CA of which there are leaves"


def former_is_gone(cluster: Cluster) -> Iterator[str]:
    """I7: at the end no component trusts the old anchor."""
    if cluster.rotation.over:
        former = set(cluster.rotation.old)
        yield from (f"{who} trusts the old CA still" for who, trust in cluster.trusting() if former & set(trust))


def no_bundle_signs(cluster: Cluster) -> Iterator[str]:
    """kube-controller-manager refuses a signer's file with more than one certificate."""
    for node in cluster.nodes:
        manager = node.processes.get("controller-manager")
        if manager and manager.flags == SHARED and len(node.trust) > 1:
            yield f"the controller-manager of {node.name} cannot sign"


def few_workers_act(cluster: Cluster) -> Iterator[str]:
    """No more workers than a batch have changed a file in the phase without a report."""
    here = cluster.rotation.id, cluster.rotation.phase
    acting = (node for node in cluster.nodes if not node.control_plane and node.acted == here)
    busy = [node.name for node in acting if node.said is None or (node.said.rotation, node.said.phase) != here]
    if in_batches(cluster.rotation) and len(busy) > int(BATCH):
        yield f"{', '.join(busy)} act at the same time"


Invariant = Callable[[Cluster], Iterator[str]]

ALL: tuple[Invariant, ...] = (
    servers_accept, clients_accept, signers_are_trusted, anchor_fits_key, leaves_are_trusted, distrusted_has_no_leaves,
    former_is_gone, no_bundle_signs,
)  # fmt: skip
SAME_KEY: tuple[Invariant, ...] = tuple(signers_verify if each is signers_are_trusted else each for each in ALL)
AT_ONCE: tuple[Invariant, ...] = (anchor_fits_key, former_is_gone, no_bundle_signs)
"""The invariants that also hold in a rotation at once."""


def violated(cluster: Cluster, invariants: tuple[Invariant, ...] = ALL) -> dict[Invariant, str]:
    """Yield the violated invariants, with one sentence each."""
    found = ((each, next(each(cluster), None)) for each in invariants)
    return {each: said for each, said in found if said}


def _clients(cluster: Cluster) -> Iterator[tuple[str, Certificate | None, Trust]]:
    """Yield the clients of API servers, with the certificates that they present."""
    yield "a workload", None, cluster.workload
    for node in cluster.nodes:
        for name, process in node.processes.items():
            if process.trusts is not None:
                yield f"the {name} of {node.name}", process.presents, process.trusts
        if node.control_plane:
            trust, issuer = node.confs["admin.conf"]
            yield f"kubectl on {node.name}", issuer, trust


def _api_servers(cluster: Cluster) -> Iterator[tuple[str, Certificate | None, Trust]]:
    """Yield the clients of kubelets."""
    for node in cluster.nodes:
        if server := node.processes.get("apiserver"):
            yield f"the API server of {node.name}", server.presents, ()
