"""The time of the last change of each file's content: `<state directory>/changes.json`.

Owns this cache, because the time stamps of a file are not sufficient. Users cannot forge ctime, but a chmod or a touch
changes it. Then the file would appear newer than a process that has read this content. A missing file keeps its entry
for some time, because moving it away and back changes no content. Without the cache, the ctime counts. Contains
digests, and no content.
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
_ABSENT = 100  # maximum number of missing or no longer requested files to keep
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Known(BaseModel):
    model_config = ConfigDict(frozen=True)

    sha256: str
    since: Instant


class Changes:
    """The cached contents by path. Without `keeps`, or without write access, it stores nothing for later processes."""

    def __init__(self, state_dir: Path, *, keeps: bool) -> None:
        self._keeps = keeps
        self._memory = Memory(state_dir, _NAME, TypeAdapter(dict[str, _Known]))
        self._known: dict[str, _Known] | None = None

    def contents(self, files: Iterable[tuple[str, str, int]], now: datetime) -> dict[str, Content]:
        """Return the content of `files` (path, SHA-256 of the relevant content, ctime in nanoseconds), by path.

        A ctime after `now` counts as `now`: the clock was set back after the change. Otherwise no observation would be
        later than the change until the clock reaches it.
        """
        known = self._memory.read() or {} if self._known is None else self._known
        found = dict[str, _Known]()
        for path, sha256, ctime in files:
            changed, before = min(_EPOCH + timedelta(microseconds=ctime // 1000), now), known.get(path)
            same = before is not None and before.sha256 == sha256
            found[path] = _Known(sha256=sha256, since=min(before.since, changed) if before and same else changed)
        # In the order of the last observation, also across processes: a JSON object preserves the order.
        gone = ((path, each) for path, each in known.items() if path not in found)
        kept = {**found, **dict(islice(gone, _ABSENT))}
        if kept != known and self._keeps:
            with suppress(WriteError):
                self._memory.write(kept)
        self._known = kept
        return {path: Content(each.sha256, each.since) for path, each in found.items()}
