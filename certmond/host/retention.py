"""How long replaced files stay in the archive: a generation past its time goes, keys included.

Owns which go: those older than `archive.keep_for`, but for the newest good one of each certificate, so that something
can still be put back. Of a certificate with a generation of a later certmond none goes. The process that applies it
holds the lock of the transactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from certmond.errors import MalformedError, StateError
from certmond.host.archive import DID_NOT_WORK, Archive, ArchivedFile, stored_at
from certmond.host.credentials import parse_credentials
from certmond.pki.encoding import Document, decode

_INTERVAL = timedelta(hours=1)


class Retention:
    """The rule for one archive. By a clock that was set back or forward it is applied again, and at most once an hour
    otherwise.
    """

    def __init__(self, archive: Archive, keep_for: timedelta) -> None:
        self._archive, self._keep_for = archive, keep_for
        self._applied_at: datetime | None = None

    def due(self, now: datetime) -> bool:
        """Return whether the archive was not looked through in the last hour."""
        return self._applied_at is None or not timedelta() <= now - self._applied_at < _INTERVAL

    def apply(self, now: datetime) -> Iterator[tuple[str, str]]:
        """Remove what is past its time; name and generation of each. Raises WriteError."""
        self._applied_at = now
        for name in self._archive.names():
            with suppress(StateError):
                if expired := self.expired(name, now):
                    self._archive.remove(name, expired)
                    yield from ((name, generation) for generation in expired)

    def expired(self, name: str, now: datetime) -> tuple[str, ...]:
        """Return the generations of a certificate that are past their time, oldest first.

        Raises StateError where one of them is a later certmond's.
        """
        found = self._archive.ids(name)
        old = tuple(each for each in found if (at := stored_at(each)) and now - at > self._keep_for)
        if not old:
            return ()
        kept = next((each for each in reversed(found) if self._is_good(name, each)), found[-1])
        return tuple(each for each in old if each != kept)

    def _is_good(self, name: str, generation: str) -> bool:
        try:
            known = self._archive.generation(name, generation)
            return known.description.get("detail") != DID_NOT_WORK and belongs_together(
                self._archive.load(name, generation)
            )
        except MalformedError:
            return False


def belongs_together(files: Sequence[ArchivedFile]) -> bool:
    """Return whether one of the certificates or public keys in the files belongs to one of the keys in them, if any."""
    documents = [document for file in files for document in _documents(file)]
    keys = {document.key.sha256 for document in documents if document.key}
    return not keys or any(anchor.key.sha256 in keys for document in documents for anchor in document.anchors)


def _documents(file: ArchivedFile) -> Iterator[Document]:
    document = decode(file.content, file.path)
    if document.anchors or document.key:
        yield document
        return
    with suppress(MalformedError):
        yield from parse_credentials(file.content, file.path).documents.values()
