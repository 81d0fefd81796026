"""The missing steps of a node in a phase: their order, the cases without a change, and what blocks the phase."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.observation import Inventory, Observation, Provenance
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.planning.steps import AbsentFile, Bundle, FileChange, Flags, Held, KeyOf, Plan, Rotate, Trusting
from certmond.pki.rotation.phase_conditions import RECONNECT, open_conditions, reload_deadline, unreachable_reason
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.rotation.planner import MissingSteps, family_statuses, missing_steps
from certmond.pki.rotation.trust_anchor_state import SIGNING_FLAGS, Ground, has_old_state
from certmond.pki.services.restart_episode import Episode, Past, Result
from certmond.pki.services.service_observation import Content, Live, ServiceSeen, Survey, Use
from certmond.pki.services.staleness import Surroundings
from tests.assessments import status_in
from tests.builders import DAY, HOUR, NOW, cross_sign, make_intermediate, make_leaf
from tests.pki.rotation_node import (
    ANCHOR,
    ANCHOR_KEY,
    APART,
    MANAGER,
    MANIFEST,
    NEW,
    OLD,
    OWN,
    OWN_KEY,
    REISSUED,
    SHARED,
    UNRELATED,
    anchors,
    at,
    conf,
    ground,
    judged,
    leaf,
    row,
    see,
    signer,
)

P = Phase
O, N = OLD.facts, NEW.facts  # noqa: E741 - as the plan on paper calls them


def flags(values: tuple[str, str]) -> Flags:
    return Flags(MANIFEST, MANAGER, tuple(zip(SIGNING_FLAGS, values, strict=True)))


def wants(rotation: Rotation, of: Ground) -> list[FileChange]:
    """Return the changes of the anchor's own step: there is at most one."""
    found = missing_steps(rotation, of, judged())
    assert found.frozen is None
    assert all(step.target == "ca" and step.path == ANCHOR for step in found.steps)
    return [want for step in found.steps for want in step.wants]


# --- frozen -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (ground(OLD, UNRELATED), f"{ANCHOR} contains CN=kubernetes (SHA-256 {UNRELATED.facts.sha256[:16]}…), which"),
        (ground(), f"{ANCHOR} contains no CA; restore the file"),
        (ground(OLD, key=UNRELATED), f"{ANCHOR_KEY} is the key of neither the old nor the new CA; restore"),
        (ground(OLD, key=None, key_unknown=True), f"{ANCHOR_KEY} is encrypted, or is not a private key; replace "),
        (ground(OLD, signer=signer(problem="it signs elsewhere; let it not")), "it signs elsewhere; let it not"),
        (ground(OLD, signer=signer(UNRELATED)), f"{OWN} belongs to neither the old nor the new CA, and"),
        (
            ground(OLD, signer=signer(OLD, key=UNRELATED.facts.key, now=SHARED)),
            f"{OWN_KEY} belongs to neither the old nor the new CA, and the rotation would replace it; rename {OWN_KEY}",
        ),
        (
            ground(OLD, signer=signer(OLD, key=None)),
            f"{OWN_KEY} belongs to neither the old nor the new CA, and the rotation would replace it; in ",
        ),
    ],
    ids=["an unrelated CA", "no CA", "another key", "an unreadable key", "a signer that cannot be moved",
         "another signer's files", "another key in its place", "a key there that cannot be read"],
)  # fmt: skip
@pytest.mark.parametrize("phase", [P.PREPARE, P.TRUST, P.DONE])
def test_a_foreign_file_is_not_touched(phase: Phase, of: Ground, said: str) -> None:
    """In any phase another process may change the same files. The message has the foreign file and the remedy."""
    found = missing_steps(at(phase), of, judged(conf(OLD), leaf(OLD)))
    assert (found.frozen or "").startswith(f"the rotation r1 of ca is frozen: {said}")
    assert found == MissingSteps(frozen=found.frozen)
    assert list(open_conditions(at(phase), of, judged(conf(OLD)), Surroundings(), Plan())) == [found.frozen]


BACK = at(P.DONE, old=(N,), new=O, aborted=True)


