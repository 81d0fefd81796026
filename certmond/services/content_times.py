"""Since when each file has had its present content: `<state directory>/changes.json`.

Owns that cache, because the time stamps of a file are not enough. A chmod changes ctime, which cannot be forged, and a
touched file would look newer than a process that has read this content. A missing file keeps its entry for a while,
because moving it away and back changes nothing. Without the cache, a file is as old as its last change of any kind.
Holds digests, no content.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from certmond.errors import WriteError
from certmond.pki.catalog.field_types import Instant
from certmond.pki.services.model import Content
from certmond.state.json_file import Memory

_NAME = "changes.json"
_ABSENT = 100  # missing or no longer requested files that are kept: the most recent ones
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Known(BaseModel):
    model_config = ConfigDict(frozen=True)

    sha256: str
    since: Instant


class Changes:
    """The cached contents by path. Without `keeps`, or without write access, nothing is stored for the next process."""

    def __init__(self, state_dir: Path, *, keeps: bool) -> None:
        self._keeps = keeps
        self._memory = Memory(state_dir, _NAME, TypeAdapter(dict[str, _Known]))
        self._known: dict[str, _Known] | None = None

    def contents(self, files: Iterable[tuple[str, str, int]], now: datetime) -> dict[str, Content]:
        """Return since when `files` (path, SHA-256 of the relevant content, ctime in nanoseconds) have their content,
        by path.

        A ctime after `now` precedes a clock that was set back, and counts as `now`. Otherwise no observation would be
        later than the change until the clock has caught up.
        """
        known = self._memory.read() or {} if self._known is None else self._known
        found = dict[str, _Known]()
        for path, sha256, ctime in files:
            changed, before = min(_EPOCH + timedelta(microseconds=ctime // 1000), now), known.get(path)
            same = before is not None and before.sha256 == sha256
            found[path] = _Known(sha256=sha256, since=min(before.since, changed) if before and same else changed)
        # In the order in which they were last seen, across processes: a JSON object keeps it.
        gone = ((path, each) for path, each in known.items() if path not in found)
        kept = {**found, **dict(islice(gone, _ABSENT))}
        if kept != known and self._keeps:
            with suppress(WriteError):
                self._memory.write(kept)
        self._known = kept
        return {path: Content(each.sha256, each.since) for path, each in found.items()}
