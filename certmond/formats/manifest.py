"""Parser of static Pod manifests and of the kubelet's configuration, and of the facts of the node in these files.

The facts are the values of variables in the catalogue, such as `${node_name}`. The facts of a malformed file are
unknown.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from ipaddress import ip_address, ip_network
from itertools import pairwise, starmap
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import Kubeconfig, as_text, load_mapping
from certmond.formats.rancher_config import endpoint_flags
from certmond.formats.started_program import mentioned_component, program_of
from certmond.immutable_class import immutable
from certmond.pki.catalog.component_certificate_flags import K3S, RKE2

_NODE_USER = "system:node:"
_ISSUER_PREFIX = "kubernetes.default.svc."
_ETCD, _OF_ETCD = "etcd", "ETCD_"
_VARIABLE = re.compile(r"\$(?:\$|\(([^$)]*)\))")
_MAX_TEXT = 4096  # of a word with variables
FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""The false values of a flag (strconv.ParseBool). With a value that is neither true nor false, no component starts."""


@immutable(slots=False)
class Manifest:
    """A static Pod manifest or another text file, with the flags of each container."""

    text: str
    flags: Mapping[str, Mapping[str, str]]
    fields: Mapping[str, Any]
    path: str = ""
    fault: str = ""  # why `fields` is empty: a clause without a subject

    @cached_property
    def containers(self) -> tuple[Container, ...]:
        """The valid containers of the Pod, without init containers."""
        return tuple(containers(self.fields))


@immutable
class Components:
    """The manifests of the node's static Pods, and the kubelet's two configuration files."""

    pods: tuple[Manifest, ...] = ()
    kubelet_config: Manifest | None = None
    kubelet_flags: Manifest | None = None


class Variable(NamedTuple):
    """An environment variable, and the file that sets the variable.

    For a static Pod, this file is the manifest, and `file` is "".
    """

    name: str
    value: str
    file: str = ""


@immutable
class Container:
    """A container of a static Pod. `flags` contains each repetition of a flag.

    `mounts` maps a path in the container to a path on the host, or to None if the volume has no valid hostPath.
    `program` is the base name of the first word of `command`, or "" if the image chooses the program. `variables`
    contains the environment variables, except variables that set a flag, such as ETCD_CERT_FILE, and variables whose
    value is also the value of a flag.
    """

    name: str
    flags: tuple[tuple[str, str], ...]
    mounts: Mapping[str, str | None]
    program: str = ""
    variables: tuple[Variable, ...] = ()
    mentioned: str = ""  # the component that an unknown program may start

    def values(self, flag: str) -> list[str]:
        """Return the non-empty values of a flag, in order."""
        return [value for name, value in self.flags if name == flag and value]

    def on_host(self, path: str) -> str | None:
        """Return the path on the host for `path` in the container, or None if the path on the host is unknown.

        The path on the host is unknown for a relative path. A path outside all mounts stays unchanged.
        """
        if not path.startswith("/"):
            return None
        path, inside = normal_path(path), self.mount_of(path) or ""
        host = self.mounts.get(inside, "")
        return None if host is None else host + path[len(inside) :]

    def mount_of(self, path: str) -> str | None:
        """Return the path of the deepest mount that contains the absolute `path`, or None if there is no such mount."""
        inside = normal_path(path)
        while inside and inside not in self.mounts:
            inside = inside.rpartition("/")[0]
        return inside if inside in self.mounts else None


def normal_path(path: str) -> str:
    """Return the path without repeated slashes, `.` and `..`. A relative path stays relative."""
    normal = posixpath.normpath(path)
    return f"/{normal.lstrip('/')}" if path.startswith("/") else normal


def parse_manifest(data: bytes, path: str) -> Manifest:
    """Return the manifest `data` with the flags of its containers. Text that is not YAML has no flags."""
    text = data.decode("utf-8", "replace")
    try:
        document = load_mapping(data)
    except MalformedError as error:
        return Manifest(text, {}, {}, path, str(error))
    return Manifest(text, {each.name: dict(each.flags) for each in containers(document)}, document, path)


def containers(fields: Mapping[str, Any]) -> Iterator[Container]:
    """Yield the valid containers of a parsed Pod manifest."""
    return _containers(fields, "containers")


def init_containers(fields: Mapping[str, Any]) -> Iterator[Container]:
    """Yield the valid init containers of a parsed Pod manifest."""
    return _containers(fields, "initContainers")


