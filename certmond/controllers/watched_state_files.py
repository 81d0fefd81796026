"""Names of the files in the state directory through which a command gives work to the daemon.

`restart.history` and `state.rotation_record` define the content of these files.
"""

from __future__ import annotations

import os
from pathlib import Path

from certmond.restart.history import NAME
from certmond.state.rotation_record import record_path


def records_of(state_dir: Path) -> dict[str, frozenset[str]]:
    """Return the names of the record files to watch, by directory, in the form of `Watcher.set_interest`."""
    real, record = os.path.realpath(state_dir), record_path(state_dir)
    directory = record.parent.name
    return {real: frozenset({NAME, directory}), f"{real}/{directory}": frozenset({record.name})}
