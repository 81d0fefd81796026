"""The repair of broken files: which ones, with what, and when, as a function of the known facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.assessment.key_mismatch_delay import REPAIR_WAIT
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.assessment.repairable_damage import (
    damage,
    generation,
    is_cluster_damage,
    is_whole,
    last_issued,
    new_template,
    remedy,
    unneeded_damage,
    unneeded_remedy,
)
from certmond.pki.catalog.observation import Inventory, Observation, Salvage
from certmond.pki.findings import Fault, Reason
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Cause, Held, Issue, Plan, Restore
from certmond.pki.services.staleness import Surroundings
from certmond.pki.signing.policy import Basis, Grant, fixed_by, grant
from certmond.pki.signing.template import Template, Terms
from certmond.pki.x509.certificate import attributes_of
from certmond.pki.x509.public_key import PublicKey
from tests.builders import DAY, HOUR, NOW, SECOND, YEAR, Issued, make_ca, make_leaf, make_server, new_key
from tests.pki.planning.test_renewals import AUTHORITY, FACTS, KEY, ROOT, row, see

TICK = timedelta(microseconds=1)
TERMS = Terms(NOW, None, FACTS, YEAR)
CA = see(AUTHORITY, ROOT)
SPEC = row("leaf", subject="CN=leaf,O=readers", usages=["digital signature", "client auth"])
GOOD = see(SPEC, make_leaf(ROOT, key=KEY, not_before=NOW - DAY, not_after=NOW + YEAR))
GONE = Observation(
    "leaf", SPEC, SPEC.path, faults=(Fault(Reason.MISSING, "/pki/leaf.crt is not there"),), key_path=SPEC.key
)
CUT = replace(GONE, faults=(Fault(Reason.MALFORMED, "/pki/leaf.crt is cut off"),))
NO_KEY, OTHER_KEY = replace(GOOD, key=None), replace(GOOD, key=ROOT.facts.key)


def archived(*names: str, end: datetime = NOW + 10 * DAY, **fields: Any) -> Issued:
    return make_server(ROOT, "leaf", names=list(names), key=KEY, not_before=end - YEAR, not_after=end, **fields)


class Node:
    """A sequence of passes on one entry: the observation, the archive, and the attempts."""

    def __init__(self, seen: Observation = GOOD, salvage: Salvage | None = None, **fields: Any) -> None:
        self.now, self.salvage, self.past, self.fields = NOW, salvage or Salvage(), dict[Any, Attempt](), fields
        self.assessment: Assessment | None = None
        self.look(seen)

    def look(self, seen: Observation) -> Plan:
        self.seen = seen
        around = Surroundings(salvage={seen.identity: self.salvage} if damage(seen) else {})
        self.assessment = assess(Inventory((CA, seen), FACTS), self.now, self.assessment, around=around)
        return self.plan()

    def plan(self, *, asked: bool = False, **circumstances: Any) -> Plan:
        assert self.assessment
        names = frozenset({"leaf"}) if asked else None
        about = Circumstances(**circumstances)
        return plan(self.assessment, Policy(spread=TICK), self.past, about, names, **self.fields)

    def after(self, time: timedelta) -> Plan:
        self.now += time
        return self.look(self.seen)


def only(made: Plan) -> Issue | Restore | Held:
    found: object
    (found,) = made.steps or made.held
    assert isinstance(found, Issue | Restore | Held)
    return found


# Broken files


@pytest.mark.parametrize("seen", [GONE, CUT, NO_KEY, OTHER_KEY])
def test_a_file_without_a_whole_pair_is_broken(seen: Observation) -> None:
    """The certificate or key is missing, malformed or another's."""
    assert damage(seen)
    assert is_whole(seen) is False
    assert is_whole(GOOD) is True


