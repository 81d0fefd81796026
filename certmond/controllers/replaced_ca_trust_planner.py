"""Interim trust after a user has replaced a trust anchor: the node trusts the old CA again, in addition to the new CA.

This module chooses the trust anchors, and the findings about these anchors (docs/rotation.md). `controllers.rotation`
records the interim trust, and steps of the plan write the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from certmond.config.model import Config
from certmond.controllers.replaced_ca_rotation import CAChanges, fact_of, staging_commands
from certmond.pki.assessment.rule_input import finding
from certmond.pki.findings import Finding, Reason
from certmond.pki.planning.steps import Rotate
from certmond.pki.rotation.phase_conditions import signer_differences
from certmond.pki.rotation.phases import Phase, Rotation
from certmond.pki.rotation.replaced_ca_interim_trust import (
    advanced,
    interim_of,
    is_reached,
    next_step,
    untrusted_signer,
)
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.services.staleness import Surroundings
from certmond.pki.x509.certificate import Anchor
from certmond.transaction.node_file_reader import NodeFiles

_RESTORE = "restore the old CA and its key"


class InterimTrust:
    """Interim trust that the node needed at the last scan.

    `recorded` contains the interim trust in the record of the node, by the name of the CA entry.
    """

    def __init__(self, config: Config, files: NodeFiles) -> None:
        self._config, self._files = config, files
        self.reset()

    def reset(self) -> None:
        """Discard the result of the last scan."""
        self.recorded: Mapping[str, Rotation] = {}
        self._grounds: Mapping[str, Ground] = {}
        self._new_aids: dict[str, Rotation] = {}
        self._changed: frozenset[str] = frozenset()

    def findings(
        self,
        grounds: Mapping[str, Ground],
        replaced: CAChanges,
        known: Mapping[str, Sequence[Anchor]],
        recorded: Mapping[str, Rotation],
        now: datetime,
    ) -> dict[str, tuple[Finding, ...]]:
        """Return the findings about interim trust, by the name of the CA entry.

        These findings replace the findings of `replaced`. `known` contains the accepted trust anchors of the node, by
        the name of the CA entry.
        """
        self.recorded, self._grounds = recorded, grounds
        self._changed = frozenset(replaced.changes)
        found = dict[str, tuple[Finding, ...]]()
        for family, ground in grounds.items():
            new_aid = self._possible(family, ground, replaced, known.get(family, ()), now)
            if isinstance(new_aid, Rotation):
                self._new_aids[family] = new_aid
            if message := self._message(family, ground, replaced, new_aid):
                found[family] = (finding(Reason.ROOT_CA_CHANGED, message),)
        return found

    def _possible(
        self, family: str, ground: Ground, replaced: CAChanges, known: Sequence[Anchor], now: datetime
    ) -> Rotation | str | None:
        """Return the interim trust for a trust anchor, or the reason for which interim trust is impossible.

        Return None if interim trust is not necessary or not permitted.
        """
        permitted = self._config.mode == "enforce" and self._config.root_ca.on_change == "rotate"
        if not permitted or replaced.objection is None or family not in replaced.changes:
            return None
        change, verdict = replaced.changes[family]
        if verdict.problems or verdict.mode != "overlap":
            return None
        if writer := self._files.other_writer(ground.path, None):
            return f"certmond does not add trust in the old CA, because {writer}; let only root write there"
        return interim_of(change, ground, known, now, f"{now:%Y%m%dT%H%M%SZ}-{os.urandom(3).hex()}")

    def _message(self, family: str, ground: Ground, replaced: CAChanges, new_aid: Rotation | str | None) -> str | None:
        recorded, enforces = self.recorded.get(family), self._config.mode == "enforce"
        trusts_both = recorded is not None and {recorded.new, recorded.old[0]} <= {*ground.trust}
        change = replaced.changes.get(family, (None,))[0]
        if change is None:
            if (message := untrusted_signer(ground)) and not self._is_active(family):
                return message
            if recorded and enforces and trusts_both and recorded.phase is Phase.TRUST:
                return _both_trusted(recorded, ground)
            return None
        if enforces and recorded and ground.key in {each.key for each in recorded.old}:
            return f"{ground.key_path} is the key of the old CA again; certmond removes the other CA from {ground.path}"
        fact = fact_of(change, ground)
        if isinstance(new_aid, str):
            if recorded and recorded.new != change.new:
                first = f"an earlier CA (SHA-256 {recorded.new.sha256[:16]}…) has replaced the old CA"
                return f"{fact}; certmond changes no file: {first}; {_RESTORE}, and certmond removes the earlier CA"
            return f"{fact}; certmond changes no file: {replaced.objection}; {new_aid}; {_RESTORE}"
        aids_change = enforces and trusts_both and recorded is not None and recorded.new == change.new
        if new_aid is None and not aids_change:
            return None
        has_added = trusts_both or (new_aid is not None and {*new_aid.old} <= {*ground.trust})
        adds = "appends the old CA to this file now (if that fails, see: certmond plan)"
        return (
            f"{fact}; certmond {'has appended the old CA to this file' if has_added else adds}, so that components "
            f"accept clients of both CAs; certmond begins no rotation ({replaced.objection}); {_RESTORE}, and certmond "
            f"removes the other CA; to rotate to the other CA, {staging_commands(family)}"
        )

    def obstacles(self, family: str) -> Iterator[str]:
        """Yield a message with the remedy if interim trust prevents a rotation of the CA `family` on this node."""
        if family in self.recorded:
            fact = f"the CA of {family} was replaced on this node, and no other node follows the replacement"
            stage = f"certmond root-ca stage CERT KEY --family {family}"
            yield f"{fact}; restore the old CA and its key, then stage the other CA: {stage}"

    @property
    def is_due(self) -> bool:
        """Whether the node needs interim trust that the record of the node does not contain yet."""
        return any(self._is_unrecorded(family) for family in self._new_aids)

    def _is_unrecorded(self, family: str) -> bool:
        recorded, new_aid = self.recorded.get(family), self._new_aids.get(family)
        return new_aid is not None and (recorded is None or recorded.new != new_aid.new)

    @property
    def steps(self) -> tuple[Rotate, ...]:
        """The next step of each recorded interim trust that is incomplete on this node."""
        pairs = ((self.recorded[family], ground) for family, ground in self._grounds.items() if self._is_active(family))
        return tuple(filter(None, (next_step(interim, ground) for interim, ground in pairs)))

    def _is_active(self, family: str) -> bool:
        """Return whether certmond must continue the recorded interim trust of a CA."""
        recorded, new_aid = self.recorded.get(family), self._new_aids.get(family)
        if recorded is None or self._config.mode != "enforce":
            return False
        return recorded.phase is not Phase.TRUST or (new_aid is not None and new_aid.new == recorded.new)

    def next_records(self, around: Surroundings, now: datetime) -> dict[str, Rotation]:
        """Return the interim trust that the record of the node must contain now, by the name of the CA entry.

        In observe mode, return the recorded interim trust unchanged.
        """
        found = dict(self.recorded)
        if self._config.mode != "enforce":
            return found
        for family, ground in self._grounds.items():
            recorded = found.pop(family, None)
            if self._is_unrecorded(family):
                later: Rotation | None = self._new_aids[family]
            elif recorded is None:
                continue
            else:
                known = around.live is not None or not around.services
                settled = known and is_reached(recorded, ground) and not any(signer_differences(ground, around))
                changed = family in self._changed
                later = advanced(recorded, ground, depends_on_former=changed, settled=settled, now=now)
            if later:
                found[family] = later
        return found


def _both_trusted(interim: Rotation, ground: Ground) -> str:
    """Return the message for a node that still trusts both CAs after interim trust."""
    if ground.trust[0] != interim.new or ground.key != interim.new.key:
        fact = f"{ground.path} contains the old CA and the CA that replaced the old CA"
        return f"{fact}; {_RESTORE}, and certmond removes the other CA"
    return (
        f"{ground.path} contains the old CA in addition to the new CA; no certificate on this node chains to the old "
        f"CA; when no other node has a certificate of the old CA, remove the old CA from {ground.path}"
    )
