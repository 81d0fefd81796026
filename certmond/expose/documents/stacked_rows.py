"""Table for narrow terminals: the last column contains several texts, one below the other."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text

_GAP, _INDENT, _LEAST = 2, "  ", 20


class Row(NamedTuple):
    """A row: the cells of the first columns, and the texts of the last column. `style` applies to the cells."""

    cells: tuple[str, ...]
    texts: tuple[str, ...]
    style: str = ""


def stacked(headings: Sequence[str], rows: Sequence[Row], width: int) -> Text:
    """Return the rows as text of at most `width` columns. The last element of `headings` belongs to the texts.

    Each text starts on a new line, and wraps between words. A word that is longer than the column stays whole.
    """
    sizes = [max(map(len, column)) for column in zip(headings, *(row.cells for row in rows), strict=False)]
    before = sum(sizes) + _GAP * len(sizes)
    room = max(width - before, _LEAST)
    lines = [Text("".join(map(_padded, headings, sizes)) + headings[-1], style="bold")]
    for row in rows:
        first, *rest = [line for number, each in enumerate(row.texts) for line in _wrapped(each, room, number)] or [""]
        head = Text("".join(map(_padded, row.cells, sizes)) + first)
        head.stylize(row.style, 0, before)
        lines += [head, *(Text(" " * before + line) for line in rest)]
    return Text("\n").join(lines)


def _padded(cell: str, size: int) -> str:
    return cell.ljust(size + _GAP)


def _wrapped(text: str, room: int, number: int) -> list[str]:
    indent = _INDENT if number else ""  # the first text is the subject of the others
    return textwrap.wrap(
        text, room, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
