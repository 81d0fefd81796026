"""Another anchor stands where the node's own one stood: by which evidence that is told, and what is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from certmond.pki.certificate import Certificate
from certmond.pki.inventory import Inventory, Observation, Permissions
from certmond.pki.rotation import Phase
from certmond.pki.rotation_found import Change, changed, has_signed_all, overtaken
from certmond.pki.rotation_steps import Ground
from tests.builders import Issued, make_intermediate, make_leaf
from tests.pki.rotation_node import (
    AFRESH,
    ANCHOR,
    CA,
    NEW,
    OLD,
    STRANGER,
    anchors,
    at,
    conf,
    ground,
    leaf,
    row,
    see,
    signer,
)


def seen(
    *observations: Observation, trust: tuple[Issued, ...] = (NEW,), known: tuple[Issued, ...] = ()
) -> Change | None:
    """What is found where `trust` is in the anchor's file."""
    remembered = tuple(each.facts for each in known)
    return changed("ca", ground(*trust, key=NEW), remembered, Inventory((*anchors(*trust), *observations)))


def change(because: str, *old: Issued, new: Issued = NEW) -> Change:
    return Change("ca", tuple(each.facts for each in old), new.facts, because)


def test_a_kubeconfig_that_trusts_another_one_is_evidence() -> None:
    """No memory is needed: what it embeds is what the node has lived by."""
    assert seen(conf(OLD)) == change("/admin.conf trusts the former one", OLD)
    assert seen(conf(OLD, file=ANCHOR)) == change("/admin.conf trusts the former one", OLD)


def test_a_leaf_that_a_remembered_one_has_signed_is_evidence() -> None:
    """And the new one has not."""
    assert seen(leaf(OLD), known=(OLD,)) == change("/pki/leaf.crt is of the former one", OLD)
    below = make_intermediate(OLD)
    assert seen(see(row(), make_leaf(below), below), known=(OLD,)) == change("/pki/leaf.crt is of the former one", OLD)


def test_a_leaf_alone_does_not_tell_whose_it_was() -> None:
    """Where nobody remembers the former one, there is nothing to go back to or to trust beside."""
    assert seen(leaf(OLD)) is None
    assert seen(leaf(OLD), known=(STRANGER,)) is None


def test_the_former_one_may_still_be_in_the_bundle() -> None:
    """Then its leaves tell, though every kubeconfig trusts both."""
    assert seen(leaf(OLD), conf(OLD, NEW), trust=(NEW, OLD)) == change("/pki/leaf.crt is of the former one", OLD)
    assert seen(leaf(OLD), trust=(NEW, OLD)) == change("/pki/leaf.crt is of the former one", OLD)
    assert seen(conf(OLD, NEW), trust=(NEW, OLD)) is None


def test_the_former_one_may_be_known_from_a_kubeconfig_that_trusts_both() -> None:
    """It is no evidence by itself, but says who has signed the leaves."""
    assert seen(leaf(OLD), conf(NEW, OLD)) == change("/pki/leaf.crt is of the former one", OLD)


def test_several_that_went_before_are_all_told() -> None:
    """Each is needed until all that hangs on it is of the new one. The first evidence is the one that is said."""
    found = seen(conf(OLD), leaf(STRANGER), known=(STRANGER, OLD))
    assert found == change("/admin.conf trusts the former one", OLD, STRANGER)


def test_where_the_former_one_is_remembered_no_file_makes_another_one_of_it() -> None:
    """Else whoever can write a kubeconfig would have a CA of their own trusted beside it."""
    assert seen(conf(STRANGER), leaf(OLD), known=(OLD,)) == change("/pki/leaf.crt is of the former one", OLD)
    assert seen(conf(STRANGER), known=(OLD,)) is None
    assert seen(leaf(STRANGER), conf(STRANGER), trust=(NEW, STRANGER), known=(OLD,)) is None


@pytest.mark.parametrize(
    ("owner", "mode", "counts"),
    [("root:root", 0o600, True), ("0:0", 0o644, True), ("kim:root", 0o600, False), ("root:root", 0o620, False),
     ("root:root", 0o602, False)],
)  # fmt: skip
def test_where_nobody_remembers_it_only_files_of_root_tell(owner: str, mode: int, counts: bool) -> None:
    """What others can write is what they would have us believe."""
    permissions = (Permissions("/admin.conf", mode, owner, secret=True),)
    found = seen(replace(conf(OLD), permissions=permissions), replace(leaf(OLD), permissions=permissions))
    assert (found is not None) == counts


def test_an_anchor_that_the_node_has_lived_by_is_no_change() -> None:
    """Whatever else is still there, of which it has never lived."""
    assert seen(conf(OLD), leaf(OLD), known=(NEW,)) is None
    assert seen(conf(OLD), trust=(OLD, NEW), known=(OLD,)) is None


def test_a_former_one_that_is_gone_from_the_bundle_is_a_change() -> None:
    """The new one was remembered when both were trusted. What is left of the former one has nobody who accepts it."""
    for known in ((OLD, NEW), (NEW, OLD)):
        assert seen(conf(OLD), known=known) == change("/admin.conf trusts the former one", OLD)
        assert seen(conf(OLD, NEW), leaf(OLD), known=known) == change("/pki/leaf.crt is of the former one", OLD)
        assert seen(conf(OLD, NEW), leaf(NEW), known=known) is None


def test_both_in_the_bundle_are_no_change_whichever_signs() -> None:
    """Somebody rotates by hand, and everything is accepted: a leaf that is of either, a kubeconfig that trusts one."""
    for trust in ((OLD, NEW), (NEW, OLD)):
        assert seen(conf(OLD), conf(NEW), leaf(OLD), leaf(NEW), trust=trust, known=(OLD, NEW)) is None


