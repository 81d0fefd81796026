"""The paths that a pattern of the catalogue stands for: `*`, `?`, `[…]`, and `**` for any number of directories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase, translate

from certmond.host.files import Files

MOST = 100_000
"""So many files of one pattern are looked at: whoever may write in the directory chooses how many match."""
_MAX_DEPTH = 16  # of directories that `**` descends


def expand(files: Files, pattern: str, exclude: Sequence[str]) -> tuple[list[str], bool]:
    """The paths in order, each once, without the names that `exclude` has. `**` follows no symlink. And whether there
    are more than MOST, the rest of which is left out.
    """
    left_out = re.compile("|".join(map(translate, exclude)) or "(?!)")  # one for all, as there may be many names
    found = dict[str, None]()
    for path in _walk(files, "", pattern.strip("/").split("/"), left_out, 0):
        if len(found) == MOST and path not in found:
            return list(found), True
        found[path] = None
    return list(found), False


def _walk(files: Files, base: str, parts: list[str], left_out: re.Pattern[str], depth: int) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if not any(character in part for character in "*?["):
        yield from _walk(files, f"{base}/{part}", rest, left_out, depth) if rest else [f"{base}/{part}"]
        return
    names = [name for name in files.listing(base) if not left_out.match(name)]
    if part == "**":
        yield from _walk(files, base, rest or ["*"], left_out, depth)
        for name in names if depth < _MAX_DEPTH else ():
            entry = files.entry(f"{base}/{name}")
            if entry.is_directory and not entry.is_link:
                yield from _walk(files, f"{base}/{name}", parts, left_out, depth + 1)
        return
    for name in names:
        if fnmatchcase(name, part):
            yield from _walk(files, f"{base}/{name}", rest, left_out, depth) if rest else [f"{base}/{name}"]