def _containers(fields: Mapping[str, Any], kind: str) -> Iterator[Container]:
    spec = fields.get("spec")
    hosts = {as_text(volume.get("name")): volume.get("hostPath") for volume in _mappings(spec, "volumes")}
    for container in _mappings(spec, kind):
        mounts = dict[str, str | None]()
        for mount in _mappings(container, "volumeMounts"):
            volume = hosts.get(as_text(mount.get("name")))
            host = as_text(volume.get("path")) if isinstance(volume, Mapping) else ""
            within = as_text(mount.get("subPath"))
            sound = host.startswith("/") and not within.startswith("/")  # otherwise the kubelet does not start it
            sound = sound and not mount.get("subPathExpr")  # a path that the environment decides
            place = posixpath.join(host, within).rstrip("/") if sound else None
            if inside := as_text(mount.get("mountPath")):
                mounts[inside.rstrip("/")] = place
        name = as_text(container.get("name"))
        variables = dict[str, str]()
        for each in _mappings(container, "env"):
            if isinstance(value := each.get("value"), str):
                variables[as_text(each.get("name"))] = _expanded(value, variables)
        command, arguments = (
            [_expanded(word, variables) for word in _strings(container.get(field))] for field in ("command", "args")
        )
        program, words = program_of(command, arguments)
        reader = _ETCD if _ETCD in (name, program) else program
        flags = flags_of(reader, words, variables.items())
        others = variables_of(reader, flags, starmap(Variable, variables.items()))
        yield Container(name, flags, mounts, program, others, mentioned_component(command, arguments))


def _expanded(word: str, variables: Mapping[str, str]) -> str:
    """Return the word after the substitution of `$(NAME)` (third_party/forked/golang/expansion/expand.go).

    Keep an unknown variable, and all variables of a word that would otherwise become too long.
    """
    size = sum(len(variables.get(name, "")) for name in _VARIABLE.findall(word))
    if size > _MAX_TEXT:
        return word
    return _VARIABLE.sub(lambda match: "$" if match[1] is None else variables.get(match[1], match[0]), word)


def flags_of(
    program: str, words: Sequence[str], environment: Iterable[tuple[str, str]] = ()
) -> tuple[tuple[str, str], ...]:
    """Return the flags of a program with their values.

    etcd accepts `-name` for `--name`, and variables such as ETCD_CERT_FILE. With a configuration file, etcd ignores
    all other flags (etcd, server/etcdmain/config.go and pkg/flags/flag.go). k3s and RKE2 also accept `-name`, but not
    `-config` (k3s-io/k3s, pkg/configfilearg/parser.go).
    """
    if program in {K3S, RKE2}:
        used = [word for word in words if word.partition("=")[0] != "-config"]
        own = tuple(flag_values(used, single_dash=True))
        return (*own, *endpoint_flags(own))
    if program != _ETCD:
        return tuple(flag_values(words))
    found = list[tuple[str, str]]()
    for name, value in environment:
        if name.startswith(_OF_ETCD) and value:
            found.append((name.removeprefix(_OF_ETCD).lower().replace("_", "-"), value))
    found += flag_values(words, single_dash=True)
    return tuple((name, value) for name, value in found if name == "config-file" and value) or tuple(found)


def variables_of(
    program: str, flags: Iterable[tuple[str, str]], environment: Iterable[Variable]
) -> tuple[Variable, ...]:
    """Return the variables of a program.

    Omit variables that etcd reads as flags, and variables whose value is also the value of a flag.
    """
    used = {value for _, value in flags}
    others = (each for each in environment if each.value not in used)
    return tuple(each for each in others if not (program == _ETCD and each.name.startswith(_OF_ETCD)))


def kubelet_environment(text: str) -> Container:
    """Return the kubelet as a `Container` with the flags in `text`, the content of an environment file."""
    return Container("kubelet", tuple(flag_values(re.sub(r"(?m)^[ \t]*#.*|^[ \t]*\w+=|[\"']", " ", text).split())), {})


def kubelet_fields(fields: Mapping[str, Any], path: str) -> Container:
    """Return the kubelet as a `Container` whose flags are the fields of its configuration file.

    Each string value becomes a path, and a relative path starts at the directory of the file `path`. Of the Booleans,
    only true values become flags.
    """
    authentication = fields.get("authentication")
    x509 = authentication.get("x509") if isinstance(authentication, Mapping) else None
    given = {**(x509 if isinstance(x509, Mapping) else {}), **fields}.items()
    base = posixpath.dirname(path)
    texts = [(as_text(name), posixpath.join(base, value)) for name, value in given if isinstance(value, str) and value]
    switches = [(as_text(name), "true") for name, value in given if value is True]
    return Container("kubelet", (*texts, *switches), {})


