"""The certificates, CAs and kubeconfigs that configuration files of Kubernetes components name.

This module defines the fields of each kind of file. Each function names the source of its fields. This source is in
kubernetes/kubernetes v1.36, mostly below staging/src/k8s.io, or in another project.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import as_text, load_mapping
from certmond.pki.catalog.component_certificate_flags import FileKind, NamedFile, Role

_PEM = "-----BEGIN"


def named_files(data: bytes, kind: FileKind) -> tuple[NamedFile, ...]:
    """Return the files that a configuration file names, and the certificates that the configuration file embeds.

    Raises MalformedError if `data` is not a YAML mapping, or if the file must declare `kind` and does not. Only a file
    for admission plugins, etcd or registries can omit its kind.
    """
    document = load_mapping(data)
    declared = as_text(document.get("kind"))
    if kind in _DECLARED and declared != kind.value:
        legacy = kind is FileKind.ADMISSION and not declared
        if not legacy:
            raise MalformedError(f"is not of kind {kind.value}")
        return tuple(_admission_plugin(document))
    return tuple(_FIELDS[kind](document))


def _authentication(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the embedded CAs (apiserver/pkg/apis/apiserver/v1/types.go, AuthenticationConfiguration)."""
    for authenticator in _mappings(document.get("jwt")):
        if text := as_text(_mapping(authenticator.get("issuer")).get("certificateAuthority")):
            yield NamedFile("certificateAuthority", Role.TRUST, pem=text.encode("utf-8", "replace"))


def _authorization(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the kubeconfigs of webhooks (apiserver/pkg/apis/apiserver/v1/types.go, AuthorizationConfiguration)."""
    for authorizer in _mappings(document.get("authorizers")):
        connection = _mapping(_mapping(authorizer.get("webhook")).get("connectionInfo"))
        yield from _file(connection, "kubeConfigFile", Role.KUBECONFIG)


def _egress_selector(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the TLS files (apiserver/pkg/apis/apiserver/v1beta1/types.go, EgressSelectorConfiguration)."""
    for selection in _mappings(document.get("egressSelections")):
        transport = _mapping(_mapping(selection.get("connection")).get("transport"))
        tls = _mapping(_mapping(transport.get("tcp")).get("tlsConfig"))
        yield from _file(tls, "caBundle", Role.TRUST)
        yield from _file(tls, "clientCert", Role.CLIENT, "clientKey")


def _admission(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the configuration files of admission plugins, and the kubeconfigs that embedded configurations name.

    apiserver/pkg/admission/config.go defines the fields.
    """
    for plugin in _mappings(document.get("plugins")):
        if isinstance(configuration := plugin.get("configuration"), Mapping):  # takes precedence over `path`
            yield from _admission_plugin(configuration)
        elif (name := as_text(plugin.get("path"))) and _is_path(name):
            yield NamedFile("path", Role.CONFIGURATION, name, kind=FileKind.ADMISSION_PLUGIN)


def _admission_plugin(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the kubeconfig of a webhook or of ImagePolicyWebhook (plugin/pkg/admission/imagepolicy/config.go)."""
    yield from _file(document, "kubeConfigFile", Role.KUBECONFIG)
    yield from _file(_mapping(document.get("imagePolicy")), "kubeConfigFile", Role.KUBECONFIG)


def _client_connection(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the kubeconfig (component-base/config/v1alpha1/types.go, ClientConnectionConfiguration)."""
    yield from _file(_mapping(document.get("clientConnection")), "kubeconfig", Role.KUBECONFIG)


def _scheduler(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the kubeconfig and the TLS files of extenders (kube-scheduler/config/v1/types.go)."""
    yield from _client_connection(document)
    for extender in _mappings(document.get("extenders")):
        tls = _mapping(extender.get("tlsConfig"))  # in this mapping, the data fields take precedence over the files
        if (trust := _decoded(tls.get("caData"))) is not None:
            yield NamedFile("caData", Role.TRUST, pem=trust)
        else:
            yield from _file(tls, "caFile", Role.TRUST)
        if (certificate := _decoded(tls.get("certData"))) is not None:
            yield NamedFile("certData", Role.CLIENT, pem=certificate)
        else:
            yield from _file(tls, "certFile", Role.CLIENT, "keyFile")


def _etcd(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the TLS files for clients and for peers (server/embed/config.go of etcd, securityConfig)."""
    for section, prefix in (("client-transport-security", ""), ("peer-transport-security", "peer-")):
        fields = _mapping(document.get(section))
        for flag, role, key in (
            ("cert-file", Role.SERVER, "key-file"),
            ("client-cert-file", Role.CLIENT, "client-key-file"),
            ("trusted-ca-file", Role.TRUST, ""),
        ):
            yield from _file(fields, flag, role, key, prefix)


def _registries(document: Mapping[str, Any]) -> Iterator[NamedFile]:
    """Yield the TLS files for image registries (rancher/wharfie, pkg/registries/registries.go)."""
    for registry in _mapping(document.get("configs")).values():
        tls = _mapping(_mapping(registry).get("tls"))
        yield from _file(tls, "ca_file", Role.TRUST)
        yield from _file(tls, "cert_file", Role.CLIENT, "key_file")


_FIELDS = {
    FileKind.AUTHENTICATION: _authentication,
    FileKind.AUTHORIZATION: _authorization,
    FileKind.EGRESS_SELECTOR: _egress_selector,
    FileKind.ADMISSION: _admission,
    FileKind.ADMISSION_PLUGIN: _admission_plugin,
    FileKind.SCHEDULER: _scheduler,
    FileKind.PROXY: _client_connection,
    FileKind.ETCD: _etcd,
    FileKind.REGISTRIES: _registries,
}
_DECLARED = frozenset(FileKind) - {FileKind.ADMISSION_PLUGIN, FileKind.ETCD, FileKind.REGISTRIES}
"""The kinds of files in which the field `kind` is required."""


def _file(fields: Mapping[str, Any], name: str, role: Role, key: str = "", prefix: str = "") -> Iterator[NamedFile]:
    if (path := as_text(fields.get(name))) and _is_path(path):
        key_path = as_text(fields.get(key))
        yield NamedFile(f"{prefix}{name}", role, path, key_path if _is_path(key_path) else "")


def _is_path(text: str) -> bool:
    """Return whether `text` can be a path.

    PEM does not count as a path, because PEM can be a private key, and certmond publishes paths.
    """
    return "\x00" not in text and _PEM not in text


def _decoded(value: Any) -> bytes | None:
    text = as_text(value)
    try:
        return base64.b64decode(text, validate=True) if text else None
    except ValueError:
        return b""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
