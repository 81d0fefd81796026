"""Reports of the nodes on their progress in a rotation: this node writes its own, and reads the others.

Owns when this node writes, repeats and withdraws its report. Owns also the memory of other nodes: which ever had a CA's
key, which took part in a rotation, and whose kubelet was ready. `nodes` owns the format of a report. Imports without
lightkube.
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
"""Interval after which an unchanged report is written again, as a multiple of `poll`: the Node may be a new object."""


class RollCall:
    """The reports for one process on the node `node`, whose machine has the boot ID `boot`.

    `own` has the credentials of the node itself, which alone may annotate its Node. `monotonic` returns the seconds of
    a clock that cannot be set.
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
        self._signers = set[str]()  # uids; a node that once had a CA key stays a signer, whatever its label is later
        self._took_part = set[tuple[str, str]]()  # uids, and the ids of rotations on which they reported
        self._ready = frozenset[str]()  # names, as last listed
        self._said: Report | None = None
        self._known = False  # whether the Node has `_said`; unknown in a new process
        self._say_again = self._withdraw_again = 0.0

    def say(self, report: Report) -> None:
        """Write this node's report if it is new or due again.

        Raises RefusedError, UnreachableError.
        """
        if not self._known or report != self._said or self._monotonic() >= self._say_again:
            self._annotate(report.rotation, report)

    def take_back(self, rotation: Rotation) -> None:
        """Withdraw the report on this phase. The annotation still shows that the node takes part in the rotation.

        Never raises CertmondError.
        """
        said = self._said
        if self._known and (said is None or (said.rotation, said.phase) != (rotation.id, rotation.phase)):
            return
        if self._monotonic() >= self._withdraw_again:
            self._withdraw_again = self._monotonic() + self._pause
            with suppress(CertmondError):
                self._annotate(rotation.id, None)

    def members(self, rotation: Rotation) -> list[Member]:
        """Return all nodes, as they are now. Raises RefusedError, UnreachableError."""
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
        """Return all nodes except this one. Raises the same errors."""
        return [each for each in self.members(rotation) if each.name != self._node]

    def silent(self, names: Collection[str]) -> frozenset[str]:
        """Return those of `names` that were missing, or not ready, when `members` last listed the nodes."""
        return frozenset(names) - self._ready

    def _annotate(self, rotation: str, report: Report | None) -> None:
        from certmond.cluster.nodes import Acknowledgement, acknowledge  # noqa: PLC0415 - needs the extra

        said = Acknowledgement(rotation, "", "", "", holds_key=False, boot=self._boot)
        if report is not None:
            holds = report.signs and report.ready
            said = Acknowledgement(rotation, report.phase.value, report.trust, report.issuer, holds, self._boot)
        self._known = False  # the Node's state is unknown if no answer arrives
        acknowledge(self._own, self._node, said)
        self._said, self._known = report, True
        self._say_again, self._withdraw_again = self._monotonic() + self._pause * _REPEATED, 0.0


def _report(node: ClusterNode, signs: bool) -> Report | None:
    said = node.said
    if said is None or said.phase not in tuple(Phase):
        return None
    return Report(said.id, Phase(said.phase), said.trust, said.issuer, signs, said.holds_key)