@pytest.mark.parametrize(
    "seen",
    [
        replace(GONE, spec=row("leaf", authority=True)),
        replace(GONE, spec=row("leaf", path="/pki/*.crt", key=None)),
        replace(GONE, spec=row("leaf", kind="bundle")),
        replace(GONE, spec=row("leaf", password_file="/pki/password")),
        replace(GONE, name="leaf#2"),
        replace(GONE, wanted=False),
        replace(GONE, faults=(Fault(Reason.UNREADABLE, "/pki/leaf.crt is a directory, not a file"),)),
        replace(NO_KEY, key_unknown=True),
        replace(NO_KEY, spec=row("leaf", key_optional=True)),
        replace(GONE, spec=row("leaf", kind="kubeconfig", key=None), renewable=False),
    ],
)
def test_an_unsupported_or_unreadable_file_is_not_repaired(seen: Observation) -> None:
    """The rule covers trust anchors, patterns, bundles, keystores, further users of a kubeconfig, files that are no
    longer expected, unreadable files, and files whose key may be right.
    """
    assert damage(seen) is None


CONF = row("leaf", kind="kubeconfig", path="/etc/leaf.conf", key=None, subject="CN=leaf,O=readers", embedded_ca="ca",
           usages=["digital signature", "client auth"])  # fmt: skip
LEADS_NOWHERE = replace(GOOD, spec=CONF, path=CONF.path, key_path=CONF.path, broken_cluster="cluster 'c' has no server")


def test_a_damaged_file_that_no_manifest_names_can_be_restored() -> None:
    """certmond does not repair this file. Its finding has the command that restores a good generation, if one exists. A
    missing file and an undamaged file need no command.
    """
    cut = replace(CUT, wanted=False)
    assert (damage(cut), unneeded_damage(cut)) == (None, "/pki/leaf.crt is cut off")
    assert unneeded_damage(CUT) is None
    for seen in (replace(GONE, wanted=False), replace(GOOD, wanted=False), replace(cut, requested=True)):
        assert unneeded_damage(seen) is None
    known = assess(Inventory((CA, GOOD), FACTS), NOW - SECOND)
    for good, said in (
        ((("000001-x", GOOD.certificates[0]),), "restore the files: certmond archive restore leaf 000001-x"),
        ((), "restore the file from a backup, or issue the certificate again"),
    ):
        salvage = Salvage(good, repairs=1, repaired_at=NOW - SECOND)
        around = Surroundings(salvage={cut.identity: salvage})
        status = assess(Inventory((CA, cut), FACTS), NOW, known, around=around).statuses[1]
        assert [item.message for item in status.findings] == [f"/pki/leaf.crt is cut off; {said}"]


@pytest.mark.parametrize(
    ("repairs", "ago", "reported"),
    [(1, SECOND, "once"), (3, 2 * HOUR - SECOND, "3 times"), (3, 2 * HOUR, None), (1, timedelta(days=2), None)],
)
def test_damage_soon_after_a_repair_is_a_further_finding(repairs: int, ago: timedelta, reported: str | None) -> None:
    """If a file is damaged again within two hours of a repair, a finding has the number and the time of the repairs."""
    salvage = Salvage((("000001-x", GOOD.certificates[0]),), repairs=repairs, repaired_at=NOW - ago)
    around = Surroundings(salvage={CUT.identity: salvage})
    status = assess(Inventory((CA, CUT), FACTS), NOW, around=around).statuses[1]
    again = [item.message for item in status.findings if item.reason is Reason.BREAKS_AGAIN]
    said = f"certmond has repaired the file {reported}, last on {NOW - ago:%Y-%m-%d %H:%M:%S} UTC"
    remedy = "find the program or disk that damages the file; to see the next repair, run: certmond plan"
    assert again == ([f"/pki/leaf.crt is cut off, although {said}; {remedy}"] if reported else [])


