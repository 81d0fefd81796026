"""Verdicts on the generations of the archive: whether certmond may restore a generation.

A restored certificate must not contain a subject, a usage or a name that both the entry and a later certificate lack.
`archived_pair_check` checks the certificate and the key of a generation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from certmond.config.model import Config
from certmond.errors import WriteError
from certmond.formats.kubeconfig_certificates import broken_cluster, parse_credentials
from certmond.formats.kubeconfig_edit import embeds_ca, with_trust
from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import SELF, CertificateSpec, Kind
from certmond.pki.signing.policy import fixed_by, surplus
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import Document, decode
from certmond.pki.x509.issuance import is_issued, issuing_cas
from certmond.pki.x509.path_building import find_paths
from certmond.renewal.archived_pair_check import Verdict, Worth, as_put_back, verdict
from certmond.renewal.key_pair import KeyPair, Read, Unpaired, entry_pair
from certmond.state.archive import Archive, ArchivedFile, archive_name
from certmond.transaction.node_file_reader import NodeFiles

_EXTENDED = frozenset({"server auth", "client auth"})


@immutable
class PairLocation:
    """Paths to which certmond would restore the certificate and the key of a generation."""

    kind: Kind
    path: str
    key_path: str
    spec: CertificateSpec | None
    references: bool = False
    """Whether certmond reads the files to which a kubeconfig refers. True only if no untrusted user could choose these
    files.
    """


@immutable
class Pairs:
    """The installed pairs of an entry, and its archived pairs with the times of their generations."""

    installed: tuple[KeyPair | Unpaired, ...]
    archived: tuple[tuple[KeyPair | Unpaired, datetime], ...]


class Generations:
    """Reader of the generations in the archive of one node."""

    def __init__(self, config: Config, archive: Archive, files: NodeFiles, clock: Callable[[], datetime]) -> None:
        self._specs, self._facts = {spec.name: spec for spec in config.certificates}, config.given_facts
        self._archive, self._files, self._clock = archive, files, clock

    def pairs(self, name: str) -> Pairs:
        """Return the pairs with which `judged` compares each generation of `name`."""
        installed, archived = dict[PairLocation, KeyPair | Unpaired](), list[tuple[KeyPair | Unpaired, datetime]]()
        for described, files in self._archive.complete_generations(name):
            location = self.location(name, files)
            archived.append((self.pair(location, as_put_back(files, self._files)), described.when))
            if location not in installed:
                installed[location] = self.pair(location, self._files.read)
        return Pairs(tuple(installed.values()), tuple(archived))

    def judged(self, name: str, generation: str, files: Sequence[ArchivedFile], pairs: Pairs | None = None) -> Verdict:
        """Return the verdict on a generation, as if its `files` had replaced the current files of the node.

        `name` is the name of the entry in the archive. With `pairs`, the result of the method `pairs`, a verdict on
        each of many generations does not read all files again.
        """
        location = self.location(name, files)
        if location.spec and location.spec.password_file:
            return Verdict(Worth.UNJUDGED, f"{location.path} needs a password")
        pair = self.pair(location, as_put_back(files, self._files))
        own = pair.chain if isinstance(pair, KeyPair) else ()
        usages = _EXTENDED.intersection(location.spec.usages) if location.spec else frozenset[str]()
        anchors = self._anchors(location.spec, own)
        found = verdict(pair, anchors, usages, self._clock())
        if location.spec and anchors and isinstance(pair, KeyPair):
            others = self._others(name, generation, pair.leaf, pairs or self.pairs(name))
            return self._wider(location.spec, pair.leaf, anchors, others) or found
        return found

    def _wider(
        self, spec: CertificateSpec, leaf: Certificate, anchors: Sequence[Certificate],
        others: Iterable[tuple[KeyPair | Unpaired, bool]],
    ) -> Verdict | None:  # fmt: skip
        """Return the verdict `wider` if the entry and a later certificate lack content of `leaf`, otherwise None."""
        fixed = fixed_by(spec, self._facts)
        for pair, younger in others:
            other, chain = pair.leaf, pair.chain[1:] if isinstance(pair, KeyPair) else ()
            if (
                other in {None, leaf}
                or not (younger or _is_later(other, leaf))
                or not is_issued(other, issuing_cas(chain, anchors), anchors)
            ):
                continue
            if more := surplus(leaf, other, fixed):
                fact = f"a later certificate (serial {other.serial_hex}) lacks this content"
                return Verdict(Worth.WIDER, f"{'; '.join(more)}; {fact}")
        return None

    def _others(
        self, name: str, generation: str, leaf: Certificate, pairs: Pairs
    ) -> Iterator[tuple[KeyPair | Unpaired, bool]]:
        """Yield each installed and archived pair of `name`, with True for a pair that is later than `leaf`."""
        own = self._archive.generation(name, generation).when
        first = min((own, *(when for pair, when in pairs.archived if pair.leaf == leaf)))
        yield from ((pair, True) for pair in pairs.installed)
        yield from ((pair, when > first) for pair, when in pairs.archived)

    def is_whole(self, name: str, files: Sequence[ArchivedFile]) -> bool:
        """Return whether the current files contain a certificate with its key, or a key that needs a passphrase.

        A kubeconfig must also contain a complete cluster.
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
        """Return a clause about the defect of the cluster in the kubeconfig `content`, or "" if there is no defect.

        certmond checks the cluster only if the entry specifies a subject and a CA.
        """
        fixed = location.spec and location.spec.subject and location.spec.embedded_ca
        return broken_cluster(parse_credentials(content, location.path)) if fixed else ""

    def embedded_ca(self, spec: CertificateSpec, chain: Sequence[Certificate] = ()) -> tuple[Certificate, ...]:
        """Return the present certificates of the CA that the kubeconfig of an entry must embed.

        Return () if the kubeconfig must embed no CA. `chain` is the client certificate with its intermediates. Raises
        WriteError if the kubeconfig must not trust the CA.
        """
        if spec.embedded_ca is None:
            return ()
        path = self._specs[spec.embedded_ca].path
        document = decode(self._files.read(path) or b"", path)
        if document.certificates and (why := self._ca_objection(spec, document, chain)):
            raise WriteError(f"certmond does not write the CA in {path} into {spec.path}: {why}")
        return document.certificates

    def _ca_objection(self, spec: CertificateSpec, document: Document, chain: Sequence[Certificate]) -> str | None:
        """Return why a kubeconfig must not trust the certificates in `document`, or None if it may trust them."""
        found, now = document.certificates, self._clock()
        if writer := self._files.other_writer(self._specs[spec.embedded_ca or ""].path, None):
            return f"{writer}; let only root write there"
        if document.faults:
            return "a part of the CA file is malformed; restore the CA first"
        if any(each.is_ca is False for each in found):
            return "the CA file contains a certificate that is not a CA; restore the CA first"
        if not any(each.not_before <= now <= each.not_after for each in found):
            return "the CA is not valid now; rotate the CA"
        if chain and spec.embedded_ca in spec.ca and not find_paths(chain[0], found, chain[1:]).paths:
            return "the CA has not signed the client certificate in this kubeconfig; restore the CA that signed it"
        return None

    def with_present_ca(self, location: PairLocation, content: bytes) -> bytes:
        """Return the kubeconfig `content` with the present CA, because a rotation can have removed the archived CA.

        If the entry names no embedded CA, the kubeconfig embeds none, or the present CA file contains none, return
        `content` unchanged. Raises WriteError if the kubeconfig must not trust the present CA.
        """
        spec = location.spec
        if spec is None or location.kind is not Kind.KUBECONFIG or spec.embedded_ca is None or not embeds_ca(content):
            return content
        trust = self.embedded_ca(spec)
        return with_trust(content, location.path, trust) if trust else content

    def to_restore(self, name: str, files: Sequence[ArchivedFile]) -> tuple[ArchivedFile, ...]:
        """Return the files of a generation as certmond restores them: a kubeconfig contains the present CA.

        Raises WriteError if the kubeconfig must not trust the present CA.
        """
        location = self.location(name, files)
        return tuple(replace(file, content=self.with_present_ca(location, file.content)) for file in files)

    @staticmethod
    def pair(location: PairLocation, read: Read) -> KeyPair | Unpaired:
        own = bool(location.spec and location.spec.subject)
        return entry_pair(
            location.kind, location.path, location.key_path, read, references=location.references, own=own
        )

    def location(self, name: str, files: Sequence[ArchivedFile]) -> PairLocation:
        """Return the paths of the certificate and the key of a generation.

        If no entry of this name has a path in `files`, the certificate path is the last path in `files`. The key path
        is then the first path.
        """
        paths = [file.path for file in files]
        for pattern in (each for each in self._specs.values() if each.is_glob):
            if path := next((each for each in paths if archive_name(pattern, each) == name), None):
                return self._of_entry(pattern, path, pattern.key_of(path) or path, files)
        spec = self._specs.get(name)
        if spec is not None and not spec.is_glob and spec.path in paths:
            return self._of_entry(spec, spec.path, spec.key or spec.path, files)
        is_pem = b"-----BEGIN " in files[-1].content or len(files) > 1
        return PairLocation(Kind.FILE if is_pem else Kind.KUBECONFIG, paths[-1], paths[0], None)

    def _of_entry(self, spec: CertificateSpec, path: str, key_path: str, files: Sequence[ArchivedFile]) -> PairLocation:
        trusted = all(file.owner[0] in {0, os.geteuid()} for file in files) and not self._files.other_writer(path, None)
        return PairLocation(spec.kind, path, key_path, spec, references=trusted)

    def _anchors(self, spec: CertificateSpec | None, own: Sequence[Certificate]) -> tuple[Certificate, ...] | None:
        """Return the current CA certificates of an entry, or None if a CA is unknown or unreadable."""
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
    """Return whether `other` starts later or expires later than `leaf`, or has the same dates.

    Equal dates do not show which certificate is later, because a certificate of kubeadm has the start date of its CA
    (pkiutil, NewSignedCert).
    """
    dates = (other.not_before, other.not_after), (leaf.not_before, leaf.not_after)
    return dates[0] == dates[1] or other.not_before > leaf.not_before or other.not_after > leaf.not_after
