"""Table of the flags and fields of Kubernetes components that name certificates, keys, CAs and kubeconfigs.

Each row names the source file that reads the flag. A path without a repository is in kubernetes/kubernetes v1.36.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.field_types import Sentence
from certmond.pki.catalog.model_class import model


class Role(StrEnum):
    """Contents of a file that a flag names."""

    SERVER = "server"
    """A certificate and key with which the component serves."""
    CLIENT = "client"
    """A certificate and key with which the component connects to servers."""
    SIGNER = "signer"
    """A CA certificate and key with which the component signs."""
    TRUST = "trust"
    """CA certificates that the component trusts."""
    KUBECONFIG = "kubeconfig"
    CONFIGURATION = "configuration"
    """A configuration file that names other files."""
    KEY = "key"
    """A key without a certificate. certmond does not watch such a key."""
    SOCKET = "socket"
    """The socket of a program that has the key. certmond cannot watch such a key, and reports `not_watched`."""


class FileKind(StrEnum):
    """Kinds of configuration files that name certificates."""

    AUTHENTICATION = "AuthenticationConfiguration"
    AUTHORIZATION = "AuthorizationConfiguration"
    EGRESS_SELECTOR = "EgressSelectorConfiguration"
    ADMISSION = "AdmissionConfiguration"
    ADMISSION_PLUGIN = "configuration of an admission plugin"
    SCHEDULER = "KubeSchedulerConfiguration"
    PROXY = "KubeProxyConfiguration"
    ETCD = "configuration of etcd"
    REGISTRIES = "registries.yaml"


USAGES: Mapping[Role, tuple[str, ...]] = {
    Role.SERVER: ("server auth",),
    Role.CLIENT: ("client auth",),
    Role.SIGNER: ("cert sign",),
}
"""The usages that a certificate of each role must have."""

APISERVER, MANAGER, SCHEDULER = "kube-apiserver", "kube-controller-manager", "kube-scheduler"
CLOUD, PROXY, KUBELET, ETCD = "cloud-controller-manager", "kube-proxy", "kubelet", "etcd"
TUNNEL_SERVER, TUNNEL_AGENT = "konnectivity-server", "konnectivity-agent"
K3S, RKE2 = "k3s", "rke2"
PROGRAMS: Mapping[str, str] = {
    **{name: name for name in (APISERVER, MANAGER, SCHEDULER, CLOUD, PROXY, KUBELET, ETCD, K3S, RKE2)},
    "proxy-server": TUNNEL_SERVER,
    "proxy-agent": TUNNEL_AGENT,
}
"""Name of a program -> component."""

REQUESTED = "cert-dir.kubelet-server-current"
"""Name for the certificate in --cert-dir that the kubelet requests. Its value is the path of this certificate."""


@immutable
class Flag:
    """A flag, or a field of the kubelet's configuration, that names a file or a directory."""

    component: str
    name: str
    role: Role
    source: str  # the source file that reads the flag
    key_flag: str = ""  # the flag that names the key
    verified_by: tuple[str, str] | None = None  # component and flag of the CAs that verify the certificate
    kind: FileKind | None = None  # of a configuration file
    repeated: bool = False  # False if only the last occurrence counts
    optional: bool = False  # True if the file can be missing
    pair: str = ""  # name of the pair in a directory, which the component uses without the flag tls-cert-file

    @property
    def entry(self) -> str:
        """The name of the entry for the file."""
        # Names have a limit.
        name = self.name.removesuffix("-cert-file") if self.role is Role.SIGNER else self.name
        return f"{self.component}.{name}"


