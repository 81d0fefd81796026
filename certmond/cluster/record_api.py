"""The record of a rotation in the Kubernetes API: the ConfigMap kube-system/certmond-rotation.

Owns reading, making and replacing it. What is replaced is exactly what was read: the resource version goes with it, and
who comes second is told so. What is recorded is the caller's, and public (`record` sees to that). Imports lightkube.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap

from certmond.cluster.client import Connection, GoneError, TakenError
from certmond.cluster.connection import Access
from certmond.cluster.record import ClusterRecord, parse
from certmond.errors import MalformedError, OvertakenError, RefusedError

NAMESPACE, NAME = "kube-system", "certmond-rotation"
_KEY = "record"
_WHERE = f"the ConfigMap {NAMESPACE}/{NAME}"
_RULE = (
    f"a role of its user in {NAMESPACE} has to have apiGroups [''], resources [configmaps], resourceNames [{NAME}],"
    " verbs [get, update], and without resourceNames verbs [create]"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record as the API has it. `metadata` and `others` are the API's own, and go back to it as they came."""

    record: ClusterRecord
    metadata: Any = field(repr=False, compare=False)
    others: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


def read_record(access: Access) -> Recorded | None:
    """The record as it is now; None where there is none.

    Raises MalformedError where it cannot be understood, RefusedError, UnreachableError.
    """

    async def work(connection: Connection) -> Recorded | None:
        try:
            return await _call(connection, "read", lambda: connection.client.get(ConfigMap, NAME, namespace=NAMESPACE))
        except GoneError:
            return None

    return access.run(work)


def create_record(access: Access, record: ClusterRecord) -> Recorded:
    """The record, as it was made. Raises OvertakenError where there is one already, RefusedError, UnreachableError."""
    made = ConfigMap(metadata=ObjectMeta(name=NAME, namespace=NAMESPACE), data={_KEY: record.text()})

    async def work(connection: Connection) -> Recorded:
        try:
            return await _call(connection, "create", lambda: connection.client.create(made))
        except TakenError:
            raise OvertakenError(f"{_WHERE} is there already, made by somebody else; read it again") from None
        except GoneError:
            raise RefusedError(f"the cluster has no namespace {NAMESPACE}; see what answers there") from None

    return access.run(work)


def replace_record(access: Access, found: Recorded, record: ClusterRecord) -> Recorded:
    """The record, as it was written in place of `found`.

    Raises OvertakenError where somebody changed or deleted it since it was read, RefusedError, UnreachableError.
    """
    made = ConfigMap(metadata=found.metadata, data={**found.others, _KEY: record.text()})

    async def work(connection: Connection) -> Recorded:
        try:
            return await _call(connection, "update", lambda: connection.client.replace(made))
        except (TakenError, GoneError):
            raise OvertakenError(
                f"{_WHERE} was changed by somebody else since it was read; read it again, and decide anew"
            ) from None

    return access.run(work)


async def _call(connection: Connection, verb: str, call: Callable[[], Awaitable[ConfigMap]]) -> Recorded:
    made = await connection.call(f"{verb} {_WHERE}", _RULE, lambda: _versioned(call()))
    data = dict(made.data or {})
    if (text := data.pop(_KEY, None)) is None:
        raise MalformedError(f"{_WHERE} has no key {_KEY!r}; see who made it, and delete it")
    return Recorded(parse(text, _WHERE), made.metadata, data)


async def _versioned(answer: Awaitable[ConfigMap]) -> ConfigMap:
    """What has neither uid nor resource version would replace anything: then it is no Kubernetes API that answers."""
    found = await answer
    if found.metadata is None or not (found.metadata.uid and found.metadata.resourceVersion):
        raise ValueError
    return found
