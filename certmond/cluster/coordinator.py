"""Coordination of a rotation among all nodes of a cluster: one record, one coordinator, and a report of every node.

Owns when the cluster is read, which node coordinates, when the next workers may act, and when the next phase begins. It
begins after every node has reported the phase (`node_reports`) and the cluster passes its checks
(`rotation_checks.preconditions`). A node without an answer from the API keeps its phase. Changes no file of the node.
No report contains a key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from certmond.cluster.connection import Access
from certmond.cluster.node_reports import RollCall
from certmond.cluster.record_rules import TAKE_AWAY, admit, lacks, record_of, rotation_of
from certmond.cluster.rotation_checks.preconditions import Inspection
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
from certmond.pki.rotation.replaced_ca import OF_SEVERAL
from certmond.pki.rotation.worker_batches import Workers, behind, joined, next_batch, workers
from certmond.pki.x509.certificate import Anchor
from certmond.rotation.phase_timer import PhaseTimer

if TYPE_CHECKING:
    from certmond.cluster.record_api import Recorded
    from certmond.formats.manifest import Components

_FORGOTTEN = timedelta(minutes=10)
"""Time without a record after which a worker concludes that the others have ended the rotation.

A control-plane node that has recorded the rotation restores the record within a minute.
"""
IDLE = 6
"""Polling interval while no rotation runs, as a multiple of `poll`."""


class Lead(Protocol):
    """The lock of the coordinator."""

    def take(self) -> str | None: ...

    def give_back(self) -> None: ...


class ClusterConductor:
    """The coordinator for the node `node`.

    `own` has the credentials of the node itself, which alone may annotate its Node. `clock` returns aware UTC instants,
    `monotonic` the seconds of a clock that cannot be set. `boot` is the machine's boot ID.
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
        self._access, self._lead, self._node = access, lead, node
        self._clock, self._monotonic = clock, monotonic
        self._spec, self._pause, self._lasting = config.cluster, config.poll, PhaseTimer(config.root_ca, monotonic)
        self._roll = RollCall(access, own, node=node, boot=boot, pause=config.poll, monotonic=monotonic)
        self._inspection = Inspection(access, config.cluster)
        self._found: Recorded | None = None
        self._unread: str | None = None
        self._silent = False
        self._strange: str | None = None
        self._estranged: str | None = None
        self._ask_again = 0.0
        self._gone_since: float | None = None  # None also where the record is unknown
        self._forgotten: Rotation | None = None
        self._closed: frozenset[str] = frozenset()
        self._counted: tuple[str, Phase, Workers | None] | None = None

    @property
    def estranged(self) -> str | None:
        return self._estranged

    def follow(
        self, own: Rotation | None, closed: Collection[str], trusted: Collection[Anchor] = ()
    ) -> Rotation | None:
        """Return the cluster's rotation, unless it is unknown, or this node has ended it or is further in it.

        A complete rotation that is not in `own` concerns only a node that has ended one before, or that trusts an old
        CA of it. Raises RotationError where the record is unreadable or of another rotation.
        """
        self._closed = frozenset(closed)
        if self._unread:
            raise RotationError(self._unread)
        shared = rotation_of(self._found.record) if self._found else None
        if shared is None and own is not None and own == self._forgotten:
            return replace(own, phase=Phase.DONE)
        if shared is None or shared == own:
            return own
        if forth(shared.id) in closed:
            return own  # an older record, perhaps of a restored etcd
        if own is None:
            was_away = not {*shared.old}.isdisjoint(trusted)
            return None if shared.over and not (closed or was_away) else shared
        if shared.id == own.id:
            phases = sequence(shared)
            earlier = own.phase in phases and phases.index(shared.phase) < phases.index(own.phase)
            return own if earlier else joined(own, shared)
        if shared.id == f"{own.id}-back":
            return shared
        if own.id == f"{shared.id}-back" or own.over:  # a complete rotation ends here before another begins
            return own
        if (own.new,) == shared.old and own.phase is sequence(own)[-2]:
            return replace(own, phase=Phase.DONE)  # every node has reached it: its new CA is the next one's old
        raise RotationError(
            f"this node is in {own.name}, and the cluster in {shared.name}; see which one is right, and take the "
            f"record of the other away: the cluster's by `{TAKE_AWAY}`, this node's in rotation/ of the state directory"
        )

    def objection(self, components: Components) -> str | None:  # noqa: ARG002 - it makes no difference here
        return OF_SEVERAL

    def ask(self) -> timedelta:
        """Read the record again where that is due, and return the time until the next read."""
        if self._monotonic() >= self._ask_again:
            self._read()
            under_way = self._found is not None and self._found.record.phase != Phase.DONE
            soon = under_way or self._silent or self._unread
            self._ask_again = self._in(self._pause if soon else self._pause * IDLE)
        return timedelta(seconds=max(0.0, self._ask_again - self._monotonic()))

    def publish(self, rotation: Rotation) -> None:
        """Publish the rotation in the cluster's record.

        Raises RotationError where the cluster is in another one, or this one cannot be recorded. Raises OvertakenError
        where the decision used an outdated record, CertmondError where the API does not write it.
        """
        self._publish(rotation, noted=False)

    def _publish(self, rotation: Rotation, *, noted: bool) -> None:
        from certmond.cluster.record_api import create_record, read_record, replace_record  # noqa: PLC0415 - the extra

        record = record_of(rotation, self._node)
        found = read_record(self._access)
        before, self._found = self._found, found
        try:
            known = before.record if before else None
            admit(rotation, found.record if found else None, known, self._closed, noted=noted)
            written = replace_record(self._access, found, record) if found else create_record(self._access, record)
        except OvertakenError:
            self._ask_again = 0.0
            raise
        self._found = written

    def bring_back(self, rotation: Rotation) -> None:
        """Restore the record.

        Do nothing where its state is unknown. Also raises RotationError where another node is ahead.
        """
        if not self._lacks(rotation):
            return
        self._read()  # another process of this node may have written it
        if not self._lacks(rotation):
            return
        if why := next(ahead(rotation, self._roll.others(rotation), self._closed), None):
            raise RotationError(f"{why}; who knows most of it has to begin, or `certmond root-ca abort` there")
        self._publish(rotation, noted=True)

    def _lacks(self, rotation: Rotation) -> bool:
        known = not (self._silent or self._unread)
        return known and lacks(self._found.record if self._found else None, rotation, self._closed)

    def gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        try:
            return self._gate(rotation, report, now)
        except OvertakenError:
            return Gate(("another node was faster; the record is read again",), now)
        except CertmondError as error:
            return Gate((f"{error}; this node holds its phase until then",), now + self._pause)

    def _gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        self._lasting.first_seen(rotation, now)
        self._roll.say(report)
        if not report.signs:
            return Gate((self._led(rotation),), now + self._pause)
        members = self._roll.members(rotation)
        if waits := self._behind(rotation, members):
            return Gate(waits, now + self._pause)
        if why := self._lead.take():
            return Gate((why,), now + self._pause)
        if (batch := next_batch(rotation, members, self._spec.batch)).noted:
            return batch
        held = self._lasting.gate(rotation, now)
        if held.waits and not held.noted:
            return replace(held, until=min(held.until or now, now + self._pause))
        waits = self._inspection.canaries(rotation, now)
        if not waits and not held.noted and self._asks_workloads(rotation):
            if rotation.published is None:
                # Not `now`: a pod that started between that and the check may have received only the old CA.
                self.publish(replace(rotation, published=self._clock()))
                return Gate(("both CAs are published now; workloads are looked at next",), now)
            gone = self._roll.silent(rotation.excluded)  # pods of an excluded node that is ready still count
            waits = self._inspection.workloads(rotation.published, gone, now)
        if waits := waits or self._behind(rotation, self._roll.members(rotation)):  # again, after these checks
            return Gate(waits, now + self._pause)  # while something is missing, the timer does not start
        # Not `now`: a node may have reached the phase and reported it after this node's scan began.
        return replace(held, noted=replace(rotation, published=self._clock())) if held.noted else Gate()

    def _led(self, rotation: Rotation) -> str:
        """Return what a node waits for that does not coordinate."""
        if self._gone_since is None:
            return "the coordinator leads it on when all nodes have come so far"
        last = sequence(rotation)[-2]  # after it, a node without the CA's key has no step left
        if rotation.phase is last and self._monotonic() >= self._gone_since + _FORGOTTEN.total_seconds():
            self._forgotten = rotation
        return "the cluster has no record of it; a control plane that has noted it brings it back"

    def _behind(self, rotation: Rotation, members: Sequence[Member]) -> tuple[str, ...]:
        self._counted = rotation.id, rotation.phase, workers(rotation, members)
        if all(each.name != self._node for each in members):  # this node has just annotated its Node
            return (f"the cluster has no Node {self._node}, which is this one; see what answers, and `node_name`",)
        waits = behind(rotation, members)
        unknown = unknown_exclusions(rotation, {each.name: each for each in members})
        strangers = (f"the cluster has no Node {name}, which is excluded" for name in unknown)
        return (*waits, *strangers) if waits else ()  # the unknown name may be a misspelling of one of them

    def _asks_workloads(self, rotation: Rotation) -> bool:
        """Return whether the phase checks workloads.

        Pods from before the publication of both CAs trust only the old one.
        """
        return rotation.family == "ca" and rotation.phase is Phase.TRUST and self._spec.workloads != "ignore"

    def unsettled(self, rotation: Rotation) -> None:
        self._lasting.first_seen(rotation, self._clock())
        self._roll.take_back(rotation)

    def workers(self, rotation: Rotation) -> Workers | None:
        counted = self._counted
        return counted[2] if counted and counted[:2] == (rotation.id, rotation.phase) else None

    def end(self) -> None:
        self._inspection.end()
        self._lead.give_back()

    def _read(self) -> None:
        from certmond.cluster.record_api import read_record  # noqa: PLC0415 - needs the extra

        try:
            self._found = read_record(self._access)
        except MalformedError as error:
            self._unread, self._gone_since = str(error), None
        except CertmondError as error:
            self._silent, before, self._gone_since = True, self._strange, None
            self._strange = str(error) if isinstance(error, UnknownServerError | UnknownUserError) else None
            self._estranged = self._strange if before else None  # one failure is not conclusive
        else:
            self._unread, self._silent, self._strange, self._estranged = None, False, None, None
            since = self._monotonic() if self._gone_since is None else self._gone_since
            self._gone_since = since if self._found is None else None

    def _in(self, span: timedelta) -> float:
        return self._monotonic() + span.total_seconds()