@pytest.mark.parametrize(
    ("key", "fact"),
    [
        (None, "/pki/ca.crt has no private key: /pki/ca.key contains no key"),
        (GOOD.key, "/pki/ca.key is not the private key of /pki/ca.crt"),
    ],
)
def test_the_finding_of_a_ca_without_its_key_names_the_archived_files(key: PublicKey | None, fact: str) -> None:
    """If the archive contains the key that a CA lacks, the remedy is a copy of this key. Other findings are
    unchanged.
    """
    fault = Fault(Reason.UNREADABLE, "/pki/x is a directory", "move it away")
    seen = replace(CA, key=key, faults=(fault,))
    around = Surroundings(salvage={seen.identity: Salvage(key_directory="/archive/leaf.damaged/000001-x")})
    (status,) = assess(Inventory((seen,), FACTS), NOW, around=around).statuses
    assert {item.message for item in status.findings} == {
        f"{fact}; copy the key of the CA from the archived files in /archive/leaf.damaged/000001-x",
        "/pki/x is a directory; move it away",
    }


OTHER = archived("DNS:other.example").facts  # with a name that the entry does not specify


@pytest.mark.parametrize(
    ("seen", "salvage", "command"),
    [
        (CUT, Salvage((("000001-x", OTHER),)), "restore the files: certmond archive restore leaf"),
        (OTHER_KEY, Salvage(), "issue the certificate again: certmond renew leaf"),
        (OTHER_KEY, Salvage(obstacle="the CA's key is missing"), None),
        (OTHER_KEY, Salvage(barrier="another user can read the key"), None),
        (CUT, Salvage(), None),
    ],
)
def test_a_damaged_pair_that_no_manifest_names_has_a_command(
    seen: Observation, salvage: Salvage, command: str | None
) -> None:
    """An operator may restore any good generation, also one that certmond does not restore automatically. Without a
    generation, the command issues the certificate again, if the certificate is intact and certmond can sign.
    """
    assert unneeded_remedy(replace(seen, wanted=False), salvage, FACTS, known=None) == command


def test_a_kubeconfig_with_a_broken_cluster_is_damaged() -> None:
    """Its certificate and its key are intact. Damage of the certificate or the key precedes that of the cluster."""
    assert damage(LEADS_NOWHERE) == "/etc/leaf.conf: cluster 'c' has no server"
    assert (is_whole(LEADS_NOWHERE), is_cluster_damage(LEADS_NOWHERE)) == (False, True)
    for seen in (replace(LEADS_NOWHERE, key=ROOT.facts.key), replace(GONE, spec=CONF, broken_cluster="x"), GOOD):
        assert not is_cluster_damage(seen)
    other = replace(LEADS_NOWHERE, key=ROOT.facts.key)
    assert damage(other) == "/etc/leaf.conf is not the private key of /etc/leaf.conf"
    assert damage(replace(LEADS_NOWHERE, renewable=False)) is None


def test_a_broken_cluster_is_repaired_after_a_wait_or_by_a_due_renewal() -> None:
    """The wait is that of other damage. certmond issues no certificate for the cluster, but a due certificate is
    renewed, which writes the present CA as well. By hand, certmond repairs the cluster at once, and only the cluster.
    """
    node = Node(replace(LEADS_NOWHERE, broken_cluster=""))
    waiting = only(node.look(LEADS_NOWHERE))
    assert isinstance(waiting, Held)
    assert waiting.until == NOW + REPAIR_WAIT
    by_hand, found = only(node.plan(asked=True)), only(node.after(REPAIR_WAIT))
    for step in (by_hand, found):
        assert isinstance(step, Restore)
        assert (step.generation, step.cause) == (None, Cause.DAMAGED)
        assert step.certificate == LEADS_NOWHERE.certificates[0]
    assert node.plan().steps[0].detail == (
        "/etc/leaf.conf: cluster 'c' has no server; repair the cluster with the present CA of the entry ca"
    )
    due = Node(see(CONF, archived(end=NOW + DAY)))
    due.now += HOUR
    step = only(due.look(replace(due.seen, broken_cluster="x")))
    assert isinstance(step, Issue)
    assert step.cause is Cause.DUE
    assert isinstance(only(due.plan(asked=True)), Restore)


