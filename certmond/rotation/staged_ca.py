"""Staged CAs of a rotation: the new CA to install, and the old CA that an abort installs again.

This module reads and writes `<state directory>/rotation/{new,old}.{crt,key,family}`. certmond writes the certificate of
a CA last and removes it first, so a CA with a certificate is complete.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path

from certmond.errors import ConfigError, StateError
from certmond.formats.private_key import PrivateKey, key_pem, load_key
from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Anchor, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import PublicKey
from certmond.transaction.dirfd import Place, blaming, opened, sentence
from certmond.transaction.state_directory import opened_state, read_state, understood
from certmond.transaction.temp_file import make_directory, new_file, remove

_CERTIFICATE, _KEY, _FAMILY = "crt", "key", "family"
_RECORD = "record.json"


class Part(StrEnum):
    """One of the two CAs of a rotation."""

    NEW = "new"
    OLD = "old"


@immutable
class StagedCA:
    """A staged CA. If the files are unusable, `fault` is a sentence, and the other fields can be incomplete.

    `key_unknown` is True if certmond cannot parse the key file.
    """

    part: Part
    family: str
    anchor: Anchor | None
    key: PublicKey | None
    fault: str | None = None
    key_unknown: bool = False


@immutable
class Recorded:
    """The rotation in the record of this node. The fields are empty if certmond cannot parse the record."""

    id: str = ""
    family: str = ""
    phase: str = ""


class Staging:
    """The staged CAs in the directory `rotation` below `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.directory = state_dir / "rotation"

    def read(self, part: Part) -> StagedCA | None:
        """Return a staged CA, or None if no file of this CA exists. Errors become the `fault` of the result."""
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
        """Return the private key of a staged CA.

        Raises ConfigError if the key file does not exist, WriteError if the file is unreadable, and KeyUnusableError if
        the key is unusable. Raises StateError if an untrusted user can read or change the file.
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
        """Stage a CA or a public key as `part`, with its private key unless `key` is None.

        Raises ConfigError if `key` is not the private key of `anchor`, and WriteError if the write fails.
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
        """Remove the files and drafts of these parts. Raises WriteError if a removal fails."""
        with blaming(str(self.directory)), suppress(FileNotFoundError), opened(self.directory) as directory:
            for part in parts:
                for kind in (_CERTIFICATE, _KEY, _FAMILY):
                    names = _Names(directory, part, kind)
                    remove(names.draft)
                    _sync_after(directory, partial(remove, names.place))

    def recorded(self) -> Recorded | None:
        """Return the rotation in the record, or None if the record is missing or the directory is unreadable.

        Raises StateError if an untrusted user can change the record, or if a later version of certmond has written the
        record.
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
            fact = f"{where}.* is incomplete, because its staging or removal was interrupted"
            fault = f"{fact}; run the interrupted command again"
        elif document.faults or len(document.anchors) != 1 or anchor is None:
            fault = f"{where}.{_CERTIFICATE} is damaged; stage the CA again: certmond root-ca stage"
        elif keys is not None and keys.key != anchor.key:
            fact = f"{where}.{_KEY} is not the key of {where}.{_CERTIFICATE}"
            fault = f"{fact}: the staged CA is incomplete or damaged; stage the CA again: certmond root-ca stage"
        key, unknown = (keys.key, keys.key is None) if keys else (None, False)
        return StagedCA(part, printable(family), anchor, key, fault and printable(fault), unknown)


@immutable
class _Names:
    """The final name of a file of a staged CA, and the name of its draft."""

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
        """Rename the draft to its final name, or remove the file if `content` is None."""
        if content is None:
            remove(self.place)
        else:
            os.rename(self.draft.name, self.place.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)


def _draft(place: Place, content: bytes | None) -> None:
    """Write the content to a draft with mode 0600. If `content` is None, remove the draft.

    Raises OSError if the draft does not contain the written bytes.
    """
    remove(place)
    if content is None:
        return
    with new_file(place, content):
        pass
    if place.read() != content:
        raise OSError(errno.EIO, "the file does not contain the written bytes")


def _sync_after(directory: int, act: Callable[[], None]) -> None:
    act()
    os.fsync(directory)


def _contents(directory: int, part: Part, where: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield the kind and content of each file of a staged CA.

    If only drafts exist, yield the kind of the certificate file with the content None.
    """
    all_of_it = [_Names(directory, part, kind) for kind in (_CERTIFICATE, _KEY, _FAMILY)]
    present = [names for names in all_of_it if names.place.status() is not None]
    for names in present:
        yield names.kind, read_state(directory, where / names.place.name, secret=names.kind == _KEY)
    if not present and any(names.draft.status() is not None for names in all_of_it):
        yield _CERTIFICATE, None  # only drafts: the staged CA is incomplete


def _recorded(directory: int, record: Path) -> Recorded | None:
    try:
        document = understood(json.loads(read_state(directory, record)), str(record))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return Recorded()
    texts = [document.get(name) for name in ("id", "family", "phase")] if isinstance(document, Mapping) else []
    return Recorded(*(printable(text) if isinstance(text, str) else "" for text in texts))
