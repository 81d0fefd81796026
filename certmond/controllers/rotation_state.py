"""The state of a rotation on this node: which one it follows, the findings about it, and what it holds.

Combines one scan of the node, its record, and what the coordinator has read from the others. The controller of the
rotation, the planner and the commands read it. Writes nothing, sends no request, and does not block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from certmond.config.model import Config
from certmond.controllers.coordinator_protocol import Coordinator
from certmond.controllers.first_aid import FirstAid
from certmond.controllers.replaced_ca import CAChanges
from certmond.controllers.rotation_findings import EXPLAINED, findings_of
from certmond.errors import CertmondError, RotationError, defect
from certmond.formats.manifest import Components
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.rules import finding
from certmond.pki.catalog.observation import Inventory
from certmond.pki.findings import Finding, Reason
from certmond.pki.planning.renewal_holds import NOTHING_REPLACED, Healing
from certmond.pki.planning.steps import Plan
from certmond.pki.rotation.authorization import refusal
from certmond.pki.rotation.awaited_leaves import is_awaited
from certmond.pki.rotation.gates import Report
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, desired
from certmond.pki.rotation.planner import (
    Ground,
    Lacks,
    concerned,
    lacks,
    settles_at,
    unsettled,
)
from certmond.pki.rotation.preview import Preview, preview
from certmond.pki.rotation.replaced_ca import put_back
from certmond.pki.rotation.worker_batches import Workers, held_back, in_batches
from certmond.pki.services.staleness import Surroundings
from certmond.pki.services.trust_sets import digest_of
from certmond.pki.x509.certificate import Anchor, Certificate
from certmond.rotation.staged_ca import Part, Staging
from certmond.rotation.trust_anchor_files import ground_of
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.node_files import NodeFiles


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """The progress of this node in its phase: what it waits for, and until when if time alone decides.

    `begun` is false where the node may not act in the phase yet.
    """

    rotation: Rotation
    waits: tuple[str, ...] = ()
    until: datetime | None = None
    begun: bool = True


class RotationState:
    """The state as of the last scan, for the node `node` and one configuration.

    `own` is what the node's record has, `rotation` the one that is under way here, and `back` the one that takes its
    place where somebody has put the former CA in place again, or a third one. `broken` says why nobody can tell how far
    a rotation is; None where that is known. `elsewhere` says that others are in one which is no concern of this node.
    `unsure` are the anchors with which nothing is to be signed now, as not everyone may trust them, and why.
    """

    def __init__(
        self,
        config: Config,
        *,
        node: str,
        files: NodeFiles,
        record: RotationRecord,
        staging: Staging,
        conductor: Coordinator,
    ) -> None:
        self._node = node
        self._files, self._record, self._staging, self._conductor = files, record, staging, conductor
        self._alone = config.cluster.kubeconfig is None
        self._families = [
            spec.name for spec in config.certificates if spec.is_trust and not (spec.is_glob or spec.renewed_by)
        ]
        self.replaced, self.first_aid = CAChanges(config), FirstAid(config, files)
        self._met: tuple[tuple[str, Phase], datetime] | None = None
        self._forget()

    def _forget(self) -> None:
        self._grounds = dict[str, Ground]()
        self.own: Rotation | None = None
        self.rotation: Rotation | None = None
        self.ground: Ground | None = None
        self.back: Rotation | None = None
        self.broken: str | None = None
        self.elsewhere = False
        self.unsure: Mapping[str, str] = {}
        self.first_aid.forget()

    def check(self) -> None:
        """Raise StateError where the state directory is unusable."""
        self._record.check()

    def look(
        self, inventory: Inventory, components: Components, now: datetime, waits: Sequence[str] = ()
    ) -> dict[str, tuple[Finding, ...]]:
        """Read the state of the node, and return the findings on its anchors by name of the entry.

        `waits` is what the phase waits for, as found last.
        """
        before = self.at
        self._forget()
        try:
            told = self._look(inventory, components, now, waits, before)
        except CertmondError as error:
            told = self._freeze(str(error), *self._families)
        except Exception as error:  # noqa: BLE001 - any other error freezes it: certmond does nothing, and reports it
            told = self._freeze(defect(error), *self._families)
        if (fact := self._conductor.estranged) and SIGNER_FAMILY in self._families:
            said = f"{fact}; if the CA was rotated without this node, let it join anew: `kubeadm reset`, `kubeadm join`"
            told[SIGNER_FAMILY] = (*told.get(SIGNER_FAMILY, ()), finding(Reason.CUT_OFF, said))
        return told

    def _look(
        self,
        inventory: Inventory,
        components: Components,
        now: datetime,
        waits: Sequence[str],
        before: tuple[str, Phase] | None,
    ) -> dict[str, tuple[Finding, ...]]:
        self._record.check()
        unread = list[CertmondError]()
        for family in self._families:
            try:
                if ground := ground_of(family, inventory, components, self._files):
                    self._grounds[family] = ground
            except CertmondError as error:
                unread.append(error)
        if unread:
            raise unread[0]
        self.replaced.see(inventory, self._grounds, self._conductor.objection(components))
        self.own = self._record.load()
        self.rotation = self.followed()
        if self.rotation:
            kept = [each for each in map(self._staging.read, Part) if each and (each.key or each.key_unknown)]
            here = self._grounds.get(self.rotation.family)
            if here is None and self.own is not None:
                fact = f"{self.own.name} is under way, in the phase {self.own.phase}, and the configuration names no"
                raise RotationError(f"{fact} {self.own.family} that certmond rotates; put the entry back until it ends")
            self.ground = replace(here, signs=bool(kept)) if here else None
            if self.ground is None or not self._concerns(self.ground):
                self.rotation, self.elsewhere = None, True  # a worker has no etcd
                return {}
            if why := self._refusal(self.rotation, self.ground, now):
                return self._freeze(why, self.rotation.family)
            if self._alone:  # of several nodes, one may not have had the new key yet
                self.back = put_back(self.rotation, self.ground, now) or self.replaced.instead(self.rotation, now)
            since = waits if before == self.at else ()
            told, self.unsure = findings_of(self.rotation, self.ground, self.back, since, inventory)
            others = self.replaced.beside(self.rotation, self._record.anchors(), now)
            self.unsure = {**self.unsure, **{family: found[0].message for family, found in others.items()}}
            return told | others
        known, aids = self._record.anchors(), self._record.aids()
        told = self.replaced.look(known, aids, now)
        told |= self.first_aid.look(self._grounds, self.replaced, known, aids, now)
        self.unsure = {family: found[0].message for family, found in told.items()}
        return told

    def followed(self) -> Rotation | None:
        """Return the rotation to follow, as far as the others are known now.

        Raises RotationError where that is undecidable.
        """
        trusted = {anchor for ground in self._grounds.values() for anchor in ground.trust}
        return self._conductor.follow(self.own, self._record.closed(), trusted)

    def _freeze(self, why: str, *families: str) -> dict[str, tuple[Finding, ...]]:
        """Freeze these anchors: certmond does nothing with them, and reports the reason."""
        self.rotation = self.ground = self.back = None
        self.replaced.forget()
        self.broken = why
        known = self._record.anchors()
        said = f"{why}; {EXPLAINED}"
        self.unsure = {family: said for family in families if not self._is_as_ever(family, known.get(family, ()))}
        return {families[0]: (finding(Reason.ROTATION_FROZEN, why),)} if families else {}

    def _is_as_ever(self, family: str, known: Sequence[Anchor]) -> bool:
        """Return whether the node still has the anchor file and the key that it accepted before any rotation it knows.

        Each client that trusts the present leaves trusts that anchor, whatever a record contains. No other node removes
        it before this node has reported that phase, unless the operator has excluded this node.
        """
        ground, own = self._grounds.get(family), self.own
        if ground is None or not known or ground.trust != known or ground.key not in {None, known[0].key}:
            return False
        under_way = own is not None and own.family == family and not own.over
        return not under_way and self._staging.read(Part.OLD) is None  # else its key was exchanged, and then restored

    def _refusal(self, rotation: Rotation, ground: Ground, now: datetime) -> str | None:
        """Return why the node does not follow the rotation of the shared record, or None.

        Its own record is checked already.
        """
        if rotation == self.own:
            return None
        return refusal(self.own, rotation, ground, staged=self._is_given(rotation), now=now)

    def _is_given(self, rotation: Rotation) -> bool:
        """Return whether the next certificate is staged on this node with its key."""
        kept = (self._staging.read(part) for part in Part)
        return any(each and not each.fault and each.key and each.anchor == rotation.new for each in kept)

    def _concerns(self, ground: Ground) -> bool:
        """Return whether the node uses that anchor, or has used it."""
        return bool(ground.trust or ground.holds_key) or ground.family in self._record.anchors()

    # Properties of the rotation in progress

    @property
    def family(self) -> str | None:
        """Return the family of the anchor that is being changed, or None."""
        return self.rotation.family if self.rotation else None

    @property
    def at(self) -> tuple[str, Phase] | None:
        """Which rotation and phase it is."""
        return (self.rotation.id, self.rotation.phase) if self.rotation else None

    @property
    def signing(self) -> Mapping[str, Certificate]:
        """Return the anchor that signs in the present phase, by its name. Empty without a rotation."""
        rotation, wanted = self.rotation, desired(self.rotation) if self.rotation else None
        if rotation is None or wanted is None:
            return {}
        signing = wanted.signing
        return {rotation.family: signing} if isinstance(signing, Certificate) else {}

    @property
    def phase(self) -> Phase | None:
        return self.rotation.phase if self.rotation else None

    @property
    def healing(self) -> Healing:
        """Return the anchor that was replaced without a rotation and that the rotation in progress follows."""
        rotation = self.rotation
        if rotation is None or not rotation.found:
            return NOTHING_REPLACED
        return Healing(rotation.family, rotation.since, at_once=rotation.mode is Mode.REPLACE)

    @property
    def workers(self) -> Workers | None:
        """Return the progress of the workers in the phase at the last count; None where this node counts none."""
        return self._conductor.workers(self.rotation) if self.rotation else None

    @property
    def called(self) -> bool:
        """Return whether this node is a worker whose batch is released. It then has no further delay."""
        return self.rotation is not None and in_batches(self.rotation) and self._held_back(self.rotation) is None

    def _held_back(self, rotation: Rotation) -> str | None:
        """Return why a worker waits in the phase, or None.

        A node with a CA's key is no worker, whatever its Node's labels.
        """
        return None if self.ground is None or self.ground.holds_key else held_back(rotation, self._node)

    def preview(self, rotation: Rotation, assessment: Assessment, order: Sequence[str]) -> tuple[Preview, ...]:
        """Return what `rotation` would do on this node, from its phase on.

        Raises RotationError where it cannot begin.
        """
        ground = self._grounds.get(rotation.family)
        if ground is None:
            raise RotationError(f"the catalogue has no trust anchor {rotation.family}; name it among `certificates`")
        return preview(rotation, ground, assessment, order)

    def lacks(self, assessment: Assessment) -> Lacks:
        """What this node lacks of the phase; of the first aid, where no rotation is under way."""
        if self.rotation is None:
            return Lacks(self.first_aid.steps)
        if self.ground is None or self.back or self._held_back(self.rotation):
            return Lacks()
        return lacks(self.rotation, self.ground, assessment)

    def reach(self, assessment: Assessment, around: Surroundings, plan: Plan) -> PhaseProgress | None:
        """Return the progress of this node in its phase; None without a rotation."""
        rotation, ground = self.rotation, self.ground
        if rotation is None or ground is None:
            return None
        if why := self._held_back(rotation):
            return PhaseProgress(rotation, (why,), begun=False)
        waits = tuple(unsettled(rotation, ground, assessment, around, plan))
        at = settles_at(rotation, assessment, around, self._met_at(rotation, assessment.taken_at))
        if not waits and assessment.taken_at < at and rotation.phase is not Phase.PREPARE:
            said = f"those that read files again by themselves have time until {at:%Y-%m-%d %H:%M:%S} UTC"
            return PhaseProgress(rotation, (said,), at)
        return PhaseProgress(rotation, waits)

    def _met_at(self, rotation: Rotation, now: datetime) -> datetime:
        """Return when this process first observed the node in this phase; `now` where the clock was set back since."""
        phase = rotation.id, rotation.phase
        if self._met is None or self._met[0] != phase or self._met[1] > now:
            self._met = phase, now
        return self._met[1]

    def report(self, rotation: Rotation, assessment: Assessment) -> Report:
        """Return the report of this node, which has reached the phase."""
        ground, known = self.ground, {*rotation.old, rotation.new}
        leaves = [
            each for each in concerned(rotation.family, assessment)
            if not each.seen.spec.is_trust and is_awaited(rotation, each, assessment)
        ]  # fmt: skip
        issuers = {each.trust_anchor.sha256 for each in leaves if each.trust_anchor and each.trust_anchor in known}
        in_place = ground is not None and rotation.new in ground.trust and ground.key == rotation.new.key
        ready = in_place or self._is_given(rotation)
        return Report(
            rotation.id, rotation.phase, digest_of(ground.trust if ground else ()),
            next(iter(issuers)) if len(issuers) == 1 else "", ground.holds_key if ground else False, ready,
        )  # fmt: skip
