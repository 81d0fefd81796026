"""The policy for services that serve or use an old certificate: the condition, the severity and the remedy."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from certmond.pki.assessment.file_rules import about_files
from certmond.pki.assessment.service_rules import (
    about_services,
    changes_without_event,
    no_longer_served,
    turning_points,
)
from certmond.pki.assessment.validity_rules import CRITICAL_WINDOW
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.services.staleness import NOWHERE, Presence, Refusing, ServedAt, Stale
from tests.builders import DAY, NOW

TICK = timedelta(microseconds=1)
HELD = Stale("web", Reason.RESTART_PENDING, "/a", NOW, NOW, due=True, detail="web has not read /a")
SERVED = Stale(
    "web", Reason.SERVED_DIFFERS, "/a", NOW, NOW, due=True, detail="web serves another", ends_at=NOW + 99 * DAY
)


def said(*stale: Stale, now: datetime = NOW, failures: tuple[str, ...] = ()) -> list[Finding]:
    return list(about_services(Presence(stale=stale, failures=failures), now))


def test_without_a_stale_service_there_is_no_finding() -> None:
    """A service that still has time to reload its file has none either."""
    assert list(about_services(NOWHERE, NOW)) == []
    assert said(replace(SERVED, due=False), replace(HELD, due=False)) == []


@pytest.mark.parametrize(
    ("left", "severity"),
    [
        (CRITICAL_WINDOW + TICK, Severity.WARNING),
        (CRITICAL_WINDOW, Severity.CRITICAL),
        (-DAY, Severity.CRITICAL),
        (None, Severity.CRITICAL),
    ],
)
def test_the_severity_of_a_served_certificate_grows_toward_its_end(left: timedelta | None, severity: Severity) -> None:
    """In its last week it is critical, and so is one whose end is unknown."""
    (found,) = said(replace(SERVED, ends_at=None if left is None else NOW + left))
    assert (found.reason, found.severity) == (Reason.SERVED_DIFFERS, severity)


def test_the_finding_has_the_end_and_the_service_to_restart() -> None:
    """If no configured service listens there, the remedy is to look."""
    (known,) = said(SERVED)
    assert (
        known.message
        == "web serves another, and the served certificate ends on 2027-03-03 12:00 UTC; run: certmond restart web"
    )
    (unknown,) = said(replace(SERVED, service="", ends_at=None))
    assert unknown.message == "web serves another; find the program that listens there: ss -ltnp"


def test_what_a_service_can_change_without_an_event_is_observed_again() -> None:
    """A restart or a reload changes no file. Examples are an old certificate, a listener that refuses clients, and a
    kubelet that serves another certificate until its restart, although the requested file is missing.
    """
    spec = CertificateSpec(name="kubelet-server", path="/a")
    missing, present = (Observation("kubelet-server", spec, "/a", requested=requested) for requested in (True, False))
    at = ServedAt(Endpoint.parse("127.0.0.1:10250"), "kubelet", "ab", None)
    silent = replace(at, sha256=None, reason="it did not answer")
    assert changes_without_event(present, Presence(stale=(HELD,)))
    assert changes_without_event(present, Presence(refusing=(Refusing(at, "/a", due=True),)))
    assert changes_without_event(missing, Presence(served=(silent, at)))
    for seen, known in ((missing, NOWHERE), (missing, Presence(served=(silent,))), (present, Presence(served=(at,)))):
        assert not changes_without_event(seen, known)


def test_a_missing_certificate_that_the_kubelet_requests_after_a_restart_is_a_warning() -> None:
    """The kubelet still serves another certificate. The finding names the endpoint and the commands."""
    spec = CertificateSpec(name="kubelet-server", path="/a")
    at = ServedAt(Endpoint.parse("127.0.0.1:10250"), "kubelet", "ab", None)
    missing = Observation("kubelet-server", spec, "/a", requested=True)
    (found,) = about_files(missing, Presence(served=(at,)))
    assert (found.reason, found.severity) == (Reason.MISSING, Severity.WARNING)
    assert "serves another certificate at 127.0.0.1:10250" in found.message
    assert "systemctl restart kubelet" in found.message


def test_a_server_that_ends_every_handshake_is_critical() -> None:
    """If a server accepts the connection and presents nothing, the finding has the reason, once both files have
    settled.
    """
    at = ServedAt(Endpoint.parse("127.0.0.1:2379"), "etcd", None, None, "the handshake failed (internal error)")
    (found,) = about_services(Presence(refusing=(Refusing(at, "/a", due=True),)), NOW)
    assert (found.reason, found.severity) == (Reason.SERVED_DIFFERS, Severity.CRITICAL)
    assert found.message == (
        "etcd at 127.0.0.1:2379 serves no certificate (the handshake failed (internal error)), but should serve the "
        "certificate in /a; see the log of the service, and restore the previous files: certmond archive restore NAME"
    )
    assert list(about_services(Presence(refusing=(Refusing(at, "/a", due=False),)), NOW)) == []
    (unknown,) = about_services(Presence(refusing=(Refusing(replace(at, service=""), "/a", due=True),)), NOW)
    assert unknown.message.startswith("the listener at 127.0.0.1:2379 serves no certificate")


def test_an_endpoint_that_stopped_serving_is_reported() -> None:
    """The certificate that it serves now does not matter. An endpoint that served nothing before, or is no longer
    probed, is not reported.
    """
    one, two, three, four = (Endpoint("127.0.0.1", port) for port in (1, 2, 3, 4))
    before = Presence(served=(
        ServedAt(one, "etcd", "00", True), ServedAt(two, "", "00", False), ServedAt(three, "c", None, None, "refused"),
        ServedAt(four, "d", "00", True),
    ))  # fmt: skip
    after = Presence(served=(
        ServedAt(one, "etcd", None, None, "the handshake failed"), ServedAt(two, "", None, None, "it was refused"),
        ServedAt(three, "c", None, None, "refused"),
    ))  # fmt: skip
    remedy = "see the log of the service, and restore the previous files: certmond archive restore NAME"
    assert list(no_longer_served((before, NOWHERE), (NOWHERE, after))) == [
        f"etcd at 127.0.0.1:1 no longer serves a certificate: the handshake failed; {remedy}",
        f"the listener at 127.0.0.1:2 no longer serves a certificate: it was refused; {remedy}",
    ]
    assert list(no_longer_served([before], [before])) == []


def test_a_process_with_an_older_certificate_must_restart() -> None:
    """The severity is that of the reason."""
    (found,) = said(HELD)
    assert (found.reason, found.message) == (Reason.RESTART_PENDING, "web has not read /a; run: certmond restart web")


def test_a_failed_restart_is_a_finding() -> None:
    """It has the place of the log and the remedy."""
    (found,) = said(failures=("web did not come up",))
    assert found.reason is Reason.RESTART_FAILED
    assert found.message == (
        "web did not come up; see the log of the service, then install another certificate, or run: certmond restart "
        "NAME"
    )  # fmt: skip


def test_the_instants_of_a_higher_severity_are_known() -> None:
    """So a daemon may sleep until then."""
    presence = Presence(stale=(SERVED, HELD))
    (only,) = turning_points(presence)
    severities = [found.severity for at in (only - TICK, only) for found in about_services(presence, at)]
    assert severities[::2] == [Severity.WARNING, Severity.CRITICAL]