def test_a_ca_of_unknown_trust_is_not_written_into_a_kubeconfig() -> None:
    """Neither the daemon nor a command writes it. An unsynchronized clock does not delay the repair, which signs
    nothing.
    """
    node = Node()
    node.look(LEADS_NOWHERE)
    node.after(REPAIR_WAIT)
    for asked in (True, False):
        held = only(node.plan(asked=asked, unsure={"ca": "the CA was replaced"}))
        assert isinstance(held, Held)
        assert held.because == "the CA was replaced"
        assert isinstance(only(node.plan(asked=asked, clock="no clock")), Restore)


def test_the_embedded_ca_of_unknown_trust_is_not_written_either() -> None:
    """A kubeconfig gets the present CA of `embedded_ca` also if another CA signs its certificate. A restored kubeconfig
    gets it too. If the same CA signs the certificate, the path of a good generation is proof enough.
    """
    for ca, held in ((("client-ca",), True), (("ca",), False)):
        seen = replace(LEADS_NOWHERE, spec=replace(CONF, ca=ca))
        good = ("000001-x", seen.certificates[0])
        for broken, salvage in ((seen, Salvage()), (replace(GONE, spec=seen.spec, path=CONF.path), Salvage((good,)))):
            node = Node(replace(seen, broken_cluster=""), salvage)
            node.look(broken)
            node.after(REPAIR_WAIT)
            is_generation = bool(salvage.good)
            for asked in (True, False):
                made = only(node.plan(asked=asked, unsure={"ca": "the CA was replaced"}))
                expected = Held if held or not is_generation else Restore
                assert isinstance(made, expected), (ca, is_generation, asked, made)


def test_a_cluster_without_a_repair_is_restored_from_the_archive() -> None:
    """Without a generation, certmond holds the repair with the missing fact, which the finding has too. It issues no
    certificate.
    """
    why = "certmond adds no cluster to it; add it there"
    for good in ((), (("000001-x", LEADS_NOWHERE.certificates[0]),)):
        salvage = Salvage(good, cluster_obstacle=why)
        node = Node(salvage=salvage)
        node.look(LEADS_NOWHERE)
        found = only(node.after(REPAIR_WAIT))
        if good:
            assert isinstance(found, Restore)
            assert found.generation == "000001-x"
        else:
            assert isinstance(found, Held)
            assert found.because == f"/etc/leaf.conf: cluster 'c' has no server; {why}"
        said = "restore the files: certmond archive restore leaf 000001-x" if good else why
        assert remedy(LEADS_NOWHERE, salvage, FACTS, known=LEADS_NOWHERE.certificates[0]) == said
    assert remedy(LEADS_NOWHERE, Salvage(), FACTS, known=None) == "repair it: certmond renew leaf"


# When


@pytest.mark.parametrize("seen", [GONE, CUT, NO_KEY, OTHER_KEY])
def test_a_writer_has_ten_seconds(seen: Observation) -> None:
    """The plan has the end, and the assessment wakes the daemon at that instant, neither before nor later."""
    node = Node()
    made = node.look(seen)
    waiting = only(made)
    assert isinstance(waiting, Held)
    assert waiting.until == NOW + REPAIR_WAIT
    assert made.changes_at is not None
    assert made.changes_at <= waiting.until
    assert node.assessment
    assert node.assessment.changes_at is not None
    assert node.assessment.changes_at <= waiting.until
    assert isinstance(only(node.after(REPAIR_WAIT - TICK)), Held)
    assert isinstance(only(node.after(TICK)), Issue)


