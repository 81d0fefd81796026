"""The preview of a rotation, before it begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.observation import Observation
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.rotation.phases import Mode, Phase, Rotation, begin
from certmond.pki.rotation.preview import Preview, preview
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.services.service_observation import Content, Live, Survey, Use
from certmond.pki.services.staleness import Surroundings
from certmond.pki.signing.policy import Basis
from tests.builders import NOW, Issued
from tests.pki.rotation_node import (
    ANCHOR,
    ANCHOR_KEY,
    APART,
    MANAGER,
    NEW,
    OLD,
    OWN,
    OWN_KEY,
    PLANNED,
    REISSUED,
    SHARED,
    UNRELATED,
    at,
    conf,
    ground,
    judged,
    leaf,
    signer,
)

P = Phase
NAMES = ("api", MANAGER, "kubelet", "reader")
SERVICES = tuple(ServiceSpec(name=name, kind="systemd", unit=f"{name}.service") for name in NAMES)
Uses = dict[str, dict[str, Use]]
USES: Uses = {
    "api": {ANCHOR: Use(True, "--x"), "/pki/leaf.crt": Use(True, "--x")},
    "kubelet": {ANCHOR: Use(False, "--x")},
    "reader": {"/pki/leaf.crt": Use(False, "--x"), "/admin.conf": Use(True, "--x")},
}
"""The files of each service: the first reloads them, the last reloads only its kubeconfig."""


def node(*seen: Observation, trust: tuple[Issued, ...] = (OLD,), uses: Uses = USES) -> Assessment:
    contents = {path: Content("x", NOW) for path in (ANCHOR, ANCHOR_KEY, "/pki/leaf.crt", "/admin.conf")}
    known: dict[str, Any] = {"survey": Survey(uses), "live": Live(NOW), "contents": contents}
    return judged(*seen, trust=trust, around=Surroundings(services=SERVICES, **known))


def shown(rotation: Rotation, of: Ground, seen: Assessment) -> tuple[Preview, ...]:
    return preview(rotation, of, seen, NAMES)


def test_every_phase_is_shown_on_the_node_of_the_one_before() -> None:
    """Each phase has the changes of files and the services that restart for them, in their order: those that do not
    reload a changed file, and those that embed it.
    """

    def own(ca: str) -> tuple[str, str]:
        return f"{OWN_KEY} will be the key of {ca}", f"{OWN} will contain {ca}"

    anchor = f"{ANCHOR_KEY} will be the key of the new CA", f"{ANCHOR} will contain the new CA and the old CA"
    trusting = "/admin.conf will trust the same CAs"
    seen = node(conf(OLD, issuer=OLD), leaf(OLD))
    assert shown(PLANNED, ground(OLD, signer=signer()), seen) == (
        Preview(P.PREPARE, (), ()),
        Preview(
            P.DETACH,
            ("; ".join((*own("the old CA"), f"{MANAGER} will sign with {APART[0]}")),),
            (MANAGER,),
        ),
        Preview(P.TRUST, (f"{ANCHOR} will contain the old CA and the new CA", trusting), ("kubelet", "reader")),
        Preview(
            P.ISSUE,
            (
                "; ".join((*own("the new CA"), *anchor)),
                "/admin.conf is issued again by the new CA",
                "/pki/leaf.crt is issued again by the new CA",
            ),
            ("reader",),
        ),
        Preview(P.DISTRUST, (f"{ANCHOR} will contain the new CA", trusting), ("kubelet", "reader")),
        Preview(P.ATTACH, (f"{MANAGER} will sign with {SHARED[0]}",), (MANAGER,)),
        Preview(P.DONE, (f"{OWN} will be removed; {OWN_KEY} will be removed",), ()),
    )


def test_a_worker_has_no_key_and_no_signer() -> None:
    """Its files are fewer, and so are the sentences."""
    found = shown(PLANNED, ground(OLD, key=None), node(leaf(OLD)))
    assert [each.steps for each in found] == [
        (), (), (f"{ANCHOR} will contain the old CA and the new CA",),
        (f"{ANCHOR} will contain the new CA and the old CA", "/pki/leaf.crt is issued again by the new CA"),
        (f"{ANCHOR} will contain the new CA",), (), (),
    ]  # fmt: skip


def test_it_begins_in_the_present_phase() -> None:
    """Past phases are not shown."""
    after = ground(NEW, key=NEW, signer=signer(NEW))
    found = shown(at(P.ATTACH), after, node(conf(NEW), leaf(NEW), trust=(NEW,)))
    assert [each.phase for each in found] == [P.ATTACH, P.DONE]


def test_a_found_ca_is_shown_with_the_refused_leaves() -> None:
    """The anchor that signed them is in no file of the node, and they are the most urgent."""
    found = shown(begin(replace(PLANNED, found=True)), ground(NEW, key=NEW), node(leaf(OLD), trust=(NEW,)))
    assert found[0] == Preview(P.TRUST, (f"{ANCHOR} will contain the new CA and the old CA",), ("kubelet",))
    assert found[1] == Preview(P.ISSUE, ("/pki/leaf.crt is issued again by the new CA",), ("reader",))


def test_other_dates_issue_no_leaf_and_at_once_has_one_phase() -> None:
    """The mode decides."""
    seen, dates = node(leaf(OLD)), at(P.PREPARE, mode=Mode.REISSUE, new=REISSUED.facts)
    assert [each.steps for each in shown(dates, ground(OLD), seen)] == [(), (f"{ANCHOR} will contain the new CA",), ()]
    (_, at_once, _) = shown(at(P.PREPARE, mode=Mode.REPLACE), ground(OLD), seen)
    assert at_once.restarts == ("kubelet", "reader")
    assert at_once.steps == (
        f"{ANCHOR_KEY} will be the key of the new CA; {ANCHOR} will contain the new CA",
        "/pki/leaf.crt is issued again by the new CA",
    )


def test_a_file_that_a_kubeconfig_refers_to_is_not_written_there() -> None:
    """Its reader restarts in any case. Each file is named once, whatever its contexts."""
    (embedded,) = conf(OLD).embedded
    twice = replace(conf(OLD, issuer=NEW), embedded=(embedded, embedded))
    assert shown(PLANNED, ground(OLD), node(twice))[2].steps[1:] == ("/admin.conf will trust the same CAs",)
    referring = shown(PLANNED, ground(OLD), node(conf(OLD, file=ANCHOR, issuer=NEW)))[2]
    assert (referring.steps[1:], referring.restarts) == ((), ("kubelet", "reader"))


def test_who_signs_with_the_cas_key_is_restarted_when_it_is_another() -> None:
    """Though it reads nothing else that changes then."""
    seen = node(leaf(OLD), uses={"api": {ANCHOR_KEY: Use(False, "--x")}})
    assert [each.phase for each in shown(PLANNED, ground(OLD), seen) if each.restarts == ("api",)] == [P.ISSUE]


@pytest.mark.parametrize("of", [ground(OLD, UNRELATED), ground(OLD, signer=signer(problem="it signs elsewhere"))])
def test_a_blocked_node_is_shown_as_such(of: Ground) -> None:
    """The preview precedes the rotation, and has no phases after the block."""
    (only,) = shown(PLANNED, of, node(leaf(OLD)))
    assert only.phase is P.PREPARE
    assert only.steps[0].startswith("the rotation r1 of ca is frozen: ")


def test_a_certificate_that_the_ca_key_does_not_sign_is_named_with_the_reason() -> None:
    """In the phase `issue` nothing is issued in its place, and no service restarts for it."""
    seen = node(leaf(OLD))
    barred = tuple(
        replace(each, basis=Basis(barrier="another user can write it")) if each.seen.path == "/pki/leaf.crt" else each
        for each in seen.statuses
    )
    found = shown(PLANNED, ground(OLD), replace(seen, statuses=barred))
    (issue,) = (each for each in found if each.phase is P.ISSUE)
    said = (
        "/pki/leaf.crt is not issued again: certmond does not sign the certificate with the CA's "
        "key: another user can write it"
    )
    assert said in issue.steps
    assert issue.restarts == ()
