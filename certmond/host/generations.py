"""The generations of the archive, judged against the node as it is now: which are good in the place of what is there.

Owns where the files of a generation belong, and that no right comes back which a later certificate no longer had. What
a pair is worth is `archived_pair`'s. Only reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from certmond.config import Config
from certmond.host.archive import Archive, ArchivedFile
from certmond.host.archived_pair import Verdict, Worth, as_put_back, verdict
from certmond.host.credentials import broken_cluster, parse_credentials
from certmond.host.key_pair import KeyPair, Read, Unpaired, entry_pair
from certmond.host.kubeconfig_text import embeds_a_ca, with_trust
from certmond.host.node_files import NodeFiles
from certmond.host.renewal import archive_name
from certmond.pki.catalog import SELF, CertificateSpec, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.encoding import decode
from certmond.pki.signing_policy import fixed_by, is_issued, surplus

_EXTENDED = frozenset({"server auth", "client auth"})


@dataclass(frozen=True, slots=True)
class Form:
    """Where the certificate and the key of a generation belong."""

    kind: Kind
    path: str
    key_path: str
    spec: CertificateSpec | None
    references: bool = False
    """Whether files that it refers to are read: no other user chose them."""


class Generations:
    """What the archive has for one configuration, on one node."""

    def __init__(self, config: Config, archive: Archive, files: NodeFiles, clock: Callable[[], datetime]) -> None:
        self._specs, self._facts = {spec.name: spec for spec in config.certificates}, config.given_facts
        self._archive, self._files, self._clock = archive, files, clock

    def judged(self, name: str, generation: str, files: Sequence[ArchivedFile]) -> Verdict:
        """Return what a generation with these files is worth in the place of what is there."""
        form = self.form(name, files)
        if form.spec and form.spec.password_file:
            return Verdict(Worth.UNJUDGED, f"{form.path} is opened by a password")
        pair = self.pair(form, as_put_back(files, self._files))
        own = pair.chain if isinstance(pair, KeyPair) else ()
        usages = _EXTENDED.intersection(form.spec.usages) if form.spec else frozenset[str]()
        anchors = self._anchors(form.spec, own)
        found = verdict(pair, anchors, usages, self._clock())
        if form.spec and anchors and isinstance(pair, KeyPair):
            return self._wider(name, generation, form.spec, pair.leaf, anchors) or found
        return found

    def _wider(
        self, name: str, generation: str, spec: CertificateSpec, leaf: Certificate, anchors: Sequence[Certificate]
    ) -> Verdict | None:
        """Return the verdict that a later certificate had less: what is in place, one that came into the archive after
        this one had done so first, or one that was issued or ends later; None where none had.
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
                had_less = f"a later certificate (serial {other.serial:x}) had less"
                return Verdict(Worth.WIDER, f"{'; '.join(more)}; {had_less}")
        return None

    def _others(self, name: str, generation: str, leaf: Certificate) -> Iterator[tuple[KeyPair | Unpaired, bool]]:
        """Yield what each generation of a name has, and what is in place: each with whether it is younger than this
        generation, or than an earlier one with the same certificate.
        """
        found = list[tuple[KeyPair | Unpaired, datetime]]()
        first = self._archive.generation(name, generation).when
        for described, files in self._archive.whole(name):
            form = self.form(name, files)
            pair = self.pair(form, as_put_back(files, self._files))
            found.append((pair, described.when))
            first = min(first, described.when) if pair.leaf == leaf else first
            yield self.pair(form, self._files.read), True
        yield from ((pair, when > first) for pair, when in found)

    def is_whole(self, name: str, files: Sequence[ArchivedFile]) -> bool:
        """What is in place of these files is a pair, or cannot be judged; and a kubeconfig leads to a server that it
        trusts.
        """
        form = self.form(name, files)
        pair = self.pair(form, self._files.read)
        if isinstance(pair, Unpaired) and not pair.encrypted:
            return False
        return form.kind is not Kind.KUBECONFIG or not self.broken_cluster(form, self._files.read(form.path) or b"")

    @staticmethod
    def broken_cluster(form: Form, content: bytes) -> str:
        """Return what is broken of the cluster of a kubeconfig whose entry fixes a subject and a CA, a clause; "" where
        nothing is.
        """
        fixed = form.spec and form.spec.subject and form.spec.embedded_ca
        return broken_cluster(parse_credentials(content, form.path)) if fixed else ""

    def trust(self, spec: CertificateSpec) -> tuple[Certificate, ...]:
        """Return the CA certificates that the kubeconfig of an entry is to embed, as they are on the node now."""
        if spec.embedded_ca is None:
            return ()
        authority = self._specs[spec.embedded_ca]
        return decode(self._files.read(authority.path) or b"", authority.path).certificates

    def trusting(self, form: Form, content: bytes) -> bytes:
        """Return the `content` of a kubeconfig with the CA that its entry says to embed, as it is on the node now: a
        former kubeconfig may trust a CA that was distrusted since. Content of another kind, or that embeds no CA, as it
        is. Raises WriteError where the CA cannot be exchanged.
        """
        spec = form.spec
        if spec is None or form.kind is not Kind.KUBECONFIG or spec.embedded_ca is None or not embeds_a_ca(content):
            return content
        trust = self.trust(spec)
        return with_trust(content, form.path, trust) if trust else content

    def as_trusting(self, name: str, files: Sequence[ArchivedFile]) -> tuple[ArchivedFile, ...]:
        """Return the files of a generation as they are put back, as `trusting` has it."""
        form = self.form(name, files)
        return tuple(replace(file, content=self.trusting(form, file.content)) for file in files)

    @staticmethod
    def pair(form: Form, read: Read) -> KeyPair | Unpaired:
        own = bool(form.spec and form.spec.subject)
        return entry_pair(form.kind, form.path, form.key_path, read, references=form.references, own=own)

    def form(self, name: str, files: Sequence[ArchivedFile]) -> Form:
        """By its entry; where the configuration has none any longer, by what the files are: the key comes first."""
        paths = [file.path for file in files]
        for pattern in (each for each in self._specs.values() if each.is_glob):
            if path := next((each for each in paths if archive_name(pattern, each) == name), None):
                return self._of_entry(pattern, path, path, files)
        spec = self._specs.get(name)
        if spec is not None and not spec.is_glob and spec.path in paths:
            return self._of_entry(spec, spec.path, spec.key or spec.path, files)
        is_pem = b"-----BEGIN " in files[-1].content or len(files) > 1
        return Form(Kind.FILE if is_pem else Kind.KUBECONFIG, paths[-1], paths[0], None)

    def _of_entry(self, spec: CertificateSpec, path: str, key_path: str, files: Sequence[ArchivedFile]) -> Form:
        roots = all(file.owner[0] in {0, os.geteuid()} for file in files) and not self._files.strangers(path, None)
        return Form(spec.kind, path, key_path, spec, references=roots)

    def _anchors(self, spec: CertificateSpec | None, own: Sequence[Certificate]) -> tuple[Certificate, ...] | None:
        """The CAs of an entry as they are on the node now; None where that cannot be told."""
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
    """Return whether it was issued or ends later: kubeadm lets a certificate begin with its CA (pkiutil,
    NewSignedCert), and certmond may let it end with that. Where both dates are the same, nobody knows.
    """
    dates = (other.not_before, other.not_after), (leaf.not_before, leaf.not_after)
    return dates[0] == dates[1] or other.not_before > leaf.not_before or other.not_after > leaf.not_after
