"""A rotation carried on by one node: begun, led from phase to phase as each is reached, and ended.

Owns what is written of it: the node's record, and what is kept for the way back. How it stands here is `standing`'s to
tell. The files of a phase are steps of the plan, which `host.execute` carries out; whether a phase may be left is asked
of the `conductor`, who speaks for all nodes. Waits for nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from certmond.conducting import Conductor
from certmond.config import Config
from certmond.errors import MalformedError, OvertakenError, RotationError, SigningError
from certmond.host.audit import Audit
from certmond.host.execute import Executor
from certmond.host.journal import Event
from certmond.host.keys import load_key, sign
from certmond.host.node_files import NodeFiles
from certmond.host.rotation_record import RotationRecord
from certmond.host.staged import Part, Staging
from certmond.pki.assess import Assessment
from certmond.pki.certificate import describe_key
from certmond.pki.holding import Surroundings
from certmond.pki.rotation import Phase, Rotation, following
from certmond.pki.rotation_consent import statement
from certmond.pki.rotation_steps import of_former
from certmond.pki.steps import Plan
from certmond.standing import Standing

_UNTOLD = (SigningError, OvertakenError, RotationError, MalformedError)
"""With these nobody could be told."""
_CHANGED = "the record was changed meanwhile"
"""Said where another process was faster: everything is looked at again, and decided anew."""


class Rotating:
    """The rotations of one node, for one configuration."""

    def __init__(
        self,
        config: Config,
        executor: Executor,
        standing: Standing,
        *,
        files: NodeFiles,
        record: RotationRecord,
        staging: Staging,
        conductor: Conductor,
        audit: Audit,
        clock: Callable[[], datetime],
    ) -> None:
        self._config, self._executor, self._standing, self._files = config, executor, standing, files
        self._record, self._staging, self._conductor = record, staging, conductor
        self._audit, self._clock = audit, clock
        self._waits: tuple[str, ...] = ()
        self._waited: tuple[str, Phase] | None = None
        self.until: datetime | None = None
        """When time alone may bring it on."""
        self.settled = False
        """This node is as the phase asks, and what is waited for is not seen on it."""

    def ask(self) -> None:
        """Ask the others how far they are, before the look from which a person decides."""
        self._conductor.ask()

    @property
    def waits(self) -> tuple[str, ...]:
        """What the phase waits for, as it was found last; nothing where it is another one since."""
        return self._waits if self._waited == self._standing.at else ()

    def advance(self, assessment: Assessment, around: Surroundings, plan: Plan) -> str | None:
        """Bring the rotation on by what can be done now; the sentence about it, None where nothing has changed.

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
                return "the cluster has another record"  # it is taken over with the next look
        except RotationError as error:
            self._waits = (str(error),)  # the next look tells it as what it is
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
            if reach.begun:  # else it has said nothing of this phase, and what it said of the one before stands
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
        """Ask the others, and return when to do so again; at the next `poll` where the node cannot tell how it stands,
        because what is in the way may go without an event. None where an event will tell.
        """
        wait = self._conductor.ask()
        waits = [each for each in (wait, self._config.poll if self._standing.broken else None) if each is not None]
        return self._clock() + min(waits) if waits else None

    def _take_over(self, own: Rotation | None, rotation: Rotation) -> str:
        """Note here what the others have come to."""
        with self._executor.writing():
            if self._record.load() != own:
                return _CHANGED
            self._record.save(rotation)
        said = f"{rotation.name} is in the phase {rotation.phase}"
        if own is None or replace(own, released=rotation.released) != rotation:
            self._note(said, rotation)  # that others may act is noted by who has let them
        return said

    def _is_known_to_all(self) -> bool:
        """Whether the others have a record of the rotation, brought back where they had lost it."""
        rotation, ground = self._standing.rotation, self._standing.ground
        if rotation is None or ground is None or not ground.holds_key:
            return True  # who has no CA's key writes no record
        try:
            self._conductor.bring_back(rotation)
        except _UNTOLD as error:
            self._waits = (f"the record of {rotation.name} is gone, or an older one, and cannot be put right: {error}",)
            return rotation.over  # which the others can find by themselves
        return True

    def start(self, rotation: Rotation) -> None:
        """Note a rotation that is asked for. Raises RotationError where there is one already or this node could not
        carry it through, BusyError, WriteError.
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
        """With the former CA's word for it, where other nodes are to follow. Raises RotationError, KeyUnusableError."""
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
        """Note what somebody has decided of the rotation under way: that it goes back, or that nodes are left out."""
        with self._executor.writing(5):
            if self._record.load() not in {self._standing.own, self._standing.rotation}:
                raise RotationError("another process has changed the rotation meanwhile; look at it, and decide anew")
            self._conductor.publish(rotation)
            self._record.save(rotation)
        self._note(f"{rotation.name} goes on in the phase {rotation.phase}", rotation)

    def _keep(self, rotation: Rotation, reached: str, said: str) -> str | None:
        """Record how the rotation goes on. `said` where that is done; else what is the matter, or None where that is
        waited for.
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
        """End the rotation: destroy the staged keys, and record the new anchor as the one that the node trusts.

        `former` are the files with a certificate of the former CA for which the rotation did not wait.
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
        """Somebody has put another anchor in place, with its key: from there on it is a rotation."""
        wanted = self._config.root_ca.on_change
        made = self._standing.replaced.found(now, at_once=wanted == "replace") if wanted != "alarm" else None
        if made is None:
            return None
        self.start(made)
        return f"the CA of {made.family} was replaced: {made.name} begins in the phase {made.phase}"

    def _accept(self) -> str | None:
        """Remember the anchors that the node lives by, where nothing speaks against them."""
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
