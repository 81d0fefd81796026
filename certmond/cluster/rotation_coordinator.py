"""Coordination of a rotation among all nodes of a cluster.

This module decides when certmond reads the cluster's record, when workers may act, and when a phase begins.
`node_reports` collects the reports of the nodes, and `rotation_checks` checks the cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from certmond.cluster.api_access import Access
from certmond.cluster.node_reports import NodeReports
from certmond.cluster.record import DELETE_RECORD
from certmond.cluster.record_rules import admit, is_behind, record_of, rotation_of
from certmond.cluster.rotation_checks.phase_checks import Inspection
from certmond.config.model import Config
from certmond.errors import (
    CertmondError,
    MalformedError,
    OvertakenError,
    RotationError,
    UnknownServerError,
    UnknownUserError,
)
from certmond.pki.rotation.gates import Gate, Member, Report, ahead, unknown_exclusions
from certmond.pki.rotation.phases import Phase, Rotation, forth, sequence
from certmond.pki.rotation.pod_trust_gates import searches_certificates
from certmond.pki.rotation.replaced_ca_detection import OF_SEVERAL
from certmond.pki.rotation.worker_batches import Workers, behind, joined, next_batch, workers
from certmond.pki.x509.certificate import Anchor
from certmond.rotation.phase_timer import PhaseTimer

if TYPE_CHECKING:
    from certmond.cluster.record_api import Recorded
    from certmond.formats.manifest import Components

_PRESUMED_ENDED_AFTER = timedelta(minutes=10)
"""Time without a record after which a worker presumes that the rotation has ended.