def test_a_file_that_keeps_changing_has_two_minutes_more() -> None:
    """The ten seconds start again with each change of an existing file, until two minutes after the first scan. Then
    they pass despite changes. A missing file does not grow: its directory may change for other files.
    """
    for seen, patient in ((CUT, True), (GONE, False)):
        node = Node()
        node.look(seen)
        held = 0
        while isinstance(only(node.plan()), Held):
            node.now += 5 * SECOND
            node.look(replace(seen, changed_at=node.now))
            held += 5
        assert held == (130 if patient else 10)
    node = Node()
    node.look(CUT)
    node.now += 5 * SECOND
    node.look(replace(CUT, changed_at=node.now))
    assert isinstance(only(node.after(REPAIR_WAIT - TICK)), Held)
    assert isinstance(only(node.after(TICK)), Issue)


def test_a_file_that_is_whole_in_time_is_let_be() -> None:
    """A writer that is done within the ten seconds, and stays so."""
    node = Node()
    node.look(CUT)
    node.now += 9 * SECOND
    assert node.look(GOOD).steps == ()
    assert node.after(HOUR).held == ()
    assert node.assessment
    assert node.assessment.statuses[1].damage is None


def test_a_command_repairs_at_once() -> None:
    """A command waits neither for a writer nor for the backoff of an earlier attempt."""
    node = Node()
    node.look(CUT)
    node.past[CUT.identity] = Attempt(NOW, 3, "it failed")
    assert isinstance(only(node.plan(asked=True)), Issue)


def test_a_request_issues_nothing_by_a_ca_without_full_trust() -> None:
    """A valid generation is restored."""
    doubt = "a component does not trust it"
    node = Node()
    node.look(CUT)
    assert only(node.plan(asked=True, unsure={"ca": doubt})) == Held(*CUT.identity, doubt)
    node = Node(salvage=Salvage(good=(("000001-x", GOOD.certificates[0]),)))
    node.look(GONE)
    assert isinstance(only(node.plan(asked=True, unsure={"ca": doubt})), Restore)


def test_an_unsynchronized_clock_and_an_upgrade_hold() -> None:
    """The upgrade may be the writer. An unsynchronized clock holds a new certificate, but not the restore of a good
    one.
    """
    node = Node()
    node.look(GONE)
    node.after(REPAIR_WAIT)
    assert isinstance(only(node.plan(hold="an upgrade")), Held)
    assert isinstance(only(node.plan(clock="the clock")), Held)
    assert isinstance(only(node.plan(unsure={"ca": "a component does not trust it"})), Held)
    node = Node(salvage=Salvage(good=(("000001-x", GOOD.certificates[0]),)))
    node.look(GONE)
    node.after(REPAIR_WAIT)
    assert isinstance(only(node.plan(hold="an upgrade")), Held)
    assert isinstance(only(node.plan(clock="the clock", unsure={"ca": "a component does not trust it"})), Restore)


def test_a_failed_or_short_lived_repair_has_a_growing_delay() -> None:
    """The delay is that of renewals, and the plan has the next attempt. A renewal does not delay a repair."""
    node = Node()
    node.look(GONE)
    node.after(REPAIR_WAIT)
    node.past[GONE.identity] = Attempt(node.now)
    assert isinstance(only(node.plan()), Issue)
    for fields in (
        {"failures": 1, "message": "disk full"},
        {"repaired_at": node.now + timedelta(minutes=1), "repairs": 1},
    ):
        node.past[GONE.identity] = Attempt(node.now, **fields)  # type: ignore[arg-type]
        waiting = only(node.plan())
        assert isinstance(waiting, Held)
        assert waiting.until == node.now + timedelta(minutes=1)
        assert isinstance(only(node.after(timedelta(minutes=1))), Issue)
        node.look(GONE)


# The source of the repair

NAMES = ("DNS:a", "DNS:b", "DNS:c")


