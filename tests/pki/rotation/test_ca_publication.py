"""When a node by itself may leave `trust`: not before pods have both CAs, as far as anybody can be asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from certmond.pki.catalog.settings import ClusterSpec, RootCaSpec
from certmond.pki.rotation.ca_publication import (
    LEADS,
    SYNCED,
    TAKES,
    Answer,
    Asked,
    concerns,
    gate,
    published_gate,
    short_overlap,
)
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Mode, Phase, sequence
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
def test_what_is_published_is_noted_and_given_the_kubelets_time(held: Gate) -> None:
    """The instant goes into the record; from it on kubelets have their sync, and the overlap what is left of it. A
    clock that was set back since does not make anybody wait for it.
    """
    found = asked(Answer.PUBLISHED, held)
    assert (found.waits, found.noted) == (
        ("the answer; kubelets update running pods within 90 s",), replace(TRUST, published=NOW)
    )  # fmt: skip
    noted = replace(TRUST, published=NOW)
    waits = published_gate(noted, held, NOW + SYNCED - SECOND)
    assert waits.waits[: len(held.waits)] == held.waits
    assert "kubelets update running pods until" in waits.waits[-1]
    assert waits.until == NOW + SYNCED
    assert published_gate(noted, held, NOW + SYNCED) == published_gate(noted, held, NOW - SECOND) == held


@pytest.mark.parametrize("held", [Gate(), OVERLAP], ids=["overlap over", "overlap lasts"])
def test_what_is_not_published_is_waited_for(held: Gate) -> None:
    """However long it takes, and though the overlap is over; it is asked again after the pause."""
    for ago in (timedelta(), DAY):
        assert asked(Answer.BEHIND, held, ago) == Gate((*held.waits, "the answer"), NOW + PAUSE)


@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.SILENT])
def test_where_nobody_can_be_asked_the_overlap_counts(answer: Answer) -> None:
    """It is said while the overlap lasts, and when the phase is left for it. An API server that does not answer has
    the time that a publication takes to come back.
    """
    said = "certmond cannot read the CA of the pods, so the phase waits for `root_ca.overlap` only: the answer"
    for ago in (timedelta(), TAKES - SECOND, TAKES):
        if answer is Answer.SILENT and ago < TAKES:
            assert asked(answer, ago=ago) == Gate(("the answer",), NOW + PAUSE)
        else:
            assert asked(answer, ago=ago) == Gate(message=said)
            assert asked(answer, OVERLAP, ago) == replace(OVERLAP, waits=(*OVERLAP.waits, said))


def test_an_overlap_that_is_too_short_for_pods_is_told() -> None:
    """Below the time of a leader's Lease and a kubelet's sync, where nobody waits for pods, with the figures and what
    to set instead.
    """
    assert LEADS.total_seconds() == 39.4
    assert SYNCED.total_seconds() == 90
    short, enough = RootCaSpec(overlap=timedelta(seconds=129)), RootCaSpec(overlap=timedelta(seconds=130))
    told = short_overlap(short, ClusterSpec())
    assert told is not None
    assert told.startswith("root_ca.overlap is 129 s, and pods may trust a new CA up to 130 s late")
    assert "within 40 s of its restart" in told
    assert told.endswith("set it to 130s or more")
    ignoring = ClusterSpec(kubeconfig="/x.conf", workloads="ignore")
    assert short_overlap(short, ignoring) == told
    assert short_overlap(short, ClusterSpec(kubeconfig="/x.conf")) is None
    assert short_overlap(enough, ClusterSpec()) is None
