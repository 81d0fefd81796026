"""The detection of a replaced anchor: the evidence that counts, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from certmond.pki.catalog.observation import Inventory, Observation, Permissions
from certmond.pki.rotation.phases import Phase
from certmond.pki.rotation.replaced_ca_detection import Change, changed, has_signed_all, overtaken
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.x509.certificate import Certificate
from tests.builders import Issued, make_intermediate, make_leaf
from tests.pki.rotation_node import (
    ANCHOR,
    CA,
    NEW,
    OLD,
    REISSUED,
    UNRELATED,
    anchors,
    at,
    conf,
    ground,
    leaf,
    row,
    see,
    signer,
)

MIDDLE = make_intermediate(NEW)


def seen(
    *observations: Observation, trust: tuple[Issued, ...] = (NEW,), known: tuple[Issued, ...] = ()
) -> Change | None:
    """Return the detected change if `trust` is in the anchor's file."""
    known_facts = tuple(each.facts for each in known)
    return changed("ca", ground(*trust, key=NEW), known_facts, Inventory((*anchors(*trust), *observations)))


def change(because: str, *old: Issued, new: Issued = NEW) -> Change:
    return Change("ca", tuple(each.facts for each in old), new.facts, because)


def test_a_kubeconfig_that_trusts_another_ca_is_evidence() -> None:
    """No record is needed: the embedded CA is the one that the node has used."""
    assert seen(conf(OLD)) == change("/admin.conf trusts the old CA", OLD)
    assert seen(conf(OLD, file=ANCHOR)) == change("/admin.conf trusts the old CA", OLD)


def test_a_leaf_of_a_recorded_ca_is_evidence() -> None:
    """The new CA has not signed it."""
    assert seen(leaf(OLD), known=(OLD,)) == change("/pki/leaf.crt is signed by the old CA", OLD)
    below = make_intermediate(OLD)
    assert seen(see(row(), make_leaf(below), below), known=(OLD,)) == change(
        "/pki/leaf.crt is signed by the old CA", OLD
    )


def test_a_leaf_alone_does_not_identify_the_old_ca() -> None:
    """Without a record of the old CA, certmond can neither restore it nor trust it beside the new one."""
    assert seen(leaf(OLD)) is None
    assert seen(leaf(OLD), known=(UNRELATED,)) is None


def test_the_old_ca_may_still_be_in_the_bundle() -> None:
    """Then its leaves are evidence, although every kubeconfig trusts both."""
    assert seen(leaf(OLD), conf(OLD, NEW), trust=(NEW, OLD)) == change("/pki/leaf.crt is signed by the old CA", OLD)
    assert seen(leaf(OLD), trust=(NEW, OLD)) == change("/pki/leaf.crt is signed by the old CA", OLD)
    assert seen(conf(OLD, NEW), trust=(NEW, OLD)) is None


def test_the_old_ca_may_be_known_from_a_kubeconfig_that_trusts_both() -> None:
    """The kubeconfig alone is no evidence, but identifies the issuer of the leaves."""
    assert seen(leaf(OLD), conf(NEW, OLD)) == change("/pki/leaf.crt is signed by the old CA", OLD)


def test_several_old_cas_are_all_reported() -> None:
    """Each is needed until all its certificates are of the new one. The message has the first evidence."""
    found = seen(conf(OLD), leaf(UNRELATED), known=(UNRELATED, OLD))
    assert found == change("/admin.conf trusts the old CA", OLD, UNRELATED)


def test_a_recorded_old_ca_is_not_replaced_by_a_file() -> None:
    """Otherwise a user who can write a kubeconfig would have another CA trusted."""
    assert seen(conf(UNRELATED), leaf(OLD), known=(OLD,)) == change("/pki/leaf.crt is signed by the old CA", OLD)
    assert seen(conf(UNRELATED), known=(OLD,)) is None
    assert seen(leaf(UNRELATED), conf(UNRELATED), trust=(NEW, UNRELATED), known=(OLD,)) is None


@pytest.mark.parametrize(
    ("owner", "mode", "counts"),
    [("root:root", 0o600, True), ("0:0", 0o644, True), ("kim:root", 0o600, False), ("root:root", 0o620, False),
     ("root:root", 0o602, False)],
)  # fmt: skip
def test_without_a_record_only_files_of_root_count(owner: str, mode: int, counts: bool) -> None:
    """Other users can forge other files."""
    permissions = (Permissions("/admin.conf", mode, owner, (0, 0), secret=True),)
    found = seen(replace(conf(OLD), permissions=permissions), replace(leaf(OLD), permissions=permissions))
    assert (found is not None) == counts


def test_a_recorded_anchor_is_no_change() -> None:
    """Other CAs in the files, which the node has never used, do not matter."""
    assert seen(conf(OLD), leaf(OLD), known=(NEW,)) is None
    assert seen(conf(OLD), trust=(OLD, NEW), known=(OLD,)) is None


