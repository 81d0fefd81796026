"""The end of `trust` on a single node: not before Pods have both CAs, as far as the API can be asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from certmond.pki.catalog.settings import ClusterSpec, RootCaSpec
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Mode, Phase, sequence
from certmond.pki.rotation.pod_trust_gates import (
    LEADS,
    SYNCED,
    TAKES,
    Answer,
    Asked,
    certificates_gate,
    concerns,
    gate,
    published_gate,
    searches_certificates,
    short_overlap,
)
from tests.builders import DAY, NOW, SECOND
from tests.pki.rotation_node import PLANNED, at

PAUSE = timedelta(seconds=10)
TRUST = at(Phase.TRUST)
OVERLAP = Gate(("both are trusted until later",), NOW + 30 * SECOND)


def asked(answer: Answer, held: Gate = Gate(), ago: timedelta = timedelta()) -> Gate:  # noqa: B008 - a value
    return gate(replace(TRUST, since=NOW - ago), held, Asked(answer, "the answer"), NOW, PAUSE)


def test_only_the_phase_before_the_new_ca_is_used_waits_for_pods() -> None:
    """With an overlap, and of the CA that pods have: no other phase, family or mode."""
    assert [phase for phase in sequence(PLANNED) if concerns(at(phase))] == [Phase.TRUST]
    assert concerns(replace(TRUST, found=True))
    for other in (replace(TRUST, family="etcd-ca"), replace(at(Phase.ISSUE), mode=Mode.REPLACE)):
        assert not concerns(other)


@pytest.mark.parametrize("held", [Gate(), OVERLAP], ids=["overlap over", "overlap lasts"])
def test_a_publication_is_recorded_and_followed_by_the_sync_of_kubelets(held: Gate) -> None:
    """The record has the instant. From it on kubelets have their sync, and the overlap has its rest. A clock that was
    set back since does not prolong the wait.
    """
    found = asked(Answer.PUBLISHED, held)
    assert (found.waits, found.noted) == (
        ("the answer; kubelets update running Pods within 90 s",), replace(TRUST, published=NOW)
    )  # fmt: skip
    noted = replace(TRUST, published=NOW)
    waits = published_gate(noted, held, NOW + SYNCED - SECOND)
    assert waits.waits[: len(held.waits)] == held.waits
    assert "kubelets update running Pods until" in waits.waits[-1]
    assert waits.until == NOW + SYNCED
    assert published_gate(noted, held, NOW + SYNCED) == published_gate(noted, held, NOW - SECOND) == held


@pytest.mark.parametrize("held", [Gate(), OVERLAP], ids=["overlap over", "overlap lasts"])
def test_a_missing_publication_is_waited_for(held: Gate) -> None:
    """The wait has no limit and exceeds the overlap. The question is repeated after the pause."""
    for ago in (timedelta(), DAY):
        assert asked(Answer.BEHIND, held, ago) == Gate((*held.waits, "the answer"), NOW + PAUSE)


@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.SILENT])
def test_without_an_answer_the_overlap_counts(answer: Answer) -> None:
    """The message appears during the overlap, and when the phase ends for it. A silent API server has the time of a
    publication to return.
    """
    said = "certmond cannot read the CA of the Pods, so the phase waits only for `root_ca.overlap`: the answer"
    for ago in (timedelta(), TAKES - SECOND, TAKES):
        if answer is Answer.SILENT and ago < TAKES:
            assert asked(answer, ago=ago) == Gate(("the answer",), NOW + PAUSE)
        else:
            assert asked(answer, ago=ago) == Gate(message=said)
            assert asked(answer, OVERLAP, ago) == replace(OVERLAP, waits=(*OVERLAP.waits, said))


def test_an_overlap_that_is_too_short_for_pods_is_reported() -> None:
    """The limit is the time of a leader's Lease and a kubelet's sync, if the rotation does not wait for Pods. The
    message has the figures and the setting.
    """
    assert LEADS.total_seconds() == 39.4
    assert SYNCED.total_seconds() == 90
    short, enough = RootCaSpec(overlap=timedelta(seconds=129)), RootCaSpec(overlap=timedelta(seconds=130))
    reported = short_overlap(short, ClusterSpec())
    assert reported is not None
    assert reported.startswith("root_ca.overlap is 129 s, but Pods might not trust a new CA for up to 130 s")
    assert "40 s until the restarted kube-controller-manager publishes the CA" in reported
    assert reported.endswith("set root_ca.overlap to 130s or more")
    ignoring = ClusterSpec(kubeconfig="/x.conf", workloads="ignore")
    assert short_overlap(short, ignoring) == reported
    assert short_overlap(short, ClusterSpec(kubeconfig="/x.conf")) is None
    assert short_overlap(enough, ClusterSpec()) is None


def test_certificates_of_pods_are_searched_once_in_issue() -> None:
    """certmond searches in the phase `issue` of the Kubernetes Root CA, with an overlap, until the record contains the
    time.
    """
    assert [phase for phase in sequence(PLANNED) if searches_certificates(at(phase))] == [Phase.ISSUE]
    issue = at(Phase.ISSUE)
    for other in (replace(issue, family="etcd-ca"), replace(issue, mode=Mode.REPLACE), replace(issue, published=NOW)):
        assert not searches_certificates(other)


def test_certificates_of_pods_are_noted() -> None:
    """If Pods have certificates, the record must contain the present time before the phase ends."""
    issue = at(Phase.ISSUE)
    noted = replace(issue, published=NOW)
    assert certificates_gate(issue, OVERLAP, Asked(Answer.BEHIND, "found"), NOW) == Gate(("found",), NOW, noted)
    assert certificates_gate(issue, OVERLAP, Asked(Answer.PUBLISHED, "none"), NOW) == OVERLAP


@pytest.mark.parametrize("answer", [Answer.SILENT, Answer.REFUSED])
def test_a_failed_search_for_certificates_is_reported(answer: Answer) -> None:
    """certmond searches again until the overlap has passed. Then the message states that the search failed."""
    asked = Asked(answer, "why")
    assert certificates_gate(at(Phase.ISSUE), OVERLAP, asked, NOW) == OVERLAP
    message = certificates_gate(at(Phase.ISSUE), Gate(), asked, NOW).message
    assert message.startswith("certmond cannot list the Pods with client certificates, so the phase waits only for ")
    assert message.endswith(": why")
