"""Files in the runtime directory that `certmond serve` reads: metrics, status, activity and heartbeat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from certmond.config.model import Config
from certmond.controllers.rotation_state import RotationState
from certmond.errors import RuntimeDirError
from certmond.expose.documents.activity import activity_document
from certmond.expose.documents.status_reader import STATUS
from certmond.expose.metrics.cluster_certificate_metrics import ClusterMetrics
from certmond.expose.metrics.exposition import (
    ACTIVITY,
    HEARTBEAT,
    METRICS,
    Renderer,
    heartbeat,
    replace_runtime_file,
)
from certmond.expose.metrics.x509_exporter_names import Compatible
from certmond.notify.event_log import Event, Journal
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.forecast import NextEvent
from certmond.pki.planning.steps import Plan


class RuntimeFiles:
    """Writer of the files in the runtime directory. A later call repeats a failed write."""

    def __init__(self, directory: Path, journal: Journal) -> None:
        self._directory, self._journal = directory, journal
        self._renderer, self._compatible, self._cluster = Renderer(), Compatible(), ClusterMetrics()
        self._unwritten: set[str] = set()
        self._activity: object = None

    def write_assessment(self, config: Config, assessment: Assessment, own: str, following: NextEvent | None) -> None:
        """Write the metrics and the status document. `own` is the text of the daemon's own metrics."""
        own += self._compatible.text(assessment) if config.compatibility else ""
        own += self._cluster.text(assessment.cluster)
        with self._writing(METRICS) as path:
            self._renderer.write_metrics(path, assessment, own)
        with self._writing(STATUS) as path:
            self._renderer.write_status(path, assessment, config.mode, following)

    def write_activity(self, plan: Plan, state: RotationState, waits: tuple[str, ...], until: datetime | None) -> None:
        """Write the plan, the rotation and recent events, if they have changed.

        `waits` are the conditions for which the rotation waits. `until` is the time at which the rotation can continue.
        """
        rotation = state.rotation, waits, until
        current = (plan, rotation, state.workers, self._journal.logged)
        if current != self._activity:
            recent = tuple(self._journal.recent)
            self._write(ACTIVITY, json.dumps(activity_document(plan, *rotation, recent, workers=state.workers)))
            self._activity = None if ACTIVITY in self._unwritten else current

    def write_heartbeat(self, passed_at: float | None, resync: timedelta) -> None:
        """Write the heartbeat. `passed_at` is the Unix time of the last pass, or None before the first pass.

        `resync` is the interval of full passes that start without an event.
        """
        self._write(HEARTBEAT, heartbeat(time.time(), passed_at, resync.total_seconds(), passed_at is not None))

    def remove_heartbeat(self) -> None:
        """Remove the heartbeat file, so that `certmond serve` reports a stopped daemon."""
        with suppress(OSError):  # the directory might be deleted or read-only by now
            (self._directory / HEARTBEAT).unlink()

    def _write(self, name: str, text: str) -> None:
        with self._writing(name):
            replace_runtime_file(self._directory, name, text)

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Yield the path of a runtime file, and log the first of several failed writes."""
        try:
            yield self._directory / name
        except RuntimeDirError as error:
            if not self._unwritten:
                self._journal.tell(Event.PUBLISH_FAILED, str(error), "error")
            self._unwritten.add(name)
        else:
            self._unwritten.discard(name)
