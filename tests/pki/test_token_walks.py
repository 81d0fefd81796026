"""A rotation of the service-account keys on control planes that advance at their own pace: every token is accepted at
every point.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from certmond.errors import RotationError
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.observation import Inventory
from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.planning.steps import Bundle, KeyOf, Rotate
from certmond.pki.rotation import phases as machine
from certmond.pki.rotation.gates import OUTSIDERS, Member, Report, closed, lasting
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort, begin, following, sequence
from certmond.pki.rotation.planner import MissingSteps, missing_steps
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.services.trust_set_digest import digest_of
from certmond.pki.x509.certificate import Anchor
from tests.builders import HOUR, NOW, make_ca

OLD, NEW = make_ca().facts.key, make_ca().facts.key
PUB, KEY = "/pki/sa.pub", "/pki/sa.key"
LIFE = 24 * HOUR
SPEC = RootCaSpec(overlap=timedelta(), token_overlap=LIFE)
PLANNED = Rotation("r1", "sa", Mode.OVERLAP, (OLD,), NEW, Phase.PREPARE, NOW)
NOTHING = assess(Inventory(()), NOW)

Keys = tuple[Anchor, ...]


@dataclass
class Plane:
    """One control plane: its files, and what its two processes read of them at their start."""

    name: str
    rotation: Rotation
    pub: Keys = (OLD,)
    key: Anchor = OLD
    staged: set[Anchor] = field(default_factory=lambda: {OLD})
    accepts: Keys = (OLD,)
    signs: dict[str, Anchor] = field(default_factory=lambda: {"server": OLD, "manager": OLD})
    sent: list[Report] = field(default_factory=list)
    said: Report | None = None

    def missing_steps(self) -> MissingSteps:
        return missing_steps(self.rotation, Ground("sa", PUB, KEY, self.pub, self.key.key), NOTHING)

    def carry_out(self, step: Rotate) -> None:
        """Make all changes of the step, or none if the key is missing."""
        if any(isinstance(want, KeyOf) and want.anchor not in self.staged for want in step.wants):
            return
        for want in step.wants:
            match want:
                case Bundle(_, anchors):
                    self.pub = anchors
                case KeyOf(_, anchor):
                    self.key = anchor
                case _:
                    raise AssertionError(want)

    def stale(self) -> list[str]:
        found = [name for name, key in self.signs.items() if key != self.key]
        return found if "server" in found or self.accepts == self.pub else ["server", *found]

    def restart(self, name: str) -> None:
        self.signs[name] = self.key
        if name == "server":
            self.accepts = self.pub

    def report(self) -> None:
        """Send the report that the phase is reached, if it is. It arrives later."""
        left = self.missing_steps()
        if not (left.frozen or left.steps or self.stale()):
            ready = self.rotation.new in self.staged
            said = Report(self.rotation.id, self.rotation.phase, digest_of(self.pub), "", signs=True, ready=ready)
            self.sent.append(said)


@dataclass
class Cluster:
    """Control planes, the record, the last signature of each key, and the keys that an external verifier has read.

    Without `gated` no node is waited for. `hasty` counts the time of a phase from its beginning.
    """

    rotation: Rotation
    spec: RootCaSpec = SPEC
    gated: bool = True
    hasty: bool = False
    now: datetime = NOW
    planes: list[Plane] = field(default_factory=list)
    last: dict[Anchor, datetime] = field(default_factory=dict)
    heard: dict[Keys, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.planes = [Plane(name, self.rotation) for name in ("cp-1", "cp-2")]

    def advance(self) -> None:
        """The coordinator."""
        members = [Member(each.name, True, each.said) for each in self.planes] + [Member("worker", False)]
        if self.gated and any(closed(self.rotation, members)):
            return
        gate = lasting(self.rotation, self.spec, self.now)
        if gate.noted:
            self.rotation = replace(gate.noted, published=gate.noted.since) if self.hasty else gate.noted
        elif not gate.waits:
            self.rotation = following(self.rotation, self.now)

    def look(self) -> None:
        """All signers sign continuously, and an external verifier reads the keys of every API server at every
        moment.
        """
        for plane in self.planes:
            self.last |= dict.fromkeys(plane.signs.values(), self.now)
            self.heard[plane.accepts] = self.now

    def refused(self) -> Iterator[str]:
        """I8: every API server accepts every valid token, and external verifiers accept new tokens."""
        for key, at in self.last.items():
            for plane in self.planes:
                if self.now < at + LIFE and key not in plane.accepts:
                    yield f"{plane.name} refuses a token that is alive"
        for key in {key for plane in self.planes for key in plane.signs.values()}:
            if any(key not in keys for keys, at in self.heard.items() if self.now < at + OUTSIDERS):
                yield "an outsider refuses a new token"


def step(cluster: Cluster, action: int, which: int) -> None:
    """Make one event."""
    plane = cluster.planes[which % 2]
    match action:
        case 0:  # a node reads the phase
            plane.rotation = cluster.rotation
        case 1:  # a node writes
            for each in plane.missing_steps().steps:
                plane.carry_out(each)
        case 2 if stale := plane.stale():  # a process is restarted, or ends on its own
            plane.restart(stale[which % len(stale)])
        case 3:
            plane.report()
        case 4 if plane.sent:  # a report arrives late
            plane.said = plane.sent.pop(0)
        case 5:
            cluster.advance()
        case 6:  # an operator stages the new key
            plane.staged.add(cluster.rotation.new)
        case 7:  # time passes
            cluster.now += (which % 5 + 1) * HOUR / 2
        case _:
            pass
    cluster.look()


OFTEN = (0, 1, 1, 2, 2, 3, 4, 5, 6, 7)
ACTIONS = st.lists(st.tuples(st.sampled_from(OFTEN), st.integers(0, 11)), max_size=60)
SEEDS = st.integers(0, 9999)


def go(cluster: Cluster, action: int, which: int) -> None:
    step(cluster, action, which)
    assert not list(cluster.refused())


def wander(cluster: Cluster, seed: int, until: Phase) -> None:
    """Make random events until the cluster's record is in that phase."""
    chosen = random.Random(seed)  # noqa: S311 - a walk, no secret
    for _ in range(6000):
        if cluster.rotation.phase is until:
            return
        go(cluster, chosen.choice(OFTEN), chosen.randrange(12))
    pytest.fail(f"{until} is not reached, but {cluster.rotation.phase}")


