"""The interim trust for a replaced anchor: the old CA, the required files, and the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certmond.pki.planning.steps import AbsentFile, Bundle, Flags, KeyOf
from certmond.pki.rotation.phases import Phase, Rotation, sequence
from certmond.pki.rotation.replaced_ca_detection import Change
from certmond.pki.rotation.replaced_ca_interim_trust import (
    advanced,
    interim_of,
    is_reached,
    next_step,
    untrusted_signer,
)
from certmond.pki.rotation.trust_anchor_state import Ground
from tests.builders import DAY, NOW, YEAR, Issued, make_ca
from tests.pki.rotation_node import (
    ANCHOR,
    APART,
    MANAGER,
    MANIFEST,
    NEW,
    OLD,
    OWN,
    OWN_KEY,
    SHARED,
    UNRELATED,
    ground,
    signer,
)

FLAGS = ("cluster-signing-cert-file", "cluster-signing-key-file")
EXPIRED = make_ca(not_before=NOW - YEAR, not_after=NOW - DAY)
LATER = make_ca(not_before=NOW + DAY, not_after=NOW + YEAR)
FOUND = ground(NEW, key=NEW, signer=signer())


def made(*old: Issued, known: tuple[Issued, ...] | None = None, seen: Ground = FOUND) -> Rotation | str:
    change = Change("ca", tuple(each.facts for each in old), NEW.facts, "it is reported")
    known_facts = old if known is None else known
    return interim_of(change, seen, [each.facts for each in known_facts], NOW, "interim-1")


def sure(found: Rotation | str | None) -> Rotation:
    assert isinstance(found, Rotation), found
    return found


AID = sure(made(OLD))
BACK = sure(advanced(AID, ground(NEW, OLD, key=OLD), depends_on_former=True, settled=False, now=NOW))


def test_it_is_the_first_step_of_a_rotation_to_the_found_ca() -> None:
    """It uses only recorded anchors that are valid."""
    assert (AID.old, AID.new, AID.phase, AID.found) == ((OLD.facts,), NEW.facts, Phase.TRUST, True)
    assert made(EXPIRED, OLD, LATER) == AID
    assert made(OLD, UNRELATED, known=(OLD,)) == AID
    assert made(OLD, known=(OLD, UNRELATED)) == AID


def test_the_first_and_the_last_second_of_an_old_ca_count() -> None:
    """The validity period includes notBefore and notAfter (RFC 5280, 4.1.2.5)."""
    for old in (make_ca(not_before=NOW, not_after=NOW + YEAR), make_ca(not_before=NOW - YEAR, not_after=NOW)):
        assert sure(made(old)).old == (old.facts,)


@pytest.mark.parametrize("old", [EXPIRED, LATER])
def test_an_invalid_old_ca_gets_no_aid(old: Issued) -> None:
    """No component accepts the certificates of such a CA."""
    why = "this node cannot trust the old CA again: the record of the node contains no old CA that is valid now"
    assert made(old) == made(OLD, known=()) == why


def test_there_is_none_if_its_step_is_impossible() -> None:
    """A controller-manager with foreign files keeps them."""
    foreign = ground(NEW, key=NEW, signer=signer(UNRELATED, now=SHARED))
    assert OWN in str(made(OLD, seen=foreign))


def test_both_are_trusted_and_the_signer_has_a_separate_pair() -> None:
    """The installed one comes first, and the CA's key is not written."""
    step = next_step(AID, FOUND)
    assert step
    assert step.wants == (
        KeyOf(OWN_KEY, NEW.facts), Bundle(OWN, (NEW.facts,)),
        Flags(MANIFEST, MANAGER, tuple(zip(FLAGS, APART, strict=True))), Bundle(ANCHOR, (NEW.facts, OLD.facts)),
    )  # fmt: skip
    assert step.detail.startswith("interim trust for ca: ")
    assert step.detail.endswith(f"{ANCHOR} will contain the new CA and the old CA")
    assert not is_reached(AID, FOUND)
    done = ground(NEW, OLD, key=NEW, signer=signer(NEW))
    assert next_step(AID, done) is None
    assert is_reached(AID, done)


