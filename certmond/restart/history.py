"""History of restarts: for each service, the restart in progress and the result of the last restart.

certmond writes `<state directory>/restarts.json` before each restart. Therefore, if a process is killed during a
restart, the next process continues the restart.
"""

from __future__ import annotations

from pathlib import Path

from certmond.pki.services.restart_episode import Past
from certmond.state.json_file import Memory

NAME = "restarts.json"


class History:
    """History of restarts, by the name of the service."""

    def __init__(self, state_dir: Path) -> None:
        self._memory = Memory(state_dir, NAME, dict[str, Past])

    def all(self) -> dict[str, Past]:
        """Return the stored history of each service, or {} if the file is missing or unusable."""
        return self._memory.read() or {}

    def store(self, past: Past) -> None:
        """Store the history of one service. The caller must hold the lock of all writers.

        Raises WriteError if the write fails.
        """
        self._memory.write({**self.all(), past.service: past})