A control-plane node that has recorded the rotation restores the record within a minute.
"""
IDLE = 6
"""Polling interval while no rotation runs, as a multiple of `poll`."""


class Lead(Protocol):
    """Lock whose holder is the coordinator of the rotation."""

    def take(self) -> str | None: ...

    def give_back(self) -> None: ...


class ClusterConductor:
    """Coordinator of the rotations of a cluster, on the node `node`.

    `own` contains the credentials of the node itself, which permit changes to the annotations of its Node. `monotonic`
    returns the seconds of a monotonic clock. `boot` is the boot ID of the machine.
    """

    def __init__(
        self,
        access: Access,
        lead: Lead,
        config: Config,
        *,
        node: str,
        own: Access,
        boot: str,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access, self._lock, self._node = access, lead, node
        self._clock, self._monotonic = clock, monotonic
        self._spec, self._pause, self._timer = config.cluster, config.poll, PhaseTimer(config.root_ca, monotonic)
        self._reports = NodeReports(access, own, node=node, boot=boot, pause=config.poll, monotonic=monotonic)
        self._inspection = Inspection(access, config.cluster)
        self._record: Recorded | None = None
        self._record_error: str | None = None
        self._unreachable = False
        self._rejection: str | None = None
        self._estranged: str | None = None
        self._next_read = 0.0
        self._missing_since: float | None = None  # None also while the record is unknown
        self._presumed_ended: Rotation | None = None
        self._ended: frozenset[str] = frozenset()
        self._worker_count: tuple[str, Phase, Workers | None] | None = None

    @property
    def estranged(self) -> str | None:
        return self._estranged

    def follow(
        self, own: Rotation | None, closed: Collection[str], trusted: Collection[Anchor] = ()
    ) -> Rotation | None:
        """Return the rotation in the cluster's record, or `own` if the record is unknown, missing or outdated.

        If `own` has ended in the cluster, or has presumably ended, return `own` in the phase `done`. Return None if
        there is no rotation that this node must continue.

        `closed` contains the IDs of the rotations that this node has ended. `trusted` contains the CAs that the node
        trusts. Raises RotationError if the record is invalid, or belongs to another rotation.
        """
        self._ended = frozenset(closed)
        if self._record_error:
            raise RotationError(self._record_error)
        shared = rotation_of(self._record.record) if self._record else None
        if shared is None and own is not None and own == self._presumed_ended:
            return replace(own, phase=Phase.DONE)
        if shared is None or shared == own:
            return own
        if forth(shared.id) in closed:
            return own  # an older record, perhaps after a restore of etcd
        if own is None:
            # A node that is new in the cluster ignores a complete rotation.
            was_offline = not {*shared.old}.isdisjoint(trusted)
            return None if shared.over and not (closed or was_offline) else shared
        if shared.id == own.id:
            phases = sequence(shared)
            earlier = own.phase in phases and phases.index(shared.phase) < phases.index(own.phase)
            return own if earlier else joined(own, shared)
        if shared.id == f"{own.id}-back":
            return shared
        if own.id == f"{shared.id}-back" or own.over:  # a complete rotation ends on this node before another begins
            return own
        if (own.new,) == shared.old and own.phase is sequence(own)[-2]:
            return replace(own, phase=Phase.DONE)  # ended on every node: its new CA is the old CA of `shared`
        raise RotationError(
            f"this node has a record of {own.name}, but the cluster has a record of {shared.name}; delete the wrong "
            f"record: in the cluster, run `{DELETE_RECORD}`; on this node, remove rotation/record.json from the state "
            "directory"
        )

    def objection(self, components: Components) -> str | None:  # noqa: ARG002 - the answer does not depend on it
        return OF_SEVERAL

    def ask(self) -> timedelta:
        """Read the cluster's record if a read is due, and return the time until the next read."""
        if self._monotonic() >= self._next_read:
            self._read()
            under_way = self._record is not None and self._record.record.phase != Phase.DONE
            soon = under_way or self._unreachable or self._record_error
            self._next_read = self._after(self._pause if soon else self._pause * IDLE)
        return timedelta(seconds=max(0.0, self._next_read - self._monotonic()))

    def publish(self, rotation: Rotation) -> None:
        """Publish the rotation in the cluster's record.

        Raises RotationError if another rotation is in progress in the cluster, or if a record cannot contain this
        rotation. Raises OvertakenError if the record changed after this node read the record, and CertmondError if the
        write fails.
        """
        self._publish(rotation, noted=False)

    def _publish(self, rotation: Rotation, *, noted: bool) -> None:
        from certmond.cluster.record_api import create_record, read_record, replace_record  # noqa: PLC0415 - the extra

        record = record_of(rotation, self._node)
        found = read_record(self._access)
        before, self._record = self._record, found
        try:
            known = before.record if before else None
            admit(rotation, found.record if found else None, known, self._ended, noted=noted)
            written = replace_record(self._access, found, record) if found else create_record(self._access, record)
        except OvertakenError:
            self._next_read = 0.0
            raise
        self._record = written

    def bring_back(self, rotation: Rotation) -> None:
        """Restore the cluster's record if it is missing or older than `rotation`.

        Raises the errors of `publish`, and RotationError if another node is in a later phase.
        """
        if not self._is_record_outdated(rotation):
            return
        self._read()  # another process on this node might have written the record
        if not self._is_record_outdated(rotation):
            return
        if why := next(ahead(rotation, self._reports.others(rotation), self._ended), None):
            raise RotationError(
                f"{why}; wait until that node restores the record, or run on that node: certmond root-ca abort"
            )
        self._publish(rotation, noted=True)

    def _is_record_outdated(self, rotation: Rotation) -> bool:
        known = not (self._unreachable or self._record_error)
        return known and is_behind(self._record.record if self._record else None, rotation, self._ended)

    def gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        try:
            return self._gate(rotation, report, now)
        except OvertakenError:
            return Gate(("another node has written the cluster's record first; certmond reads it again",), now)
        except CertmondError as error:
            return Gate((f"{error}; this node stays in its phase until a retry succeeds",), now + self._pause)

    def _gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        self._timer.first_seen(rotation, now)
        self._reports.publish(report)
        if not report.signs:
            return Gate((self._follower_wait(rotation),), now + self._pause)
        members = self._reports.members(rotation)
        if waits := self._nodes_behind(rotation, members):
            return Gate(waits, now + self._pause)
        if why := self._lock.take():
            return Gate((why,), now + self._pause)
        if (batch := next_batch(rotation, members, self._spec.batch)).noted:
            return batch
        held = self._timer.gate(rotation, now)
        if held.waits and not held.noted:
            return replace(held, until=min(held.until or now, now + self._pause))
        waits = self._inspection.failed_checks(rotation, now)
        if not waits and not held.noted and self._checks_workloads(rotation):
            if rotation.published is None:
                # Not `now`: a pod that started between `now` and the check might have received only the old CA.
                self.publish(replace(rotation, published=self._clock()))
                return Gate(("both CAs are published; the check of the workloads is next",), now)
            not_ready = self._reports.not_ready(rotation.excluded)  # Pods of an excluded node that is ready still count
            waits = self._inspection.workloads(rotation.published, not_ready, now)
        if not waits and searches_certificates(rotation):
            waits, held = self._inspection.pod_certificates(rotation, held, now)
        if waits := waits or self._nodes_behind(
            rotation, self._reports.members(rotation)
        ):  # again, because the checks take time
            return Gate(waits, now + self._pause)  # the timer does not start before all checks succeed
        # Not `now`: a node might have reached and reported the phase after the scan of this node began.
        return replace(held, noted=replace(rotation, published=self._clock())) if held.noted else Gate()

    def _follower_wait(self, rotation: Rotation) -> str:
        """Return why a node without the CA's key waits.

        If the record stays missing in the last phase, presume that the rotation has ended.
        """
        if self._missing_since is None:
            return "the leader begins the next phase when all nodes have reached this phase"
        last = sequence(rotation)[-2]  # after this phase, a node without the CA's key has no step left
        if rotation.phase is last and self._monotonic() >= self._missing_since + _PRESUMED_ENDED_AFTER.total_seconds():
            self._presumed_ended = rotation
        return (
            "the cluster has no record of the rotation; a control-plane node that recorded the rotation restores the "
            "record"
        )

    def _nodes_behind(self, rotation: Rotation, members: Sequence[Member]) -> tuple[str, ...]:
        self._worker_count = rotation.id, rotation.phase, workers(rotation, members)
        if all(each.name != self._node for each in members):  # this node has just annotated its Node
            fact = f"the cluster has no Node with the name of this node, {self._node}"
            return (f"{fact}; check `node_name`, and `server` in the kubeconfig",)
        waits = behind(rotation, members)
        unknown = unknown_exclusions(rotation, {each.name: each for each in members})
        missing = (f"the excluded Node {name} is not in the cluster; check the name in --exclude" for name in unknown)
        return (*waits, *missing) if waits else ()  # the unknown name might be a misspelling of a node in `waits`

    def _checks_workloads(self, rotation: Rotation) -> bool:
        """Return whether certmond checks the workloads in this phase.

        Pods that started before both CAs were published trust only the old CA.
        """
        return rotation.family == "ca" and rotation.phase is Phase.TRUST and self._spec.workloads != "ignore"

    def unsettled(self, rotation: Rotation) -> None:
        self._timer.first_seen(rotation, self._clock())
        self._reports.withdraw(rotation)

    def workers(self, rotation: Rotation) -> Workers | None:
        counted = self._worker_count
        return counted[2] if counted and counted[:2] == (rotation.id, rotation.phase) else None

    def end(self) -> None:
        self._inspection.end()
        self._lock.give_back()

    def _read(self) -> None:
        from certmond.cluster.record_api import read_record  # noqa: PLC0415 - needs the extra

        try:
            self._record = read_record(self._access)
        except MalformedError as error:
            self._record_error, self._missing_since = str(error), None
        except CertmondError as error:
            self._unreachable, before, self._missing_since = True, self._rejection, None
            self._rejection = str(error) if isinstance(error, UnknownServerError | UnknownUserError) else None
            self._estranged = self._rejection if before else None  # one failure proves nothing
        else:
            self._record_error, self._unreachable, self._rejection, self._estranged = None, False, None, None
            since = self._monotonic() if self._missing_since is None else self._missing_since
            self._missing_since = since if self._record is None else None

    def _after(self, span: timedelta) -> float:
        return self._monotonic() + span.total_seconds()
