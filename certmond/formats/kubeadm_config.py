"""Parser of a kubeadm configuration file (kubeadm.k8s.io, v1beta3 or v1beta4) for `certmond init`.

kubeadm defines the fields in cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go. The file can contain tokens, so no message
quotes a value that might be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from datetime import timedelta
from ipaddress import IPv6Address, ip_address
from typing import Any

import yaml
from pydantic import ValidationError

from certmond.errors import ConfigError, LimitError
from certmond.formats.yaml_documents import load_documents
from certmond.immutable_class import immutable
from certmond.pki.catalog.duration import parse_duration
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.catalog.init_cluster_spec import InitSpec
from certmond.pki.catalog.validator import validated

_GROUP, _VERSIONS = "kubeadm.k8s.io", ("v1beta3", "v1beta4")
_KINDS = ("InitConfiguration", "ClusterConfiguration", "JoinConfiguration")

_PORT = "must be a port from 1 to 65535"
_SENTENCES = {
    "string_type": "must be text", "tuple_type": "must be a list", "int_type": _PORT, "less_than_equal": _PORT,
    "greater_than_equal": _PORT,
}  # fmt: skip
_NODE_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
# A label, which kubeadm resolves to a version (util/version.go).
_LABEL = re.compile(r"(?:ci/)?(?:stable|latest)(?:-1(\.[0-9]{1,3})?)?")

# From each field of certmond to the kind and the field path of kubeadm.
_FIELDS = {
    "advertise_address": ("InitConfiguration", "localAPIEndpoint.advertiseAddress"),
    "bind_port": ("InitConfiguration", "localAPIEndpoint.bindPort"),
    "control_plane_endpoint": ("ClusterConfiguration", "controlPlaneEndpoint"),
    "service_subnet": ("ClusterConfiguration", "networking.serviceSubnet"),
    "dns_domain": ("ClusterConfiguration", "networking.dnsDomain"),
    "cluster_name": ("ClusterConfiguration", "clusterName"),
    "kubernetes_version": ("ClusterConfiguration", "kubernetesVersion"),
    "cert_sans": ("ClusterConfiguration", "apiServer.certSANs"),
    "etcd_server_cert_sans": ("ClusterConfiguration", "etcd.local.serverCertSANs"),
    "etcd_peer_cert_sans": ("ClusterConfiguration", "etcd.local.peerCertSANs"),
    "certificates_dir": ("ClusterConfiguration", "certificatesDir"),
}


@immutable
class KubeadmConfig:
    """The values that a kubeadm configuration file sets. `joins` is True if the file is for `kubeadm join`.

    `given` contains the keys of `init` that the file sets.
    """

    init: InitSpec
    given: frozenset[str] = field(default=frozenset(), compare=False)
    joins: bool = False
    node_name: str | None = None
    validity: timedelta | None = None
    key_algorithm: KeyAlgorithm | None = None


def _has_binary(value: object) -> bool:
    """Return whether a YAML tag makes a value a byte string or a set, for which no field has a use."""
    if isinstance(value, Mapping | list):
        return any(map(_has_binary, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, bytes | set)


def is_node_name(text: str) -> bool:
    """Return whether `text` is valid as the name of a Node."""
    return bool(_NODE_NAME.fullmatch(text))


def parse_kubeadm_config(data: bytes, path: str) -> KubeadmConfig:
    """Return the kubeadm configuration in `data`.

    Raises ConfigError with all problems. The messages name the file `path`.
    """
    return _Reader(path).read(data)


class _Reader:
    def __init__(self, path: str) -> None:
        self._path = path
        self._documents: dict[str, Mapping[str, Any]] = {}
        self._problems: list[str] = []

    def read(self, data: bytes) -> KubeadmConfig:
        self._load(data)
        values = {
            field: value
            for field, (kind, field_path) in _FIELDS.items()
            if (value := self._get(kind, field_path)) is not None
        }
        if isinstance(port := values.get("bind_port"), bool):
            values["bind_port"] = str(port)  # `yes` is a boolean in YAML, and a boolean is an int in Python
        values |= {"advertise_address": _address(values.get("advertise_address"))}
        values |= {"control_plane_endpoint": _bracketed(values.get("control_plane_endpoint"))}
        values |= {"kubernetes_version": _version(values.get("kubernetes_version"))}
        if self._get("ClusterConfiguration", "etcd.external") is not None:
            values["external_etcd"] = True
        values |= {"ca_validity": self._duration("caCertificateValidityPeriod")}
        joins = self._node_kind() == "JoinConfiguration"
        if joins:
            self._check_join()
        given = {field: value for field, value in values.items() if value is not None}
        found = KubeadmConfig(
            joins=joins,
            init=self._spec(given),
            given=frozenset(given),
            node_name=self._node_name(),
            validity=self._duration("certificateValidityPeriod"),
            key_algorithm=self._algorithm(),
        )
        if self._problems:
            raise ConfigError(tuple(dict.fromkeys(self._problems)))
        return found

    def _load(self, data: bytes) -> None:
        try:
            documents = list(load_documents(data))
        except LimitError as error:
            raise ConfigError((f"{self._path}: {error}; write the values without aliases",)) from None
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ConfigError((f"{self._path}{line}: is not YAML; correct the file",)) from None
        except Exception:  # noqa: BLE001 - PyYAML also raises exceptions of its internals
            raise ConfigError((f"{self._path}: is not YAML; correct the file",)) from None
        for number, document in enumerate(documents, start=1):
            self._add_document(number, document)
        if not (self._documents or self._problems):
            self._add_problem(
                "",
                f"contains neither {_KINDS[0]} nor {_KINDS[1]} of {_GROUP}; give the file of `kubeadm init --config`",
            )

    def _check_join(self) -> None:
        if self._documents["JoinConfiguration"].get("controlPlane") is None:
            self._add_problem(
                "JoinConfiguration",
                "contains no controlPlane, so the node is a worker; use the file of a control-plane node",
            )
        elif "ClusterConfiguration" not in self._documents:
            self._add_problem(
                "", "contains only a JoinConfiguration; add the ClusterConfiguration of the cluster that the node joins"
            )

    def _add_document(self, number: int, document: object) -> None:
        if document is None:
            return
        if not isinstance(document, Mapping):
            self._add_problem(f"document {number}", "is not a mapping; correct this document")
            return
        api, kind = document.get("apiVersion"), document.get("kind")
        group, _, version = api.partition("/") if isinstance(api, str) else ("", "", "")
        if group != _GROUP or not isinstance(kind, str):
            return  # a configuration of the kubelet or of kube-proxy
        if version not in _VERSIONS:
            known = " and ".join(_VERSIONS)
            self._add_problem(
                f"document {number}",
                f"has a version of {_GROUP} other than {known}; convert the file: kubeadm config migrate "
                f"--old-config {self._path}",
            )
        elif kind in self._documents:
            self._add_problem(f"document {number}", f"is a second {kind}; remove one of the two documents")
        elif kind in _KINDS:
            self._documents[kind] = document

    def _get(self, kind: str, field_path: str) -> Any:
        """Return the value of a field, or None if this field is empty or not set.

        If a parent of the field is not a mapping, record a problem, and return None. `field_path` is the path in a
        configuration for `kubeadm init`. The path for `kubeadm join` can differ.
        """
        if kind == "InitConfiguration":
            kind, field_path = self._node_kind(), self._node_field_path(field_path)
        value: Any = self._documents.get(kind, {})
        parents: list[str] = []
        for part in field_path.split("."):
            if value is None:
                return None
            if not isinstance(value, Mapping):
                self._add_problem(f"{kind}: {'.'.join(parents)}", "must be a mapping")
                return None
            parents.append(part)
            value = value.get(part)
        if _has_binary(value):
            self._add_problem(
                f"{kind}: {field_path}", "must be text or a list of texts, without the tag of another type"
            )
            return None
        return value if value not in ("", [], {}) else None

    def _spec(self, values: dict[str, Any]) -> InitSpec:
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        try:
            return validated(InitSpec, {**values, **lists})
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=False):
                field, *rest = each["loc"]
                kind, field_path = _FIELDS.get(str(field), ("ClusterConfiguration", str(field)))
                index = "".join(f"[{part}]" for part in rest if isinstance(part, int))
                text = (
                    str(each["ctx"]["error"])
                    if each["type"] == "value_error"
                    else _SENTENCES.get(each["type"], each["msg"])
                )
                if kind == "InitConfiguration":
                    kind, field_path = self._node_kind(), self._node_field_path(field_path)
                self._add_problem(f"{kind}: {field_path}{index}", text)
        return InitSpec()

    def _node_kind(self) -> str:
        """Return the kind of the document that configures this node: InitConfiguration or JoinConfiguration."""
        joins = "InitConfiguration" not in self._documents and "JoinConfiguration" in self._documents
        return "JoinConfiguration" if joins else "InitConfiguration"

    def _node_field_path(self, field_path: str) -> str:
        joins = self._node_kind() == "JoinConfiguration"
        return field_path.replace("localAPIEndpoint", "controlPlane.localAPIEndpoint") if joins else field_path

    def _node_name(self) -> str | None:
        name = self._get("InitConfiguration", "nodeRegistration.name")
        if name is None:
            return None
        if isinstance(name, str) and is_node_name(name.strip().lower()):
            return name.strip().lower()
        self._add_problem(
            f"{self._node_kind()}: nodeRegistration.name",
            "must be a DNS name of lowercase letters, digits, '-' and '.'",
        )
        return None

    def _duration(self, field: str) -> timedelta | None:
        value = self._get("ClusterConfiguration", field)
        if value is None:
            return None
        try:
            found: timedelta = parse_duration(value)
        except ValueError:
            self._add_problem(f"ClusterConfiguration: {field}", "must be a duration such as 8760h0m0s")
            return None
        return found

    def _algorithm(self) -> KeyAlgorithm | None:
        value = self._get("ClusterConfiguration", "encryptionAlgorithm")
        if value is None and self._get("ClusterConfiguration", "featureGates.PublicKeysECDSA") is True:
            return KeyAlgorithm.ECDSA_P256  # before v1beta4
        names = [each.value for each in KeyAlgorithm if each is not KeyAlgorithm.ED25519]
        if value is None or value in names:
            return KeyAlgorithm(value) if value else None
        self._add_problem("ClusterConfiguration: encryptionAlgorithm", f"must be one of {', '.join(names)}")
        return None

    def _add_problem(self, field_path: str, text: str) -> None:
        self._problems.append(f"{self._path}: {field_path + ': ' if field_path else ''}{text}")


def _address(value: Any) -> Any:
    """Return `value`, or None for 0.0.0.0 and ::.

    For these values, kubeadm chooses an address of the host (SetAPIEndpointDynamicDefaults).
    """
    try:
        return None if isinstance(value, str) and ip_address(value).is_unspecified else value
    except ValueError:
        return value


def _bracketed(value: Any) -> Any:
    """Return an IPv6 address in brackets. Return any other value unchanged.

    kubeadm accepts an IPv6 address with and without brackets (util/endpoint.go, ParseHostPort).
    """
    try:
        return f"[{value}]" if isinstance(value, str) and isinstance(ip_address(value), IPv6Address) else value
    except ValueError:
        return value


def _version(value: Any) -> Any:
    """Return the version in a label such as stable-1.34.

    Return None for a label without a minor version, such as `stable`. Return any value that is not a label unchanged.
    """
    label = _LABEL.fullmatch(value) if isinstance(value, str) else None
    if label is None:
        return value
    return f"v1{label[1]}" if label[1] else None
