"""A lock among the nodes of a cluster: a Lease of coordination.k8s.io/v1.

The rules are those of client-go's leader election. A node decides only by its own clock whether it still holds the
Lease. certmond never compares a time in the Lease with this node's clock, because the clocks of nodes differ. The
caller decides what the lock protects.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from certmond.cluster.access import Access
from certmond.errors import LostError, SigningError, UnreachableError
from certmond.pki.findings import printable

if TYPE_CHECKING:
    from certmond.cluster.client import Connection

_RENEWED_AFTER = 1 / 3  # of the duration: leaves time to retry a renewal that fails
_HELD_FOR = 5 / 6  # of the duration: no two nodes hold it, even if their clocks differ in speed by a fifth
_CONFLICTS = 5  # the number of attempts of client-go's retry.DefaultRetry

RESTART, ROTATION = "certmond-restart", "certmond-rotation"
"""Names of certmond's Leases: the lock for restarts, and the lock of the coordinator of a rotation."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """Content of a Lease that certmond has read or will write. `version` is empty if the API has no Lease yet.

    `metadata` comes from the API. certmond writes `metadata` without a change.
    """

    holder: str
    seconds: int | None
    acquired: datetime | None
    renewed: datetime | None
    transitions: int
    version: str = ""
    metadata: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Waits:
    """Result of `decide` if the node `holder` holds the Lease, since `since` by the clock of that node."""

    holder: str
    since: datetime | None


def decide(
    found: Record | None, identity: str, seconds: int, *, seen: float, now: float, at: datetime
) -> Record | Waits:
    """Return the Lease that `identity` must write to hold it, or a Waits if another node holds the Lease.

    This node first read the content `found` at `seen`, and the present time is `now`, both by the monotonic clock. A
    Lease of another node is free if its content has not changed for its duration. If it has no duration, the duration
    is `seconds`. certmond writes the time of day `at` to the Lease for the operator.
    """
    if found is None:
        return Record(identity, seconds, acquired=at, renewed=at, transitions=0)
    if found.holder == identity:
        return replace(found, seconds=seconds, renewed=at)
    if found.holder and now - seen < (found.seconds or seconds):
        return Waits(found.holder, found.acquired)
    return replace(found, holder=identity, seconds=seconds, acquired=at, renewed=at, transitions=found.transitions + 1)


class Leases(Protocol):
    """Calls of the API for one Lease. A call raises RefusedError or UnreachableError if the API does not execute it."""

    async def read(self) -> Record | None:
        """Return the current Lease, or None if the Lease does not exist."""

    async def create(self, record: Record) -> Record | None:
        """Create the Lease and return it, or None if the Lease exists."""

    async def replace(self, record: Record) -> Record | None:
        """Replace the Lease and return the new Lease.

        Return None if another client has deleted the Lease or changed it since `record.version`.
        """


class ClusterLease:
    """A lock among nodes, by the Lease `name`: for restarts, or for the coordination of a rotation.

    `kubeconfig` returns the path of a kubeconfig at each call of the API, and may raise RefusedError. `identity` is the
    node's name, which must be unique. Other nodes wait for `duration` after the last renewal by the holder. The Lease
    contains this duration in whole seconds, at least one. A call of the API takes at most `time_limit`. During a call,
    certmond calls `alive` at least every second. The exceptions of `alive` reach the caller. `monotonic` returns the
    seconds of a clock that cannot be set. Only one thread may use a ClusterLease.
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

    @property
    def held(self) -> bool:
        """Return whether this node still holds the lock, by its own clock. Check this property before each action."""
        return self._written_record is not None and self._monotonic() - self._began < self._duration * _HELD_FOR

    def take(self) -> str | None:
        """Take or renew the lock. Return None, or the reason, as a sentence, for which this node does not hold it.

        Raises UnreachableError and RefusedError. After one of these errors, a node that held the lock before still
        holds the lock for the rest of its duration.
        """
        return self._run(self._take)

    def keep(self) -> None:
        """Renew the lock, if a third of the duration has passed since the last renewal.

        Raises LostError if this node does not hold the lock. Raises UnreachableError and RefusedError if the API does
        not execute the renewal.
        """
        if self._written_record is None:
            raise LostError(f"this node does not hold {self}; take it first")
        if self._monotonic() - self._began >= self._duration * _RENEWED_AFTER:
            self._run(partial(self._keep, self._written_record))

    def give_back(self) -> None:
        """Release the lock, so that the next node can take it at once.

        If the API is unreachable, the next node waits until the Lease expires.
        """
        held, record = self.held, self._written_record
        self._written_record = None
        if held and record is not None:
            at = datetime.now(UTC)
            free = replace(record, holder="", seconds=1, acquired=at, renewed=at)
            with suppress(SigningError):
                self._run(lambda api: api.replace(free))

    async def _take(self, api: Leases) -> str | None:
        wanted = self._decision(await api.read())
        if isinstance(wanted, Waits):
            self._written_record = None
            since = f" since {wanted.since:%Y-%m-%dT%H:%M:%SZ}" if wanted.since else ""
            return f"{printable(wanted.holder)} holds {self}{since}; certmond waits for its release"
        if await self._write(api, wanted):
            return None
        faster = self._decision(await api.read())
        self._written_record = None
        if isinstance(faster, Waits):
            return f"{printable(faster.holder)} has just taken {self}; certmond waits for its release"
        return f"{self} changed before certmond could take it; certmond reads it again"

    async def _keep(self, record: Record, api: Leases) -> None:
        for _ in range(_CONFLICTS):
            if await self._write(api, replace(record, renewed=datetime.now(UTC))):
                return
            found = await api.read()
            if found is None or found.holder != self._identity:  # another node may have held it meanwhile
                self._written_record = None
                holder = printable(found.holder) if found and found.holder else "no node"
                raise LostError(f"this node has lost the lock: {holder} holds {self} now; certmond takes it again")
            record = self._written_record = (
                found  # a renewal without an answer, or another program, wrote it: still held
            )
        raise UnreachableError(f"{self} changes too often to be renewed; certmond renews it later")

    async def _write(self, api: Leases, wanted: Record) -> bool:
        began = self._monotonic()
        written = await (api.replace(wanted) if wanted.version else api.create(wanted))
        if written is None:
            return False
        self._written_record, self._began = written, began
        return True

    def _decision(self, found: Record | None) -> Record | Waits:
        # Read the clock after the answer: a late time of the first read is safe, an early one is not.
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
