"""State of the CA rotation on this node, and the CAs with which this node must not sign.

This module combines a scan of the node with the rotation records of this node and of the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from certmond.config.model import Config
from certmond.controllers.coordinator_interface import Coordinator
from certmond.controllers.replaced_ca_rotation import CAChanges
from certmond.controllers.replaced_ca_trust_planner import InterimTrust
from certmond.controllers.rotation_findings import EXPLANATION, findings_of
from certmond.errors import CertmondError, RotationError, defect
from certmond.formats.manifest import Components
from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.rule_input import finding
from certmond.pki.catalog.observation import Inventory
from certmond.pki.findings import Finding, Reason
from certmond.pki.planning.host_hold_rules import NO_REPLACED_CA, ReplacedCA
from certmond.pki.planning.steps import Plan
from certmond.pki.rotation.authorization import refusal
from certmond.pki.rotation.awaited_leaves import is_awaited
from certmond.pki.rotation.gates import Report
from certmond.pki.rotation.phase_conditions import open_conditions, reload_deadline
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, desired
from certmond.pki.rotation.planner import MissingSteps, family_statuses, missing_steps
from certmond.pki.rotation.replaced_ca_detection import has_signed_all, put_back
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.rotation.worker_batches import Workers, held_back, in_batches
from certmond.pki.services.staleness import Surroundings
from certmond.pki.services.trust_set_digest import digest_of
from certmond.pki.x509.certificate import Anchor, Certificate
from certmond.rotation.staged_ca import Part, Staging
from certmond.rotation.trust_anchor_state_reader import ground_of
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.node_file_reader import NodeFiles

if TYPE_CHECKING:
    from certmond.pki.rotation.preview import Preview


@immutable
class PhaseProgress:
    """Progress of this node in the present phase of a rotation."""

    rotation: Rotation
    # The conditions that are not met, and the end of the wait.
    waits: tuple[str, ...] = ()
    until: datetime | None = None
    # False before the node may act in the phase.
    begun: bool = True


class RotationState:
    """State of the rotation on the node named `node`, as of the last `update`."""

    def __init__(
        self,
        config: Config,
        *,
        node: str,
        files: NodeFiles,
        record: RotationRecord,
        staging: Staging,
        coordinator: Coordinator,
    ) -> None:
        self._node = node
        self._files, self._record, self._staging, self._coordinator = files, record, staging, coordinator
        self._is_single_node = config.cluster.kubeconfig is None
        self._leads_external, self._overlap = config.root_ca.record_signer is not None, config.root_ca.overlap
        self._families = [
            spec.name for spec in config.certificates if spec.is_trust and not (spec.is_glob or spec.renewed_by)
        ]
        self.replaced, self.interim_trust = CAChanges(config), InterimTrust(config, files)
        self._first_seen: tuple[tuple[str, Phase], datetime] | None = None
        self._reset()

    def _reset(self) -> None:
        self._grounds = dict[str, Ground]()
        # The rotation in the node's record, and the rotation in progress on this node.
        self.own: Rotation | None = None
        self.rotation: Rotation | None = None
        self.ground: Ground | None = None
        # A new rotation that replaces `rotation`, because a user has installed the old CA or a third CA.
        self.back: Rotation | None = None
        # The reason for which the state is unknown.
        self.broken: str | None = None
        # True while other nodes rotate a CA that this node does not use.
        self.elsewhere = False
        # The CAs with which certmond must not sign, each with the reason. The second set contains the CAs of these that
        # have signed all leaves on this node.
        self.unsure: Mapping[str, str] = {}
        self.in_use = frozenset[str]()
        self.interim_trust.reset()

    def check(self) -> None:
        """Check the state directory. Raises StateError if the directory is unusable."""
        self._record.check()

    def update(
        self, inventory: Inventory, components: Components, now: datetime, waits: Sequence[str] = ()
    ) -> dict[str, tuple[Finding, ...]]:
        """Read the state of the rotation. Return findings about the node's trust anchors, by the name of the entry.

        `waits` contains the conditions for which the phase waited in the last pass.
        """
        before = self.at
        self._reset()
        try:
            findings = self._read(inventory, components, now, waits, before)
        except CertmondError as error:
            findings = self._freeze(str(error), *self._families)
        except Exception as error:  # noqa: BLE001 - after a defect, certmond freezes the rotation and reports it
            findings = self._freeze(defect(error), *self._families)
        if (fact := self._coordinator.estranged) and SIGNER_FAMILY in self._families:
            message = (
                f"{fact}; if the CA was rotated without this node, rejoin the node: kubeadm reset, then kubeadm join"
            )
            findings[SIGNER_FAMILY] = (*findings.get(SIGNER_FAMILY, ()), finding(Reason.CUT_OFF, message))
        return findings

    def _read(
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
        self.replaced.update(inventory, self._grounds, self._coordinator.objection(components))
        self.own = self._record.load()
        self.rotation = self.followed()
        if self.rotation:
            staged = [each for each in map(self._staging.read, Part) if each and (each.key or each.key_unknown)]
            here = self._grounds.get(self.rotation.family)
            if here is None and self.own is not None:
                fact = (
                    f"{self.own.name} is in progress, in the phase {self.own.phase}, but the configuration has no entry"
                )
                raise RotationError(
                    f"{fact} {self.own.family} that certmond rotates; restore this entry until the rotation ends"
                )
            self.ground = replace(here, signs=bool(staged)) if here else None
            if self.ground is None or not self._uses(self.ground):
                self.rotation, self.elsewhere = None, True  # such as etcd's CA on a worker
                return {}
            if why := self._refusal(self.rotation, self.ground, now):
                return self._freeze(why, self.rotation.family)
            if self._is_single_node:  # in a larger cluster, another node might not have the new key yet
                self.back = put_back(self.rotation, self.ground, now) or self.replaced.next_rotation(self.rotation, now)
            since = waits if before == self.at else ()
            findings, self.unsure = findings_of(self.rotation, self.ground, self.back, since, inventory)
            others = self.replaced.findings_beside(self.rotation, self._record.anchors(), now)
            self.unsure = {**self.unsure, **{family: found[0].message for family, found in others.items()}}
            return findings | others
        known, interims = self._record.anchors(), self._record.interims()
        findings = self.replaced.findings(known, interims, now)
        findings |= self.interim_trust.findings(self._grounds, self.replaced, known, interims, now)
        self.unsure = {family: found[0].message for family, found in findings.items()}
        changes = self.replaced.changes.items()
        signing = (family for family, (change, _) in changes if has_signed_all(change, inventory))
        self.in_use = frozenset(signing) - interims.keys()
        return findings

    def followed(self) -> Rotation | None:
        """Return the rotation that this node follows, or None if there is no such rotation.

        Raises RotationError if the node's record and the shared record contradict each other.
        """
        trusted = {anchor for ground in self._grounds.values() for anchor in ground.trust}
        return self._coordinator.follow(self.own, self._record.closed(), trusted)

    def _freeze(self, why: str, *families: str) -> dict[str, tuple[Finding, ...]]:
        """Mark the state as unknown because of `why`, and return the finding about this state.

        certmond then does not sign with a CA of `families`, unless this CA is certainly unchanged.
        """
        self.rotation = self.ground = self.back = None
        self.replaced.reset()
        self.broken = why
        known = self._record.anchors()
        message = f"{why}; {EXPLANATION}"
        self.unsure = {family: message for family in families if not self._is_unchanged(family, known.get(family, ()))}
        return {families[0]: (finding(Reason.ROTATION_FROZEN, why),)} if families else {}

    def _is_unchanged(self, family: str, known: Sequence[Anchor]) -> bool:
        """Return whether the certificate and the key of the CA are those of the accepted CA `known`.

        Return False while a rotation of this CA is in progress, or while an old CA is staged.
        """
        ground, own = self._grounds.get(family), self.own
        # A client that accepts the present leaves trusts an unchanged CA, so certmond may sign with this CA.
        if ground is None or not known or ground.trust != known or ground.key not in {None, known[0].key}:
            return False
        under_way = own is not None and own.family == family and not own.over
        return (
            not under_way and self._staging.read(Part.OLD) is None
        )  # otherwise, the key was replaced, and then restored

    def _refusal(self, rotation: Rotation, ground: Ground, now: datetime) -> str | None:
        """Return why this node refuses the rotation of the shared record, or None if this node accepts the rotation."""
        if rotation == self.own:
            return None
        staged = self._is_staged(rotation)
        return refusal(self.own, rotation, ground, staged=staged, now=now, leads=self._leads_external)

    def _is_staged(self, rotation: Rotation) -> bool:
        """Return whether the new CA is staged on this node, with its private key unless the rotation is external."""
        staged = [each for each in map(self._staging.read, Part) if each and not each.fault]
        return any(each.anchor == rotation.new and (each.key or rotation.external) for each in staged)

    def leads(self, rotation: Rotation) -> bool:
        """Return whether this node may write the shared record. Such a node does not count as a worker."""
        if rotation.external:
            return self._leads_external
        return self.ground is not None and self.ground.holds_key

    def _uses(self, ground: Ground) -> bool:
        """Return whether the node has the CA or its key, or has accepted this CA before."""
        return bool(ground.trust or ground.holds_key) or ground.family in self._record.anchors()

    # Properties of the rotation in progress

    @property
    def family(self) -> str | None:
        """The name of the CA in rotation, or None if no rotation is in progress."""
        return self.rotation.family if self.rotation else None

    @property
    def at(self) -> tuple[str, Phase] | None:
        """The ID and the phase of the rotation, or None if no rotation is in progress."""
        return (self.rotation.id, self.rotation.phase) if self.rotation else None

    @property
    def signing(self) -> Mapping[str, Certificate]:
        """The CA certificate that signs in the present phase, by the name of the CA."""
        rotation, wanted = self.rotation, desired(self.rotation) if self.rotation else None
        if rotation is None or wanted is None:
            return {}
        signing = wanted.signing
        return {rotation.family: signing} if isinstance(signing, Certificate) else {}

    @property
    def phase(self) -> Phase | None:
        return self.rotation.phase if self.rotation else None

    @property
    def replaced_ca(self) -> ReplacedCA:
        """The CA whose replacement by a user started the rotation, or NO_REPLACED_CA if there is no such CA."""
        rotation = self.rotation
        if rotation is None or not rotation.found:
            return NO_REPLACED_CA
        return ReplacedCA(rotation.family, rotation.since, at_once=rotation.mode is Mode.REPLACE)

    @property
    def workers(self) -> Workers | None:
        """The numbers of workers at the last count, or None if this node does not count workers."""
        return self._coordinator.workers(self.rotation) if self.rotation else None

    @property
    def called(self) -> bool:
        """Whether this node may act now in a phase in which workers change in batches.

        In such a phase, a worker restarts its services without the delay of a worker.
        """
        return self.rotation is not None and in_batches(self.rotation) and self._worker_hold(self.rotation) is None

    def _worker_hold(self, rotation: Rotation) -> str | None:
        """Return why this worker must not act in the phase yet, or None if this node may act."""
        # The labels of the Node object do not matter.
        return None if self.ground is None or self.leads(rotation) else held_back(rotation, self._node)

    def preview(self, rotation: Rotation, assessment: Assessment, order: Sequence[str]) -> tuple[Preview, ...]:
        """Return the steps and restarts of `rotation` on this node, by phase.

        Raises RotationError if the catalogue has no entry for the CA.
        """
        ground = self._grounds.get(rotation.family)
        if ground is None:
            raise RotationError(f"the catalogue has no trust anchor {rotation.family}; add it to `certificates`")
        from certmond.pki.rotation.preview import preview

        return preview(rotation, ground, assessment, order)

    def missing_steps(self, assessment: Assessment) -> MissingSteps:
        """Return the steps that this node must execute in the present phase.

        If no rotation is in progress, return the steps of interim trust. Return no steps if this node must not act in
        the phase.
        """
        if self.rotation is None:
            return MissingSteps(self.interim_trust.steps)
        if self.ground is None or self.back or self._worker_hold(self.rotation):
            return MissingSteps()
        return missing_steps(self.rotation, self.ground, assessment)

    def reach(self, assessment: Assessment, around: Surroundings, plan: Plan) -> PhaseProgress | None:
        """Return the progress of this node in the present phase, or None if no rotation is in progress."""
        rotation, ground = self.rotation, self.ground
        if rotation is None or ground is None:
            return None
        if why := self._worker_hold(rotation):
            return PhaseProgress(rotation, (why,), begun=False)
        waits = tuple(open_conditions(rotation, ground, assessment, around, plan))
        met = self._first_seen_at(rotation, assessment.taken_at)
        at = reload_deadline(rotation, assessment, around, met, self._overlap)
        if not waits and assessment.taken_at < at and rotation.phase is not Phase.PREPARE:
            message = f"certmond waits for services to reload their files until {at:%Y-%m-%d %H:%M:%S} UTC"
            return PhaseProgress(rotation, (message,), at)
        return PhaseProgress(rotation, waits)

    def _first_seen_at(self, rotation: Rotation, now: datetime) -> datetime:
        """Return the time at which this process first observed the phase, or `now` if the clock was set back."""
        phase = rotation.id, rotation.phase
        if self._first_seen is None or self._first_seen[0] != phase or self._first_seen[1] > now:
            self._first_seen = phase, now
        return self._first_seen[1]

    def report(self, rotation: Rotation, assessment: Assessment) -> Report:
        """Return the report that this node has reached the phase of `rotation`."""
        ground, known = self.ground, {*rotation.old, rotation.new}
        leaves = [
            each for each in family_statuses(rotation.family, assessment)
            if not each.seen.spec.is_trust and is_awaited(rotation, each, assessment)
        ]  # fmt: skip
        issuers = {each.trust_anchor.sha256 for each in leaves if each.trust_anchor and each.trust_anchor in known}
        keyed = ground is not None and (rotation.external or ground.key == rotation.new.key)
        in_place = ground is not None and rotation.new in ground.trust and keyed
        ready = in_place or self._is_staged(rotation)
        return Report(
            rotation.id, rotation.phase, digest_of(ground.trust if ground else ()),
            next(iter(issuers)) if len(issuers) == 1 else "", self.leads(rotation), ready,
        )  # fmt: skip
