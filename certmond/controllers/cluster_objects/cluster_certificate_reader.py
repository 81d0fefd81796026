"""Reader of the certificates and certificate requests of the cluster, on the one node that holds a Lease.

A separate thread renews the Lease and lists the objects, so that no pass waits for the API server.
`pki.assessment.cluster_rules` decides which objects have a finding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from certmond.cluster.api_access import Access
from certmond.errors import CertmondError, LostError, RefusedError, defect
from certmond.immutable_class import immutable
from certmond.pki.assessment.cluster_rules import cluster_state, unread_observation
from certmond.pki.services.cluster_objects import ClusterReading, ClusterState, Listing, Place, Unread

_ANSWER = timedelta(seconds=5)  # maximum time of a request, and of one page of a list
_ANSWER_SHARE = 18
"""Part of the Lease duration that a request takes at most. The list of one kind takes 12 times as long, and the Lease
ends after five sixths of its duration, so a list between two renewals is shorter than the Lease.
"""
_LEASE_PAUSE = 6  # the daemon reads the Lease this many times in its duration
_RETRY = 60.0  # seconds until the first repetition of a failed list
_DEFECT_PAUSE = 60.0  # seconds after an unexpected exception
_JOIN = 2.0  # maximum seconds for which `close` waits for the thread
LEASE = Place("Lease", "kube-system", "certmond-reader")
"""The Lease that the reader holds."""
_NOT_LEADING = ClusterReading()
_AGAIN = "check that the API server answers; certmond repeats the request"
_JOURNAL = "see the journal: journalctl -u certmond"


@immutable
class ReaderTerms:
    """Configuration of the reader. `kubeconfig` returns the path of a kubeconfig, or raises RefusedError."""

    kubeconfig: Callable[[], str]
    node: str
    namespaces: tuple[str, ...]
    interval: timedelta
    lease_duration: timedelta
    renew_before: timedelta


@immutable
class Published:
    """A reading, and the time until which this node certainly holds the Lease, by the monotonic clock."""

    reading: ClusterReading
    until: float = 0.0


class ListingSchedule:
    """Times of the monotonic clock at which the next list of each source is due.

    certmond repeats a failed list after a minute, and then after pauses that double up to `interval`.
    """

    def __init__(self, interval: timedelta) -> None:
        self._interval = interval.total_seconds()
        self._due, self._retries = dict[Place, float](), dict[Place, float]()

    @property
    def next(self) -> float:
        """The time of the next list, or 0 before the first list."""
        return min(self._due.values(), default=0.0)

    def due(self, source: Place) -> float:
        return self._due.get(source, 0.0)

    def listed(self, source: Place, now: float, *, failed: bool) -> None:
        """Set the time of the next list of `source` after a list that ended at `now`."""
        retry = min(max(2 * self._retries.get(source, 0.0), _RETRY), self._interval)
        self._retries[source] = retry if failed else 0.0
        self._due[source] = now + (retry if failed else self._interval)

    def clear(self) -> None:
        """Make all lists due."""
        self._due.clear()
        self._retries.clear()


class ReadingRounds:
    """Rounds of the thread. Each round takes or renews the Lease. The node with the Lease reads the objects if due.

    During a request, certmond calls `alive` at least every second. An exception of `alive` ends the request.
    """

    def __init__(
        self,
        terms: ReaderTerms,
        *,
        alive: Callable[[], None],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        from certmond.cluster.lease_lock import ClusterLease

        self._terms, self._clock, self._monotonic = terms, clock, monotonic
        self.published = Published(_NOT_LEADING)
        """The last reading, which another thread can read."""
        answer = min(_ANSWER, terms.lease_duration / _ANSWER_SHARE)
        self._access = Access(terms.kubeconfig, answer, alive)
        self._lease = ClusterLease(
            terms.kubeconfig, identity=terms.node, name=LEASE.name, namespace=LEASE.namespace,
            duration=terms.lease_duration, time_limit=answer, alive=alive, monotonic=monotonic,
        )  # fmt: skip
        self._schedule = ListingSchedule(terms.interval)
        self._failure: Unread | None = None

    def round(self) -> float:
        """Make one round, and return the seconds until the next round."""
        self._failure = self._failure_of(self._lease.take)
        pause = self._terms.lease_duration.total_seconds() / _LEASE_PAUSE
        if not self._lease.held:
            self._stop_leading()
            return pause
        known = self.published.reading
        if self._monotonic() >= self._schedule.next:
            if (listings := self._listings(known)) is None:
                self._stop_leading()
                return pause
            self._publish(leads=True, listings=listings)
        else:
            self._publish(leads=known.leads, listings=known.listings)
        return max(0.0, min(pause, self._schedule.next - self._monotonic()))

    def _stop_leading(self) -> None:
        """Publish that this node does not hold the Lease. After an outage, keep the known objects."""
        self._schedule.clear()
        listings = self.published.reading.listings if self._failure else ()
        if self._failure and listings:
            self._failure = replace(self._failure, lasting=True)
        self._publish(leads=False, listings=listings)

    def fail(self, fact: str, remedy: str) -> None:
        """Publish a failure without a request. Keep the known objects."""
        unread = Unread(LEASE, fact, remedy, self._clock(), lasting=True)
        self.published = replace(self.published, reading=replace(self.published.reading, lease=unread))

    def _listings(self, former: ClusterReading) -> tuple[Listing, ...] | None:
        """Return all objects, or None if this node has lost the Lease during the requests."""
        from certmond.cluster.certificate_listing import listing, sources

        before, found = {each.place: each for each in former.listings}, list[Listing]()
        failed = dict[Place, bool]()
        for source in sources(self._terms.namespaces):
            known, at = before.get(source) or Listing(source), self._clock()
            if self._monotonic() < self._schedule.due(source):
                found.append(known)
                continue
            self._failure = self._failure_of(self._lease.take)  # the list can take most of the Lease
            if not self._lease.held:
                return None
            self.published = replace(self.published, until=self._lease.held_until)
            try:
                made = listing(self._access, source, known, at)
            except _ClosedError:
                raise
            except Exception as error:  # noqa: BLE001 - a defect for one kind must not end the other lists
                made = replace(known, unread=Unread(source, defect(error), _JOURNAL, at, lasting=True))
            found.append(made)
            failed[source] = made.read_at != at
        self._failure = self._failure_of(self._lease.keep)
        if not self._lease.held:
            return None
        ended = self._monotonic()  # for all lists, so that the next lists are due in one round
        for source, again in failed.items():
            self._schedule.listed(source, ended, failed=again)
        return tuple(found)

    def _failure_of(self, call: Callable[[], object]) -> Unread | None:
        """Call a method of the Lease. Return the reason why this node cannot use the Lease, or None.

        Return None also if another node holds the Lease.
        """
        try:
            call()
        except LostError:  # the next round takes the Lease, or waits for the other node
            return None
        except CertmondError as error:
            fact, _, remedy = str(error).partition("; ")
            since = self._failure.since if self._failure else self._clock()
            return Unread(LEASE, fact, remedy or _AGAIN, since, isinstance(error, RefusedError))
        return None

    def _publish(self, *, leads: bool, listings: tuple[Listing, ...]) -> None:
        """Publish a reading. If nothing has changed, publish the previous object again."""
        known = self.published.reading
        same = (known.leads, known.lease) == (leads, self._failure) and known.listings is listings
        reading = known if same else ClusterReading(leads, listings, self._failure)
        self.published = Published(reading, self._lease.held_until)


class ClusterReader:
    """Reader of this node. The first call of `state` starts the thread.

    After each change of the reading, the thread calls `wake`. `monotonic` returns the seconds of a monotonic clock.
    """

    def __init__(
        self,
        terms: ReaderTerms,
        *,
        wake: Callable[[], None],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._terms, self._wake, self._clock, self._monotonic = terms, wake, clock, monotonic
        self._rounds = ReadingRounds(terms, alive=self._end_if_closed, clock=clock, monotonic=monotonic)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._started = False
        self._state = ClusterState()
        self._overdue_reading = (_NOT_LEADING, _NOT_LEADING)

    def state(self, now: datetime) -> ClusterState:
        """Return the objects of the cluster with their observations at `now`. Do not wait for the API server."""
        if not self._started:
            self._started = True
            self._start()
        published, known = self._rounds.published, self._state
        reading = published.reading
        if reading.leads and self._monotonic() >= published.until:
            reading = self._overdue(reading, now)
        due = known.changes_at is not None and now >= known.changes_at
        if known.reading is not reading or due:
            made = self._judged(reading, now, self._terms.renew_before)
            # The same objects keep their verdicts in the next pass.
            same = made.observations == known.observations
            self._state = replace(made, observations=known.observations) if same else made
        return self._state

    def _overdue(self, reading: ClusterReading, now: datetime) -> ClusterReading:
        """Return the reading of a node that has not renewed its Lease in time, so that another node may read.

        The known objects stay, because certmond does not know whether another node reads. The same reading has the same
        result.
        """
        if self._overdue_reading[0] is not reading:
            unread = reading.lease or Unread(
                LEASE, f"certmond has not renewed the {LEASE.called} in time", _AGAIN, now, True
            )
            stopped = replace(reading, leads=False, lease=replace(unread, lasting=True))
            self._overdue_reading = reading, stopped
        return self._overdue_reading[1]

    def _judged(self, reading: ClusterReading, now: datetime, renew_before: timedelta) -> ClusterState:
        """Return the state of a reading. A defect of the rules is a finding, and keeps the known findings."""
        try:
            return cluster_state(reading, now, renew_before)
        except Exception as error:  # noqa: BLE001 - a certificate of the cluster must not end the daemon
            unread = Unread(LEASE, defect(error), _JOURNAL, now, lasting=True)
        known = (each for each in self._state.observations if each.path != LEASE.path)
        return ClusterState(reading, (*known, unread_observation(unread)))

    @property
    def until(self) -> datetime | None:
        """Time at which the next pass can report a change, or None if only the thread can cause a change."""
        instants = [self._state.changes_at]
        if self._state.reading and self._state.reading.leads:
            left = max(0.0, self._rounds.published.until - self._monotonic())
            instants.append(self._clock() + timedelta(seconds=left))
        return min(filter(None, instants), default=None)

    def continue_from(self, former: ClusterReader) -> None:
        """Take over the last reading of `former`, the reader with the previous configuration."""
        self._rounds.published, self._state = former._rounds.published, former._state

    def close(self) -> None:
        """Stop the thread. Do not release the Lease, so that this node continues after a restart of the daemon."""
        self._closed.set()
        if self._thread:
            self._thread.join(_JOIN)

    def _start(self) -> None:
        """Start the thread. Import the client first: concurrent imports of asyncio.subprocess would break asyncio."""
        thread = threading.Thread(target=self._run, name="cluster-reader", daemon=True)
        try:
            import certmond.cluster.certificate_listing  # noqa: F401 - as in `ReadingRounds`

            thread.start()
            self._thread = thread
        except ImportError:
            self._rounds.fail("the package lightkube is missing", "run: pip install lightkube lightkube-models")
        except RuntimeError:
            self._rounds.fail(
                "certmond cannot start a thread", "raise TasksMax= of the unit, then run: systemctl restart certmond"
            )

    def _run(self) -> None:
        """Make rounds until `close`. Only the thread calls this method."""
        pause = 0.0
        while not self._closed.wait(pause):
            before = self._rounds.published.reading
            try:
                pause = self._rounds.round()
            except _ClosedError:
                return
            except Exception as error:  # noqa: BLE001 - a defect in one round must not end the thread
                self._rounds.fail(defect(error), _JOURNAL)
                pause = _DEFECT_PAUSE
            if self._rounds.published.reading is not before:
                self._wake()

    def _end_if_closed(self) -> None:
        if self._closed.is_set():
            raise _ClosedError


class _ClosedError(Exception):
    """End of a request, because the daemon stops or reloads its configuration."""
