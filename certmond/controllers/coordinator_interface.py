"""Interface of the coordinator, which decides when a phase of a rotation ends.

`SingleNode` implements the interface for one node, and `cluster.rotation_coordinator` for several nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from certmond.config.model import Config
from certmond.errors import RotationError
from certmond.formats.manifest import Components
from certmond.pki.rotation.gates import Gate, Report
from certmond.pki.rotation.phases import Phase, Rotation
from certmond.pki.rotation.replaced_ca_detection import OF_SEVERAL
from certmond.pki.rotation.worker_batches import Workers
from certmond.pki.x509.certificate import Anchor
from certmond.rotation.phase_timer import PhaseTimer

if TYPE_CHECKING:
    from certmond.controllers.pod_trust_check import PublicationCheck


class Coordinator(Protocol):
    """Interface of the coordinator of the nodes that take part in a rotation."""

    def follow(
        self, own: Rotation | None, closed: Collection[str], trusted: Collection[Anchor] = ()
    ) -> Rotation | None:
        """Return the rotation that this node continues, if any. Send no request, and do not block.

        `own` is the rotation in the node's record. `closed` contains the IDs of ended rotations, and `trusted` contains
        the trust anchors of the node. Raises RotationError if `own` and the shared record contradict each other.
        """
        ...

    @property
    def estranged(self) -> str | None:
        """The known reason why the node and the API server do not authenticate each other, or None."""
        ...

    def ask(self) -> timedelta | None:
        """Read the decisions of other nodes if a read is due.

        Return the time until the next read, or None if this coordinator reads no decisions.
        """
        ...

    def objection(self, components: Components) -> str | None:
        """Return why certmond must not begin a rotation by itself, or None if certmond may begin a rotation."""
        ...

    def publish(self, rotation: Rotation) -> None:
        """Publish a decision of this node to all nodes. Raises CertmondError if the publication fails."""
        ...

    def bring_back(self, rotation: Rotation) -> None:
        """Restore a missing or outdated shared record from the record of this node.

        Raises CertmondError if the restoration fails.
        """
        ...

    def gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        """Report that this node has reached the phase. Return the conditions that the end of the phase waits for.

        Never raises CertmondError.
        """
        ...

    def workers(self, rotation: Rotation) -> Workers | None:
        """Return the last count of the workers in the phase, or None if this node counts no workers."""
        ...

    def unsettled(self, rotation: Rotation) -> None:
        """Withdraw the report that this node has reached the phase. Never raises CertmondError."""
        ...

    def end(self) -> None:
        """End the rotation for this node. Never raises an error."""
        ...


class SingleNode:
    """Coordinator for the rotation of a single node. This coordinator does not wait for reports of other nodes.

    `strange` checks whether this node and the API server authenticate each other. `publication` checks which CAs the
    cluster has published to Pods.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        strange: Callable[[], str | None] = lambda: None,
        publication: PublicationCheck | None = None,
    ) -> None:
        self._publication = publication
        self._clock, self._timer, self._strange = clock, PhaseTimer(config.root_ca, monotonic), strange
        self._estranged: str | None = None
        self._of_several = config.cluster.kubeconfig is not None  # a command that only reads sends no request

    def follow(
        self,
        own: Rotation | None,
        closed: Collection[str],  # noqa: ARG002 - there are no other nodes
        trusted: Collection[Anchor] = (),  # noqa: ARG002 - there are no other nodes
    ) -> Rotation | None:
        if own and own.shared and not self._of_several:
            raise RotationError(
                f"{own.name} is a rotation of several nodes, but without `cluster:`, certmond cannot read the progress "
                "of the other nodes; restore `cluster:` until the rotation ends"
            )
        return own

    @property
    def estranged(self) -> str | None:
        return self._estranged

    def ask(self) -> timedelta | None:
        self._estranged = self._strange()
        return None

    def workers(self, rotation: Rotation) -> Workers | None:  # noqa: ARG002 - a single node has no workers
        return None

    def unsettled(self, rotation: Rotation) -> None:
        """Start the timer of the phase. A single node has no report to withdraw."""
        self._timer.first_seen(rotation, self._clock())

    def end(self) -> None:
        """Do nothing, because a single node has no shared record."""

    def objection(self, components: Components) -> str | None:
        if self._of_several:
            return OF_SEVERAL
        members = _members(components)
        if members > 1:
            fact = f"etcd has {members} members, so this is not the only control-plane node"
            return f"{fact}, but without `cluster:`, certmond cannot read the state of the other nodes"
        return None

    def publish(self, rotation: Rotation) -> None:
        """Do nothing, because a single node has no shared record."""

    def bring_back(self, rotation: Rotation) -> None:
        """Do nothing, because a single node has no shared record."""

    def gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        if rotation.phase is Phase.PREPARE and report.signs and not report.ready:
            fact = f"the private key of the new {rotation.noun} is not on this node"
            given = "CERT KEY" if rotation.noun == "CA" else "KEY"
            return Gate((f"{fact}; stage it: certmond root-ca stage {given} --family {rotation.family}",))
        gate = self._timer.gate(rotation, now)
        return self._publication.gate(rotation, gate, now) if self._publication else gate


def _members(components: Components) -> int:
    """Return the number of etcd members in the manifest of etcd.

    If no manifest lists the members, return 1, or 0 if the node has no static Pod.

    kubeadm writes the members to the flag `--initial-cluster` (phases/etcd/local.go).
    """
    flags = (pod.flags.get("etcd", {}) for pod in components.pods)
    return max((len(found.get("initial-cluster", "").split(",")) for found in flags), default=0)
