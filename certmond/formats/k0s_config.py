"""Parser of the configuration file of a k0s controller, which contains flags of the components.

The names of the fields are from k0sproject/k0s, pkg/apis/k0s/v1beta1 (api.go, clusterconfig_types.go, storage.go).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import as_text, load_mapping
from certmond.formats.manifest import flag_values
from certmond.pki.catalog.component_certificate_flags import APISERVER, ETCD, MANAGER, SCHEDULER

_EXTERNAL = {"caFile": "etcd-cafile", "clientCertFile": "etcd-certfile", "clientKeyFile": "etcd-keyfile"}
"""Field of an external etcd -> flag of the API server."""


class K0sConfig(NamedTuple):
    """The flags of each component, or the reason why certmond cannot read the flags."""

    flags: Mapping[str, tuple[tuple[str, str], ...]]
    fault: str = ""  # a clause without a subject


def parse_k0s_config(data: bytes, _path: str) -> K0sConfig:
    """Return the flags that the file adds to the flags that k0s sets, or the reason why the file is unusable."""
    if not data.strip():
        return K0sConfig({})
    try:
        spec = _mapping(load_mapping(data).get("spec"))
    except MalformedError as error:
        return K0sConfig({}, str(error))
    storage = _mapping(spec.get("storage"))
    etcd = _mapping(storage.get("etcd")) if storage.get("type", "etcd") == "etcd" else {}
    external = _mapping(etcd.get("externalCluster"))
    flags = {
        APISERVER: (*_flags(spec.get("api")), *_external(external)),
        MANAGER: tuple(_flags(spec.get("controllerManager"))),
        SCHEDULER: tuple(_flags(spec.get("scheduler"))),
        ETCD: () if external else tuple(_flags(etcd)),
    }
    return K0sConfig({component: found for component, found in flags.items() if found})


def _flags(fields: Any) -> Iterator[tuple[str, str]]:
    """Yield the additional flags of a component."""
    for name, value in _mapping(_mapping(fields).get("extraArgs")).items():
        yield as_text(name).replace("_", "-"), as_text(value)
    words = _mapping(fields).get("rawArgs")
    yield from flag_values([as_text(word) for word in words] if isinstance(words, list) else [])


def _external(cluster: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the flags of the API server for an etcd outside of k0s."""
    yield from ((flag, as_text(cluster[field])) for field, flag in _EXTERNAL.items() if field in cluster)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