def test_an_old_ca_that_left_the_bundle_is_a_change() -> None:
    """The record has the new CA since both were trusted. No component accepts the certificates of the old one."""
    for known in ((OLD, NEW), (NEW, OLD)):
        assert seen(conf(OLD), known=known) == change("/admin.conf trusts the old CA", OLD)
        assert seen(conf(OLD, NEW), leaf(OLD), known=known) == change("/pki/leaf.crt is signed by the old CA", OLD)
        assert seen(conf(OLD, NEW), leaf(NEW), known=known) is None


def test_both_in_the_bundle_are_no_change_whichever_signs() -> None:
    """An operator rotates by hand, and everything is accepted: a leaf of either, a kubeconfig that trusts one."""
    for trust in ((OLD, NEW), (NEW, OLD)):
        assert seen(conf(OLD), conf(NEW), leaf(OLD), leaf(NEW), trust=trust, known=(OLD, NEW)) is None


@pytest.mark.parametrize(("owner", "counts"), [("root:root", True), ("kim:root", False)])
def test_only_files_of_root_prove_a_ca_that_was_trusted_beside(owner: str, counts: bool) -> None:
    """It was removed and did not sign when it was recorded. A file of another user must not restore its trust."""
    permissions = (Permissions("/admin.conf", 0o600, owner, (0, 0), secret=True),)
    embeds, signed = (
        replace(conf(UNRELATED), permissions=permissions),
        replace(leaf(UNRELATED), permissions=permissions),
    )
    for observation in (embeds, signed):
        assert (seen(observation, known=(NEW, UNRELATED)) is not None) == counts
        assert seen(observation, known=(UNRELATED, NEW)) is not None


def test_without_a_file_of_the_old_ca_there_is_nothing_to_rotate() -> None:
    """An operator has completed the rotation."""
    assert seen(conf(NEW), leaf(NEW), known=(OLD,)) is None


def test_a_reissued_ca_is_detected_by_kubeconfigs_only() -> None:
    """Every leaf verifies under either certificate."""
    assert seen(conf(OLD), leaf(OLD), trust=(REISSUED,), known=(OLD,)) == change(
        "/admin.conf trusts the old CA", OLD, new=REISSUED
    )
    assert seen(conf(REISSUED), leaf(OLD), trust=(REISSUED,), known=(OLD,)) is None


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
def test_a_file_outside_the_family_is_no_evidence(other: Observation) -> None:
    """Neither is a further certificate of a file, an entry without a certificate, or an anchor."""
    assert seen(other, known=(OLD,)) is None


def test_a_file_without_a_ca_is_not_another_ca() -> None:
    """The missing CA has its own finding."""
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
def test_a_third_pair_replaces_the_second(
    phase: Phase, fields: dict[str, Any], leaves: list[Observation], trusted: tuple[Issued, ...]
) -> None:
    """The third pair has its key, while a rotation leads to the second one, which was found in place. Each CA that has
    signed, or may have done so on another node, is trusted beside it. A second one without certificates needs no trust.
    """
    rotation = at(phase, found=True)
    found = overtaken(rotation, ground(UNRELATED, key=UNRELATED, **fields), Inventory(tuple(leaves)))
    assert found is not None
    assert (found.old, found.new) == (tuple(each.facts for each in trusted), UNRELATED.facts)


def test_a_second_one_that_is_still_in_the_bundle_stays_trusted() -> None:
    """The operator who installed the third one has left it there."""
    found = overtaken(at(Phase.TRUST, found=True), ground(UNRELATED, NEW, key=UNRELATED), Inventory(()))
    assert found is not None
    assert found.old == (OLD.facts, NEW.facts)


@pytest.mark.parametrize(
    ("found", "of"),
    [
        (False, ground(UNRELATED, key=UNRELATED)),
        (True, ground(key=UNRELATED)),
        (True, ground(UNRELATED, key=NEW)),
        (True, ground(NEW, UNRELATED, key=UNRELATED)),
    ],
)  # fmt: skip
def test_an_incomplete_pair_replaces_none(found: bool, of: Ground) -> None:
    """A pair does not replace one in a rotation that an operator began: another process changes the same files."""
    assert overtaken(at(Phase.TRUST, found=found), of, Inventory((leaf(OLD),))) is None


@pytest.mark.parametrize(
    ("leaves", "all_of_new"),
    [
        ((leaf(NEW), conf(OLD)), True), ((leaf(OLD), conf(OLD)), False), ((leaf(NEW), leaf(OLD)), False),
        ((), False), ((see(row(), make_leaf(make_intermediate(NEW)), make_intermediate(NEW)),), False),
        ((see(row(), make_leaf(MIDDLE), MIDDLE),), True),
    ],
)  # fmt: skip
def test_an_anchor_that_signed_all_leaves_is_in_use(leaves: tuple[Observation, ...], all_of_new: bool) -> None:
    """The old CA in a kubeconfig has no effect. Without a leaf, no file shows that the anchor is in use."""
    inventory = Inventory((*anchors(NEW), *leaves))
    assert has_signed_all(change("test", OLD), inventory) is all_of_new


def test_a_new_ca_with_the_old_key_signed_the_old_leaves() -> None:
    """Both certificates of the CA have one key, so that a leaf of the old one also has a path to the new one."""
    assert has_signed_all(change("test", OLD, new=REISSUED), Inventory((*anchors(REISSUED), leaf(OLD))))
