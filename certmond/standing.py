"""How a rotation stands on this node: which one it follows, what is told of it, and what is left alone meanwhile.

Owns what is made of one look at the node, its record, and what the `conductor` knows of the others: for who carries the
rotation on (`rotating`), who plans and who shows. It writes nothing, asks nobody, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from certmond.conducting import Conductor
from certmond.config import Config
from certmond.errors import CertmondError, RotationError, defect
from certmond.first_aid import FirstAid
from certmond.host.manifest import Components
from certmond.host.node_files import NodeFiles
from certmond.host.rotation_record import RotationRecord
from certmond.host.rotation_view import ground_of
from certmond.host.staged import Part, Staging
from certmond.pki.assess import Assessment
from certmond.pki.certificate import Anchor, Certificate
from certmond.pki.checks import finding
from certmond.pki.holding import Surroundings
from certmond.pki.holds import NOTHING_REPLACED, Healing
from certmond.pki.inventory import Inventory
from certmond.pki.reason import Finding, Reason
from certmond.pki.rotation import SIGNER_FAMILY, Mode, Phase, Rotation, desired
from certmond.pki.rotation_batches import Workers, held_back, in_batches
from certmond.pki.rotation_consent import refusal
from certmond.pki.rotation_found import has_signed_all, is_refused, put_back
from certmond.pki.rotation_gates import Report
from certmond.pki.rotation_leaves import is_awaited
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
from certmond.pki.trust import digest_of
from certmond.replaced import Replaced

_EXPLAINED = "see: certmond explain rotation_frozen"


@dataclass(frozen=True, slots=True)
class Reach:
    """How far this node is in its phase: what is waited for, and until when where time alone tells. It has not `begun`
    where it is not this node's turn to do anything of it.
    """

    rotation: Rotation
    waits: tuple[str, ...] = ()
    until: datetime | None = None
    begun: bool = True


class Standing:
    """As of the last look, for the node `node` and one configuration.

    `own` is what the node's record has, `rotation` the one that is under way here, and `back` the one that takes its
    place where somebody has put the former CA in place again, or a third one. `broken` says why nobody can tell how far
    a rotation is; None where that is known. `elsewhere` says that others are in one which is no concern of this node.
    `unsure` are the anchors with which nothing is to be signed now, as not everyone may trust them, and why;
    `in_use` are those of them that have signed all leaves of this node.
    """

    def __init__(
        self,
        config: Config,
        *,
        node: str,
        files: NodeFiles,
        record: RotationRecord,
        staging: Staging,
        conductor: Conductor,
    ) -> None:
        self._node = node
        self._files, self._record, self._staging, self._conductor = files, record, staging, conductor
        self._alone = config.cluster.kubeconfig is None
        self._families = [
            spec.name for spec in config.certificates if spec.is_trust and not (spec.is_glob or spec.renewed_by)
        ]
        self.replaced, self.first_aid = Replaced(config), FirstAid(config, files)
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
        self.in_use = frozenset[str]()
        self.first_aid.forget()

    def check(self) -> None:
        """Raise StateError where the state directory is not fit for use."""
        self._record.check()

    def look(
        self, inventory: Inventory, components: Components, now: datetime, waits: Sequence[str] = ()
    ) -> dict[str, tuple[Finding, ...]]:
        """See how the node stands, and what is to be told of its anchors, by the name of the entry. `waits` is what the
        phase was found to wait for.
        """
        before = self.at
        self._forget()
        try:
            told = self._look(inventory, components, now, waits, before)
        except CertmondError as error:
            told = self._freeze(str(error), *self._families)
        except Exception as error:  # noqa: BLE001 - what is not understood freezes it: nothing is done, and it is told
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
            told = self._told(self.rotation, self.ground, waits if before == self.at else (), inventory)
            others = self.replaced.beside(self.rotation, self._record.anchors(), now)
            self.unsure = {**self.unsure, **{family: found[0].message for family, found in others.items()}}
            return told | others
        known, aids = self._record.anchors(), self._record.aids()
        told = self.replaced.look(known, aids, now)
        told |= self.first_aid.look(self._grounds, self.replaced, known, aids, now)
        self.unsure = {family: found[0].message for family, found in told.items()}
        changes = self.replaced.changes.items()
        signing = (family for family, (change, _) in changes if has_signed_all(change, inventory))
        self.in_use = frozenset(signing) - aids.keys()
        return told

    def followed(self) -> Rotation | None:
        """The one to carry on, by what is known of the others now. Raises RotationError where that cannot be told."""
        trusted = {anchor for ground in self._grounds.values() for anchor in ground.trust}
        return self._conductor.follow(self.own, self._record.closed(), trusted)

    def _freeze(self, why: str, *families: str) -> dict[str, tuple[Finding, ...]]:
        """Nobody can tell what is to be done with these anchors, so that nothing is."""
        self.rotation = self.ground = self.back = None
        self.replaced.forget()
        self.broken = why
        known = self._record.anchors()
        said = f"{why}; {_EXPLAINED}"
        self.unsure = {family: said for family in families if not self._is_as_ever(family, known.get(family, ()))}
        return {families[0]: (finding(Reason.ROTATION_FROZEN, why),)} if families else {}

    def _is_as_ever(self, family: str, known: Sequence[Anchor]) -> bool:
        """File and key of the anchor are those that the node has lived by since before a rotation, of which it knows
        nothing. Then it is trusted by whoever trusts the present leaves, whatever a record says: no other node can be
        where it is distrusted before this one has said that it is so far, but those that have left this one out.
        """
        ground, own = self._grounds.get(family), self.own
        if ground is None or not known or ground.trust != known or ground.key not in {None, known[0].key}:
            return False
        under_way = own is not None and own.family == family and not own.over
        return not under_way and self._staging.read(Part.OLD) is None  # its key was exchanged, and put back by somebody

    def _refusal(self, rotation: Rotation, ground: Ground, now: datetime) -> str | None:
        """Why what others tell of a rotation is not followed; what this node has noted itself was judged before."""
        if rotation == self.own:
            return None
        return refusal(self.own, rotation, ground, staged=self._is_given(rotation), now=now)

    def _is_given(self, rotation: Rotation) -> bool:
        """The certificate that follows is kept on this node, with its key."""
        kept = (self._staging.read(part) for part in Part)
        return any(each and not each.fault and each.key and each.anchor == rotation.new for each in kept)

    def _concerns(self, ground: Ground) -> bool:
        """The node lives by that anchor, or has lived by it."""
        return bool(ground.trust or ground.holds_key) or ground.family in self._record.anchors()

    def _told(
        self, rotation: Rotation, ground: Ground, waits: Sequence[str], inventory: Inventory
    ) -> dict[str, tuple[Finding, ...]]:
        if frozen := standstill(rotation, ground):
            said = f"{frozen}; {_EXPLAINED}"
            self.unsure = {} if is_as_before(rotation, ground) else {rotation.family: said}
            if self.back and self.back.new in ground.trust:
                said = f"{ground.path} was replaced again, by {self.back.new.called}; it is rotated to that one now"
                return {rotation.family: (finding(Reason.ROOT_CA_CHANGED, said),)}
            return {rotation.family: (finding(Reason.ROTATION_FROZEN, frozen),)}
        if given_up(rotation, ground) and not is_as_before(rotation, ground):
            self.unsure = {
                rotation.family: f"{ground.path} and its key are not those that {rotation.name} goes back to"
            }
        if (rotation.found and rotation.phase is Phase.TRUST) or self.back:
            fact = f"{rotation.name} has not reached the phase {Phase.ISSUE} yet"
            self.unsure = {rotation.family: f"{fact}; see what it waits for: certmond status"}
        waiting = f"; it waits: {waits[0]}" if waits else ""
        if len(waits) > 1:
            waiting += f" (and {len(waits) - 1} more)"
        said = f"{rotation.name} is in the phase {rotation.phase} since {rotation.since:%Y-%m-%d %H:%M} UTC{waiting}"
        if is_refused(rotation, ground, inventory):
            fact = f"{ground.path} was replaced by another CA, and certificates of the former one are refused"
            said = f"{fact} until the files of this node follow: {said}"
            return {rotation.family: (finding(Reason.ROOT_CA_CHANGED, said),)}
        return {rotation.family: (finding(Reason.ROTATION_UNDER_WAY, said),)}

    # Of the rotation that is under way

    @property
    def family(self) -> str | None:
        """The anchor that is being changed."""
        return self.rotation.family if self.rotation else None

    @property
    def at(self) -> tuple[str, Phase] | None:
        """Which rotation and phase it is."""
        return (self.rotation.id, self.rotation.phase) if self.rotation else None

    @property
    def signing(self) -> Mapping[str, Certificate]:
        """The anchor that signs in the present phase, by its name; nothing where no rotation is under way."""
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
        """The anchor that was replaced without a rotation, and that the one under way follows."""
        rotation = self.rotation
        if rotation is None or not rotation.found:
            return NOTHING_REPLACED
        return Healing(rotation.family, rotation.since, at_once=rotation.mode is Mode.REPLACE)

    @property
    def workers(self) -> Workers | None:
        """How far the workers were in the phase when they were counted last; None where this node counts none."""
        return self._conductor.workers(self.rotation) if self.rotation else None

    @property
    def called(self) -> bool:
        """This node is a worker, and its batch has come: it waits for no moment of its own in addition."""
        return self.rotation is not None and in_batches(self.rotation) and self._held_back(self.rotation) is None

    def _held_back(self, rotation: Rotation) -> str | None:
        """Why a worker does nothing of the phase yet. Who has a CA's key is none, whatever its Node is labelled."""
        return None if self.ground is None or self.ground.holds_key else held_back(rotation, self._node)

    def preview(self, rotation: Rotation, assessment: Assessment, order: Sequence[str]) -> tuple[Preview, ...]:
        """What `rotation` would do on this node, from its phase on. Raises RotationError where it cannot begin."""
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

    def reach(self, assessment: Assessment, around: Surroundings, plan: Plan) -> Reach | None:
        """How far this node is in its phase; None where no rotation is under way."""
        rotation, ground = self.rotation, self.ground
        if rotation is None or ground is None:
            return None
        if why := self._held_back(rotation):
            return Reach(rotation, (why,), begun=False)
        waits = tuple(unsettled(rotation, ground, assessment, around, plan))
        at = settles_at(rotation, assessment, around, self._met_at(rotation, assessment.taken_at))
        if not waits and assessment.taken_at < at and rotation.phase is not Phase.PREPARE:
            said = f"those that read files again by themselves have time until {at:%Y-%m-%d %H:%M:%S} UTC"
            return Reach(rotation, (said,), at)
        return Reach(rotation, waits)

    def _met_at(self, rotation: Rotation, now: datetime) -> datetime:
        """When this process has first seen the node in this phase; `now` where a clock was set back since."""
        phase = rotation.id, rotation.phase
        if self._met is None or self._met[0] != phase or self._met[1] > now:
            self._met = phase, now
        return self._met[1]

    def report(self, rotation: Rotation, assessment: Assessment) -> Report:
        """What this node says of itself, now that it has come so far."""
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
