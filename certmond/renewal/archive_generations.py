"""Verdicts on generations of the archive, against the current state of the node.

Owns the paths of the files of a generation, and the rule that a restore grants no right that a later certificate lacks.
`archived_pair` evaluates the pair itself. Writes no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from certmond.config.model import Config
from certmond.errors import WriteError
from certmond.formats.kubeconfig_credentials import broken_cluster, parse_credentials
from certmond.formats.kubeconfig_edit import embeds_ca, with_trust
from certmond.pki.catalog.entries import SELF, CertificateSpec, Kind
from certmond.pki.signing.policy import fixed_by, is_issued, surplus
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.parsing import Document, decode
from certmond.pki.x509.path_building import find_paths
from certmond.renewal.archived_pair import Verdict, Worth, as_put_back, verdict
from certmond.renewal.key_pair import KeyPair, Read, Unpaired, entry_pair
from certmond.renewal.replace import archive_name
from certmond.state.archive import Archive, ArchivedFile
from certmond.transaction.node_files import NodeFiles

_EXTENDED = frozenset({"server auth", "client auth"})


@dataclass(frozen=True, slots=True)
class PairLocation:
    """The paths of the certificate and the key of a generation on the node."""

    kind: Kind
    path: str
    key_path: str
    spec: CertificateSpec | None
    references: bool = False
    """Whether certmond reads the files to which a kubeconfig refers. True if no other user has chosen them."""


class Generations:
    """The archive's generations for one configuration, on one node."""

    def __init__(self, config: Config, archive: Archive, files: NodeFiles, clock: Callable[[], datetime]) -> None:
        self._specs, self._facts = {spec.name: spec for spec in config.certificates}, config.given_facts
        self._archive, self._files, self._clock = archive, files, clock

    def judged(self, name: str, generation: str, files: Sequence[ArchivedFile]) -> Verdict:
        """Return the verdict on a generation as if its `files` replaced the current files of the node."""
        location = self.location(name, files)
        if location.spec and location.spec.password_file:
            return Verdict(Worth.UNJUDGED, f"{location.path} needs a password")
        pair = self.pair(location, as_put_back(files, self._files))
        own = pair.chain if isinstance(pair, KeyPair) else ()
        usages = _EXTENDED.intersection(location.spec.usages) if location.spec else frozenset[str]()
        anchors = self._anchors(location.spec, own)
        found = verdict(pair, anchors, usages, self._clock())
        if location.spec and anchors and isinstance(pair, KeyPair):
            return self._wider(name, generation, location.spec, pair.leaf, anchors) or found
        return found

    def _wider(
        self, name: str, generation: str, spec: CertificateSpec, leaf: Certificate, anchors: Sequence[Certificate]
    ) -> Verdict | None:
        """Return the verdict `wider` if a later certificate has fewer rights, else None.

        Later certificates are the installed certificate, those that certmond archived after the first copy of `leaf`,
        and those that were issued later or end later.
        """
        fixed = fixed_by(spec, self._facts)
        for pair, younger in self._others(name, generation, leaf):
            other = pair.leaf
            if (
                other in {None, leaf}
                or not (younger or _is_later(other, leaf))
                or not is_issued(other, pair.chain[1:] if isinstance(pair, KeyPair) else (), anchors)
            ):
                continue
            if more := surplus(leaf, other, fixed):
                fact = f"a later certificate (serial {other.serial:x}) has fewer rights"
                return Verdict(Worth.WIDER, f"{'; '.join(more)}; {fact}")
        return None

    def _others(self, name: str, generation: str, leaf: Certificate) -> Iterator[tuple[KeyPair | Unpaired, bool]]:
        """Yield the pair of each generation of a name, and the installed pair.

        The flag is true if the pair is younger than the first generation with the certificate `leaf`.
        """
        found = list[tuple[KeyPair | Unpaired, datetime]]()
        first = self._archive.generation(name, generation).when
        for described, files in self._archive.complete_generations(name):
            location = self.location(name, files)
            pair = self.pair(location, as_put_back(files, self._files))
            found.append((pair, described.when))
            first = min(first, described.when) if pair.leaf == leaf else first
            yield self.pair(location, self._files.read), True
        yield from ((pair, when > first) for pair, when in found)

    def is_whole(self, name: str, files: Sequence[ArchivedFile]) -> bool:
        """Return whether the current files are a pair, and a kubeconfig names a server and its CA.

        True also if their key needs a passphrase.
        """
        location = self.location(name, files)
        pair = self.pair(location, self._files.read)
        if isinstance(pair, Unpaired) and not pair.encrypted:
            return False
        return location.kind is not Kind.KUBECONFIG or not self.broken_cluster(
            location, self._files.read(location.path) or b""
        )

    @staticmethod
    def broken_cluster(location: PairLocation, content: bytes) -> str:
        """Return a clause about the broken cluster of a kubeconfig, or "". Its entry must fix a subject and a CA."""
        fixed = location.spec and location.spec.subject and location.spec.embedded_ca
        return broken_cluster(parse_credentials(content, location.path)) if fixed else ""

    def embedded_ca(self, spec: CertificateSpec, chain: Sequence[Certificate] = ()) -> tuple[Certificate, ...]:
        """Return the present certificates of the CA that the kubeconfig of an entry must embed. () if it has none.

        Raises WriteError if a kubeconfig must not trust them. `chain` is the client certificate with its intermediates:
        a CA that signs it must have signed it.
        """
        if spec.embedded_ca is None:
            return ()
        path = self._specs[spec.embedded_ca].path
        document = decode(self._files.read(path) or b"", path)
        if document.certificates and (why := self._ca_objection(spec, document, chain)):
            raise WriteError(f"certmond does not write the CA in {path} into {spec.path}: {why}")
        return document.certificates

    def _ca_objection(self, spec: CertificateSpec, document: Document, chain: Sequence[Certificate]) -> str | None:
        """Return why a kubeconfig must not trust the certificates of a CA's file, with the remedy, or None."""
        found, now = document.certificates, self._clock()
        if writer := self._files.other_writer(self._specs[spec.embedded_ca or ""].path, None):
            return f"{writer}; let only root write there"
        if document.faults:
            return "a part of that file is malformed; restore the CA first"
        if any(each.is_ca is False for each in found):
            return "that file has a certificate that is not a CA; restore the CA first"
        if not any(each.not_before <= now <= each.not_after for each in found):
            return "it is not valid now; rotate the CA"
        if chain and spec.embedded_ca in spec.ca and not find_paths(chain[0], found, chain[1:]).paths:
            return "it has not signed the client certificate in this kubeconfig; restore the CA that signed it"
        return None

    def with_present_ca(self, location: PairLocation, content: bytes) -> bytes:
        """Return the `content` of a kubeconfig with the present CA, if its entry fixes one and the file embeds a CA.

        An old kubeconfig may trust a CA that a rotation has removed. Return other content unchanged. Raises
        WriteError if the edit would change other content, and as `embedded_ca` does.
        """
        spec = location.spec
        if spec is None or location.kind is not Kind.KUBECONFIG or spec.embedded_ca is None or not embeds_ca(content):
            return content
        trust = self.embedded_ca(spec)
        return with_trust(content, location.path, trust) if trust else content

    def to_restore(self, name: str, files: Sequence[ArchivedFile]) -> tuple[ArchivedFile, ...]:
        """Return the files of a generation as certmond restores them: a kubeconfig with the present CA."""
        location = self.location(name, files)
        return tuple(replace(file, content=self.with_present_ca(location, file.content)) for file in files)

    @staticmethod
    def pair(location: PairLocation, read: Read) -> KeyPair | Unpaired:
        own = bool(location.spec and location.spec.subject)
        return entry_pair(
            location.kind, location.path, location.key_path, read, references=location.references, own=own
        )

    def location(self, name: str, files: Sequence[ArchivedFile]) -> PairLocation:
        """Return the paths of certificate and key: those of the entry, or else those in `files`, the key first."""
        paths = [file.path for file in files]
        for pattern in (each for each in self._specs.values() if each.is_glob):
            if path := next((each for each in paths if archive_name(pattern, each) == name), None):
                return self._of_entry(pattern, path, path, files)
        spec = self._specs.get(name)
        if spec is not None and not spec.is_glob and spec.path in paths:
            return self._of_entry(spec, spec.path, spec.key or spec.path, files)
        is_pem = b"-----BEGIN " in files[-1].content or len(files) > 1
        return PairLocation(Kind.FILE if is_pem else Kind.KUBECONFIG, paths[-1], paths[0], None)

    def _of_entry(self, spec: CertificateSpec, path: str, key_path: str, files: Sequence[ArchivedFile]) -> PairLocation:
        trusted = all(file.owner[0] in {0, os.geteuid()} for file in files) and not self._files.other_writer(path, None)
        return PairLocation(spec.kind, path, key_path, spec, references=trusted)

    def _anchors(self, spec: CertificateSpec | None, own: Sequence[Certificate]) -> tuple[Certificate, ...] | None:
        """Return the current CAs of an entry, or None if they cannot be determined."""
        if spec is None or not spec.ca:
            return None
        found = list[Certificate]()
        for ca in spec.ca:
            if ca == SELF:
                found += [each for each in own if each.self_issued]
                continue
            authority = self._specs[ca]
            content = None if authority.is_glob or authority.password_file else self._files.read(authority.path)
            if content is None:
                return None
            found += decode(content, authority.path).certificates
        return tuple(found)


def _is_later(other: Certificate, leaf: Certificate) -> bool:
    """Return whether `other` was issued later or ends later than `leaf`. True if both dates are the same.

    A certificate of kubeadm begins with its CA (pkiutil, NewSignedCert), and certmond may let it end with the CA. Equal
    dates therefore do not show the order.
    """
    dates = (other.not_before, other.not_after), (leaf.not_before, leaf.not_after)
    return dates[0] == dates[1] or other.not_before > leaf.not_before or other.not_after > leaf.not_after
