"""Files of a control-plane node for the demo, as kubeadm and the kubelet create them.

The facts about kubeadm in this module do not depend on the catalogue of certmond, so that the demo also checks the
catalogue.
"""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certmond.immutable_class import immutable

NODE, ADDRESS, SERVICE_IP = "node-1", "192.0.2.10", "10.96.0.1"
KUBERNETES, KUBELET = "/etc/kubernetes", "/var/lib/kubelet"
DAY = timedelta(days=1)
CA_LIFE, LEAF_LIFE = 3650 * DAY, 365 * DAY
CA_AGE, LEAF_AGE = 400 * DAY, 100 * DAY
"""Ages of the CAs and of the leaves when the demo starts."""

_SERVER, _CLIENT = (ExtendedKeyUsageOID.SERVER_AUTH,), (ExtendedKeyUsageOID.CLIENT_AUTH,)
_SERVICE = ("DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc")
_API_NAMES = (f"DNS:{NODE}", *_SERVICE, "DNS:kubernetes.default.svc.cluster.local", f"IP:{SERVICE_IP}", f"IP:{ADDRESS}")
_ETCD_NAMES = (f"DNS:{NODE}", "DNS:localhost", f"IP:{ADDRESS}", "IP:127.0.0.1", "IP:::1")
_ADMINS = "kubeadm:cluster-admins"


class File(NamedTuple):
    """The content and the mode of a file."""

    content: bytes
    mode: int = 0o600


Files = Mapping[str, File]
"""Files by their path on the node, in the order in which `Node.put` writes them."""


class Renewal(NamedTuple):
    """The files of a new certificate with its key, and the serial number of the certificate."""

    files: Files
    serial: str


@immutable
class Row:
    """One row of kubeadm's table of certificates."""

    # A kubeconfig, or a certificate and its key without the extension, relative to /etc/kubernetes.
    path: str
    ca: str
    common_name: str
    organization: str | None = None
    usages: tuple[x509.ObjectIdentifier, ...] = _CLIENT
    names: tuple[str, ...] = ()


AUTHORITIES = {
    name: Row(path, name, common_name, usages=(), names=(f"DNS:{common_name}",))
    for name, path, common_name in (
        ("ca", "pki/ca", "kubernetes"),
        ("etcd-ca", "pki/etcd/ca", "etcd-ca"),
        ("front-proxy-ca", "pki/front-proxy-ca", "front-proxy-ca"),
    )
}
LEAVES = {
    "apiserver": Row("pki/apiserver", "ca", "kube-apiserver", usages=_SERVER, names=_API_NAMES),
    "apiserver-kubelet-client": Row("pki/apiserver-kubelet-client", "ca", "kube-apiserver-kubelet-client", _ADMINS),
    "front-proxy-client": Row("pki/front-proxy-client", "front-proxy-ca", "front-proxy-client"),
    "etcd-server": Row("pki/etcd/server", "etcd-ca", NODE, usages=_SERVER + _CLIENT, names=_ETCD_NAMES),
    "etcd-peer": Row("pki/etcd/peer", "etcd-ca", NODE, usages=_SERVER + _CLIENT, names=_ETCD_NAMES),
    "etcd-healthcheck-client": Row("pki/etcd/healthcheck-client", "etcd-ca", "kube-etcd-healthcheck-client"),
    "apiserver-etcd-client": Row("pki/apiserver-etcd-client", "etcd-ca", "kube-apiserver-etcd-client"),
    "admin.conf": Row("admin.conf", "ca", "kubernetes-admin", _ADMINS),
    "super-admin.conf": Row("super-admin.conf", "ca", "kubernetes-super-admin", "system:masters"),
    "controller-manager.conf": Row("controller-manager.conf", "ca", "system:kube-controller-manager"),
    "scheduler.conf": Row("scheduler.conf", "ca", "system:kube-scheduler"),
}
_KUBELET_CLIENT = Row("", "ca", f"system:node:{NODE}", "system:nodes")

