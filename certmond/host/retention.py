"""How long replaced files stay in the archive: a generation past its time goes, keys included.

Owns which go: those older than `archive.keep_for`, but for the newest good one of each certificate, so that something
can still be put back, and for the only copy of a private key among damaged files (`damaged`). Of a certificate with a
generation of a later certmond none goes. The process that applies it holds the lock of the transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from certmond.config import Config
from certmond.errors import MalformedError, StateError
from certmond.host.archive import DID_NOT_WORK, Archive, ArchivedFile, stored_at
from certmond.host.audit import Audit
from certmond.host.circumstances import doubt_of_the_clock
from certmond.host.credentials import parse_credentials
from certmond.host.damaged import OnlyCopies
from certmond.host.journal import Event
from certmond.host.placing import View, is_damaged_name
from certmond.pki.encoding import Document, decode
from certmond.pki.fields import format_duration

_INTERVAL = timedelta(hours=1)


class Retention:
    """The rule of one configuration. It is applied at most once an hour, and once more where the clock was set back."""

    def __init__(
        self, archive: Archive, config: Config, audit: Audit, clock: Callable[[], datetime], files: View
    ) -> None:
        self._copies = OnlyCopies(archive, config.certificates, files)
        self._archive, self._audit, self._clock = archive, audit, clock
        self._keep_for, self._hold = config.archive.keep_for, config.hold
        self._applied_at: datetime | None = None

    def due(self) -> bool:
        """Return whether the archive was not looked through in the last hour, and the clock is not in doubt."""
        recently = self._applied_at and timedelta() <= self._clock() - self._applied_at < _INTERVAL
        return not recently and doubt_of_the_clock(self._hold) is None

    def apply(self) -> None:
        """Remove what is past its time, where that is due, and note each generation. Raises WriteError.

        What killed processes left of generations goes, too: it can hold keys of any age.
        """
        if not self.due():
            return
        self._archive.tidy()
        self._applied_at = now = self._clock()
        for name in self._archive.names():
            with suppress(StateError):
                if expired := self.expired(name, now):
                    self._archive.remove(name, expired)
                for generation in expired:
                    self._note(name, generation, now)

    def _note(self, name: str, generation: str, now: datetime) -> None:
        said = f"{generation} of {name} is removed from the archive: older than {format_duration(self._keep_for)}"
        fields = {"step": "expire", "target": name, "generation": generation}
        self._audit.conclude(Event.STEP_DONE, now, said, fields=fields)

    def expired(self, name: str, now: datetime) -> tuple[str, ...]:
        """Return the generations of a certificate that are past their time, oldest first.

        Raises StateError where one of them is a later certmond's.
        """
        found = self._archive.ids(name)
        old = tuple(each for each in found if (at := stored_at(each)) and now - at > self._keep_for)
        if not old:
            return ()
        kept = next((each for each in reversed(found) if self._is_good(name, each)), found[-1])
        past = [each for each in old if each != kept]
        return tuple(self._copies.removable(name, past) if is_damaged_name(name) else past)

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
