"""One at a time among the nodes of a cluster: a Lease of coordination.k8s.io/v1, by its name.

Owns whose turn it is: the rules of client-go's leader election, applied to the Lease as it was read, and the fence by
which this node knows, from its own clock alone, that the turn is still its own. No time in the Lease is ever compared
with a clock of this node, since the clocks of nodes differ. What is done in a turn is the caller's.
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

from certmond.cluster.connection import Access
from certmond.errors import LostError, SigningError, UnreachableError
from certmond.pki.findings import printable

if TYPE_CHECKING:
    from certmond.cluster.client import Connection

_RENEWED_AFTER = 1 / 3  # of the duration: a renewal that fails is tried again, and again, before the turn is over
_HELD_FOR = 5 / 6  # of the duration: clocks may differ in speed by a fifth, and still no two nodes hold it
_CONFLICTS = 5  # as many times as client-go's retry.DefaultRetry tries

RESTART, ROTATION = "certmond-restart", "certmond-rotation"
"""The Leases of certmond: whose turn it is to restart something, and who leads a rotation."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """A Lease as the API has it, or as it is to be (`version` is empty then, if there is none yet).

    `metadata` is the API's own, and goes back to it as it came.
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
    """It is another's turn, and has been since `since` by that one's clock."""

    holder: str
    since: datetime | None


def decide(
    found: Record | None, identity: str, seconds: int, *, seen: float, now: float, at: datetime
) -> Record | Waits:
    """What is to be written so that it is the turn of `identity`, or who is waited for.

    `found` was read before `now`, and this very record was first seen at `seen`, both by our own monotonic clock. Of
    another's it is free once it has stayed the same for as long as it says, or for `seconds`, our own duration, where
    it says nothing. `at` is the time of day, for people.
    """
    if found is None:
        return Record(identity, seconds, acquired=at, renewed=at, transitions=0)
    if found.holder == identity:
        return replace(found, seconds=seconds, renewed=at)
    if found.holder and now - seen < (found.seconds or seconds):
        return Waits(found.holder, found.acquired)
    return replace(found, holder=identity, seconds=seconds, acquired=at, renewed=at, transitions=found.transitions + 1)


class Leases(Protocol):
    """One Lease in the API. Each call raises RefusedError or UnreachableError where the API does not do it."""

    async def read(self) -> Record | None:
        """The Lease as it is now; None where there is none."""

    async def create(self, record: Record) -> Record | None:
        """The Lease as it was made; None where there is one already."""

    async def replace(self, record: Record) -> Record | None:
        """The Lease as it was written; None where it is not any more what `record.version` says, or is gone."""


class ClusterLease:
    """The turn of this node at one thing, held by the Lease `name`: to restart things, or to lead a rotation.

    `kubeconfig` tells the path of one, at each call of the API and not before; it may raise RefusedError.
    `identity` is the node's name: no two nodes may have the same. `duration` is how long a node that has gone silent
    is waited for; the Lease says it in whole seconds, at least one. A call of the API takes `time_limit` at most, and
    `alive` is called every second at least meanwhile; what it raises passes through. `monotonic` is a clock, in
    seconds, that nobody sets. One thread uses it.
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
        self._seen: tuple[Record | None, float] = (None, 0.0)
        self._ours: Record | None = None  # as it was last written
        self._began = 0.0  # when that was, by our clock, before the request left

    @property
    def held(self) -> bool:
        """Whether no other node can have the turn yet, by our own clock: the fence, asked right before each act."""
        return self._ours is not None and self._monotonic() - self._began < self._duration * _HELD_FOR

    def take(self) -> str | None:
        """None: the turn is ours, taken or renewed just now. Else the sentence why not.

        Raises UnreachableError and RefusedError; what was held before is then held for the rest of its time.
        """
        return self._run(self._take)

    def keep(self) -> None:
        """Renew, if a third of the duration has passed since that was done last.

        Raises LostError where the turn is not ours, UnreachableError and RefusedError where that could not be learned.
        """
        if self._ours is None:
            raise LostError(f"{self} is not held by this node; it has to be taken first")
        if self._monotonic() - self._began >= self._duration * _RENEWED_AFTER:
            self._run(partial(self._keep, self._ours))

    def give_back(self) -> None:
        """Let the next node have its turn at once, if the turn is held; if the API is away, that node waits instead."""
        held, ours = self.held, self._ours
        self._ours = None
        if held and ours is not None:
            at = datetime.now(UTC)
            free = replace(ours, holder="", seconds=1, acquired=at, renewed=at)
            with suppress(SigningError):
                self._run(lambda api: api.replace(free))

    async def _take(self, api: Leases) -> str | None:
        wanted = self._decided(await api.read())
        if isinstance(wanted, Waits):
            self._ours = None
            since = f" since {wanted.since:%Y-%m-%dT%H:%M:%SZ}" if wanted.since else ""
            return f"{printable(wanted.holder)} holds {self}{since}; it is waited for"
        if await self._written(api, wanted):
            return None
        faster = self._decided(await api.read())
        self._ours = None
        if isinstance(faster, Waits):
            return f"{self} was taken by {printable(faster.holder)} a moment ago; it is waited for"
        return f"{self} was changed while it was being taken; it is looked at again"

    async def _keep(self, ours: Record, api: Leases) -> None:
        for _ in range(_CONFLICTS):
            if await self._written(api, replace(ours, renewed=datetime.now(UTC))):
                return
            found = await api.read()
            if found is None or found.holder != self._identity:  # deleted or free, it may have been another's meanwhile
                self._ours = None
                holder = printable(found.holder) if found and found.holder else "nobody"
                raise LostError(f"the turn was lost, {holder} holds {self} now; it has to be taken anew")
            ours = self._ours = found  # by a renewal whose answer never came, or by another hand: ours still
        raise UnreachableError(f"{self} is being changed all the time; it is renewed later")

    async def _written(self, api: Leases, wanted: Record) -> bool:
        began = self._monotonic()
        written = await (api.replace(wanted) if wanted.version else api.create(wanted))
        if written is None:
            return False
        self._ours, self._began = written, began
        return True

    def _decided(self, found: Record | None) -> Record | Waits:
        # The clock is read after the answer came: to have seen a record too late is safe, too early is not.
        now = self._monotonic()
        if found != self._seen[0]:
            self._seen = (found, now)
        at = datetime.now(UTC)
        return decide(found, self._identity, self._seconds, seen=self._seen[1], now=now, at=at)

    def _run(self, work: Callable[[Leases], Awaitable[T]]) -> T:
        async def call(connection: Connection) -> T:
            from certmond.cluster.lease_api import LeaseApi  # noqa: PLC0415 - needs lightkube, which may not be there

            return await work(LeaseApi(connection, self._namespace, self._name))

        return self._access.run(call)

    def __str__(self) -> str:
        return f"the Lease {self._namespace}/{self._name}"
