"""Certificate and private key that lie side by side: the proof that they belong together, from their files' bytes.

Owns what a pair is in each form that a node has, as Go's crypto/tls loads it (tls.go, X509KeyPair): the first
certificate of the one file is of the first private key of the other; and that the key really signs. Everything that
writes a certificate or a key asks here before it replaces a file. Judges no dates, names or paths, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from certmond.errors import KeyUnusableError, MalformedError
from certmond.host.change import Change, NewLink, Removed
from certmond.host.credentials import own_user, parse_credentials
from certmond.host.keys import can_sign, load_key
from certmond.host.kubeconfig import Material, User, parse_kubeconfig
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.certificate import Anchor, Certificate, PublicKey, describe_key
from certmond.pki.encoding import Document, decode
from certmond.pki.reason import Reason, printable

Read = Callable[[str], bytes | None]
"""Return the bytes of the file at a path of the node, None where it is not there. May raise WriteError."""


class Files(Protocol):
    """The files of the node, as they are at this moment."""

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None where it is not there. Raises WriteError where it cannot be read."""
        ...

    def leads_to(self, path: str) -> str:
        """The path without its symlinks."""
        ...


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate that belongs to the key beside it. `chain` is what its file holds, that certificate first."""

    chain: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        """The certificate of the key."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Why certificate and key are no pair, in one clause with the file. `leaf` is the certificate, if there is one.
    Of an `encrypted` key it is not known.
    """

    message: str
    leaf: Certificate | None = None
    encrypted: bool = False


def key_pair(certificate: bytes | None, key: bytes | None, path: str, key_path: str) -> KeyPair | Unpaired:
    """Return the pair in the bytes of two files, or of one given twice; the paths name them in messages."""
    if certificate is None:
        return Unpaired(f"{path} is not there")
    found = decode(certificate, path)
    if broken := _broken(found):
        return Unpaired(broken)
    if not found.certificates:
        return Unpaired(f"{path} holds no certificate")
    leaf, own = found.certificates[0], _key_in(key, key_path)
    if isinstance(own, Unpaired):
        return replace(own, leaf=leaf)
    if own != leaf.key:
        first = f"the first certificate in {path}" if path == key_path or len(found.certificates) > 1 else path
        return Unpaired(f"{first} is not of the key in {key_path}", leaf)
    return KeyPair(found.certificates)


def anchor_of_key(trust: bytes | None, key: bytes | None, path: str, key_path: str) -> Anchor | Unpaired:
    """Return the certificate or public key, of all in the file at `path`, that is of the key at `key_path`.

    Several trust anchors are in one file while a CA, or the key of service-account tokens, is rotated.
    """
    if trust is None:
        return Unpaired(f"{path} is not there")
    own = _key_in(key, key_path)
    if isinstance(own, Unpaired):
        return own
    found = next((each for each in decode(trust, path).anchors if each.key == own), None)
    return found or Unpaired(f"{key_path} is the key of nothing in {path}")


def kubeconfig_pairs(data: bytes | None, path: str, read: Read | None = None) -> tuple[KeyPair | Unpaired, ...]:
    """Return the client certificates of a kubeconfig with their keys, that of its current user first.

    A file that it refers to is read with `read`; without that, only users count of whom both are embedded.
    """
    if data is None:
        return (Unpaired(f"{path} is not there"),)
    try:
        config = parse_kubeconfig(data, path)
    except MalformedError as error:
        return (Unpaired(f"{path} {error}"),)
    users = sorted(config.users, key=lambda user: user.name != config.current_user)
    holders = [user for user in users if user.certificate and (read or _is_embedded(user))]
    return tuple(_of_user(user, path, read) for user in holders) or (Unpaired(f"{path} holds no client certificate"),)


def key_of_user(data: bytes, path: str, certificate: Certificate) -> bytes | None:
    """Return the key that a kubeconfig embeds for the user of this certificate. Raises KeyUnusableError."""
    try:
        users = parse_kubeconfig(data, path).users
    except MalformedError as error:
        raise KeyUnusableError(f"{path} {error}; put the right one there") from error
    for user in users:
        held = user.certificate.data if user.certificate else None
        if held and certificate in decode(held, path).certificates:
            return user.key.data if user.key else None
    return None


def entry_pair(
    kind: Kind, path: str, key_path: str | None, read: Read, *, references: bool = False, own: bool = False
) -> KeyPair | Unpaired:
    """Return the pair of an entry: of a kubeconfig its current user's, else of `path` with `key_path`. Where the
    current user has none, the first of the others counts, but not for an entry with a subject of its `own`.

    A path without a key of its own holds both. `references` are read as well, with the rights of this process, for a
    kubeconfig that no other user can write: who writes it chooses which files it names.
    """
    if kind is Kind.KUBECONFIG:
        data = read(path)
        if own and data is not None and own_user(parse_credentials(data, path).config) is None:
            return Unpaired(f"{path} holds no client certificate for the user of its current context")
        return kubeconfig_pairs(data, path, read if references else None)[0]
    return key_pair(read(path), read(key_path or path), path, key_path or path)


def as_written(changes: Sequence[Change], written: Mapping[str, bytes], files: Files) -> Read:
    """Return what reads the node as it will be: `written` has what was staged for `changes`, and every other file is
    read as it is at this moment. A path that leads to a changed file, or to a changed symlink, reads what is new.
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
    """The pairs of files that the entries of a configuration name; of a pattern none is known by its path."""

    def __init__(self, specs: Sequence[CertificateSpec], files: Files) -> None:
        self._files = files
        self._of = [
            (spec, {spec.path, spec.key})
            for spec in specs
            if spec.key is not None and not spec.is_glob and spec.password_file is None
        ]

    def torn(self, changes: Sequence[Change], read: Read) -> Iterator[str]:
        """Yield a clause for each pair that belongs together now, and would not do so after `changes`, which `read`
        reads: another entry may have one of these files, by this path or by a symlink.
        """
        changed = {change.path for change in changes}
        changed |= {self._files.leads_to(path) for path in changed}
        for spec, own in self._of:
            if changed.isdisjoint(own) and changed.isdisjoint(map(self._files.leads_to, own)):
                continue
            after = self._problem(spec, read)
            if after and self._problem(spec, self._files.read) is None:
                yield f"the files of {spec.name} would not belong together: {after}"

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
    """The public half of the key in a file, where that key signs."""
    if data is None:
        return Unpaired(f"{path} is not there")
    try:
        key = load_key(data, path)
    except KeyUnusableError as error:
        return Unpaired(str(error).partition(";")[0], encrypted=decode(data, path).encrypted_key)
    return (
        describe_key(key.public_key()) if can_sign(key) else Unpaired(f"the key in {path} is damaged: it does not sign")
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
