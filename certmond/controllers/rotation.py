"""Controller that begins, advances and ends the CA rotation of one node.

This module reads and writes the rotation record of the node. `executor` writes the files of a phase, and the
coordinator decides whether a phase may end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from certmond.config.model import Config
from certmond.controllers.coordinator_interface import Coordinator
from certmond.controllers.executor import Executor
from certmond.controllers.rotation_authority import RotationAuthority
from certmond.controllers.rotation_state import RotationState
from certmond.errors import MalformedError, OvertakenError, RotationError, SigningError
from certmond.notify.audit import Audit
from certmond.notify.event_log import Event
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.steps import Plan
from certmond.pki.rotation.phases import Phase, Rotation, following
from certmond.pki.rotation.planner import old_ca_leaves
from certmond.pki.services.staleness import Surroundings
from certmond.rotation.staged_ca import Part, Staging
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.node_file_reader import NodeFiles

_PUBLICATION_ERRORS = (SigningError, OvertakenError, RotationError, MalformedError)
"""Exceptions of a failed publication to the other nodes."""
_CHANGED = "another process has changed the rotation record; certmond reads it again"
"""Message about an unexpected rotation record. The next pass decides again."""


class RotationController:
    """Controller of the CA rotations of one node."""

    def __init__(
        self,
        config: Config,
        executor: Executor,
        state: RotationState,
        *,
        files: NodeFiles,
        record: RotationRecord,
        staging: Staging,
        coordinator: Coordinator,
        audit: Audit,
        clock: Callable[[], datetime],
    ) -> None:
        self._config, self._executor, self._state = config, executor, state
        self._authority = RotationAuthority(config, files, clock)
        self._record, self._staging, self._coordinator = record, staging, coordinator
        self._audit, self._clock = audit, clock
        self._waits: tuple[str, ...] = ()
        self._waits_in: tuple[str, Phase] | None = None
        self.until: datetime | None = None
        """Time at which the rotation may advance without an event, or None."""
        self.settled = False
        """True if this node has reached the phase of the rotation, and waits for other nodes or for a time."""

    def ask(self) -> None:
        """Read the decisions of the other nodes. Commands call this method before they scan the node."""
        self._coordinator.ask()

    @property
    def waits(self) -> tuple[str, ...]:
        """The conditions for which the phase waited at the last `advance`."""
        return self._waits if self._waits_in == self._state.at else ()

    def advance(self, assessment: Assessment, around: Surroundings, plan: Plan) -> str | None:
        """Begin, advance or end the rotation, if possible now. Return a sentence about the change, if any.

        Raises BusyError while another process writes, and WriteError if certmond cannot write a record. Also raises the
        errors of `start` and `change`.
        """
        self.until, self.settled, state = self._next_request_at(), False, self._state
        self._waits_in = state.at
        if state.broken or state.elsewhere:
            return None
        if state.rotation != state.own and state.rotation is not None:
            return self._take_over(state.own, state.rotation)
        try:
            if state.followed() != state.rotation:
                return "the cluster has another rotation record; certmond follows that record in the next pass"
        except RotationError as error:
            self._waits = (str(error),)  # the next pass reports the error as a finding
            return None
        if (back := state.back) and state.rotation:
            self.change(back)
            which = "the old CA" if back.new in state.rotation.old else "another CA"
            return f"{which} of {back.family} was installed: {back.name} begins"
        if not self._restore_shared_record():
            return None
        reach = state.reach(assessment, around, plan)
        self._waits = ()
        if reach is None:
            return self._begin_replacement(assessment.taken_at) or self._accept()
        if reach.waits:
            if reach.begun:  # otherwise, the node has no report to withdraw
                self._coordinator.unsettled(reach.rotation)
            self._waits = reach.waits
            self.until = min((at for at in (self.until, reach.until) if at), default=None)
            return None
        rotation, now = reach.rotation, assessment.taken_at
        if rotation.over:
            return self._end(rotation, [status.seen.path for status in old_ca_leaves(rotation, assessment)])
        gate = self._coordinator.gate(rotation, state.report(rotation, assessment), now)
        if gate.noted:
            return self._save(gate.noted, gate.waits[0], f"{rotation.name}: {gate.waits[0]}")
        if gate.waits:
            self._waits, self.until, self.settled = gate.waits, gate.until, True
            return None
        return self._begin_phase(rotation, following(rotation, self._clock()), gate.message)

    def record_interim_trust(self, around: Surroundings, now: datetime) -> str | None:
        """Record which replaced trust anchors need interim trust. Return a sentence about the change, if any.

        Send no request, because the API server might reject this node. Raises BusyError while another process writes,
        and WriteError if certmond cannot write the record.
        """
        before, after = self._state.interim_trust.recorded, self._state.interim_trust.next_records(around, now)
        if after == before:
            return None
        with self._executor.writing():
            if self._record.interims() != before:
                return _CHANGED
            self._record.note_interims(after)
        return f"certmond recorded the CAs that need interim trust: {', '.join(after) or 'none'}"

    def _next_request_at(self) -> datetime | None:
        """Read the decisions of the other nodes. Return the time of the next read, or None if no read is necessary."""
        wait = self._coordinator.ask()
        # The repair of a broken state might cause no event.
        waits = [each for each in (wait, self._config.poll if self._state.broken else None) if each is not None]
        return self._clock() + min(waits) if waits else None

    def _take_over(self, own: Rotation | None, rotation: Rotation) -> str:
        """Store the rotation of the shared record in the node's record. Return a sentence about the result."""
        with self._executor.writing():
            if self._record.load() != own:
                return _CHANGED
            self._record.save(rotation)
        message = f"{rotation.name} is in the phase {rotation.phase}"
        if own is None or replace(own, released=rotation.released) != rotation:
            self._audit_step(message, rotation)  # the node that released a batch has recorded the release
        return message

    def _restore_shared_record(self) -> bool:
        """Restore the shared record if it is missing or outdated. Return False if the rotation must wait."""
        rotation = self._state.rotation
        if rotation is None or not self._state.leads(rotation):
            return True  # a worker writes no shared record
        try:
            self._coordinator.bring_back(rotation)
        except _PUBLICATION_ERRORS as error:
            fact = f"the shared record of {rotation.name} is missing or outdated, and certmond cannot restore it"
            self._waits = (f"{fact}: {error}",)
            return rotation.over  # the other nodes detect the end of a rotation themselves
        return True

    def start(self, rotation: Rotation) -> None:
        """Record and publish a new rotation, which the operator requests or a replaced CA requires.

        Raises RotationError if another rotation is in progress, or if this node cannot complete the new rotation. Also
        raises BusyError, WriteError, and the exceptions of a failed publication.
        """
        if why := self._state.replaced.refusal(rotation):
            raise RotationError(why)
        rotation = self._authority.authorized(rotation)
        with self._executor.writing(5):
            if (other := self._record.load()) is not None:
                fact = f"{other.name} is in progress, in the phase {other.phase}"
                raise RotationError(f"{fact}; complete it first: certmond root-ca rotate --family {other.family}")
            self._coordinator.publish(rotation)
            self._record.save(rotation)
        self._audit_step(f"{rotation.name} begins in the mode {rotation.mode}: {_names(rotation)}", rotation)

    def change(self, rotation: Rotation) -> None:
        """Record and publish a decision about the rotation in progress, such as an abort.

        Raises RotationError if another process has changed the record. Also raises BusyError, WriteError, and the
        exceptions of a failed publication.
        """
        with self._executor.writing(5):
            if self._record.load() not in {self._state.own, self._state.rotation}:
                fact = "another process has changed the rotation in the meantime"
                raise RotationError(f"{fact}; before you repeat the command, check the rotation: certmond status")
            self._coordinator.publish(rotation)
            self._record.save(rotation)
        self._audit_step(f"{rotation.name} continues in the phase {rotation.phase}", rotation)

    def _save(self, rotation: Rotation, reached: str, message: str) -> str | None:
        """Publish and record the new state of the rotation, and return `message`.

        Return another sentence if another process has changed the record, or None if the publication failed. `reached`
        is the fact that justifies the new state.
        """
        with self._executor.writing():
            if self._record.load() != self._state.own:
                return _CHANGED
            try:
                self._coordinator.publish(rotation)
            except _PUBLICATION_ERRORS as error:
                self._waits = (f"{reached}, but certmond could not publish the decision: {error}",)
                return None
            self._record.save(rotation)
        self._audit_step(message, rotation)
        return message

    def _begin_phase(self, before: Rotation, after: Rotation, remark: str) -> str | None:
        message = "; ".join(filter(None, (f"{before.name}: {before.phase} is reached, {after.phase} begins", remark)))
        return self._save(after, f"{before.phase} is reached", message)

    def _end(self, rotation: Rotation, old_ca_files: Sequence[str]) -> str | None:
        """End the rotation: destroy the staged CAs, and accept the new trust anchor.

        Return a sentence about the result, or None if the staged key of the new CA is not installed. `old_ca_files`
        contains the paths of the files that still contain a certificate of the old CA.
        """
        ground, staged = self._state.ground, [each for each in map(self._staging.read, Part) if each]
        needed = [each for each in staged if each.key_unknown or each.key == rotation.new.key]
        if ground and needed and ground.key != rotation.new.key:
            fact = f"{ground.key_path} is not the private key of the installed {rotation.noun}"
            message = ", and ".join((fact, *(each.fault for each in needed if each.fault)))
            remedy = f"certmond destroys no key until you restore the private key of the new {rotation.noun}"
            self._waits = (f"{message}; {remedy}",)
            return None
        with self._executor.writing():
            if self._record.load() != self._state.own:
                return _CHANGED
            if rotation.family in (interims := self._record.interims()):
                self._record.note_interims(
                    {family: interim for family, interim in interims.items() if family != rotation.family}
                )
            self._record.accept({**self._record.anchors(), rotation.family: (rotation.new,)})
            self._staging.destroy(*Part)
            self._record.close(rotation)
        self._coordinator.end()
        noun = rotation.noun
        outcome = f"the old {noun} is restored" if rotation.aborted else f"only the new {noun} is trusted"
        message = f"{rotation.name} is done: {outcome}"
        if old_ca_files:
            more = f" and {len(old_ca_files) - 3} more" if len(old_ca_files) > 3 else ""
            message += (
                f"; {', '.join(old_ca_files[:3])}{more} still contain certificates of the old CA; see: certmond check"
            )
        self._audit_step(message, rotation)
        return message

    def _begin_replacement(self, now: datetime) -> str | None:
        """Begin a rotation to a CA that a user has installed without certmond.

        Return a sentence about the rotation, or None if no rotation begins.
        """
        wanted = self._config.root_ca.on_change
        made = self._state.replaced.rotation(now, at_once=wanted == "replace") if wanted != "alarm" else None
        if made is None:
            return None
        self.start(made)
        return f"the CA of {made.family} was replaced: {made.name} begins in the phase {made.phase}"

    def _accept(self) -> str | None:
        """Record the installed trust anchors as accepted, unless a user has replaced one of the trust anchors."""
        known, present = self._record.anchors(), self._state.replaced.unchanged_anchors
        if any(known.get(family) != trust for family, trust in present.items()):
            with self._executor.writing():
                self._record.accept(known | present)
        return None

    def _audit_step(self, message: str, rotation: Rotation) -> None:
        fields: Mapping[str, str | None] = {
            "step": "rotation", "target": rotation.family, "rotation": rotation.id, "phase": rotation.phase.value
        }  # fmt: skip
        self._audit.conclude(Event.ROTATION, self._clock(), message, fields=fields)


def _names(rotation: Rotation) -> str:
    return f"from {', '.join(each.called for each in rotation.old)} to {rotation.new.called}"
