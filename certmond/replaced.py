"""A trust anchor that somebody has put in the place of another: seen, judged, and what a rotation from there would be.

Owns what is said of a changed anchor, which rotation would follow from it, and what forbids one on this node. It begins
nothing and writes nothing: `rotating` does.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from certmond.config import Config
from certmond.pki.assess import assess
from certmond.pki.candidate import Verdict, judge
from certmond.pki.certificate import Anchor, certificates_of
from certmond.pki.checks import finding
from certmond.pki.family import Leaf, family_of
from certmond.pki.inventory import Inventory
from certmond.pki.reason import Finding, Reason
from certmond.pki.rotation import SIGNER_FAMILY, Mode, Phase, Rotation, begin
from certmond.pki.rotation_found import Change, changed, overtaken
from certmond.pki.rotation_steps import Ground, hindrance


class Replaced:
    """What became of each anchor of a node without a rotation, as of the last look."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._inventory, self._grounds = Inventory(()), dict[str, Ground]()
        self._objection: str | None = None
        self._change: tuple[Change, Verdict, Ground] | None = None
        self._calm: frozenset[str] = frozenset()
        self.changes: dict[str, tuple[Change, Verdict]] = {}
        """What was changed, by the name of the entry, and how fit it is."""

    def see(self, inventory: Inventory, grounds: Mapping[str, Ground], objection: str | None) -> None:
        """The node as it is now; `objection` is why no rotation may begin by itself, whatever was changed."""
        self._inventory, self._grounds, self._objection = inventory, dict(grounds), objection
        self.forget()

    def forget(self) -> None:
        """Nothing is known of any change: a rotation is under way, or it cannot be told."""
        self._change, self._calm, self.changes = None, frozenset(), {}

    @property
    def objection(self) -> str | None:
        """Why no rotation may begin by itself, whatever was changed."""
        return self._objection

    def look(
        self, known: Mapping[str, Sequence[Anchor]], aids: Mapping[str, Rotation], now: datetime
    ) -> dict[str, tuple[Finding, ...]]:
        """What is to be told, by the name of the entry. `known` are the anchors that the node has lived by, `aids` is
        the first aid that it gives.
        """
        told, calm = dict[str, tuple[Finding, ...]](), set[str]()
        for family, ground in self._grounds.items():
            change, aid = changed(family, ground, known.get(family, ()), self._inventory), aids.get(family)
            if change is None:
                if aid is None:
                    calm.add(family)
                continue
            if aid and aid.new == change.new:
                change = replace(change, old=tuple(dict.fromkeys((*change.old, *certificates_of(aid.old)))))
            verdict = self._verdict(change, ground, now)
            self.changes[family] = change, verdict
            if self._change is None or (self._change[1].problems and not verdict.problems):
                self._change = change, verdict, ground  # the first one that can be followed, if there is any
            told[family] = (finding(Reason.ROOT_CA_CHANGED, self._remedy(change, verdict, ground, now)),)
        self._calm = frozenset(calm)
        return told

    def beside(
        self, rotation: Rotation, known: Mapping[str, Sequence[Anchor]], now: datetime
    ) -> dict[str, tuple[Finding, ...]]:
        """What is to be told of the anchors of other families while `rotation` is under way: it is the turn of none."""
        told = dict[str, tuple[Finding, ...]]()
        others = {family: ground for family, ground in self._grounds.items() if family != rotation.family}
        for family, ground in others.items():
            if change := changed(family, ground, known.get(family, ()), self._inventory):
                said = self._remedy(change, self._verdict(change, ground, now), ground, now, after=rotation)
                told[family] = (finding(Reason.ROOT_CA_CHANGED, said),)
        return told

    @property
    def is_followed(self) -> bool:
        """A rotation to an anchor that was found in place may begin by itself."""
        mine = self._config.mode == "enforce" and self._config.root_ca.on_change != "alarm"
        return mine and self._change is not None and not (self._objection or self._change[1].problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the anchor that was found in place, and does not forbid it."""
        return self._change[1].warnings if self._change else ()

    @property
    def calm(self) -> dict[str, tuple[Anchor, ...]]:
        """The anchors of which nothing has changed, by their family; none where any has."""
        if self._change is not None:
            return {}
        return {family: self._grounds[family].trust for family in self._calm if self._grounds[family].trust}

    def _verdict(self, change: Change, ground: Ground, now: datetime) -> Verdict:
        unusable = tuple(_unusable(ground))
        where = None if unusable else ground.key_path
        leaves, end = self._leaves(change.family, now)
        verdict = judge(
            change.new, ground.key, change.old, end, now,
            where=ground.path, key_where=where, leaves=leaves, in_place=True,
        )  # fmt: skip
        return replace(verdict, problems=(*unusable, *_strangers(change, ground), *verdict.problems))

    def found(self, now: datetime, *, at_once: bool) -> Rotation | None:
        """A rotation, not begun, to the anchor that somebody has put in place; None where nobody has, or one unfit."""
        if self._change is None or self._objection or self._change[1].problems:
            return None
        change, verdict, _ = self._change
        return self._made(change, verdict, now, at_once=at_once)

    def instead(self, rotation: Rotation, now: datetime) -> Rotation | None:
        """The rotation, not begun, to a third anchor that somebody has put in the place of the one that `rotation` has
        found there; None where nobody has, or one unfit, or where nothing begins by itself here.
        """
        ground, wanted = self._grounds[rotation.family], self._config.root_ca.on_change
        if self._config.mode != "enforce" or wanted == "alarm" or self._objection:
            return None
        change = overtaken(rotation, ground, self._inventory)
        verdict = self._verdict(change, ground, now) if change else None
        if change is None or verdict is None or verdict.problems:
            return None
        return self._made(change, verdict, now, at_once=wanted == "replace")

    def _made(self, change: Change, verdict: Verdict, now: datetime, *, at_once: bool) -> Rotation | None:
        mode = Mode.REPLACE if at_once else _mode(change, verdict, now)
        identity = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        made = begin(Rotation(identity, change.family, mode, change.old, change.new, Phase.PREPARE, now, found=True))
        return None if self.refusal(made) else made

    def refusal(self, rotation: Rotation) -> str | None:
        """Why `rotation` may not begin here, a sentence with its remedy; None where it may, as far as was seen."""
        ground = self._grounds.get(rotation.family)
        if ground is None:
            return None
        if self._config.cluster.kubeconfig is None:
            if self._objection:
                return f"{self._objection}; name `cluster:` on every node (docs/rotation.md)"
            if not ground.holds_key and (leaves := list(self._unsigned(rotation.family))):
                fact = f"the key of {ground.path} is not on this node, and nothing else would sign {', '.join(leaves)}"
                return f"{fact}; a CA that is kept elsewhere is rotated by hand (docs/rotation.md)"
        return hindrance(rotation, ground)

    def _unsigned(self, family: str) -> Iterator[str]:
        """The leaves that nobody but the CA's key on this node would sign."""
        cluster = {spec.name for spec in self._config.signers if spec.kind == "csr"}
        for seen in self._inventory.observations:
            own = seen.name == seen.spec.name and not seen.spec.authority and bool(seen.certificates)
            if own and family in seen.spec.ca and seen.spec.signer not in cluster:
                yield seen.path

    def _leaves(self, family: str, now: datetime) -> tuple[tuple[Leaf, ...], datetime | None]:
        """The leaves that the anchor would have to sign, and when what is issued now would end."""
        found = family_of(assess(self._inventory, now), family)
        return (found.leaves, found.leaves_end(now, self._config.validity)) if found else ((), None)

    def _remedy(
        self, change: Change, verdict: Verdict, ground: Ground, now: datetime, after: Rotation | None = None
    ) -> str:
        """What happened, what certmond does about it, and when or by whose command it goes on: one `after` another."""
        rotate = "certmond root-ca rotate" + ("" if change.family == SIGNER_FAMILY else f" --family {change.family}")
        fact = fact_of(change, ground)
        alone = self._config.mode == "enforce" and not self._objection
        if verdict.until and len(verdict.problems) == 1 and alone:
            first = f"{verdict.problems[0]}; or put the former CA and its key back"
            command = f"; then run: {rotate}" if self._config.root_ca.on_change == "alarm" else ""
            does = "certmond does not act before" if command else "certmond rotates it at"
            return f"{fact}; {does} {verdict.until:%Y-%m-%d %H:%M:%S} UTC{command}: {first}"
        if verdict.problems:
            return f"{fact}, and nothing is touched: {'; '.join(verdict.problems)}; or put the former CA back"
        if self._config.mode == "observe":
            return f"{fact}; put the former one back and rotate with `certmond root-ca`, or let certmond enforce"
        if self._config.root_ca.on_change == "alarm":
            fact = f"{fact}; certmond does not act, because `root_ca.on_change` is alarm"
            if self._objection:
                fact = f"{fact}, and no command rotates to a CA in place here ({self._objection})"
                first = "" if self._config.cluster.kubeconfig else "name `cluster:` on every node, and "
                return f"{fact}: put the former CA and its key back; to rotate, {first}{staging_of(change.family)}"
            then = f"or, when {after.name} is done, run" if after else "or run"
            return f"{fact}: put the former CA and its key back, {then}: {rotate}"
        if self._objection:
            return f"{fact}, and nothing is touched: {self._objection}; put the former CA back"
        if after:
            return "; ".join((f"{fact}; it is followed when {after.name} is done", *verdict.warnings))
        expired = _mode(change, verdict, now) is Mode.REPLACE
        how = "it is rotated now, without an overlap, as the former CA has expired" if expired else "it is rotated now"
        return "; ".join((f"{fact}; {how}", *verdict.warnings))


def staging_of(family: str) -> str:
    """Return the commands that rotate to a CA which was put in place by hand, after the former pair is back."""
    of = "" if family == SIGNER_FAMILY else f" --family {family}"
    staged = f"`certmond root-ca stage{of} CERT KEY` on every control-plane node"
    return f"run {staged}, then `certmond root-ca rotate{of}` on one"


def fact_of(change: Change, ground: Ground) -> str:
    """Return what happened, for people."""
    return f"{ground.path} holds another CA than this node lives by ({change.because})"


def _mode(change: Change, verdict: Verdict, now: datetime) -> Mode:
    """An overlap with a CA that has expired is none: nobody accepts what it has signed."""
    expired = all(each.not_after < now for each in change.old)
    if len(change.old) > 1 and verdict.mode == "reissue":
        return Mode.OVERLAP  # of only one of them the leaves stay what they are
    return Mode.REPLACE if expired and verdict.mode == "overlap" else Mode(verdict.mode)


def _unusable(ground: Ground) -> Iterator[str]:
    if ground.key_unknown and ground.key is None:
        yield f"{ground.key_path} cannot be read as a key; put the right key there without a passphrase"
    elif ground.key is None:
        yield (
            "its key is not on this node, which therefore cannot go on with it: a control-plane node needs the key as "
            "well, and to a worker a rotation of the cluster brings the CA"
        )
    if ground.signer and ground.signer.problem:
        yield ground.signer.problem


def _strangers(change: Change, ground: Ground) -> Iterator[str]:
    """With these no rotation could be carried through."""
    for each in ground.trust:
        if each not in {change.new, *change.old}:
            fact = f"{ground.path} holds {each.called} (SHA-256 {each.sha256[:16]}…), which is neither the former nor"
            yield f"{fact} the new CA; take it out"
