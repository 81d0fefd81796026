"""Detection of a trust anchor that a user has replaced, and the rotation to the new trust anchor.

This module defines the finding, the parameters of the rotation, and the reasons against the rotation.
`controllers.rotation` begins the rotation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from certmond.config.model import Config
from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.rule_input import finding
from certmond.pki.catalog.observation import Inventory
from certmond.pki.catalog.settings import is_external
from certmond.pki.findings import Finding, Reason
from certmond.pki.rotation.ca_family import Leaf, family_of
from certmond.pki.rotation.ca_validation import Verdict, judge
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, begin
from certmond.pki.rotation.replaced_ca_detection import Change, changed, overtaken
from certmond.pki.rotation.trust_anchor_state import Ground, obstacle
from certmond.pki.x509.certificate import Anchor, certificates_of


class CAChanges:
    """Changes to the trust anchors of the node, as of the last scan, that do not result from a rotation."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._inventory, self._grounds = Inventory(()), dict[str, Ground]()
        self._objection: str | None = None
        self._change: tuple[Change, Verdict, Ground] | None = None
        self._unchanged: frozenset[str] = frozenset()
        self.changes: dict[str, tuple[Change, Verdict]] = {}
        """Each change and its verdict, by the name of the entry."""

    def update(self, inventory: Inventory, grounds: Mapping[str, Ground], objection: str | None) -> None:
        """Store the current state of the node, and discard the changes of the last scan.

        `objection` is the reason why certmond must not begin a rotation by itself, or None if certmond may begin a
        rotation.
        """
        self._inventory, self._grounds, self._objection = inventory, dict(grounds), objection
        self.reset()

    def reset(self) -> None:
        """Discard all changes."""
        self._change, self._unchanged, self.changes = None, frozenset(), {}

    @property
    def objection(self) -> str | None:
        """The reason why certmond must not begin a rotation by itself, or None if certmond may begin a rotation."""
        return self._objection

    def findings(
        self, known: Mapping[str, Sequence[Anchor]], interims: Mapping[str, Rotation], now: datetime
    ) -> dict[str, tuple[Finding, ...]]:
        """Return the findings about changed trust anchors, by the name of the entry.

        `known` contains the accepted trust anchors of the node, and `interims` contains the recorded interim trust of
        the node. The keys of both mappings are names of entries.
        """
        found, unchanged = dict[str, tuple[Finding, ...]](), set[str]()
        for family, ground in self._grounds.items():
            change, interim = changed(family, ground, known.get(family, ()), self._inventory), interims.get(family)
            if change is None:
                if interim is None:
                    unchanged.add(family)
                continue
            if interim and interim.new == change.new:
                change = replace(change, old=tuple(dict.fromkeys((*change.old, *certificates_of(interim.old)))))
            verdict = self._verdict(change, ground, now)
            self.changes[family] = change, verdict
            if self._change is None or (self._change[1].problems and not verdict.problems):
                self._change = change, verdict, ground  # prefer the first change without a problem
            found[family] = (finding(Reason.ROOT_CA_CHANGED, self._remedy(change, verdict, ground, now)),)
        self._unchanged = frozenset(unchanged)
        return found

    def findings_beside(
        self, rotation: Rotation, known: Mapping[str, Sequence[Anchor]], now: datetime
    ) -> dict[str, tuple[Finding, ...]]:
        """Return the findings about changed trust anchors other than that of `rotation`, by the name of the entry.

        certmond acts on these changes after the end of `rotation`.
        """
        found = dict[str, tuple[Finding, ...]]()
        others = {family: ground for family, ground in self._grounds.items() if family != rotation.family}
        for family, ground in others.items():
            if change := changed(family, ground, known.get(family, ()), self._inventory):
                message = self._remedy(change, self._verdict(change, ground, now), ground, now, after=rotation)
                found[family] = (finding(Reason.ROOT_CA_CHANGED, message),)
        return found

    @property
    def is_followed(self) -> bool:
        """Whether certmond begins a rotation to the new trust anchor by itself."""
        follows = self._config.mode == "enforce" and self._config.root_ca.on_change != "alarm"
        return follows and self._change is not None and not (self._objection or self._change[1].problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about the new trust anchor. A warning does not prevent a rotation."""
        return self._change[1].warnings if self._change else ()

    @property
    def unchanged_anchors(self) -> dict[str, tuple[Anchor, ...]]:
        """Unchanged trust anchors by the name of the CA entry, or {} if a user has replaced a trust anchor."""
        if self._change is not None:
            return {}
        return {family: self._grounds[family].trust for family in self._unchanged if self._grounds[family].trust}

    def _verdict(self, change: Change, ground: Ground, now: datetime) -> Verdict:
        unusable = tuple(_unusable(ground))
        key_where = None if unusable else ground.key_path
        leaves, end = self._leaves(change.family, now)
        verdict = judge(
            change.new, ground.key, change.old, end, now,
            where=ground.path, key_where=key_where, leaves=leaves, in_place=True,
        )  # fmt: skip
        return replace(verdict, problems=(*unusable, *_unknown_anchors(change, ground), *verdict.problems))

    def rotation(self, now: datetime, *, at_once: bool) -> Rotation | None:
        """Return a new rotation to the CA that a user has installed, or None if no such rotation can begin.

        The caller records the rotation.
        """
        if self._change is None or self._objection or self._change[1].problems:
            return None
        change, verdict, _ = self._change
        return self._new_rotation(change, verdict, now, at_once=at_once)

    def next_rotation(self, rotation: Rotation, now: datetime) -> Rotation | None:
        """Return a new rotation to a third CA that a user has installed during `rotation`.

        Return None in observe mode, with `on_change: alarm`, without a third CA, or if no rotation to this CA can
        begin. The caller records the new rotation.
        """
        ground, wanted = self._grounds[rotation.family], self._config.root_ca.on_change
        if self._config.mode != "enforce" or wanted == "alarm" or self._objection:
            return None
        change = overtaken(rotation, ground, self._inventory)
        verdict = self._verdict(change, ground, now) if change else None
        if change is None or verdict is None or verdict.problems:
            return None
        return self._new_rotation(change, verdict, now, at_once=wanted == "replace")

    def _new_rotation(self, change: Change, verdict: Verdict, now: datetime, *, at_once: bool) -> Rotation | None:
        mode = Mode.REPLACE if at_once else _mode(change, verdict, now)
        identity = f"{now:%Y%m%dT%H%M%SZ}-{os.urandom(3).hex()}"
        made = begin(Rotation(identity, change.family, mode, change.old, change.new, Phase.PREPARE, now, found=True))
        return None if self.refusal(made) else made

    def refusal(self, rotation: Rotation) -> str | None:
        """Return why `rotation` must not begin on this node, and the remedy. Return None if `rotation` may begin."""
        ground = self._grounds.get(rotation.family)
        if ground is None:
            return None
        if self._config.cluster.kubeconfig is None:
            if self._objection:
                return f"{self._objection}; configure `cluster:` on every node (docs/rotation.md)"
            # In the mode reissue, the new CA has the key of the old CA, so all leaves stay valid.
            keyless = not ground.holds_key and rotation.mode is not Mode.REISSUE
            if keyless and (leaves := list(self._unsigned(rotation.family))):
                fact = f"the key of {ground.path} is not on this node, and no other signer issues {', '.join(leaves)}"
                return f"{fact}; set `signer` in these entries to a signer of kind command or csr (docs/rotation.md)"
        return obstacle(rotation, ground)

    def _unsigned(self, family: str) -> Iterator[str]:
        """Yield the paths of the leaves that only the key of the CA on this node can sign."""
        kinds = {spec.name: spec.kind for spec in self._config.signers}
        for seen in self._inventory.observations:
            own = seen.name == seen.spec.name and not seen.spec.authority and bool(seen.certificates)
            if own and family in seen.spec.ca and not is_external(seen.spec.signer, kinds):
                yield seen.path

    def _leaves(self, family: str, now: datetime) -> tuple[tuple[Leaf, ...], datetime | None]:
        """Return the leaves of the trust anchor, and the time at which the last leaf would expire if signed at `now`.

        If this node has no such family, return no leaf and no time.
        """
        found = family_of(assess(self._inventory, now), family)
        return (found.leaves, found.leaves_end(now, self._config.validity)) if found else ((), None)

    def _remedy(
        self, change: Change, verdict: Verdict, ground: Ground, now: datetime, after: Rotation | None = None
    ) -> str:
        """Return the message about a change: the fact, the action of certmond, and the next command.

        certmond acts after the end of the rotation `after`, if any.
        """
        rotate = "certmond root-ca rotate" + ("" if change.family == SIGNER_FAMILY else f" --family {change.family}")
        fact = fact_of(change, ground)
        alone = self._config.mode == "enforce" and not self._objection
        if verdict.until and len(verdict.problems) == 1 and alone:
            first = f"{fact}: {verdict.problems[0]}"
            command = f"; to rotate after this time, run: {rotate}" if self._config.root_ca.on_change == "alarm" else ""
            does = "certmond does not act before" if command else "certmond rotates to the new CA at"
            return (
                f"{first}; {does} {verdict.until:%Y-%m-%d %H:%M:%S} UTC; to keep the old CA, restore it and its "
                f"key{command}"
            )
        if verdict.problems:
            return f"{fact}; certmond changes no file: {'; '.join(verdict.problems)}; or restore the old CA and its key"
        if self._config.mode == "observe":
            fact = f"{fact}; in observe mode, certmond does not rotate to the new CA"
            return f"{fact}; restore the old CA and its key, or set `mode: enforce`"
        if self._config.root_ca.on_change == "alarm":
            fact = f"{fact}; certmond does not act, because `root_ca.on_change` is alarm"
            if self._objection:
                fact = f"{fact}, and no command rotates to a CA that is already installed here ({self._objection})"
                first = "" if self._config.cluster.kubeconfig else "configure `cluster:` on every node, and "
                return f"{fact}: restore the old CA and its key; to rotate, {first}{staging_commands(change.family)}"
            then = f"or, after {after.name}, run" if after else "or run"
            return f"{fact}: restore the old CA and its key, {then}: {rotate}"
        if self._objection:
            return f"{fact}; certmond changes no file: {self._objection}; restore the old CA and its key"
        if after:
            return "; ".join((f"{fact}; certmond rotates to the new CA after {after.name}", *verdict.warnings))
        expired = _mode(change, verdict, now) is Mode.REPLACE
        how = "certmond rotates to the new CA now, without an overlap, because the old CA has expired"
        how = how if expired else "certmond rotates to the new CA now"
        return "; ".join((f"{fact}; {how}", *verdict.warnings))


def staging_commands(family: str) -> str:
    """Return a clause with the commands that rotate to another CA, after the operator has restored the old CA."""
    option = "" if family == SIGNER_FAMILY else f" --family {family}"
    staged = f"`certmond root-ca stage{option} CERT KEY` on every control-plane node"
    return f"run {staged}, then `certmond root-ca rotate{option}` on one of these nodes"


def fact_of(change: Change, ground: Ground) -> str:
    """Return a clause that states how the CA in the file differs from the CA of the node's certificates."""
    return f"{ground.path} contains a CA other than the CA of this node's certificates ({change.because})"


def _mode(change: Change, verdict: Verdict, now: datetime) -> Mode:
    """Return the mode of the rotation.

    An overlap with an expired CA has no effect, because clients refuse the certificates of this CA.
    """
    expired = all(each.not_after < now for each in change.old)
    if len(change.old) > 1 and verdict.mode == "reissue":
        return Mode.OVERLAP  # the leaves of only one old CA stay valid
    return Mode.REPLACE if expired and verdict.mode == "overlap" else Mode(verdict.mode)


def _unusable(ground: Ground) -> Iterator[str]:
    if ground.key_unknown and ground.key is None:
        yield f"certmond cannot read a key from {ground.key_path}; install the key of the CA there without a passphrase"
    elif ground.key is None:
        yield (
            "the key of the new CA is not on this node, so certmond cannot rotate to this CA here: install the key on "
            "a control-plane node; a worker receives the CA in a rotation of the cluster"
        )
    if ground.signer and ground.signer.problem:
        yield ground.signer.problem


def _unknown_anchors(change: Change, ground: Ground) -> Iterator[str]:
    """Yield a problem for each trust anchor in the file that is neither an old CA nor the new CA.

    No rotation can complete while the file contains such a trust anchor.
    """
    for each in ground.trust:
        if each not in {change.new, *change.old}:
            fact = f"{ground.path} contains {each.called} (SHA-256 {each.sha256[:16]}…), which is neither the old nor"
            yield f"{fact} the new CA; remove it"
