"""A control-plane node of kubeadm whose manifests name a certificate by every flag of the table."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import yaml

from certmond.pki.catalog.component_certificate_flags import FLAGS, REQUESTED, FileKind, Flag, Role
from tests.builders import Issued, make_ca, make_leaf
from tests.node import Node

EXTRA = "/etc/kubernetes/extra"
MANIFESTS = "etc/kubernetes/manifests"
ETCD_OF_FILE = "etcd-events"
"""A second etcd, with a configuration file: etcd then ignores its other flags."""
PROGRAMS = {"konnectivity-server": "proxy-server", "konnectivity-agent": "proxy-agent", ETCD_OF_FILE: "etcd"}
DECLARED = frozenset(FileKind) - {FileKind.ADMISSION_PLUGIN, FileKind.ETCD, FileKind.REGISTRIES}


class ReferenceNode:
    """A `node` with a file below EXTRA for each flag. Each certificate there, of every CA too, ends at `end`."""

    def __init__(self, node: Node, end: datetime) -> None:
        self.node, self._end, self._start = node, end, end - timedelta(days=365)
        self._ca = make_ca("extra", not_after=end, not_before=self._start)
        self.names: set[str] = set()
        """The names of the entries that certmond must have for these files."""
        node.path(EXTRA[1:]).mkdir()
        by_component: dict[str, list[str]] = {}
        fields: dict[str, Any] = {}
        for row in FLAGS:
            for flag, value in self._flags(row):
                if row.component == "kubelet":
                    fields[flag] = value
                else:
                    component = ETCD_OF_FILE if row.kind is FileKind.ETCD else row.component
                    by_component.setdefault(component, []).append(f"--{flag}={value}")
        for component, words in by_component.items():
            self.add_flags(component, *words)
        self._write_kubelet(fields)

    def add_flags(self, component: str, *words: str) -> None:
        """Append flags to the container of a component, whose Pod mounts EXTRA."""
        path = f"{MANIFESTS}/{component}.yaml"
        fields = yaml.safe_load(self.node.read(path)) if self.node.path(path).exists() else pod(component)
        container = fields["spec"]["containers"][0]
        container["command"] += words
        if all(mount["name"] != "extra" for mount in container["volumeMounts"]):
            container["volumeMounts"].append({"name": "extra", "mountPath": EXTRA})
            fields["spec"]["volumes"].append({"name": "extra", "hostPath": {"path": EXTRA}})
        if self.node.path(path).exists():
            self.node.replace(path, yaml.dump(fields, Dumper=yaml.CSafeDumper))
        else:
            self.write(f"/{path}", yaml.dump(fields, Dumper=yaml.CSafeDumper))

    def write(self, path: str, content: bytes | str) -> None:
        self.node.path(path[1:]).parent.mkdir(parents=True, exist_ok=True)
        self.node.write(path[1:], content)
        self.node.path(path[1:]).chmod(0o600)

    def pair(self, stem: str) -> tuple[str, str]:
        """Write a certificate for servers and clients, and its key. Return their paths."""
        leaf = self._leaf()
        self.write(f"{stem}.crt", leaf.pem)
        self.write(f"{stem}.key", leaf.key_pem)
        return f"{stem}.crt", f"{stem}.key"

    def trust(self, stem: str) -> str:
        self.write(f"{stem}.crt", self._ca.pem)
        return f"{stem}.crt"

    def kubeconfig(self, stem: str, *users: str) -> str:
        """Write a kubeconfig with embedded certificates of `users`. Return its path."""
        named = []
        for user in users or ("client",):
            leaf = self._leaf()
            data = {"client-certificate-data": _encoded(leaf.pem), "client-key-data": _encoded(leaf.key_pem)}
            named.append({"name": user, "user": data})
        document: dict[str, Any] = {
            "apiVersion": "v1", "kind": "Config", "users": named, "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:1", "certificate-authority-data":
                                                   _encoded(self._ca.pem)}}],
            "contexts": [{"name": "x", "context": {"user": named[0]["name"], "cluster": "c"}}],
        }  # fmt: skip
        self.write(f"{stem}.conf", yaml.dump(document, Dumper=yaml.CSafeDumper))
        return f"{stem}.conf"

    def _leaf(self) -> Issued:
        return make_leaf(
            self._ca, extended_usages=["server auth", "client auth"], not_after=self._end, not_before=self._start
        )

    def _flags(self, row: Flag) -> Iterator[tuple[str, str]]:
        stem = f"{EXTRA}/{row.component}-{row.name}"
        # The node has --tls-cert-file, so no component uses --cert-dir.
        if row.role in {Role.KEY, Role.SOCKET} or row.pair or row.name == REQUESTED:
            return
        if row.role is not Role.CONFIGURATION:
            self.names.add(row.entry)
        if row.role is Role.TRUST:
            yield row.name, self.trust(stem)
        elif row.role is Role.KUBECONFIG:
            yield row.name, self.kubeconfig(stem)
        elif row.role is Role.SIGNER:
            signer = make_ca("signer", not_after=self._end, not_before=self._start)
            self.write(f"{stem}.crt", signer.pem)
            self.write(f"{stem}.key", signer.key_pem)
            yield from ((row.name, f"{stem}.crt"), (row.key_flag, f"{stem}.key"))
        elif row.repeated:
            self.names.add(f"{row.entry}.2")
            for number in (1, 2):
                yield row.name, f"{','.join(self.pair(f'{stem}-{number}'))}:a{number}.example"
        elif row.kind:
            declared = {"kind": row.kind.value} if row.kind in DECLARED else {}
            self.write(f"{stem}.yaml", yaml.safe_dump({**declared, **self._configuration(row, row.kind, stem)}))
            yield row.name, f"{stem}.yaml"
        else:
            certificate, key = self.pair(stem)
            yield from ((row.name, certificate), (row.key_flag, key))

    def _configuration(self, row: Flag, kind: FileKind, stem: str) -> dict[str, Any]:
        def named(*fields: str) -> None:
            self.names.update(f"{row.entry}.{field}" for field in fields)

        match kind:
            case FileKind.AUTHENTICATION:
                named("certificateAuthority", "certificateAuthority.2")
                issuer = {"issuer": {"url": "https://a", "certificateAuthority": self._ca.pem.decode()}}
                return {"jwt": [issuer, issuer]}
            case FileKind.AUTHORIZATION:
                named("kubeConfigFile")
                connection = {"type": "KubeConfigFile", "kubeConfigFile": self.kubeconfig(stem)}
                return {"authorizers": [{"type": "Webhook", "webhook": {"connectionInfo": connection}}]}
            case FileKind.EGRESS_SELECTOR:
                named("caBundle", "clientCert")
                certificate, key = self.pair(stem)
                tls = {"caBundle": self.trust(f"{stem}-ca"), "clientCert": certificate, "clientKey": key}
                transport = {"tcp": {"url": "https://192.0.2.1:1", "tlsConfig": tls}}
                return {"egressSelections": [{"name": "cluster", "connection": {"transport": transport}}]}
            case FileKind.ADMISSION:
                named("kubeConfigFile", "kubeConfigFile.2")
                image = {"imagePolicy": {"kubeConfigFile": self.kubeconfig(f"{stem}-image")}}
                self.write(f"{EXTRA}/image.yaml", yaml.safe_dump(image))
                webhook = {"kubeConfigFile": self.kubeconfig(f"{stem}-webhook")}
                plugins = [{"name": "ValidatingAdmissionWebhook", "configuration": webhook}]
                return {"plugins": [*plugins, {"name": "ImagePolicyWebhook", "path": "image.yaml"}]}
            case FileKind.SCHEDULER:
                named("kubeconfig", "caFile", "certFile")
                certificate, key = self.pair(stem)
                tls = {"caFile": self.trust(f"{stem}-ca"), "certFile": certificate, "keyFile": key}
                return {"clientConnection": {"kubeconfig": self.kubeconfig(stem)}, "extenders": [{"tlsConfig": tls}]}
            case FileKind.PROXY:
                named("kubeconfig")
                return {"clientConnection": {"kubeconfig": self.kubeconfig(stem)}}
            case FileKind.REGISTRIES:
                named("ca_file", "cert_file")
                certificate, key = self.pair(stem)
                tls = {"ca_file": self.trust(f"{stem}-ca"), "cert_file": certificate, "key_file": key}
                return {"configs": {"registry.example:5000": {"tls": tls}}}
            case _:
                named("cert-file", "trusted-ca-file", "peer-cert-file")
                pairs = [self.pair(f"{stem}-{use}") for use in ("client", "peer")]
                client, peer = ({"cert-file": certificate, "key-file": key} for certificate, key in pairs)
                trusted = {"trusted-ca-file": self.trust(f"{stem}-ca")}
                return {"client-transport-security": client | trusted, "peer-transport-security": peer}

    def _write_kubelet(self, fields: dict[str, Any]) -> None:
        """Write the fields of the kubelet, and the flags for the other files of the table."""
        own = {name: fields[name] for name in ("tlsCertFile", "tlsPrivateKeyFile")}
        x509 = {"clientCAFile": fields["clientCAFile"]}
        self.write("/var/lib/kubelet/config.yaml", yaml.safe_dump({**own, "authentication": {"x509": x509}}))
        words = (f"--{name}={fields[name]}" for name in ("kubeconfig", "bootstrap-kubeconfig"))
        self.write("/var/lib/kubelet/kubeadm-flags.env", f'KUBELET_KUBEADM_ARGS="{" ".join(words)}"\n')
        self.names -= {"kubelet.tls-cert-file", "kubelet.client-ca-file"}  # a flag hides the field


def pod(component: str) -> dict[str, Any]:
    container = {"name": component, "command": [f"/{PROGRAMS.get(component, component)}"], "volumeMounts": []}
    return {"kind": "Pod", "metadata": {"name": component}, "spec": {"containers": [container], "volumes": []}}


def _encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
