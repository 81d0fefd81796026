"""Survey of the services: the files, endpoints and health addresses of each service, from flags and probes.

This module defines the flags whose files each Kubernetes component reloads (see staging/src/k8s.io/apiserver, client-go
and etcd's client/pkg/transport). A container cannot reload a file that is bind-mounted as a single file (see mount(2)).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from certmond.formats.kubeconfig import as_text
from certmond.formats.manifest import Components, Container, Manifest, flag_values, flags_of
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.served_entries import Listener, renewed_at_start, renewed_by_operator
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.services.service_observation import Survey, Use
from certmond.services.endpoints import endpoints_of, endpoints_without_file

_SHARED = {
    "tls-cert-file",
    "tls-private-key-file",
    "tls-sni-cert-key",
    "client-ca-file",
    "requestheader-client-ca-file",
}
_RELOADED: Mapping[str, set[str]] = {
    "kube-apiserver": {
        *_SHARED, "kubelet-client-certificate", "kubelet-client-key", "proxy-client-cert-file", "proxy-client-key-file",
        "etcd-certfile", "etcd-keyfile",
    },
    "kube-controller-manager": {*_SHARED, "cluster-signing-cert-file", "cluster-signing-key-file"},
    "kube-scheduler": _SHARED,
    "etcd": {
        "cert-file", "key-file", "peer-cert-file", "peer-key-file", "client-cert-file", "client-key-file",
        "peer-client-cert-file", "peer-client-key-file",
    },
}  # fmt: skip
"""Flags of each component that name files which the component reloads."""

KUBELET = "kubelet.service"
"""The systemd unit of the kubelet."""

_HEALTHZ_PORT = 10248  # pkg/kubelet/apis/config/v1beta1/defaults.go

_DELAY = "shutdown-delay-duration"
"""Flag that sets the time for which an API server listens after SIGTERM (genericapiserver.go, RunWithContext)."""
_GO_DURATION = re.compile(r"(?:[0-9]{1,6}(?:\.[0-9]{0,9})?(?:h|m(?!s)|s|ms))+|0")
_GO_PART = re.compile(r"([0-9.]+)(h|ms|m|s)")
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def survey(components: Components, services: Sequence[ServiceSpec], commands: Mapping[str, Sequence[str]]) -> Survey:
    """Return the survey of `services`. `commands` maps the name of each running service to its command line."""
    pods = {service.name: _pod_of(service, components.pods) for service in services if service.kind == "static-pod"}
    known = {s.name: _container(pod, s.pod or "") for s in services if (pod := pods.get(s.name)) is not None}
    for service in services:
        words = commands.get(service.name, ())
        if service.kind == "systemd" and words and posixpath.basename(words[0]) in _RELOADED:
            program = posixpath.basename(words[0])
            known[service.name] = Container(program, flags_of(program, words), {})
    by_service = {name: dict(_uses(each)) for name, each in known.items() if each.name in _RELOADED}
    uses = {
        name: files for name, files in by_service.items() if files
    }  # flags without a file prove nothing: the environment, which certmond does not read, can also configure etcd
    names = {container.name: service for service, container in known.items()}
    names["kubelet"] = next((service.name for service in services if service.unit == KUBELET), "")
    outside = [known[service.name] for service in services if service.kind == "systemd" and service.name in known]
    serving = {
        endpoint: (names.get(component, ""), path)
        for endpoint, (component, path) in endpoints_of(components, outside).items()
    }
    return Survey(
        uses, serving, dict(_health(components, services, pods)), dict(_delays(known)),
        dict(_listeners(components, outside, names)),
    )  # fmt: skip


def pod_name(service: ServiceSpec, components: Components) -> tuple[str, str, str] | None:
    """Return the namespace, name and program of a service's Pod from its manifest, or None if there is no manifest."""
    pod = _pod_of(service, components.pods)
    metadata = pod.fields.get("metadata") if pod else None
    if pod is None or not isinstance(metadata, Mapping):
        return None
    words = _words(pod.fields, service.pod or "")
    namespace = as_text(metadata.get("namespace")) or "default"
    return namespace, as_text(metadata.get("name")), posixpath.basename(words[0]) if words else service.pod or ""


def manifest_path(service: ServiceSpec, components: Components) -> str:
    """Return the path of the static Pod manifest that starts a service, or "" if there is no manifest."""
    pod = _pod_of(service, components.pods) if service.kind == "static-pod" else None
    return pod.path if pod else ""


def runtime_endpoint(components: Components) -> str | None:
    """Return the endpoint of the kubelet's container runtime, or None if it is not configured."""
    flags = components.kubelet_flags.text if components.kubelet_flags else ""
    given = dict(flag_values(flags.replace('"', " ").replace("'", " ").split())).get("container-runtime-endpoint")
    config = components.kubelet_config.fields if components.kubelet_config else {}
    return given or as_text(config.get("containerRuntimeEndpoint")) or None


