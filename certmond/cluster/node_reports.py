"""Reports of the nodes on their progress in a rotation.

This module decides when this node writes, repeats and withdraws its report. `node_api` defines the format of a report.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from certmond.cluster.api_access import Access
from certmond.errors import CertmondError
from certmond.pki.rotation.gates import Member, Report
from certmond.pki.rotation.phases import Phase, Rotation, forth

if TYPE_CHECKING:
    from certmond.cluster.node_api import ClusterNode

_REPEATED_AFTER = 6
"""Interval at which certmond repeats an unchanged report, as a multiple of `poll`.

The cluster might have replaced the Node by an object without the report.
"""


class NodeReports:
    """Reader of the reports of all nodes, and writer of the report of the node `node`.

    `own` contains the credentials of the node itself, which permit changes to the annotations of its Node. `boot` is
    the boot ID of the machine. `monotonic` returns the seconds of a monotonic clock.
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
        self._published: Report | None = None
        self._is_published = False  # whether the Node has `_published`; a new process does not know it
        self._next_write = self._next_withdrawal = 0.0

    def publish(self, report: Report) -> None:
        """Write the report of this node if the report has changed, or if its repetition is due.

        Raises RefusedError or UnreachableError if the write fails.
        """
        if not self._is_published or report != self._published or self._monotonic() >= self._next_write:
            self._annotate(report.rotation, report)

    def withdraw(self, rotation: Rotation) -> None:
        """Withdraw this node's report on the present phase of the rotation. Never raises CertmondError.

        The annotation still shows that the node takes part in the rotation.
        """
        report = self._published
        if self._is_published and (report is None or (report.rotation, report.phase) != (rotation.id, rotation.phase)):
            return
        if self._monotonic() >= self._next_withdrawal:
            self._next_withdrawal = self._monotonic() + self._pause
            with suppress(CertmondError):
                self._annotate(rotation.id, None)

    def members(self, rotation: Rotation) -> list[Member]:
        """Return all nodes of the cluster with their current reports.

        Raises RefusedError or UnreachableError if the call fails.
        """
        from certmond.cluster.node_api import list_nodes  # noqa: PLC0415 - needs the extra

        found, forward_id = list_nodes(self._access), forth(rotation.id)
        self._signers |= {node.uid for node in found if node.control_plane or (node.report and node.report.holds_key)}
        self._took_part |= {(node.uid, forth(node.report.id)) for node in found if node.report}
        self._ready = frozenset(node.name for node in found if node.ready)
        return [
            Member(
                node.name, signs := node.uid in self._signers, _report(node, signs), started_since=node.started_since,
                took_part=(node.uid, forward_id) in self._took_part,
            )
            for node in found
        ]  # fmt: skip

    def others(self, rotation: Rotation) -> list[Member]:
        """Return all nodes of the cluster except this node. Raises the errors of `members`."""
        return [each for each in self.members(rotation) if each.name != self._node]

    def not_ready(self, names: Collection[str]) -> frozenset[str]:
        """Return the nodes in `names` that were missing or not ready in the last listing."""
        return frozenset(names) - self._ready

    def _annotate(self, rotation: str, report: Report | None) -> None:
        from certmond.cluster.node_api import Acknowledgement, acknowledge  # noqa: PLC0415 - needs the extra

        annotation = Acknowledgement(rotation, "", "", "", holds_key=False, boot=self._boot)
        if report is not None:
            holds = report.signs and report.ready
            annotation = Acknowledgement(rotation, report.phase.value, report.trust, report.issuer, holds, self._boot)
        self._is_published = False  # the Node's state is unknown if no answer arrives
        acknowledge(self._own, self._node, annotation)
        self._published, self._is_published = report, True
        self._next_write, self._next_withdrawal = self._monotonic() + self._pause * _REPEATED_AFTER, 0.0


def _report(node: ClusterNode, signs: bool) -> Report | None:
    report = node.report
    if report is None or report.phase not in tuple(Phase):
        return None
    return Report(report.id, Phase(report.phase), report.trust, report.issuer, signs, report.holds_key)