@pytest.mark.parametrize(
    ("of", "frozen"),
    [
        (ground(OLD, key=None, key_unknown=True), False),
        (ground(OLD, UNRELATED), False),
        (ground(OLD, signer=signer(problem="it signs elsewhere")), False),
        (ground(OLD, NEW, UNRELATED), True),
        (ground(OLD, UNRELATED, key=NEW), True),
        (ground(OLD, UNRELATED, signer=signer(NEW)), True),
    ],
    ids=["an unreadable key", "an unrelated CA", "a signer", "and the CA", "and its key", "and its signer"],
)  # fmt: skip
def test_an_aborted_rotation_ends_whatever_else_exists(of: Ground, frozen: bool) -> None:
    """At its end, an aborted rotation requires nothing of a node whose anchor has no part of the abandoned CA.
    Otherwise a foreign file stops it. Kubeconfigs and leaves of that CA are repaired, and no others.
    """
    nothing = judged(conf(OLD, UNRELATED, issuer=OLD), leaf(OLD))
    assert (missing_steps(BACK, of, nothing).frozen is not None) is frozen
    if not frozen:
        assert missing_steps(BACK, of, nothing) == MissingSteps()
        assert list(open_conditions(BACK, of, nothing, Surroundings(), Plan())) == []
        left = missing_steps(BACK, of, judged(conf(OLD, NEW), leaf(NEW)))
        assert [step.path for step in left.steps] == ["/admin.conf"]
        assert ("leaf", "/pki/leaf.crt") in left.reissue


@pytest.mark.parametrize(
    ("rotation", "of", "same"),
    [
        (at(P.PREPARE), ground(OLD), True),
        (at(P.PREPARE), ground(OLD, key=None), True),
        (at(P.PREPARE), ground(OLD, key=NEW), False),
        (at(P.PREPARE), ground(OLD, NEW), False),
        (at(P.TRUST), ground(OLD), False),
        (BACK, ground(OLD), True),
        (BACK, ground(OLD, key=UNRELATED), False),
    ],
)
def test_a_node_is_unchanged_if_all_trust_its_signer(rotation: Rotation, of: Ground, same: bool) -> None:
    """It is so after `prepare` or a complete abort, with only the old CA and its own key or none."""
    assert has_old_state(rotation, of) is same


@pytest.mark.parametrize("of", [ground(OLD), ground(NEW, key=NEW), ground(OLD, NEW), ground(OLD, key=None)])
def test_a_file_of_the_old_or_new_state_is_expected(of: Ground) -> None:
    """Each certificate may be there, with either key or none."""
    assert missing_steps(at(P.TRUST), of, judged()).frozen is None


# --- the anchor and its signer ----------------------------------------------------------------------------------------


def test_prepare_changes_nothing() -> None:
    """The rule holds for any files."""
    assert missing_steps(at(P.PREPARE), ground(OLD, signer=signer()), judged(conf(NEW), leaf(OLD))) == MissingSteps()


def test_a_signer_gets_its_files_before_its_flags() -> None:
    """The key of a certificate precedes the certificate."""
    own = [KeyOf(OWN_KEY, O), Bundle(OWN, (O,))]
    assert wants(at(P.DETACH), ground(OLD, signer=signer())) == [*own, flags(APART)]
    assert wants(at(P.DETACH), ground(OLD, signer=signer(OLD, now=SHARED))) == [flags(APART)]
    assert wants(at(P.DETACH), ground(OLD, signer=signer(OLD))) == []
    assert wants(at(P.DETACH), ground(OLD, signer=signer(OLD, key=N.key))) == own
    assert wants(at(P.DETACH), ground(OLD, signer=replace(signer(OLD), holds=(O, N)))) == own


def test_the_first_that_is_trusted_is_the_one_of_the_key() -> None:
    """The order in the file counts."""
    both = Bundle(ANCHOR, (O, N))
    for trust in ((OLD,), (NEW, OLD), (NEW,)):
        assert wants(at(P.TRUST), ground(*trust, signer=signer(OLD))) == [both]
    assert wants(at(P.TRUST), ground(OLD, NEW, signer=signer(OLD))) == []


def test_both_signers_are_exchanged_in_one_step() -> None:
    """Both signers of a control plane change in one step: keys before certificates, and no part without the others."""
    found = missing_steps(at(P.ISSUE), ground(OLD, NEW, signer=signer(OLD)), judged(leaf(OLD), trust=(OLD, NEW)))
    detail = (
        f"{OWN_KEY} will be the key of the new CA; {OWN} will contain the new CA; "
        f"{ANCHOR_KEY} will be the key of the new CA; {ANCHOR} will contain the new CA and the old CA"
    )
    wanted = KeyOf(OWN_KEY, N), Bundle(OWN, (N,)), KeyOf(ANCHOR_KEY, N), Bundle(ANCHOR, (N, O))
    assert found == MissingSteps((Rotate("ca", ANCHOR, detail, wanted, known=(O, N)),))


