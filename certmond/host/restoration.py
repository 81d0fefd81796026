"""A generation of the archive put back in the place of what is on the node, which is kept as a new one.

Owns which generation that is: by default the newest good one that is not there now, and never one whose certificate and
key do not belong together. What a generation is worth is `archived_pair`'s; how files are replaced, the transaction's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from certmond.config import Config
from certmond.errors import CertmondError, MalformedError, RefusedError, WriteError
from certmond.host.archive import Archive, ArchivedFile, Generation
from certmond.host.archived_pair import Verdict, Worth
from certmond.host.audit import Audit
from certmond.host.change import Change
from certmond.host.damaged import DamagedFiles, kept_as
from certmond.host.destination import Destinations
from certmond.host.generations import Form, Generations
from certmond.host.journal import Event
from certmond.host.key_pair import KeyPairs, Unpaired, as_written
from certmond.host.kubeconfig_text import has_others, with_cluster, with_credentials_of
from certmond.host.node_files import NodeFiles
from certmond.host.place import digest
from certmond.host.placing import linked, placed
from certmond.host.transaction import NewFile, Transactions, Writer
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.reason import printable
from certmond.pki.steps import Restore


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A generation that could be read, with its files, and what it is worth now."""

    generation: Generation
    files: tuple[ArchivedFile, ...]
    verdict: Verdict
    in_place: bool


