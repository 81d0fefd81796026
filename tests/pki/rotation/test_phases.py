"""The phases of a rotation: their sequence, the required files of each, the start, and the abort."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from certmond.errors import RotationError
from certmond.pki.rotation.phases import (
    Desired,
    Mode,
    Phase,
    Rotation,
    abort,
    begin,
    desired,
    flaw,
    following,
    may_be_aborted,
    sequence,
)
from tests.builders import HOUR, NOW
from tests.pki.rotation_node import NEW, OLD, PLANNED, UNRELATED, at

P = Phase
O, N = OLD.facts, NEW.facts  # noqa: E741 - as the plan on paper calls them
SHORT = (P.PREPARE, P.DISTRUST, P.DONE)
AT_ONCE = (P.PREPARE, P.ISSUE, P.DONE)


def rotation(mode: Mode = Mode.OVERLAP, family: str = "ca", *, found: bool = False) -> Rotation:
    return replace(PLANNED, mode=mode, family=family, found=found)


@pytest.mark.parametrize(
    ("given", "phases"),
    [
        (rotation(), (P.PREPARE, P.DETACH, P.TRUST, P.ISSUE, P.DISTRUST, P.ATTACH, P.DONE)),
        (rotation(family="etcd-ca"), (P.PREPARE, P.TRUST, P.ISSUE, P.DISTRUST, P.DONE)),
        (rotation(found=True), (P.PREPARE, P.TRUST, P.ISSUE, P.DISTRUST, P.ATTACH, P.DONE)),
        (rotation(family="front-proxy-ca", found=True), (P.PREPARE, P.TRUST, P.ISSUE, P.DISTRUST, P.DONE)),
        (rotation(Mode.REISSUE), SHORT),
        (rotation(Mode.REISSUE, "etcd-ca"), SHORT),
        (rotation(Mode.REISSUE, found=True), SHORT),
        (rotation(Mode.REPLACE), AT_ONCE),
        (rotation(Mode.REPLACE, "etcd-ca"), AT_ONCE),
        (rotation(Mode.REPLACE, found=True), AT_ONCE),
    ],
)
def test_each_mode_has_its_phases_and_only_the_family_ca_a_signer(given: Rotation, phases: tuple[Phase, ...]) -> None:
    """Another anchor has no detach phase, and neither has a found CA, which signs already. The phases follow each other
    from then on, and the last one has no successor.
    """
    assert sequence(given) == phases
    for number, (here, later) in enumerate(pairwise(phases), 1):
        now = NOW + number * HOUR
        assert following(replace(given, phase=here, published=NOW), now) == replace(given, phase=later, since=now)
    last = replace(given, phase=P.DONE)
    assert following(last, NOW + HOUR) is last
    assert last.over
    assert not given.over


@pytest.mark.parametrize(
    ("phase", "wanted"),
    [
        (P.PREPARE, None),
        (P.DETACH, Desired((O,), detached=O)),
        (P.TRUST, Desired((O, N), detached=O)),
        (P.ISSUE, Desired((N, O), detached=N, leaves=N)),
        (P.DISTRUST, Desired((N,), detached=N, leaves=N)),
        (P.ATTACH, Desired((N,), leaves=N)),
        (P.DONE, Desired((N,), leaves=N, tidy=True)),
    ],
)
def test_with_an_overlap_each_phase_asks_for_its_files(phase: Phase, wanted: Desired | None) -> None:
    """The old one signs until all trust the new one; the new one alone is trusted when it has signed everything."""
    assert desired(at(phase)) == wanted


@pytest.mark.parametrize(
    ("phase", "wanted"),
    [
        (P.TRUST, Desired((O, N))),
        (P.ISSUE, Desired((N, O), leaves=N)),
        (P.DISTRUST, Desired((N,), leaves=N)),
        (P.DONE, Desired((N,), leaves=N, tidy=True)),
    ],
)
def test_another_family_requires_nothing_of_the_controller_manager(phase: Phase, wanted: Desired) -> None:
    """It signs with none of them."""
    assert desired(at(phase, family="etcd-ca")) == wanted


def test_a_found_ca_signs_already_and_is_trusted_beside_the_old_one() -> None:
    """The installed key belongs to the new CA, which is therefore first, followed by all earlier ones."""
    old = (O, UNRELATED.facts)
    assert desired(at(P.TRUST, found=True, old=old)) == Desired((N, *old), detached=N)
    assert desired(at(P.TRUST, found=True, old=old, family="etcd-ca")) == Desired((N, *old))
    assert desired(at(P.ISSUE, found=True, old=old)) == Desired((N, *old), detached=N, leaves=N)
    assert desired(at(P.DISTRUST, found=True, old=old)) == desired(at(P.DISTRUST))


def test_other_dates_ask_for_no_leaf() -> None:
    """Every leaf verifies under either certificate, and the signer stays where it is."""
    assert desired(at(P.DISTRUST, mode=Mode.REISSUE)) == Desired((N,))
    assert desired(at(P.DONE, mode=Mode.REISSUE)) == Desired((N,), tidy=True)


def test_at_once_trusts_only_the_new_ca_when_it_signs() -> None:
    """There is no overlap and no detach phase."""
    assert desired(at(P.ISSUE, mode=Mode.REPLACE)) == Desired((N,), leaves=N)
    assert desired(at(P.DONE, mode=Mode.REPLACE)) == Desired((N,), leaves=N, tidy=True)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("found", [False, True])
def test_the_first_that_is_trusted_belongs_to_the_key(phase: Phase, found: bool) -> None:
    """It is the one that signs from the anchor's files, and never the other one before all trust it."""
    wanted = desired(at(phase, found=found))
    if wanted:
        assert wanted.signing == wanted.trust[0]
        assert wanted.leaves in {None, wanted.signing}
        assert wanted.detached in {None, wanted.signing}