def test_no_leaf_is_issued_before_its_ca_signs() -> None:
    """The files change first, and then the leaves are issued: otherwise they would be of the old CA again."""
    seen = judged(leaf(OLD), trust=(OLD, NEW))
    assert missing_steps(at(P.ISSUE), ground(OLD, NEW), seen).reissue == frozenset()
    assert missing_steps(at(P.ISSUE), ground(NEW, OLD, key=NEW), seen).reissue == {("leaf", "/pki/leaf.crt")}


@pytest.mark.parametrize("of", [ground(OLD, key=None), replace(ground(OLD, key=None), key_path=None)])
def test_a_worker_trusts_and_never_gets_a_key(of: Ground) -> None:
    """It has none before, and none after."""
    assert wants(at(P.DETACH), of) == []
    assert wants(at(P.TRUST), of) == [Bundle(ANCHOR, (O, N))]
    assert wants(at(P.ISSUE), of) == [Bundle(ANCHOR, (N, O))]


def test_a_key_of_an_unknown_path_is_not_written() -> None:
    """Only the catalogue has the path."""
    assert wants(at(P.ISSUE), replace(ground(OLD), key_path=None)) == [Bundle(ANCHOR, (N, O))]


def test_the_signer_returns_before_its_files_are_removed() -> None:
    """They are removed at the end, and only if no flag names them."""
    after = ground(NEW, key=NEW, signer=signer(NEW))
    assert wants(at(P.ATTACH), after) == [flags(SHARED)]
    assert wants(at(P.DONE), after) == [flags(SHARED)]
    attached = replace(after, signer=signer(NEW, now=SHARED))
    assert wants(at(P.ATTACH), attached) == []
    assert wants(at(P.DONE), attached) == [AbsentFile(OWN), AbsentFile(OWN_KEY)]
    assert wants(at(P.DONE), replace(after, signer=signer())) == []


def test_each_change_is_described() -> None:
    """The sentence has the role of the CA in the rotation, because all CAs may have the same name."""
    (step,) = missing_steps(at(P.DETACH), ground(OLD, signer=signer(OLD, now=SHARED)), judged()).steps
    assert step.detail == f"{MANAGER} will sign with {APART[0]}"
    (step,) = missing_steps(at(P.DONE), ground(NEW, key=NEW, signer=signer(NEW, now=SHARED)), judged()).steps
    assert step.detail == f"{OWN} will be removed; {OWN_KEY} will be removed"
    (step,) = missing_steps(at(P.TRUST, found=True, old=(O, UNRELATED.facts)), ground(NEW, key=NEW), judged()).steps
    assert step.detail == f"{ANCHOR} will contain the new CA and the old CA and the old CA"
    back = at(P.ISSUE, aborted=True, old=(N,), new=O)
    (step,) = missing_steps(back, ground(NEW, OLD, key=NEW), judged()).steps
    assert step.detail == (
        f"{ANCHOR_KEY} will be the key of the original CA; {ANCHOR} will contain the original CA and the abandoned CA"
    )


def test_with_the_same_key_only_certificates_are_exchanged() -> None:
    """The key stays, the signer too, and so does every leaf."""
    rotation = at(P.DISTRUST, mode=Mode.REISSUE, new=REISSUED.facts)
    found = missing_steps(rotation, ground(OLD, signer=signer()), judged(leaf(OLD)))
    assert [step.wants for step in found.steps] == [(Bundle(ANCHOR, (REISSUED.facts,)),)]
    assert (
        missing_steps(rotation, ground(REISSUED, signer=signer()), judged(leaf(OLD), trust=(REISSUED,)))
        == MissingSteps()
    )
    at_once = at(P.ISSUE, mode=Mode.REPLACE)
    assert wants(at_once, ground(OLD, signer=signer())) == [KeyOf(ANCHOR_KEY, N), Bundle(ANCHOR, (N,))]


# --- kubeconfigs ------------------------------------------------------------------------------------------------------


def test_a_kubeconfig_trusts_the_cas_of_the_anchor_file() -> None:
    """Each kubeconfig has a separate step, because its reader needs no other."""
    found = missing_steps(at(P.TRUST), ground(OLD, NEW), judged(conf(OLD), conf(OLD, name="b.conf"), trust=(OLD, NEW)))
    assert found.steps == tuple(
        Rotate(
            name,
            f"/{name}",
            f"/{name} will trust the old CA and the new CA",
            (Trusting(f"/{name}", (O, N), frozenset({O, N})),),
        )
        for name in ("admin.conf", "b.conf")
    )


