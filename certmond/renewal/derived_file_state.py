"""State of derived files: bundles of a certificate and its key, and copies of a kubeconfig.

A file with content that its source lacks belongs to another program. Therefore, certmond does not change such a file.
No message contains a key.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import field

from certmond.errors import KeyUnusableError, WriteError
from certmond.formats.kubeconfig import User
from certmond.formats.kubeconfig_certificates import Credentials, parse_credentials
from certmond.formats.kubeconfig_copy import content_names, copy_of
from certmond.formats.kubelet import pem as kubelet_pem
from certmond.formats.private_key import key_pem, load_key
from certmond.immutable_class import immutable
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.findings import Reason, printable
from certmond.pki.x509.certificate import Certificate, to_pem
from certmond.pki.x509.certificate_file_parser import Document, decode

_LABELS = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_BUNDLED = re.compile(rb"(X509 |TRUSTED )?CERTIFICATE|((RSA|EC) )?PRIVATE KEY|EC PARAMETERS")
_REMEDY = "move the file away, so that certmond creates it again"


@immutable
class Refused:
    """A directory of copies to which certmond must not write, with the reason and the remedy."""

    path: str
    message: str


@immutable
class Current:
    """State of a file that is equal to its source, or of the copies in all directories that are not in `refused`."""

    refused: tuple[Refused, ...] = ()


@immutable
class Stale:
    """State of a file that differs from its source. `content` is the content to write.

    For copies, `content` is empty, and certmond writes to all directories that are not in `refused`.
    """

    content: bytes = field(repr=False)
    refused: tuple[Refused, ...] = ()


@immutable
class Absent:
    """State of a file that does not exist. `content` is the content to write."""

    content: bytes = field(repr=False)


@immutable
class Foreign:
    """State of a file that certmond must not replace, with the reason and the remedy.

    For copies, certmond must not write to any directory. `refused` contains all directories except the first.
    """

    message: str
    refused: tuple[Refused, ...] = ()


@immutable
class Unready:
    """State of a file whose source is missing or unusable. `message` is a sentence with the remedy."""

    message: str


@immutable
class Unmanaged:
    """State of files that certmond neither writes nor holds, such as a copy that an operator has made."""


State = Current | Stale | Absent | Foreign | Unready | Unmanaged


def state(spec: DerivedSpec, source: bytes | None, key: bytes | None, present: bytes | None) -> State:
    """Return the state of a derived file from the content of its source, separate key file and present file."""
    if source is None:
        return Unready(
            f"certmond does not write {spec.path}: its source {spec.source} does not exist; restore this source"
        )
    return _bundle(spec, source, key, present) if spec.kind == "pem-bundle" else _copy(spec, source, present)


def watched(spec: DerivedSpec, source: CertificateSpec) -> tuple[str, ...]:
    """Return the paths of the files on which the state of the derived file depends."""
    key = source.key if spec.kind != "kubeconfig" else None
    return (spec.path, source.path, *((key,) if key else ()))


def owner_ids(owner: str) -> tuple[int, int]:
    """Return the uid and the gid of `owner`, which is "user:group" or "user". Raises WriteError for an unknown name.

    If `owner` contains no group, the gid is the primary group of the user or, for a numeric user, the uid.
    """
    name, _, group = owner.partition(":")
    try:
        user = (int(name), int(name)) if name.isdecimal() else pwd.getpwnam(name)[2:4]
    except KeyError:
        raise WriteError(f"this host has no user {name!r}; create it, or correct `owner`") from None
    try:
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid if group else user[1]
    except KeyError:
        raise WriteError(f"this host has no group {group!r}; create it, or correct `owner`") from None
    return user[0], gid


# --- pem-bundle -------------------------------------------------------------------------------------------------------


def _bundle(spec: DerivedSpec, source: bytes, key: bytes | None, present: bytes | None) -> State:
    where = f"source {spec.source} of {spec.path}"
    document = decode(source, where)
    keys = document if key is None else decode(key, where)
    leaf = next((each for each in document.certificates if keys.key and each.key.der == keys.key.der), None)
    if leaf is None or _is_broken(document) or _is_broken(keys):
        return Unready(
            f"certmond does not write {spec.path}: {spec.source} contains no certificate with its key; restore the pair"
        )
    chain = (leaf, *(each for each in document.certificates if each != leaf))
    if present is not None and present.strip():
        found = decode(present, spec.path)
        if why := _foreign_content(present, found, chain):
            return Foreign(f"{spec.path} {why}, so certmond does not replace it; {_REMEDY}")
        if (found.certificates, found.key) == (chain, keys.key):
            return Current()
    try:
        private = key_pem(load_key(source if key is None else key, f"the {where}"))
    except KeyUnusableError as error:
        return Unready(str(error))
    content = kubelet_pem.content(b"".join(map(to_pem, chain)), private)
    return Absent(content) if present is None else Stale(content)


def _foreign_content(present: bytes, found: Document, chain: Sequence[Certificate]) -> str | None:
    """Return why the file is not an older bundle of this source, or None if it is such a bundle."""
    labels = _LABELS.findall(present)
    if not labels:
        return "is not PEM"
    if unknown := [label for label in labels if not _BUNDLED.fullmatch(label)]:
        return f"contains a block {unknown[0].decode('ascii')}"
    if sum(label.endswith(b"PRIVATE KEY") for label in labels) > 1:
        return "contains more than one private key"
    if found.faults or found.encrypted_key or found.key is None or not found.certificates:
        return "is not a certificate with its key"
    leaf = _leaf(found)
    if leaf.subject_der != chain[0].subject_der:
        return f"contains a certificate of {printable(leaf.subject)}, not of {printable(chain[0].subject)}"
    if others := [each for each in found.certificates if each not in (leaf, *chain) and not each.is_ca]:
        return f"also contains a certificate of {printable(others[0].subject)}"
    return None


# --- kubeconfig -------------------------------------------------------------------------------------------------------


def _copy(spec: DerivedSpec, source: bytes, present: bytes | None) -> State:
    own = parse_credentials(source, spec.source)
    if why := _unfit(own):
        return Unready(f"certmond does not write {spec.path}: {spec.source} {why}; correct {spec.source}")
    if present is None:
        return Absent(source)
    if present == source:
        return Current()
    is_always = spec.write == "always"
    if (present.strip() or not is_always) and (why := _not_a_copy(present, spec, source, own)):
        return Foreign(f"{spec.path} {why}, so certmond does not replace it; {_REMEDY}")
    return Stale(source) if is_always else _existing(present, spec, source, own)


def _unfit(own: Credentials) -> str | None:
    """Return why certmond must not copy this kubeconfig, or None if certmond may copy it."""
    if own.faults or any(map(_is_broken, own.documents.values())):
        return "is broken"
    if not own.config.users:
        return "contains no user"
    for user in own.config.users:
        certificate, key = own.documents.get((user.name, "certificate")), own.documents.get((user.name, "key"))
        if certificate and not (
            certificate.certificates and user.key and (not key or _leaf(certificate).key == key.key)
        ):
            return f"contains no certificate with its key for user {user.name!r}"
    materials = [material for user in own.config.users for material in (user.certificate, user.key)]
    materials += [cluster.ca for cluster in own.config.clusters]
    if any(material and material.path and not material.path.startswith("/") for material in materials):
        return "refers to a file by a relative path, which a copy in another directory cannot use"
    return None


def _not_a_copy(present: bytes, spec: DerivedSpec, source: bytes, own: Credentials) -> str | None:
    """Return why the kubeconfig is not an older copy of the source, or None if it is such a copy."""
    found = parse_credentials(present, spec.path)
    if found.faults or any(map(_is_broken, found.documents.values())):
        return "is not a readable kubeconfig"
    # A replacement would lose each of these names.
    if surplus := content_names(present, spec.path) - content_names(source, spec.source):
        return f"contains {min(surplus)}, which {spec.source} lacks"
    present_users, users = _subjects(found), _subjects(own)
    if missing := users.keys() - present_users.keys():
        return f"lacks the user {min(missing)!r} of {spec.source}"
    if other := [name for name in users if present_users[name] != users[name]]:
        return f"contains an identity for user {other[0]!r} that differs from the identity in {spec.source}"
    if _trust(found) != _trust(own) and _trust(found).isdisjoint(_trust(own)):
        return f"trusts no CA certificate of {spec.source}: it might be for another cluster"
    return None


def _existing(present: bytes, spec: DerivedSpec, source: bytes, own: Credentials) -> State:
    """Return the state of a copy that an operator has made.

    Only an older certificate or another CA makes the copy `Stale`. If the copy is for another server, the copy is
    `Foreign`.
    """
    copy = copy_of(own, parse_credentials(present, spec.path))
    if copy is None or not copy.same_server:
        return Foreign(
            f"{spec.path} and {spec.source} contain different servers, so certmond does not replace {spec.path}; "
            f"{_REMEDY}"
        )
    return Stale(source) if copy.older or copy.other_ca else Current()


def _subjects(credentials: Credentials) -> Mapping[str, bytes | str | None]:
    """Return, for each user, the subject of the certificate.

    Without a readable certificate, return the path of the certificate file, or None if the user has no such file.
    """

    def subject(user: User) -> bytes | str | None:
        document = credentials.documents.get((user.name, "certificate"))
        if document and document.certificates:
            return _leaf(document).subject_der
        return user.certificate.path if user.certificate else None

    return {user.name: subject(user) for user in credentials.config.users}


def _trust(credentials: Credentials) -> frozenset[Certificate | str]:
    """Return the CA certificates that the clusters embed, and the paths of their CA files."""
    embedded = {
        each
        for (_, field), document in credentials.documents.items()
        if field == "ca"
        for each in document.certificates
    }
    referred = {cluster.ca.path for cluster in credentials.config.clusters if cluster.ca and cluster.ca.path}
    return frozenset(embedded | referred)


# --- both -------------------------------------------------------------------------------------------------------------


def _leaf(document: Document) -> Certificate:
    """Return the first certificate that is not a CA, or the first certificate if all certificates are CAs."""
    return next((each for each in document.certificates if not each.is_ca), document.certificates[0])


def _is_broken(document: Document) -> bool:
    """Return whether the content has an error that prevents a copy.

    Ignore unusable keys, because `load_key` reports errors of a key.
    """
    return any(fault.reason not in {Reason.TRAILING_DATA, Reason.KEY_UNUSABLE} for fault in document.faults)
