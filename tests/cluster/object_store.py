"""Objects of any kind for the API server of these tests, by the rules of its generic registry.

It follows k8s.io/apiserver's registry/generic/registry and endpoints/handlers. A name in use is a conflict (409). An
update or patch with another uid or resource version than the object's is a conflict (409), and one without them is not.
An empty change keeps the version, and a page that is fetched too late gets 410. `spec` of workloads has a
generation. An event is in the namespace of its object, or in `default` (pkg/apis/core/validation/events.go).
"""

from __future__ import annotations

import base64
import copy
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.cluster.lease_store import status
from tests.cluster.rbac import node_restriction

Json = dict[str, Any]

_ADMISSION, _APPS = "admissionregistration.k8s.io", "apps"
_KINDS = {
    ("", "configmaps"): "ConfigMap",
    ("", "events"): "Event",
    ("", "namespaces"): "Namespace",
    ("", "nodes"): "Node",
    ("", "pods"): "Pod",
    ("", "secrets"): "Secret",
    ("", "serviceaccounts"): "ServiceAccount",
    (_APPS, "daemonsets"): "DaemonSet",
    (_APPS, "deployments"): "Deployment",
    (_APPS, "replicasets"): "ReplicaSet",
    (_APPS, "statefulsets"): "StatefulSet",
    (_ADMISSION, "mutatingwebhookconfigurations"): "MutatingWebhookConfiguration",
    (_ADMISSION, "validatingwebhookconfigurations"): "ValidatingWebhookConfiguration",
    ("certificates.k8s.io", "clustertrustbundles"): "ClusterTrustBundle",
    ("apiextensions.k8s.io", "customresourcedefinitions"): "CustomResourceDefinition",
    ("apiregistration.k8s.io", "apiservices"): "APIService",
}
_GLOBAL = {"namespaces", "nodes", "mutatingwebhookconfigurations", "validatingwebhookconfigurations",
           "customresourcedefinitions", "apiservices", "clustertrustbundles"}  # fmt: skip
_SELECTABLE = {"metadata.name", "metadata.namespace", "type", "status.phase", "spec.nodeName", "spec.signerName"}