@pytest.mark.parametrize(("owner", "counts"), [("root:root", True), ("kim:root", False)])
def test_only_files_of_root_tell_of_one_that_was_trusted_beside(owner: str, counts: bool) -> None:
    """It was taken out, and did not sign when it was remembered: nobody else's file is to have it trusted again."""
    permissions = (Permissions("/admin.conf", 0o600, owner, secret=True),)
    embeds, signed = replace(conf(STRANGER), permissions=permissions), replace(leaf(STRANGER), permissions=permissions)
    for observation in (embeds, signed):
        assert (seen(observation, known=(NEW, STRANGER)) is not None) == counts
        assert seen(observation, known=(STRANGER, NEW)) is not None


def test_where_nothing_is_left_of_the_former_one_there_is_nothing_to_rotate() -> None:
    """Somebody has done it all."""
    assert seen(conf(NEW), leaf(NEW), known=(OLD,)) is None


def test_the_same_key_again_is_told_by_kubeconfigs_only() -> None:
    """Every leaf verifies under either certificate."""
    assert seen(conf(OLD), leaf(OLD), trust=(AFRESH,), known=(OLD,)) == change(
        "/admin.conf trusts the former one", OLD, new=AFRESH
    )
    assert seen(conf(AFRESH), leaf(OLD), trust=(AFRESH,), known=(OLD,)) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(conf(OLD), name="admin.conf#2"),
        leaf(OLD, ca="etcd-ca"),
        see(row("leaf")),
        see(CA, OLD),
        replace(conf(OLD), spec=row("admin.conf", embedded_ca="other", ca="etcd-ca", kind="kubeconfig", key=None)),
    ],
)  # fmt: skip
def test_what_does_not_hang_on_the_family_is_no_evidence(other: Observation) -> None:
    """Nor is what stands behind another in its file, nor an entry without a certificate, nor an anchor itself."""
    assert seen(other, known=(OLD,)) is None


def test_a_file_without_a_ca_is_not_another_ca() -> None:
    """That is told as what it is."""
    none: tuple[Certificate, ...] = ()
    assert changed("ca", Ground("ca", ANCHOR, None, none), (OLD.facts,), Inventory((conf(OLD),))) is None


@pytest.mark.parametrize(
    ("phase", "fields", "leaves", "trusted"),
    [
        (Phase.TRUST, {}, [leaf(OLD), see(row("none"))], (OLD,)),
        (Phase.TRUST, {}, [leaf(OLD), leaf(NEW, "later")], (OLD, NEW)),
        (Phase.TRUST, {"signer": signer(NEW)}, [leaf(OLD)], (OLD, NEW)),
        (Phase.ISSUE, {}, [leaf(OLD)], (OLD, NEW)),
        (Phase.DISTRUST, {}, [leaf(NEW)], (NEW,)),
    ],
)  # fmt: skip
def test_a_third_one_takes_the_place_of_the_second(
    phase: Phase, fields: dict[str, Any], leaves: list[Observation], trusted: tuple[Issued, ...]
) -> None:
    """With its key, while a rotation leads to the second one, which was found in place. Trusted beside it is every one
    that has signed, or may have done so on another node; of a second one that has signed nothing nobody needs trust.
    """
    rotation = at(phase, found=True)
    found = overtaken(rotation, ground(STRANGER, key=STRANGER, **fields), Inventory(tuple(leaves)))
    assert found is not None
    assert (found.old, found.new) == (tuple(each.facts for each in trusted), STRANGER.facts)


def test_a_second_one_that_is_still_in_the_bundle_stays_trusted() -> None:
    """Who has put the third one in place has let it stand there."""
    found = overtaken(at(Phase.TRUST, found=True), ground(STRANGER, NEW, key=STRANGER), Inventory(()))
    assert found is not None
    assert found.old == (OLD.facts, NEW.facts)


@pytest.mark.parametrize(
    ("found", "of"),
    [
        (False, ground(STRANGER, key=STRANGER)),
        (True, ground(key=STRANGER)),
        (True, ground(STRANGER, key=NEW)),
        (True, ground(NEW, STRANGER, key=STRANGER)),
    ],
)  # fmt: skip
def test_what_is_no_third_pair_takes_no_ones_place(found: bool, of: Ground) -> None:
    """Nor does it where a person has staged and begun the rotation: somebody else changes the same files."""
    assert overtaken(at(Phase.TRUST, found=found), of, Inventory((leaf(OLD),))) is None


@pytest.mark.parametrize(
    ("leaves", "all_of_new"),
    [
        ((leaf(NEW), conf(OLD)), True), ((leaf(OLD), conf(OLD)), False), ((leaf(NEW), leaf(OLD)), False),
        ((), False), ((see(row(), make_leaf(make_intermediate(NEW)), make_intermediate(NEW)),), False),
    ],
)  # fmt: skip
def test_an_anchor_that_signed_all_leaves_is_in_use(leaves: tuple[Observation, ...], all_of_new: bool) -> None:
    """Whether a kubeconfig trusts the former one does not matter; where there is no leaf, nothing shows a use."""
    inventory = Inventory((*anchors(NEW), *leaves))
    assert has_signed_all(change("as told", OLD), inventory) is all_of_new


def test_a_leaf_of_the_former_key_is_of_the_same_key_again() -> None:
    """The new certificate has the former key, so that who trusts one of them trusts what the other one signs."""
    assert has_signed_all(change("as told", OLD, new=AFRESH), Inventory((*anchors(AFRESH), leaf(OLD))))
