"""Authorization of a rotation that another node announces.

A node follows only a rotation that the old CA has authorized. Write access to the record is not sufficient.
`formats.private_key.sign` creates the signature. If no node has this key, a certificate from the old CA names the
rotation and replaces the signature (`signing.rotation_certificate`).
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
from certmond.pki.rotation.phases import CERTIFICATE_PREFIX, Phase, Rotation, abort, desired, forth
from certmond.pki.rotation.service_account_key_validation import objections
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.signing.rotation_certificate import decoded, encoded, objection
from certmond.pki.x509.certificate import Anchor, Certificate, certificates_of
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.public_key import PublicKey


def statement(rotation: Rotation) -> bytes:
    """Return the text that the key of the old CA signs when the rotation begins. An abort does not change this text."""
    there = _forth(rotation)
    lines = (
        "certmond rotation", there.id, there.family, there.mode.value,
        *(f"old {each.sha256}" for each in there.old), f"new {there.new.sha256}",
    )  # fmt: skip
    return "\n".join(lines).encode()


def with_certificate(rotation: Rotation, certificate: Certificate, now: datetime) -> Rotation:
    """Return the rotation with `certificate`, which authorizes the rotation of a CA whose key is on no node.

    Raises RotationError if the certificate does not authorize the rotation.
    """
    made = replace(rotation, signature=CERTIFICATE_PREFIX + encoded(certificate))
    if why := _not_authorized(made, now):
        raise RotationError(why)
    return made


def refusal(
    own: Rotation | None, announced: Rotation, ground: Ground, *, staged: bool, now: datetime, leads: bool = False
) -> str | None:
    """Return why this node does not follow the announced rotation, or None if this node follows the rotation.

    `own` is the rotation in the record of this node. `staged` is True if the new certificate is staged on this node,
    with its key unless the rotation is external. `leads` is True if this node may lead an external rotation.
    """
    why = next(_objections(own, announced, ground, now, staged=staged, leads=leads), None)
    if why is None:
        return None
    return (
        f"this node does not follow {announced.name}: {why}; if you did not start this rotation, find the client that "
        "wrote the ConfigMap, and run: kubectl -n kube-system delete configmap certmond-rotation"
    )


def _objections(
    own: Rotation | None, announced: Rotation, ground: Ground, now: datetime, *, staged: bool, leads: bool
) -> Iterator[str]:
    if own is not None and own.id == announced.id:
        if _what(own) != _what(announced):
            other = f"another {announced.noun}, another mode or another signature"
            yield f"the announced rotation has the id of the rotation on this node, but {other}"
    elif own is not None and not own.over:
        yield from _not_the_way_back(own, announced, now)
    else:
        yield from _not_continuous(announced, ground, now)
        if not announced.aborted:
            yield from _unfit(announced, now)
    if announced.external:
        yield from _unfit_for_external(announced, ground, leads=leads, staged=staged)
        return
    in_place = announced.new in ground.trust and ground.key == announced.new.key
    if ground.holds_key and announced.phase is not Phase.PREPARE and not (staged or in_place):
        yield (
            f"the rotation is in the phase {announced.phase}, and this control-plane node does not have the new "
            f"{announced.noun} with its key; run: certmond root-ca stage"
        )


def _unfit_for_external(announced: Rotation, ground: Ground, *, leads: bool, staged: bool) -> Iterator[str]:
    """Yield the reasons why this node cannot follow the rotation of an external CA, whose key is on no node."""
    if ground.holds_key:
        yield (
            f"{ground.key_path} is on this node, but the rotation is that of an external CA, whose key is on no node; "
            "remove this file from every node; to rotate with this key instead, run `certmond root-ca abort`, then "
            "begin the rotation on a node with this file"
        )
    elif leads and announced.phase is not Phase.PREPARE and not (staged or announced.new in ground.trust):
        yield (
            f"the rotation is in the phase {announced.phase}, and this control-plane node does not have the new CA; "
            "run: certmond root-ca stage CERT"
        )


def _unfit(announced: Rotation, now: datetime) -> Iterator[str]:
    where = f"its new {announced.noun}"
    if isinstance(announced.new, PublicKey):
        yield from objections(announced.new, [each.key for each in announced.old], where)
        return
    present = certificates_of(announced.old)
    yield from judge(announced.new, None, present, None, now, where=where, key_where=None).problems


def _not_the_way_back(own: Rotation, announced: Rotation, now: datetime) -> Iterator[str]:
    try:
        back = abort(own, now)
    except RotationError as error:
        yield str(error)
    else:
        if back.id != announced.id or _what(back) != _what(announced):
            yield f"the rotation is not the abort of {own.name}"


def _not_continuous(announced: Rotation, ground: Ground, now: datetime) -> Iterator[str]:
    """Yield the reasons not to follow a rotation that is new to this node."""
    there, trust, wanted = _forth(announced), set(ground.trust), desired(announced)
    signers = {each for each in there.old if _objection_of(each, announced, now) is None}
    # A node that joined after the removal of the old CA needs no change.
    joined = trust == {announced.new} and wanted is not None and set(wanted.trust) == trust
    if announced.aborted and announced.id == there.id:
        yield "the rotation is aborted, but its id does not end in -back"
    elif not signers:
        yield _not_authorized(announced, now)
    elif announced.phase is Phase.PREPARE and trust != set(announced.old):
        yield f"the old CA of the rotation is not the CA in {ground.path}"
    elif not signers & trust and not joined:
        yield f"{ground.path} does not contain the CA that has signed the rotation"


def _forth(rotation: Rotation) -> Rotation:
    """Return the rotation as it was before an abort."""
    if not rotation.aborted:
        return rotation
    return replace(rotation, id=forth(rotation.id), old=(rotation.new,), new=rotation.old[0])


def _what(rotation: Rotation) -> tuple[object, ...]:
    return (
        rotation.family, rotation.mode, rotation.old, rotation.new, rotation.aborted, rotation.found,
        rotation.signature,
    )  # fmt: skip


def _not_authorized(rotation: Rotation, now: datetime) -> str:
    """Return why no old CA authorizes the rotation, or "" if an old CA authorizes the rotation."""
    found = [_objection_of(each, rotation, now) for each in _forth(rotation).old]
    return "" if None in found else next(filter(None, found), "the rotation has no old CA")


def _objection_of(issuer: Anchor, rotation: Rotation, now: datetime) -> str | None:
    """Return why the old CA `issuer` does not authorize the rotation, or None if this CA authorizes the rotation."""
    text = statement(rotation)
    if not rotation.external:
        signed = _has_signed(issuer, text, rotation.signature)
        return None if signed else "the key of the old CA has not signed the rotation"
    if not isinstance(issuer, Certificate):
        return "no certificate can authorize a rotation of public keys"
    certificate = decoded(rotation.signature.removeprefix(CERTIFICATE_PREFIX))
    why = objection(certificate, issuer, text, now)
    return why and f"no certificate of the old CA authorizes the rotation: {why}"


def _has_signed(issuer: Anchor, text: bytes, signature: str) -> bool:
    try:
        with guarded("does not verify"):
            signed, key = b64decode(signature, validate=True), load_der_public_key(issuer.key.der)
            match key:
                case rsa.RSAPublicKey():
                    key.verify(signed, text, padding.PKCS1v15(), SHA256())
                case ec.EllipticCurvePublicKey():
                    key.verify(signed, text, ec.ECDSA(SHA256()))
                case ed25519.Ed25519PublicKey():
                    key.verify(signed, text)
                case _:
                    return False
    except MalformedError:
        return False
    return True
