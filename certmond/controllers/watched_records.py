"""Records in the state directory through which the processes of a node pass work to each other.

Owns the names of these records, for processes that watch them. `restart.history` and `state.rotation_record` own the
content.
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