def flag_values(words: Sequence[str], *, single_dash: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each `--name=value` or `--name value`.

    The value of a flag without a value is "true" (spf13/pflag). With `single_dash`, also yield `-name=value` and `-name
    value`, as Go's package flag does. In a name, dashes replace underscores (WordSepNormalizeFunc of
    staging/src/k8s.io/component-base/cli/flag/flags.go).
    """
    for word, following in pairwise([*words, "--"]):
        if word.startswith("-" if single_dash else "--"):
            name, given, value = word.removeprefix("-").removeprefix("-").partition("=")
            yield name.replace("_", "-"), value if given else "true" if following.startswith("-") else following


def node_facts(
    *,
    apiserver: Manifest | None,
    etcd: Manifest | None,
    kubelet_conf: Kubeconfig | None,
    admin_conf: Kubeconfig | None,
    kubelet_config: Manifest | None,
    kubelet_flags: Manifest | None,
    hostname: str,
    kubelet_serving_file: str | None = None,
) -> dict[str, str]:
    """Return the known facts of the node, such as node_name and service_ip.

    If the API server checks the common name in `kubelet_serving_file`, the facts contain this file and the common name.
    """
    flags = apiserver.flags.get("kube-apiserver", {}) if apiserver else {}
    names = etcd.flags.get("etcd", {}) if etcd else {}
    kubelet = dict(kubelet_environment(kubelet_flags.text).flags) if kubelet_flags else {}
    facts = {
        "node_name": _node_user(kubelet_conf)
        or kubelet.get("hostname-override")
        or names.get("name")
        or hostname.lower(),
        "advertise_address": flags.get("advertise-address"),
        "service_ip": _first_address(flags.get("service-cluster-ip-range", "")),
        "dns_domain": _dns_domain(flags.get("service-account-issuer", ""), kubelet_config),
        # From v1.33 the kubelet of a control plane uses the API server of its node; admin.conf has the endpoint.
        "control_plane_name": _server_name(admin_conf) or _server_name(kubelet_conf),
    }
    # kubernetes/enhancements, keps/sig-auth/4872-harden-kubelet-cert-validation
    is_checked = flags.get("enable-kubelet-cert-cn-validation", "false") not in FALSE
    if is_checked and flags.get("kubelet-certificate-authority"):
        facts["kubelet_serving_file"] = kubelet_serving_file
        facts["kubelet_common_name"] = f"{_NODE_USER}{facts['node_name']}" if facts["node_name"] else None
    return {name: value for name, value in facts.items() if value}


def _node_user(kubeconfig: Kubeconfig | None) -> str | None:
    user = kubeconfig.current_user if kubeconfig else None
    return user.removeprefix(_NODE_USER) if user and user.startswith(_NODE_USER) else None


def _first_address(ranges: str) -> str | None:
    """Return the first host address of the first range, or None for an invalid range.

    kubeadm chooses this address for the Service of the API server (GetAPIServerVirtualIP).
    """
    try:
        return str(ip_network(ranges.partition(",")[0], strict=False)[1])
    except (ValueError, IndexError):
        return None


def _dns_domain(issuer: str, kubelet_config: Manifest | None) -> str | None:
    try:
        host = urlsplit(issuer).hostname or ""
    except ValueError:
        host = ""
    if host.startswith(_ISSUER_PREFIX):
        return host.removeprefix(_ISSUER_PREFIX)
    return as_text(kubelet_config.fields.get("clusterDomain")) if kubelet_config else None


def _server_name(kubeconfig: Kubeconfig | None) -> str | None:
    """Return the name of the API server in the kubeconfig as "DNS:…" or "IP:…".

    Return None if the name is unknown, `localhost` or a loopback address.
    """
    if kubeconfig is None:
        return None
    cluster = next((item for item in kubeconfig.clusters if item.name == kubeconfig.current_cluster), None)
    if cluster is None or cluster.server_name in {"", "localhost"}:
        return None
    try:
        address = ip_address(cluster.server_name)
    except ValueError:
        return f"DNS:{cluster.server_name}"
    return (
        None if address.is_loopback else f"IP:{address}"
    )  # clients that connect through a tunnel or proxy on this host do not verify this name


def _mappings(value: Any, key: str) -> list[Mapping[str, Any]]:
    items = value.get(key) if isinstance(value, Mapping) else None
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
