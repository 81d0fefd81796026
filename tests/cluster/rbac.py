"""Authorization of the API server of these tests: RBAC by manifests, the node authorizer, and NodeRestriction.

It follows plugin/pkg/auth/authorizer/rbac, .../node and plugin/pkg/admission/noderestriction of Kubernetes. Rights only
add up. A rule with names permits no request without a name, such as a create. A listing has the name of its field
selector.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

Json = dict[str, Any]

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@cache
def _parsed(manifest: str) -> list[Json]:
    return list(yaml.safe_load_all(manifest))


@dataclass(frozen=True)
class Asked:
    """A request in the terms of RBAC; `resource` has its subresource behind a slash."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    @classmethod
    def of(cls, method: str, path: str, query: dict[str, str]) -> Asked:
        """Parse a request by the rules of RequestInfoFactory (k8s.io/apiserver, endpoints/request)."""
        parts = path.strip("/").split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        namespace = rest.pop(1) if rest[0] == "namespaces" and len(rest) > 2 else ""
        if namespace:
            rest.pop(0)
        name = rest[1] if len(rest) > 1 else ""
        resource = "/".join((rest[0], *rest[2:]))
        verb = _VERBS.get(method) or ("get" if name else "list")
        for selector in query.get("fieldSelector", "").split(","):
            field, _, value = selector.partition("=")
            if verb == "list" and field == "metadata.name":
                name = value.removeprefix("=")
        return cls(verb, group, resource, namespace, name)


class Rbac:
    """The roles and bindings of a manifest. `bind` adds a binding of a ClusterRole, as an operator may."""

    def __init__(self, manifest: str) -> None:
        self.objects = deepcopy(_parsed(manifest))
        self._roles = {
            (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each["rules"]
            for each in self.objects
            if each["kind"] in {"Role", "ClusterRole"}
        }
        self._bindings = [each for each in self.objects if each["kind"] in {"RoleBinding", "ClusterRoleBinding"}]
        self.used: set[tuple[str, str, str]] = set()  # verb, group and resource of each granted request

    def bind(self, role: str, group: str, namespace: str = "") -> None:
        """Bind a ClusterRole to a group, or with `namespace` a Role of this namespace."""
        prefix = "" if namespace else "Cluster"
        subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}]
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": f"{prefix}Role", "name": role}
        metadata = {"name": role, "namespace": namespace} if namespace else {"name": role}
        self._bindings.append(
            {"kind": f"{prefix}RoleBinding", "metadata": metadata, "roleRef": ref, "subjects": subjects}
        )

    def bind_reader(self) -> None:
        """Bind the roles of the reader that grant no right to Secrets, as in docs/cluster.md."""
        self.bind("certmond-reader", "certmond")
        self.bind("certmond-reader", "certmond", "kube-system")

    def allows(self, user: str, groups: list[str], asked: Asked) -> bool:
        if _node_may(user, groups, asked):
            return True
        for binding in self._bindings:
            namespace = binding["metadata"].get("namespace", "")
            if namespace and namespace != asked.namespace:
                continue
            if not any(each["kind"] == "Group" and each["name"] in groups for each in binding["subjects"]):
                continue
            ref = binding["roleRef"]
            rules = self._roles[ref["kind"], namespace if ref["kind"] == "Role" else "", ref["name"]]
            if any(_permits(rule, asked) for rule in rules):
                self.used.add((asked.verb, asked.group, asked.resource))
                return True
        return False


def _permits(rule: Json, asked: Asked) -> bool:
    named = "resourceNames" not in rule or asked.name in rule["resourceNames"]
    return (
        named
        and asked.verb in rule["verbs"]
        and asked.group in rule["apiGroups"]
        and asked.resource in rule["resources"]
    )


def _node_may(user: str, groups: list[str], asked: Asked) -> bool:
    if "system:nodes" not in groups or not user.startswith("system:node:"):
        return False
    if asked.resource == "certificatesigningrequests" and asked.verb in {"create", "get", "list"}:
        return True  # NodeRules in plugin/pkg/auth/authorizer/rbac/bootstrappolicy
    if asked.resource == "events" and asked.verb == "create":
        return True  # also in NodeRules
    own = asked.resource in {"nodes", "nodes/status"} and asked.name == user.removeprefix("system:node:")
    return own and asked.verb in {"get", "update", "patch"}


def node_restriction(user: str, before: Json, after: Json) -> str | None:
    """Why a kubelet may not change its Node so: its taints, and labels of Kubernetes, are not its own to change."""
    if not user.startswith("system:node:"):
        return None
    if before.get("spec", {}).get("taints") != after.get("spec", {}).get("taints"):
        return f'node "{user}" is not allowed to modify taints'
    old, new = (each["metadata"].get("labels") or {} for each in (before, after))
    changed = {key for key in old | new if old.get(key) != new.get(key)}
    if any("kubernetes.io" in key.partition("/")[0] for key in changed):
        return f"is not allowed to modify labels: {sorted(changed)}"
    return None