def test_the_order_of_trust_in_a_kubeconfig_does_not_matter() -> None:
    """It is a set without a missing or a surplus CA."""
    for trust, steps in (((NEW, OLD), 0), ((OLD, NEW, OLD), 0), ((NEW,), 1), ((OLD, NEW, UNRELATED), 1), ((), 1)):
        found = missing_steps(at(P.TRUST), ground(OLD, NEW), judged(conf(*trust), trust=(OLD, NEW)))
        assert len(found.steps) == steps


def test_a_kubeconfig_that_refers_to_a_file_is_not_written() -> None:
    """The file belongs to another entry, usually the anchor's. It blocks the phase while its content differs."""
    seen = judged(conf(OLD, file="/other/ca.crt"), trust=(OLD, NEW))
    assert missing_steps(at(P.TRUST), ground(OLD, NEW), seen) == MissingSteps()
    (said,) = open_conditions(at(P.TRUST), ground(OLD, NEW), seen, Surroundings(live=Live(NOW)), Plan())
    assert said == "/admin.conf trusts /other/ca.crt, which does not contain the old CA and the new CA"
    seen = judged(conf(OLD, NEW, file=ANCHOR), trust=(OLD, NEW))
    assert list(open_conditions(at(P.TRUST), ground(OLD, NEW), seen, Surroundings(live=Live(NOW)), Plan())) == []


def test_a_kubeconfig_without_a_ca_does_not_change() -> None:
    """client-go then trusts the CAs of the system. The kubeconfig blocks no phase."""
    (embedded,) = conf(OLD).embedded
    seen = judged(replace(conf(), embedded=(replace(embedded, certificates=(), absent=True),)), trust=(OLD, NEW))
    assert missing_steps(at(P.TRUST), ground(OLD, NEW), seen) == MissingSteps()
    assert list(open_conditions(at(P.TRUST), ground(OLD, NEW), seen, Surroundings(live=Live(NOW)), Plan())) == []


def test_a_kubeconfig_is_written_once_for_all_contexts_of_its_family() -> None:
    """A cluster that trusts another anchor stays."""
    (embedded,) = conf(OLD).embedded
    twice = replace(conf(OLD), embedded=(embedded, embedded))
    assert len(missing_steps(at(P.TRUST), ground(OLD, NEW), judged(twice, trust=(OLD, NEW))).steps) == 1
    other = replace(conf(OLD), spec=row("admin.conf", kind="kubeconfig", key=None, embedded_ca="front-proxy-ca"))
    assert missing_steps(at(P.TRUST), ground(OLD, NEW), judged(other, trust=(OLD, NEW))).steps == ()


# --- leaves -----------------------------------------------------------------------------------------------------------

BELOW_OLD, BELOW_NEW = make_intermediate(OLD), make_intermediate(NEW)


def self_signed() -> Observation:
    """The kubelet's own server certificate, which no CA has signed."""
    served = make_leaf(UNRELATED, "kubelet")
    return see(row("kubelet", ca=["ca", "self"]), served, UNRELATED)


@pytest.mark.parametrize(
    ("seen", "again"),
    [
        (leaf(OLD), True),
        (conf(OLD, NEW, issuer=OLD), True),
        (see(row(), make_leaf(BELOW_OLD), BELOW_OLD), True),
        (leaf(NEW), False),
        (see(row(), make_leaf(BELOW_NEW), BELOW_NEW), False),
        (see(row(), make_leaf(BELOW_OLD), BELOW_OLD, cross_sign(BELOW_OLD, by=NEW)), False),
        (leaf(UNRELATED), False),
        (self_signed(), False),
        (leaf(OLD, ca="etcd-ca"), False),
        (replace(leaf(OLD), name="leaf#2"), False),
        (replace(leaf(OLD), spec=row(kind="bundle", key=None)), False),
        (replace(leaf(OLD), spec=row(authority=True)), False),
        (see(row()), False),
    ],
)
def test_only_a_certificate_of_the_old_ca_is_issued_again(seen: Observation, again: bool) -> None:
    """The signature decides, not the name. A certificate of the new CA, of neither, or self-signed stays, and so does
    one that is no end entity of this family.
    """
    found = missing_steps(at(P.ISSUE), ground(NEW, OLD, key=NEW), judged(seen, trust=(NEW, OLD)))
    assert found == MissingSteps(reissue=frozenset({seen.identity} if again else ()))
    assert missing_steps(at(P.TRUST), ground(OLD, NEW), judged(seen, trust=(OLD, NEW))).reissue == frozenset()


