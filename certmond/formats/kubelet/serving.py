"""The file with the certificate that the kubelet serves, from the kubelet's configuration and flags.

Source: kubernetes/kubernetes v1.36, cmd/kubelet/app/server.go (InitializeTLS) and pkg/kubelet/kubelet.go.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from certmond.formats.kubeconfig import as_text
from certmond.formats.manifest import FALSE, normal_path
from certmond.immutable_class import immutable

_KUBELET, PKI = "/var/lib/kubelet", "/var/lib/kubelet/pki"
REQUESTED, SELF_SIGNED = "kubelet-server-current.pem", "kubelet.crt"
DEFAULT_FILES = frozenset(f"{PKI}/{name}" for name in (REQUESTED, SELF_SIGNED))
"""Paths of the serving certificates in the default --cert-dir."""


@immutable
class KubeletServing:
    """File of the certificate that the kubelet serves, and files that the kubelet would serve with other settings.

    `requested` is True if the kubelet requests the certificate through the Kubernetes API. All paths have the form that
    `normal_path` returns. No process reads the files in `unused`.
    """

    path: str
    requested: bool
    unused: frozenset[str]


def kubelet_serving(fields: Mapping[str, Any], flags: Mapping[str, str]) -> KubeletServing:
    """Return the file of the certificate that the kubelet serves.

    Even an empty flag takes precedence over a field of the configuration (kubeletConfigFlagPrecedence).
    """
    directory = flags.get("cert-dir") or PKI
    requested, self_signed = (normal_path(posixpath.join(directory, name)) for name in (REQUESTED, SELF_SIGNED))
    switch = flags.get("rotate-server-certificates")
    rotates = switch not in FALSE if switch else fields.get("serverTLSBootstrap") is True
    if given := flags.get("tls-cert-file", as_text(fields.get("tlsCertFile"))):
        path = normal_path(posixpath.join(_KUBELET, given))
        # With both settings, the kubelet serves the requested certificate to clients that name the server.
        others = {self_signed} if rotates else {self_signed, requested}
        return KubeletServing(path, False, frozenset(others - {path}))
    if rotates:
        return KubeletServing(requested, True, frozenset({self_signed}))
    return KubeletServing(self_signed, False, frozenset({requested}))
