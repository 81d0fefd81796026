"""Who there is in the cluster, and how far each node says that it is: this node says so, and the others are read.

Owns when this node says what it has come to, says it again, and takes it back; and what is remembered of the others:
who was known to have a CA's key, who took part in a rotation, and whose kubelet answered. What a node may write of
itself is `nodes`'; what follows from it is decided elsewhere. It can be imported without lightkube.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from certmond.cluster.connection import Access
from certmond.errors import CertmondError
from certmond.pki.rotation.gates import Member, Report
from certmond.pki.rotation.phases import Phase, Rotation, forth

if TYPE_CHECKING:
    from certmond.cluster.nodes import ClusterNode

_REPEATED = 6
"""So many times as long as the configuration's `poll` is what this node says left alone: its Node may be made anew."""


class RollCall:
    """For the node `node`, whose machine has the boot ID `boot`, and one process. `own` is the access as that node
    itself: nobody else may annotate it. `monotonic` gives seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        access: Access,
        own: Access,
        *,
        node: str,
        boot: str,
        pause: timedelta,
        monotonic: Callable[[], float],
    ) -> None:
        self._access, self._own, self._node, self._boot = access, own, node, boot
        self._pause, self._monotonic = pause.total_seconds(), monotonic
        self._signers = set[str]()  # uids: once known to have a CA key, a node is asked, whatever its label is then
        self._took_part = set[tuple[str, str]]()  # uids, and the ids of rotations of which they have said something
        self._ready = frozenset[str]()  # by name, as they were listed last
        self._said: Report | None = None
        self._known = False  # whether `_said` is what the Node says: not in a process that has just begun
        self._say_again = self._withdraw_again = 0.0

    def say(self, report: Report) -> None:
        """Tell the cluster what this node has come to: once, and now and then again.

        Raises RefusedError, UnreachableError.
        """
        if not self._known or report != self._said or self._monotonic() >= self._say_again:
            self._annotate(report.rotation, report)

    def take_back(self, rotation: Rotation) -> None:
        """This node has not come so far as it may have said of this phase. That it takes part in the rotation stays
        said, for who has not seen it before. Never raises CertmondError.
        """
        said = self._said
        if self._known and (said is None or (said.rotation, said.phase) != (rotation.id, rotation.phase)):
            return
        if self._monotonic() >= self._withdraw_again:
            self._withdraw_again = self._monotonic() + self._pause
            with suppress(CertmondError):
                self._annotate(rotation.id, None)

    def members(self, rotation: Rotation) -> list[Member]:
        """All nodes, as they are now. Raises RefusedError, UnreachableError."""
        from certmond.cluster.nodes import list_nodes  # noqa: PLC0415 - needs the extra

        found, there = list_nodes(self._access), forth(rotation.id)
        self._signers |= {node.uid for node in found if node.control_plane or (node.said and node.said.holds_key)}
        self._took_part |= {(node.uid, forth(node.said.id)) for node in found if node.said}
        self._ready = frozenset(node.name for node in found if node.ready)
        return [
            Member(
                node.name, signs := node.uid in self._signers, _report(node, signs), started_since=node.started_since,
                took_part=(node.uid, there) in self._took_part,
            )
            for node in found
        ]  # fmt: skip

    def others(self, rotation: Rotation) -> list[Member]:
        """The same without this node."""
        return [each for each in self.members(rotation) if each.name != self._node]

    def silent(self, names: Collection[str]) -> frozenset[str]:
        """Those of the nodes whose kubelet did not answer when `members` were listed last, or that were not there."""
        return frozenset(names) - self._ready

    def _annotate(self, rotation: str, report: Report | None) -> None:
        from certmond.cluster.nodes import Acknowledgement, acknowledge  # noqa: PLC0415 - needs the extra

        said = Acknowledgement(rotation, "", "", "", holds_key=False, boot=self._boot)
        if report is not None:
            holds = report.signs and report.ready
            said = Acknowledgement(rotation, report.phase.value, report.trust, report.issuer, holds, self._boot)
        self._known = False  # what the Node says if the answer never comes
        acknowledge(self._own, self._node, said)
        self._said, self._known = report, True
        self._say_again, self._withdraw_again = self._monotonic() + self._pause * _REPEATED, 0.0


def _report(node: ClusterNode, signs: bool) -> Report | None:
    said = node.said
    if said is None or said.phase not in tuple(Phase):
        return None
    return Report(said.id, Phase(said.phase), said.trust, said.issuer, signs, said.holds_key)
