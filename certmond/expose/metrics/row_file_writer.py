"""Replacement of a file that contains many rows. The writer copies unchanged rows from the previous file.

The kernel copies the rows, so the writer keeps no text in memory.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count, groupby
from operator import sub
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from certmond.errors import RuntimeDirError
from certmond.unchanged_ends import unchanged_ends

_BUFFER = 1 << 16
"""Size of the buffer for new text, in bytes.

A block of 128 KiB or more would raise the mmap threshold of glibc (M_MMAP_THRESHOLD, mallopt(3)).
"""
_BATCH = 64
"""Maximum number of new rows whose texts are in memory as separate objects."""

R = TypeVar("R")


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """Yield a descriptor for the new content of the file `path`, and replace the file after the `with` block.

    The replacement is atomic: a reader gets either the old or the new content. Raises RuntimeDirError for each OSError.
    """
    staged = path.with_name(f".{path.name}.new")
    try:
        staged.unlink(missing_ok=True)  # in a shared directory, this file can belong to another user
        descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(descriptor, 0o644)  # override the umask of the unit: every user may read this file
            yield descriptor
            staged.replace(path)
        except BaseException:
            with suppress(OSError):  # incomplete content must not take the last free space
                staged.unlink()
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RuntimeDirError(
            f"certmond cannot write {path} ({error.strerror}); check its directory and the free space: df"
        ) from error


class _Column(NamedTuple):
    """A column in a file: the offset of its first row, and the size of each row, in bytes."""

    start: int
    sizes: array[int]


class _Reading:
    """Calculator of the positions of rows in a column.

    If the row number increases from call to call, the calculator adds the size of each row only once.
    """

    def __init__(self, column: _Column) -> None:
        self._column = column
        self._row, self._place = 0, column.start

    def stretch(self, row: int, length: int) -> tuple[int, array[int]]:
        """Return the offset of row number `row` in bytes, and the sizes of `length` rows from this row on."""
        if row < self._row:
            self._row, self._place = 0, self._column.start
        self._place += sum(self._column.sizes[self._row : row])
        self._row = row
        return self._place, self._column.sizes[row : row + length]


class Sheet(Generic[R]):
    """A file with a table of rows and columns. The file contains the columns one after the other.

    `texts` returns the text of a row for each column. `separator` precedes each row of a column except the first row.
    """

    def __init__(self, texts: Callable[[R], Sequence[str]], separator: str = "") -> None:
        self._texts, self._separator = texts, separator.encode()
        self._file: int | None = None
        # A row is unchanged if it is the same object as in the previous `write`.
        self._state: tuple[int, ...] = ()
        self._rows: tuple[R, ...] = ()
        self._columns: list[_Column] = []

    def write(self, path: Path, rows: Sequence[R], heads: Sequence[str], tail: str) -> None:
        """Replace the content of the file `path`. The new content is each column after its head, and then `tail`.

        Raises RuntimeDirError if certmond cannot write the file.
        """
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
        """Write the heads, the rows and the tail to `descriptor`. Return the positions of the rows in each column."""
        runs = list(self._runs(rows))
        fresh: dict[int, list[tuple[bytes, array[int]]]] = {}
        # Allocate these arrays before the texts, so that malloc can return the memory of the texts to the kernel.
        found = [_Column(0, array("I", [0]) * len(rows)) for _ in heads]
        with open(descriptor, "wb", _BUFFER, closefd=False) as file:
            for number, head in enumerate(heads):
                column = found[number] = found[number]._replace(start=file.tell() + file.write(encoded(head)))
                reading = _Reading(self._columns[number]) if self._columns else None
                for first, former, length in runs:
                    separator = self._separator if first else b" " * len(self._separator)
                    if former < 0 or reading is None:
                        if number == 0:
                            fresh[first] = self._rendered(rows[first : first + length])
                        text, sizes = fresh[first].pop(0)
                        file.write(separator + text)
                    else:
                        place, sizes = reading.stretch(former, length)
                        file.write(separator)
                        file.flush()
                        self._copy(descriptor, place + len(separator), place + sum(sizes))
                    column.sizes[first : first + length] = sizes
            file.write(encoded(tail))
        return found

    def _rendered(self, rows: Sequence[R]) -> list[tuple[bytes, array[int]]]:
        """Return for each column the text of the rows without the first separator, and the size of each row."""
        columns = zip(*(map(encoded, self._texts(row)) for row in rows), strict=True)
        return [
            (self._separator.join(texts), array("I", (len(self._separator) + len(each) for each in texts)))
            for texts in columns
        ]

    def _runs(self, rows: Sequence[R]) -> Iterator[tuple[int, int, int]]:
        """Yield each run of rows: the number of its first row, the number in the previous file, and the length.

        The second number is the number of the first row in the previous file. For new rows, this number is negative. A
        run contains at most `_BATCH` new rows.
        """
        # If another process has changed the previous file, all rows count as new.
        before = self._rows if self._file is not None and _state(self._file) == self._state else ()
        # Usually, only a few rows differ. The dictionary does not contain the equal rows at the start and at the end.
        head, tail = unchanged_ends(rows, before)
        if head:
            yield 0, 0, head
        known = {id(row): number for number, row in enumerate(before[head : len(before) - tail], head)}
        # New rows have a negative number in the previous file.
        former = list(map(known.get, map(id, rows[head : len(rows) - tail]), count(-len(rows))))
        first = head
        for _, run in groupby(map(sub, former, count())):  # within a run, both numbers have a constant difference
            end = first + len(list(run))
            step = end - first if former[first - head] >= 0 else _BATCH
            yield from ((start, former[start - head], min(step, end - start)) for start in range(first, end, step))
            first = end
        if tail:
            yield len(rows) - tail, len(before) - tail, tail

    def _copy(self, descriptor: int, start: int, end: int) -> None:
        while start < end and self._file is not None:
            copied = os.sendfile(descriptor, self._file, start, end - start)
            if not copied:
                raise OSError(errno.EIO, "another process shortened the file")
            start += copied


def _state(descriptor: int) -> tuple[int, ...]:
    """Return values of fstat(2) that change with each change to the open file."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def encoded(text: str) -> bytes:
    """Return `text` in UTF-8, with backslash escapes for characters that UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace")