@given(
    fixed=st.sets(st.sampled_from(NAMES)),
    kept=st.lists(st.sets(st.sampled_from(NAMES), min_size=1), max_size=4),
    last=st.none() | st.sets(st.sampled_from(NAMES), min_size=1),
    known=st.none() | st.sets(st.sampled_from(NAMES), min_size=1),
    in_archive=st.booleans(),
)
def test_no_lost_right_is_restored(
    fixed: set[str], kept: list[set[str]], last: set[str] | None, known: set[str] | None, *, in_archive: bool
) -> None:
    """Whatever the archive has, a generation is restored only if the entry fixes its names, or the last certificate in
    the files had them. If that is unknown, or certmond installed another one that is lost, only the entry counts. The
    newest such generation is restored.
    """
    spec = row(
        "leaf", subject="CN=leaf", usages=["digital signature", "key encipherment", "server auth"], names=[*fixed]
    )
    seen = replace(GONE, spec=spec)
    newest = archived(*sorted(last), end=NOW + YEAR).facts if last else None
    there = archived(*sorted(known), end=NOW + YEAR).facts if known else None
    leaves = [archived(*sorted(names), end=NOW + (20 - number) * DAY).facts for number, names in enumerate(kept)]
    good = tuple((f"{number:06d}-x", leaf) for number, leaf in enumerate(leaves))
    everything = (*leaves, newest) if newest and in_archive else tuple(leaves)
    salvage = Salvage(good, everything, newest.sha256 if newest else None)
    found = generation(seen, salvage, FACTS, known=there)
    lost = newest is not None and not in_archive
    allowed = fixed | known if known and not lost else fixed
    fit = [entry for entry, names in zip(good, kept, strict=True) if names <= allowed]
    assert found == (fit[0] if fit else None)


MASTERS, ADMINS, PLAIN = "CN=admin,O=system:masters", "CN=admin,O=kubeadm:cluster-admins", "CN=admin"


def client(text: str, end: datetime = NOW + 10 * DAY, ca: Issued = ROOT) -> Issued:
    """A certificate with one of these subjects."""
    subject = subject_of("admin", text.partition("O=")[2]) if "O=" in text else "admin"
    return make_leaf(ca, subject, key=KEY, not_before=end - YEAR, not_after=end)


@pytest.mark.parametrize("known_facts", ["known", "lost", "kept"])
@pytest.mark.parametrize(
    ("last", "former", "back"),
    [
        (ADMINS, MASTERS, False),
        (MASTERS, ADMINS, False),
        (PLAIN, MASTERS, False),
        (MASTERS, PLAIN, True),
        (ADMINS, PLAIN, True),
        (MASTERS, MASTERS, True),
    ],
)
def test_of_several_accepted_subjects_only_the_last_or_less_is_restored(
    known_facts: str, last: str, former: str, *, back: bool
) -> None:
    """An accepted subject is not restored after another one was in place, unless it is a part of that one. The last one
    is known from the files, or from the record of subjects. A new certificate has the last one.
    """
    spec = row("leaf", subject=[ADMINS, MASTERS, PLAIN], usages=["digital signature", "client auth"])
    old, new = client(former).facts, client(last, NOW + YEAR).facts
    kept = (old, new) if known_facts == "kept" else (old,)
    salvage = Salvage((("000001-x", old),), kept, new.sha256, subject=last, seen_subject=last)
    seen, known = replace(GONE, spec=spec), new if known_facts == "known" else None
    found = generation(seen, salvage, FACTS, known=known)
    assert found == (("000001-x", old) if back else None)
    template = new_template(seen, salvage, TERMS, signer="local", authority=CA, known=known)
    assert isinstance(template, Template)
    assert attributes_of(template.subject) == new.attributes


@pytest.mark.parametrize("order", [[ADMINS, MASTERS], [MASTERS, ADMINS]])
def test_of_two_possible_last_subjects_the_unprivileged_one_is_issued(order: list[str]) -> None:
    """The last certificate of certmond had another subject than the last one in the files, which is known from the
    files or from the record of subjects. The order in the entry has no effect.
    """
    spec = row("leaf", subject=order, usages=["digital signature", "client auth"])
    for last, there in ((ADMINS, MASTERS), (MASTERS, ADMINS)):
        for known, seen in ((client(there).facts, None), (None, there)):
            salvage = Salvage(last="00", subject=last, seen_subject=seen)
            template = new_template(replace(GONE, spec=spec), salvage, TERMS, signer="local", authority=CA, known=known)
            assert isinstance(template, Template)
            assert attributes_of(template.subject) == client(ADMINS).facts.attributes


