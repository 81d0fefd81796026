"""Restoration of archived files. The replaced files become a new generation of the archive.

This module chooses the generation to restore, unless the caller names one. This module never restores a certificate and
a key that do not match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from shlex import quote

from certmond.config.model import Config
from certmond.errors import CertmondError, MalformedError, RefusedError, WriteError
from certmond.formats.kubeconfig_edit import has_several_entries, with_cluster, with_credentials_of
from certmond.immutable_class import immutable
from certmond.notify.audit import Audit
from certmond.notify.event_log import Event
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.findings import printable
from certmond.pki.planning.steps import Restore
from certmond.renewal.archive_generation_check import Generations, PairLocation
from certmond.renewal.archived_pair_check import Verdict, Worth
from certmond.renewal.damaged_file_archive import DamagedFiles, archive_clause
from certmond.renewal.key_pair import KeyPairs, Unpaired, as_written
from certmond.renewal.new_files import linked, placed
from certmond.renewal.symlink_target_check import SymlinkTargets
from certmond.state.archive import Archive, ArchivedFile, Generation
from certmond.transaction.commit import NewFile, Transactions, Writer
from certmond.transaction.dirfd import digest
from certmond.transaction.node_file_reader import NodeFiles
from certmond.transaction.operations import Change


@immutable
class _Candidate:
    """A readable generation with its verdict. `in_place` is True if the node already has the same files."""

    generation: Generation
    files: tuple[ArchivedFile, ...]
    verdict: Verdict
    in_place: bool


class Restoration:
    """Restoration of archived files on the node below `root`. `writing` acquires the lock of all writers."""

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
        self._symlink_targets = SymlinkTargets(config.certificates, self._files)
        self._audit, self._clock, self._writing = audit, clock, writing

    def verdict(self, name: str, generation: str) -> Verdict | None:
        """Return the present verdict on a generation, or None if certmond never restores this entry.

        Raises MalformedError if the generation is damaged, and WriteError if a file of the node is unreadable.
        """
        files = self._archive.load(name, generation)
        return None if self._is_by_hand(name, files) else self._generations.judged(name, generation, files)

    def restore(self, name: str, generation: str | None, *, dry_run: bool) -> list[str]:
        """Restore a generation, by default the generation that `_newest` chooses.

        Return a sentence for each file and for each skipped generation. With `dry_run`, write no file. Raises
        RefusedError if no generation is usable, or if the verdict on `generation` does not permit the restoration.
        Raises BusyError while another process writes. Raises WriteError if the archive lacks the generation, or if
        certmond must not or cannot write the files.
        """
        if self._is_by_hand(name, ()):
            raise WriteError(_never(name))
        ids = self._archive.ids(name)
        if not ids or generation not in {None, *ids}:
            raise WriteError(self._no_generation(name, generation, ids))
        skipped = list[str]()
        chosen = self._named(name, generation) if generation else self._newest(name, ids, skipped)
        files, when = chosen.files, f"{chosen.generation.when:%Y-%m-%d %H:%M} UTC"
        present = {file.path: self._files.read(file.path) for file in files}
        changed = [file for file in files if present[file.path] != file.content]
        messages = [*skipped, *(f"{file.path} is restored to its state before {when}" for file in changed)]
        if chosen.verdict.why:
            messages.append(f"{chosen.generation.id} is {chosen.verdict.worth}: {chosen.verdict.why}")
        if foreign := [file for file in changed if self._files.owner(file.path) not in {None, file.owner}]:
            raise WriteError(*(_not_its_owner(file) for file in foreign))
        spec = self._generations.location(name, files).spec or self._specs.get(name)
        self._check_writable([file.path for file in changed], spec)
        if not changed:
            return [*skipped, f"{name} is already identical to {chosen.generation.id}"]
        if not dry_run:
            self._replace_files(name, chosen, changed, present)
        return messages

    def _no_generation(self, name: str, generation: str | None, ids: Sequence[str]) -> str:
        if ids:
            archived = ", ".join(ids)
            return f"the archive has no generation {generation} of {name}; the generations of {name} are: {archived}"
        fact, spec = f"the archive has no generation of {name}", self._specs.get(name)
        if spec is None or spec.renewed_by:
            return f"{fact}; to list the generations of all names, run: certmond archive list"
        return f"{fact}; to issue the certificate again, run: certmond renew {name}"

    def _replace_files(
        self,
        name: str,
        chosen: _Candidate,
        changed: Sequence[ArchivedFile],
        present: Mapping[str, bytes | None],
    ) -> None:
        location = self._generations.location(name, chosen.files)
        changes: list[Change] = [
            NewFile(f.path, f.content, f.mode, f.owner, _digest(present[f.path]), at_most=f.mode) for f in changed
        ]
        if location.kind is Kind.KUBELET and self._files.leads_to(location.path) == location.path:
            changes = self._linked(changed[0], location.spec)  # because the kubelet cannot rotate a regular file
        generation = chosen.generation.id
        fields = {"step": "restore", "target": name, "generation": generation}
        replaced = {path: self._transactions.real(path) for path, content in present.items() if content is not None}

        def verify(written: Mapping[str, bytes]) -> None:
            self._verify(f"{generation} of {name}", location, changes, written)

        def keep() -> None:
            self._archive.store(name, replaced, self._clock(), {"detail": f"replaced by {generation}"})

        with self._writing() as writer:
            message = f"{name}: the restore of {generation} begins"
            self._audit.note(Event.STEP_BEGUN, self._clock(), message, fields=fields)
            try:
                writer.commit(changes, verify=verify, before_rename=keep)
            except CertmondError as error:
                self._audit.conclude(Event.STEP_FAILED, self._clock(), str(error), "error", fields)
                raise
            self._audit.conclude(Event.STEP_DONE, self._clock(), f"{name}: {generation} is restored", fields=fields)

    def repair(self, step: Restore, writer: Writer) -> str:
        """Replace the damaged files of an entry with the generation of the step. Return a sentence about the result.

        Without a generation, repair only the cluster of the kubeconfig. Raises RefusedError if certmond must not
        restore the generation, or if a certificate and its key would not match. Raises WriteError if another process
        has repaired the files, or if another user could read the key.
        """
        spec, name = step.status.seen.spec, step.target
        if step.generation is None:
            return self._repair_cluster(step, spec, writer)
        files = self._generations.to_restore(name, self._archive.load(name, step.generation))
        found = self._generations.judged(name, step.generation, files)
        location = self._generations.location(name, files)
        if found.worth is not Worth.GOOD or self._is_by_hand(name, files) or location.spec != spec:
            raise RefusedError(
                f"certmond does not restore {step.generation} of {name}: the generation is {found.worth}: {found.why}"
            )
        if self._generations.is_whole(name, files):
            raise WriteError(f"another process has repaired {step.path} since the plan; plan again: certmond plan")
        paths = [file.path for file in files]
        self._check_writable(paths, spec)
        if location.kind is Kind.KUBELET:
            changes = self._linked(files[0], spec)
        else:
            changes = [
                placed(spec, f.path, self._content(location, f), self._files, mode=f.mode, owner=f.owner) for f in files
            ]

        def verify(written: Mapping[str, bytes]) -> None:
            self._verify(f"{step.generation} of {name}", location, changes, written)

        archived = list[Generation]()

        def archive() -> None:
            archived.extend(self._archive_damaged(name, paths, step))

        writer.commit(changes, verify=verify, before_rename=archive)
        return f"certmond restored {step.path} from {step.generation} of the archive{archive_clause(archived)}"

    def _repair_cluster(self, step: Restore, spec: CertificateSpec, writer: Writer) -> str:
        """Write the present CA and the known server into a kubeconfig, which keeps its credentials.

        Return a sentence about the result. Raises WriteError if another process has repaired the file, or if certmond
        must not write the file. Raises RefusedError if a certificate and its key would no longer match.
        """
        name, path = step.target, step.path
        present = self._files.read(path, follow_any_link=False) or b""
        location = PairLocation(spec.kind, path, path, spec)
        if not self._generations.broken_cluster(location, present):
            raise WriteError(f"another process has repaired {path} since the plan; plan again: certmond plan")
        self._check_writable([path], spec)
        salvage = step.status.presence.salvage
        server = salvage.server[1] if salvage and salvage.server else None
        pair = self._generations.pair(location, lambda _: present)
        chain = () if isinstance(pair, Unpaired) else pair.chain
        content = with_cluster(present, path, self._generations.embedded_ca(spec, chain), server)
        changes: list[Change] = [NewFile(path, content, expected=digest(present), at_most=spec.key_mode)]

        def verify(written: Mapping[str, bytes]) -> None:
            if mismatches := list(self._pairs.mismatches(changes, as_written(changes, written, self._files))):
                raise RefusedError("; ".join(mismatches))

        archived = list[Generation]()

        def archive() -> None:
            archived.extend(self._archive_damaged(name, [path], step))

        writer.commit(changes, verify=verify, before_rename=archive)
        return (
            f"certmond repaired the cluster in {path} with the present CA of the entry "
            f"{spec.embedded_ca}{archive_clause(archived)}"
        )

    def _check_writable(self, paths: Sequence[str], spec: CertificateSpec | None) -> None:
        """Raise WriteError if another user could read a key at these paths, or if a symlink has a forbidden target."""
        owner = spec.owner if spec else None
        if why := self._files.exposed(paths, owner) or self._symlink_targets.objection(paths, spec):
            raise WriteError(why)

    def _content(self, location: PairLocation, file: ArchivedFile) -> bytes:
        """Return the content to restore. In a kubeconfig with several users, replace only the damaged credentials."""
        present = self._files.read(file.path, follow_any_link=False) if location.kind is Kind.KUBECONFIG else None
        if not (present and has_several_entries(present)):
            return file.content
        return self._generations.with_present_ca(location, with_credentials_of(present, file.content, file.path))

    def _archive_damaged(self, name: str, paths: Sequence[str], step: Restore) -> Iterator[Generation]:
        replaced = {path: self._transactions.real(path) for path in paths if self._files.read(path) is not None}
        if replaced:
            detail = f"damaged, replaced by {step.generation} of {name}" if step.generation else step.detail
            described = {"cause": step.cause.value, "detail": detail}
            yield self._damaged.keep(name, replaced, self._clock(), described)

    def _linked(self, file: ArchivedFile, spec: CertificateSpec | None) -> list[Change]:
        """Return the changes that write a dated PEM file and its symlink, as the kubelet does."""
        return linked(file.path, file.content, spec, self._files, self._clock(), owner=file.owner)

    def _verify(
        self, what: str, location: PairLocation, changes: Sequence[Change], written: Mapping[str, bytes]
    ) -> None:
        read = as_written(changes, written, self._files)
        pair = self._generations.pair(location, read)
        own = [pair.message] if isinstance(pair, Unpaired) and not pair.encrypted else []
        if mismatches := [*own, *self._pairs.mismatches(changes, read)]:
            raise RefusedError(f"certmond does not restore {what}: {'; '.join(mismatches)}")

    def _named(self, name: str, generation: str) -> _Candidate:
        try:
            found = self._candidate(name, generation)
        except MalformedError as error:
            raise RefusedError(str(error)) from error
        if found.in_place or found.verdict.worth in {Worth.GOOD, Worth.UNJUDGED}:
            return found
        if found.verdict.worth is Worth.OUTDATED and not self._generations.is_whole(name, found.files):
            return found
        fact = (
            f"certmond does not restore {generation} of {name}: the generation is {found.verdict.worth}: "
            f"{found.verdict.why}"
        )
        raise RefusedError(f"{fact}; list the good generations: certmond archive list {name}")

    def _newest(self, name: str, ids: Sequence[str], skipped: list[str]) -> _Candidate:
        """Return the newest good generation that differs from the present files.

        If no such generation exists, return the generation that equals the present files, unless this generation is
        broken. Otherwise, return the newest outdated generation if the present files are damaged.

        `skipped` collects a sentence for each skipped generation. Raises RefusedError if no generation is usable.
        """
        candidates = list[_Candidate]()
        for generation in reversed(ids):
            try:
                found = self._candidate(name, generation)
            except (MalformedError, RefusedError) as error:
                skipped.append(f"{generation} is skipped: {error}")
                continue
            if found.verdict.worth is Worth.GOOD and not found.in_place:
                return found
            candidates.append(found)
            if not found.in_place:
                skipped.append(f"{generation} is skipped: the generation is {found.verdict.worth}: {found.verdict.why}")
        present = next((each for each in candidates if each.in_place), None)
        if present and present.verdict.worth is not Worth.BROKEN:
            return present
        if candidates and not self._generations.is_whole(name, candidates[0].files):
            for found in candidates:
                if found.verdict.worth is Worth.OUTDATED:
                    skipped[:] = [each for each in skipped if not each.startswith(f"{found.generation.id} ")]
                    return found
        fact = f"the archive has no good generation of {name} that differs from the present files"
        raise RefusedError("\n".join([fact, *skipped]))

    def _candidate(self, name: str, generation: str) -> _Candidate:
        """Return a generation with its verdict. Raises WriteError if certmond never restores this entry.

        Raises MalformedError if the generation is damaged, and RefusedError if certmond cannot write the present CA
        into the kubeconfig.
        """
        files = self._archive.load(name, generation)
        if self._is_by_hand(name, files):
            raise WriteError(_never(name))
        try:
            files = self._generations.to_restore(name, files)
        except WriteError as error:
            raise RefusedError(str(error)) from error
        in_place = all(self._files.read(file.path) == file.content for file in files)
        described = self._archive.generation(name, generation)
        return _Candidate(described, files, self._generations.judged(name, generation, files), in_place)

    def _is_by_hand(self, name: str, files: Sequence[ArchivedFile]) -> bool:
        """Return whether certmond never restores `name`, because `name` is a CA or a key pair without a certificate.

        The archived CA might be a CA that the operator no longer trusts.
        """
        return name in self._by_hand or not self._by_hand.isdisjoint(file.path for file in files)


def _never(name: str) -> str:
    kind = f"{name} is a CA or a key pair without a certificate"
    fact = f"certmond never restores {name} from the archive, because {kind}"
    risk = "the key of an old CA might be missing, and components that trust only the present CA would fail"
    remedy = "restore the certificate and the key together by hand, and then start a rotation (see docs/rotation.md)"
    return f"{fact}: {risk}; {remedy}"


def _not_its_owner(file: ArchivedFile) -> str:
    uid, gid = file.owner
    remedy = f"move the file away, or run: chown {uid}:{gid} {quote(file.path)}"
    return printable(f"{file.path} had the owner {uid}:{gid} in the archive, and has another owner now; {remedy}")


def _digest(content: bytes | None) -> str | None:
    return None if content is None else digest(content)
