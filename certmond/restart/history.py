"""The history of restarts: the current episode, and the result of the last restart of each service.

Owns `<state directory>/restarts.json`. A process writes the file before it restarts a service. Otherwise, after a kill,
the next process would repeat the restart. A writer holds the lock of the transactions.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from certmond.pki.services.restart_episode import Past
from certmond.state.json_file import Memory

NAME = "restarts.json"


class History:
    """The history of the services, by name."""

    def __init__(self, state_dir: Path) -> None:
        self._memory = Memory(state_dir, NAME, TypeAdapter(dict[str, Past]))

    def all(self) -> dict[str, Past]:
        """Return the stored history, or {} if the file is missing or cannot be used."""
        return self._memory.read() or {}

    def store(self, past: Past) -> None:
        """Store the history of the service. Raises WriteError."""
        self._memory.write({**self.all(), past.service: past})
