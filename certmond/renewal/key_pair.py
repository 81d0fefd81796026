"""Check that a certificate and a private key match, from the content of their files.

As in Go's crypto/tls (tls.go, X509KeyPair), the first certificate must match the first private key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from certmond.errors import KeyUnusableError, MalformedError
from certmond.formats.kubeconfig import Material, User, parse_kubeconfig
from certmond.formats.kubeconfig_certificates import own_user, parse_credentials
from certmond.formats.private_key import can_sign, load_key
from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.findings import Reason, printable
from certmond.pki.x509.certificate import Anchor, Certificate
from certmond.pki.x509.certificate_file_parser import Document, decode
from certmond.pki.x509.public_key import PublicKey, describe_key
from certmond.transaction.operations import Change, NewLink, Removed

Read = Callable[[str], bytes | None]
"""Function that returns the content of a file, or None if the file does not exist. Can raise WriteError."""


class Files(Protocol):
    """The current files of the node."""

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if the file is missing. Raises WriteError if the file is unreadable."""
        ...

    def leads_to(self, path: str) -> str:
        """Return the path with all symlinks resolved."""
        ...


@immutable
class KeyPair:
    """A certificate that matches its key. `chain` contains all certificates of the file, this certificate first."""

    chain: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        """The certificate that matches the key."""
        return self.chain[0]


@immutable
class Unpaired:
    """Reason why there is no certificate with a matching key. `message` is a clause that names the file.

    `encrypted` is True if the key needs a passphrase.
    """

    message: str
    leaf: Certificate | None = None
    encrypted: bool = False


def key_pair(certificate: bytes | None, key: bytes | None, path: str, key_path: str) -> KeyPair | Unpaired:
    """Return the pair of a certificate and its key, or why they do not match.

    `certificate` and `key` are the content of the files `path` and `key_path`.
    """
    if certificate is None:
        return Unpaired(f"{path} does not exist")
    found = decode(certificate, path)
    if broken := _broken(found):
        return Unpaired(broken)
    if not found.certificates:
        return Unpaired(f"{path} contains no certificate")
    leaf, own = found.certificates[0], _key_in(key, key_path)
    if isinstance(own, Unpaired):
        return replace(own, leaf=leaf)
    if own != leaf.key:
        first = f"the first certificate in {path}" if path == key_path or len(found.certificates) > 1 else path
        return Unpaired(f"{first} does not match the key in {key_path}", leaf)
    return KeyPair(found.certificates)


def anchor_of_key(trust: bytes | None, key: bytes | None, path: str, key_path: str) -> Anchor | Unpaired:
    """Return the trust anchor in `path` that matches the private key in `key_path`, or why no anchor matches.

    `trust` and `key` are the content of the files.
    """
    if trust is None:
        return Unpaired(f"{path} does not exist")
    own = _key_in(key, key_path)
    if isinstance(own, Unpaired):
        return own
    found = next((each for each in decode(trust, path).anchors if each.key == own), None)
    return found or Unpaired(f"{key_path} matches no certificate or public key in {path}")


def kubeconfig_pairs(data: bytes | None, path: str, read: Read | None = None) -> tuple[KeyPair | Unpaired, ...]:
    """Return the pair of each user with a certificate in a kubeconfig, or why the certificate and the key do not match.

    The current user is first. `read` reads the files to which the kubeconfig refers. Without `read`, skip users without
    embedded credentials.
    """
    if data is None:
        return (Unpaired(f"{path} does not exist"),)
    try:
        config = parse_kubeconfig(data, path)
    except MalformedError as error:
        return (Unpaired(f"{path} {error}"),)
    users = sorted(config.users, key=lambda user: user.name != config.current_user)
    holders = [user for user in users if user.certificate and (read or _is_embedded(user))]
    return tuple(_of_user(user, path, read) for user in holders) or (
        Unpaired(f"{path} contains no client certificate"),
    )


def key_of_user(data: bytes, path: str, certificate: Certificate) -> bytes | None:
    """Return the key that a kubeconfig embeds for the user of this certificate, or None if there is no such key.

    Raises KeyUnusableError if the kubeconfig is malformed.
    """
    try:
        users = parse_kubeconfig(data, path).users
    except MalformedError as error:
        raise KeyUnusableError(f"{path} {error}; install a valid kubeconfig") from error
    for user in users:
        held = user.certificate.data if user.certificate else None
        if held and certificate in decode(held, path).certificates:
            return user.key.data if user.key else None
    return None


