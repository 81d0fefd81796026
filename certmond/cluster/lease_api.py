"""One Lease of coordination.k8s.io/v1 in the Kubernetes API.

The API server replaces only the version of the Lease that certmond has read. `lease_lock` decides which node holds the
Lease.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from certmond.cluster.client import ConflictError, Connection, NotFoundError
from certmond.cluster.lease_lock import MARK, Record
from certmond.errors import RefusedError

_RULE = "apiGroups [coordination.k8s.io], resources [leases], verbs [get, create, update]"

T = TypeVar("T")


class LeaseApi:
    """Calls to the API server for the Lease `name` in `namespace`.

    A call that fails raises RefusedError or UnreachableError.
    """

    def __init__(self, connection: Connection, namespace: str, name: str) -> None:
        self._connection = connection
        self._client = connection.client
        self._namespace = namespace
        self._name = name

    async def read(self) -> Record | None:
        """Return the Lease, or None if the Lease does not exist."""
        try:
            return await self._call(
                "read", lambda: _record(self._client.get(Lease, self._name, namespace=self._namespace))
            )
        except NotFoundError:
            return None

    async def create(self, record: Record) -> Record | None:
        """Create and return the Lease. Return None if the Lease already exists.

        Raises RefusedError if the namespace does not exist.
        """
        metadata = _marked(ObjectMeta(name=self._name, namespace=self._namespace), record.mark)
        made = Lease(metadata=metadata, spec=_spec(record))
        try:
            return await self._call("create", lambda: _record(self._client.create(made)))
        except ConflictError:
            return None
        except NotFoundError:
            fact = f"the cluster has no namespace {self._namespace}"
            raise RefusedError(f"{fact}; check `server` in the kubeconfig") from None

    async def replace(self, record: Record) -> Record | None:
        """Replace and return the Lease. Return None if another client has changed or deleted the Lease."""
        lease = Lease(metadata=_marked(record.metadata, record.mark), spec=_spec(record))
        try:
            return await self._call("update", lambda: _record(self._client.replace(lease)))
        except (ConflictError, NotFoundError):
            return None

    async def _call(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        doing = f"{verb} the Lease {self._namespace}/{self._name}"
        return await self._connection.call(doing, f"grant this user a role in {self._namespace} with {_RULE}", call)


def _spec(record: Record) -> LeaseSpec:
    return LeaseSpec(
        holderIdentity=record.holder,
        leaseDurationSeconds=record.seconds,
        acquireTime=_micro(record.acquired),
        renewTime=_micro(record.renewed),
        leaseTransitions=record.transitions,
    )


def _marked(metadata: ObjectMeta, mark: str) -> ObjectMeta:
    """Return the metadata with the annotation `mark`, or without this annotation if `mark` is empty."""
    others = {name: value for name, value in (metadata.annotations or {}).items() if name != MARK}
    made = copy.copy(metadata)
    made.annotations = (others | {MARK: mark} if mark else others) or None
    return made


def _micro(time: datetime | None) -> Any:
    """Return the time as a MicroTime, or None if `time` is None.

    The API server requires six decimal places, which lightkube omits for a whole second.
    """
    return time and f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


async def _record(answer: Awaitable[Any]) -> Record:
    found = await answer
    metadata, spec = found.metadata, found.spec or LeaseSpec()
    if not (metadata.uid and metadata.resourceVersion):  # without them, a replacement would overwrite any version
        raise ValueError
    return Record(
        holder=spec.holderIdentity or "",
        seconds=spec.leaseDurationSeconds,
        acquired=spec.acquireTime,
        renewed=spec.renewTime,
        transitions=spec.leaseTransitions or 0,
        version=metadata.resourceVersion,
        mark=(metadata.annotations or {}).get(MARK, ""),
        metadata=metadata,
    )
