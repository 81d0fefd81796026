"""An anchor that was found in place of another: the time until clients of the old one are accepted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certmond.pki.catalog.observation import Inventory
from certmond.pki.rotation.phases import Mode, Phase
from certmond.pki.rotation.replaced_ca_detection import is_refused
from tests.builders import Issued
from tests.pki.rotation_node import ANCHOR, NEW, OLD, at, conf, ground

NOTHING = Inventory(())


@pytest.mark.parametrize("phase", Phase)
def test_during_the_trust_phase_the_files_of_the_anchor_and_the_kubeconfigs_decide(phase: Phase) -> None:
    """The API server accepts clients by the first, and its clients the API server by the others. A kubeconfig that
    names the anchor's file embeds nothing. From the next phase on both CAs are trusted everywhere.
    """
    found = at(phase, found=True)
    for trust, embedded, refused in (
        ((NEW,), (NEW, OLD), True),
        ((NEW, OLD), (OLD,), True),
        ((NEW, OLD), (OLD, NEW), False),
    ):
        inventory = Inventory((conf(*embedded),))
        assert is_refused(found, ground(*trust, key=NEW), inventory) is (refused and phase is Phase.TRUST)
    by_file = Inventory((conf(OLD, file=ANCHOR),))
    assert not is_refused(found, ground(NEW, OLD, key=NEW), by_file)


@pytest.mark.parametrize("trust", [(NEW,), (NEW, OLD), (OLD,)])
def test_without_an_overlap_it_lasts_until_the_leaves_have_followed(trust: tuple[Issued, ...]) -> None:
    """The content of the files does not matter. With the same key no client is refused."""
    shown = ground(*trust, key=NEW)
    for phase in Phase:
        found = at(phase, found=True, mode=Mode.REPLACE)
        assert is_refused(found, shown, NOTHING) is (phase is Phase.ISSUE)
        assert not is_refused(replace(found, mode=Mode.REISSUE), shown, NOTHING)


def test_a_requested_rotation_refuses_no_client() -> None:
    """Both CAs are trusted before any certificate is of the new one."""
    assert is_refused(at(Phase.TRUST, found=True), ground(NEW, key=NEW), NOTHING)
    assert not is_refused(at(Phase.TRUST), ground(NEW, key=NEW), NOTHING)