def entry_pair(
    kind: Kind, path: str, key_path: str | None, read: Read, *, references: bool = False, own: bool = False
) -> KeyPair | Unpaired:
    """Return the pair of an entry, or why its certificate and key do not match.

    With `own`, only the current user of a kubeconfig counts. With `references`, also read the files to which a
    kubeconfig refers. Set `references` only if no other user can write the kubeconfig, because certmond reads as root.
    """
    if kind is Kind.KUBECONFIG:
        data = read(path)
        if own and data is not None and own_user(parse_credentials(data, path).config) is None:
            return Unpaired(f"{path} contains no client certificate for the user of its current context")
        return kubeconfig_pairs(data, path, read if references else None)[0]
    return key_pair(read(path), read(key_path or path), path, key_path or path)


def as_written(changes: Sequence[Change], written: Mapping[str, bytes], files: Files) -> Read:
    """Return a function that reads the files of the node as they are after certmond has applied `changes`.

    `written` contains the new content of the changed files, by path.
    """
    new: dict[str, bytes | None] = dict(written)
    for change in changes:
        if isinstance(change, NewLink):
            new[change.path] = written.get(change.target) or files.read(change.target)
        elif isinstance(change, Removed):
            new[change.path] = None
    real = {files.leads_to(path): content for path, content in new.items()} | new

    def read(path: str) -> bytes | None:
        if path in real:
            return real[path]
        leads_to = files.leads_to(path)
        return real[leads_to] if leads_to in real else files.read(path)

    return read


class KeyPairs:
    """The pairs of certificate and key of the entries `specs`."""

    def __init__(self, specs: Sequence[CertificateSpec], files: Files) -> None:
        self._files = files
        self._entries = [
            (spec, {spec.path, spec.key})
            for spec in specs
            if spec.key is not None and not spec.is_glob and spec.password_file is None
        ]

    def mismatches(self, changes: Sequence[Change], read: Read) -> Iterator[str]:
        """Yield a clause for each pair that matches now and would not match after `changes`.

        `read` reads the files after the changes.
        """
        changed = {change.path for change in changes}
        changed |= {self._files.leads_to(path) for path in changed}
        for spec, paths in self._entries:
            if changed.isdisjoint(paths) and changed.isdisjoint(map(self._files.leads_to, paths)):
                continue
            after = self._problem(spec, read)
            if after and self._problem(spec, self._files.read) is None:
                yield f"the certificate and the key of {spec.name} would not match: {after}"

    @staticmethod
    def _problem(spec: CertificateSpec, read: Read) -> str | None:
        key_path = spec.key or spec.path
        if spec.is_trust and read(key_path) is None:
            return None
        found: KeyPair | Anchor | Unpaired
        if spec.is_trust:
            found = anchor_of_key(read(spec.path), read(key_path), spec.path, key_path)
        else:
            found = entry_pair(spec.kind, spec.path, key_path, read)
        return found.message if isinstance(found, Unpaired) and not found.encrypted else None


def _key_in(data: bytes | None, path: str) -> PublicKey | Unpaired:
    """Return the public key of the private key in a file, or why certmond cannot use this key."""
    if data is None:
        return Unpaired(f"{path} does not exist")
    try:
        key = load_key(data, path)
    except KeyUnusableError as error:
        return Unpaired(str(error).partition(";")[0], encrypted=decode(data, path).encrypted_key)
    return (
        describe_key(key.public_key()) if can_sign(key) else Unpaired(f"the key in {path} is damaged: it cannot sign")
    )


def _of_user(user: User, path: str, read: Read | None) -> KeyPair | Unpaired:
    certificate, where = _content(user.certificate, path, "certificate", user, read)
    key, key_where = _content(user.key, path, "key", user, read)
    return key_pair(certificate, key, where, key_where)


def _content(
    material: Material | None, path: str, part: str, user: User, read: Read | None
) -> tuple[bytes | None, str]:
    where = printable(f"{path}, {part} of {user.name!r},")
    if material is None:
        return None, where
    if material.data is None and material.path and read:
        return read(material.path), material.path
    return material.data, where


def _is_embedded(user: User) -> bool:
    return all(material is not None and material.data is not None for material in (user.certificate, user.key))


def _broken(document: Document) -> str | None:
    faults = (fault for fault in document.faults if fault.reason is not Reason.TRAILING_DATA)
    return next((fault.detail for fault in faults), None)
