"""State of a trust anchor's files on a node, and the reasons against a rotation on this node.

On a *frozen* node, certmond changes none of these files. A node is frozen if these files have neither the old nor the
desired state, or make a service fail at its start.
"""

from __future__ import annotations

from collections.abc import Iterator

from certmond.immutable_class import immutable
from certmond.pki.rotation.phases import Phase, Rotation
from certmond.pki.x509.certificate import Anchor, Certificate
from certmond.pki.x509.public_key import PublicKey

SIGNING_FLAGS = ("cluster-signing-cert-file", "cluster-signing-key-file")
"""Flags of kube-controller-manager for the files of its signing CA
(cmd/kube-controller-manager/app/options/csrsigningcontroller.go).
"""


@immutable
class Signer:
    """The kube-controller-manager of this node, and the files with which it signs.

    `now` contains the present values of the two signing flags, `shared` the values for the anchor's files, and `apart`
    the values for separate files. `files` contains the paths of the separate files on the host, and `present` the paths
    that exist. `holds` contains the anchors in the separate certificate file. `key` is the public key of the separate
    key file.
    """

    manifest: str
    container: str
    now: tuple[str, str]
    shared: tuple[str, str]
    apart: tuple[str, str]
    files: tuple[str, str]
    holds: tuple[Anchor, ...] = ()
    key: PublicKey | None = None
    present: tuple[str, ...] = ()
    problem: str | None = None


@immutable
class Ground:
    """State of a trust anchor's files on a node.

    `trust` contains the anchors in the file `path`, and `key` is the public key of the key file. `signs` is True if a
    key of the anchor is staged on the node. `left` contains separate signer files that no manifest uses.
    """

    family: str
    path: str
    key_path: str | None
    trust: tuple[Anchor, ...] = ()
    key: PublicKey | None = None
    key_unknown: bool = False
    signer: Signer | None = None
    signs: bool = False
    left: tuple[str, ...] = ()

    @property
    def holds_key(self) -> bool:
        """Whether the node has a key file for the anchor."""
        return self.key is not None or self.key_unknown


def freeze_reason(rotation: Rotation, ground: Ground) -> str | None:
    """Return why the anchor's files freeze this node, as a sentence with the remedy, or None if they do not."""
    why = None if is_abandoned(rotation, ground) else obstacle(rotation, ground)
    return f"{rotation.name} is frozen: {why}" if why else None


def obstacle(rotation: Rotation, ground: Ground) -> str | None:
    """Return why this node cannot execute the rotation, as a sentence with the remedy, or None if the node can."""
    return next(_obstacles(rotation, ground), None)


def is_abandoned(rotation: Rotation, ground: Ground) -> bool:
    """Return whether the rotation was aborted and has ended, and this node has no file of the abandoned CA.

    The separate signer files also count as files of the abandoned CA.
    """
    abandoned, signer = {*rotation.old} - {rotation.new}, ground.signer
    if not (rotation.aborted and rotation.over) or not abandoned.isdisjoint(ground.trust):
        return False
    if ground.key in {each.key for each in abandoned} - {rotation.new.key}:
        return False
    return not ground.left if signer is None else signer.now != signer.apart and not signer.present


def has_old_state(rotation: Rotation, ground: Ground) -> bool:
    """Return whether the anchor's files have the state before the rotation, or the state after an abort.

    In both states, all components trust the signing CA.
    """
    before = (
        (rotation.new,) if is_abandoned(rotation, ground) else rotation.old if rotation.phase is Phase.PREPARE else ()
    )
    return bool(before) and ground.trust == before and ground.key in {None, before[0].key}


def _obstacles(rotation: Rotation, ground: Ground) -> Iterator[str]:
    """Yield a sentence for each file that is missing or unreadable, or has neither the old nor the new contents."""
    known = {*rotation.old, rotation.new}
    if not ground.trust:
        yield f"{ground.path} contains no {rotation.noun}; restore the file"
    for anchor in ground.trust:
        if anchor not in known:
            fact = (
                f"{ground.path} contains {_anchor_name(anchor)}, which is neither the old nor the new {rotation.noun}"
            )
            pair = "restore both the certificate and the key of the old or of the new CA"
            third = rotation.found and anchor == ground.trust[0]
            yield f"{fact}; {pair if third else f'remove this {rotation.noun} from the file, or restore the file'}"
    if ground.signs and not ground.holds_key:
        yield f"{ground.key_path} is missing, but this node signs with this key; restore the {rotation.noun}'s key"
    if ground.key_unknown and ground.key is None:
        fact = f"{ground.key_path} is encrypted, or is not a private key"
        yield f"{fact}; replace the file, or decrypt it: openssl pkey -in {ground.key_path}"
    elif ground.key and ground.key not in {each.key for each in known}:
        fact = f"{ground.key_path} is the key of neither the old nor the new {rotation.noun}"
        yield f"{fact}; restore the key of {ground.path}"
    if ground.signer and ground.signer.problem:
        yield ground.signer.problem
    if ground.signer:
        yield from _foreign_signer_files(ground.signer, known)


def _foreign_signer_files(signer: Signer, known: set[Anchor]) -> Iterator[str]:
    """Yield a sentence for each separate signer file that belongs to neither the old nor the new CA."""
    certificate, key = signer.files
    own = {certificate: bool(signer.holds) and {*signer.holds} <= known, key: signer.key in {a.key for a in known}}
    for path in (each for each in signer.present if not own[each]):
        certificate_flag = f"--cluster-signing-cert-file to {signer.shared[0]}"
        flags = f"{certificate_flag} and --cluster-signing-key-file to {signer.shared[1]}"
        first = f"in {signer.manifest}, set {flags}, and " if signer.now == signer.apart else ""
        fact = f"{path} belongs to neither the old nor the new CA, and the rotation would replace it"
        yield f"{fact}; {first}rename {path}"


def _anchor_name(anchor: Anchor) -> str:
    """Return the anchor's name with the start of its SHA-256, because several anchors can have the same name."""
    name = anchor.subject if isinstance(anchor, Certificate) else f"the public key {anchor}"
    return f"{name} (SHA-256 {anchor.sha256[:16]}…)"
