"""The outage of a service that the node should run: its duration over several observations, and its finding."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.observation import Inventory
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Plan
from certmond.pki.services.outage import LIMIT, STEADY, demands_in_outages, has_outage, outage_after
from certmond.pki.services.restart_episode import Episode, Past, Result
from certmond.pki.services.service_observation import Demand, Live, Outage, ServiceSeen
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, NOW

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
MANIFEST, UNIT_FILE = "/etc/kubernetes/manifests/kube-scheduler.yaml", "/usr/lib/systemd/system/kubelet.service"
POD = ServiceSpec(name="kube-scheduler", kind="static-pod", pod="kube-scheduler")
UNIT = ServiceSpec(name="kubelet", kind="systemd", unit="kubelet.service")
IN_RESTART = {"kube-scheduler": Past("kube-scheduler", Episode("kube-scheduler", (), "", NOW))}
OLD_MANIFEST = {"kube-scheduler": Demand(MANIFEST, NOW - DAY)}


def stopped(since: datetime, demanded_by: str = "") -> ServiceSeen:
    return ServiceSeen(running=False, demanded_by=demanded_by, outage=Outage(since, NOW))


def around(seen: ServiceSeen, service: ServiceSpec = POD, **fields: object) -> Surroundings:
    known = Surroundings((service,), live=Live(NOW, {service.name: seen}), demands=OLD_MANIFEST)
    return replace(known, **fields)  # type: ignore[arg-type]


def judged(known: Surroundings, now: datetime = NOW) -> Assessment:
    return assess(Inventory(()), now, around=known)


def found(known: Surroundings, now: datetime = NOW) -> list[Finding]:
    return list(judged(known, now).loose_findings)


# --- The duration of an outage ----------------------------------------------------------------------------------------


def running(started_at: datetime | None) -> ServiceSeen:
    return ServiceSeen(True, "1", started_at)


def after(before: Outage | None, seen: ServiceSeen) -> Outage | None:
    """Return the outage after an observation at NOW, a minute after one with the outage `before`."""
    known = Live(NOW - MINUTE, {"web": ServiceSeen(running=False, outage=before)}) if before else None
    return outage_after(known, "web", seen, NOW)


def test_an_outage_begins_at_the_last_activity_of_the_service() -> None:
    """The first observation without an instance gives the outage the time of the last activity."""
    seen = ServiceSeen(running=False, idle_since=NOW - MINUTE)
    assert after(None, seen) == Outage(NOW - MINUTE, NOW)
    assert after(None, replace(seen, idle_since=NOW + DAY)) == Outage(NOW, NOW)  # the clock was set back


def test_an_outage_lasts_over_several_observations() -> None:
    """A later observation without an instance keeps the start of the outage, also if the service has run meanwhile."""
    before = Outage(NOW - 9 * MINUTE, NOW - MINUTE)
    seen = ServiceSeen(running=False, idle_since=NOW - SECOND)
    assert after(before, seen) == Outage(NOW - 9 * MINUTE, NOW)


@pytest.mark.parametrize(("started_at", "ends"), [(NOW - STEADY, True), (NOW - STEADY + SECOND, False), (None, False)])
def test_only_a_steady_instance_ends_an_outage(started_at: datetime | None, ends: bool) -> None:
    """An instance ends the outage after it has run for `STEADY`: a service that crashes again and again stays in it."""
    before = Outage(NOW - 9 * MINUTE, NOW - MINUTE)
    assert after(before, running(started_at)) == (None if ends else before)
    assert after(None, running(started_at)) is None


@pytest.mark.parametrize("idle_since", [NOW - DAY, NOW - MINUTE])
def test_an_outage_begins_after_the_last_observation_of_an_instance(idle_since: datetime) -> None:
    """A service that logs nothing for hours has run until the previous observation of its instance at least."""
    known = Live(NOW - MINUTE, {"web": running(NOW - DAY)})
    seen = ServiceSeen(running=False, idle_since=idle_since)
    assert outage_after(known, "web", seen, NOW) == Outage(NOW - MINUTE, NOW)
    assert outage_after(known, "other", seen, NOW) == Outage(idle_since, NOW)


@pytest.mark.parametrize(("age", "steady"), [(STEADY, True), (STEADY - SECOND, False)])
def test_a_young_instance_does_not_delay_the_start_of_an_outage(age: timedelta, steady: bool) -> None:
    """If the observed instance cannot have run for `STEADY`, the outage begins at the last steady run before it."""
    known = Live(NOW - MINUTE, {"web": running(NOW - age)})
    found = outage_after(known, "web", ServiceSeen(running=False, idle_since=NOW - DAY), NOW)
    assert found
    assert found.since == (NOW - MINUTE if steady else NOW - DAY)


def test_an_unknown_state_changes_no_outage() -> None:
    """An observation that cannot tell the state of the service neither begins nor ends an outage."""
    before = Outage(NOW - 9 * MINUTE, NOW - MINUTE)
    assert after(before, ServiceSeen(None)) == before
    assert after(None, ServiceSeen(None)) is None


def test_a_service_with_an_unknown_last_activity_is_in_no_outage() -> None:
    """If another process of the program runs, or certmond cannot see the processes, certmond states no outage."""
    assert after(Outage(NOW - DAY, NOW), ServiceSeen(running=False)) is None


# --- Its finding ------------------------------------------------------------------------------------------------------


def test_a_pod_that_does_not_run_has_a_finding() -> None:
    """After `LIMIT`, the finding is a warning with the manifest, the start of the outage and the next command."""
    (item,) = found(around(stopped(NOW - LIMIT)))
    assert (item.reason, item.severity) == (Reason.NOT_RUNNING, Severity.WARNING)
    assert item.message == (
        f"kube-scheduler has not run steadily since 2026-11-24 11:55:00 UTC, although {MANIFEST} starts it; "
        "find the cause: crictl ps -a --name '^kube-scheduler$'"
    )
    assert judged(around(stopped(NOW - LIMIT))).severity is Severity.WARNING


COMMAND = ServiceSpec(name="haproxy", kind="command", command=("/usr/bin/sm-restart",), pid_file="/run/haproxy.pid")
NO_PROCESS = "/run/haproxy.pid names the process 7, which is not in /proc"


@pytest.mark.parametrize("running", [False, None])
def test_a_pid_file_without_a_process_has_a_finding(running: bool | None) -> None:
    """The finding has the problem of the file, also if certmond cannot determine whether the service runs."""
    seen = replace(stopped(NOW - LIMIT, "/run/haproxy.pid"), running=running, problem=NO_PROCESS)
    (item,) = found(around(seen, COMMAND))
    assert (item.reason, item.severity) == (Reason.NOT_RUNNING, Severity.WARNING)
    assert item.message == (
        f"certmond has found no process of haproxy since 2026-11-24 11:55:00 UTC: {NO_PROCESS}; "
        "start haproxy again, or correct the file"
    )
    assert found(around(stopped(NOW - DAY), COMMAND)) == []  # no PID file


def test_an_unusable_pid_file_begins_an_outage() -> None:
    """The state is unknown since the last write to the file, or since the last observation of a process."""
    seen = ServiceSeen(None, problem="/run/haproxy.pid contains no PID", idle_since=NOW - DAY)
    assert after(None, seen) == Outage(NOW - DAY, NOW)
    assert outage_after(Live(NOW - MINUTE, {"web": running(NOW - DAY)}), "web", seen, NOW) == Outage(NOW - MINUTE, NOW)


def test_an_enabled_unit_that_does_not_run_has_a_finding() -> None:
    """The finding of a unit names the unit file and `systemctl status`."""
    (item,) = found(around(stopped(NOW - LIMIT, demanded_by=UNIT_FILE), UNIT))
    assert f"although {UNIT_FILE} starts it; find the cause: systemctl status kubelet.service" in item.message


def test_an_outage_is_no_certificate() -> None:
    """The entry of a service that does not run is no entry of the catalogue, no reference, and has no step."""
    assessment = judged(around(stopped(NOW - DAY)))
    (status,) = assessment.statuses
    assert not assessment.catalogued
    assert list(assessment.certificates) == []
    assert (status.seen.named_by, assessment.unwatched) == ("", 0)
    assert plan(assessment, Policy(), {}, Circumstances()) == Plan()


def test_two_services_of_one_unit_have_one_finding() -> None:
    """If two services of the catalogue share a unit, certmond reports the first one."""
    seen = stopped(NOW - LIMIT, demanded_by=UNIT_FILE)
    second = replace(UNIT, name="apiserver")
    known = Surroundings((UNIT, second), live=Live(NOW, {"kubelet": seen, "apiserver": seen}))
    assert [item.message.split()[0] for item in found(known)] == ["kubelet"]


@pytest.mark.parametrize(
    "known",
    [
        around(stopped(NOW - LIMIT + SECOND)),
        around(stopped(NOW - DAY), demands={"kube-scheduler": Demand(MANIFEST, NOW - LIMIT + SECOND)}),
        around(stopped(NOW - DAY), demands={}),
        around(stopped(NOW - DAY), UNIT),
        around(stopped(NOW - DAY), past=IN_RESTART),
        around(ServiceSeen(running=False)),
        around(stopped(NOW - DAY), live=None),
        around(stopped(NOW - DAY), live=Live(NOW)),
    ],
    ids=["short", "new manifest", "no manifest", "unit not enabled", "restart", "elsewhere", "no look", "unseen"],
)
def test_without_a_long_outage_of_a_service_that_should_run_there_is_no_finding(known: Surroundings) -> None:
    """A short outage, a changed manifest, a service that no file starts, and a restart by certmond have no finding."""
    assert found(known) == []


def test_an_edit_of_the_manifest_does_not_end_an_outage() -> None:
    """During an outage, the time of the manifest is the one at the first observation of the outage. So an edit in the
    minute in which the finding begins does not clear it. The first observation after the outage has the new time.
    """
    out, edited = Live(NOW, {"kube-scheduler": stopped(NOW - LIMIT)}), {"kube-scheduler": Demand(MANIFEST, NOW)}
    first = demands_in_outages(OLD_MANIFEST, {}, out)
    assert first == OLD_MANIFEST
    assert demands_in_outages(edited, first, out) == OLD_MANIFEST
    assert found(around(stopped(NOW - LIMIT), demands=edited | demands_in_outages(edited, first, out)))
    assert demands_in_outages(edited, first, Live(NOW, {"kube-scheduler": running(NOW - DAY)})) == {}


def test_an_edit_before_the_first_observation_delays_the_finding() -> None:
    """The kubelet needs time to start a changed Pod. The same applies to another manifest of the Pod, and to a manifest
    that was removed meanwhile.
    """
    out, edited = Live(NOW, {"kube-scheduler": stopped(NOW - DAY)}), {"kube-scheduler": Demand(MANIFEST, NOW)}
    assert demands_in_outages(edited, {}, out) == edited
    assert demands_in_outages(edited, {"kube-scheduler": Demand("/another.yaml", NOW - DAY)}, out) == edited
    assert demands_in_outages({}, OLD_MANIFEST, out) == {}
    for unseen in (None, Live(NOW)):
        assert demands_in_outages(edited, OLD_MANIFEST, unseen) == {}
    assert found(around(stopped(NOW - DAY), demands=edited)) == []


def test_the_time_of_an_assessment_makes_no_outage_longer() -> None:
    """Only an observation proves that the service still does not run: a later time alone gives no finding."""
    assert found(around(stopped(NOW - MINUTE)), NOW + DAY) == []


def test_a_service_that_does_not_run_is_no_certificate() -> None:
    """The finding has the name of the service and the path of the manifest, and counts as no certificate."""
    (status,) = judged(around(stopped(NOW - LIMIT))).statuses
    assert status.seen.identity == ("kube-scheduler", MANIFEST)
    assessment = judged(around(stopped(NOW - LIMIT)))
    assert ([*assessment.certificates], assessment.unwatched, assessment.changes_at) == ([], 0, None)


def test_a_past_restart_hides_no_outage() -> None:
    """Only a restart in progress explains that a service does not run."""
    assert found(around(stopped(NOW - LIMIT), past={"kube-scheduler": Past("kube-scheduler")}))


@pytest.mark.parametrize(("seen", "service"), [(stopped(NOW - DAY), POD), (stopped(NOW - DAY, UNIT_FILE), UNIT)])
@pytest.mark.parametrize(
    ("result", "ago", "reported"),
    [(Result.PROVEN, LIMIT - SECOND, False), (Result.PROVEN, LIMIT, True), (Result.UNPROVEN, SECOND, True)],
)
def test_a_proven_restart_is_the_earliest_start_of_an_outage(
    seen: ServiceSeen, service: ServiceSpec, result: Result, ago: timedelta, reported: bool
) -> None:
    """A service that certmond restarts several times in a row was healthy after each restart, so it has not crashed."""
    past = {service.name: Past(service.name, ended_at=NOW - ago, result=result)}
    known = around(seen, service, past=past)
    assert bool(found(known)) is reported


def test_each_outage_asks_for_more_observations() -> None:
    """An outage of any duration has more observations, but not an outage of a service that no file starts."""
    assert has_outage(around(stopped(NOW)))
    assert not has_outage(around(stopped(NOW), demands={}))
    assert not has_outage(around(running(NOW)))