def _pod_of(service: ServiceSpec, pods: Iterable[Manifest]) -> Manifest | None:
    """Return a Pod with the container of the service, or None if there is no such Pod.

    Prefer a Pod with the same name as the container.
    """
    found = [pod for pod in pods if any(each.name == service.pod for each in pod.containers)]
    named = (pod for pod in found if _name(pod) == service.pod)
    return next(named, found[0] if found else None)


def _name(pod: Manifest) -> str:
    metadata = pod.fields.get("metadata")
    return as_text(metadata.get("name")) if isinstance(metadata, Mapping) else ""


def _container(pod: Manifest, name: str) -> Container:
    return next(each for each in pod.containers if each.name == name)


def _words(fields: Mapping[str, Any], name: str) -> list[str]:
    spec = fields.get("spec")
    listed = spec.get("containers") if isinstance(spec, Mapping) else None
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, Mapping) and each.get("name") == name and isinstance(each.get("command"), list):
            return [word for word in each["command"] if isinstance(word, str)]
    return []


def _uses(container: Container) -> Iterator[tuple[str, Use]]:
    """Yield the host path of each file that a flag names, and whether the component reloads the file."""
    found: dict[str, Use] = {}
    for flag, value in container.flags:
        for path in value.partition(":")[0].split(","):
            host = container.on_host(path)
            if host is None:
                continue
            reloads = flag in _RELOADED[container.name] and posixpath.normpath(path) not in container.mounts
            if host not in found or not reloads:
                found[host] = Use(reloads, f"--{flag}")
    yield from found.items()


def _delays(known: Mapping[str, Container]) -> Iterator[tuple[str, timedelta]]:
    for name, container in known.items():
        value = dict(container.flags).get(_DELAY, "")
        if _GO_DURATION.fullmatch(value):
            seconds = sum(float(count) * _GO_UNITS[unit] for count, unit in _GO_PART.findall(value))
            yield name, timedelta(seconds=seconds)


def _listeners(
    components: Components, outside: Iterable[Container], names: Mapping[str, str]
) -> Iterator[tuple[Endpoint, Listener]]:
    """Yield the endpoints whose certificate is in no file of this host. `names` maps components to services."""
    for endpoint, (component, in_memory) in endpoints_without_file(components, outside).items():
        own = names.get(component)
        service = own or component
        at_start = renewed_at_start(service, known=bool(own))
        yield endpoint, Listener(service, at_start if in_memory else renewed_by_operator(service))


def _health(
    components: Components, services: Sequence[ServiceSpec], pods: Mapping[str, Manifest | None]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for service in services:
        if service.health:
            yield service.name, service.health
        elif pod := pods.get(service.name):
            yield service.name, tuple(_probes(pod.fields, service.pod or ""))
        elif service.unit == KUBELET and components.kubelet_config:
            yield service.name, tuple(_of_kubelet(components.kubelet_config.fields))


def _of_kubelet(fields: Mapping[str, Any]) -> Iterator[str]:
    port = fields.get("healthzPort", _HEALTHZ_PORT)
    if isinstance(port, int) and port > 0:
        yield f"http://{_host(as_text(fields.get('healthzBindAddress')))}:{port}/healthz"


def _probes(fields: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the address of the readiness probe of the container.

    If this probe contains no address, yield the address of the liveness probe.
    """
    spec = fields.get("spec")
    listed = spec.get("containers") if isinstance(spec, Mapping) else None
    for container in listed if isinstance(listed, list) else ():
        if not isinstance(container, Mapping) or container.get("name") != name:
            continue
        for kind in ("readinessProbe", "livenessProbe"):
            probe = container.get(kind)
            asked = probe.get("httpGet") if isinstance(probe, Mapping) else None
            if isinstance(asked, Mapping) and (address := _address(asked, container)):
                yield address
                return


def _address(asked: Mapping[str, Any], container: Mapping[str, Any]) -> str | None:
    port = asked.get("port")
    if isinstance(port, str) and not port.isdecimal():
        ports = container.get("ports")
        named = (
            [p for p in ports if isinstance(p, Mapping) and p.get("name") == port] if isinstance(ports, list) else []
        )
        port = named[0].get("containerPort") if named else None
    if not isinstance(port, int | str) or not str(port).isdecimal():
        return None
    scheme = "https" if as_text(asked.get("scheme")).upper() == "HTTPS" else "http"
    path = as_text(asked.get("path")) or "/"
    return f"{scheme}://{_host(as_text(asked.get('host')))}:{port}/{path.lstrip('/')}"


def _host(host: str) -> str:
    """Return the host part of a probe address.

    Without a host, return the loopback address, because the Pods of the control plane use the host network.
    """
    host = "127.0.0.1" if host in {"", "0.0.0.0", "localhost"} else host  # noqa: S104 - not bound
    return f"[{host}]" if ":" in host else host
