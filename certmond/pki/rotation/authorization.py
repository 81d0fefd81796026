"""Whether a node may follow a rotation that others tell it of: a CA is followed only by whom it has named itself.

Owns what is signed at the beginning of a rotation, with the key of the CA that is to be followed, and what a node asks
of a record before it touches anything: whoever can write the record, and does not have that key, can make no node trust
a CA. Pure; who has the key signs with `host.keys.sign`.
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
from certmond.pki.rotation.phases import Phase, Rotation, abort, desired, forth
from certmond.pki.rotation.planner import Ground
from certmond.pki.rotation.service_account_keys import objections
from certmond.pki.x509.certificate import Anchor, PublicKey, certificates_of
from certmond.pki.x509.library_guard import guarded


def statement(rotation: Rotation) -> bytes:
    """What is signed, with the key of `old`, when a rotation begins; on its way back it is the same."""
    there = _forth(rotation)
    lines = (
        "certmond rotation", there.id, there.family, there.mode.value,
        *(f"old {each.sha256}" for each in there.old), f"new {there.new.sha256}",
    )  # fmt: skip
    return "\n".join(lines).encode()


def refusal(own: Rotation | None, told: Rotation, ground: Ground, *, staged: bool, now: datetime) -> str | None:
    """Why this node, whose own record has `own`, does not follow `told`; a sentence, None where it does. `staged` says
    that a person has given this node the certificate that follows, and its key.
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
    """This node hears of it for the first time."""
    there, trust, wanted = _forth(told), set(ground.trust), desired(told)
    signers = {each for each in there.old if _consents(each, statement(told), told.signature)}
    # A node that joined when only the new CA was left has nothing to be changed any more, and that stays so.
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
    """The rotation as it was when it began."""
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
