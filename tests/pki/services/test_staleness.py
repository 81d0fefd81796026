"""The consumers of a certificate, the served one, and services with an older one: the claims that the evidence
allows.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.rule_input import finding
from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Reason
from certmond.pki.services.restart_episode import Past, Result
from certmond.pki.services.service_observation import Content, Live, ServiceSeen, Survey, Use
from certmond.pki.services.staleness import NOWHERE, RELOAD_WITHIN, Consumer, Presence, Stale, Surroundings, files_of
from tests.builders import DAY, HOUR, NOW, SECOND, Issued, make_ca, make_leaf

TICK = timedelta(microseconds=1)
ROOT = make_ca()
OLD, NEW = (make_leaf(ROOT, "leaf", not_after=NOW + days * DAY) for days in (10, 300))
AT, BESIDE = Endpoint.parse("127.0.0.1:6443"), Endpoint.parse("127.0.0.1:6444")
CHANGED = NOW - HOUR
PAIR = ("/leaf.crt", "/leaf.key")
UNIT = ServiceSpec(name="web", kind="systemd", unit="web.service")
OTHER = ServiceSpec(name="other", kind="systemd", unit="other.service")
HOOK = ServiceSpec(name="hook", kind="command", command=("/bin/hook",))


def row(**fields: Any) -> CertificateSpec:
    return validated(CertificateSpec, {"name": "leaf", "path": "/leaf.crt", "key": "/leaf.key"} | fields)


def see(spec: CertificateSpec | None = None, issued: Issued | None = NEW, **fields: Any) -> Observation:
    spec = spec or row()
    certificates = (issued.facts,) if issued else ()
    return Observation(spec.name, spec, spec.path, certificates, key_path=spec.key or spec.path, **fields)


def content(since: datetime = CHANGED, sha256: str = "new", *paths: str) -> dict[str, Content]:
    return {path: Content(sha256, since) for path in paths or ("/leaf.crt", "/leaf.key")}


def runs(since: datetime = NOW - DAY, instance: str = "1", **fields: Any) -> ServiceSeen:
    return ServiceSeen(True, instance, since, **fields)


def served(issued: Issued) -> Served:
    return Served(issued.der, "TLSv1.3", NOW)


def live(at: datetime = NOW, served_there: dict[Endpoint, Seen] | None = None, **services: ServiceSeen) -> Live:
    return Live(at, services, served_there or {})


def uses(reloads: bool, *paths: str, service: str = "web") -> Survey:
    return Survey({service: {path: Use(reloads, "--flag") for path in paths or ("/leaf.crt", "/leaf.key")}})


def around(survey: Survey | None = None, now: Live | None = None, **fields: Any) -> Surroundings:
    known = {"services": (UNIT, OTHER, HOOK), "contents": content()} | fields
    return Surroundings(survey=survey or Survey(), live=now, **known)


def stale(presence: Presence) -> list[tuple[str, Reason, str]]:
    return [(each.service, each.reason, each.path) for each in presence.stale]


HELD = [("web", Reason.RESTART_PENDING, "/leaf.crt")]


# --- the consumers ----------------------------------------------------------------------------------------------------


def test_an_unmentioned_certificate_has_no_consumer() -> None:
    """Neither flags nor the catalogue mention it. The further certificates of a bundle are no separate files."""
    assert around().presence(see()) is NOWHERE
    bundled = replace(see(row(consumers="web")), name="leaf#2")
    assert around(uses(True), live(web=runs())).presence(bundled) is NOWHERE


def test_flags_precede_the_catalogue() -> None:
    """A service with known flags uses the files in them, and no others. For other services the catalogue decides."""
    spec = row(consumers=["web", "other"])
    other = replace(OTHER, reloads=("leaf",))
    known = around(uses(False, "/leaf.key"), live(web=runs(CHANGED)), services=(UNIT, other, HOOK))
    assert known.presence(see(spec)).consumers == (
        Consumer("web", reloads=False, running=True, started_at=CHANGED, files=("/leaf.key",)),
        Consumer("other", reloads=True, files=("/leaf.crt", "/leaf.key")),
    )
    elsewhere = around(uses(False, "/elsewhere.crt"), services=(UNIT, other))
    assert [each.service for each in elsewhere.presence(see(spec)).consumers] == ["other"]
    unasked = around(uses(True), services=(OTHER,))
    assert unasked.presence(see()).consumers == ()


def test_a_pair_is_reloaded_if_both_of_its_files_are() -> None:
    """One file that is read once requires a restart."""
    half = Survey({"web": {"/leaf.crt": Use(True, "--a"), "/leaf.key": Use(False, "--b")}})
    for survey, reloads in ((uses(True), True), (half, False), (uses(False), False)):
        assert around(survey).presence(see()).consumers == (Consumer("web", reloads=reloads, files=PAIR),)


def test_a_configured_endpoint_makes_a_service_a_consumer() -> None:
    """No flag names the file. The catalogue then decides whether the service reloads it."""
    web = replace(UNIT, serves={"leaf": ("127.0.0.1:6443",)})
    survey = replace(uses(True, "/elsewhere.crt"), serving={AT: ("web", "/leaf.crt")})
    assert around(survey, services=(web,)).presence(see()).consumers == ()
    assert around(survey, services=(web,)).presence(see(row(consumers="web"))).consumers == (
        Consumer("web", reloads=False, files=PAIR),
    )


def test_the_kubelet_uses_only_what_it_fetched_itself() -> None:
    """A client certificate that certmond installed is unknown to it, whatever it reloads."""
    kubelet = replace(UNIT, name="kubelet", reloads=("leaf",))
    spec = row(kind="kubelet", key=None, path="/current.pem", kubeconfig="/kubelet.conf", consumers="kubelet")
    known = around(uses(True, "/current.pem", service="kubelet"), services=(kubelet,))
    for renewed_at, reloads in ((None, True), (CHANGED, False)):
        assert known.presence(see(spec), renewed_at).consumers == (
            Consumer("kubelet", reloads=reloads, files=("/current.pem", "/kubelet.conf")),
        )
    assert files_of(see(spec)) == ("/current.pem", "/kubelet.conf")


# --- the served certificate -------------------------------------------------------------------------------------------

SERVING = Survey({"web": {"/leaf.crt": Use(True, "--a")}}, {AT: ("web", "/leaf.crt"), BESIDE: ("", "/leaf.crt")})


def test_each_endpoint_has_its_served_certificate() -> None:
    """It is the file's certificate, another one, or none with the reason. An endpoint without a probe is omitted."""
    there: dict[Endpoint, Seen] = {AT: served(NEW), BESIDE: Unserved("the connection was refused", NOW)}
    reported = around(SERVING, live(served_there=there)).presence(see()).served
    assert [(at.endpoint, at.service, at.sha256, at.matches, at.reason) for at in reported] == [
        (AT, "web", NEW.facts.sha256, True, ""),
        (BESIDE, "", None, None, "the connection was refused"),
    ]
    assert around(SERVING, live()).presence(see()).served == ()
    assert around(SERVING).presence(see()).served == ()
    assert around(SERVING, live(served_there=there)).presence(see(row(path="/b", consumers="web"))).served == ()
    broken = around(SERVING, live(served_there=there)).presence(see(issued=None))
    assert [(at.sha256, at.matches) for at in broken.served] == [(NEW.facts.sha256, None), (None, None)]


