"""New files of one renewal, from the present files and the response of the signer.

This module defines the format of each kind of certificate on a node, and checks the new files.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import field
from datetime import datetime

from certmond.errors import KeyUnusableError, RefusedError, WriteError
from certmond.formats.kubeconfig_certificates import certificates_in
from certmond.formats.kubeconfig_edit import Embedded, has_several_entries, new_kubeconfig, with_credentials
from certmond.formats.kubelet import pem as kubelet_pem
from certmond.formats.private_key import PrivateKey, key_pem, load_key
from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.planning.steps import Cause, Issue
from certmond.pki.x509.certificate import Certificate, attributes_of, names_in, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.path_building import find_paths
from certmond.pki.x509.public_key import PublicKey, describe_key
from certmond.renewal.derived_file_state import owner_ids
from certmond.renewal.key_pair import KeyPair, Read, Unpaired, entry_pair, key_of_user, kubeconfig_pairs
from certmond.renewal.new_files import View, linked, placed
from certmond.transaction.commit import Change, NewFile, NewLink
from certmond.transaction.dirfd import digest

_EXTENDED = frozenset({"server auth", "client auth"})


@immutable
class Renewal:
    """A renewal in progress. `key` is the key of the new certificate, and `pem` is the response of the signer."""

    step: Issue
    key: PrivateKey = field(repr=False)
    pem: bytes
    now: datetime

    def changes(self, view: View) -> list[Change]:
        """Return the changes to the files, with the change of the key first.

        Raises WriteError if another process has changed the files since the plan, or if a file is unreadable. Raises
        RefusedError if the response of the signer contains no certificate for the key.
        """
        spec, path = self.step.status.seen.spec, self.step.path
        if why := stale_reason(self.step, view):
            raise WriteError(why)
        if self.step.cause is Cause.DAMAGED:
            return self._repaired(spec, view)
        if spec.kind is Kind.KUBELET and self.step.status.seen.symlink is not None:
            return list(self._kubelet(view))
        present = view.read(path, follow_any_link=False)
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
        """Return the changes that replace damaged files.

        From the present files, keep only a valid chain, and the other entries of a kubeconfig.
        """
        path, key_path = self.step.path, self.step.status.seen.key_path
        present = view.read(path, follow_any_link=False) or b"" if self.step.old else b""
        if spec.kind is Kind.KUBELET:
            content = kubelet_pem.content(to_pem(self.issued()), key_pem(self.key))
            return linked(path, content, spec, view, self.now)
        if spec.kind is Kind.KUBECONFIG:
            existing = view.read(path, follow_any_link=False) or b""
            edited = present or (existing if has_several_entries(existing) else b"")
            return [placed(spec, path, self._kubeconfig(edited) if edited else self._new_kubeconfig(), view)]
        if is_one_file(self.step.status.seen) or key_path is None:
            return [placed(spec, path, self._combined(present), view)]
        certificate = placed(spec, path, self._chain(present), view)
        return [certificate] if self.step.keep_key else [placed(spec, key_path, key_pem(self.key), view), certificate]

    def _secret(self, path: str, content: bytes, present: bytes | None) -> NewFile:
        """Return the change that writes `content`, which contains a private key, to the file `path`."""
        at_most = self.step.status.seen.spec.key_mode
        return NewFile(path, content, owner=self._owner(present), expected=_expected(present), at_most=at_most)

    def _owner(self, present: bytes | None) -> tuple[int, int] | None:
        """Return the owner that the entry sets for a new file.

        Return None if the file exists, or if the entry has no `owner`.
        """
        owner = self.step.status.seen.spec.owner
        return owner_ids(owner) if owner and present is None else None

    def verify(self, read: Read) -> None:
        """Check the new files through `read`. Raises RefusedError, with each difference from the request."""
        if problems := list(self._problems(self._pair(read))):
            raise RefusedError(f"the certificate from {self.step.signer} for {self.step.target} {'; '.join(problems)}")

    def issued(self) -> Certificate:
        """Return the new certificate from the signer's response.

        Raises RefusedError if the response contains no certificate for the key.
        """
        found = decode(self.pem, self.step.signer).certificates
        own = describe_key(self.key.public_key())
        leaf = next((each for each in found if each.key == own), None)
        if leaf is None:
            raise RefusedError(f"{self.step.signer} returned no certificate for the requested key; correct this signer")
        return leaf

    def _kubeconfig(self, present: bytes) -> bytes:
        trust = b"".join(map(to_pem, self.step.trust)) or None
        return with_credentials(
            present, self.step.path, old=self.step.old, certificate_pem=to_pem(self.issued()),
            key_pem=key_pem(self.key), trust_pem=trust,
        )  # fmt: skip

    def _new_kubeconfig(self) -> bytes:
        if self.step.server is None:
            raise WriteError(f"certmond has no API server address for {self.step.path}; create the file: certmond init")
        cluster, server = self.step.server
        leaf, trust = self.issued(), b"".join(map(to_pem, self.step.trust))
        credentials = Embedded(to_pem(leaf), key_pem(self.key))
        return new_kubeconfig(
            cluster=cluster, server=server, user=leaf.common_name or self.step.target, trust_pem=trust,
            credentials=credentials,
        )  # fmt: skip

    def _kubelet(self, view: View) -> Iterator[Change]:
        """Yield the changes that write a dated PEM file and its symlink, as the kubelet does."""
        path = self.step.path
        dated = kubelet_pem.successor(path, self.now, view.names(posixpath.dirname(path)))
        content = kubelet_pem.content(to_pem(self.issued()), key_pem(self.key))
        yield NewFile(dated, content, owner=self._owner(None))
        yield NewLink(path, dated, expected=_expected(view.read(path)))

    def _combined(self, present: bytes) -> bytes:
        """Return the certificate and the key in the order of the present file. A program might depend on this order."""
        chain, key = self._chain(present), key_pem(self.key)
        return key + chain if 0 <= present.find(b"PRIVATE KEY") < present.find(b"BEGIN CERTIFICATE") else chain + key

    def _chain(self, present: bytes) -> bytes:
        """Return the new certificate as PEM, with its chain if the entry requires a chain.

        If the signer returned no chain and the issuer is unchanged, keep the present chain.
        """
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
            own_pair = (each for each in found if each.leaf and each.leaf.key == own)
            return next(own_pair, Unpaired(f"{path} does not contain the certificate"))
        return entry_pair(seen.spec.kind, path, None if is_one_file(seen) else seen.key_path, read)

    def _problems(self, pair: KeyPair | Unpaired) -> Iterator[str]:
        if isinstance(pair, Unpaired):
            yield f"would not match its key: {pair.message}"
            return
        leaf = pair.leaf
        if leaf.key != describe_key(self.key.public_key()):
            yield "is not for the requested key"
            return
        template, status = self.step.template, self.step.status
        if leaf.attributes != attributes_of(template.subject):
            yield f"has the subject {leaf.subject}, not the requested {template.subject.rfc4514_string()}"
        if lacking := sorted(names_in(template.names) - leaf.names):
            yield f"lacks the subject alternative name {', '.join(lacking)}"
        if lacking := sorted(usage for usage in template.extended_usages if not leaf.has_usage(usage)):
            yield f"lacks the extended key usage {', '.join(lacking)}"
        if leaf.is_ca:
            yield "is a CA"
        old = self.step.old
        if self.step.cause is Cause.DUE and old and leaf.not_after <= old.not_after:
            yield f"expires at {leaf.not_after:%Y-%m-%d %H:%M} UTC, not later than the present certificate"
        if not leaf.not_before <= self.now < leaf.not_after:
            yield f"is valid from {leaf.not_before:%Y-%m-%d %H:%M} to {leaf.not_after:%Y-%m-%d %H:%M} UTC, but not now"
        elif status.seen.spec.ca:
            rest = pair.chain[1:]
            usages = _EXTENDED.intersection(status.seen.spec.usages)
            anchors = (self.step.under,) if self.step.under else status.anchors
            if find_paths(leaf, anchors, rest, usages).valid_at(self.now) is None:
                former = find_paths(leaf, status.anchors, rest, usages).valid_at(self.now)
                yield (
                    "is from a CA that must not sign in this phase of the rotation; wait until the signer "
                    f"{self.step.signer} signs with the CA with the SHA-256 {anchors[0].sha256[:16]}…, or "
                    f"configure this signer to do so, then run: certmond renew {self.step.target}"
                    if former
                    else f"has no certification path to {' or '.join(status.seen.spec.ca)} on this node"
                )


def certified_key(step: Issue, asked: PrivateKey, given: PrivateKey | None) -> PrivateKey:
    """Return the key of the new certificate: `asked` from the request, or `given` from the signer.

    Raises RefusedError if the entry keeps its key and the signer created another key.
    """
    if given is None:
        return asked
    if step.keep_key and describe_key(given.public_key()) != describe_key(asked.public_key()):
        fact = f"{step.signer} created a new key for {step.target}, whose entry keeps the present key"
        raise RefusedError(f"{fact}; set `keep_key: false`, or use another signer")
    return given


def present_key(step: Issue, view: View) -> PrivateKey:
    """Return the private key of the certificate that the step replaces.

    Raises KeyUnusableError if the file contains no matching key, and WriteError if the file is unreadable.
    """
    seen, old = step.status.seen, step.old
    path = seen.key_path or step.path
    if old is None:
        raise KeyUnusableError(
            f"{path}: {step.target} has no certificate whose key certmond could keep; set `keep_key: false`"
        )
    content = view.read(path, follow_any_link=False) or b""
    if seen.spec.kind is Kind.KUBECONFIG:
        content = key_of_user(content, path, old) or b""
    key = load_key(content, path)
    if describe_key(key.public_key()) != old.key:
        raise KeyUnusableError(f"{path} does not contain the key of {step.target}; restore the matching pair")
    return key


def is_one_file(seen: Observation) -> bool:
    """Return whether one file contains both the certificate and the key."""
    certificate, key = seen.pair
    return key in {None, certificate}


def stale_reason(step: Issue, view: View) -> str | None:
    """Return a message if the present files differ from the files of the plan, otherwise None."""
    seen = step.status.seen
    if step.old is None:
        key_path = None if is_one_file(seen) else seen.key_path
        pair = entry_pair(seen.spec.kind, step.path, key_path, view.read, own=bool(seen.spec.subject))
        whole = not isinstance(pair, Unpaired) or pair.encrypted
        return f"another process has repaired {step.path} since the plan; plan again: certmond plan" if whole else None
    present = view.read(step.path)
    if present is not None and step.old not in certificates_in(present, step.path, seen.spec.kind):
        return f"another process has changed {step.path} since the plan; plan again: certmond plan"
    path = seen.key_path or step.path
    key = present if path == step.path else view.read(path)
    if seen.key and (key is not None or path != step.path) and _public_key(key or b"", path, step) != seen.key:
        return f"another process has changed {path} since the plan; plan again: certmond plan"
    return None


def _public_key(content: bytes, path: str, step: Issue) -> PublicKey | None:
    """Return the public key of the entry's private key in the file `path`, or None if there is no usable key."""
    if step.status.seen.spec.kind is Kind.KUBECONFIG and step.old:
        try:
            content = key_of_user(content, path, step.old) or b""
        except KeyUnusableError:
            return None
    return decode(content, path).key


def archived(seen: Observation) -> tuple[str, ...]:
    """Return the paths of the files that certmond archives before it replaces the certificate."""
    if seen.key_path is None or seen.spec.kind is Kind.KUBECONFIG or is_one_file(seen):
        return (seen.path,)
    return seen.key_path, seen.path


def _expected(present: bytes | None) -> str | None:
    return None if present is None else digest(present)
