"""Authorization of a rotation that another node announces: a node follows only a rotation that the old CA has signed.

Owns the statement that the key of the old CA signs at the start. Owns the checks of a record before a node uses it. A
user who can write the record, but does not have that key, cannot make a node trust a CA. Pure. The holder of the key
signs with `formats.private_key.sign`.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certmond.errors import MalformedError, RotationError
from certmond.pki.rotation.ca_validation import judge
from certmond.pki.rotation.family_state import Ground
from certmond.pki.rotation.phases import Phase, Rotation, abort, desired, forth
from certmond.pki.rotation.service_account_keys import objections
from certmond.pki.x509.certificate import Anchor, certificates_of
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.public_key import PublicKey


def statement(rotation: Rotation) -> bytes:
    """Return what the key of `old` signs when a rotation begins. An aborted rotation has the same statement."""
    there = _forth(rotation)
    lines = (
        "certmond rotation", there.id, there.family, there.mode.value,
        *(f"old {each.sha256}" for each in there.old), f"new {there.new.sha256}",
    )  # fmt: skip
    return "\n".join(lines).encode()


def refusal(own: Rotation | None, told: Rotation, ground: Ground, *, staged: bool, now: datetime) -> str | None:
    """Return why this node, whose own record has `own`, does not follow `told`, as a sentence. None if it does.

    `staged` is True if an operator has staged the new certificate and its key on this node.
    """
    why = next(_objections(own, told, ground, staged, now), None)
    if why is None:
        return None
    return (
        f"{told.name} is not followed: {why}; see who wrote the ConfigMap kube-system/certmond-rotation, and delete it "
        "if that was none of yours"
    )


def _objections(own: Rotation | None, told: Rotation, ground: Ground, staged: bool, now: datetime) -> Iterator[str]:
    if own is not None and own.id == told.id:
        if _what(own) != _what(told):
            yield "it has this node's own rotation, with other certificates or of another kind"
    elif own is not None and not own.over:
        yield from _not_the_way_back(own, told, now)
    else:
        yield from _not_continuous(told, ground)
        if not told.aborted:
            yield from _unfit(told, now)
    in_place = told.new in ground.trust and ground.key == told.new.key
    if ground.holds_key and told.phase is not Phase.PREPARE and not (staged or in_place):
        yield (
            f"it is in the phase {told.phase}, and nobody has given this control-plane node the new {told.noun} with "
            "its key (`certmond root-ca stage`)"
        )


def _unfit(told: Rotation, now: datetime) -> Iterator[str]:
    where = f"its new {told.noun}"
    if isinstance(told.new, PublicKey):
        yield from objections(told.new, [each.key for each in told.old], where)
        return
    present = certificates_of(told.old)
    yield from judge(told.new, None, present, None, now, where=where, key_where=None).problems


def _not_the_way_back(own: Rotation, told: Rotation, now: datetime) -> Iterator[str]:
    try:
        back = abort(own, now)
    except RotationError as error:
        yield str(error)
    else:
        if back.id != told.id or _what(back) != _what(told):
            yield f"it is not the way back of {own.name}"


def _not_continuous(told: Rotation, ground: Ground) -> Iterator[str]:
    """Yield the reasons against a rotation that is new to this node."""
    there, trust, wanted = _forth(told), set(ground.trust), desired(told)
    signers = {each for each in there.old if _consents(each, statement(told), told.signature)}
    # A node that joined after the old CA was removed has nothing left to change.
    joined = trust == {told.new} and wanted is not None and set(wanted.trust) == trust
    if told.aborted and told.id == there.id:
        yield "it is a way back without a way there"
    elif not signers:
        yield "it is not signed with the key of the CA that it is to follow"
    elif told.phase is Phase.PREPARE and trust != set(told.old):
        yield f"what it calls the former CA is not what {ground.path} holds"
    elif not signers & trust and not joined:
        yield f"{ground.path} does not hold the CA that has signed it"


def _forth(rotation: Rotation) -> Rotation:
    """Return the rotation as it was when it began."""
    if not rotation.aborted:
        return rotation
    return replace(rotation, id=forth(rotation.id), old=(rotation.new,), new=rotation.old[0])


def _what(rotation: Rotation) -> tuple[object, ...]:
    return (
        rotation.family, rotation.mode, rotation.old, rotation.new, rotation.aborted, rotation.found,
        rotation.signature,
    )  # fmt: skip


def _consents(issuer: Anchor, said: bytes, signature: str) -> bool:
    try:
        with guarded("does not verify"):
            signed, key = b64decode(signature, validate=True), load_der_public_key(issuer.key.der)
            match key:
                case rsa.RSAPublicKey():
                    key.verify(signed, said, padding.PKCS1v15(), SHA256())
                case ec.EllipticCurvePublicKey():
                    key.verify(signed, said, ec.ECDSA(SHA256()))
                case ed25519.Ed25519PublicKey():
                    key.verify(signed, said)
                case _:
                    return False
    except MalformedError:
        return False
    return True