@pytest.mark.parametrize(
    ("changed", "due"), [(RELOAD_WITHIN - TICK, False), (RELOAD_WITHIN, True), (RELOAD_WITHIN + DAY, True)]
)
def test_a_service_that_reloads_has_time(changed: timedelta, due: bool) -> None:
    """Until then the old certificate is not overdue. The instant is known."""
    since = NOW - changed
    known = around(SERVING, live(web=runs(), served_there={AT: served(OLD)}), contents=content(since))
    assert known.presence(see()).stale == (
        Stale(
            "web", Reason.SERVED_DIFFERS, "/leaf.crt", since, since + RELOAD_WITHIN, due,
            "web at 127.0.0.1:6443 serves a certificate other than the certificate in /leaf.crt", OLD.facts.not_after,
        ),
    )  # fmt: skip


def test_a_service_that_does_not_reload_is_late_at_once() -> None:
    """So is a listener outside the configured services. A certificate that cannot be parsed has no end."""
    junk = Served(b"junk", "TLSv1.2", NOW)
    known = around(SERVING, live(served_there={BESIDE: junk}), contents=content(NOW))
    (only,) = known.presence(see()).stale
    assert (only.service, only.due, only.due_at, only.ends_at) == ("", True, NOW, None)
    assert only.detail.startswith("the listener at 127.0.0.1:6444 ")


