"""Leases of coordination.k8s.io/v1 for the API server of these tests, by the API's own rules.

It follows pkg/registry/coordination/lease, pkg/apis/coordination/validation and the generic registry's Update: a Lease
is never updated without a resource version, a PUT creates a missing one unless it has a uid, and a MicroTime has six
digits.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

LEASES = "/apis/coordination.k8s.io/v1/namespaces"
MICRO_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)"

Json = dict[str, Any]


class LeaseStore:
    """A test reads and changes `objects`, by namespace and name, under the server's lock or while no call is made."""

    def __init__(self, changed: Callable[[Json], None]) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.namespaces = {"kube-system"}
        self._changed = changed

    @property
    def only(self) -> Json:
        (made,) = self.objects.values()
        return made

    def change(self, **spec: Any) -> None:
        """Change the Lease as an operator does with kubectl."""
        self.only["spec"] |= spec
        self._changed(self.only)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Json]:
        namespace, kind, *rest = path.removeprefix(LEASES).strip("/").split("/")
        if kind != "leases":
            return status(404, "the server could not find the requested resource", "NotFound")
        match method, rest:
            case "GET", [name]:
                found = self.objects.get((namespace, name))
                return (200, copy.deepcopy(found)) if found else _not_found("leases.coordination.k8s.io", name)
            case "POST", []:
                return self._create(namespace, json.loads(body))
            case "PUT", [name]:
                return self._update(namespace, name, json.loads(body))
            case _:
                return status(405, "the server does not allow this method on the requested resource")

    def _create(self, namespace: str, given: Json) -> tuple[int, Json]:
        key = (namespace, given["metadata"].get("name", ""))
        if (wrong := _wrong(given, *key)) is not None:
            return wrong
        if namespace not in self.namespaces:
            return _not_found("namespaces", namespace)
        if key in self.objects:
            return status(409, f'leases.coordination.k8s.io "{key[1]}" already exists', "AlreadyExists")
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        given["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now}
        self._changed(given)
        self.objects[key] = given
        return 201, copy.deepcopy(given)

    def _update(self, namespace: str, name: str, given: Json) -> tuple[int, Json]:
        found, metadata = self.objects.get((namespace, name)), given["metadata"]
        if (wrong := _wrong(given, namespace, name)) is not None:
            return wrong
        known = found["metadata"] if found else {"uid": ""}
        if metadata.get("uid") and metadata["uid"] != known["uid"]:
            return _conflict(name, f"Precondition failed: UID in precondition: {metadata['uid']}")
        if found is None:
            return self._create(namespace, given)
        if not metadata.get("resourceVersion"):
            message = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
            return status(422, message, "Invalid")
        if metadata["resourceVersion"] != known["resourceVersion"]:
            return _conflict(name, "the object has been modified; please apply your changes to the latest version")
        found["metadata"] = metadata | {key: known[key] for key in ("uid", "creationTimestamp", "namespace")}
        found["spec"] = given.get("spec", {})
        self._changed(found)
        return 200, copy.deepcopy(found)


def _wrong(given: Json, namespace: str, name: str) -> tuple[int, Json] | None:
    """Return the error of the decoder, of the request's address, or of ValidateLeaseSpec."""
    metadata, spec = given["metadata"], given.get("spec", {})
    for field in ("acquireTime", "renewTime"):
        if spec.get(field) is not None and not re.fullmatch(MICRO_TIME, spec[field]):
            return status(400, f'parsing time "{spec[field]}" as "2006-01-02T15:04:05.000000Z07:00"', "BadRequest")
    if metadata.get("namespace", namespace) != namespace or metadata.get("name") != name or not name:
        return status(400, "name or namespace of the provided object does not match the request", "BadRequest")
    if spec.get("leaseDurationSeconds", 1) <= 0:
        return status(422, "spec.leaseDurationSeconds: Invalid value: must be greater than 0", "Invalid")
    if spec.get("leaseTransitions", 0) < 0:
        return status(422, "spec.leaseTransitions: Invalid value: must be greater than or equal to 0", "Invalid")
    return None


def _not_found(kind: str, name: str) -> tuple[int, Json]:
    return status(404, f'{kind} "{name}" not found', "NotFound")


def _conflict(name: str, message: str) -> tuple[int, Json]:
    return status(409, f'Operation cannot be fulfilled on leases.coordination.k8s.io "{name}": {message}', "Conflict")


def status(code: int, message: str, reason: str = "") -> tuple[int, Json]:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason,
                  "code": code}  # fmt: skip
