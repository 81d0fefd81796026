"""The rotations of other nodes that a node follows, and those that it does not."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448

from certmond.errors import RotationError
from certmond.formats.private_key import sign
from certmond.pki.rotation.authorization import refusal, statement, with_certificate
from certmond.pki.rotation.phases import CERTIFICATE_PREFIX, Mode, Phase, Rotation, abort
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.rotation_certificate import encoded, rotation_grant
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.public_key import describe_key
from tests.builders import DAY, NOW, Issued, make_ca, make_leaf

DATES: Any = {"not_before": NOW - 10 * DAY, "not_after": NOW + 900 * DAY}
OLD, NEW, FOREIGN = make_ca(**DATES), make_ca(**DATES), make_ca(**DATES)


def signed(rotation: Rotation, by: Issued = OLD) -> Rotation:
    made = sign(by.key, statement(rotation))  # type: ignore[arg-type]
    return replace(rotation, signature=b64encode(made).decode())


BEGUN = signed(Rotation("r-1", "ca", Mode.OVERLAP, (OLD.facts,), NEW.facts, Phase.PREPARE, NOW))


def at(phase: Phase, rotation: Rotation = BEGUN) -> Rotation:
    return replace(rotation, phase=phase)


def back(phase: Phase) -> Rotation:
    return abort(at(phase), NOW)


def worker(*trust: Certificate) -> Ground:
    return Ground("ca", "/ca.crt", None, trust or (OLD.facts,), None, False, None)


def control_plane(*trust: Certificate, key: Issued = OLD) -> Ground:
    return Ground("ca", "/ca.crt", "/ca.key", trust or (OLD.facts,), key.facts.key, False, None)


def said(own: Rotation | None, reported: Rotation, ground: Ground, staged: bool = False) -> str:
    return refusal(own, reported, ground, staged=staged, now=NOW) or ""


BOTH, TURNED, AFTER = (OLD.facts, NEW.facts), (NEW.facts, OLD.facts), (NEW.facts,)


@pytest.mark.parametrize(
    ("own", "reported", "ground", "staged"),
    [
        (None, BEGUN, worker(), False),
        (None, BEGUN, control_plane(), False),
        *((None, at(phase), worker(), False) for phase in Phase),
        *((None, at(phase), control_plane(), True) for phase in Phase),
        (None, at(Phase.TRUST), worker(*BOTH), False),
        (None, at(Phase.ISSUE), worker(*TURNED), False),
        (None, at(Phase.DISTRUST), worker(*AFTER), False),
        (at(Phase.DONE, replace(BEGUN, id="r-0")), BEGUN, worker(), False),
        (BEGUN, at(Phase.ISSUE), worker(*BOTH), False),
        (at(Phase.ISSUE), at(Phase.DISTRUST), control_plane(*TURNED, key=NEW), False),
        (at(Phase.TRUST), back(Phase.TRUST), worker(*BOTH), False),
        (at(Phase.TRUST), back(Phase.ISSUE), worker(*BOTH), False),
        (at(Phase.ISSUE), back(Phase.ISSUE), control_plane(*TURNED, key=NEW), True),
        (at(Phase.TRUST), back(Phase.TRUST), control_plane(*BOTH), False),
        (None, back(Phase.ISSUE), worker(), False),
        (None, back(Phase.TRUST), worker(*BOTH), False),
    ],
)
def test_a_signed_record_is_followed(own: Rotation | None, reported: Rotation, ground: Ground, staged: bool) -> None:
    """The node follows it in any phase in which it reads it, joins, or reads the abort."""
    assert said(own, reported, ground, staged) == ""


@pytest.mark.parametrize("key", ["rsa", "ec", "ed25519"])
def test_any_kind_of_key_of_the_old_ca_signs(key: str) -> None:
    """RSA, ECDSA and Ed25519 sign, and the signature verifies for that rotation only."""
    old = make_ca(key=key, **DATES)
    made = signed(replace(BEGUN, old=(old.facts,)), old)
    assert said(None, made, worker(old.facts)) == ""
    assert "not signed" in said(None, replace(made, id="r-2"), worker(old.facts))


EVIL = signed(replace(BEGUN, new=FOREIGN.facts), FOREIGN)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("ground", [worker(), control_plane()], ids=["worker", "control plane"])
@pytest.mark.parametrize(
    "reported",
    [EVIL, replace(EVIL, signature=""), replace(EVIL, signature=BEGUN.signature), replace(BEGUN, signature="===="),
     replace(BEGUN, mode=Mode.REPLACE), replace(BEGUN, family="etcd-ca"), replace(BEGUN, id="r-2"),
     signed(replace(BEGUN, old=(FOREIGN.facts,), new=NEW.facts), OLD)],
    ids=["by another", "unsigned", "for another", "nonsense", "at once", "family", "again", "of another"],
)  # fmt: skip
def test_an_unsigned_record_is_not_followed(reported: Rotation, ground: Ground, phase: Phase) -> None:
    """No node without that rotation follows it, in any phase and with any staged CA."""
    why = said(None, at(phase, reported), ground, staged=True)
    fact = "the key of the old CA has not signed the rotation"
    assert why.startswith(f"this node does not follow {reported.name}: {fact}")
    assert why.endswith(
        "; if you did not start this rotation, find the client that wrote the ConfigMap, and run: "
        "kubectl -n kube-system delete configmap certmond-rotation"
    )


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.PREPARE])
def test_a_foreign_ca_that_signs_its_own_record_is_not_followed(phase: Phase) -> None:
    """A node follows no rotation from a CA that it does not trust, with any signature."""
    reported = at(phase, signed(replace(BEGUN, old=(FOREIGN.facts,)), FOREIGN))
    others = at(phase, signed(replace(BEGUN, old=(OLD.facts, FOREIGN.facts)), FOREIGN))
    first = signed(replace(BEGUN, old=(FOREIGN.facts,), new=OLD.facts), FOREIGN)
    turned = replace(first, id="r-1-back", aborted=True, old=(OLD.facts,), new=FOREIGN.facts, phase=phase)
    for each in (reported, others, turned):
        assert "/ca.crt does not contain the CA that has signed the rotation" in said(None, each, worker())


@pytest.mark.parametrize("phase", Phase)
def test_a_rotation_to_the_present_ca_never_leads_elsewhere(phase: Phase) -> None:
    """A rotation from another CA to that of this node is followed only if nothing changes, and its abort is not."""
    first = at(phase, signed(replace(BEGUN, old=(FOREIGN.facts,), new=OLD.facts), FOREIGN))
    if said(None, first, worker()) == "":
        assert phase in {Phase.DISTRUST, Phase.ATTACH, Phase.DONE}
        turned = replace(first, id="r-1-back", aborted=True, old=(OLD.facts,), new=FOREIGN.facts, phase=Phase.ISSUE)
        assert "cannot be aborted" in said(first, turned, worker()) or phase is Phase.DONE
        assert said(first, turned, worker()) != ""


def test_a_beginning_is_from_what_the_node_trusts() -> None:
    """All of it: in the phase prepare nothing has been changed yet."""
    assert "the old CA of the rotation is not the CA in /ca.crt" in said(None, BEGUN, worker(*BOTH))


def test_an_unfit_ca_is_not_followed() -> None:
    """The rule holds also for a signed record, if the new CA is no CA or has expired. An abort leads to the CA that was
    there before.
    """
    for new in (make_leaf(OLD, "x", **DATES), make_ca(not_before=NOW - 9 * DAY, not_after=NOW - DAY)):
        made = signed(replace(BEGUN, new=new.facts))
        assert "its new CA" in said(None, made, worker())
    ended = make_ca(not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    forth = at(Phase.TRUST, signed(replace(BEGUN, old=(ended.facts,)), ended))
    assert said(None, abort(forth, NOW), worker(ended.facts)) == ""


@pytest.mark.parametrize(
    "changes",
    [{"new": FOREIGN.facts}, {"old": (FOREIGN.facts,)}, {"mode": Mode.REPLACE}, {"family": "etcd-ca"},
     {"aborted": True}, {"signature": ""}],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_a_rotation_keeps_its_identity(changes: dict[str, Any]) -> None:
    """Under its id only the phase, the excluded nodes and the publication change."""
    reported = replace(at(Phase.ISSUE), **changes)
    assert "the announced rotation has the id of the rotation on this node, but another" in said(
        at(Phase.TRUST), reported, worker(*BOTH)
    )


def test_the_keys_of_tokens_are_followed_the_same_way() -> None:
    """The old key signs, and an unsigned record is not followed. A key that signs no tokens is unfit."""
    old, new = OLD.facts.key, NEW.facts.key
    begun = signed(Rotation("r-1", "sa", Mode.OVERLAP, (old,), new, Phase.PREPARE, NOW))
    ground = Ground("sa", "/sa.pub", "/sa.key", (old,), old)
    assert said(None, begun, ground) == ""
    assert "not signed" in said(None, replace(begun, new=FOREIGN.facts.key), ground)
    assert "the new public key with its key" in said(begun, at(Phase.TRUST, begun), ground)
    unfit = signed(replace(begun, new=make_ca(key="ed25519").facts.key))
    assert "Kubernetes cannot sign tokens" in said(None, unfit, ground)


def test_an_abort_is_that_of_its_rotation() -> None:
    """It leads to the CA of the start, and only from phases with an abort."""
    evil = replace(back(Phase.TRUST), new=FOREIGN.facts)
    assert "the rotation is not the abort of the rotation r-1" in said(at(Phase.TRUST), evil, worker(*BOTH))
    late = said(at(Phase.DISTRUST), back(Phase.ISSUE), worker(*AFTER))
    assert "and cannot be aborted" in late
    assert "its id does not end in -back" in said(None, replace(back(Phase.TRUST), id="r-1"), worker())


def test_a_key_of_an_unsupported_kind_has_signed_nothing() -> None:
    """An old CA with a key that no CA of Kubernetes has authorizes nothing."""
    strange = replace(OLD.facts, key=describe_key(ed448.Ed448PrivateKey.generate().public_key()))
    assert "not signed" in said(None, replace(BEGUN, old=(strange,)), worker(strange))


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.PREPARE])
@pytest.mark.parametrize("own", [None, BEGUN], ids=["first", "known"])
def test_a_signing_node_continues_only_with_a_staged_key(own: Rotation | None, phase: Phase) -> None:
    """A node with the CA's key leaves prepare only if the new one is staged there, or installed already."""
    reported = at(phase)
    assert "this control-plane node does not have the new CA with its key" in said(own, reported, control_plane())
    assert said(own, reported, control_plane(), staged=True) == ""
    assert said(own, reported, control_plane(*TURNED, key=NEW)) == ""