def test_the_served_certificate_takes_precedence_over_the_age() -> None:
    """A process that is older than the file and serves it has read it. Without an answer, the age decides."""
    survey = replace(uses(False), serving={AT: ("web", "/leaf.crt")})
    for there, expected in ((served(NEW), []), (Unserved("the connection was refused", NOW), HELD)):
        assert stale(around(survey, live(web=runs(), served_there={AT: there})).presence(see())) == expected
    only = around(survey, live(web=runs(), served_there={AT: served(OLD)})).presence(see())
    assert stale(only) == [("web", Reason.SERVED_DIFFERS, "/leaf.crt")]


@pytest.mark.parametrize(("ago", "due"), [(0, False), (1.9, False), (2, True), (3600, True)])
def test_a_server_that_ends_the_handshake_refuses(ago: float, due: bool) -> None:
    """The server accepted the connection, spoke TLS and presented nothing. That counts after both files of a change had
    their time. A server that does not answer, or does not speak TLS, proves nothing about its certificate.
    """
    ended = Unserved("the handshake failed (internal error)", NOW, spoke_tls=True)
    there: dict[Endpoint, Seen] = {AT: ended, BESIDE: Unserved("the connection was refused", NOW)}
    since = NOW - timedelta(seconds=ago)
    known = around(SERVING, live(web=runs(), served_there=there), contents=content(since)).presence(see())
    assert [(each.at.endpoint, each.at.reason, each.path, each.due) for each in known.refusing] == [
        (AT, "the handshake failed (internal error)", "/leaf.crt", due)
    ]
    before = around(SERVING, live(NOW - DAY, served_there=there), contents=content(since)).presence(see())
    assert before.refusing == ()


# --- the certificate in memory ----------------------------------------------------------------------------------------


def test_a_process_that_is_older_than_its_file_uses_the_old_one() -> None:
    """The comparison is exact: a process that started with the change has read it."""
    for began, expected in ((CHANGED - TICK, HELD), (CHANGED, []), (CHANGED + TICK, [])):
        assert stale(around(uses(False), live(web=runs(began))).presence(see())) == expected
    (only,) = around(uses(False), live(web=runs())).presence(see()).stale
    assert only.detail == (
        "web has run since 2026-11-23 12:00:00 UTC, and has not read /leaf.crt, which changed at "
        "2026-11-24 11:00:00 UTC"
    )
    assert (only.since, only.due_at, only.due) == (CHANGED, CHANGED, True)


@pytest.mark.parametrize(
    "known",
    [
        around(uses(True), live(web=runs())),  # it reloads them
        around(uses(False), live(web=ServiceSeen(False))),  # it does not run
        around(uses(False), live(web=ServiceSeen(False, started_at=NOW - DAY))),
        around(uses(False), live(web=ServiceSeen(None, problem="no bus"))),  # its start is unknown
        around(uses(False), live()),
        around(uses(False), live(CHANGED - TICK, web=runs())),  # the probe is older than the change
        around(uses(False), live(web=runs()), contents={}),  # the change of the file is unknown
        around(uses(False)),  # there was no probe
    ],
)
def test_an_unknown_state_is_not_claimed(known: Surroundings) -> None:
    """Not even the absence of a stale service is claimed."""
    assert known.presence(see()).stale == ()


def test_a_file_without_content_makes_no_service_stale() -> None:
    """A restart on it would end a running service. The file has a finding instead."""
    known = around(uses(False), live(web=runs()))
    assert known.presence(see(issued=None)).stale == ()
    pair = row(kind="key-pair", path="/leaf.crt")
    assert known.presence(see(pair, None)).stale == ()
    assert stale(known.presence(see(pair, None, key=NEW.facts.key))) == HELD