def test_a_damaged_file_is_not_issued_again() -> None:
    """Its last certificate is recorded, but not in place."""
    before = judged(leaf(OLD), trust=(NEW, OLD))
    gone = assess(Inventory((*anchors(NEW, OLD), see(row()))), NOW, before)
    assert status_in(gone, "leaf", "/pki/leaf.crt").stale
    assert missing_steps(at(P.ISSUE), ground(NEW, OLD, key=NEW), gone).reissue == frozenset()


def test_a_family_is_the_anchor_its_certificates_and_its_trust() -> None:
    """Other families are not part of it."""
    trusting = replace(conf(OLD), spec=row("b.conf", kind="kubeconfig", key=None, ca="etcd-ca", embedded_ca="ca"))
    seen = judged(leaf(OLD), trusting, leaf(OLD, "etcd", ca="etcd-ca"), trust=(OLD, NEW))
    assert [status.seen.spec.name for status in family_statuses("ca", seen)] == ["ca", "ca", "leaf", "b.conf"]


# --- when the phase is reached ----------------------------------------------------------------------------------------

WEB = ServiceSpec(name="web", kind="systemd", unit="web.service")
KCM = ServiceSpec(name="kcm", kind="static-pod", pod=MANAGER)
CHANGED = NOW - HOUR
BOTH = (OLD, NEW)


def runs(since: timedelta = timedelta(), *command: str, running: bool | None = True) -> ServiceSeen:
    return ServiceSeen(running, "1", NOW - since, command=command)


def around(web: ServiceSeen | None = None, kcm: ServiceSeen | None = None, **fields: Any) -> Surroundings:
    """Two services that run since a moment ago, and read the leaf once, which has changed an hour ago."""
    seen = {"web": web or runs(), "kcm": kcm or runs()}
    survey = Survey({name: {"/pki/leaf.crt": Use(False, "--x")} for name in seen})
    known: dict[str, Any] = {
        "services": (WEB, KCM), "survey": survey, "live": Live(NOW, seen),
        "contents": {"/pki/leaf.crt": Content("x", CHANGED)},
    }  # fmt: skip
    return Surroundings(**known | fields)


def kept(known: Surroundings, of: Ground | None = None, plan: Plan | None = None, phase: Phase = P.TRUST) -> list[str]:
    """Return what blocks the phase of a node that has all its files."""
    seen = judged(leaf(OLD), trust=BOTH, around=known)
    return list(open_conditions(at(phase), of or ground(*BOTH, signer=signer(OLD)), seen, known, plan or Plan()))


def test_without_remaining_work_the_phase_is_reached() -> None:
    """The rule also holds if there was no work at all."""
    assert kept(around()) == []
    assert kept(around(), phase=P.PREPARE) == []


def test_each_remaining_step_blocks_the_phase() -> None:
    """So does each certificate of the old CA, with the reason why it is not renewed at once."""
    seen = judged(conf(OLD), trust=(OLD,))
    said = list(open_conditions(at(P.TRUST), ground(OLD), seen, around(), Plan()))
    assert said == [
        f"{ANCHOR} will contain the old CA and the new CA", "/admin.conf will trust the old CA and the new CA"
    ]  # fmt: skip
    full = Plan(held=(Held("ca", ANCHOR, "no space is left"),))
    assert next(open_conditions(at(P.TRUST), ground(OLD), seen, around(), full)) == f"{said[0]} (no space is left)"
    held = Plan(held=(Held("leaf", "/pki/leaf.crt", "an upgrade is under way"),))
    here = ground(NEW, OLD, key=NEW, signer=signer(NEW))
    assert kept(around(), here, phase=P.ISSUE) == ["/pki/leaf.crt is still signed by the old CA"]
    assert kept(around(), here, held, P.ISSUE) == [
        "/pki/leaf.crt is still signed by the old CA (an upgrade is under way)"
    ]  # fmt: skip


def of_others(seen: Observation) -> Observation:
    """The same kubeconfig, where another user than root can change it."""
    return replace(seen, embedded=tuple(replace(each, others=True) for each in seen.embedded))


@pytest.mark.parametrize("file", [None, "/other/ca.crt"])
def test_a_kubeconfig_that_others_can_change_does_not_block_the_phase(file: str | None) -> None:
    """A kubeconfig that another user than root can change gets the CAs, and the phase does not wait for it."""
    seen = judged(of_others(conf(OLD, file=file)), trust=(OLD, NEW))
    of = ground(OLD, NEW, signer=signer(OLD))
    assert [step.path for step in missing_steps(at(P.TRUST), of, seen).steps] == ([] if file else ["/admin.conf"])
    assert list(open_conditions(at(P.TRUST), of, seen, around(), Plan())) == []