@pytest.mark.parametrize("order", [[ADMINS, MASTERS], [MASTERS, ADMINS]])
@pytest.mark.parametrize("put", [MASTERS, None])
def test_without_a_known_last_subject_system_masters_is_not_issued(order: list[str], put: str | None) -> None:
    """If neither the files nor the record of subjects have the last subject, certmond restores and issues no
    certificate with the group `system:masters`. The archive and the last certificate of certmond do not change this:
    an operator may have installed another subject of the entry. An entry without another subject gets the group.
    """
    old, less = client(MASTERS).facts, client(ADMINS).facts
    for good, back in (((old,), None), ((old, less), None if put else "000002-x")):
        generations = tuple((f"{number:06d}-x", leaf) for number, leaf in enumerate(good, start=1))
        salvage = Salvage(generations, good, old.sha256 if put else None, subject=put)
        for accepted in (order, [MASTERS]):
            spec = row("leaf", subject=accepted, usages=["digital signature", "client auth"])
            seen = replace(GONE, spec=spec)
            found = generation(seen, salvage, FACTS, known=None)
            assert (found and found[0]) == (back if accepted == order else "000001-x")
            template = new_template(seen, salvage, TERMS, signer="local", authority=CA)
            assert isinstance(template, Template)
            assert attributes_of(template.subject) == client(ADMINS if accepted == order else MASTERS).facts.attributes


def test_a_certificate_of_another_ca_proves_no_earlier_right() -> None:
    """A user who can write the file could otherwise have every right restored by a forged certificate."""
    other = make_ca(key=new_key(), not_before=NOW - YEAR, not_after=NOW + YEAR)
    mine, forged = client(MASTERS).facts, client(MASTERS, ca=other).facts
    assert last_issued(mine, (ROOT.facts,)) == mine
    assert last_issued(forged, (ROOT.facts,)) is None
    assert last_issued(None, (ROOT.facts,)) is None
    spec = row("leaf", subject=[], usages=["digital signature", "client auth"])
    node = Node(see(spec, client(MASTERS, ca=other)), salvage=Salvage((("000001-x", mine),), (mine,)))
    node.look(replace(GONE, spec=spec))
    assert isinstance(only(node.after(REPAIR_WAIT)), Held)


def test_the_finding_names_the_action_of_certmond() -> None:
    """The finding does not name a generation that certmond refuses to restore. It names the obstacle of a new
    certificate, or the command that issues it.
    """
    old = client(MASTERS).facts
    for subject, obstacle, known, said in (
        (MASTERS, None, None, "restore the files: certmond archive restore leaf 000001-x"),
        (
            [],
            "its entry specifies no subject",
            client(MASTERS, NOW + YEAR),
            "restore the files: certmond archive restore leaf",
        ),
        ([], "its entry specifies no subject", None, "its entry specifies no subject"),
        (ADMINS, None, None, "issue the certificate again: certmond renew leaf"),
        (ADMINS, None, client(ADMINS, NOW + YEAR), "issue the certificate again: certmond renew leaf"),
    ):
        spec = row("leaf", subject=subject, usages=["digital signature", "client auth"])
        salvage = Salvage((("000001-x", old),), (old,), obstacle=obstacle)
        node = Node(see(spec, known) if known else GOOD, salvage=salvage)
        if not known:
            node.assessment = None
        node.look(replace(GONE, spec=spec))
        assert node.assessment
        (finding,) = [each for status in node.assessment.statuses for each in status.findings
                      if each.reason is Reason.MISSING]  # fmt: skip
        assert said in finding.message


