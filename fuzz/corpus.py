"""The inputs that are kept: for each target a file in `fuzz/corpus`, one input a line, in base64.

Owns that form, and which are kept: each goes somewhere in certmond where no shorter one goes, and they are few enough
to be replayed by every test run.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from pathlib import Path

import coverage

DIRECTORY = Path(__file__).parent / "corpus"
MOST, LONGEST = 80, 8192
"""So many inputs of a target are kept, none of them longer."""


def inputs(target: str) -> list[bytes]:
    """Those that are kept."""
    path = DIRECTORY / f"{target}.txt"
    return [b64decode(line) for line in path.read_text().split()] if path.exists() else []


def keep(target: str, read: Callable[[bytes], object], found: Iterable[bytes]) -> int:
    """Choose of these what is kept from now on, and say how many they are."""
    measured = coverage.Coverage(data_file=None, branch=True, source_pkgs=["certmond"], config_file=False)
    measured.set_option("run:disable_warnings", ["module-not-measured"])  # it was imported before
    met: set[tuple[str, int, int]] = set()
    chosen = list[bytes]()
    for each in sorted({each for each in found if len(each) <= LONGEST}, key=lambda each: (len(each), each)):
        measured.erase()
        with measured.collect():
            read(each)
        data = measured.get_data()
        gone = {(name, *arc) for name in data.measured_files() for arc in data.arcs(name) or ()}
        if not gone <= met:
            met |= gone
            chosen.append(each)
    chosen = chosen[:: -(-len(chosen) // MOST)]
    DIRECTORY.mkdir(exist_ok=True)
    (DIRECTORY / f"{target}.txt").write_text("".join(f"{b64encode(each).decode()}\n" for each in chosen))
    return len(chosen)