_GENERIC = "staging/src/k8s.io/apiserver/pkg/server/options"
_SERVING, _AUTHENTICATION = f"{_GENERIC}/serving.go", f"{_GENERIC}/authentication.go"
_AUTHORIZATION = f"{_GENERIC}/authorization.go"
_KUBE_AUTHENTICATION = "pkg/kubeapiserver/options/authentication.go"
_KUBE_AUTHORIZATION = "pkg/kubeapiserver/options/authorization.go"
_CONTROL_PLANE = "pkg/controlplane/apiserver/options/options.go"
_API_OPTIONS = "cmd/kube-apiserver/app/options/options.go"
_MANAGER_OPTIONS = "cmd/kube-controller-manager/app/options"
_CLOUD_OPTIONS = "staging/src/k8s.io/cloud-provider/options"
_KUBELET_OPTIONS, _KUBELET_TYPES = "cmd/kubelet/app/options/options.go", "staging/src/k8s.io/kubelet/config/v1beta1"
_ETCD = "etcd-io/etcd: server/embed/config.go"
_TUNNEL_SERVER = "kubernetes-sigs/apiserver-network-proxy: cmd/server/app/options/options.go"
_RANCHER, _KINE = "k3s-io/k3s: pkg/cli/cmds", "k3s-io/kine: pkg/drivers/pgsql/pgsql.go"
_TUNNEL_AGENT = "kubernetes-sigs/apiserver-network-proxy: cmd/agent/app/options/options.go"

_CLIENT_CA = (APISERVER, "client-ca-file")


def _serving(component: str, verified_by: tuple[str, str] | None = None, pair: str = "") -> tuple[Flag, ...]:
    """Return the flags of a server that uses k8s.io/apiserver.

    `pair` is the PairName in the SecureServingOptions of the component, by default the name of the component.
    """
    return (
        Flag(component, "tls-cert-file", Role.SERVER, _SERVING, "tls-private-key-file", verified_by),
        Flag(component, "tls-sni-cert-key", Role.SERVER, _SERVING, repeated=True),
        Flag(component, "cert-dir", Role.SERVER, _SERVING, optional=True, pair=pair or component),
        Flag(component, "client-ca-file", Role.TRUST, _AUTHENTICATION),
        Flag(component, "requestheader-client-ca-file", Role.TRUST, _AUTHENTICATION),
    )


def _delegating(component: str, options: str) -> tuple[Flag, ...]:
    """Return the flags of a component that delegates authentication and authorization to the API server."""
    named = {"kubeconfig": options, "authentication-kubeconfig": _AUTHENTICATION,
             "authorization-kubeconfig": _AUTHORIZATION}  # fmt: skip
    return tuple(
        Flag(component, name, Role.KUBECONFIG, source, verified_by=_CLIENT_CA) for name, source in named.items()
    )


def _configuration(component: str, name: str, kind: FileKind, source: str) -> Flag:
    return Flag(component, name, Role.CONFIGURATION, source, kind=kind)


def _rancher(component: str) -> tuple[Flag, ...]:
    """Return the flags of k3s itself or of RKE2, which has the same flags (rancher/rke2, pkg/cli/cmds/server.go)."""
    server, registries = f"{_RANCHER}/server.go", FileKind.REGISTRIES
    return (
        Flag(component, "datastore-certfile", Role.CLIENT, server, "datastore-keyfile"),
        Flag(component, "datastore-cafile", Role.TRUST, server),
        Flag(component, "datastore-endpoint.sslcert", Role.CLIENT, _KINE, "datastore-endpoint.sslkey"),
        Flag(component, "datastore-endpoint.sslrootcert", Role.TRUST, _KINE),
        Flag(component, "etcd-s3-endpoint-ca", Role.TRUST, server),
        Flag(
            component, "private-registry", Role.CONFIGURATION, f"{_RANCHER}/agent.go", kind=registries, optional=True
        ),
    )  # fmt: skip


def _signer(usage: str) -> Flag:
    prefix = f"cluster-signing-{usage}-" if usage else "cluster-signing-"
    source = f"{_MANAGER_OPTIONS}/csrsigningcontroller.go"
    return Flag(MANAGER, f"{prefix}cert-file", Role.SIGNER, source, f"{prefix}key-file")