@pytest.mark.parametrize(
    ("origin", "after", "waits"),
    [
        (Provenance(owner_writes=True, possessed=False), -HOUR, False),
        (Provenance(owner_writes=True, possessed=True), -HOUR, True),
        (Provenance(owner_writes=True, possessed=True), timedelta(), True),
        (Provenance(owner_writes=True, possessed=True), HOUR, False),
        (Provenance(file_writers="it belongs to user 65534"), -HOUR, False),
        (Provenance(path_writers="it can be written by every user"), -HOUR, False),
        (Provenance(lost=NOW), -HOUR, True),
        (Provenance(lost=NOW), HOUR, True),
    ],
)
def test_a_leaf_that_another_user_blocks_does_not_block_the_phase(
    origin: Provenance, after: timedelta, waits: bool
) -> None:
    """A leaf of the old CA that the CA's key does not sign, or that is newer than the phase, blocks the phase only if
    root alone can write its file. It is issued again in any case, if possible.
    """
    of, rotation = ground(NEW, OLD, key=NEW, signer=signer(NEW)), at(P.ISSUE)
    seen = replace(leaf(OLD), changed_at=rotation.since + after)
    known = around(provenance={seen.identity: origin})
    found = judged(seen, trust=(NEW, OLD), around=known)
    assert missing_steps(rotation, of, found).reissue == {seen.identity}
    said = ["/pki/leaf.crt is still signed by the old CA"] if waits else []
    assert [each for each in open_conditions(rotation, of, found, known, Plan()) if "by the old" in each] == said


def test_a_service_without_a_probe_has_not_reached_the_phase() -> None:
    """This holds before the first probe, and after a change of the files until the next probe of the processes."""
    assert kept(around(live=None)) == ["certmond has not observed the services of this node yet"]
    before = Live(CHANGED - HOUR, {"web": runs(), "kcm": runs(running=False)})
    assert kept(around(live=before))[:1] == ["certmond has not observed web since /pki/leaf.crt changed"]
    stopped = Live(CHANGED - HOUR, {"web": runs(running=False), "kcm": runs(running=False)})
    assert "certmond has not observed kcm, web since /pki/leaf.crt changed" not in kept(around(live=stopped))
    assert not [said for said in kept(around(live=stopped)) if "looked at" in said]
    assert not [said for said in kept(around(live=Live(CHANGED - HOUR))) if "looked at" in said]


def test_below_another_root_only_unused_files_are_reached() -> None:
    """No process runs there, so a service of the configuration never appears to use a file. It blocks each phase,
    except those of a rotation at once. Without services nothing does.
    """
    elsewhere = around(live=None, elsewhere=True)
    fact = "no service runs below the directory in --root, so certmond cannot observe which files web, kcm use"
    assert kept(elsewhere) == [fact]
    assert unreachable_reason(at(P.TRUST), around()) is None
    assert kept(replace(elsewhere, services=())) == []
    assert unreachable_reason(replace(at(P.TRUST), mode=Mode.REPLACE), elsewhere) is None
    many = replace(elsewhere, services=tuple(replace(WEB, name=str(number)) for number in range(4)))
    assert (unreachable_reason(at(P.TRUST), many) or "").endswith("which files 0, 1, 2 … use")


def test_a_service_of_unknown_state_blocks_the_phase() -> None:
    """With a silent bus or two containers it may use the older file. A service that does not exist blocks nothing."""
    blind = ServiceSeen(None, problem="systemd cannot be asked")
    assert kept(around(web=blind)) == ["certmond cannot observe which files web has in memory: systemd cannot be asked"]
    assert kept(around(web=replace(blind, absent=True))) == []
    assert kept(around(web=ServiceSeen(None))) == []  # a command has no process to observe


def test_who_holds_an_older_file_keeps_it() -> None:
    """With the reason why it is not restarted at once."""
    old = around(web=runs(DAY))
    (said,) = kept(old)
    assert said.startswith("web has run since ")
    held = Plan(held=(Held("web", "/pki/leaf.crt", "another node has the lock"),))
    assert kept(old, plan=held) == [f"{said} (another node has the lock)"]


