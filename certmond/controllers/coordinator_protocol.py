"""Who decides when a phase of a rotation is over: a node by itself where it is alone, the cluster where it is not.

Owns the protocol between a node and whoever speaks for all, and the conductor of a single node. The cluster's is
`cluster.conductor`. Changes no file of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Protocol

from certmond.config.model import Config
from certmond.controllers.ca_publication import Publication
from certmond.errors import RotationError
from certmond.formats.manifest import Components
from certmond.pki.rotation.gates import Gate, Report
from certmond.pki.rotation.phases import Phase, Rotation
from certmond.pki.rotation.replaced_ca import OF_SEVERAL
from certmond.pki.rotation.worker_batches import Workers
from certmond.pki.x509.certificate import Anchor
from certmond.rotation.phase_timer import Lasting


class Conductor(Protocol):
    """Who speaks for all the nodes that a rotation concerns."""

    def follow(
        self, own: Rotation | None, closed: Collection[str], trusted: Collection[Anchor] = ()
    ) -> Rotation | None:
        """The rotation that this node is to carry on, where its own record has `own`, it has closed those with the ids
        `closed`, and trusts the anchors `trusted`. Asks nobody, and waits for nothing. Raises RotationError where the
        two cannot be of one rotation.
        """
        ...

    @property
    def estranged(self) -> str | None:
        """How the others and this node do not know each other any more, a sentence; None where they do."""
        ...

    def ask(self) -> timedelta | None:
        """Ask what others have decided, unless that was done a moment ago; and in how long it is time again."""
        ...

    def objection(self, components: Components) -> str | None:
        """Why a rotation may not begin by itself on this node; None where it may."""
        ...

    def publish(self, rotation: Rotation) -> None:
        """What this node has decided is for all to know. Raises CertmondError where nobody could be told."""
        ...

    def bring_back(self, rotation: Rotation) -> None:
        """This node, of the control plane, has noted the rotation so: where what all know is less, or gone, it is for
        all to know again. Raises CertmondError where it cannot be.
        """
        ...

    def gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        """This node has reached the phase, and reports so: may it be left? Never raises CertmondError."""
        ...

    def workers(self, rotation: Rotation) -> Workers | None:
        """How far the workers were in the phase when they were counted last; None where this node has not done so."""
        ...

    def unsettled(self, rotation: Rotation) -> None:
        """This node has not reached the phase, whatever it has reported before. Never raises CertmondError."""
        ...

    def end(self) -> None:
        """This node has ended the rotation. Never raises."""
        ...


class SingleNode:
    """A node that is all there is: what it has reached, everybody has. Of several nodes, this one alone, for who only
    looks: `strange` asks then how the others and it do not know each other. `publication` asks what pods were given.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        strange: Callable[[], str | None] = lambda: None,
        publication: Publication | None = None,
    ) -> None:
        self._publication = publication
        self._clock, self._lasting, self._strange = clock, Lasting(config.root_ca, monotonic), strange
        self._estranged: str | None = None
        self._of_several = config.cluster.kubeconfig is not None  # which who only looks does not ask

    def follow(
        self,
        own: Rotation | None,
        closed: Collection[str],  # noqa: ARG002 - there are no others
        trusted: Collection[Anchor] = (),  # noqa: ARG002 - likewise
    ) -> Rotation | None:
        if own and own.shared and not self._of_several:
            raise RotationError(
                f"{own.name} is one of several nodes, and `cluster:` is in the configuration no more, so that nobody "
                "knows how far they are; put it back until the rotation is over"
            )
        return own

    @property
    def estranged(self) -> str | None:
        return self._estranged

    def ask(self) -> timedelta | None:
        self._estranged = self._strange()
        return None

    def workers(self, rotation: Rotation) -> Workers | None:  # noqa: ARG002 - there are none
        return None

    def unsettled(self, rotation: Rotation) -> None:
        """There is nobody to tell; but the time of the phase has begun."""
        self._lasting.meet(rotation, self._clock())

    def end(self) -> None:
        """There is nobody to tell."""

    def objection(self, components: Components) -> str | None:
        if self._of_several:
            return OF_SEVERAL
        members = _members(components)
        if members > 1:
            fact = f"etcd has {members} members, so that this is not the only control-plane node"
            return f"{fact}, and without `cluster:` in the configuration it cannot know of the others"
        return None

    def publish(self, rotation: Rotation) -> None:
        """There is nobody to tell."""

    def bring_back(self, rotation: Rotation) -> None:
        """Nobody else knows of it."""

    def gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        if rotation.phase is Phase.PREPARE and report.signs and not report.ready:
            said = f"the new {rotation.noun}'s key is not on this node; give it with `certmond root-ca stage`"
            return Gate((said,))
        held = self._lasting.gate(rotation, now)
        return self._publication.gate(rotation, held, now) if self._publication else held


def _members(components: Components) -> int:
    """How many members etcd's manifest names (phases/etcd/local.go: those that it joined, and itself)."""
    flags = (pod.flags.get("etcd", {}) for pod in components.pods)
    return max((len(found.get("initial-cluster", "").split(",")) for found in flags), default=0)