class Restoration:
    """For one configuration and the node below `root`. `writing` takes the lock."""

    def __init__(
        self,
        config: Config,
        *,
        root: str,
        state_dir: Path,
        audit: Audit,
        clock: Callable[[], datetime],
        writing: Callable[[], AbstractContextManager[Writer]],
    ) -> None:
        self._specs = {spec.name: spec for spec in config.certificates}
        self._by_hand = frozenset(
            each for spec in config.certificates if spec.is_trust for each in (spec.name, spec.path, spec.key) if each
        )
        self._files, self._transactions = NodeFiles(root), Transactions(root, state_dir)
        self._archive = Archive(state_dir, config.archive.keep)
        self._damaged = DamagedFiles(state_dir, config.archive.keep, config.certificates, self._files)
        self._generations = Generations(config, self._archive, self._files, clock)
        self._pairs = KeyPairs(config.certificates, self._files)
        self._destinations = Destinations(config.certificates, self._files)
        self._audit, self._clock, self._writing = audit, clock, writing

    def verdict(self, name: str, generation: str) -> Verdict | None:
        """Return what a generation would be worth now; None for one that is never put back.

        Raises MalformedError where it was damaged, WriteError where a file of the node cannot be read.
        """
        files = self._archive.load(name, generation)
        return None if self._is_by_hand(name, files) else self._generations.judged(name, generation, files)

    def restore(self, name: str, generation: str | None, *, dry_run: bool) -> list[str]:
        """Put a generation of the archive back, by default the newest good one that is not there now. Return a sentence
        for each file, and for each generation that was passed over.

        Raises RefusedError where none is good, or the named one is not, BusyError while somebody else is writing, and
        CertmondError.
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
        spec = self._generations.form(name, files).spec or self._specs.get(name)
        self._check_writable([file.path for file in changed], spec)
        if not changed:
            return [*passed, f"{name} is as in {chosen.generation.id} already"]
        if not dry_run:
            self._put_back(name, chosen, changed, present)
        return said

    def _put_back(
        self,
        name: str,
        chosen: _Candidate,
        changed: Sequence[ArchivedFile],
        present: Mapping[str, bytes | None],
    ) -> None:
        form = self._generations.form(name, chosen.files)
        changes: list[Change] = [
            NewFile(f.path, f.content, f.mode, f.owner, _digest(present[f.path]), at_most=f.mode) for f in changed
        ]
        if form.kind is Kind.KUBELET and self._files.leads_to(form.path) == form.path:
            changes = self._linked(changed[0], form.spec)  # the kubelet cannot rotate a file that is no symlink
        generation = chosen.generation.id
        fields = {"step": "restore", "target": name, "generation": generation}
        replaced = {path: self._transactions.real(path) for path, content in present.items() if content is not None}

        def verify(written: Mapping[str, bytes]) -> None:
            self._verify(f"{generation} of {name}", form, changes, written)

        def keep() -> None:
            self._archive.store(name, replaced, self._clock(), {"detail": f"replaced by {generation}"})

        with self._writing() as writer:
            self._audit.note(Event.STEP_BEGUN, self._clock(), f"{name}: {generation} is put back", fields=fields)
            try:
                writer.commit(changes, verify=verify, before_rename=keep)
            except CertmondError as error:
                self._audit.conclude(Event.STEP_FAILED, self._clock(), str(error), "error", fields)
                raise
            self._audit.conclude(Event.STEP_DONE, self._clock(), f"{name}: {generation} was put back", fields=fields)

    def put_right(self, step: Restore, writer: Writer) -> str:
        """Put a generation in the place of an entry's damaged files, with the owner and mode of the entry; or the
        broken cluster of a kubeconfig right. Return a sentence.

        Raises RefusedError where the generation is not good any more, WriteError where the files are whole meanwhile,
        or another user could take the key.
        """
        spec, name = step.status.seen.spec, step.target
        if step.generation is None:
            return self._put_cluster_right(step, spec, writer)
        files = self._load(name, step.generation)
        found, form = self._generations.judged(name, step.generation, files), self._generations.form(name, files)
        if found.worth is not Worth.GOOD or self._is_by_hand(name, files) or form.spec != spec:
            raise RefusedError(f"{step.generation} of {name} is not put back: it is {found.worth}: {found.why}")
        if self._generations.is_whole(name, files):
            raise WriteError(f"{step.path} was put right by someone else since it was looked at; look at it again")
        paths = [file.path for file in files]
        self._check_writable(paths, spec)
        if form.kind is Kind.KUBELET:
            changes = self._linked(files[0], spec)
        else:
            changes = [
                placed(spec, f.path, self._content(form, f), self._files, mode=f.mode, owner=f.owner) for f in files
            ]

        def verify(written: Mapping[str, bytes]) -> None:
            self._verify(f"{step.generation} of {name}", form, changes, written)

        kept = list[Generation]()
        writer.commit(changes, verify=verify, before_rename=lambda: kept.extend(self._keep_damaged(name, paths, step)))
        return f"{step.path} is as in {step.generation} of the archive again{kept_as(kept)}"

    def _put_cluster_right(self, step: Restore, spec: CertificateSpec, writer: Writer) -> str:
        """Put the present CA and the server that is known into a kubeconfig that keeps its credentials."""
        name, path = step.target, step.path
        present = self._files.read(path, anyones=False) or b""
        if not self._generations.broken_cluster(Form(spec.kind, path, path, spec), present):
            raise WriteError(f"{path} was put right by someone else since it was looked at; look at it again")
        self._check_writable([path], spec)
        salvage = step.status.presence.salvage
        server = salvage.server[1] if salvage and salvage.server else None
        content = with_cluster(present, path, self._generations.trust(spec), server)
        changes: list[Change] = [NewFile(path, content, expected=digest(present), at_most=spec.key_mode)]

        def verify(written: Mapping[str, bytes]) -> None:
            if torn := list(self._pairs.torn(changes, as_written(changes, written, self._files))):
                raise RefusedError("; ".join(torn))

        kept = list[Generation]()
        writer.commit(changes, verify=verify, before_rename=lambda: kept.extend(self._keep_damaged(name, [path], step)))
        return f"{path} leads to its API server again, by the CA that is here now{kept_as(kept)}"

    def _check_writable(self, paths: Sequence[str], spec: CertificateSpec | None) -> None:
        """Raises WriteError where another user could take a key that is written there, or a path leads elsewhere."""
        if why := self._files.exposed(paths, spec.owner if spec else None) or self._destinations.astray(paths, spec):
            raise WriteError(why)

    def _content(self, form: Form, file: ArchivedFile) -> bytes:
        """Of a kubeconfig that has more than its damaged user, only the credentials of that one come back."""
        there = self._files.read(file.path, anyones=False) if form.kind is Kind.KUBECONFIG else None
        if not (there and has_others(there)):
            return file.content
        return self._generations.trusting(form, with_credentials_of(there, file.content, file.path))

    def _load(self, name: str, generation: str) -> tuple[ArchivedFile, ...]:
        """Return the files of a generation as they are put back: a kubeconfig with the CA that is to be trusted now."""
        return self._generations.as_trusting(name, self._archive.load(name, generation))

    def _keep_damaged(self, name: str, paths: Sequence[str], step: Restore) -> Iterator[Generation]:
        replaced = {path: self._transactions.real(path) for path in paths if self._files.read(path) is not None}
        if replaced:
            said = f"damaged, replaced by {step.generation} of {name}" if step.generation else step.detail
            described = {"cause": step.cause.value, "detail": said}
            yield self._damaged.keep(name, replaced, self._clock(), described)

    def _linked(self, file: ArchivedFile, spec: CertificateSpec | None) -> list[Change]:
        """A new dated file behind the kubelet's symlink, as the kubelet writes one."""
        return linked(file.path, file.content, spec, self._files, self._clock(), owner=file.owner)

    def _verify(self, what: str, form: Form, changes: Sequence[Change], written: Mapping[str, bytes]) -> None:
        read = as_written(changes, written, self._files)
        pair = self._generations.pair(form, read)
        own = [pair.message] if isinstance(pair, Unpaired) and not pair.encrypted else []
        if torn := [*own, *self._pairs.torn(changes, read)]:
            raise RefusedError(f"{what} is not put back: {'; '.join(torn)}")

    def _named(self, name: str, generation: str) -> _Candidate:
        try:
            found = self._candidate(name, generation)
        except MalformedError as error:
            raise RefusedError(str(error)) from error
        if found.in_place or found.verdict.worth in {Worth.GOOD, Worth.UNJUDGED}:
            return found
        if found.verdict.worth is Worth.OUTDATED and not self._generations.is_whole(name, found.files):
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
        if candidates and not self._generations.is_whole(name, candidates[0].files):
            for found in candidates:
                if found.verdict.worth is Worth.OUTDATED:
                    passed[:] = [each for each in passed if not each.startswith(f"{found.generation.id} ")]
                    return found
        raise RefusedError("\n".join([f"the archive has no good generation of {name} that is not there now", *passed]))

    def _candidate(self, name: str, generation: str) -> _Candidate:
        """Raises MalformedError where it was damaged, WriteError where it is none that is put back."""
        files = self._load(name, generation)
        if self._is_by_hand(name, files):
            raise WriteError(_never(name))
        in_place = all(self._files.read(file.path) == file.content for file in files)
        described = self._archive.generation(name, generation)
        return _Candidate(described, files, self._generations.judged(name, generation, files), in_place)

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
