"""Who uses a certificate, what is served of it, and who has an older one: what may be claimed, and what not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.rule_input import finding
from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.pki.catalog.entries import CertificateSpec, ServiceSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Reason
from certmond.pki.services.model import Content, Live, ServiceSeen, Survey, Use
from certmond.pki.services.restart_episode import Past, Result
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
    return CertificateSpec.model_validate({"name": "leaf", "path": "/leaf.crt", "key": "/leaf.key"} | fields)


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


# --- who uses it ------------------------------------------------------------------------------------------------------


def test_what_nobody_mentions_is_nowhere() -> None:
    """Neither flags nor the catalogue; the further certificates of a bundle are no files of their own."""
    assert around().presence(see()) is NOWHERE
    bundled = replace(see(row(consumers="web")), name="leaf#2")
    assert around(uses(True), live(web=runs())).presence(bundled) is NOWHERE


def test_the_flags_say_more_than_the_catalogue() -> None:
    """A service whose flags are known uses what they name, and nothing else; of others the catalogue speaks."""
    spec = row(consumers=["web", "other"])
    other = OTHER.model_copy(update={"reloads": ("leaf",)})
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
    """One file that is read once is enough to need a restart."""
    half = Survey({"web": {"/leaf.crt": Use(True, "--a"), "/leaf.key": Use(False, "--b")}})
    for survey, reloads in ((uses(True), True), (half, False), (uses(False), False)):
        assert around(survey).presence(see()).consumers == (Consumer("web", reloads=reloads, files=PAIR),)


def test_what_the_configuration_says_it_serves_is_used_though_no_flag_names_it() -> None:
    """The catalogue then says whether it is read again."""
    web = UNIT.model_copy(update={"serves": {"leaf": ("127.0.0.1:6443",)}})
    survey = replace(uses(True, "/elsewhere.crt"), serving={AT: ("web", "/leaf.crt")})
    assert around(survey, services=(web,)).presence(see()).consumers == ()
    assert around(survey, services=(web,)).presence(see(row(consumers="web"))).consumers == (
        Consumer("web", reloads=False, files=PAIR),
    )


def test_the_kubelet_knows_only_what_it_fetched_itself() -> None:
    """A client certificate that certmond has put in place is one that it has never seen, whatever it reloads."""
    kubelet = UNIT.model_copy(update={"name": "kubelet", "reloads": ("leaf",)})
    spec = row(kind="kubelet", key=None, path="/current.pem", kubeconfig="/kubelet.conf", consumers="kubelet")
    known = around(uses(True, "/current.pem", service="kubelet"), services=(kubelet,))
    for renewed_at, reloads in ((None, True), (CHANGED, False)):
        assert known.presence(see(spec), renewed_at).consumers == (
            Consumer("kubelet", reloads=reloads, files=("/current.pem", "/kubelet.conf")),
        )
    assert files_of(see(spec)) == ("/current.pem", "/kubelet.conf")


# --- what is served ---------------------------------------------------------------------------------------------------

SERVING = Survey({"web": {"/leaf.crt": Use(True, "--a")}}, {AT: ("web", "/leaf.crt"), BESIDE: ("", "/leaf.crt")})


def test_each_endpoint_says_what_it_serves() -> None:
    """The file's own certificate, another one, or none with the reason; what was not asked is not told."""
    there: dict[Endpoint, Seen] = {AT: served(NEW), BESIDE: Unserved("the connection was refused", NOW)}
    told = around(SERVING, live(served_there=there)).presence(see()).served
    assert [(at.endpoint, at.service, at.sha256, at.matches, at.reason) for at in told] == [
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
def test_who_reads_again_has_time_to(changed: timedelta, due: bool) -> None:
    """Until then the former certificate is none that was missed; the instant is told."""
    since = NOW - changed
    known = around(SERVING, live(web=runs(), served_there={AT: served(OLD)}), contents=content(since))
    assert known.presence(see()).stale == (
        Stale(
            "web", Reason.SERVED_DIFFERS, "/leaf.crt", since, since + RELOAD_WITHIN, due,
            "web at 127.0.0.1:6443 serves another certificate than /leaf.crt", OLD.facts.not_after,
        ),
    )  # fmt: skip


def test_who_does_not_read_again_is_late_at_once() -> None:
    """So is what listens there and is no service of ours, and a certificate that cannot be parsed has no end."""
    junk = Served(b"junk", "TLSv1.2", NOW)
    known = around(SERVING, live(served_there={BESIDE: junk}), contents=content(NOW))
    (only,) = known.presence(see()).stale
    assert (only.service, only.due, only.due_at, only.ends_at) == ("", True, NOW, None)
    assert only.detail.startswith("the listener at 127.0.0.1:6444 ")


def test_what_is_seen_to_be_served_counts_for_more_than_any_age() -> None:
    """A process that is older than the file and serves it has read it; where nobody answered, the age speaks."""
    survey = replace(uses(False), serving={AT: ("web", "/leaf.crt")})
    for there, expected in ((served(NEW), []), (Unserved("the connection was refused", NOW), HELD)):
        assert stale(around(survey, live(web=runs(), served_there={AT: there})).presence(see())) == expected
    only = around(survey, live(web=runs(), served_there={AT: served(OLD)})).presence(see())
    assert stale(only) == [("web", Reason.SERVED_DIFFERS, "/leaf.crt")]


@pytest.mark.parametrize(("ago", "due"), [(0, False), (1.9, False), (2, True), (3600, True)])
def test_a_server_that_ends_the_handshake_refuses(ago: float, due: bool) -> None:
    """It took the connection, spoke TLS and presented nothing. That counts once both files of a change had their time;
    a server that does not answer, or does not speak TLS, says nothing about its certificate.
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


# --- what is held -----------------------------------------------------------------------------------------------------


def test_a_process_that_is_older_than_its_file_holds_the_former_one() -> None:
    """To the instant: what began with the change has read it."""
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
        around(uses(True), live(web=runs())),  # it reads them again
        around(uses(False), live(web=ServiceSeen(False))),  # it does not run
        around(uses(False), live(web=ServiceSeen(False, started_at=NOW - DAY))),
        around(uses(False), live(web=ServiceSeen(None, problem="no bus"))),  # nobody knows since when
        around(uses(False), live()),
        around(uses(False), live(CHANGED - TICK, web=runs())),  # the look is older than the change
        around(uses(False), live(web=runs()), contents={}),  # nobody knows since when the file is so
        around(uses(False)),  # nobody has looked
    ],
)
def test_what_cannot_be_seen_is_not_claimed(known: Surroundings) -> None:
    """Not even that nothing is stale: it is not told."""
    assert known.presence(see()).stale == ()


def test_nothing_is_held_of_a_file_that_holds_nothing() -> None:
    """Restarting on it would end what lives; the fault of the file is told instead."""
    known = around(uses(False), live(web=runs()))
    assert known.presence(see(issued=None)).stale == ()
    pair = row(kind="key-pair", path="/leaf.crt")
    assert known.presence(see(pair, None)).stale == ()
    assert stale(known.presence(see(pair, None, key=NEW.facts.key))) == HELD


def test_who_reads_one_of_two_files_holds_nothing_of_the_other() -> None:
    """Such as kube-controller-manager, which signs tokens with a key whose public half it never reads."""
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


def test_no_client_reads_its_kubeconfig_twice() -> None:
    """The kubelet takes up a rotated PEM, and no other kubelet.conf."""
    kubelet = UNIT.model_copy(update={"name": "kubelet", "reloads": ("leaf",)})
    spec = row(kind="kubelet", key=None, path="/current.pem", kubeconfig="/kubelet.conf", consumers="kubelet")
    both = content(CHANGED, "new", "/current.pem", "/kubelet.conf")
    known = around(None, live(kubelet=runs()), services=(kubelet,), contents=both)
    assert stale(known.presence(see(spec))) == [("kubelet", Reason.RESTART_PENDING, "/kubelet.conf")]
    assert stale(known.presence(see(spec), CHANGED)) == [("kubelet", Reason.RESTART_PENDING, "/current.pem")]


def test_what_an_instance_was_restarted_for_it_has_read() -> None:
    """Also by a reload, which leaves it as old as it was. Another content, or another instance, is another matter."""
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


# --- of what a command restarts, nothing can be seen ------------------------------------------------------------------


def hooked(past: Past | None = None, renewed_at: datetime | None = None) -> list[str]:
    known = around(None, live(), past={"hook": past} if past else {})
    return [each.detail for each in known.presence(see(row(consumers="hook")), renewed_at).stale]


SAID = ["hook was not restarted since /leaf.crt changed at 2026-11-24 11:00:00 UTC"]


def test_a_command_is_to_be_run_for_what_certmond_renewed() -> None:
    """Nobody has run it for that. For a change by others before it was ever run, nothing says that it has to be."""
    assert hooked(renewed_at=CHANGED) == SAID
    assert hooked() == []


def test_a_command_has_brought_into_use_what_was_there_when_it_was_run() -> None:
    """A later change is another reason to run it, whoever made it."""
    for ended_at, expected in ((CHANGED + SECOND, []), (CHANGED - SECOND, SAID)):
        past = Past("hook", None, ended_at, Result.PROVEN, "", ("leaf",), "", {"/leaf.crt": "old"})
        assert hooked(past) == hooked(past, CHANGED) == expected


def test_a_command_that_failed_was_not_run() -> None:
    """What it was tried for is still to be done."""
    past = Past("hook", None, NOW, Result.REFUSED, "it ended with 1", ("leaf",), "", {})
    assert hooked(past) == SAID
    assert hooked(replace(past, targets=("another",))) == []
    assert hooked(replace(past, targets=()), CHANGED) == SAID


# --- what went wrong --------------------------------------------------------------------------------------------------


def test_a_failed_restart_is_told_of_what_it_was_for_while_the_files_are_the_same() -> None:
    """And of no other certificate."""
    past = Past("web", None, NOW, Result.TAKEN_BACK, "it broke", ("leaf",), "2", {"/leaf.crt": "new"})
    known = around(uses(True), live(web=runs()), past={"web": past, "other": Past("other")})
    assert known.presence(see()).failures == ("it broke",)
    assert known.presence(see(row(name="b", path="/leaf.key", key=None))).failures == ()
    newer = replace(known, contents=content(NOW, "newer"))
    assert newer.presence(see()).failures == ()


def test_what_is_told_of_an_anchor_that_changes_is_told_of_that_entry() -> None:
    """Whether or not anybody uses its file."""
    said = (finding(Reason.ROTATION_UNDER_WAY, "it is in the phase trust"),)
    assert around(findings={"leaf": said}, contents={}).presence(see()) == Presence(findings=said)
    assert around(uses(True), live(web=runs()), findings={"leaf": said}).presence(see()).findings == said
    assert around(uses(True), live(web=runs()), findings={"other": said}).presence(see()).findings == ()
    judged = assess(Inventory((see(),)), NOW, around=around(findings={"leaf": said}))
    assert said[0] in judged.statuses[0].findings