def test_in_a_rotation_the_ca_of_the_phase_decides() -> None:
    """A generation of another CA than the present signer is not restored."""
    other = make_ca(key=new_key(), not_before=NOW - YEAR, not_after=NOW + YEAR)
    salvage = Salvage(good=(("000002-x", GOOD.certificates[0]),))
    for anchor, expected in ((ROOT.facts, Restore), (other.facts, Issue)):
        node = Node(salvage=salvage, signing={"ca": anchor})
        node.look(GONE)
        step = only(node.after(REPAIR_WAIT))
        assert isinstance(step, expected)
        assert not isinstance(step, Issue) or step.under == other.facts


@pytest.mark.long
@given(
    subjects=st.lists(st.sampled_from(["CN=leaf,O=readers", "CN=leaf,O=writers", "CN=leaf"]), max_size=3, unique=True),
    usages=st.sets(st.sampled_from(["digital signature", "client auth", "server auth"])),
    names=st.sets(st.sampled_from(NAMES)),
    former=st.sets(st.sampled_from([*NAMES, "DNS:former"])),
)
def test_a_certificate_without_a_predecessor_has_what_the_entry_fixes(
    subjects: list[str], usages: set[str], names: set[str], former: set[str]
) -> None:
    """Its subject is one of the entry's, and its usages and names are the entry's, whatever the archive has. The policy
    grants it without a predecessor. If the entry does not specify enough, nothing is issued, and the plan has the
    reason.
    """
    spec = row("leaf", subject=subjects, usages=[*usages], names=[*names])
    kept = archived(*sorted(former)).facts if former else make_leaf(ROOT).facts
    node = Node(salvage=Salvage(kept=(kept,)))
    node.look(replace(GONE, spec=spec))
    node.after(REPAIR_WAIT)
    found = only(node.plan(asked=True))
    if isinstance(found, Held):
        assert found.because
        return
    assert isinstance(found, Issue)
    assert found.old is None
    assert found.cause is Cause.DAMAGED
    template: Template = found.template
    assert isinstance(grant(template, fixed_by(spec, FACTS), Basis()), Grant)
    assert {str(name.value) for name in template.names} == {name.removeprefix("DNS:") for name in names}
    assert set(template.extended_usages) <= usages


def test_without_a_known_last_subject_the_archive_decides() -> None:
    """Among the accepted subjects without `system:masters`, a new certificate has the newest one in the archive,
    otherwise the first one.
    """
    spec = row("leaf", subject=[ADMINS, MASTERS, PLAIN], usages=["digital signature", "client auth"])
    for kept, expected in (((), ADMINS), ((client(PLAIN).facts,), PLAIN)):
        template = new_template(replace(GONE, spec=spec), Salvage(kept=kept), TERMS, signer="local", authority=CA)
        assert isinstance(template, Template)
        assert attributes_of(template.subject) == client(expected).facts.attributes


def subject_of(name: str, group: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def test_an_impossible_repair_has_its_reason_and_remedy() -> None:
    """The reason names the obstacle: the component that renews, the user who could take the key, or the place of the
    CA's key.
    """
    other = see(AUTHORITY, ROOT, key=None)
    for fields, ca, said in (
        ({"renewed_by": "the distribution at its start"}, CA, "certmond does not renew this certificate"),
        ({"signer": "none"}, CA, "`signer: none`"),
        ({"subject": []}, CA, "its entry specifies no subject"),
        ({"subject": "CN=${service_ip}"}, CA, "the subject in its entry contains an unknown fact"),
        ({}, other, "is not on this node"),
    ):
        spec = row("leaf", **{"subject": "CN=leaf", **fields})
        seen = replace(GONE, spec=spec)
        assessment = assess(Inventory((ca, seen), FACTS), NOW)
        waiting = only(plan(assessment, Policy(), {}, Circumstances(), frozenset({"leaf"})))
        assert isinstance(waiting, Held)
        assert said in waiting.because