def test_a_reader_of_one_of_two_files_does_not_use_the_other() -> None:
    """An example is kube-controller-manager, which signs tokens with a key whose public half it never reads."""
    survey = uses(False, "/leaf.key")
    public = {**content(NOW - 2 * DAY, "new", "/leaf.key"), **content(CHANGED, "new", "/leaf.crt")}
    private = {**content(NOW - 2 * DAY, "new", "/leaf.crt"), **content(CHANGED, "new", "/leaf.key")}
    pair = see(row(kind="key-pair", path="/leaf.crt"), None, key=NEW.facts.key)
    assert stale(around(survey, live(web=runs()), contents=public).presence(pair)) == []
    assert stale(around(survey, live(web=runs()), contents=private).presence(pair)) == [
        ("web", Reason.RESTART_PENDING, "/leaf.key")
    ]


def test_only_the_file_that_is_read_once_counts() -> None:
    """A pair of which the key alone is read again, and a file that did not change."""
    half = Survey({"web": {"/leaf.crt": Use(True, "--a"), "/leaf.key": Use(False, "--b")}})
    assert stale(around(half, live(web=runs())).presence(see())) == [("web", Reason.RESTART_PENDING, "/leaf.key")]
    partly = {**content(NOW - 2 * DAY, "new", "/leaf.crt"), **content(CHANGED, "new", "/leaf.key")}
    assert stale(around(half, live(web=runs()), contents=partly).presence(see())) == [
        ("web", Reason.RESTART_PENDING, "/leaf.key")
    ]


def test_no_client_reloads_its_kubeconfig() -> None:
    """The kubelet reloads a rotated PEM, but no other kubelet.conf."""
    kubelet = replace(UNIT, name="kubelet", reloads=("leaf",))
    spec = row(kind="kubelet", key=None, path="/current.pem", kubeconfig="/kubelet.conf", consumers="kubelet")
    both = content(CHANGED, "new", "/current.pem", "/kubelet.conf")
    known = around(None, live(kubelet=runs()), services=(kubelet,), contents=both)
    assert stale(known.presence(see(spec))) == [("kubelet", Reason.RESTART_PENDING, "/kubelet.conf")]
    assert stale(known.presence(see(spec), CHANGED)) == [("kubelet", Reason.RESTART_PENDING, "/current.pem")]


def test_an_instance_has_read_the_files_of_its_restart() -> None:
    """This includes a reload, which does not change its start. Another content, or another instance, is another
    case.
    """
    past = Past("web", None, NOW, Result.PROVEN, "", ("leaf",), "1", {"/leaf.crt": "new", "/leaf.key": "new"})
    for changes, expected in (
        ({}, []),
        ({"instance": "2"}, HELD),
        ({"contents": {"/leaf.crt": "newer", "/leaf.key": "new"}}, HELD),
        ({"result": Result.REFUSED}, HELD),
        ({"result": Result.FAILED}, HELD),
    ):
        known = around(uses(False), live(web=runs()), past={"web": replace(past, **changes)})
        assert stale(known.presence(see())) == expected


# --- services of a command are not observed ---------------------------------------------------------------------------


def hooked(past: Past | None = None, renewed_at: datetime | None = None) -> list[str]:
    known = around(None, live(), past={"hook": past} if past else {})
    return [each.detail for each in known.presence(see(row(consumers="hook")), renewed_at).stale]


SAID = ["hook has not been restarted since /leaf.crt changed at 2026-11-24 11:00:00 UTC"]


def test_a_command_must_run_after_a_renewal() -> None:
    """It has not run for that certificate. A change by another process before its first run does not require it."""
    assert hooked(renewed_at=CHANGED) == SAID
    assert hooked() == []


def test_a_command_covers_the_files_of_its_run() -> None:
    """A later change requires another run, whatever caused it."""
    for ended_at, expected in ((CHANGED + SECOND, []), (CHANGED - SECOND, SAID)):
        past = Past("hook", None, ended_at, Result.PROVEN, "", ("leaf",), "", {"/leaf.crt": "old"})
        assert hooked(past) == hooked(past, CHANGED) == expected


def test_a_failed_command_has_not_run() -> None:
    """Its restart is still due."""
    past = Past("hook", None, NOW, Result.REFUSED, "it ended with 1", ("leaf",), "", {})
    assert hooked(past) == SAID
    assert hooked(replace(past, targets=("another",))) == []
    assert hooked(replace(past, targets=()), CHANGED) == SAID


