"""A replaced trust anchor on a node that may begin no rotation by itself: it trusts the former one beside it again.

Owns which anchor gets that first aid, what is told of it, and when it is over. It writes nothing: `rotating` notes it,
and the files are steps of the plan.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from certmond.config import Config
from certmond.host.node_files import NodeFiles
from certmond.pki.certificate import Anchor
from certmond.pki.checks import finding
from certmond.pki.holding import Surroundings
from certmond.pki.reason import Finding, Reason
from certmond.pki.rotation import Phase, Rotation
from certmond.pki.rotation_aid import aid_of, carried_on, is_reached, step_of, untrusted_signer
from certmond.pki.rotation_steps import Ground, signs_otherwise
from certmond.pki.steps import Rotate
from certmond.replaced import Replaced, fact_of, staging_of

_BACK = "put the former CA and its key back"


class FirstAid:
    """As of the last look. `noted` is what the node's record has, by family."""

    def __init__(self, config: Config, files: NodeFiles) -> None:
        self._config, self._files = config, files
        self.forget()

    def forget(self) -> None:
        """Nothing is known of any: a rotation is under way, or it cannot be told."""
        self.noted: Mapping[str, Rotation] = {}
        self._grounds: Mapping[str, Ground] = {}
        self._fresh: dict[str, Rotation] = {}
        self._changed: frozenset[str] = frozenset()

    def look(
        self,
        grounds: Mapping[str, Ground],
        replaced: Replaced,
        known: Mapping[str, Sequence[Anchor]],
        noted: Mapping[str, Rotation],
        now: datetime,
    ) -> dict[str, tuple[Finding, ...]]:
        """Return what is told instead of what `replaced` tells. `known` are the anchors that the node has lived by."""
        self.noted, self._grounds = noted, grounds
        self._changed = frozenset(replaced.changes)
        told = dict[str, tuple[Finding, ...]]()
        for family, ground in grounds.items():
            fresh = self._possible(family, ground, replaced, known.get(family, ()), now)
            if isinstance(fresh, Rotation):
                self._fresh[family] = fresh
            if said := self._said(family, ground, replaced, fresh):
                told[family] = (finding(Reason.ROOT_CA_CHANGED, said),)
        return told

    def _possible(
        self, family: str, ground: Ground, replaced: Replaced, known: Sequence[Anchor], now: datetime
    ) -> Rotation | str | None:
        """Return the aid for the anchor, or a sentence that says why there is none; None where `replaced` says that."""
        terms = self._config.mode == "enforce" and self._config.root_ca.on_change == "rotate"
        if not terms or replaced.objection is None or family not in replaced.changes:
            return None
        change, verdict = replaced.changes[family]
        if verdict.problems or verdict.mode != "overlap":
            return None
        if strangers := self._files.strangers(ground.path, None):
            return f"the former CA is not trusted beside it, as {strangers}; let only root write there"
        return aid_of(change, ground, known, now, f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}")

    def _said(self, family: str, ground: Ground, replaced: Replaced, fresh: Rotation | str | None) -> str | None:
        noted, change = self.noted.get(family), replaced.changes.get(family, (None,))[0]
        enforces = self._config.mode == "enforce"
        aided = noted is not None and {noted.new, noted.old[0]} <= {*ground.trust}
        if enforces and change is not None and noted and ground.key in {each.key for each in noted.old}:
            return f"{ground.key_path} is the former CA's key again; certmond lets {ground.path} hold that CA alone now"
        if change is not None and noted is not None and noted.new != change.new and isinstance(fresh, str):
            fact = f"{fact_of(change, ground)}, and nothing is touched: another one replaced the former CA before, "
            return f"{fact}SHA-256 {noted.new.sha256[:16]}…; {_BACK}, and certmond removes what it added for that one"
        if change is not None and isinstance(fresh, str):
            return f"{fact_of(change, ground)}, and nothing is touched: {replaced.objection}; {fresh}; {_BACK}"
        if change is not None and (fresh is not None or (enforces and aided and noted and noted.new == change.new)):
            given = isinstance(fresh, Rotation) and {*fresh.old} <= {*ground.trust}
            now = "puts the former CA behind it now (where that fails, `certmond plan` says why)"
            does = "has put the former CA behind it" if given or aided else now
            return (
                f"{fact_of(change, ground)}; certmond {does}, so that clients of both are accepted, and begins no "
                f"rotation ({replaced.objection}); {_BACK}, and certmond removes the other one; if that one is meant, "
                f"{staging_of(family)}"
            )
        if change is None and (said := untrusted_signer(ground)) and not self._is_done(family):
            return said
        if noted is None or not enforces:
            return None
        if aided and change is None and noted.phase is Phase.TRUST:
            return _left(noted, ground)
        return None

    def obstacles(self, family: str) -> Iterator[str]:
        """Yield why no rotation of the family can begin on this node, with what comes first."""
        if family in self.noted:
            fact = f"the CA of {family} was replaced on this node, and no other node follows that"
            yield f"{fact}; put the former CA and its key back, and stage the other one then"

    @property
    def is_due(self) -> bool:
        """There is an aid to be given that is not noted yet."""
        return any(self._is_news(family) for family in self._fresh)

    def _is_news(self, family: str) -> bool:
        noted, fresh = self.noted.get(family), self._fresh.get(family)
        return fresh is not None and (noted is None or noted.new != fresh.new)

    @property
    def steps(self) -> tuple[Rotate, ...]:
        """What the files of this node lack of what is noted."""
        pairs = ((self.noted[family], ground) for family, ground in self._grounds.items() if self._is_done(family))
        return tuple(filter(None, (step_of(aid, ground) for aid, ground in pairs)))

    def _is_done(self, family: str) -> bool:
        """What is noted is to be done now."""
        noted, fresh = self.noted.get(family), self._fresh.get(family)
        if noted is None or self._config.mode != "enforce":
            return False
        return noted.phase is not Phase.TRUST or (fresh is not None and fresh.new == noted.new)

    def carried_on(self, around: Surroundings, now: datetime) -> dict[str, Rotation]:
        """Return what is to be noted now, by family."""
        found = dict(self.noted)
        if self._config.mode != "enforce":
            return found
        for family, ground in self._grounds.items():
            noted = found.pop(family, None)
            if self._is_news(family):
                later: Rotation | None = self._fresh[family]
            elif noted is None:
                continue
            else:
                known = around.live is not None or not around.services
                settled = known and is_reached(noted, ground) and not any(signs_otherwise(ground, around))
                changed = family in self._changed
                later = carried_on(noted, ground, lives_by_former=changed, settled=settled, now=now)
            if later:
                found[family] = later
        return found


def _left(aid: Rotation, ground: Ground) -> str:
    """Return the sentence about two trusted CAs where nothing else on the node shows a change, with the remedy."""
    if ground.trust[0] != aid.new or ground.key != aid.new.key:
        fact = f"{ground.path} trusts the former CA first, and a CA that was put in its place"
        return f"{fact}, whose key is {ground.key_path}; {_BACK}, and certmond removes the other one"
    return (
        f"{ground.path} trusts the former CA behind the one that was put in its place, and nothing on this "
        f"node is of the former one; when nothing on any other node is, take it out of {ground.path}"
    )