_PODS = {
    "kube-apiserver": f"""
        --advertise-address={ADDRESS} --client-ca-file=@/pki/ca.crt --etcd-cafile=@/pki/etcd/ca.crt
        --etcd-certfile=@/pki/apiserver-etcd-client.crt --etcd-keyfile=@/pki/apiserver-etcd-client.key
        --etcd-servers=https://127.0.0.1:2379 --kubelet-client-certificate=@/pki/apiserver-kubelet-client.crt
        --kubelet-client-key=@/pki/apiserver-kubelet-client.key --proxy-client-cert-file=@/pki/front-proxy-client.crt
        --proxy-client-key-file=@/pki/front-proxy-client.key --requestheader-allowed-names=front-proxy-client
        --requestheader-client-ca-file=@/pki/front-proxy-ca.crt --secure-port=6443
        --service-account-issuer=https://kubernetes.default.svc.cluster.local
        --service-account-key-file=@/pki/sa.pub --service-account-signing-key-file=@/pki/sa.key
        --service-cluster-ip-range=10.96.0.0/12 --tls-cert-file=@/pki/apiserver.crt
        --tls-private-key-file=@/pki/apiserver.key""",
    "etcd": f"""
        --advertise-client-urls=https://{ADDRESS}:2379 --cert-file=@/pki/etcd/server.crt --client-cert-auth=true
        --key-file=@/pki/etcd/server.key --listen-client-urls=https://127.0.0.1:2379,https://{ADDRESS}:2379
        --listen-peer-urls=https://{ADDRESS}:2380 --name={NODE} --peer-cert-file=@/pki/etcd/peer.crt
        --peer-client-cert-auth=true --peer-key-file=@/pki/etcd/peer.key
        --peer-trusted-ca-file=@/pki/etcd/ca.crt --trusted-ca-file=@/pki/etcd/ca.crt""",
    "kube-controller-manager": """
        --authentication-kubeconfig=@/controller-manager.conf --authorization-kubeconfig=@/controller-manager.conf
        --client-ca-file=@/pki/ca.crt --cluster-signing-cert-file=@/pki/ca.crt --cluster-signing-key-file=@/pki/ca.key
        --kubeconfig=@/controller-manager.conf --requestheader-client-ca-file=@/pki/front-proxy-ca.crt
        --root-ca-file=@/pki/ca.crt --service-account-private-key-file=@/pki/sa.key""",
    "kube-scheduler": """
        --authentication-kubeconfig=@/scheduler.conf --authorization-kubeconfig=@/scheduler.conf
        --kubeconfig=@/scheduler.conf""",
}


