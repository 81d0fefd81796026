"""Cache of the time at which the content of each file last changed: `<state directory>/changes.json`.

The ctime is not sufficient, because a chmod also changes the ctime.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from certmond.errors import WriteError
from certmond.immutable_class import immutable
from certmond.pki.instant import Instant
from certmond.pki.services.service_observation import Content
from certmond.state.json_file import Memory

_NAME = "changes.json"
# Maximum number of entries for files that are missing or no longer requested. If a file is moved away and back, the
# entry shows that the content has not changed.
_ABSENT = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@immutable
class _Known:
    """The digest of a file, and the time since which the file has this content."""

    sha256: str
    since: Instant


class Changes:
    """Cache of digests and change times. If `keeps` is False, certmond does not write the cache file."""

    def __init__(self, state_dir: Path, *, keeps: bool) -> None:
        self._keeps = keeps
        self._memory = Memory(state_dir, _NAME, dict[str, _Known])
        self._known: dict[str, _Known] | None = None

    def contents(self, files: Iterable[tuple[str, str, int]], now: datetime) -> dict[str, Content]:
        """Return, by path, the digest of the content of each file and the time at which the content last changed.

        `files` contains tuples of the path, the SHA-256 of the content, and the ctime in nanoseconds.
        """
        known = self._memory.read() or {} if self._known is None else self._known
        found = dict[str, _Known]()
        for path, sha256, ctime in files:  # a ctime is after `now` if the clock was set back
            changed, before = min(EPOCH + timedelta(microseconds=ctime // 1000), now), known.get(path)
            same = before is not None and before.sha256 == sha256
            found[path] = _Known(sha256, min(before.since, changed) if before and same else changed)
        # The latest observation comes first. The JSON object preserves this order for later processes.
        gone = ((path, each) for path, each in known.items() if path not in found)
        kept = {**found, **dict(islice(gone, _ABSENT))}
        if kept != known and self._keeps:
            with suppress(WriteError):
                self._memory.write(kept)
        self._known = kept
        return {path: Content(each.sha256, each.since) for path, each in found.items()}
