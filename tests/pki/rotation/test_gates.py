"""When a phase may be left: what each node has to have said, and how long it lasts at least."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.rotation.gates import Gate, Member, Report, ahead, closed, lasting, unknown_exclusions
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort
from certmond.pki.services.trust_sets import digest_of
from tests.builders import HOUR, NOW, SECOND
from tests.pki.rotation_node import NEW, OLD, STRANGER, at

P = Phase
TRUSTED = {
    P.TRUST: (OLD.facts, NEW.facts), P.ISSUE: (NEW.facts, OLD.facts), P.DISTRUST: (NEW.facts,), P.DETACH: (OLD.facts,)
}  # fmt: skip


def says(phase: Phase, **fields: Any) -> Report:
    """What a control-plane node says that is in `phase`."""
    good = Report("r1", phase, digest_of(TRUSTED.get(phase, ())), "", signs=True, ready=True)
    return replace(good, **fields)


def why(rotation: Rotation, report: Report | None, *, control_plane: bool = True) -> list[str]:
    """What `cp-2` keeps, where `cp-1` has said all that is asked."""
    return list(
        closed(rotation, [Member("cp-1", True, says(rotation.phase)), Member("cp-2", control_plane, report)])
    )  # fmt: skip


@pytest.mark.parametrize("phase", [P.PREPARE, P.DETACH, P.TRUST, P.ISSUE, P.DISTRUST])
def test_a_phase_may_be_left_when_every_node_has_said_so(phase: Phase) -> None:
    """And then nothing keeps it."""
    assert why(at(phase), says(phase)) == []


@pytest.mark.parametrize("report", [None, says(P.TRUST, rotation="r0"), says(P.TRUST, rotation="r1-back")])
def test_who_has_not_answered_is_not_presumed_to_agree(report: Report | None) -> None:
    """What was said of another rotation is no answer, be it this one on its way back."""
    assert why(at(P.TRUST), report) == ["cp-2 has not answered"]


def test_what_was_said_before_the_machine_was_started_is_no_answer() -> None:
    """Whatever the machine was then, nobody has seen it since."""
    since = [Member("cp-1", True, says(P.TRUST)), Member("cp-2", True, says(P.TRUST), started_since=True)]
    assert list(closed(at(P.TRUST), since)) == ["cp-2 has not answered since its machine was started"]
    assert list(closed(at(P.TRUST, excluded=("cp-2",)), since)) == []


def test_another_phase_is_another_answer() -> None:
    """Be it an earlier one or a later one."""
    assert why(at(P.TRUST), says(P.DETACH)) == ["cp-2 has reached detach, and not trust yet"]
    assert why(at(P.TRUST), says(P.ISSUE)) == ["cp-2 has reached issue, and not trust yet"]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (None, []),
        (says(P.PREPARE), []),
        (says(P.TRUST), []),
        (says(P.ISSUE), ["cp-2 has reached issue already"]),
        (says(P.ATTACH, rotation="r0"), []),
        (says(P.PREPARE, rotation="r2"), ["cp-2 reports the rotation r2, which this node does not know"]),
        (says(P.DISTRUST, rotation="r1-back"), ["cp-2 reports the rotation r1-back, which this node does not know"]),
    ],
)
def test_who_knows_most_of_a_rotation(report: Report | None, said: list[str]) -> None:
    """Is whom no other node contradicts: by a later phase, the way back, or a rotation that was not ended here."""
    assert list(ahead(at(P.TRUST), [Member("cp-1", True), Member("cp-2", True, report)], {"r0"})) == said


def test_who_is_on_the_way_back_knows_more_than_who_is_not() -> None:
    """In whatever phase of the way there that one is, but for those from which none leads back."""
    back = abort(at(P.ISSUE), NOW)
    assert list(ahead(back, [Member("cp-2", True, says(P.ISSUE))], ())) == []
    gone_too_far = ["cp-2 has reached distrust before the abort, and no abort is possible from that phase"]
    assert list(ahead(back, [Member("cp-2", True, says(P.DISTRUST))], ())) == gone_too_far
    assert list(ahead(back, [Member("cp-2", True, says(P.DONE, rotation="r1-back"))], ())) != []


@pytest.mark.parametrize("lack", [{"signs": False}, {"ready": False}])
def test_nothing_begins_while_a_control_plane_could_not_sign_with_the_new_ca(lack: dict[str, bool]) -> None:
    """It is told where to put the key. A worker needs none, and later phases do not ask again."""
    (said,) = why(at(P.PREPARE), says(P.PREPARE, **lack))
    assert said.startswith("cp-2 is a control-plane node without the new CA's key; run `certmond root-ca stage` there")
    assert why(at(P.PREPARE), says(P.PREPARE, **lack), control_plane=False) == []
    assert why(at(P.TRUST), says(P.TRUST, **lack)) == []


def test_who_says_that_it_is_so_far_and_trusts_others_is_not() -> None:
    """What it sees counts for more than what it says."""
    for trust in ((OLD.facts,), (OLD.facts, NEW.facts, STRANGER.facts), ()):
        said = why(at(P.TRUST), says(P.TRUST, trust=digest_of(trust)))
        assert said == ["cp-2 reports the phase trust, and trusts other CAs"]
    assert why(at(P.PREPARE), says(P.PREPARE, trust="whatever")) == []  # nothing is asked of files yet


def test_who_has_certificates_of_the_former_ca_keeps_it_trusted() -> None:
    """Where leaves matter, that is; a node that has none, or several, says nothing of their CA."""
    said = why(at(P.ISSUE), says(P.ISSUE, issuer=OLD.facts.sha256))
    assert said == ["cp-2 reports the phase issue, and has certificates of another CA"]
    assert why(at(P.ISSUE), says(P.ISSUE, issuer=NEW.facts.sha256)) == []
    assert why(at(P.TRUST), says(P.TRUST, issuer=OLD.facts.sha256)) == []


def test_every_node_that_keeps_it_is_named() -> None:
    """But for those that a person has left out."""
    members = [Member(name, True) for name in ("a", "b", "c")]
    assert list(closed(at(P.TRUST), members)) == [f"{name} has not answered" for name in ("a", "b", "c")]
    assert list(closed(at(P.TRUST, excluded=("a", "c")), members)) == ["b has not answered"]


def test_a_name_that_no_node_has_excludes_nothing() -> None:
    """It is most likely a slip of the pen, and told as such."""
    members = {name: Member(name, True) for name in ("a", "b")}
    assert unknown_exclusions(at(P.TRUST, excluded=("a", "bb", "c")), members) == ("bb", "c")
    assert unknown_exclusions(at(P.TRUST), members) == ()


def test_both_are_trusted_for_a_while_before_either_step_that_needs_it() -> None:
    """Counted from when the phase began. What has no overlap has no time for it either."""
    hour, soon = RootCaSpec(overlap=HOUR), NOW + HOUR - SECOND
    until = f"until {NOW + HOUR:%Y-%m-%d %H:%M:%S} UTC"
    used, gone = f"both CAs are trusted {until}, before the ", (NOW + HOUR)
    assert lasting(at(P.TRUST), hour, soon) == Gate((f"{used}new CA is used",), gone)
    assert lasting(at(P.ISSUE), hour, soon) == Gate((f"{used}former CA is distrusted",), gone)
    assert lasting(at(P.TRUST), hour, gone) == lasting(at(P.ISSUE), hour, gone) == Gate()
    for phase in set(Phase) - {P.TRUST, P.ISSUE}:
        assert lasting(at(phase), hour, NOW) == Gate()
    for mode in (Mode.REISSUE, Mode.REPLACE):
        assert lasting(at(P.ISSUE, mode=mode), hour, NOW) == Gate()
    assert lasting(at(P.TRUST), RootCaSpec(overlap=timedelta()), NOW) == Gate()


KEYS = at(P.TRUST, family="sa", old=(OLD.facts.key,), new=NEW.facts.key)


def test_both_keys_of_tokens_are_known_to_outsiders_before_the_new_one_is_used() -> None:
    """They may keep for an hour what they have fetched, the last of them from an API server that was restarted last; a
    longer overlap is a longer one.
    """
    briefly, long, late = RootCaSpec(overlap=timedelta()), RootCaSpec(overlap=3 * HOUR), NOW + 100 * HOUR
    noted = lasting(KEYS, briefly, late).noted
    assert noted == replace(KEYS, published=late)
    (said,) = lasting(noted, briefly, late + HOUR - SECOND).waits
    assert said.startswith("both public keys are trusted until ")
    assert said.endswith(", before the new public key is used")
    assert lasting(noted, briefly, late + HOUR) == Gate()
    assert lasting(noted, long, late).until == late + 3 * HOUR


def test_the_former_key_is_trusted_while_its_last_token_may_live() -> None:
    """Counted from when all were first seen to sign with the new one, however long after the phase began; that instant
    is for all to know before it counts. Never less than the overlap. At once is at once.
    """
    spec, late = RootCaSpec(overlap=HOUR, token_overlap=24 * HOUR), NOW + 100 * HOUR
    issue = replace(KEYS, phase=P.ISSUE)
    noted = lasting(issue, spec, late).noted
    assert noted == replace(issue, published=late)
    assert lasting(noted, spec, late + 24 * HOUR - SECOND).until == late + 24 * HOUR
    assert lasting(noted, spec, late + 24 * HOUR) == Gate()
    assert lasting(noted, RootCaSpec(overlap=30 * HOUR), late + 29 * HOUR).until == late + 30 * HOUR
    assert lasting(replace(issue, mode=Mode.REPLACE), spec, NOW) == Gate()


def test_of_the_keys_of_tokens_only_control_planes_are_asked() -> None:
    """Each of them for the set of its public keys; a worker has none."""
    members = [Member("cp", True, says(P.TRUST, trust=digest_of([OLD.facts.key]))), Member("worker", False)]
    assert list(closed(KEYS, members)) == ["cp reports the phase trust, and trusts other public keys"]
    both = says(P.TRUST, trust=digest_of([OLD.facts.key, NEW.facts.key]))
    assert list(closed(KEYS, [Member("cp", True, both), Member("worker", False)])) == []
