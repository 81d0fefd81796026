"""Endpoints of the components on this node, with the certificate file of each endpoint.

For a component that listens on all addresses, this module uses the loopback address, because another address might
belong to a load balancer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import as_text
from certmond.formats.kubelet.serving import kubelet_serving
from certmond.formats.manifest import Components, Container, kubelet_environment
from certmond.pki.catalog.endpoint import Endpoint

_PORTS = {
    "kube-apiserver": "6443", "kube-controller-manager": "10257", "kube-scheduler": "10259",
    "cloud-controller-manager": "10258",
}  # fmt: skip
_SERVES_FILE = frozenset({"kube-apiserver"})
"""Components with a default for `--cert-dir`. Without `--tls-cert-file`, they serve a file in this directory."""
_ETCD = (("listen-client-urls", "cert-file"), ("listen-peer-urls", "peer-cert-file"))
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}  # noqa: S104 - not bound


class _Listener(NamedTuple):
    """A listener of a component.

    `path` is the certificate file, or None if no file on this host contains the certificate.

    `in_memory` is True if the component creates a certificate in memory at each start.
    """

    component: str
    address: str
    port: str
    path: str | None
    server_name: str | None = None
    in_memory: bool = False


def endpoints_of(components: Components, outside: Iterable[Container] = ()) -> dict[Endpoint, tuple[str, str]]:
    """Return each endpoint with its component and the path of its certificate file.

    Omit endpoints without a certificate file. `outside` are the components that do not run in a Pod.
    """
    found = _by_endpoint(components, outside)
    return {endpoint: (each.component, each.path) for endpoint, each in found.items() if each.path}


def endpoints_without_file(
    components: Components, outside: Iterable[Container] = ()
) -> dict[Endpoint, tuple[str, bool]]:
    """Return each endpoint whose certificate is in no file of this host, with its component.

    The second value is True if the component creates a certificate in memory at each start.
    """
    found = _by_endpoint(components, outside)
    return {endpoint: (each.component, each.in_memory) for endpoint, each in found.items() if not each.path}


def _by_endpoint(components: Components, outside: Iterable[Container]) -> dict[Endpoint, _Listener]:
    """Return the first listener of each endpoint. A listener with a certificate file takes precedence."""
    listeners = [
        each
        for pod in components.pods
        if _on_host_network(pod.fields)
        for container in pod.containers
        for each in _of_container(container)
    ]
    listeners += [each for container in outside for each in _of_container(container)]
    if components.kubelet_config and components.kubelet_config.fields:
        kubelet = kubelet_environment(components.kubelet_flags.text if components.kubelet_flags else "")
        listeners.append(_of_kubelet(components.kubelet_config.fields, kubelet))
    found: dict[Endpoint, _Listener] = {}
    for each in sorted(listeners, key=lambda each: not each.path):
        with suppress(MalformedError, ValueError):  # a flag can have any value: skip invalid values
            address = _EVERYWHERE.get(each.address, each.address)
            found.setdefault(Endpoint(address, int(each.port), each.server_name), each)
    return found


def _on_host_network(fields: Mapping[str, Any]) -> bool:
    """Return whether the Pod uses the network of the host. No file of the node contains the address of other Pods."""
    spec = fields.get("spec")
    return isinstance(spec, Mapping) and spec.get("hostNetwork") is True


def _of_container(container: Container) -> Iterator[_Listener]:
    if container.name in _PORTS:
        yield from _of_component(container)
    elif container.name == "etcd":
        yield from _of_etcd(container)


def _of_component(container: Container) -> Iterator[_Listener]:
    """Yield the listeners that the flags of k8s.io/apiserver configure.

    Without a certificate file and a certificate directory, a component creates a CA and a certificate in memory. The
    certificate is valid for one year (pkg/server/options/serving.go, MaybeDefaultWithSelfSignedCerts).
    """
    flags, name = dict(container.flags), container.name
    address, port = flags.get("bind-address", ""), flags.get("secure-port", _PORTS[name])
    given = flags.get("tls-cert-file", "")
    in_memory = not (given or flags.get("cert-dir") or name in _SERVES_FILE)
    yield _Listener(name, address, port, container.on_host(given), in_memory=in_memory)
    for value in container.values("tls-sni-cert-key"):  # format: certificate,key or certificate,key:name,name
        pair, _, names = value.partition(":")
        path = container.on_host(pair.partition(",")[0])
        yield from (_Listener(name, address, port, path, each) for each in names.split(",") if each)


def _of_etcd(container: Container) -> Iterator[_Listener]:
    """Yield the listener of the first https URL for clients, and of the first https URL for peers.

    All URLs for clients share a certificate, and so do all URLs for peers.
    """
    flags = dict(container.flags)
    for urls, certificate in _ETCD:
        for url in [url for url in flags.get(urls, "").split(",") if url.startswith("https://")][:1]:
            with suppress(ValueError):
                place = urlsplit(url)
                path = container.on_host(flags.get(certificate, ""))
                yield _Listener("etcd", place.hostname or "", str(place.port), path)


def _of_kubelet(fields: Mapping[str, Any], kubelet: Container) -> _Listener:
    """Return the listener of the kubelet (see cmd/kubelet/app/server.go)."""
    flags = dict(kubelet.flags)
    port = fields.get("port")
    address = flags.get("address") or as_text(fields.get("address"))
    path = kubelet.on_host(kubelet_serving(fields, flags).path)
    return _Listener("kubelet", address, flags.get("port") or str(port if type(port) is int else 10250), path)
