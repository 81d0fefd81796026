"""A rotation carried on by one node: what it sees of it, when its phase is reached, and on to the next.

Owns the joining of the pure machine (`pki.rotation`) with this node: the record, the view, the beginning where somebody
has put another CA in place, the end. The files of a phase are steps of the plan, which `host.execute` carries out;
whether a phase may be left is asked of the `conductor`, who speaks for all nodes. Waits for nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from certmond.conducting import Conductor
from certmond.config import Config
from certmond.errors import CertmondError, MalformedError, OvertakenError, RotationError, SigningError, defect
from certmond.host.audit import Audit
from certmond.host.execute import Executor
from certmond.host.journal import Event
from certmond.host.keys import load_key, sign
from certmond.host.manifest import Components
from certmond.host.node_files import NodeFiles
from certmond.host.rotation_record import RotationRecord
from certmond.host.rotation_view import ground_of
from certmond.host.staged import Part, Staging
from certmond.pki.assess import Assessment
from certmond.pki.certificate import describe_key
from certmond.pki.checks import finding
from certmond.pki.holding import Surroundings
from certmond.pki.inventory import Inventory
from certmond.pki.reason import Finding, Reason
from certmond.pki.rotation import SIGNER_FAMILY, Phase, Rotation, following
from certmond.pki.rotation_consent import refusal, statement
from certmond.pki.rotation_found import put_back
from certmond.pki.rotation_gates import Report, digest_of
from certmond.pki.rotation_preview import Preview, preview
from certmond.pki.rotation_steps import (
    Ground,
    Lacks,
    concerned,
    given_up,
    is_as_before,
    lacks,
    settles_at,
    standstill,
    unsettled,
)
from certmond.pki.steps import Plan
from certmond.replaced import Replaced


@dataclass(frozen=True, slots=True)
class Standing:
    """How a rotation stands on this node: what is waited for, and until when where time alone tells."""

    rotation: Rotation
    waits: tuple[str, ...] = ()
    until: datetime | None = None


class Rotating:
    """The rotations of one node, for one configuration."""

    def __init__(
        self,
        config: Config,
        executor: Executor,
        *,
        files: NodeFiles,
        record: RotationRecord,
        staging: Staging,
        conductor: Conductor,
        audit: Audit,
        clock: Callable[[], datetime],
    ) -> None:
        self._config, self._executor, self._files = config, executor, files
        self._record, self._staging, self._conductor = record, staging, conductor
        self._audit, self._clock = audit, clock
        self._families = [
            spec.name for spec in config.certificates if spec.is_trust and not (spec.is_glob or spec.renewed_by)
        ]
        self._own: Rotation | None = None
        self._rotation: Rotation | None = None
        self._ground: Ground | None = None
        self.replaced = Replaced(config)
        self._grounds: dict[str, Ground] = {}
        self._broken: str | None = None
        self._elsewhere = False
        self._back: Rotation | None = None
        self._unsure: Mapping[str, str] = {}
        self._waits: tuple[str, ...] = ()
        self.until: datetime | None = None
        """When time alone may bring it on."""

    def ask(self) -> None:
        """Ask the others how far they are, before the look from which a person decides."""
        self._conductor.ask()

    def look(self, inventory: Inventory, components: Components, now: datetime) -> dict[str, tuple[Finding, ...]]:
        """See how the node stands, and what is to be told of its anchors, by the name of the entry."""
        self._rotation = self._ground = self._broken = self._back = None
        self._elsewhere, self._unsure = False, {}
        try:
            told = self._look(inventory, components, now)
        except CertmondError as error:
            told = self._freeze(str(error), *self._families)
        except Exception as error:  # noqa: BLE001 - what is not understood freezes it: nothing is done, and it is told
            told = self._freeze(defect(error), *self._families)
        if (fact := self._conductor.estranged) and SIGNER_FAMILY in self._families:
            said = f"{fact}; if the CA was rotated without this node, let it join anew: `kubeadm reset`, `kubeadm join`"
            told[SIGNER_FAMILY] = (*told.get(SIGNER_FAMILY, ()), finding(Reason.CUT_OFF, said))
        return told

    def _look(self, inventory: Inventory, components: Components, now: datetime) -> dict[str, tuple[Finding, ...]]:
        found = {family: ground_of(family, inventory, components, self._files) for family in self._families}
        self._grounds = {family: ground for family, ground in found.items() if ground}
        self.replaced.see(inventory, self._grounds, self._conductor.objection(components))
        self._own = self._record.load()
        self._rotation = self._followed()
        if self._rotation:
            kept = [each for each in map(self._staging.read, Part) if each and each.key]
            here = self._grounds.get(self._rotation.family)
            self._ground = replace(here, signs=bool(kept)) if here else None
            if self._ground is None or not self._concerns(self._ground):
                self._rotation, self._elsewhere = None, True  # a worker has no etcd
                return {}
            if why := self._refusal(self._rotation, self._ground, now):
                return self._freeze(why, self._rotation.family)
            if self._config.cluster.kubeconfig is None:  # of several nodes, one may not have had the new key yet
                self._back = put_back(self._rotation, self._ground, now)
            return self._told(self._rotation, self._ground)
        told = self.replaced.look(self._record.anchors(), now)
        self._unsure = {family: found[0].message for family, found in told.items()}
        return told

    def _followed(self) -> Rotation | None:
        trusted = {anchor for ground in self._grounds.values() for anchor in ground.trust}
        return self._conductor.follow(self._own, self._record.closed(), trusted)

    def _freeze(self, why: str, *families: str) -> dict[str, tuple[Finding, ...]]:
        """Nobody can tell what is to be done with these anchors, so that nothing is."""
        self._rotation = self._ground = self._back = None
        self.replaced.forget()
        self._broken = why
        self._unsure = dict.fromkeys(families, why)
        return {families[0]: (finding(Reason.ROTATION_FROZEN, why),)} if families else {}

    def _refusal(self, rotation: Rotation, ground: Ground, now: datetime) -> str | None:
        """Why what others tell of a rotation is not followed; what this node has noted itself was judged before."""
        if rotation == self._own:
            return None
        given = (self._staging.read(part) for part in Part)
        staged = any(each and not each.fault and each.key and each.anchor == rotation.new for each in given)
        return refusal(self._own, rotation, ground, staged=staged, now=now)

    @property
    def family(self) -> str | None:
        """The anchor that is being changed."""
        return self._rotation.family if self._rotation else None

    @property
    def phase(self) -> Phase | None:
        return self._rotation.phase if self._rotation else None

    @property
    def rotation(self) -> Rotation | None:
        """The one that is under way."""
        return self._rotation

    @property
    def broken(self) -> str | None:
        """Why nobody can tell how far a rotation is; None where that is known."""
        return self._broken

    @property
    def unsure(self) -> Mapping[str, str]:
        """The anchors with which nothing is to be signed now, as not everyone may trust it, and why."""
        return self._unsure

    @property
    def waits(self) -> tuple[str, ...]:
        """What the phase waits for, as it was found last."""
        return self._waits

    def preview(self, rotation: Rotation, assessment: Assessment, order: Sequence[str]) -> tuple[Preview, ...]:
        """What `rotation` would do on this node, from its phase on. Raises RotationError where it cannot begin."""
        ground = self._grounds.get(rotation.family)
        if ground is None:
            raise RotationError(f"the catalogue has no trust anchor {rotation.family}; name it among `certificates`")
        return preview(rotation, ground, assessment, order)

    def lacks(self, assessment: Assessment) -> Lacks:
        """What this node lacks of the phase; nothing where no rotation is under way."""
        if self._rotation is None or self._ground is None or self._back:
            return Lacks()
        return lacks(self._rotation, self._ground, assessment)

    def standing(self, assessment: Assessment, around: Surroundings, plan: Plan) -> Standing | None:
        """How far this node is in its phase; None where no rotation is under way."""
        rotation, ground = self._rotation, self._ground
        if rotation is None or ground is None:
            return None
        waits = tuple(unsettled(rotation, ground, assessment, around, plan))
        at = settles_at(rotation, assessment, around)
        if not waits and assessment.taken_at < at and rotation.phase is not Phase.PREPARE:
            said = f"those that read files again by themselves have time until {at:%Y-%m-%d %H:%M:%S} UTC"
            return Standing(rotation, (said,), at)
        return Standing(rotation, waits)

    def advance(self, assessment: Assessment, around: Surroundings, plan: Plan) -> str | None:
        """Bring the rotation on by what can be done now; the sentence about it, None where nothing has changed.

        Raises BusyError, WriteError.
        """
        wait = self._conductor.ask()
        self.until = None if wait is None else self._clock() + wait
        if self._broken or self._elsewhere:
            return None
        if self._rotation != self._own and self._rotation is not None:
            with self._executor.writing():
                self._record.save(self._rotation)
            self._note(f"{self._rotation.name} is in the phase {self._rotation.phase}", self._rotation)
            return f"{self._rotation.name} is in the phase {self._rotation.phase}"
        try:
            if self._followed() != self._rotation:
                return "the cluster has another record"  # it is taken over with the next look
        except RotationError as error:
            self._waits = (str(error),)  # the next look tells it as what it is
            return None
        if self._back:
            self.change(self._back)
            return f"the former CA of {self._back.family} was put back: {self._back.name} begins"
        standing = self.standing(assessment, around, plan)
        self._waits = ()
        if standing is None:
            return self._begin_found(assessment.taken_at) or self._accept()
        if standing.waits:
            self._conductor.unsettled(standing.rotation)
            self._waits = standing.waits
            self.until = min((at for at in (self.until, standing.until) if at), default=None)
            return None
        rotation, now = standing.rotation, assessment.taken_at
        if rotation.over:
            return self._end(rotation)
        gate = self._conductor.gate(rotation, self._report(rotation, assessment), now)
        if gate.noted:
            return self._keep(gate.noted, gate.waits[0], f"{rotation.name}: {gate.waits[0]}")
        if gate.waits:
            self._waits, self.until = gate.waits, gate.until
            return None
        return self._go_on(rotation, following(rotation, now))

    def start(self, rotation: Rotation) -> None:
        """Note a rotation that is asked for. Raises RotationError where there is one already or this node could not
        carry it through, BusyError, WriteError.
        """
        if why := self.replaced.refusal(rotation):
            raise RotationError(why)
        rotation = self._signed(rotation)
        with self._executor.writing(5):
            if (other := self._record.load()) is not None and not other.over:
                raise RotationError(f"{other.name} is under way, in the phase {other.phase}; one at a time")
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
            if self._record.load() not in {self._own, self._rotation}:
                raise RotationError("another process has changed the rotation meanwhile; look at it, and decide anew")
            self._conductor.publish(rotation)
            self._record.save(rotation)
        self._note(f"{rotation.name} goes on in the phase {rotation.phase}", rotation)

    def _keep(self, rotation: Rotation, reached: str, said: str) -> str | None:
        """Record how the rotation goes on. `said` where that is done; else what is the matter, or None where that is
        waited for.
        """
        with self._executor.writing():
            if self._record.load() != self._own:
                return "the record was changed meanwhile"  # it is looked at again
            try:
                self._conductor.publish(rotation)
            except (SigningError, OvertakenError, RotationError, MalformedError) as error:
                self._waits = (f"{reached}, and that could not be recorded: {error}",)
                return None
            self._record.save(rotation)
        return said

    def _go_on(self, before: Rotation, after: Rotation) -> str | None:
        said = f"{before.name}: {before.phase} is reached, {after.phase} begins"
        told = self._keep(after, f"{before.phase} is reached", said)
        if told == said:
            self._note(said, after)
        return told

    def _end(self, rotation: Rotation) -> str | None:
        """All is as it should be: what was kept for the way back goes, and the node lives by the new anchor."""
        only_kept = any(each and each.key and each.anchor == rotation.new for each in map(self._staging.read, Part))
        if self._ground and only_kept and self._ground.key != rotation.new.key:
            self._waits = (
                f"{self._ground.key_path} is not the key of the {rotation.noun} in place; no key is destroyed",
            )
            return None
        with self._executor.writing():
            if self._record.load() != self._own:
                return "the record was changed meanwhile"  # it is looked at again
            self._record.accept({**self._record.anchors(), rotation.family: (rotation.new,)})
            self._staging.destroy(*Part)
            self._record.close(rotation)
        self._conductor.end()
        noun = rotation.noun
        outcome = f"the former {noun} is back" if rotation.aborted else f"the new {noun} is the only one"
        said = f"{rotation.name} is done: {outcome}"
        self._note(said, rotation)
        return said

    def _begin_found(self, now: datetime) -> str | None:
        """Somebody has put another anchor in place, with its key: from there on it is a rotation."""
        wanted = self._config.root_ca.on_change
        made = self.replaced.found(now, at_once=wanted == "replace") if wanted != "alarm" else None
        if made is None:
            return None
        self.start(made)
        return f"the CA of {made.family} was replaced: {made.name} begins in the phase {made.phase}"

    def _accept(self) -> str | None:
        """Remember the anchors that the node lives by, where nothing speaks against them."""
        known, present = self._record.anchors(), self.replaced.calm
        if any(known.get(family) != trust for family, trust in present.items()):
            with self._executor.writing():
                self._record.accept(known | present)
        return None

    def _concerns(self, ground: Ground) -> bool:
        """The node lives by that anchor, or has lived by it."""
        return bool(ground.trust or ground.holds_key) or ground.family in self._record.anchors()

    def _told(self, rotation: Rotation, ground: Ground) -> dict[str, tuple[Finding, ...]]:
        if frozen := standstill(rotation, ground):
            self._unsure = {} if is_as_before(rotation, ground) else {rotation.family: frozen}
            return {rotation.family: (finding(Reason.ROTATION_FROZEN, frozen),)}
        if given_up(rotation, ground) and not is_as_before(rotation, ground):
            self._unsure = {
                rotation.family: f"{ground.path} and its key are not those that {rotation.name} goes back to"
            }
        if (rotation.found and rotation.phase is Phase.TRUST) or self._back:
            self._unsure = {rotation.family: f"{rotation.name} has not reached the phase {Phase.ISSUE} yet"}
        waits = f"; it waits: {self._waits[0]}" if self._waits else ""
        if len(self._waits) > 1:
            waits += f" (and {len(self._waits) - 1} more)"
        said = f"{rotation.name} is in the phase {rotation.phase} since {rotation.since:%Y-%m-%d %H:%M} UTC{waits}"
        return {rotation.family: (finding(Reason.ROTATION_UNDER_WAY, said),)}

    def _report(self, rotation: Rotation, assessment: Assessment) -> Report:
        """What this node says of itself, now that it has come so far."""
        ground, known = self._ground, {*rotation.old, rotation.new}
        leaves = [each for each in concerned(rotation.family, assessment) if not each.seen.spec.is_trust]
        issuers = {each.trust_anchor.sha256 for each in leaves if each.trust_anchor and each.trust_anchor in known}
        staged = self._staging.read(Part.NEW)
        ready = staged is not None and staged.anchor == rotation.new and staged.key is not None
        return Report(
            rotation.id, rotation.phase, digest_of(ground.trust if ground else ()),
            next(iter(issuers)) if len(issuers) == 1 else "", ground.holds_key if ground else False, ready,
        )  # fmt: skip

    def _note(self, message: str, rotation: Rotation) -> None:
        fields: Mapping[str, str | None] = {
            "step": "rotation", "target": rotation.family, "rotation": rotation.id, "phase": rotation.phase.value
        }  # fmt: skip
        self._audit.conclude(Event.ROTATION, self._clock(), message, fields=fields)


def _names(rotation: Rotation) -> str:
    return f"{', '.join(each.called for each in rotation.old)} is followed by {rotation.new.called}"
