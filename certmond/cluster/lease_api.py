"""A Lease of coordination.k8s.io/v1 in the Kubernetes API: read, made, and replaced by what follows from it.

Owns the form in which the API takes a Lease, and the compare-and-swap: whatever is replaced carries the uid and the
resource version of what was read, so that it replaces that and nothing else. Whose turn it is, is the caller's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from certmond.cluster.client import Connection, GoneError, TakenError
from certmond.cluster.lease import Record
from certmond.errors import RefusedError

_RULE = "apiGroups [coordination.k8s.io], resources [leases], verbs [get, create, update]"

T = TypeVar("T")


class LeaseApi:
    """One Lease, by its namespace and name; the calls of `certmond.cluster.lease.Leases`."""

    def __init__(self, connection: Connection, namespace: str, name: str) -> None:
        self._connection = connection
        self._client = connection.client
        self._namespace = namespace
        self._name = name

    async def read(self) -> Record | None:
        """The Lease as it is now; None where there is none."""
        try:
            return await self._call(
                "read", lambda: _record(self._client.get(Lease, self._name, namespace=self._namespace))
            )
        except GoneError:
            return None

    async def create(self, record: Record) -> Record | None:
        """The Lease as it was made; None where there is one already."""
        made = Lease(metadata=ObjectMeta(name=self._name, namespace=self._namespace), spec=_spec(record))
        try:
            return await self._call("create", lambda: _record(self._client.create(made)))
        except TakenError:
            return None
        except GoneError:
            remedy = "make it, or name another for the Lease"
            raise RefusedError(f"the cluster has no namespace {self._namespace}; {remedy}") from None

    async def replace(self, record: Record) -> Record | None:
        """The Lease as it was written; None where it is not any more what `record.version` says, or is gone."""
        lease = Lease(metadata=record.metadata, spec=_spec(record))
        try:
            return await self._call("update", lambda: _record(self._client.replace(lease)))
        except (TakenError, GoneError):
            return None

    async def _call(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        doing = f"{verb} the Lease {self._namespace}/{self._name}"
        return await self._connection.call(doing, f"a role of its user in {self._namespace} has to have {_RULE}", call)


def _spec(record: Record) -> LeaseSpec:
    return LeaseSpec(
        holderIdentity=record.holder,
        leaseDurationSeconds=record.seconds,
        acquireTime=_micro(record.acquired),
        renewTime=_micro(record.renewed),
        leaseTransitions=record.transitions,
    )


def _micro(time: datetime | None) -> Any:
    """The API takes a MicroTime with six digits and no others; lightkube would leave six zeros away."""
    return time and f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


async def _record(answer: Awaitable[Any]) -> Record:
    found = await answer
    metadata, spec = found.metadata, found.spec or LeaseSpec()
    if not (metadata.uid and metadata.resourceVersion):  # without them, the API would replace anything, or make it anew
        raise ValueError
    return Record(
        holder=spec.holderIdentity or "",
        seconds=spec.leaseDurationSeconds,
        acquired=spec.acquireTime,
        renewed=spec.renewTime,
        transitions=spec.leaseTransitions or 0,
        version=metadata.resourceVersion,
        metadata=metadata,
    )
