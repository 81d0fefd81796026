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
from itertools import count, groupby
from operator import sub
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from certmond.errors import RuntimeDirError

_BUFFER = 1 << 16
"""Bytes of new text that are collected before they are written. It is taken and given back with each writing: what is
larger than M_MMAP_THRESHOLD (128 KiB, mallopt(3)) has glibc take from the heap from then on what it would map else.
"""

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


class _Column(NamedTuple):
    """Where the first row begins in a file, and how many bytes each takes."""

    start: int
    sizes: array[int]


class _Reading:
    """Places in a column, for who asks for one row after the other: what lies between is added up once."""

    def __init__(self, column: _Column) -> None:
        self._column = column
        self._row, self._place = 0, column.start

    def stretch(self, row: int, length: int) -> tuple[int, array[int]]:
        """Where a row begins, and the sizes of it and of those that follow it."""
        if row < self._row:
            self._row, self._place = 0, self._column.start
        self._place += sum(self._column.sizes[self._row : row])
        self._row = row
        return self._place, self._column.sizes[row : row + length]


class Sheet(Generic[R]):
    """`texts` gives a row's text in each column. A row is the same row as long as it is the same object.

    With a `separator`, one character, it stands before every row but the first.
    """

    def __init__(self, texts: Callable[[R], Sequence[str]], separator: str = "") -> None:
        self._texts, self._separator = texts, separator.encode()
        self._file: int | None = None
        self._state: tuple[int, ...] = ()
        self._rows: tuple[R, ...] = ()
        self._columns: list[_Column] = []

    def write(self, path: Path, rows: Sequence[R], heads: Sequence[str], tail: str) -> None:
        """Replace `path` by the columns one after the other, each behind its head, and the tail. RuntimeDirError."""
        kept = None
        try:
            with replacing(path) as descriptor:
                columns = self._fill(descriptor, rows, heads, tail)
                kept = os.dup(descriptor)
        except RuntimeDirError:
            if kept is not None:
                os.close(kept)
            self._forget()
            raise
        self._forget()
        self._file, self._state, self._rows, self._columns = kept, _state(kept), tuple(rows), columns

    def _forget(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._rows, self._columns = None, (), []

    def _fill(self, descriptor: int, rows: Sequence[R], heads: Sequence[str], tail: str) -> list[_Column]:
        """Write all of it; where each row stands in each column."""
        runs, fresh = list(self._runs(rows)), dict[int, list[Sequence[str]]]()
        found: list[_Column] = []
        with open(descriptor, "wb", _BUFFER, closefd=False) as file:
            for number, head in enumerate(heads):
                column = _Column(file.tell() + file.write(encoded(head)), array("I"))
                reading = _Reading(self._columns[number]) if self._columns else None
                for first, former, length in runs:
                    separator = self._separator if first else b" " * len(self._separator)
                    if former < 0 or reading is None:
                        texts = fresh.pop(first, None) or map(self._texts, rows[first : first + length])
                        if number + 1 < len(heads):
                            texts = fresh[first] = list(texts)
                        for text in texts:
                            column.sizes.append(file.write(separator + encoded(text[number])))
                            separator = self._separator
                        continue
                    place, sizes = reading.stretch(former, length)
                    file.write(separator)
                    file.flush()
                    self._copy(descriptor, place + len(separator), place + sum(sizes))
                    column.sizes.extend(sizes)
                found.append(column)
            file.write(encoded(tail))
        return found

    def _runs(self, rows: Sequence[R]) -> Iterator[tuple[int, int, int]]:
        """Rows that follow each other as before, or are new: the first one's number, its former one, which is below
        zero where they are new, and how many.
        """
        known: dict[int, int] = {}
        if self._file is not None and _state(self._file) == self._state:
            known = dict(zip(map(id, self._rows), count()))
        former = list(map(known.get, map(id, rows), count(-len(rows))))
        first = 0
        for _, run in groupby(map(sub, former, count())):  # the distance to the former number is the same all along
            length = len(list(run))
            yield first, former[first], length
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
