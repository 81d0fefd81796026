"""What certmond remembers of its restarts: the episode under way, and how each service's last one ended.

Owns `<state directory>/restarts.json`. Unlike the memory of renewals it has to be there before an act: without it, a
process that is killed would restart the same thing again. Whoever writes holds the lock of the transactions.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from certmond.pki.services.restart_state_machine import Past
from certmond.state.json_file import Memory

NAME = "restarts.json"


class History:
    """The services' past, by name."""

    def __init__(self, state_dir: Path) -> None:
        self._memory = Memory(state_dir, NAME, TypeAdapter(dict[str, Past]))

    def all(self) -> dict[str, Past]:
        """What is remembered; nothing where the file is not there or cannot be used."""
        return self._memory.read() or {}

    def remember(self, past: Past) -> None:
        """Note it in the place of what was known of the service. Raises WriteError."""
        self._memory.write({**self.all(), past.service: past})