def certificate(rotation: Rotation = BEGUN, by: Issued = OLD, **changes: Any) -> Certificate:
    """Return the certificate with which the external CA `by` authorizes the rotation."""
    granted = rotation_grant(statement(rotation), NOW, NOW + DAY)
    assert isinstance(granted, Grant)
    names = [f"URI:{each.value}" for each in granted.template.names]
    dates: Any = {"not_before": NOW - DAY, "not_after": NOW + DAY}
    return make_leaf(by, **{"names": names, "extended_usages": ["code signing"], **dates, **changes}).facts


EXTERNAL = with_certificate(BEGUN, certificate(), NOW)


@pytest.mark.parametrize("phase", Phase)
def test_a_certificate_of_an_external_ca_authorizes_its_rotation(phase: Phase) -> None:
    """A worker follows the rotation and its abort in any phase. A control plane also needs the new CA."""
    assert (EXTERNAL.external, EXTERNAL.shared, BEGUN.external) == (True, True, False)
    assert said(None, at(phase, EXTERNAL), worker()) == ""
    assert refusal(None, at(phase, EXTERNAL), worker(), staged=True, now=NOW, leads=True) is None
    why = refusal(None, at(phase, EXTERNAL), worker(), staged=False, now=NOW, leads=True) or ""
    assert ("control-plane node does not have the new CA; run" in why) == (phase is not Phase.PREPARE)
    known = at(Phase.TRUST, EXTERNAL)
    assert refusal(known, at(phase, EXTERNAL), worker(*TURNED), staged=False, now=NOW, leads=True) is None