@pytest.mark.parametrize("seen", [ground(NEW, key=OLD), ground(NEW, key=None), ground(NEW, UNRELATED, key=NEW)])
def test_no_file_changes_beside_another_key_or_anchor(seen: Ground) -> None:
    """The interim never writes a key of a CA and never removes a foreign one. So it is not reached."""
    assert next_step(AID, seen) is None
    assert not is_reached(AID, seen)


def test_it_continues_until_an_operator_decides() -> None:
    """It lasts while the other CA's pair is installed, and the old one is in its file or needed."""
    for trust, lives in (((NEW, OLD), True), ((NEW, OLD), False), ((NEW,), True), ((OLD,), False)):
        assert advanced(AID, ground(*trust, key=NEW), depends_on_former=lives, settled=True, now=NOW) is AID


def test_the_old_key_ends_it_with_the_old_anchor_alone() -> None:
    """First the signer returns to the anchor's files, then its separate files are removed, and interim trust ends."""
    assert (BACK.old, BACK.new, BACK.phase, BACK.aborted) == ((NEW.facts,), OLD.facts, Phase.ATTACH, True)
    step = next_step(BACK, ground(NEW, OLD, key=OLD, signer=signer(NEW)))
    assert step
    shared = Flags(MANIFEST, MANAGER, tuple(zip(FLAGS, SHARED, strict=True)))
    assert step.wants == (shared, Bundle(ANCHOR, (OLD.facts,)))
    ended(BACK, ground(OLD, key=OLD, signer=signer(NEW, now=SHARED)))


def test_a_removed_ca_ends_it_with_the_other_anchor_alone() -> None:
    """The condition is that no file of the node uses the old one."""
    seen = ground(NEW, key=NEW, signer=signer(NEW))
    later = sure(advanced(AID, seen, depends_on_former=False, settled=False, now=NOW + DAY))
    assert later == replace(AID, phase=Phase.ATTACH, since=NOW + DAY)
    assert advanced(AID, replace(seen, key=OLD.facts.key, signer=None), depends_on_former=False, settled=True, now=NOW)
    ended(later, replace(seen, signer=signer(NEW, now=SHARED)))


def ended(last: Rotation, seen: Ground) -> None:
    """The interim ends after its last phase but one."""
    assert advanced(last, seen, depends_on_former=False, settled=False, now=NOW) is last
    over = sure(advanced(last, seen, depends_on_former=False, settled=True, now=NOW))
    assert over.over
    step = next_step(over, seen)
    assert step
    assert step.wants == (AbsentFile(OWN), AbsentFile(OWN_KEY))
    assert advanced(over, seen, depends_on_former=False, settled=False, now=NOW) is over
    assert advanced(over, seen, depends_on_former=False, settled=True, now=NOW) is None


def test_an_anchor_without_a_signer_has_no_phase_for_one() -> None:
    """The rule covers etcd's CA and the front proxy's: the trust is removed, and the interim ends."""
    family = replace(AID, family="etcd-ca")
    back = advanced(
        family, replace(ground(NEW, OLD, key=OLD), family="etcd-ca"), depends_on_former=True, settled=True, now=NOW
    )
    assert back
    assert back.phase is Phase.DISTRUST
    assert back.phase in sequence(back)


def test_a_signer_with_a_ca_that_the_node_does_not_trust_is_named() -> None:
    """The sentence has the file, the reason and the change of the manifest. A trusted signer, a signer with the files
    of the anchor, and a node without a signer have none.
    """
    said = untrusted_signer(ground(NEW, key=NEW, signer=signer(UNRELATED, now=APART)))
    assert said is not None
    assert f"signs with {OWN}, but {ANCHOR} lacks this CA" in said
    assert f"in {MANIFEST}, set --cluster-signing-cert-file to {SHARED[0]}" in said
    for without in (signer(NEW, now=APART), signer(UNRELATED, now=SHARED), signer(now=APART), None):
        assert untrusted_signer(ground(NEW, key=NEW, signer=without)) is None
