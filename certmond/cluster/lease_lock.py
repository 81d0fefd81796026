"""A lock among the nodes of a cluster: a Lease of coordination.k8s.io/v1.

The rules are those of client-go's leader election. A node never compares a time in the Lease with its own clock,
because the clocks of nodes differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from certmond.cluster.api_access import Access
from certmond.errors import LostError, SigningError, UnreachableError
from certmond.immutable_class import immutable
from certmond.pki.findings import printable

if TYPE_CHECKING:
    from certmond.cluster.client import Connection

_RENEWED_AFTER = 1 / 3  # of the duration: leaves time to retry a renewal that fails
_HELD_FOR = 5 / 6
"""Share of the duration: two nodes never hold a Lease together, even if one clock runs a fifth faster."""
_MAX_REASON = 500
_CONFLICTS = 5  # the number of attempts of client-go's retry.DefaultRetry

RESTART, ROTATION = "certmond-restart", "certmond-rotation"
"""Names of certmond's Leases: for restarts, and for the coordinator of a rotation."""
MARK = "certmond.io/unproven-restart"
"""Annotation of the Lease with `NODE: REASON`.
The node NODE has no proof that its restart of a service for a renewal was successful.
"""
_BEGUN = "it has restarted, or is restarting"

T = TypeVar("T")


@immutable
class Record:
    """Content of a Lease. `seconds` is the duration of the Lease, and `mark` is the value of the annotation `MARK`.

    certmond writes all other `metadata` unchanged.

    `version` is empty if the Lease does not exist yet.
    """

    holder: str
    seconds: int | None
    acquired: datetime | None
    renewed: datetime | None
    transitions: int
    version: str = ""
    mark: str = ""
    metadata: Any = field(default=None, repr=False, compare=False)


@immutable
class Waits:
    """The holder of the Lease, and the time at which the holder took the Lease, by the clock of the holder."""

    holder: str
    since: datetime | None


def decide(
    found: Record | None, identity: str, seconds: int, *, seen: float, now: float, at: datetime
) -> Record | Waits:
    """Return the Lease that `identity` must write to hold the lock, or a Waits if another node holds the lock.

    `seen` is the time at which this node first read `found`, and `now` is the present time, both by the monotonic
    clock. A Lease is free if it has no holder, or if its content has not changed for the duration of the Lease.
    """
    if found is None:
        return Record(identity, seconds, acquired=at, renewed=at, transitions=0)
    if found.holder == identity:
        return replace(found, seconds=seconds, renewed=at)
    if found.holder and now - seen < (found.seconds or seconds):
        return Waits(found.holder, found.acquired)
    return replace(found, holder=identity, seconds=seconds, acquired=at, renewed=at, transitions=found.transitions + 1)


class Leases(Protocol):
    """Calls to the API server for one Lease. A call that fails raises RefusedError or UnreachableError."""

    async def read(self) -> Record | None:
        """Return the Lease, or None if the Lease does not exist."""

    async def create(self, record: Record) -> Record | None:
        """Create and return the Lease. Return None if the Lease already exists."""

    async def replace(self, record: Record) -> Record | None:
        """Replace and return the Lease. Return None if another client has changed or deleted the Lease."""