def test_an_abort_of_an_external_rotation_is_followed() -> None:
    """The abort has the certificate of the rotation, also for a node that reads the record later."""
    back_again = abort(at(Phase.TRUST, EXTERNAL), NOW)
    assert said(at(Phase.TRUST, EXTERNAL), back_again, worker(*BOTH)) == ""
    assert said(None, back_again, worker(*BOTH)) == ""


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    ("found", "why"),
    [
        (certificate(by=FOREIGN), "has not signed the certificate"),
        (certificate(replace(BEGUN, id="r-0")), "are not exactly"),
        (certificate(replace(BEGUN, new=FOREIGN.facts)), "are not exactly"),
        (certificate(extended_usages=["client auth"]), "exactly the extended key usage code signing"),
        (certificate(not_after=NOW - DAY / 2), "is not valid now"),
    ],
    ids=["of another CA", "of an earlier rotation", "to another CA", "of a client", "expired"],
)
def test_another_certificate_of_the_old_ca_authorizes_nothing(found: Certificate, why: str, phase: Phase) -> None:
    """A node follows neither a record with the certificate of an earlier rotation, nor one with a certificate that
    kube-controller-manager can sign, in any phase.
    """
    forged = replace(BEGUN, signature=CERTIFICATE_PREFIX + encoded(found))
    reason = said(None, at(phase, forged), worker())
    assert "no certificate of the old CA authorizes the rotation: the " in reason
    assert why in reason
    with pytest.raises(RotationError):
        with_certificate(BEGUN, found, NOW)


def test_a_record_without_a_certificate_authorizes_nothing() -> None:
    """A node does not follow an external rotation without a certificate, without an old CA, or of public keys."""
    empty = replace(BEGUN, signature=CERTIFICATE_PREFIX)
    assert "the record contains no certificate" in said(None, empty, worker())
    assert "the rotation has no old CA" in said(None, replace(EXTERNAL, old=()), worker())
    keys = replace(EXTERNAL, family="sa", old=(OLD.facts.key,), new=NEW.facts.key)
    ground = Ground("sa", "/sa.pub", None, (OLD.facts.key,), None)
    assert "no certificate can authorize a rotation of public keys" in said(None, keys, ground)


@pytest.mark.parametrize("own", [None, EXTERNAL], ids=["first", "known"])
def test_a_node_with_a_key_follows_no_external_rotation(own: Rotation | None) -> None:
    """If one node has the key of the old CA, the CA is not external."""
    why = said(own, at(Phase.TRUST, EXTERNAL), control_plane(), staged=True)
    assert "/ca.key is on this node, but the rotation is that of an external CA, whose key is on no node" in why