@immutable
class _Issued:
    """A certificate of the demonstration, and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def serial(self) -> str:
        return str(self.certificate.serial_number)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _key_pem(self.key)


class Node:
    """The node of the demo. The methods of this class take paths on the node, such as /etc/kubernetes/pki/ca.crt."""

    def __init__(self, root: Path, now: datetime) -> None:
        self._root = root
        self._now = now
        self._authorities: dict[str, _Issued] = {}

    def make(self) -> None:
        """Create the CAs, the leaves, the service-account key, and the configuration files of the components."""
        for name, row in AUTHORITIES.items():
            self._authorities[name] = _issue(row, None, self._now - CA_AGE, CA_LIFE)
            self.put(_pair(f"{KUBERNETES}/{row.path}", self._authorities[name]))
        for name in LEAVES:
            self.put(self.issue(name, age=LEAF_AGE).files)
        self.put(_service_account())
        self.put({f"{KUBERNETES}/manifests/{name}.yaml": File(_pod(name, flags)) for name, flags in _PODS.items()})
        self.put({"/etc/hostname": File(f"{NODE}\n".encode(), 0o644)})
        self._make_kubelet()

    def issue(self, name: str, age: timedelta = timedelta(minutes=5)) -> Renewal:
        """Return the files of a new certificate for the entry `name`, with a new key.

        The validity of one year began `age` ago.
        """
        row = LEAVES[name]
        issued = _issue(row, self._authorities[row.ca], self._now - age, LEAF_LIFE)
        path = f"{KUBERNETES}/{row.path}"
        if not path.endswith(".conf"):
            return Renewal(_pair(path, issued), issued.serial)
        user = {"client-certificate-data": _text64(issued.pem), "client-key-data": _text64(issued.key_pem)}
        return Renewal({path: File(self._kubeconfig(row.common_name, user))}, issued.serial)

    def other_key(self, name: str) -> Files:
        """Return a file with a private key that matches no certificate, by the path of the entry's key."""
        return {f"{KUBERNETES}/{LEAVES[name].path}.key": File(_key_pem(ec.generate_private_key(ec.SECP256R1())))}

    def put(self, files: Files) -> None:
        """Replace each file by a rename, so that a reader gets either the old or the new file."""
        for path, file in files.items():
            target = self.place(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged = target.with_name(f".{target.name}.new")
            staged.touch(mode=0o600)
            staged.write_bytes(file.content)
            staged.chmod(file.mode)
            staged.replace(target)

    def truncate(self, path: str) -> None:
        """Truncate a file to its first half, like an interrupted write on a full disk."""
        os.truncate(self.place(path), self.place(path).stat().st_size // 2)

    def place(self, path: str) -> Path:
        """Return the path on this host that corresponds to `path` on the node of the demo."""
        return self._root / path.lstrip("/")

    def _make_kubelet(self) -> None:
        """Create the certificates and the configuration files of the kubelet."""
        start = self._now - LEAF_AGE
        client = _issue(_KUBELET_CLIENT, self._authorities["ca"], start, LEAF_LIFE)
        current, dated = (f"{KUBELET}/pki/kubelet-client-{which}.pem" for which in ("current", f"{start:%F-%H-%M-%S}"))
        stamp = int(start.timestamp())
        own_ca = _issue(Row("", "", f"{NODE}-ca@{stamp}", usages=()), None, start, LEAF_LIFE)
        serving = Row("", "", f"{NODE}@{stamp}", usages=_SERVER, names=(f"DNS:{NODE}",))
        server = _issue(serving, own_ca, start, LEAF_LIFE)
        user = {"client-certificate": current, "client-key": current}
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"x509": {"clientCAFile": f"{KUBERNETES}/pki/ca.crt"}},
            "clusterDomain": "cluster.local", "rotateCertificates": True,
        }  # fmt: skip
        self.put({
            dated: File(client.pem + client.key_pem),
            f"{KUBELET}/pki/kubelet.crt": File(server.pem + own_ca.pem, 0o644),
            f"{KUBELET}/pki/kubelet.key": File(server.key_pem),
            f"{KUBELET}/config.yaml": File(yaml.safe_dump(settings).encode(), 0o644),
            f"{KUBERNETES}/kubelet.conf": File(self._kubeconfig(_KUBELET_CLIENT.common_name, user)),
        })  # fmt: skip
        self.place(current).symlink_to(dated)

    def _kubeconfig(self, user: str, credentials: Mapping[str, str]) -> bytes:
        trust, context = _text64(self._authorities["ca"].pem), f"{user}@kubernetes"
        cluster = {"certificate-authority-data": trust, "server": f"https://{ADDRESS}:6443"}
        return yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": "kubernetes", "cluster": cluster}],
            "contexts": [{"name": context, "context": {"cluster": "kubernetes", "user": user}}],
            "users": [{"name": user, "user": dict(credentials)}],
        }).encode()  # fmt: skip


def _issue(row: Row, issuer: _Issued | None, start: datetime, life: timedelta) -> _Issued:
    """Return a certificate that `issuer` signs. If `issuer` is None, return a self-signed Root CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    organization = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, row.organization)] if row.organization else []
    subject = x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, row.common_name)])
    usage = x509.KeyUsage(
        digital_signature=True, key_encipherment=True, key_cert_sign=issuer is None, content_commitment=False,
        data_encipherment=False, key_agreement=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (usage, True),
        (x509.BasicConstraints(ca=issuer is None, path_length=None), True),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False)
        if issuer
        else (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    if row.usages:
        extensions.append((x509.ExtendedKeyUsage(row.usages), False))
    if row.names:
        extensions.append((x509.SubjectAlternativeName([_general(name) for name in row.names]), False))
    start = start.replace(microsecond=0)
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject if issuer else subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=secrets.randbelow(2**63 - 2) + 1,
        not_valid_before=start,
        not_valid_after=start + life,
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return _Issued(builder.sign(issuer.key if issuer else key, SHA256()), key)


def _general(name: str) -> x509.GeneralName:
    kind, _, value = name.partition(":")
    return x509.DNSName(value) if kind == "DNS" else x509.IPAddress(ip_address(value))


def _pair(path: str, issued: _Issued) -> Files:
    return {f"{path}.key": File(issued.key_pem), f"{path}.crt": File(issued.pem, 0o644)}


def _service_account() -> Files:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {f"{KUBERNETES}/pki/sa.key": File(_key_pem(key)), f"{KUBERNETES}/pki/sa.pub": File(public)}


def _pod(name: str, flags: str) -> bytes:
    container = {"name": name, "command": [name, *flags.replace("@", KUBERNETES).split()]}
    return yaml.safe_dump({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"containers": [container], "hostNetwork": True},
    }).encode()  # fmt: skip


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key in SEC1 format, which kubeadm and the kubelet write."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _text64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
