"""Restart of workloads in batches, as by `kubectl rollout restart`, until each workload has only new Pods.

The annotation and the rule for completion are those of kubectl. `stale_workloads` selects the workloads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

from lightkube.types import PatchType

from certmond.cluster.api_access import Access
from certmond.cluster.client import ConflictError, Connection, NotFoundError
from certmond.cluster.stale_workloads import KINDS, Workload, why_not_restarted
from certmond.errors import UnreachableError
from certmond.immutable_class import immutable

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"

_POLL_INTERVAL = 0.5  # seconds


class Outcome(StrEnum):
    """Result of a restart."""

    DONE = "done"
    UNDER_WAY = "under way"
    FAILED = "failed"
    NOT_RESTARTED = "not restarted"


@immutable
class Rollout:
    """Result of the restart of one workload. `fact` is a phrase that follows the workload's name."""

    workload: Workload
    outcome: Outcome
    fact: str


def restart_workloads(
    access: Access,
    workloads: Sequence[Workload],
    since: datetime,
    at: datetime,
    *,
    batch: int = 5,
    limit: timedelta = timedelta(minutes=10),
) -> tuple[Rollout, ...]:
    """Restart the workloads, `batch` at a time, and return the results. `at` is the present time.

    Do not restart a workload that was restarted at `since` or later, or that would keep old Pods after a restart. Stop
    after a batch in which a restart fails or does not complete within `limit`. Raises RefusedError if the API server
    rejects a call, and UnreachableError if a restart could not begin.
    """

    async def work(connection: Connection) -> tuple[Rollout, ...]:
        rest, made = iter(workloads), list[Rollout]()
        while some := tuple(islice(rest, max(batch, 1))):
            begun = [await _start(connection, each, since.replace(microsecond=0), at) for each in some]
            made += await _wait_for_batch(connection, begun, limit.total_seconds())
            if any(each.outcome in {Outcome.UNDER_WAY, Outcome.FAILED} for each in made):
                break
        return tuple(made)

    return access.run(work)


async def _start(connection: Connection, workload: Workload, since: datetime, at: datetime) -> Rollout:
    try:
        found = await _get(connection, workload)
        if reason := why_not_restarted(workload.kind, found.spec):
            return Rollout(workload, Outcome.NOT_RESTARTED, reason)
        if _restarted(found) < since:
            await _patch(connection, workload, max(at, since))
    except NotFoundError:
        return Rollout(workload, Outcome.DONE, "was deleted")
    return Rollout(workload, Outcome.UNDER_WAY, "has not reported its status since")


async def _wait_for_batch(connection: Connection, begun: list[Rollout], seconds: float) -> list[Rollout]:
    """Wait at most `seconds` for the batch, and return the results of the batch."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while any(each.outcome is Outcome.UNDER_WAY for each in begun):
                for number, each in enumerate(begun):
                    if each.outcome is Outcome.UNDER_WAY:
                        begun[number] = await _progress(connection, each)
                if any(each.outcome is Outcome.UNDER_WAY for each in begun):
                    await asyncio.sleep(_POLL_INTERVAL)
    return begun


async def _progress(connection: Connection, rollout: Rollout) -> Rollout:
    workload = rollout.workload
    try:
        found = await _get(connection, workload)
    except NotFoundError:
        return Rollout(workload, Outcome.DONE, "was deleted")
    except UnreachableError:
        return rollout
    if found.status is None or (found.status.observedGeneration or 0) < found.metadata.generation:
        return Rollout(workload, Outcome.UNDER_WAY, "waits for its controller")
    conditions = getattr(found.status, "conditions", None) or ()
    if any(each.type == "Progressing" and each.reason == "ProgressDeadlineExceeded" for each in conditions):
        return Rollout(workload, Outcome.FAILED, "makes no progress (ProgressDeadlineExceeded)")
    if missing := _missing(workload.kind, found):
        return Rollout(workload, Outcome.UNDER_WAY, missing)
    return Rollout(workload, Outcome.DONE, "has only new Pods")


def _missing(kind: str, found: Any) -> str:
    """Return why the rollout is incomplete, as a phrase that follows the workload's name, or "" for a complete rollout.

    The rules are those of kubectl (polymorphichelpers/rollout_status.go).
    """
    status = found.status
    if kind == "DaemonSet":
        wanted = status.desiredNumberScheduled
        updated, available = status.updatedNumberScheduled or 0, status.numberAvailable or 0
    else:
        wanted = 1 if found.spec.replicas is None else found.spec.replicas
        updated, available = status.updatedReplicas or 0, status.availableReplicas or 0
    if updated < wanted:
        return f"has {updated} new Pods, but needs {wanted}"
    if kind == "Deployment" and (status.replicas or 0) > updated:
        return f"still has {status.replicas - updated} old Pods"
    if available < wanted:
        return f"has {available} available Pods, but needs {wanted}"
    if kind == "StatefulSet" and status.updateRevision != status.currentRevision:
        return "still has Pods of the old revision"
    return ""


def _restarted(found: Any) -> datetime:
    template = found.spec.template.metadata
    text = ((template and template.annotations) or {}).get(RESTARTED_AT, "")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


async def _get(connection: Connection, workload: Workload) -> Any:
    resource: Any = KINDS[workload.kind]
    return await connection.call(
        f"read the {workload}",
        _rule(workload, "get"),
        lambda: connection.client.get(resource, workload.name, namespace=workload.namespace),
    )


async def _patch(connection: Connection, workload: Workload, at: datetime) -> None:
    resource: Any = KINDS[workload.kind]
    text = f"{(at + timedelta(microseconds=999_999)).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"  # not before `at`
    patch = {"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: text}}}}}
    try:
        await connection.call(
            f"restart the {workload}",
            _rule(workload, "patch"),
            lambda: connection.client.patch(
                resource, workload.name, patch, namespace=workload.namespace, patch_type=PatchType.MERGE
            ),
        )
    except ConflictError:  # the API server retries a patch several times first
        raise UnreachableError(
            f"the {workload} changes too often for certmond to restart it; certmond tries again later"
        ) from None


def _rule(workload: Workload, verb: str) -> str:
    plural = f"{workload.kind.lower()}s"
    return f"grant this user a cluster role with apiGroups [apps], resources [{plural}], verbs [{verb}]"