def finish(cluster: Cluster) -> None:
    """Everything that can happen happens again and again; then it is over, and nothing is left but the outcome."""
    for _ in range(200):
        for action in (5, 0, 6, 1, 2, 2, 3, 4, 7):
            for which in range(2):
                go(cluster, action, which)
        if cluster.rotation.over and all(each.said and each.said.phase is Phase.DONE for each in cluster.planes):
            break
    else:
        pytest.fail(f"it does not come to an end: {cluster.rotation.phase}")
    new = cluster.rotation.new
    assert all((each.pub, each.key, each.accepts) == ((new,), new, (new,)) for each in cluster.planes)
    assert not any(each.stale() for each in cluster.planes)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from(sequence(PLANNED)), ACTIONS)
def test_every_valid_token_is_accepted_at_every_point(seed: int, phase: Phase, actions: list[tuple[int, int]]) -> None:
    """Nodes read and report late, and processes end and start at any time: every API server accepts every token before
    its end, whichever key signed it and whenever, and external verifiers accept it too.
    """
    cluster = Cluster(begin(PLANNED))
    wander(cluster, seed, phase)
    for action, which in actions:
        go(cluster, action, which)
    finish(cluster)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from(sequence(PLANNED)[:3]), ACTIONS, ACTIONS)
def test_an_abort_refuses_no_token(
    seed: int, phase: Phase, before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    """The rule holds up to the last phase with an abort, and for the tokens that the abandoned key has signed
    meanwhile.
    """
    cluster = Cluster(begin(PLANNED))
    wander(cluster, seed, phase)
    for action, which in before:
        go(cluster, action, which)
    event(f"aborted in {cluster.rotation.phase}")
    try:
        cluster.rotation = abort(cluster.rotation, cluster.now)
    except RotationError:
        assert cluster.rotation.phase in {Phase.DISTRUST, Phase.DONE}
        return
    for action, which in after:
        go(cluster, action, which)
    finish(cluster)
    assert cluster.rotation.new == OLD


def test_a_control_plane_without_the_new_key_blocks_prepare() -> None:
    """Nothing changes before each of them could sign with it. A worker need not report."""
    cluster = Cluster(begin(PLANNED))
    cluster.planes[0].staged.add(NEW)
    for number in range(300):
        go(cluster, (0, 1, 3, 4, 5, 7)[number % 6], number)
    assert cluster.rotation.phase is Phase.PREPARE


def caught(cluster: Cluster) -> bool:
    """Some walk finds a token that is refused."""
    for seed in range(20):
        chosen = random.Random(seed)  # noqa: S311 - a walk, no secret
        here = replace(cluster, planes=[], last={}, heard={})
        for _ in range(1500):
            step(here, chosen.choice(OFTEN), chosen.randrange(12))
            if next(here.refused(), None):
                return True
    return False


@pytest.mark.long
def test_the_right_order_is_not_caught() -> None:
    """The check of the wrong orders finds nothing in it."""
    assert not caught(Cluster(begin(PLANNED)))


P = Phase


@pytest.mark.parametrize(
    "phases",
    [
        (P.PREPARE, P.ISSUE, P.TRUST, P.DISTRUST, P.DONE),
        (P.PREPARE, P.TRUST, P.DISTRUST, P.ISSUE, P.DONE),
        (P.PREPARE, P.DISTRUST, P.DONE),
    ],
    ids=["use before trust", "distrust before use", "at once"],
)
def test_a_wrong_order_is_caught(monkeypatch: pytest.MonkeyPatch, phases: tuple[Phase, ...]) -> None:
    """The same walks find a refused client in any order except the right one."""
    monkeypatch.setattr(machine, "_SEQUENCES", {Mode.OVERLAP: phases})
    assert caught(Cluster(begin(PLANNED)))


@pytest.mark.parametrize(
    "wrong",
    [
        Cluster(begin(PLANNED), spec=RootCaSpec(overlap=HOUR, token_overlap=12 * HOUR)),
        Cluster(begin(PLANNED), hasty=True),
        Cluster(begin(PLANNED), gated=False),
        Cluster(replace(begin(PLANNED), mode=Mode.REPLACE)),
    ],
    ids=["distrust while tokens live", "counted from the beginning of the phase", "no node is waited for", "at once"],
)
def test_a_rotation_without_waits_is_caught(wrong: Cluster) -> None:
    """The right order does not suffice: the last tokens of the old key have to end, counted from the very last."""
    assert caught(wrong)
