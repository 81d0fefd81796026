"""Storage of a rotation's record in the ConfigMap kube-system/certmond-rotation.

A replacement never overwrites the change of another client. `record` defines the content of the record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any, TypeVar

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap

from certmond.cluster.api_access import Access
from certmond.cluster.client import ConflictError, Connection, NotFoundError
from certmond.cluster.record import ClusterRecord, parse
from certmond.errors import MalformedError, OvertakenError, RefusedError
from certmond.immutable_class import immutable

NAMESPACE, NAME = "kube-system", "certmond-rotation"
_KEY = "record"
_WHERE = f"the ConfigMap {NAMESPACE}/{NAME}"
_RULE = (
    f"grant this user a role in {NAMESPACE} with apiGroups [''], resources [configmaps], resourceNames [{NAME}],"
    " verbs [get, update], and with apiGroups [''], resources [configmaps], verbs [create]"
)

T = TypeVar("T")


@immutable
class Recorded:
    """A record in the ConfigMap.

    certmond writes `metadata` and `others`, the other keys of the ConfigMap, unchanged.
    """

    record: ClusterRecord
    metadata: Any = field(repr=False, compare=False)
    others: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


def read_record(access: Access) -> Recorded | None:
    """Return the record, or None if the ConfigMap does not exist.

    Raises MalformedError if the record is invalid, and RefusedError or UnreachableError if the call fails.
    """

    async def work(connection: Connection) -> Recorded | None:
        try:
            return await _call(connection, "read", lambda: connection.client.get(ConfigMap, NAME, namespace=NAMESPACE))
        except NotFoundError:
            return None

    return access.run(work)


def create_record(access: Access, record: ClusterRecord) -> Recorded:
    """Create and return the record.

    Raises OvertakenError if a record exists, and RefusedError or UnreachableError if the call fails.
    """
    made = ConfigMap(metadata=ObjectMeta(name=NAME, namespace=NAMESPACE), data={_KEY: record.text()})

    async def work(connection: Connection) -> Recorded:
        try:
            return await _call(connection, "create", lambda: connection.client.create(made))
        except ConflictError:
            raise OvertakenError(f"another client has created {_WHERE}; certmond reads it again") from None
        except NotFoundError:
            raise RefusedError(f"the cluster has no namespace {NAMESPACE}; check `server` in the kubeconfig") from None

    return access.run(work)


def replace_record(access: Access, found: Recorded, record: ClusterRecord) -> Recorded:
    """Replace the record `found` and return the new record.

    Raises OvertakenError if another client has changed or deleted `found`, and RefusedError or UnreachableError if the
    call fails.
    """
    made = ConfigMap(metadata=found.metadata, data={**found.others, _KEY: record.text()})

    async def work(connection: Connection) -> Recorded:
        try:
            return await _call(connection, "update", lambda: connection.client.replace(made))
        except (ConflictError, NotFoundError):
            raise OvertakenError(
                f"another client has changed or deleted {_WHERE} since certmond read it; certmond reads it again"
            ) from None

    return access.run(work)


async def _call(connection: Connection, verb: str, call: Callable[[], Awaitable[ConfigMap]]) -> Recorded:
    made = await connection.call(f"{verb} {_WHERE}", _RULE, lambda: _versioned(call()))
    data = dict(made.data or {})
    if (text := data.pop(_KEY, None)) is None:
        raise MalformedError(
            f"{_WHERE} contains no key {_KEY!r}; find the client that wrote the ConfigMap, then run: "
            f"kubectl -n {NAMESPACE} delete configmap {NAME}"
        )
    return Recorded(parse(text, _WHERE), made.metadata, data)


async def _versioned(answer: Awaitable[ConfigMap]) -> ConfigMap:
    """Return the ConfigMap in the response of the API server.

    Raises ValueError if the uid or the resource version is missing. Without these fields, a replacement would overwrite
    any version.
    """
    found = await answer
    if found.metadata is None or not (found.metadata.uid and found.metadata.resourceVersion):
        raise ValueError
    return found