class ClusterLease:
    """Lock among nodes, which is the Lease `name`. Only one thread may use this object.

    `identity` is the unique name of the node. Other nodes wait for `duration` after the last renewal. `monotonic`
    returns the seconds of a clock that cannot be set.
    """

    def __init__(
        self,
        kubeconfig: Callable[[], str],
        *,
        identity: str,
        name: str,
        namespace: str = "kube-system",
        duration: timedelta = timedelta(seconds=60),
        time_limit: timedelta = timedelta(seconds=5),
        alive: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = Access(kubeconfig, time_limit, alive)
        self._identity, self._name, self._namespace = identity, name, namespace
        self._duration, self._monotonic = duration.total_seconds(), monotonic
        self._seconds = max(math.ceil(self._duration), 1)
        self._first_read: tuple[Record | None, float] = (None, 0.0)
        self._written_record: Record | None = None  # as last written
        self._began = 0.0  # the time of that write by this node's clock, before the request was sent
        self._unwritten_mark: str | None = None

    @property
    def held(self) -> bool:
        """Whether this node still holds the lock, according to its clock. Check this property before each action."""
        return self._monotonic() < self.held_until

    @property
    def held_until(self) -> float:
        """The time, by the monotonic clock, until which this node holds the lock, or a time in the past."""
        return self._began + self._duration * _HELD_FOR if self._written_record is not None else -math.inf

    def take(self, *, renews: bool = False) -> str | None:
        """Take or renew the lock. Return None if this node now holds the lock, otherwise the reason for the wait.

        With `renews`, this node also marks the Lease until `give_back` removes the mark, and waits while another node
        has marked the Lease. Raises UnreachableError or RefusedError if a request fails. After an error, a holder keeps
        the lock for the rest of the duration of the Lease.
        """
        return self._run(partial(self._take, renews=renews))

    def obstacle(self) -> str | None:
        """Return why a node without the lock must wait: another node holds or has marked the Lease.

        Return None if the node does not have to wait. Raises UnreachableError or RefusedError if a request fails.
        """

        async def work(api: Leases) -> str | None:
            found = await api.read()
            decision = self._decision(found)
            return self._marked(found) or (self._waits(decision) if isinstance(decision, Waits) else None)

        return self._run(work)

    def keep(self) -> None:
        """Renew the lock if a third of the Lease duration has passed since the last renewal.

        Raises LostError if this node does not hold the lock, and UnreachableError or RefusedError if the renewal fails.
        """
        if self._written_record is None:
            raise LostError(f"this node does not hold {self}; take the Lease first")
        if self._monotonic() - self._began >= self._duration * _RENEWED_AFTER:
            self._run(partial(self._keep, self._written_record))

    def node_problem(self) -> str | None:
        """Return why the Node of this node is not ready, or None if the Node is ready or does not exist.

        Raises UnreachableError or RefusedError if the request fails.
        """
        from certmond.cluster.node_api import readiness_problem  # noqa: PLC0415 - needs the extra

        return readiness_problem(self._access, self._identity)

    def give_back(self, mark: str | None = None) -> None:
        """Release the lock, so that the next node can take it immediately.

        `mark` is the new reason in the mark of this node. "" removes the mark, and None leaves the mark unchanged. If
        the API server is unreachable, the next node waits until the Lease expires, and `settle` writes the mark.
        """
        held, record = self.held, self._written_record
        self._written_record = None
        self._unwritten_mark = self._unwritten_mark if mark is None else mark
        if held and record is not None:
            at = datetime.now(UTC)
            free = replace(record, holder="", seconds=1, acquired=at, renewed=at, mark=self._new_mark(record))
            with suppress(SigningError):
                if self._run(lambda api: api.replace(free)):
                    self._unwritten_mark = None
        self.settle()

    def settle(self) -> None:
        """Write the mark that `give_back` could not write. Never raises SigningError."""
        if self._unwritten_mark is not None:
            with suppress(SigningError):
                self._run(self._write_mark)

    async def _write_mark(self, api: Leases) -> None:
        for _ in range(_CONFLICTS):
            found = await api.read()
            if (
                found is None
                or found.mark == (mark := self._new_mark(found))
                or await api.replace(replace(found, mark=mark))
            ):
                self._unwritten_mark = None
                return

    def _new_mark(self, found: Record) -> str:
        """Return the mark of the Lease with the new reason of this node. The mark of another node stays.

        Return "" for no mark.
        """
        node, reason = found.mark.partition(": ")[0], self._unwritten_mark
        if reason is None or (found.mark and node != self._identity):
            return found.mark
        return f"{self._identity}: {reason[:_MAX_REASON]}" if reason else ""

    def _marked(self, found: Record | None) -> str | None:
        """Return why this node must wait for another node that has marked the Lease.

        Return None if no other node has marked the Lease.
        """
        node, _, reason = found.mark.partition(": ") if found else ("", "", "")
        if not node or node == self._identity:
            return None
        command = f"kubectl -n {self._namespace} annotate lease {self._name} {MARK}-"
        fact = f"{printable(node)} has no proof that a restart for a renewal was successful: {printable(reason)}"
        return (
            f"{fact}; on that node, repair the service and run `certmond restart SERVICE`, or remove the mark: "
            f"{command}"
        )

    def _waits(self, wanted: Waits) -> str:
        since = f" (since {wanted.since:%Y-%m-%dT%H:%M:%SZ})" if wanted.since else ""
        return f"{printable(wanted.holder)} holds {self}{since}; certmond waits for the release of the Lease"

    async def _take(self, api: Leases, *, renews: bool = False) -> str | None:
        found = await api.read()
        wanted = self._decision(found)
        if isinstance(wanted, Waits):
            self._written_record = None
            return self._waits(wanted)
        if renews and (marked := self._marked(found)):
            return marked
        if renews:
            wanted = replace(wanted, mark=f"{self._identity}: {_BEGUN}")
            self._unwritten_mark = None
        if await self._write(api, wanted):
            return None
        faster = self._decision(await api.read())
        self._written_record = None
        if isinstance(faster, Waits):
            return f"{printable(faster.holder)} has just taken {self}; certmond waits for the release of the Lease"
        return f"{self} changed before certmond could take it; certmond reads it again"

    async def _keep(self, record: Record, api: Leases) -> None:
        for _ in range(_CONFLICTS):
            if await self._write(api, replace(record, renewed=datetime.now(UTC))):
                return
            found = await api.read()
            if found is None or found.holder != self._identity:  # another node might have held the lock in the meantime
                self._written_record = None
                holder = printable(found.holder) if found and found.holder else "no node"
                raise LostError(
                    f"this node has lost the lock: {holder} holds {self} now; certmond tries to take it again"
                )
            record = self._written_record = (
                found  # written by a renewal without a response, or by another program: this node still holds the lock
            )
        raise UnreachableError(f"{self} changes too often for certmond to renew it; certmond tries again later")

    async def _write(self, api: Leases, wanted: Record) -> bool:
        began = self._monotonic()
        written = await (api.replace(wanted) if wanted.version else api.create(wanted))
        if written is None:
            return False
        self._written_record, self._began = written, began
        return True

    def _decision(self, found: Record | None) -> Record | Waits:
        # Read the clock after the response: a late time of the first read is safe, an early time is not.
        now = self._monotonic()
        if found != self._first_read[0]:
            self._first_read = (found, now)
        at = datetime.now(UTC)
        return decide(found, self._identity, self._seconds, seen=self._first_read[1], now=now, at=at)

    def _run(self, work: Callable[[Leases], Awaitable[T]]) -> T:
        async def call(connection: Connection) -> T:
            from certmond.cluster.lease_api import LeaseApi  # noqa: PLC0415 - needs the extra

            return await work(LeaseApi(connection, self._namespace, self._name))

        return self._access.run(call)

    def __str__(self) -> str:
        return f"the Lease {self._namespace}/{self._name}"