FLAGS: tuple[Flag, ...] = (
    *_serving(APISERVER, (MANAGER, "root-ca-file"), "apiserver"),
    Flag(APISERVER, "etcd-certfile", Role.CLIENT, f"{_GENERIC}/etcd.go", "etcd-keyfile", (ETCD, "trusted-ca-file")),
    Flag(APISERVER, "etcd-cafile", Role.TRUST, f"{_GENERIC}/etcd.go"),
    Flag(
        APISERVER, "kubelet-client-certificate", Role.CLIENT, _API_OPTIONS, "kubelet-client-key",
        (KUBELET, "clientCAFile"),
    ),
    Flag(APISERVER, "kubelet-certificate-authority", Role.TRUST, _API_OPTIONS),
    Flag(
        APISERVER, "proxy-client-cert-file", Role.CLIENT, _CONTROL_PLANE, "proxy-client-key-file",
        (APISERVER, "requestheader-client-ca-file"),
    ),
    Flag(APISERVER, "peer-ca-file", Role.TRUST, _CONTROL_PLANE),
    Flag(APISERVER, "oidc-ca-file", Role.TRUST, _KUBE_AUTHENTICATION),
    Flag(APISERVER, "service-account-key-file", Role.KEY, _KUBE_AUTHENTICATION, repeated=True),
    Flag(APISERVER, "service-account-signing-key-file", Role.KEY, _CONTROL_PLANE),
    Flag(APISERVER, "service-account-signing-endpoint", Role.SOCKET, _CONTROL_PLANE),
    Flag(APISERVER, "authentication-token-webhook-config-file", Role.KUBECONFIG, _KUBE_AUTHENTICATION),
    Flag(APISERVER, "authorization-webhook-config-file", Role.KUBECONFIG, _KUBE_AUTHORIZATION),
    Flag(APISERVER, "audit-webhook-config-file", Role.KUBECONFIG, f"{_GENERIC}/audit.go"),
    _configuration(APISERVER, "authentication-config", FileKind.AUTHENTICATION, _KUBE_AUTHENTICATION),
    _configuration(APISERVER, "authorization-config", FileKind.AUTHORIZATION, _KUBE_AUTHORIZATION),
    _configuration(
        APISERVER, "egress-selector-config-file", FileKind.EGRESS_SELECTOR, f"{_GENERIC}/egress_selector.go"
    ),
    _configuration(APISERVER, "admission-control-config-file", FileKind.ADMISSION, f"{_GENERIC}/admission.go"),
    *_serving(MANAGER),
    *_delegating(MANAGER, f"{_MANAGER_OPTIONS}/options.go"),
    Flag(MANAGER, "root-ca-file", Role.TRUST, f"{_MANAGER_OPTIONS}/serviceaccountcontroller.go"),
    Flag(MANAGER, "service-account-private-key-file", Role.KEY, f"{_MANAGER_OPTIONS}/serviceaccountcontroller.go"),
    *map(_signer, ("", "kubelet-serving", "kubelet-client", "kube-apiserver-client", "legacy-unknown")),
    *_serving(SCHEDULER),
    *_delegating(SCHEDULER, "cmd/kube-scheduler/app/options/deprecated.go"),
    _configuration(SCHEDULER, "config", FileKind.SCHEDULER, "cmd/kube-scheduler/app/options/options.go"),
    *_serving(CLOUD),
    *_delegating(CLOUD, f"{_CLOUD_OPTIONS}/options.go"),
    Flag(CLOUD, "webhook-tls-cert-file", Role.SERVER, f"{_CLOUD_OPTIONS}/webhook.go", "webhook-tls-private-key-file"),
    Flag(CLOUD, "webhook-tls-sni-cert-key", Role.SERVER, f"{_CLOUD_OPTIONS}/webhook.go", repeated=True),
    Flag(PROXY, "kubeconfig", Role.KUBECONFIG, "cmd/kube-proxy/app/options.go", verified_by=_CLIENT_CA),
    _configuration(PROXY, "config", FileKind.PROXY, "cmd/kube-proxy/app/options.go"),
    # A flag of the kubelet takes precedence over the field (cmd/kubelet/app/server.go, kubeletConfigFlagPrecedence).
    Flag(
        KUBELET, "tls-cert-file", Role.SERVER, _KUBELET_OPTIONS, "tls-private-key-file",
        (APISERVER, "kubelet-certificate-authority"),
    ),
    Flag(
        KUBELET, "tlsCertFile", Role.SERVER, f"{_KUBELET_TYPES}/types.go", "tlsPrivateKeyFile",
        (APISERVER, "kubelet-certificate-authority"),
    ),
    Flag(KUBELET, "cert-dir", Role.SERVER, _KUBELET_OPTIONS, optional=True, pair=KUBELET),
    Flag(
        KUBELET, REQUESTED, Role.SERVER, "pkg/kubelet/certificate/kubelet.go", REQUESTED,
        (APISERVER, "kubelet-certificate-authority"),
    ),
    Flag(KUBELET, "client-ca-file", Role.TRUST, _KUBELET_OPTIONS),
    Flag(KUBELET, "clientCAFile", Role.TRUST, f"{_KUBELET_TYPES}/types.go"),
    Flag(KUBELET, "kubeconfig", Role.KUBECONFIG, _KUBELET_OPTIONS, verified_by=_CLIENT_CA),
    # The kubelet needs it only until it has its own kubeconfig.
    Flag(KUBELET, "bootstrap-kubeconfig", Role.KUBECONFIG, _KUBELET_OPTIONS, optional=True),
    Flag(ETCD, "cert-file", Role.SERVER, _ETCD, "key-file", (APISERVER, "etcd-cafile")),
    Flag(ETCD, "client-cert-file", Role.CLIENT, _ETCD, "client-key-file", (ETCD, "trusted-ca-file")),
    Flag(ETCD, "trusted-ca-file", Role.TRUST, _ETCD),
    Flag(ETCD, "peer-cert-file", Role.SERVER, _ETCD, "peer-key-file", (ETCD, "peer-trusted-ca-file")),
    Flag(ETCD, "peer-client-cert-file", Role.CLIENT, _ETCD, "peer-client-key-file", (ETCD, "peer-trusted-ca-file")),
    Flag(ETCD, "peer-trusted-ca-file", Role.TRUST, _ETCD),
    Flag(ETCD, "discovery-cert", Role.CLIENT, _ETCD, "discovery-key"),
    Flag(ETCD, "discovery-cacert", Role.TRUST, _ETCD),
    _configuration(ETCD, "config-file", FileKind.ETCD, _ETCD),
    Flag(TUNNEL_SERVER, "server-cert", Role.SERVER, _TUNNEL_SERVER, "server-key"),
    Flag(TUNNEL_SERVER, "server-ca-cert", Role.TRUST, _TUNNEL_SERVER),
    Flag(TUNNEL_SERVER, "cluster-cert", Role.SERVER, _TUNNEL_SERVER, "cluster-key"),
    Flag(TUNNEL_SERVER, "cluster-ca-cert", Role.TRUST, _TUNNEL_SERVER),
    Flag(TUNNEL_SERVER, "kubeconfig", Role.KUBECONFIG, _TUNNEL_SERVER, verified_by=_CLIENT_CA),
    Flag(TUNNEL_AGENT, "agent-cert", Role.CLIENT, _TUNNEL_AGENT, "agent-key"),
    Flag(TUNNEL_AGENT, "ca-cert", Role.TRUST, _TUNNEL_AGENT),
    *_rancher(K3S),
    *_rancher(RKE2),
)  # fmt: skip
"""The flags of each component. If several flags name one file, the first flag gives the entry its name."""


@immutable
class NamedFile:
    """A file that a field of a configuration file names, or the certificates in the field itself."""

    field: str
    role: Role
    path: str = ""  # as in the configuration file
    key: str = ""  # as in the configuration file
    pem: bytes | None = None  # the certificates in the field
    kind: FileKind | None = None


@model
class ReferenceSpec(CertificateSpec):
    """An entry for a file that only a flag or field on the node names."""

    named_by: Sentence
    """The flag or field, and the file that contains this flag or field."""