def test_a_missing_key_blocks_the_phase() -> None:
    """On a node that stores one of the rotation's keys, the CA's own key is missing. On other nodes it never
    existed.
    """
    here = ground(OLD, NEW, key=None, signs=True)
    why = missing_steps(at(P.TRUST), here, judged(leaf(OLD))).frozen
    assert str(why).endswith(f": {ANCHOR_KEY} is missing, but this node signs with this key; restore the CA's key")
    assert missing_steps(at(P.TRUST), replace(here, signs=False), judged(leaf(OLD))).frozen is None


def test_a_clock_that_was_set_back_does_not_block_the_phase() -> None:
    """An instant in the future is ignored: the time counts from the first pass with this clock, whether there is one
    pass or several.
    """
    known = around(contents={"/pki/leaf.crt": Content("x", NOW + 300 * DAY)})
    late, met = replace(at(P.TRUST), since=NOW + 300 * DAY), NOW - HOUR
    assert reload_deadline(late, judged(leaf(OLD)), known, met) == met + known.reload_within
    assert reload_deadline(late, judged(leaf(OLD)), around(contents={}), met) == met


def test_nothing_is_written_for_a_service_that_failed() -> None:
    """The old files are back: the new ones would stop it again and again."""
    failed = Past("web", None, NOW, Result.TAKEN_BACK, "web did not come up", ("leaf",), "1", {"/pki/leaf.crt": "x"})
    here = ground(OLD, signer=signer(OLD))
    assert missing_steps(at(P.TRUST), here, judged(leaf(OLD), around=around())).steps
    left = missing_steps(at(P.TRUST), here, judged(leaf(OLD), around=around(past={"web": failed})))
    assert (left.steps, left.reissue) == ((), frozenset())
    assert left.frozen == "the rotation r1 of ca is frozen: web did not come up; see: certmond explain restart_failed"


@pytest.mark.parametrize(("ago", "back", "frozen"), [(HOUR, True, False), (-HOUR, True, True), (HOUR, False, True)])
def test_an_abort_ignores_a_failure_of_the_rotation(ago: timedelta, back: bool, frozen: bool) -> None:
    """It requires other files. If those fail, too, it is blocked."""
    failed = Past("web", None, NOW - ago, Result.FAILED, "it is down", ("leaf",), "1", {"/pki/leaf.crt": "x"})
    turned = at(P.ISSUE, old=(N,), new=O, aborted=True) if back else at(P.ISSUE)
    left = missing_steps(
        turned, ground(*BOTH), judged(leaf(NEW), leaf(OLD, "other"), around=around(past={"web": failed}))
    )
    assert bool(left.frozen) is frozen
    assert left.reissue == (frozenset() if frozen else {("leaf", "/pki/leaf.crt")})


def test_a_running_or_failed_restart_blocks_the_phase() -> None:
    """It lasts until the restart ends, or an operator repairs it."""
    under_way = Past("web", episode=Episode("web", (), "x", NOW))
    assert kept(around(past={"web": under_way})) == ["the restart of web is in progress"]
    failed = Past("web", None, NOW, Result.FAILED, "web does not come up", ("leaf",), "1", {"/pki/leaf.crt": "x"})
    (why,) = kept(around(past={"web": failed}))
    assert why.endswith("is frozen: web does not come up; see: certmond explain restart_failed")


GOOD_FLAGS = tuple(f"--{flag}={value}" for flag, value in zip(SIGNING_FLAGS, APART, strict=True))
OTHER_FLAGS = tuple(f"--{flag}={value}" for flag, value in zip(SIGNING_FLAGS, SHARED, strict=True))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("kube-controller-manager", "--v=2", *GOOD_FLAGS), None),
        (("kube-controller-manager",), None),
        (("kube-controller-manager", f"--{SIGNING_FLAGS[0]}", APART[0], f"--{SIGNING_FLAGS[1]}", APART[1]), None),
        (("kube-controller-manager", f"--{SIGNING_FLAGS[0].replace('-', '_')}={APART[0]}", GOOD_FLAGS[1]), None),
        ((*OTHER_FLAGS, *GOOD_FLAGS), None),
        ((*GOOD_FLAGS, *OTHER_FLAGS), "does not run with the signing flags of /manifests/kcm.yaml yet"),
        ((GOOD_FLAGS[0], OTHER_FLAGS[1]), "does not run with the signing flags of /manifests/kcm.yaml yet"),
        ((GOOD_FLAGS[1], f"--{SIGNING_FLAGS[0]}"), "does not run with the signing flags of /manifests/kcm.yaml yet"),
    ],
)
def test_the_controller_manager_has_to_run_with_the_signer_of_its_manifest(
    command: tuple[str, ...], said: str | None
) -> None:
    """The form of its flags does not matter, as long as they are visible: the kubelet may not have restarted it yet."""
    assert kept(around(kcm=runs(timedelta(), *command))) == ([f"kcm {said}"] if said else [])
    assert kept(around(kcm=runs(timedelta(), *command)), ground(*BOTH)) == []