class ObjectStore:
    """A test puts objects in with `add`, reads them with `get`, and changes them with `change`.

    `controllers` are called with resource and object after each write, like fast controllers. `before_write` is called
    before a write is checked, and represents a concurrent change.
    """

    def __init__(self, changed: Callable[[Json], None]) -> None:
        self._changed = changed
        self._objects: dict[tuple[str, str, str, str], Json] = {}
        self.controllers: list[Callable[[str, Json], None]] = []
        self.before_write: Callable[[], None] = lambda: None
        self.pages = 0
        self.forgets_pages = False
        self.missing: set[str] = set()  # resources that this cluster does not have
        for name in ("default", "kube-public", "kube-system"):
            self.add("namespaces", name)

    def add(self, resource: str, name: str, namespace: str = "", **content: Any) -> Json:
        """Make an object. `metadata` in `content` is added to the API's own."""
        group = next(group for group, plural in _KINDS if plural == resource)
        made = {
            **copy.deepcopy(content),
            "apiVersion": f"{group}/v1".removeprefix("/"),
            "kind": _KINDS[group, resource],
            "metadata": {"name": name, **copy.deepcopy(content.get("metadata", {}))},
        }
        if namespace:
            made["metadata"]["namespace"] = namespace
        code, answer = self._create(group, resource, namespace, made)
        assert code == 201, answer
        return self.get(resource, name, namespace)

    def get(self, resource: str, name: str, namespace: str = "") -> Json:
        """The object itself, not a copy."""
        (found,) = [each for key, each in self._objects.items() if key[1:] == (resource, namespace, name)]
        return found

    def every(self, resource: str) -> list[Json]:
        """The objects of this kind, in the order in which they were made."""
        return [each for key, each in self._objects.items() if key[1] == resource]

    def change(self, found: Json) -> None:
        """Set a new resource version, after a test changed the object in place."""
        self._changed(found)

    def remove(self, resource: str, name: str, namespace: str = "") -> None:
        (key,) = [key for key in self._objects if key[1:] == (resource, namespace, name)]
        del self._objects[key]

    def answer(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "",
        user: str = "",
    ) -> tuple[int, Json]:
        parts = path.strip("/").split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        namespace = rest.pop(1) if rest[0] == "namespaces" and len(rest) > 2 else ""
        if namespace:
            rest.pop(0)
        resource, name = rest[0], "/".join(rest[1:])
        if resource == "nodes" and name.endswith("/status"):
            return self._patch_status(name.removesuffix("/status"), json.loads(body), content_type)
        if (group, resource) not in _KINDS or resource in self.missing or "/" in name:
            return status(404, "the server could not find the requested resource", "NotFound")
        if method == "GET" and not name:
            return self._list(group, resource, namespace, query or {})
        key = (group, resource, namespace, name)
        if method != "GET":
            self.before_write()
        if method == "POST":
            return self._create(group, resource, namespace, json.loads(body))
        if (found := self._objects.get(key)) is None:
            return status(404, f'{resource} "{name}" not found', "NotFound")
        match method:
            case "GET":
                return 200, copy.deepcopy(found)
            case "PUT":
                return self._replace(key, found, json.loads(body), user)
            case "PATCH":
                try:
                    patched = _patched(found, json.loads(body), content_type)
                except (LookupError, ValueError, TypeError) as error:
                    return status(422, f"the server rejected our request due to an error in our request: {error}")
                return self._replace(key, found, patched, user)
            case _:
                return status(405, "the server does not allow this method on the requested resource")

    def _patch_status(self, name: str, patch: Any, content_type: str) -> tuple[int, Json]:
        """Merge the conditions of a Node by their type, as a strategic merge patch does."""
        found = self._objects.get(("", "nodes", "", name))
        if found is None:
            return status(404, f'nodes "{name}" not found', "NotFound")
        if content_type != "application/strategic-merge-patch+json":
            return status(415, "the body of the request was in an unknown format")
        conditions = {each["type"]: each for each in found.setdefault("status", {}).get("conditions", [])}
        for each in patch["status"]["conditions"]:
            conditions[each["type"]] = conditions.get(each["type"], {}) | each
        found["status"]["conditions"] = list(conditions.values())
        self._changed(found)
        return 200, copy.deepcopy(found)

    def _create(self, group: str, resource: str, namespace: str, made: Json) -> tuple[int, Json]:
        metadata = made["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        if metadata.get("resourceVersion"):
            return status(422, "metadata.resourceVersion: must not be set on create", "Invalid")
        if resource not in _GLOBAL and not any(key[1:] == ("namespaces", "", namespace) for key in self._objects):
            return status(404, f'namespaces "{namespace}" not found', "NotFound")
        if resource == "events" and made["involvedObject"].get("namespace", "default") != namespace:
            return status(422, "involvedObject.namespace: Invalid value: does not match event.namespace", "Invalid")
        key = (group, resource, namespace, metadata["name"])
        if key in self._objects:
            return status(409, f'{resource} "{key[3]}" already exists', "AlreadyExists")
        metadata |= {"uid": str(uuid.uuid4()), "generation": 1}
        metadata.setdefault("creationTimestamp", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        if namespace:
            metadata["namespace"] = namespace
        self._changed(made)
        self._objects[key] = made
        self._written(resource, made)
        return 201, copy.deepcopy(made)

    def _replace(self, key: tuple[str, str, str, str], found: Json, given: Json, user: str) -> tuple[int, Json]:
        known, metadata = found["metadata"], given["metadata"]
        if (metadata.get("name"), metadata.get("namespace", "")) != (key[3], key[2]):
            return status(400, "the name of the object does not match the name on the URL", "BadRequest")
        for field in ("uid", "resourceVersion"):
            if metadata.get(field) and metadata[field] != known[field]:
                message = "the object has been modified; please apply your changes to the latest version and try again"
                return status(409, f'Operation cannot be fulfilled on {key[1]} "{key[3]}": {message}', "Conflict")
        if key[1] == "nodes" and (reason := node_restriction(user, found, given)):
            return status(403, f'nodes "{key[3]}" is forbidden: {reason}', "Forbidden")
        own = ("uid", "resourceVersion", "creationTimestamp", "generation")
        made = given | {"metadata": metadata | {field: known[field] for field in own}}
        if made != found:
            if made.get("spec") != found.get("spec"):
                made["metadata"]["generation"] += 1
            self._changed(made)
            self._objects[key] = made
            self._written(key[1], made)
        return 200, copy.deepcopy(self._objects[key])

    def _written(self, resource: str, made: Json) -> None:
        for controller in self.controllers:
            controller(resource, made)

    def _list(self, group: str, resource: str, namespace: str, query: dict[str, str]) -> tuple[int, Json]:
        self.pages += 1
        selectors = [each.partition("=") for each in query.get("fieldSelector", "").split(",") if each]
        if unknown := [field for field, _, _ in selectors if field not in _SELECTABLE]:
            return status(400, f"field label not supported: {unknown}", "BadRequest")
        start = ["", ""]
        if "continue" in query:
            if self.forgets_pages:
                return status(410, "The provided continue parameter is too old to display a consistent list", "Expired")
            start = json.loads(base64.b64decode(query["continue"]))
        found = [
            (list(key[2:]), each)
            for key, each in sorted(self._objects.items(), key=lambda pair: pair[0][2:])
            if key[:2] == (group, resource) and (not namespace or key[2] == namespace) and list(key[2:]) > start
            if all(_field(each, field) == value.removeprefix("=") for field, _, value in selectors)
        ]
        limit = int(query.get("limit", 0)) or len(found)
        metadata: Json = {"resourceVersion": "1"}
        if len(found) > limit:
            metadata["continue"] = base64.b64encode(json.dumps(found[limit - 1][0]).encode()).decode()
            metadata["remainingItemCount"] = len(found) - limit
        kind = f"{_KINDS[group, resource]}List"
        items = [copy.deepcopy(each) for _, each in found[:limit]]
        return 200, {"apiVersion": "v1", "kind": kind, "metadata": metadata, "items": items}


def _field(found: Json, path: str) -> Any:
    value: Any = found
    for part in path.split("."):
        value = (value or {}).get(part)
    return value


def _patched(found: Json, patch: Any, content_type: str) -> Json:
    match content_type:
        case "application/merge-patch+json":
            made = _merged(found, patch)
        case "application/json-patch+json":
            made = copy.deepcopy(found)
            for step in patch:
                _step(made, step)
        case _:
            raise ValueError(f"{content_type} is not what these tests know")
    assert isinstance(made, dict)
    return made


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    made = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made


def _step(target: Any, step: Json) -> None:
    """RFC 6902, as far as it is needed: `add` to an object, and `replace`."""
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:])
    for part in way:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if step["op"] == "replace" and last not in target:
        raise KeyError(last)
    if step["op"] not in {"add", "replace"} or not isinstance(target, dict):
        raise ValueError(step["op"])
    target[last] = step["value"]
