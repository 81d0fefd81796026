"""Archive of byte-for-byte copies of the files that certmond replaces.

This module reads and writes `<state directory>/archive/<certificate>/<generation>/`. A generation is either complete or
absent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from certmond.errors import MalformedError, StateError, WriteError
from certmond.files.consistent_read import content_of
from certmond.files.path_resolution import open_without_symlinks
from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.findings import printable
from certmond.state.json_decoder import between, decoded
from certmond.transaction.dirfd import Place, blaming, can_be_a_path, digest, opened
from certmond.transaction.state_directory import VERSION, opened_state, read_state, understood
from certmond.transaction.temp_file import make_directory, new_file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_GENERATION = re.compile(r"(\d{6,})-\d{8}T\d{6}Z")
_DESCRIPTION = "description.json"
DID_NOT_WORK = "failed, and certmond rolled it back"
"""The `detail` in the description of files that certmond rolled back after a failed restart."""
_SOURCE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_STORED = 200  # maximum bytes of the original name in the stored name; with the number it fits NAME_MAX


@immutable
class Generation:
    """Description of the archived files of one replacement. `description` contains facts from the caller."""

    name: str
    id: str
    when: datetime
    description: Mapping[str, str]
    paths: tuple[str, ...]


@immutable
class ArchivedFile:
    """A file of a node in the archive."""

    path: str
    content: bytes = field(repr=False)
    mode: int
    owner: tuple[int, int]
    stored: str = field(default="", compare=False)  # the real path of the copy in the archive


def _absolute(path: str) -> str:
    if not path.startswith("/") or not can_be_a_path(path):
        raise ValueError("is not an absolute path")
    return path


_Mode = Annotated[int, between(0, 0o7777)]
_Id = Annotated[int, between(0, (1 << 32) - 2)]  # the last ID means "do not change" (chown(2))


@immutable
class _File:
    """A file in a description: its path on the node and its metadata."""

    path: Annotated[str, _absolute]
    stored: str
    mode: _Mode
    uid: _Id
    gid: _Id
    sha256: str


@immutable
class _Description:
    """The description of a generation."""

    when: datetime
    description: dict[str, str]
    files: tuple[_File, ...]


class Archive:
    """Archive with the last `keep` generations of each certificate."""

    def __init__(self, state_dir: Path, keep: int = 3) -> None:
        self._state_dir = state_dir
        self._directory = state_dir / "archive"
        self._keep = max(keep, 1)

    def store(self, name: str, files: Mapping[str, Path], when: datetime, description: Mapping[str, str]) -> Generation:
        """Store `files` as a new generation, and return the generation.

        `files` maps paths of the node to real files. If the files equal the newest generation, return that generation,
        so that a repeated replacement removes no older generation. Raises WriteError if a file is unreadable, or if the
        write fails. Raises StateError in the cases of `load`.
        """
        home = self._home(name)
        with blaming(str(home)):
            for own in (self._state_dir, self._directory, home):
                make_directory(own)
            _sweep(home)
        found = [_current_file(path, real) for path, real in files.items()]
        generations = self.ids(name)
        if generations and self._equals(name, generations[-1], found):
            return self.generation(name, generations[-1])
        with blaming(str(home)):
            last = max(map(_number, generations), default=0)
            generation = f"{last + 1:06d}-{when.astimezone(UTC):%Y%m%dT%H%M%SZ}"
            draft = home / f".{os.urandom(8).hex()}"
            make_directory(draft)
        facts = {
            "version": VERSION,
            "when": when.isoformat(),
            "description": dict(description),
            "files": list(_copy(found, draft)),
        }
        with blaming(str(home)), opened(draft) as directory, opened(home) as parent:
            with new_file(Place(directory, _DESCRIPTION), json.dumps(facts, indent=1).encode()):
                pass
            os.fsync(directory)
            os.rename(draft.name, generation, src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)
        self.remove(name, self._surplus(name))
        return Generation(name, generation, when, dict(description), tuple(files))

    def remove(self, name: str, generations: Sequence[str]) -> None:
        """Remove these generations, and the incomplete generations of killed processes.

        Raises StateError if an untrusted user can change the directory, and WriteError if a removal fails.
        """
        home = self._home(name)
        with blaming(str(home)), opened_state(home) as parent:
            for old in generations:
                # Rename the generation first: a partly removed generation must not count.
                os.rename(old, f".{old}", src_dir_fd=parent, dst_dir_fd=parent)
            _sweep(home)

    def tidy(self) -> None:
        """Remove the incomplete generations of killed processes, which can contain keys.

        Raises WriteError if a removal fails.
        """
        for name in filter(_NAME.fullmatch, _listing(self._directory)):
            if any(each.startswith(".") for each in _listing(self._directory / name)):
                with suppress(StateError):  # another user can change the directory
                    self.remove(name, ())

    def names(self) -> tuple[str, ...]:
        """Return the name of every certificate that has a generation."""
        return tuple(name for name in _listing(self._directory) if _NAME.fullmatch(name) and self.ids(name))

    def ids(self, name: str) -> tuple[str, ...]:
        """Return the IDs of the generations of a certificate, oldest first."""
        return tuple(sorted(filter(_GENERATION.fullmatch, _listing(self._home(name))), key=_number))

    def generation(self, name: str, generation: str) -> Generation:
        """Return the description of one generation.

        Raises MalformedError if the description is missing or damaged. Raises StateError if a later version of certmond
        has written the description, or if an untrusted user can change the description.
        """
        return self._described(name, generation)[0]

    def load(self, name: str, generation: str) -> tuple[ArchivedFile, ...]:
        """Return the files of a generation, in the order of `store`.

        Raises MalformedError if the generation is missing or damaged. Raises StateError if a later version of certmond
        has written the generation, or if an untrusted user can read or change the files.
        """
        if generation not in self.ids(name):
            raise MalformedError(
                f"the archive has no generation {generation!r} of {name}; see: certmond archive list {name}"
            )
        return self._loaded(name, generation)[1]

    def complete_generations(self, name: str) -> Iterator[tuple[Generation, tuple[ArchivedFile, ...]]]:
        """Yield the generations with their files, newest first. Skip damaged generations.

        Raises StateError in the cases of `load`.
        """
        for generation in reversed(self.ids(name)):
            with suppress(MalformedError):
                yield self._loaded(name, generation)

    def _loaded(self, name: str, generation: str) -> tuple[Generation, tuple[ArchivedFile, ...]]:
        described, files = self._described(name, generation)
        return described, tuple(_load(self._home(name) / generation, facts) for facts in files)

    def _surplus(self, name: str) -> list[str]:
        """Return the generations in excess of `keep`.

        For a rollback, certmond keeps the newest generation with which no service failed.
        """
        found = self.ids(name)
        worked = next((each for each in reversed(found) if self._worked(name, each)), None)
        return [each for each in found[: -self._keep] if each != worked]

    def _worked(self, name: str, generation: str) -> bool:
        try:
            return self.generation(name, generation).description.get("detail") != DID_NOT_WORK
        except MalformedError:
            return False
        except StateError:
            return True  # a later certmond or another user wrote it, so its state is unknown

    def _home(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise WriteError(
                f"{name!r} cannot be a name in the archive; use only letters, digits, dots, hyphens and underscores"
            )
        return self._directory / name

    def _equals(self, name: str, generation: str, files: Sequence[ArchivedFile]) -> bool:
        try:
            return self.load(name, generation) == tuple(files)
        except MalformedError:
            return False

    def _described(self, name: str, generation: str) -> tuple[Generation, tuple[_File, ...]]:
        where = self._home(name) / generation
        try:
            with opened_state(where) as directory:
                document = json.loads(read_state(directory, where / _DESCRIPTION))
                described = decoded(understood(document, str(where / _DESCRIPTION)), _Description)
            when = described.when.astimezone(UTC)
        except (OSError, ValueError, OverflowError, RecursionError) as error:
            raise _damaged(where / _DESCRIPTION) from error
        return Generation(
            name, generation, when, described.description, tuple(file.path for file in described.files)
        ), described.files


def _current_file(path: str, real: Path) -> ArchivedFile:
    """Return the present content and metadata of a file.

    Raises WriteError if certmond cannot read the file, or if it is not a regular file.
    """
    try:
        with open(open_without_symlinks(str(real), _SOURCE), "rb") as file:
            status, content = os.fstat(file.fileno()), content_of(file)
    except OSError as error:
        fact = f"is unreadable ({error.strerror or error}), so certmond cannot archive it before its replacement"
        raise WriteError(printable(f"{path} {fact}; move it away, or make it readable")) from error
    if not stat.S_ISREG(status.st_mode):
        raise WriteError(printable(f"{path} is not a regular file, so certmond cannot archive it; move it away"))
    return ArchivedFile(path, content, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def _copy(files: Sequence[ArchivedFile], draft: Path) -> Iterator[dict[str, str | int]]:
    for number, file in enumerate(files):
        name = os.fsdecode(os.fsencode(Path(file.path).name)[:_STORED])
        stored = f"{number}-{name}"
        with blaming(str(draft)), opened(draft) as target, new_file(Place(target, stored), file.content):
            pass
        uid, gid = file.owner
        yield {"path": file.path, "stored": stored, "mode": file.mode, "uid": uid, "gid": gid,
               "sha256": digest(file.content)}  # fmt: skip


def _load(where: Path, file: _File) -> ArchivedFile:
    stored = where / Path(file.stored).name
    try:
        with opened_state(where) as directory:
            content = read_state(directory, stored, secret=True)
    except (OSError, ValueError) as error:
        raise _damaged(where) from error
    if digest(content) != file.sha256:
        raise _damaged(where)
    return ArchivedFile(file.path, content, file.mode, (file.uid, file.gid), str(stored))


def _damaged(where: Path) -> MalformedError:
    remedy = "choose another generation: certmond archive list"
    return MalformedError(printable(f"{where} is damaged, and certmond cannot restore it completely; {remedy}"))


def archive_name(spec: CertificateSpec, path: str) -> str:
    """Return the archive name of a certificate. If the entry is a pattern, the name contains a digest of the path."""
    return f"{spec.name[:40]}-{digest(os.fsencode(path))[:12]}" if spec.is_glob else spec.name


def stored_at(generation: str) -> datetime | None:
    """Return the time at which certmond stored a generation, from its ID. Return None if `generation` is not an ID."""
    try:
        return datetime.strptime(generation.partition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _number(generation: str) -> int:
    return int(generation.partition("-")[0])


def _listing(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sweep(home: Path) -> None:
    """Remove the incomplete generations of killed processes."""
    for name in _listing(home):
        if name.startswith(".") and (home / name).is_dir():
            shutil.rmtree(home / name)
