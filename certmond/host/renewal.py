"""One renewal, from what is on the node and what the signer gave to the files that replace the old ones.

Owns the forms that a certificate has on a node: a pair of files, one PEM with both, a kubeconfig, the kubelet's dated
PEM behind its symlink; and the proof that what was written is right, before anything is replaced. Reads through a
`View`, writes nothing.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from certmond.errors import KeyUnusableError, RefusedError, WriteError
from certmond.host import kubelet_pem
from certmond.host.credentials import parse_credentials
from certmond.host.derived import owner_ids
from certmond.host.key_pair import KeyPair, Read, Unpaired, entry_pair, key_of_user, kubeconfig_pairs
from certmond.host.keys import PrivateKey, key_pem, load_key
from certmond.host.kubeconfig_text import Embedded, has_others, new_kubeconfig, with_credentials
from certmond.host.place import digest
from certmond.host.placing import View, linked, placed
from certmond.host.transaction import Change, NewFile, NewLink
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.certificate import Certificate, PublicKey, attributes_of, describe_key, names_in, to_pem
from certmond.pki.encoding import decode
from certmond.pki.inventory import Observation
from certmond.pki.path import find_paths
from certmond.pki.steps import Cause, Issue

_EXTENDED = frozenset({"server auth", "client auth"})


@dataclass(frozen=True, slots=True)
class Renewal:
    """A step under way: the key that is certified, and the PEM that the signer gave."""

    step: Issue
    key: PrivateKey = field(repr=False)
    pem: bytes
    now: datetime

    def changes(self, view: View) -> list[Change]:
        """What to write, the key before the certificate. Raises WriteError where the node is no longer as planned."""
        spec, path = self.step.status.seen.spec, self.step.path
        if why := overtaken(self.step, view):
            raise WriteError(why)
        if self.step.cause is Cause.DAMAGED:
            return self._repaired(spec, view)
        if spec.kind is Kind.KUBELET and self.step.status.seen.symlink is not None:
            return list(self._kubelet(view))
        present = view.read(path, anyones=False)
        if spec.kind is Kind.KUBECONFIG:
            return [self._secret(path, self._kubeconfig(present or b""), present)]
        if is_one_file(self.step.status.seen):
            return [self._secret(path, self._combined(present or b""), present)]
        owner = self._owner(present)
        certificate = NewFile(path, self._chain(present or b""), 0o644, owner, expected=_expected(present))
        key_path = self.step.status.seen.key_path
        if self.step.keep_key or key_path is None:
            return [certificate]
        return [self._secret(key_path, key_pem(self.key), view.read(key_path)), certificate]

    def _repaired(self, spec: CertificateSpec, view: View) -> list[Change]:
        """The same files, of which nothing is taken over but a certificate that is whole and keeps its chain, and what
        a kubeconfig has besides the damaged user.
        """
        path, key_path = self.step.path, self.step.status.seen.key_path
        present = view.read(path, anyones=False) or b"" if self.step.old else b""
        if spec.kind is Kind.KUBELET:
            content = kubelet_pem.content(to_pem(self.issued()), key_pem(self.key))
            return linked(path, content, spec, view, self.now)
        if spec.kind is Kind.KUBECONFIG:
            there = view.read(path, anyones=False) or b""
            edited = present or (there if has_others(there) else b"")
            return [placed(spec, path, self._kubeconfig(edited) if edited else self._new_kubeconfig(), view)]
        if is_one_file(self.step.status.seen) or key_path is None:
            return [placed(spec, path, self._combined(present), view)]
        certificate = placed(spec, path, self._chain(present), view)
        return [certificate] if self.step.keep_key else [placed(spec, key_path, key_pem(self.key), view), certificate]

    def _secret(self, path: str, content: bytes, present: bytes | None) -> NewFile:
        """A file with a key in it: no more open than its entry permits, whatever it was before."""
        at_most = self.step.status.seen.spec.key_mode
        return NewFile(path, content, owner=self._owner(present), expected=_expected(present), at_most=at_most)

    def _owner(self, present: bytes | None) -> tuple[int, int] | None:
        """Whose a file is that is not there yet: the entry says it."""
        owner = self.step.status.seen.spec.owner
        return owner_ids(owner) if owner and present is None else None

    def verify(self, read: Read) -> None:
        """Prove what `read` finds in the files of the entry, once they are replaced: the certificate that was asked
        for, with the key that lies beside it. Raises RefusedError with everything that is not so.
        """
        if problems := list(self._problems(self._pair(read))):
            raise RefusedError(f"what {self.step.signer} issued for {self.step.target} {'; '.join(problems)}")

    def issued(self) -> Certificate:
        """The certificate that the signer gave for our key. Raises RefusedError."""
        found = decode(self.pem, self.step.signer).certificates
        own = describe_key(self.key.public_key())
        leaf = next((each for each in found if each.key == own), None)
        if leaf is None:
            raise RefusedError(f"{self.step.signer} gave no certificate of the key that it was asked to certify")
        return leaf

    def _kubeconfig(self, present: bytes) -> bytes:
        trust = b"".join(map(to_pem, self.step.trust)) or None
        return with_credentials(
            present, self.step.path, old=self.step.old, certificate_pem=to_pem(self.issued()),
            key_pem=key_pem(self.key), trust_pem=trust,
        )  # fmt: skip

    def _new_kubeconfig(self) -> bytes:
        if self.step.server is None:
            raise WriteError(f"where the API server of {self.step.path} is, is not known; `certmond init` makes it")
        cluster, server = self.step.server
        leaf, trust = self.issued(), b"".join(map(to_pem, self.step.trust))
        credentials = Embedded(to_pem(leaf), key_pem(self.key))
        return new_kubeconfig(
            cluster=cluster, server=server, user=leaf.common_name or self.step.target, trust_pem=trust,
            credentials=credentials,
        )  # fmt: skip

    def _kubelet(self, view: View) -> Iterator[Change]:
        """A dated file, and the symlink moved to it, as the kubelet would; what is no symlink yet becomes one."""
        path = self.step.path
        dated = kubelet_pem.successor(path, self.now, view.names(posixpath.dirname(path)))
        content = kubelet_pem.content(to_pem(self.issued()), key_pem(self.key))
        yield NewFile(dated, content, owner=self._owner(None))
        yield NewLink(path, dated, expected=_expected(view.read(path)))

    def _combined(self, present: bytes) -> bytes:
        """Key and certificate in the order that the file had: its readers may insist on it."""
        chain, key = self._chain(present), key_pem(self.key)
        return key + chain if 0 <= present.find(b"PRIVATE KEY") < present.find(b"BEGIN CERTIFICATE") else chain + key

    def _chain(self, present: bytes) -> bytes:
        """The certificate, and behind it what the signer gave, else what the file had if the issuer is the same."""
        leaf, old = self.issued(), self.step.old
        if not self.step.status.seen.spec.chain:
            return to_pem(leaf)
        rest = [each for each in decode(self.pem, self.step.signer).certificates if each != leaf]
        if not rest and old and old.issuer_der == leaf.issuer_der:
            rest = [each for each in decode(present, self.step.path).certificates if each != old]
        return b"".join(map(to_pem, (leaf, *rest)))

    def _pair(self, read: Read) -> KeyPair | Unpaired:
        seen, path = self.step.status.seen, self.step.path
        if seen.spec.kind is Kind.KUBECONFIG:
            own, found = describe_key(self.key.public_key()), kubeconfig_pairs(read(path), path)
            mine = (each for each in found if each.leaf and each.leaf.key == own)
            return next(mine, Unpaired(f"{path} does not hold it"))
        return entry_pair(seen.spec.kind, path, None if is_one_file(seen) else seen.key_path, read)

    def _problems(self, pair: KeyPair | Unpaired) -> Iterator[str]:
        if isinstance(pair, Unpaired):
            yield f"would not belong to its key: {pair.message}"
            return
        leaf = pair.leaf
        if leaf.key != describe_key(self.key.public_key()):
            yield "is not for the key that was asked for"
            return
        template, status = self.step.template, self.step.status
        if leaf.attributes != attributes_of(template.subject):
            yield f"has the subject {leaf.subject}, asked was {template.subject.rfc4514_string()}"
        if lacking := sorted(names_in(template.names) - leaf.names):
            yield f"lacks the name {', '.join(lacking)}"
        if lacking := sorted(usage for usage in template.extended_usages if not leaf.has_usage(usage)):
            yield f"may not be used for {', '.join(lacking)}"
        if leaf.is_ca:
            yield "is a CA"
        old = self.step.old
        if self.step.cause is Cause.DUE and old and leaf.not_after <= old.not_after:
            yield f"ends at {leaf.not_after:%Y-%m-%d %H:%M} UTC, no later than the one that is there"
        if not leaf.not_before <= self.now < leaf.not_after:
            yield f"is valid from {leaf.not_before:%Y-%m-%d %H:%M} to {leaf.not_after:%Y-%m-%d %H:%M} UTC, and not now"
        elif status.seen.spec.ca:
            rest = pair.chain[1:]
            usages = _EXTENDED.intersection(status.seen.spec.usages)
            anchors = (self.step.under,) if self.step.under else status.anchors
            if find_paths(leaf, anchors, rest, usages).valid_at(self.now) is None:
                former = find_paths(leaf, status.anchors, rest, usages).valid_at(self.now)
                yield (
                    "is of the CA that is on its way out"
                    if former
                    else f"has no certification path to {' or '.join(status.seen.spec.ca)} on this node"
                )


def certified_key(step: Issue, asked: PrivateKey, given: PrivateKey | None) -> PrivateKey:
    """Return the key that the signer certified: the one that it was asked for, or the one that it made and gave.

    Raises RefusedError where the entry keeps its key, and the signer made another.
    """
    if given is None:
        return asked
    if step.keep_key and describe_key(given.public_key()) != describe_key(asked.public_key()):
        fact = f"{step.signer} made a key of its own for {step.target}, which keeps the key that it has"
        raise RefusedError(f"{fact}; give the entry `keep_key: false`, or another signer")
    return given


def present_key(step: Issue, view: View) -> PrivateKey:
    """Return the key of the certificate that the step replaces.

    Raises KeyUnusableError where its file holds another key or none, WriteError where it cannot be read.
    """
    seen, old = step.status.seen, step.old
    path = seen.key_path or step.path
    if old is None:
        raise KeyUnusableError(f"{path}: {step.target} has no certificate whose key could be kept")
    content = view.read(path, anyones=False) or b""
    if seen.spec.kind is Kind.KUBECONFIG:
        content = key_of_user(content, path, old) or b""
    key = load_key(content, path)
    if describe_key(key.public_key()) != old.key:
        raise KeyUnusableError(
            f"{path} does not hold the key of {step.target}; put back the pair that belongs together"
        )
    return key


def is_one_file(seen: Observation) -> bool:
    """Certificate and key are in one file, whatever the two are called."""
    certificate, key = seen.pair
    return key in {None, certificate}


def overtaken(step: Issue, view: View) -> str | None:
    """Why the files are no longer those that the step was planned for; None where they are."""
    seen = step.status.seen
    if step.old is None:
        key_path = None if is_one_file(seen) else seen.key_path
        pair = entry_pair(seen.spec.kind, step.path, key_path, view.read, own=bool(seen.spec.subject))
        whole = not isinstance(pair, Unpaired) or pair.encrypted
        return f"{step.path} was put right by someone else since it was looked at; look at it again" if whole else None
    present = view.read(step.path)
    if present is not None and step.old not in certificates_in(present, step.path, seen.spec.kind):
        return f"{step.path} was changed by someone else since it was looked at; look at it again"
    path = seen.key_path or step.path
    key = present if path == step.path else view.read(path)
    if seen.key and (key is not None or path != step.path) and _public_key(key or b"", path, step) != seen.key:
        return f"{path} was changed by someone else since it was looked at; look at it again"
    return None


def _public_key(content: bytes, path: str, step: Issue) -> PublicKey | None:
    """The public half of the private key that an entry has in this file; None where there is none."""
    if step.status.seen.spec.kind is Kind.KUBECONFIG and step.old:
        try:
            content = key_of_user(content, path, step.old) or b""
        except KeyUnusableError:
            return None
    return decode(content, path).key


def certificates_in(content: bytes, path: str, kind: Kind) -> tuple[Certificate, ...]:
    """Every certificate that a file of this kind holds."""
    if kind is not Kind.KUBECONFIG:
        return decode(content, path).certificates
    documents = parse_credentials(content, path).documents.values()
    return tuple(certificate for document in documents for certificate in document.certificates)


def archived(seen: Observation) -> tuple[str, ...]:
    """The files whose old content is kept before they are replaced."""
    if seen.key_path is None or seen.spec.kind is Kind.KUBECONFIG or is_one_file(seen):
        return (seen.path,)
    return seen.key_path, seen.path


def archive_name(spec: CertificateSpec, path: str) -> str:
    """Where the archive keeps them: by the entry's name, and for one of many files also by its path."""
    return f"{spec.name[:40]}-{digest(os.fsencode(path))[:12]}" if spec.is_glob else spec.name


def _expected(present: bytes | None) -> str | None:
    return None if present is None else digest(present)
