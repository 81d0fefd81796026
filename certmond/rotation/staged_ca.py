"""Staged CAs of a rotation: the new CA that certmond will install, and the old CA that an abort would install again.

Owns `<state directory>/rotation/{new,old}.{crt,key,family}`: files with mode 0600 in a directory with mode 0700. A
write ends with the certificate, and a removal begins with it, so a part with a certificate is complete. `read`
reports every other part as incomplete, and a repetition of the interrupted command repairs it. No output has the
private key, and only `key` loads it. A writer holds the lock of `transaction`. The module reads the rotation's record
in this directory, and never writes it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from certmond.errors import ConfigError, StateError
from certmond.formats.private_key import PrivateKey, key_pem, load_key
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Anchor, to_pem
from certmond.pki.x509.parsing import decode
from certmond.pki.x509.public_key import PublicKey
from certmond.transaction.dirfd import Place, blaming, opened, sentence
from certmond.transaction.state_directory import opened_state, read_state, understood
from certmond.transaction.temp_file import make_directory, new_file, remove

_CERTIFICATE, _KEY, _FAMILY = "crt", "key", "family"
_RECORD = "record.json"


class Part(StrEnum):
    """A CA of a rotation."""

    NEW = "new"
    OLD = "old"


@dataclass(frozen=True, slots=True)
class StagedCA:
    """The content of a part. With a `fault`, a sentence, it is unusable, and the other fields may be incomplete.

    `key` is the public key, or None if the key is not on this node. `key_unknown` is true if a key file exists that
    certmond cannot parse.
    """

    part: Part
    family: str
    anchor: Anchor | None
    key: PublicKey | None
    fault: str | None = None
    key_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """The rotation in the record. The fields are empty if the record cannot be parsed.

    While a record exists, a rotation is in progress, also in the phase `done`. The end of the rotation destroys the
    staged files.
    """

    id: str = ""
    family: str = ""
    phase: str = ""


class Staging:
    """The directory `rotation` below `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.directory = state_dir / "rotation"

    def read(self, part: Part) -> StagedCA | None:
        """Return the content of a part, or None if it is empty. Errors become the `fault` of the part. Never raises."""
        try:
            with opened_state(self.directory) as directory:
                found = dict(_contents(directory, part, self.directory))
        except FileNotFoundError:
            return None
        except StateError as error:
            return StagedCA(part, "", None, None, printable(str(error)))
        except OSError as error:
            return StagedCA(part, "", None, None, printable(sentence(str(self.directory), error, "read")))
        return self._parsed(part, found) if found else None

    def key(self, part: Part) -> PrivateKey:
        """Return the private key.

        Raises ConfigError if it does not exist, WriteError or KeyUnusableError if it cannot be used, StateError if
        another user can read or change it.
        """
        where = self.directory / f"{part}.{_KEY}"
        with blaming(str(where), "read"):
            try:
                with opened_state(self.directory) as directory:
                    content = read_state(directory, where, secret=True)
            except FileNotFoundError:
                remedy = "stage the CA with its key: certmond root-ca stage CERT KEY"
                raise ConfigError((f"{where} does not exist; {remedy}",)) from None
        return load_key(content, str(where))

    def put(self, part: Part, family: str, anchor: Anchor, key: PrivateKey | None) -> None:
        """Replace `part` with this CA or public key, and sync it to the disk.

        Raises ConfigError if the key belongs to another certificate, WriteError if the write fails. After a failed
        write the previous content remains, or an incomplete part that `read` reports.
        """
        contents = {_KEY: key_pem(key) if key else None, _FAMILY: f"{family}\n".encode(),
                    _CERTIFICATE: to_pem(anchor)}  # fmt: skip
        if key is not None and decode(contents[_KEY] or b"", "").key != anchor.key:
            fact = f"the given key is not the key of {anchor.called}"
            raise ConfigError((printable(f"{fact}; give the matching key"),))
        with blaming(str(self.directory)):
            make_directory(self._state_dir)
            make_directory(self.directory)
            with opened_state(self.directory) as directory:
                os.fchmod(directory, 0o700)  # independent of its previous mode
                names = {kind: _Names(directory, part, kind) for kind in contents}
                try:
                    for kind, content in contents.items():
                        _draft(names[kind].draft, content)
                    os.fsync(directory)
                except BaseException:
                    with suppress(OSError):  # then the part is incomplete, and the next staging removes the drafts
                        for each in names.values():
                            remove(each.draft)
                    raise
                _sync_after(directory, lambda: remove(names[_CERTIFICATE].place))
                for kind, content in contents.items():
                    _sync_after(directory, partial(names[kind].settle, content))

    def destroy(self, *parts: Part) -> None:
        """Remove these parts with their drafts, and sync the removal to the disk. Raises WriteError."""
        with blaming(str(self.directory)), suppress(FileNotFoundError), opened(self.directory) as directory:
            for part in parts:
                for kind in (_CERTIFICATE, _KEY, _FAMILY):
                    names = _Names(directory, part, kind)
                    remove(names.draft)
                    _sync_after(directory, partial(remove, names.place))

    def recorded(self) -> Recorded | None:
        """Return the record. None if it is missing, or if the directory is unreadable, an error that `read` reports.

        Raises StateError if another user can change it, or a later certmond has written it.
        """
        try:
            with opened_state(self.directory) as directory:
                return _recorded(directory, self.directory / _RECORD)
        except OSError:
            return None

    def _parsed(self, part: Part, found: Mapping[str, bytes | None]) -> StagedCA:
        family = (found.get(_FAMILY) or b"").decode("ascii", "replace").strip()
        where = f"{self.directory}/{part}"
        document = decode(found.get(_CERTIFICATE) or b"", f"{where}.{_CERTIFICATE}")
        anchor = next(iter(document.anchors), None)
        keys = decode(found[_KEY] or b"", f"{where}.{_KEY}") if _KEY in found else None
        fault = None
        if found.get(_CERTIFICATE) is None or not family:
            fault = f"{where}.* is incomplete, because its staging or removal was interrupted; run that command again"
        elif document.faults or len(document.anchors) != 1 or anchor is None:
            fault = f"{where}.{_CERTIFICATE} is damaged; stage the CA again: certmond root-ca stage"
        elif keys is not None and keys.key != anchor.key:
            fact = f"{where}.{_KEY} is not the key of {where}.{_CERTIFICATE}"
            fault = f"{fact}: the part is incomplete or damaged; stage the CA again"
        key, unknown = (keys.key, keys.key is None) if keys else (None, False)
        return StagedCA(part, printable(family), anchor, key, fault and printable(fault), unknown)


@dataclass(frozen=True, slots=True)
class _Names:
    """One file of a part: its path, and the path of its draft."""

    directory: int
    part: Part
    kind: str

    @property
    def place(self) -> Place:
        return Place(self.directory, f"{self.part}.{self.kind}")

    @property
    def draft(self) -> Place:
        return Place(self.directory, f".{self.part}.{self.kind}")

    def settle(self, content: bytes | None) -> None:
        """Rename the draft to the path of the file, or remove the file if there is no content."""
        if content is None:
            remove(self.place)
        else:
            os.rename(self.draft.name, self.place.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)


def _draft(place: Place, content: bytes | None) -> None:
    """Write the content with mode 0600 under a draft name, and read it back."""
    remove(place)
    if content is None:
        return
    with new_file(place, content):
        pass
    if place.read() != content:
        raise OSError(errno.EIO, "the file does not have the written content")


def _sync_after(directory: int, act: Callable[[], None]) -> None:
    act()
    os.fsync(directory)


def _contents(directory: int, part: Part, where: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield the content of a part by kind. If only a draft exists, yield the certificate without content."""
    all_of_it = [_Names(directory, part, kind) for kind in (_CERTIFICATE, _KEY, _FAMILY)]
    present = [names for names in all_of_it if names.place.status() is not None]
    for names in present:
        yield names.kind, read_state(directory, where / names.place.name, secret=names.kind == _KEY)
    if not present and any(names.draft.status() is not None for names in all_of_it):
        yield _CERTIFICATE, None


def _recorded(directory: int, record: Path) -> Recorded | None:
    try:
        document = understood(json.loads(read_state(directory, record)), str(record))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return Recorded()
    texts = [document.get(name) for name in ("id", "family", "phase")] if isinstance(document, Mapping) else []
    return Recorded(*(printable(text) if isinstance(text, str) else "" for text in texts))
