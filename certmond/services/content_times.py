"""Cache of the time at which the content of each file changed last: `<state directory>/changes.json`.

The time stamps of a file are not sufficient. Users cannot forge the ctime, but a chmod or a touch also changes the
ctime. Then the file would appear newer than a process that has read the same content. The cache keeps the entry of a
missing file for some time, because a move away and back does not change the content. Without an entry, the ctime
counts. The cache has digests, and no content.
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
    """Cache of the changes. Without `keeps`, or without write access, later processes do not get the cache."""

    def __init__(self, state_dir: Path, *, keeps: bool) -> None:
        self._keeps = keeps
        self._memory = Memory(state_dir, _NAME, TypeAdapter(dict[str, _Known]))
        self._known: dict[str, _Known] | None = None

    def contents(self, files: Iterable[tuple[str, str, int]], now: datetime) -> dict[str, Content]:
        """Return, by path, the digest of each file's content and the time of its last change.

        `files` has the path, the SHA-256 of the relevant content and the ctime in nanoseconds. A ctime after `now`
        counts as `now`, because the clock was set back after the change. Otherwise all observations would appear older
        than the change.
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