def piloted(seen: ServiceSeen, past: Past | None = None, renewed_at: datetime | None = None) -> list[str]:
    """Return the details of a service of kind command with a PID file, in the state `seen`."""
    spec = replace(HOOK, pid_file="/run/hook.pid")
    known = around(None, live(hook=seen), services=(spec,), past={"hook": past} if past else {})
    return [each.detail for each in known.presence(see(row(consumers="hook")), renewed_at).stale]


def test_a_command_with_a_pid_file_is_judged_by_the_start_of_its_process() -> None:
    """A process that is older than the file has not read the file, whether or not certmond has run the command."""
    changed = "and has not read /leaf.crt, which changed at 2026-11-24 11:00:00 UTC"
    older = f"hook has run since 2026-11-24 10:59:59 UTC, {changed}"
    ran = Past("hook", None, CHANGED + SECOND, Result.SEEN, "", (), "", {"/leaf.crt": "new"})
    for past in (None, ran):
        assert piloted(ServiceSeen(True, "7-7", CHANGED - SECOND), past) == [older]
        assert piloted(ServiceSeen(True, "7-7", CHANGED), past, CHANGED) == []
    assert piloted(ServiceSeen(False), renewed_at=CHANGED) == []


def test_a_command_with_an_unusable_pid_file_is_judged_by_its_runs() -> None:
    """An unknown start of the process is no proof that the process has read the file."""
    unknown = ServiceSeen(None, "7-7", problem="/run/hook.pid contains no PID")
    assert piloted(unknown, renewed_at=CHANGED) == SAID
    assert piloted(unknown) == []


# --- failures ---------------------------------------------------------------------------------------------------------


class CountedContents(dict[str, Content]):
    """The contents of files, with the number of their enumerations."""

    enumerated = 0

    def items(self) -> Any:
        self.enumerated += 1
        return super().items()


def test_many_certificates_of_a_service_are_compared_with_a_failed_restart_once() -> None:
    """The time of a pass grows linearly with the certificates that services use: certmond enumerates all contents at
    most once, also if a restart has failed.
    """
    contents = CountedContents(content())
    failed = Past("web", result=Result.FAILED, message="it broke", targets=("leaf",), contents={"/leaf.crt": "new"})
    known = around(uses(reloads=False), live(), contents=contents, past={"web": failed})
    assert [known.presence(see()).failures for _ in range(100)] == [("it broke",)] * 100
    assert contents.enumerated <= 1


def test_a_failed_restart_is_reported_while_its_files_are_unchanged() -> None:
    """It is reported at no other certificate."""
    past = Past("web", None, NOW, Result.TAKEN_BACK, "it broke", ("leaf",), "2", {"/leaf.crt": "new"})
    known = around(uses(True), live(web=runs()), past={"web": past, "other": Past("other")})
    assert known.presence(see()).failures == ("it broke",)
    assert known.presence(see(row(name="b", path="/leaf.key", key=None))).failures == ()
    newer = replace(known, contents=content(NOW, "newer"))
    assert newer.presence(see()).failures == ()


def test_a_finding_of_a_changing_anchor_is_at_its_entry() -> None:
    """It does not matter whether a service uses its file."""
    said = (finding(Reason.ROTATION_UNDER_WAY, "it is in the phase trust"),)
    assert around(findings={"leaf": said}, contents={}).presence(see()) == Presence(findings=said)
    assert around(uses(True), live(web=runs()), findings={"leaf": said}).presence(see()).findings == said
    assert around(uses(True), live(web=runs()), findings={"other": said}).presence(see()).findings == ()
    judged = assess(Inventory((see(),)), NOW, around=around(findings={"leaf": said}))
    assert said[0] in judged.statuses[0].findings


def test_a_served_certificate_is_shown_by_its_digest() -> None:
    """The representation of an observation of an endpoint contains the digest, and omits the DER."""
    known = around(Survey(serving={AT: ("web", "/leaf.crt")}), live(served_there={AT: served(NEW)}))
    (found,) = known.presence(see()).served
    assert found.der == NEW.der
    assert NEW.facts.sha256 in repr(found)
    assert "der=" not in repr(found)
