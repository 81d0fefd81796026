"""An anchor that was found in place of another: until when clients of the former one are kept out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certmond.pki.inventory import Inventory
from certmond.pki.rotation import Mode, Phase
from certmond.pki.rotation_found import is_refused
from tests.builders import Issued
from tests.pki.rotation_node import ANCHOR, NEW, OLD, at, conf, ground

NOTHING = Inventory(())


@pytest.mark.parametrize("phase", Phase)
def test_while_both_are_to_be_trusted_the_anchors_file_and_each_kubeconfig_decide(phase: Phase) -> None:
    """The API server takes clients by the one, and its clients take the API server by the others. A kubeconfig that
    names the anchor's file embeds nothing. From the next phase on both are trusted everywhere.
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
    """Whatever the files hold; and of one key nobody is kept out."""
    shown = ground(*trust, key=NEW)
    for phase in Phase:
        found = at(phase, found=True, mode=Mode.REPLACE)
        assert is_refused(found, shown, NOTHING) is (phase is Phase.ISSUE)
        assert not is_refused(replace(found, mode=Mode.REISSUE), shown, NOTHING)


def test_a_rotation_that_somebody_asked_for_keeps_nobody_out() -> None:
    """Both were trusted before anything was of the new one."""
    assert is_refused(at(Phase.TRUST, found=True), ground(NEW, key=NEW), NOTHING)
    assert not is_refused(at(Phase.TRUST), ground(NEW, key=NEW), NOTHING)
