"""Corpus of selected inputs. For each target, a file in `fuzz/corpus` contains one input per line, in base64.

This module defines the format and the selection. Each selected input reaches code of certmond that no shorter selected
input reaches. The number of inputs is limited, so that every test run can repeat all of them.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from pathlib import Path

import coverage

DIRECTORY = Path(__file__).parent / "corpus"
MOST, LONGEST = 80, 8192
"""Maximum number of inputs for each target, and the maximum length of an input in bytes."""


def inputs(target: str) -> list[bytes]:
    """Return the inputs in the corpus of a target."""
    path = DIRECTORY / f"{target}.txt"
    return [b64decode(line) for line in path.read_text().split()] if path.exists() else []


def keep(target: str, read: Callable[[bytes], object], found: Iterable[bytes]) -> int:
    """Select inputs from `found`, write them to the corpus of the target, and return their number."""
    measured = coverage.Coverage(data_file=None, branch=True, source_pkgs=["certmond"], config_file=False)
    measured.set_option("run:disable_warnings", ["module-not-measured"])  # certmond was imported before
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