@pytest.mark.parametrize(
    ("given", "first"),
    [
        (rotation(), P.PREPARE), (rotation(Mode.REISSUE), P.PREPARE), (rotation(Mode.REPLACE), P.PREPARE),
        (rotation(found=True), P.TRUST), (rotation(family="etcd-ca", found=True), P.TRUST),
        (rotation(Mode.REISSUE, found=True), P.DISTRUST), (rotation(Mode.REPLACE, found=True), P.ISSUE),
    ],
)  # fmt: skip
def test_a_requested_rotation_starts_with_prepare_and_a_found_one_with_trust(given: Rotation, first: Phase) -> None:
    """If the new anchor is installed already, it needs no preparation and no delay."""
    assert begin(given) == replace(given, phase=first)


@pytest.mark.parametrize(
    ("given", "phase"),
    [
        (at(P.PREPARE), P.DONE), (at(P.DETACH), P.ATTACH), (at(P.TRUST), P.DISTRUST), (at(P.ISSUE), P.ISSUE),
        (at(P.PREPARE, family="etcd-ca"), P.DONE), (at(P.TRUST, family="etcd-ca"), P.DISTRUST),
        (at(P.ISSUE, family="etcd-ca"), P.ISSUE), (at(P.PREPARE, mode=Mode.REISSUE), P.DONE),
        (at(P.PREPARE, mode=Mode.REPLACE), P.DONE),
    ],
)  # fmt: skip
def test_an_abort_is_the_same_machine_with_old_and_new_exchanged(given: Rotation, phase: Phase) -> None:
    """It begins in the mirrored phase, now, as a rotation without reports. The phase is one of its sequence, so that it
    continues to the end.
    """
    now = NOW + HOUR
    assert may_be_aborted(given)
    back = abort(replace(given, published=NOW, excluded=("gone",)), now)
    assert back == replace(
        given, id="r1-back", old=(N,), new=O, phase=phase, since=now, aborted=True, excluded=("gone",)
    )
    assert phase in sequence(back)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (at(P.DONE), "the rotation r1 of ca is done, and cannot be aborted"),
        (at(P.ISSUE, aborted=True), "the rotation r1 of ca is an abort already"),
        *(
            (each, f"in the phase {each.phase} and cannot be aborted: a node might distrust the old CA already")
            for each in (
                at(P.DISTRUST), at(P.ATTACH), at(P.DISTRUST, mode=Mode.REISSUE), at(P.ISSUE, mode=Mode.REPLACE),
                at(P.DISTRUST, found=True),
            )
        ),
        (at(P.TRUST, found=True), "began after a CA was replaced on disk, and cannot be aborted; let the"),
        (at(P.ISSUE, found=True, old=(O, UNRELATED.facts)), "restore the old certificate and key"),
    ],
)  # fmt: skip
def test_an_impossible_abort_has_its_reason(given: Rotation, said: str) -> None:
    """The error has the alternative. No earlier message offers an abort."""
    assert not may_be_aborted(given)
    with pytest.raises(RotationError, match=said):
        abort(given, NOW)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *((at(phase), None) for phase in P),
        (at(P.TRUST, found=True, old=(O, UNRELATED.facts)), None),
        (at(P.TRUST, old=()), "it has no old anchor"),
        (at(P.TRUST, old=(O, UNRELATED.facts)), "it has several old anchors"),
        (
            at(P.TRUST, new=N.key),
            "it mixes certificates and public keys as anchors, but all anchors must be of one kind",
        ),
        (at(P.TRUST, mode=Mode.REISSUE), "a rotation of ca in the mode reissue has no phase trust"),
        (at(P.DETACH, family="etcd-ca"), "a rotation of etcd-ca in the mode overlap has no phase detach"),
        (at(P.DETACH, found=True), "a rotation of ca in the mode overlap has no phase detach"),
    ],
)
def test_an_impossible_rotation_is_refused(given: Rotation, said: str | None) -> None:
    """A record that was read is a rotation that begins, continues or aborts, or an error with the reason."""
    assert flaw(given) == said
