"""One node's part in the rotation of a CA: begin it, advance it from phase to phase, and end it.

Owns what is written about it: the node's record, and the files kept for an abort. `rotation_state` reads the state.
`executor` writes the files of a phase as steps of the plan. The coordinator decides whether a phase may end. Does not
block.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from certmond.config.model import Config
from certmond.controllers.coordinator_protocol import Coordinator
from certmond.controllers.executor import Executor
from certmond.controllers.rotation_state import RotationState
from certmond.errors import MalformedError, OvertakenError, RotationError, SigningError
from certmond.formats.private_key import load_key, sign
from certmond.notify.audit import Audit
from certmond.notify.journal import Event
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.steps import Plan
from certmond.pki.rotation.authorization import statement
from certmond.pki.rotation.phases import Phase, Rotation, following
from certmond.pki.rotation.planner import of_former
from certmond.pki.services.staleness import Surroundings
from certmond.pki.x509.certificate import describe_key
from certmond.rotation.staged_ca import Part, Staging
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.node_files import NodeFiles

_UNTOLD = (SigningError, OvertakenError, RotationError, MalformedError)
"""Errors after which the other nodes do not have the decision."""
_CHANGED = "the record was changed meanwhile"
"""Result where another process was faster: the daemon scans the node again and decides again."""


class RotationController:
    """The rotations of one node, for one configuration."""

    def __init__(
        self,
        config: Config,
        executor: Executor,
        standing: RotationState,
        *,
        files: NodeFiles,
        record: RotationRecord,
        staging: Staging,
        conductor: Coordinator,
        audit: Audit,
        clock: Callable[[], datetime],
    ) -> None:
        self._config, self._executor, self._standing, self._files = config, executor, standing, files
        self._record, self._staging, self._conductor = record, staging, conductor
        self._audit, self._clock = audit, clock
        self._waits: tuple[str, ...] = ()
        self._waited: tuple[str, Phase] | None = None
        self.until: datetime | None = None
        """When time alone may advance the rotation."""
        self.settled = False
        """Whether the node has reached the phase, and waits for something that no scan of this node shows."""

    def ask(self) -> None:
        """Read the state of the other nodes, before a scan whose result an operator uses."""
        self._conductor.ask()

    @property
    def waits(self) -> tuple[str, ...]:
        """What the phase waits for, as it was found last; nothing where it is another one since."""
        return self._waits if self._waited == self._standing.at else ()

    def advance(self, assessment: Assessment, around: Surroundings, plan: Plan) -> str | None:
        """Advance the rotation as far as possible now. Return a sentence about it, or None where nothing has changed.

        Raises BusyError, WriteError.
        """
        self.until, self.settled, stands = self._asked_again_at(), False, self._standing
        self._waited = stands.at
        if stands.broken or stands.elsewhere:
            return None
        if stands.rotation != stands.own and stands.rotation is not None:
            return self._take_over(stands.own, stands.rotation)
        try:
            if stands.followed() != stands.rotation:
                return "the cluster has another record"  # the next pass adopts it
        except RotationError as error:
            self._waits = (str(error),)  # the next pass reports it as a finding
            return None
        if (back := stands.back) and stands.rotation:
            self.change(back)
            which = "the former CA" if back.new in stands.rotation.old else "another CA"
            return f"{which} of {back.family} was put in place: {back.name} begins"
        if not self._is_known_to_all():
            return None
        reach = stands.reach(assessment, around, plan)
        self._waits = ()
        if reach is None:
            return self._begin_found(assessment.taken_at) or self._accept()
        if reach.waits:
            if reach.begun:  # else it has no report to withdraw
                self._conductor.unsettled(reach.rotation)
            self._waits = reach.waits
            self.until = min((at for at in (self.until, reach.until) if at), default=None)
            return None
        rotation, now = reach.rotation, assessment.taken_at
        if rotation.over:
            return self._end(rotation, [status.seen.path for status in of_former(rotation, assessment)])
        gate = self._conductor.gate(rotation, stands.report(rotation, assessment), now)
        if gate.noted:
            return self._keep(gate.noted, gate.waits[0], f"{rotation.name}: {gate.waits[0]}")
        if gate.waits:
            self._waits, self.until, self.settled = gate.waits, gate.until, True
            return None
        return self._go_on(rotation, following(rotation, self._clock()), gate.told)

    def give_first_aid(self, around: Surroundings, now: datetime) -> str | None:
        """Note what this node does about a replaced anchor by itself, before its plan has the steps. Asks nobody, since
        the API server may refuse this node. Return a sentence where that has changed. Raises BusyError, WriteError.
        """
        before, after = self._standing.first_aid.noted, self._standing.first_aid.carried_on(around, now)
        if after == before:
            return None
        with self._executor.writing():
            if self._record.aids() != before:
                return _CHANGED
            self._record.note_aids(after)
        return f"the first aid is noted for: {', '.join(after) or 'nothing any more'}"

    def _asked_again_at(self) -> datetime | None:
        """Read the decisions of the others, and return when to do so again; None where an event announces it.

        The time is the next `poll` where the state is unknown, because the obstacle may disappear without an event.
        """
        wait = self._conductor.ask()
        waits = [each for each in (wait, self._config.poll if self._standing.broken else None) if each is not None]
        return self._clock() + min(waits) if waits else None

    def _take_over(self, own: Rotation | None, rotation: Rotation) -> str:
        """Store the rotation of the shared record in the node's record."""
        with self._executor.writing():
            if self._record.load() != own:
                return _CHANGED
            self._record.save(rotation)
        said = f"{rotation.name} is in the phase {rotation.phase}"
        if own is None or replace(own, released=rotation.released) != rotation:
            self._note(said, rotation)  # the node that released the others has recorded that
        return said

    def _is_known_to_all(self) -> bool:
        """Return whether the others have a record of the rotation, after restoring a missing or older one."""
        rotation, ground = self._standing.rotation, self._standing.ground
        if rotation is None or ground is None or not ground.holds_key:
            return True  # a node without the CA's key writes no shared record
        try:
            self._conductor.bring_back(rotation)
        except _UNTOLD as error:
            self._waits = (f"the record of {rotation.name} is gone, or an older one, and cannot be put right: {error}",)
            return rotation.over  # the others detect the end of a rotation themselves
        return True

    def start(self, rotation: Rotation) -> None:
        """Record a rotation that the operator requests or that a replaced CA requires.

        Raises RotationError where one is in progress or this node cannot complete it, BusyError, WriteError.
        """
        if why := self._standing.replaced.refusal(rotation):
            raise RotationError(why)
        rotation = self._signed(rotation)
        with self._executor.writing(5):
            if (other := self._record.load()) is not None:
                remedy = f"end it with `certmond root-ca rotate --family {other.family}`"
                raise RotationError(f"{other.name} is under way, in the phase {other.phase}; one at a time: {remedy}")
            self._conductor.publish(rotation)
            self._record.save(rotation)
        self._note(f"{rotation.name} begins, by {rotation.mode}: {_names(rotation)}", rotation)

    def _signed(self, rotation: Rotation) -> Rotation:
        """Return the rotation, signed with the old CA's key where other nodes follow it.

        Raises RotationError, KeyUnusableError.
        """
        if self._config.cluster.kubeconfig is None or rotation.found:
            return rotation
        path = next((spec.key for spec in self._config.certificates if spec.name == rotation.family), None)
        content = self._files.read(path) if path else None
        key = load_key(content, path) if path and content else None
        if key is None or describe_key(key.public_key()) not in {each.key for each in rotation.old}:
            fact = f"{path} is not the key of the one that is to be followed" if content else "its key is not here"
            raise RotationError(f"{rotation.name} cannot begin on this node: {fact}; begin it on a control-plane node")
        return replace(rotation, signature=b64encode(sign(key, statement(rotation))).decode("ascii"))

    def change(self, rotation: Rotation) -> None:
        """Record a decision about the rotation in progress: that it is aborted, or that nodes are excluded."""
        with self._executor.writing(5):
            if self._record.load() not in {self._standing.own, self._standing.rotation}:
                raise RotationError("another process has changed the rotation meanwhile; look at it, and decide anew")
            self._conductor.publish(rotation)
            self._record.save(rotation)
        self._note(f"{rotation.name} goes on in the phase {rotation.phase}", rotation)

    def _keep(self, rotation: Rotation, reached: str, said: str) -> str | None:
        """Record how the rotation continues, and return `said`.

        Return another sentence where the record has changed, and None where the others cannot be informed yet.
        """
        with self._executor.writing():
            if self._record.load() != self._standing.own:
                return _CHANGED
            try:
                self._conductor.publish(rotation)
            except _UNTOLD as error:
                self._waits = (f"{reached}, and that could not be recorded: {error}",)
                return None
            self._record.save(rotation)
        self._note(said, rotation)
        return said

    def _go_on(self, before: Rotation, after: Rotation, told: str) -> str | None:
        said = "; ".join(filter(None, (f"{before.name}: {before.phase} is reached, {after.phase} begins", told)))
        return self._keep(after, f"{before.phase} is reached", said)

    def _end(self, rotation: Rotation, former: Sequence[str]) -> str | None:
        """End the rotation: destroy the files kept for an abort, and accept the new anchor.

        `former` are the files that still hold certificates of the old CA, for which the rotation did not wait. Without
        the new CA's key in place, no key is destroyed.
        """
        ground, kept = self._standing.ground, [each for each in map(self._staging.read, Part) if each]
        needed = [each for each in kept if each.key_unknown or each.key == rotation.new.key]
        if ground and needed and ground.key != rotation.new.key:
            fact = f"{ground.key_path} is not the key of the {rotation.noun} in place"
            said = ", and ".join((fact, *(each.fault for each in needed if each.fault)))
            self._waits = (f"{said}; no key is destroyed",)
            return None
        with self._executor.writing():
            if self._record.load() != self._standing.own:
                return _CHANGED
            if rotation.family in (aids := self._record.aids()):
                self._record.note_aids({family: aid for family, aid in aids.items() if family != rotation.family})
            self._record.accept({**self._record.anchors(), rotation.family: (rotation.new,)})
            self._staging.destroy(*Part)
            self._record.close(rotation)
        self._conductor.end()
        noun = rotation.noun
        outcome = f"the former {noun} is back" if rotation.aborted else f"the new {noun} is the only one"
        said = f"{rotation.name} is done: {outcome}"
        if former:
            more = f" and {len(former) - 3} more" if len(former) > 3 else ""
            said += f"; {', '.join(former[:3])}{more} could not be issued anew; see: certmond check"
        self._note(said, rotation)
        return said

    def _begin_found(self, now: datetime) -> str | None:
        """Begin a rotation to an anchor that was replaced in place, together with its key."""
        wanted = self._config.root_ca.on_change
        made = self._standing.replaced.found(now, at_once=wanted == "replace") if wanted != "alarm" else None
        if made is None:
            return None
        self.start(made)
        return f"the CA of {made.family} was replaced: {made.name} begins in the phase {made.phase}"

    def _accept(self) -> str | None:
        """Record the anchors in place as accepted, where none was replaced."""
        known, present = self._record.anchors(), self._standing.replaced.calm
        if any(known.get(family) != trust for family, trust in present.items()):
            with self._executor.writing():
                self._record.accept(known | present)
        return None

    def _note(self, message: str, rotation: Rotation) -> None:
        fields: Mapping[str, str | None] = {
            "step": "rotation", "target": rotation.family, "rotation": rotation.id, "phase": rotation.phase.value
        }  # fmt: skip
        self._audit.conclude(Event.ROTATION, self._clock(), message, fields=fields)


def _names(rotation: Rotation) -> str:
    return f"{', '.join(each.called for each in rotation.old)} is followed by {rotation.new.called}"
