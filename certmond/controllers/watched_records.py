"""The records of the state directory by which the processes of a node hand work to each other.

Owns which they are, for who waits for them to change. What is in them is `history`'s and `rotation_record`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from certmond.restart.history import NAME
from certmond.state.rotation_record import record_path


def records_of(state_dir: Path) -> dict[str, frozenset[str] | None]:
    """Return the names to watch in each directory, as `Watcher.follow` takes them."""
    real, record = os.path.realpath(state_dir), record_path(state_dir)
    directory = record.parent.name
    return {real: frozenset({NAME, directory}), f"{real}/{directory}": frozenset({record.name})}
