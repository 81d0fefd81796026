"""Retention of the archive: certmond removes generations older than `archive.keep_for`.

certmond keeps the newest good generation of each certificate, and the only copy of a private key. The caller of `apply`
must hold the lock of all writers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from certmond.config.model import Config
from certmond.controllers.host_holds import clock_hold
from certmond.errors import MalformedError, StateError
from certmond.formats.kubeconfig_certificates import parse_credentials
from certmond.notify.audit import Audit
from certmond.notify.event_log import Event
from certmond.pki.catalog.duration import format_duration
from certmond.pki.x509.certificate_file_parser import Document, decode
from certmond.renewal.damaged_file_archive import OnlyCopies
from certmond.renewal.new_files import View, is_damaged_name
from certmond.state.archive import DID_NOT_WORK, Archive, ArchivedFile, stored_at

_INTERVAL = timedelta(hours=1)


class Retention:
    """The retention rule of one configuration. certmond applies the rule at most once an hour.

    The retention calls `alive` for each name in the archive, for the watchdog of systemd.
    """

    def __init__(
        self, archive: Archive, config: Config, audit: Audit, clock: Callable[[], datetime], files: View, *,
        alive: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._only_copies, self._alive = OnlyCopies(archive, config.certificates, files), alive
        self._archive, self._audit, self._clock = archive, audit, clock
        self._keep_for, self._hold = config.archive.keep_for, config.hold
        self._applied_at: datetime | None = None

    def due(self) -> bool:
        """Return whether certmond must apply the rule now.

        Return False while an unsynchronized clock holds steps (`hold.unsynchronised_clock`).
        """
        recently = self._applied_at and timedelta() <= self._clock() - self._applied_at < _INTERVAL
        return not recently and clock_hold(self._hold) is None

    def apply(self) -> None:
        """Remove expired generations if the rule is due, and record each removal in the audit log.

        Also remove the temporary files of killed processes, which can contain private keys. Raises WriteError if a
        removal fails.
        """
        if not self.due():
            return
        self._archive.tidy()
        self._applied_at = now = self._clock()
        for name in self._archive.names():
            self._alive()
            with suppress(StateError):
                if expired := self.expired(name, now):
                    self._archive.remove(name, expired)
                for generation in expired:
                    self._note(name, generation, now)

    def _note(self, name: str, generation: str, now: datetime) -> None:
        age = format_duration(self._keep_for)
        message = f"certmond removed {generation} of {name} from the archive: the generation is older than {age}"
        fields = {"step": "expire", "target": name, "generation": generation}
        self._audit.conclude(Event.STEP_DONE, now, message, fields=fields)

    def expired(self, name: str, now: datetime) -> tuple[str, ...]:
        """Return the expired generations of a certificate, oldest first.

        Omit the newest good generation, or the newest generation if none is good. Of archived damaged files, also omit
        the only copy of a private key. Raises StateError if a later version of certmond wrote a generation of the
        certificate.
        """
        found = self._archive.ids(name)
        old = tuple(each for each in found if (at := stored_at(each)) and now - at > self._keep_for)
        if not old:
            return ()
        newest_good = next((each for each in reversed(found) if self._is_good(name, each)), found[-1])
        expired = [each for each in old if each != newest_good]
        return tuple(self._only_copies.removable(name, expired) if is_damaged_name(name) else expired)

    def _is_good(self, name: str, generation: str) -> bool:
        try:
            known = self._archive.generation(name, generation)
            return known.description.get("detail") != DID_NOT_WORK and belongs_together(
                self._archive.load(name, generation)
            )
        except MalformedError:
            return False


def belongs_together(files: Sequence[ArchivedFile]) -> bool:
    """Return whether the files contain no private key, or contain a private key with its certificate or public key."""
    documents = [document for file in files for document in _documents(file)]
    keys = {document.key.der for document in documents if document.key}
    return not keys or any(anchor.key.der in keys for document in documents for anchor in document.anchors)


def _documents(file: ArchivedFile) -> Iterator[Document]:
    document = decode(file.content, file.path)
    if document.anchors or document.key:
        yield document
        return
    with suppress(MalformedError):
        yield from parse_credentials(file.content, file.path).documents.values()
