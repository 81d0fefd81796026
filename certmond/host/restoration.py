"""A generation of the archive put back in the place of what is on the node, which is kept as a new one.

Owns which generation that is: by default the newest good one that is not there now, and never one whose certificate and
key do not belong together. What a generation is worth is `archived_pair`'s; how files are replaced, the transaction's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from certmond.config import Config
from certmond.errors import CertmondError, MalformedError, RefusedError, WriteError
from certmond.host.archive import Archive, ArchivedFile, Generation
from certmond.host.archived_pair import Verdict, Worth, as_put_back, verdict
from certmond.host.audit import Audit
from certmond.host.journal import Event
from certmond.host.key_pair import KeyPair, KeyPairs, Read, Unpaired, as_written, entry_pair
from certmond.host.node_files import NodeFiles
from certmond.host.place import digest
from certmond.host.renewal import archive_name
from certmond.host.transaction import NewFile, Transactions, Writer
from certmond.pki.catalog import SELF, CertificateSpec, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.encoding import decode
from certmond.pki.reason import printable
from certmond.pki.signing_policy import fixed_by, is_issued, surplus

_EXTENDED = frozenset({"server auth", "client auth"})


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A generation that could be read, with its files, and what it is worth now."""

    generation: Generation
    files: tuple[ArchivedFile, ...]
    verdict: Verdict
    in_place: bool


@dataclass(frozen=True, slots=True)
class _Form:
    """Where the certificate and the key of a generation belong."""

    kind: Kind
    path: str
    key_path: str
    spec: CertificateSpec | None
    references: bool = False
    """Whether files that it refers to are read: no other user chose them."""


