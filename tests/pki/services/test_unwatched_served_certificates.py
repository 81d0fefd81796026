"""The certificates that only a listener has: their observations, verdicts and findings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from certmond.pki.assessment.assess import Assessment, CertificateStatus, assess
from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.served_entries import Listener, renewed_at_start
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.findings import Reason, Severity
from certmond.pki.planning.forecast import What, forecast
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.rotation.ca_family import family_of
from certmond.pki.services.service_observation import Live, Survey
from certmond.pki.services.staleness import ServedAt, Surroundings
from certmond.pki.services.unwatched_served_certificates import served_observations
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf, make_server

ROOT, MEMORY = make_ca("root"), make_ca("localhost-ca@1795878984")
AT, BESIDE = Endpoint.parse("127.0.0.1:10257"), Endpoint.parse("127.0.0.1:6443")
LISTENERS = {AT: Listener("kube-controller-manager", renewed_at_start("kube-controller-manager"))}
AUTHORITY = CertificateSpec(name="ca", path="/pki/ca.crt", authority=True, usages=("cert sign",))
REFUSED, SILENT = (Unserved("the connection was refused", NOW, refused=True), Unserved("it did not answer", NOW))


def served(by: Issued = MEMORY, left: timedelta = YEAR - DAY, **fields: object) -> Issued:
    """What the component makes at its start: valid for a year."""
    return make_server(by, "localhost@1795878985", not_before=NOW + left - YEAR, not_after=NOW + left, **fields)  # type: ignore[arg-type]


LEAF = served()


def shown(issued: Issued) -> Served:
    return Served(issued.der, "TLSv1.3", NOW)


def see(
    answer: Seen | None, files: Sequence[Observation] = (), before: Sequence[Observation] = ()
) -> tuple[Observation, ...]:
    return served_observations(LISTENERS, Live(NOW, served={AT: answer} if answer else {}), files, before)


def in_file(issued: Issued, spec: CertificateSpec = AUTHORITY) -> Observation:
    return Observation(spec.name, spec, spec.path, (issued.facts,))


def judged(answer: Seen, files: Sequence[Observation] = (), before: Sequence[Observation] = ()) -> Assessment:
    found = see(answer, files, before)
    around = Surroundings(survey=Survey(listeners=LISTENERS), live=Live(NOW, served={AT: answer}), served=found)
    return assess(Inventory((*files,)), NOW, around=around)


def verdict(answer: Seen, files: Sequence[Observation] = ()) -> CertificateStatus:
    (status,) = (each for each in judged(answer, files).statuses if each.seen.endpoint)
    return status


def reported(status: CertificateStatus) -> list[tuple[Reason, Severity]]:
    return [(item.reason, item.severity) for item in status.findings]


# --- the observation --------------------------------------------------------------------------------------------------


def test_a_certificate_in_no_file_is_an_observation() -> None:
    """It has the certificate, the endpoint as its path, and no key."""
    (seen,) = see(shown(LEAF))
    assert (seen.name, seen.path, seen.endpoint) == ("kube-controller-manager.10257", "127.0.0.1:10257", AT)
    assert seen.certificates == (LEAF.facts,)
    assert (seen.key_path, seen.key_matches, seen.is_catalogued, seen.named_by) == (None, None, False, "")


def test_a_certificate_in_a_watched_file_is_no_second_entry() -> None:
    """The entry of the file has it, as leaf or as part of a chain."""
    spec = CertificateSpec(name="leaf", path="/pki/leaf.crt")
    other = served()
    assert see(shown(LEAF), [in_file(LEAF, spec)]) == ()
    chain = Observation("leaf", spec, spec.path, (other.facts, LEAF.facts))
    assert see(shown(LEAF), [chain]) == ()
    assert len(see(shown(LEAF), [in_file(other, spec)])) == 1


@pytest.mark.parametrize("answer", [REFUSED, SILENT, None])
def test_a_listener_that_does_not_answer_keeps_its_certificate(answer: Seen | None) -> None:
    """The last certificate remains, also if the probe fails. A new one replaces it."""
    before = see(shown(LEAF))
    assert see(answer, before=before)[0] is before[0]
    assert see(shown(LEAF), before=before)[0] is before[0]
    (new,) = see(shown(other := served()), before=before)
    assert new.certificates == (other.facts,)


def test_a_listener_that_never_answered_is_not_watched() -> None:
    """An info finding names the service, the endpoint and the reason. If nothing listens, no certificate exists."""
    assert see(REFUSED) == see(None) == ()
    (unanswered,) = see(SILENT)
    assert see(SILENT, before=[unanswered]) == (unanswered,)
    assert see(REFUSED, before=[unanswered]) == ()
    assessment = judged(SILENT)
    (item,) = assessment.loose_findings
    assert (item.reason, item.severity) == (Reason.NOT_WATCHED, Severity.INFO)
    where = "kube-controller-manager at 127.0.0.1:10257: it did not answer; "
    assert item.message.startswith(f"certmond does not watch the certificate of {where}")
    assert (list(assessment.certificates), assessment.unwatched) == ([], 0)


def test_without_a_look_at_the_services_nothing_is_served() -> None:
    """Before the first observation, and below another root."""
    assert served_observations(LISTENERS, None, (), see(shown(LEAF))) == ()
    assert served_observations({}, Live(NOW), (), see(shown(LEAF))) == ()


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_a_fresh_certificate_has_no_finding() -> None:
    """certmond knows no CA for it, so it has no trust anchor, and its dates decide."""
    status = verdict(shown(LEAF))
    assert (reported(status), status.chain_valid, status.trust_anchor, status.key_matches) == ([], True, None, None)
    assert status.renew_at == LEAF.facts.not_after - 30 * DAY
    own = status.presence.served
    assert own == (ServedAt(AT, "kube-controller-manager", LEAF.facts.sha256, True, der=LEAF.der),)
    assert (status.presence.consumers, status.presence.stale) == ((), ())


@pytest.mark.parametrize("left", [timedelta(days=5), timedelta(days=-1)])
@pytest.mark.parametrize(("by", "severity"), [(MEMORY, Severity.WARNING), (ROOT, Severity.CRITICAL)])
def test_the_end_is_told_with_the_restart(left: timedelta, by: Issued, severity: Severity) -> None:
    """No client can verify a certificate whose CA is only in memory, so the maximum is a warning."""
    leaf = served(by, left)
    status = verdict(shown(leaf), [in_file(ROOT)])
    reason = Reason.NEARING_EXPIRY if left > timedelta() else Reason.EXPIRED
    assert reported(status) == [(reason, severity)]
    (message,) = (item.message for item in status.findings)
    assert message.startswith("the certificate at 127.0.0.1:10257 expire")
    assert message.endswith(
        "it is renewed by kube-controller-manager, when it starts; run: certmond restart kube-controller-manager"
    )


def test_other_faults_of_the_certificate_are_findings() -> None:
    """A weak key, and the usage of a client."""
    assert reported(verdict(shown(served(key="rsa-1024")))) == [(Reason.WEAK_KEY, Severity.WARNING)]
    client = make_leaf(MEMORY, "client", not_after=NOW + YEAR)
    assert reported(verdict(shown(client))) == [(Reason.WRONG_USAGE, Severity.WARNING)]


def test_bytes_that_are_no_certificate_are_malformed() -> None:
    """The remedy is the restart, because there is no file to restore."""
    status = verdict(Served(LEAF.der[:-1], "TLSv1.2", NOW))
    assert (reported(status), status.certificate) == ([(Reason.MALFORMED, Severity.WARNING)], None)
    (item,) = status.findings
    assert item.message.startswith("the certificate at 127.0.0.1:10257: ")
    assert item.message.endswith("run: certmond restart kube-controller-manager")


def test_an_unanswered_probe_leaves_the_verdict() -> None:
    """The dates remain, and `served` has the reason."""
    assessment = judged(SILENT, before=see(shown(LEAF)))
    (status,) = assessment.certificates
    assert (status.certificate, status.findings) == (LEAF.facts, ())
    assert [(at.matches, at.reason) for at in status.presence.served] == [(None, "it did not answer")]


def test_certmond_plans_nothing_for_it() -> None:
    """No step waits for a due certificate, and no service restarts because of it: the finding has the command."""
    due = judged(shown(served(left=5 * DAY)), [in_file(ROOT)])
    services = [ServiceSpec(name="kube-controller-manager", kind="static-pod", pod="kube-controller-manager")]
    made = plan(due, Policy(services=services), {}, Circumstances())
    assert (made.steps, made.held, made.changes_at) == ((), (), None)
    asked = plan(due, Policy(services=services), {}, Circumstances(), frozenset({"kube-controller-manager.10257"}))
    assert asked.steps == ()
    assert [held.target for held in asked.held] == ["kube-controller-manager.10257"]


def test_the_forecast_has_its_renewal_point_and_its_end() -> None:
    """certmond does not renew it, so the forecast has no earlier event at the time that the spread selects."""
    found = forecast(judged(shown(served(left=40 * DAY)), [in_file(ROOT)]), Policy(), NOW + 50 * DAY)
    kinds = [(event.what, event.at.date()) for event in found.events if event.target.endswith(".10257")]
    assert kinds == [(What.DUE, (NOW + 10 * DAY).date()), (What.EXPIRE, (NOW + 40 * DAY).date())]


def test_it_is_no_leaf_of_a_ca_of_the_node() -> None:
    """A rotation of the CA that signed it does not wait for it, because its service issues it again by itself."""
    family = family_of(judged(shown(served(ROOT)), [in_file(ROOT)]), "ca")
    assert family is not None
    assert family.leaves == ()
