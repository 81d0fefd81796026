"""Since when each file has the content that it has: `<state directory>/changes.json`.

Owns that memory, because the time stamps of a file tell less: a chmod sets the one that cannot be forged, and a file
that was touched would look newer than the process that holds just this content. A file that is not there keeps its
place for a while, because who moves it away and back has changed nothing. It is a memory only: without it, a file is as
old as its last change of any kind. Holds digests, no content.
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
_ABSENT = 100  # files that are not there any more, or not asked for, and are remembered: those that were seen last
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Known(BaseModel):
    model_config = ConfigDict(frozen=True)

    sha256: str
    since: Instant


class Changes:
    """What is remembered of files, by path. Who only looks (not `keeps`), or may not write there, remembers nothing for
    the next process.
    """

    def __init__(self, state_dir: Path, *, keeps: bool) -> None:
        self._keeps = keeps
        self._memory = Memory(state_dir, _NAME, TypeAdapter(dict[str, _Known]))
        self._known: dict[str, _Known] | None = None

    def contents(self, files: Iterable[tuple[str, str, int]], now: datetime) -> dict[str, Content]:
        """Since when `files` have their content: (path, SHA-256 of what counts of it, ctime in nanoseconds) -> by path.

        A ctime later than `now` is of before a clock was set back, and counts as `now`. Otherwise no look would be
        later than the change, and what waits for one would wait until the clock has caught up.
        """
        known = self._memory.read() or {} if self._known is None else self._known
        found = dict[str, _Known]()
        for path, sha256, ctime in files:
            changed, before = min(_EPOCH + timedelta(microseconds=ctime // 1000), now), known.get(path)
            same = before is not None and before.sha256 == sha256
            found[path] = _Known(sha256=sha256, since=min(before.since, changed) if before and same else changed)
        # In the order in which they were last seen, over processes: a JSON object keeps it.
        gone = ((path, each) for path, each in known.items() if path not in found)
        kept = {**found, **dict(islice(gone, _ABSENT))}
        if kept != known and self._keeps:
            with suppress(WriteError):
                self._memory.write(kept)
        self._known = kept
        return {path: Content(each.sha256, each.since) for path, each in found.items()}