@pytest.mark.parametrize(("running", "said"), [(False, ["kcm does not run"]), (None, [])])
def test_a_stopped_controller_manager_blocks_the_phase(running: bool | None, said: list[str]) -> None:
    """Whether it uses its signer is unknown. Without a probe there is no claim."""
    assert kept(around(kcm=runs(running=running, since=timedelta()))) == said
    assert kept(around(live=Live(NOW, {"web": runs()}))) == []
    assert kept(around(services=(WEB,))) == []


@pytest.mark.parametrize("phase", [P.TRUST, P.ATTACH, P.DONE])
def test_no_key_of_a_signer_is_left(phase: Phase) -> None:
    """A signer without a manifest may need it after its return: the key is neither removed nor ignored at the end."""
    known, left = around(services=(WEB,)), (OWN, OWN_KEY)
    here = ground(*BOTH) if phase is P.TRUST else ground(NEW, key=NEW)
    before, after = kept(known, here, phase=phase), kept(known, replace(here, left=left), phase=phase)
    said = [each for each in after if each not in before]
    assert [each.partition(" on this")[0] for each in said] == (
        [] if phase is P.TRUST else [f"{OWN} and {OWN_KEY} would remain: no manifest"]
    )
    given_up = at(P.DONE, old=(N,), new=O, aborted=True)
    back = [
        list(open_conditions(given_up, each, judged(), known, Plan())) for each in (ground(OLD), ground(OLD, left=left))
    ]
    assert [len(each) for each in back] == [0, 1]


def test_who_reads_files_again_by_itself_has_the_time_to() -> None:
    """Counted from the last change of a file of the family, or from the beginning of the phase, whichever is later."""
    within = timedelta(seconds=90)

    def settles(since: datetime, **contents: datetime) -> datetime:
        known = around(contents={path: Content("x", when) for path, when in contents.items()}, reload_within=within)
        return reload_deadline(at(P.TRUST, since=since), judged(leaf(OLD)), known, NOW)

    path, key = "/pki/leaf.crt", ANCHOR_KEY
    assert settles(NOW - DAY, **{path: CHANGED, key: CHANGED - HOUR}) == CHANGED + within
    assert settles(NOW - DAY, **{path: CHANGED - HOUR, key: CHANGED}) == CHANGED + within
    assert settles(NOW, **{path: CHANGED}) == NOW + within
    assert settles(NOW - DAY, **{path: NOW + HOUR}) == NOW - DAY + within  # a clock was set back
    assert settles(NOW - DAY, **{path: NOW}) == NOW + within
    assert settles(NOW - DAY, **{"/etc/other": NOW}) == NOW - DAY  # files are not watched: there is nothing to wait for


@pytest.mark.parametrize(
    ("phase", "usages", "ago", "wait"),
    [
        (P.ISSUE, "client auth", HOUR, RECONNECT),
        (P.ISSUE, "client auth", 2 * DAY, timedelta(seconds=90)),
        (P.ISSUE, "server auth", HOUR, timedelta(seconds=90)),
        (P.TRUST, "client auth", HOUR, timedelta(seconds=90)),
    ],
    ids=["issued in this phase", "issued before", "no client", "another phase"],
)
def test_connections_with_a_replaced_client_certificate_end_before_distrust(
    phase: Phase, usages: str, ago: timedelta, wait: timedelta
) -> None:
    """client-go closes these connections within five minutes. A shorter overlap limits this time, and an operator might
    change the signer of an external CA long after the overlap.
    """
    known = around(contents={"/pki/leaf.crt": Content("x", NOW - ago)}, reload_within=timedelta(seconds=90))
    rotation, seen = at(phase, since=NOW - DAY), judged(leaf(NEW, usages=usages), trust=(OLD, NEW))
    begun, without = max(NOW - ago, NOW - DAY), timedelta(seconds=90)
    assert reload_deadline(rotation, seen, known, NOW, HOUR) == begun + wait
    assert reload_deadline(rotation, seen, known, NOW) == begun + without
    assert reload_deadline(replace(rotation, mode=Mode.REPLACE), seen, known, NOW, HOUR) == begun + without