class Restoration:
    """For one configuration and the node below `root`. `writing` takes the lock, waiting for so many seconds."""

    def __init__(
        self,
        config: Config,
        *,
        root: str,
        state_dir: Path,
        audit: Audit,
        clock: Callable[[], datetime],
        writing: Callable[[float], AbstractContextManager[Writer]],
    ) -> None:
        self._specs, self._facts = {spec.name: spec for spec in config.certificates}, config.given_facts
        self._by_hand = frozenset(
            each for spec in config.certificates if spec.is_trust for each in (spec.name, spec.path, spec.key) if each
        )
        self._files, self._transactions = NodeFiles(root), Transactions(root, state_dir)
        self._archive = Archive(state_dir, config.archive.keep)
        self._pairs = KeyPairs(config.certificates, self._files)
        self._audit, self._clock, self._writing = audit, clock, writing

    def verdict(self, name: str, generation: str) -> Verdict | None:
        """Return what a generation would be worth now; None for one that is never put back.

        Raises MalformedError where it was damaged, WriteError where a file of the node cannot be read.
        """
        files = self._archive.load(name, generation)
        return None if self._is_by_hand(name, files) else self._judged(name, generation, files)

    def restore(self, name: str, generation: str | None, patience: float, *, dry_run: bool) -> list[str]:
        """Put a generation of the archive back, by default the newest good one that is not there now. Return a sentence
        for each file, and for each generation that was passed over.

        Raises RefusedError where none is good, or the named one is not, and CertmondError.
        """
        if self._is_by_hand(name, ()):
            raise WriteError(_never(name))
        kept = self._archive.ids(name)
        if not kept or generation not in {None, *kept}:
            raise WriteError(f"the archive has no such generation of {name}; there are: {', '.join(kept) or 'none'}")
        passed = list[str]()
        chosen = self._named(name, generation) if generation else self._newest(name, kept, passed)
        files, when = chosen.files, f"{chosen.generation.when:%Y-%m-%d %H:%M} UTC"
        present = {file.path: self._files.read(file.path) for file in files}
        changed = [file for file in files if present[file.path] != file.content]
        said = [*passed, *(f"{file.path} is put back as it was before {when}" for file in changed)]
        if chosen.verdict.why:
            said.append(f"{chosen.generation.id} is {chosen.verdict.worth}: {chosen.verdict.why}")
        if strangers := [file for file in changed if self._files.owner(file.path) not in {None, file.owner}]:
            raise WriteError(*(_not_its_owner(file) for file in strangers))
        spec = self._form(name, files).spec or self._specs.get(name)
        if why := self._files.exposed([file.path for file in changed], spec.owner if spec else None):
            raise WriteError(why)
        if not changed:
            return [*passed, f"{name} is as in {chosen.generation.id} already"]
        if not dry_run:
            self._put_back(name, chosen, changed, present, patience)
        return said

    def _put_back(
        self,
        name: str,
        chosen: _Candidate,
        changed: Sequence[ArchivedFile],
        present: Mapping[str, bytes | None],
        patience: float,
    ) -> None:
        changes = [
            NewFile(f.path, f.content, f.mode, f.owner, _digest(present[f.path]), at_most=f.mode) for f in changed
        ]
        generation = chosen.generation.id
        fields = {"step": "restore", "target": name, "generation": generation}
        replaced = {path: self._transactions.real(path) for path, content in present.items() if content is not None}

        def verify(written: Mapping[str, bytes]) -> None:
            read = as_written(changes, written, self._files)
            pair = self._pair(self._form(name, chosen.files), read)
            own = [pair.message] if isinstance(pair, Unpaired) and not pair.encrypted else []
            if torn := [*own, *self._pairs.torn(changes, read)]:
                raise RefusedError(f"{generation} of {name} is not put back: {'; '.join(torn)}")

        def keep() -> None:
            self._archive.store(name, replaced, self._clock(), {"detail": f"replaced by {generation}"})

        with self._writing(patience) as writer:
            self._audit.note(Event.STEP_BEGUN, self._clock(), f"{name}: {generation} is put back", fields=fields)
            try:
                writer.commit(changes, verify=verify, before_rename=keep)
            except CertmondError as error:
                self._audit.conclude(Event.STEP_FAILED, self._clock(), str(error), "error", fields)
                raise
            self._audit.conclude(Event.STEP_DONE, self._clock(), f"{name}: {generation} was put back", fields=fields)

    def _named(self, name: str, generation: str) -> _Candidate:
        try:
            found = self._candidate(name, generation)
        except MalformedError as error:
            raise RefusedError(str(error)) from error
        if found.in_place or found.verdict.worth in {Worth.GOOD, Worth.UNJUDGED}:
            return found
        if found.verdict.worth is Worth.OUTDATED and not self._is_whole(name, found.files):
            return found
        fact = f"{generation} of {name} is not put back: it is {found.verdict.worth}: {found.verdict.why}"
        raise RefusedError(f"{fact}; `certmond archive list {name}` shows which are good")

    def _newest(self, name: str, kept: Sequence[str], passed: list[str]) -> _Candidate:
        """Return the newest good generation whose files differ from the node's.

        If there is none, return the newest one that the node already has, unless it is broken. If the node has no
        whole pair, return the newest outdated one. `passed` collects the generations that certmond passed over.
        Raises RefusedError if none of these exists.
        """
        candidates = list[_Candidate]()
        for generation in reversed(kept):
            try:
                found = self._candidate(name, generation)
            except MalformedError as error:
                passed.append(f"{generation} is passed over: {error}")
                continue
            if found.verdict.worth is Worth.GOOD and not found.in_place:
                return found
            candidates.append(found)
            if not found.in_place:
                passed.append(f"{generation} is passed over: it is {found.verdict.worth}: {found.verdict.why}")
        there = next((each for each in candidates if each.in_place), None)
        if there and there.verdict.worth is not Worth.BROKEN:
            return there
        if candidates and not self._is_whole(name, candidates[0].files):
            for found in candidates:
                if found.verdict.worth is Worth.OUTDATED:
                    passed[:] = [each for each in passed if not each.startswith(f"{found.generation.id} ")]
                    return found
        raise RefusedError("\n".join([f"the archive has no good generation of {name} that is not there now", *passed]))

    def _candidate(self, name: str, generation: str) -> _Candidate:
        """Raises MalformedError where it was damaged, WriteError where it is none that is put back."""
        files = self._archive.load(name, generation)
        if self._is_by_hand(name, files):
            raise WriteError(_never(name))
        in_place = all(self._files.read(file.path) == file.content for file in files)
        described = self._archive.generation(name, generation)
        return _Candidate(described, files, self._judged(name, generation, files), in_place)

    def _judged(self, name: str, generation: str, files: Sequence[ArchivedFile]) -> Verdict:
        form = self._form(name, files)
        if form.spec and form.spec.password_file:
            return Verdict(Worth.UNJUDGED, f"{form.path} is opened by a password")
        pair = self._pair(form, as_put_back(files, self._files))
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
        """Return the verdict that a later certificate had less: what is in place, a younger generation, or one that
        ends later; None where none had.
        """
        fixed = fixed_by(spec, self._facts)
        for pair, younger in self._others(name, generation):
            other = pair.leaf
            if (
                other in {None, leaf}
                or not (younger or other.not_after > leaf.not_after)
                or not is_issued(other, pair.chain[1:] if isinstance(pair, KeyPair) else (), anchors)
            ):
                continue
            if more := surplus(leaf, other, fixed):
                had_less = f"a later certificate (serial {other.serial:x}) had less"
                return Verdict(Worth.WIDER, f"{'; '.join(more)}; {had_less}")
        return None

    def _others(self, name: str, generation: str) -> Iterator[tuple[KeyPair | Unpaired, bool]]:
        """Yield what each generation of a name has, and what is in place: each with whether it is younger than this
        generation.
        """
        when = self._archive.generation(name, generation).when
        for described, files in self._archive.whole(name):
            form = self._form(name, files)
            yield self._pair(form, as_put_back(files, self._files)), described.when > when
            yield self._pair(form, self._files.read), True

    def _is_whole(self, name: str, files: Sequence[ArchivedFile]) -> bool:
        """What is in place of these files is a pair, or cannot be judged."""
        pair = self._pair(self._form(name, files), self._files.read)
        return not isinstance(pair, Unpaired) or pair.encrypted

    @staticmethod
    def _pair(form: _Form, read: Read) -> KeyPair | Unpaired:
        return entry_pair(form.kind, form.path, form.key_path, read, references=form.references)

    def _form(self, name: str, files: Sequence[ArchivedFile]) -> _Form:
        """By its entry; where the configuration has none any longer, by what the files are: the key comes first."""
        paths = [file.path for file in files]
        for pattern in (each for each in self._specs.values() if each.is_glob):
            if path := next((each for each in paths if archive_name(pattern, each) == name), None):
                return self._of_entry(pattern, path, path, files)
        spec = self._specs.get(name)
        if spec is not None and not spec.is_glob and spec.path in paths:
            return self._of_entry(spec, spec.path, spec.key or spec.path, files)
        is_pem = b"-----BEGIN " in files[-1].content or len(files) > 1
        return _Form(Kind.FILE if is_pem else Kind.KUBECONFIG, paths[-1], paths[0], None)

    def _of_entry(self, spec: CertificateSpec, path: str, key_path: str, files: Sequence[ArchivedFile]) -> _Form:
        roots = all(file.owner[0] in {0, os.geteuid()} for file in files) and not self._files.strangers(path, None)
        return _Form(spec.kind, path, key_path, spec, references=roots)

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

    def _is_by_hand(self, name: str, files: Sequence[ArchivedFile]) -> bool:
        """Return whether an operator must restore `name` by hand: a CA, because the operator may have removed its key
        or ended the trust in it, and a key pair that has no certificate.
        """
        return name in self._by_hand or not self._by_hand.isdisjoint(file.path for file in files)


def _never(name: str) -> str:
    fact = f"{name} is a CA or a key pair without a certificate, which is never put back from the archive: a former"
    risk = "one may lack its key, or no longer be trusted, and every client that trusts the present one would fail"
    remedy = "put certificate and key back by hand, together, and then rotate (see docs/rotation.md)"
    return f"{fact} {risk}; {remedy}"


def _not_its_owner(file: ArchivedFile) -> str:
    uid, gid = file.owner
    remedy = f"give it back first (chown {uid}:{gid} {file.path}), or move it away"
    return printable(f"{file.path} was kept as {uid}:{gid}'s, and belongs to others now; {remedy}")


def _digest(content: bytes | None) -> str | None:
    return None if content is None else digest(content)
