"""Names of the files in the state directory through which a command hands work to the daemon.

The daemon watches these files. `restart.history` and `state.rotation_record` own their content.
"""

from __future__ import annotations

import os
from pathlib import Path

from certmond.restart.history import NAME
from certmond.state.rotation_record import record_path


def records_of(state_dir: Path) -> dict[str, frozenset[str] | None]:
    """Return the file names to watch, by directory, in the form that `Watcher.set_interest` accepts."""
    real, record = os.path.realpath(state_dir), record_path(state_dir)
    directory = record.parent.name
    return {real: frozenset({NAME, directory}), f"{real}/{directory}": frozenset({record.name})}
