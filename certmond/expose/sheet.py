"""A file of many rows of which little changes from one writing to the next: what stays is copied from the file before.

Owns the replacing of a file as a whole, and where each row stands in the one that was written last. That stays open:
no text stays in memory, and none is made again: the kernel copies it. Should somebody have touched the file meanwhile,
nothing of it is believed, and all is made anew.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from certmond.errors import RuntimeDirError

_BUFFER = 1 << 20  # bytes of new text that are collected before they are written

R = TypeVar("R")


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """A descriptor for what is to take the place of `path`: a reader sees the old or the new, never half. Raises
    RuntimeDirError, also for an OSError of who writes.
    """
    staged = path.with_name(f".{path.name}.new")
    try:
        staged.unlink(missing_ok=True)  # it may be anybody's where the directory is not ours alone
        descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(descriptor, 0o644)  # the unit's umask is for everything else: this is for all to read
            yield descriptor
            staged.replace(path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RuntimeDirError(
            f"{path} cannot be written ({error.strerror}); see that it is there and not full"
        ) from error


class Sheet(Generic[R]):
    """`texts` gives a row's text in each column. A row is the same row as long as it is the same object.

    With a `separator`, one character, it stands before every row but the first.
    """

    def __init__(self, texts: Callable[[R], Sequence[str]], separator: str = "") -> None:
        self._texts, self._separator = texts, separator.encode()
        self._file: int | None = None
        self._state: tuple[int, ...] = ()
        self._rows: tuple[R, ...] = ()
        self._starts: list[array[int]] = []

    def write(self, path: Path, rows: Sequence[R], heads: Sequence[str], tail: str) -> None:
        """Replace `path` by the columns one after the other, each behind its head, and the tail. RuntimeDirError."""
        kept = None
        try:
            with replacing(path) as descriptor:
                starts = self._fill(descriptor, rows, heads, tail)
                kept = os.dup(descriptor)
        except RuntimeDirError:
            if kept is not None:
                os.close(kept)
            self._forget()
            raise
        self._forget()
        self._file, self._state, self._rows, self._starts = kept, _state(kept), tuple(rows), starts

    def _forget(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._rows, self._starts = None, (), []

    def _fill(self, descriptor: int, rows: Sequence[R], heads: Sequence[str], tail: str) -> list[array[int]]:
        """Write all of it; where each row begins in each column, and where the last one ends."""
        runs, fresh = list(self._runs(rows)), dict[int, Sequence[str]]()
        found: list[array[int]] = []
        with open(descriptor, "wb", _BUFFER, closefd=False) as file:
            for column, head in enumerate(heads):
                place = file.tell() + file.write(encoded(head))
                starts = array("Q")
                for first, former, length in runs:
                    separator = self._separator if first else b" " * len(self._separator)
                    if former is None:
                        text = fresh.pop(first, None) or self._texts(rows[first])
                        if column + 1 < len(heads):
                            fresh[first] = text
                        starts.append(place)
                        place += file.write(separator + encoded(text[column]))
                        continue
                    stood = self._starts[column][former : former + length + 1]
                    starts += array("Q", (each + place - stood[0] for each in stood[:-1]))
                    file.write(separator)
                    file.flush()
                    self._copy(descriptor, stood[0] + len(separator), stood[-1])
                    place += stood[-1] - stood[0]
                starts.append(place)
                found.append(starts)
            file.write(encoded(tail))
        return found

    def _runs(self, rows: Sequence[R]) -> Iterator[tuple[int, int | None, int]]:
        """Rows that follow each other as before: the first one's number, its former one (None: it is new), how many."""
        known: dict[int, int] = {}
        if self._file is not None and _state(self._file) == self._state:
            known = {id(row): number for number, row in enumerate(self._rows)}
        first = 0
        while first < len(rows):
            former, length = known.get(id(rows[first])), 1
            while former is not None and first + length < len(rows):
                if known.get(id(rows[first + length])) != former + length:
                    break
                length += 1
            yield first, former, length
            first += length

    def _copy(self, descriptor: int, start: int, end: int) -> None:
        while start < end and self._file is not None:
            copied = os.sendfile(descriptor, self._file, start, end - start)
            if not copied:
                raise OSError(errno.EIO, "it was shortened meanwhile")
            start += copied


def _state(descriptor: int) -> tuple[int, ...]:
    """What tells that nobody has touched the file: its change time moves with whatever is done to it."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def encoded(text: str) -> bytes:
    """The bytes that a text has in a file, whatever it is made of."""
    return text.encode("utf-8", "backslashreplace")
