"""The end of a phase: the required reports of all nodes, and the minimum duration."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.rotation.gates import Gate, Member, Report, ahead, closed, lasting, unknown_exclusions
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort
from certmond.pki.services.trust_set_digest import digest_of
from tests.builders import HOUR, NOW, SECOND
from tests.pki.rotation_node import NEW, OLD, UNRELATED, at

P = Phase
TRUSTED = {
    P.TRUST: (OLD.facts, NEW.facts), P.ISSUE: (NEW.facts, OLD.facts), P.DISTRUST: (NEW.facts,), P.DETACH: (OLD.facts,)
}  # fmt: skip


def says(phase: Phase, **fields: Any) -> Report:
    """Return the report of a control-plane node in `phase`."""
    good = Report("r1", phase, digest_of(TRUSTED.get(phase, ())), "", signs=True, ready=True)
    return replace(good, **fields)


def why(rotation: Rotation, report: Report | None, *, control_plane: bool = True) -> list[str]:
    """Return what `cp-2` blocks while `cp-1` has reported everything."""
    return list(
        closed(rotation, [Member("cp-1", True, says(rotation.phase)), Member("cp-2", control_plane, report)])
    )  # fmt: skip


@pytest.mark.parametrize("phase", [P.PREPARE, P.DETACH, P.TRUST, P.ISSUE, P.DISTRUST])
def test_a_phase_ends_when_every_node_has_reported(phase: Phase) -> None:
    """Then nothing blocks it."""
    assert why(at(phase), says(phase)) == []


@pytest.mark.parametrize("report", [None, says(P.TRUST, rotation="r0"), says(P.TRUST, rotation="r1-back")])
def test_a_node_without_an_answer_does_not_count_as_ready(report: Report | None) -> None:
    """A report of another rotation is no answer, also not of this one before its abort."""
    assert why(at(P.TRUST), report) == ["cp-2 has not reported"]


def test_a_report_from_before_the_boot_is_no_answer() -> None:
    """The state of the machine may have changed since."""
    since = [Member("cp-1", True, says(P.TRUST)), Member("cp-2", True, says(P.TRUST), started_since=True)]
    assert list(closed(at(P.TRUST), since)) == ["cp-2 has not reported since its host started"]
    assert list(closed(at(P.TRUST, excluded=("cp-2",)), since)) == []


def test_another_phase_is_another_answer() -> None:
    """It may be an earlier or a later one."""
    assert why(at(P.TRUST), says(P.DETACH)) == ["cp-2 has reached detach, but not trust yet"]
    assert why(at(P.TRUST), says(P.ISSUE)) == ["cp-2 has reached issue, but not trust yet"]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (None, []),
        (says(P.PREPARE), []),
        (says(P.TRUST), []),
        (says(P.ISSUE), ["cp-2 has reached issue already"]),
        (says(P.ATTACH, rotation="r0"), []),
        (says(P.PREPARE, rotation="r2"), ["cp-2 reports the rotation r2, which is unknown on this node"]),
        (says(P.DISTRUST, rotation="r1-back"), ["cp-2 reports the rotation r1-back, which is unknown on this node"]),
    ],
)
def test_the_most_advanced_node(report: Report | None, said: list[str]) -> None:
    """A node is the most advanced unless another one reports a later phase, an abort, or a rotation that was not closed
    here.
    """
    assert list(ahead(at(P.TRUST), [Member("cp-1", True), Member("cp-2", True, report)], {"r0"})) == said


def test_a_node_in_an_abort_is_more_advanced() -> None:
    """This holds for any phase before it, except those from which no abort is possible."""
    back = abort(at(P.ISSUE), NOW)
    assert list(ahead(back, [Member("cp-2", True, says(P.ISSUE))], ())) == []
    gone_too_far = ["cp-2 had reached distrust before the abort, and no abort is possible from this phase"]
    assert list(ahead(back, [Member("cp-2", True, says(P.DISTRUST))], ())) == gone_too_far
    assert list(ahead(back, [Member("cp-2", True, says(P.DONE, rotation="r1-back"))], ())) != []


@pytest.mark.parametrize("lack", [{"signs": False}, {"ready": False}])
def test_nothing_begins_while_a_control_plane_could_not_sign_with_the_new_ca(lack: dict[str, bool]) -> None:
    """The message has the command that stages the key. A worker needs none, and later phases do not check again."""
    (said,) = why(at(P.PREPARE), says(P.PREPARE, **lack))
    assert said.startswith(
        "cp-2 is a control-plane node that does not have the key of the new CA; on cp-2, run `certmond root-ca stage`"
    )
    assert why(at(P.PREPARE), says(P.PREPARE, **lack), control_plane=False) == []
    assert why(at(P.TRUST), says(P.TRUST, **lack)) == []


@pytest.mark.parametrize("lack", [{"signs": False}, {"ready": False}])
def test_nothing_begins_while_a_control_plane_does_not_have_a_new_external_ca(lack: dict[str, bool]) -> None:
    """In the rotation of an external CA, the message names the setting and the command without a key."""
    (said,) = why(at(P.PREPARE, signature="x509:"), says(P.PREPARE, **lack))
    assert said == (
        "cp-2 is a control-plane node without the new CA, or without `root_ca.record_signer`; on cp-2, set this field, "
        "and run `certmond root-ca stage CERT` with the same file"
    )


def test_a_node_that_trusts_other_cas_is_not_ready() -> None:
    """Its trust takes precedence over its reported phase."""
    for trust in ((OLD.facts,), (OLD.facts, NEW.facts, UNRELATED.facts), ()):
        said = why(at(P.TRUST), says(P.TRUST, trust=digest_of(trust)))
        assert said == ["cp-2 reports the phase trust, but trusts other CAs"]
    assert why(at(P.PREPARE), says(P.PREPARE, trust="whatever")) == []  # this phase checks no files


def test_a_node_with_certificates_of_the_old_ca_keeps_it_trusted() -> None:
    """The rule applies where leaves matter. A node without leaves, or with several issuers, has no issuer in its
    report.
    """
    said = why(at(P.ISSUE), says(P.ISSUE, issuer=OLD.facts.sha256))
    assert said == ["cp-2 reports the phase issue, but has certificates that another CA signed"]
    assert why(at(P.ISSUE), says(P.ISSUE, issuer=NEW.facts.sha256)) == []
    assert why(at(P.TRUST), says(P.TRUST, issuer=OLD.facts.sha256)) == []


def test_every_blocking_node_is_named() -> None:
    """Nodes that the operator has excluded are not."""
    members = [Member(name, True) for name in ("a", "b", "c")]
    assert list(closed(at(P.TRUST), members)) == [f"{name} has not reported" for name in ("a", "b", "c")]
    assert list(closed(at(P.TRUST, excluded=("a", "c")), members)) == ["b has not reported"]


def test_an_excluded_name_without_a_node_has_no_effect() -> None:
    """It is probably a typing error, and is reported."""
    members = {name: Member(name, True) for name in ("a", "b")}
    assert unknown_exclusions(at(P.TRUST, excluded=("a", "bb", "c")), members) == ("bb", "c")
    assert unknown_exclusions(at(P.TRUST), members) == ()


def test_both_are_trusted_for_a_while_before_either_step_that_needs_it() -> None:
    """The time counts from the start of the phase. A mode without an overlap has none."""
    hour, soon = RootCaSpec(overlap=HOUR), NOW + HOUR - SECOND
    until = f"until {NOW + HOUR:%Y-%m-%d %H:%M:%S} UTC"
    used, gone = f"all nodes trust both CAs {until}, before any ", (NOW + HOUR)
    assert lasting(at(P.TRUST), hour, soon) == Gate((f"{used}component uses the new CA",), gone)
    assert lasting(at(P.ISSUE), hour, soon) == Gate((f"{used}node distrusts the old CA",), gone)
    assert lasting(at(P.TRUST), hour, gone) == lasting(at(P.ISSUE), hour, gone) == Gate()
    for phase in set(Phase) - {P.TRUST, P.ISSUE}:
        assert lasting(at(phase), hour, NOW) == Gate()
    for mode in (Mode.REISSUE, Mode.REPLACE):
        assert lasting(at(P.ISSUE, mode=mode), hour, NOW) == Gate()
    assert lasting(at(P.TRUST), RootCaSpec(overlap=timedelta()), NOW) == Gate()


KEYS = at(P.TRUST, family="sa", old=(OLD.facts.key,), new=NEW.facts.key)


def test_verifiers_know_both_token_keys_before_the_new_one_is_used() -> None:
    """They may cache the keys for an hour, the last of them from the API server that restarted last. A longer overlap
    prolongs it.
    """
    briefly, long, late = RootCaSpec(overlap=timedelta()), RootCaSpec(overlap=3 * HOUR), NOW + 100 * HOUR
    noted = lasting(KEYS, briefly, late).noted
    assert noted == replace(KEYS, published=late)
    (said,) = lasting(noted, briefly, late + HOUR - SECOND).waits
    assert said.startswith("all nodes trust both public keys until ")
    assert said.endswith(", before any component uses the new public key")
    assert lasting(noted, briefly, late + HOUR) == Gate()
    assert lasting(noted, long, late).until == late + 3 * HOUR


def test_the_old_key_is_trusted_while_its_last_token_may_be_valid() -> None:
    """The time counts from the instant at which all signers were first observed to use the new key, however long the
    phase lasts. The record has the instant before it counts. The time is never shorter than the overlap. A rotation at
    once has none.
    """
    spec, late = RootCaSpec(overlap=HOUR, token_overlap=24 * HOUR), NOW + 100 * HOUR
    issue = replace(KEYS, phase=P.ISSUE)
    noted = lasting(issue, spec, late).noted
    assert noted == replace(issue, published=late)
    assert lasting(noted, spec, late + 24 * HOUR - SECOND).until == late + 24 * HOUR
    assert lasting(noted, spec, late + 24 * HOUR) == Gate()
    assert lasting(noted, RootCaSpec(overlap=30 * HOUR), late + 29 * HOUR).until == late + 30 * HOUR
    assert lasting(replace(issue, mode=Mode.REPLACE), spec, NOW) == Gate()


def test_the_old_ca_is_trusted_while_a_certificate_of_a_pod_can_be_valid() -> None:
    """If Pods have client certificates, the phase `issue` lasts 24 hours from the recorded time, or longer with a
    longer overlap.
    """
    noted = replace(at(P.ISSUE), published=NOW + HOUR)
    (said,) = lasting(noted, RootCaSpec(overlap=HOUR), NOW + 25 * HOUR - SECOND).waits
    assert said.startswith(f"all nodes trust both CAs until {NOW + 25 * HOUR:%Y-%m-%d %H:%M:%S} UTC, because client ")
    assert lasting(noted, RootCaSpec(overlap=HOUR), NOW + 25 * HOUR) == Gate()
    assert lasting(noted, RootCaSpec(overlap=30 * HOUR), NOW + 25 * HOUR).until == NOW + 31 * HOUR


def test_only_control_planes_report_token_keys() -> None:
    """Each of them reports its set of public keys. A worker has none."""
    members = [Member("cp", True, says(P.TRUST, trust=digest_of([OLD.facts.key]))), Member("worker", False)]
    assert list(closed(KEYS, members)) == ["cp reports the phase trust, but trusts other public keys"]
    both = says(P.TRUST, trust=digest_of([OLD.facts.key, NEW.facts.key]))
    assert list(closed(KEYS, [Member("cp", True, both), Member("worker", False)])) == []
