"""Trees of nodes as other distributions than kubeadm create them: paths, subjects, usages, names, keys, dates, modes
and the order of certificates in a file, each from the source that certmond/profiles/NAME.yaml names.

    tree = MAKERS["k3s"](tmp_path)                        # a server with embedded etcd, as after its first start
    tree.leaf("/var/lib/…/client-admin.crt", not_after=NOW - DAY)      # the same leaf with this change

A `Tree` stores the parameters of each file, so that a test can change one at a time.
"""

from __future__ import annotations

import base64
import os
import posixpath
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cryptography.x509.oid import NameOID

from tests.builders import DAY, HOUR, NOW, YEAR, Issued, make_ca, make_intermediate, make_leaf, make_server
from tests.node import Node

MINUTE = HOUR / 60
NODE = "node-1"
ETCD_USER = 997
"""The ID of the system user etcd, which kubespray creates. This user owns the directory of etcd's certificates."""
ADDRESS = "IP:192.0.2.11"
SERVICE_NAMES = ["DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                 "DNS:kubernetes.default.svc.cluster.local"]  # fmt: skip
BOTH = ["server auth", "client auth"]


@dataclass
class Tree:
    """The files of a node below `root`; paths are those on the node."""

    root: Path
    authorities: dict[str, Issued] = field(default_factory=dict)
    leaves: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    issued: dict[str, Issued] = field(default_factory=dict)

    def at(self, path: str) -> Path:
        return self.root / path[1:]

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        place.chmod(mode)

    def authority(self, path: str, ca: Issued, *, key_mode: int = 0o600, mode: int = 0o644) -> Issued:
        """A CA's certificate and key."""
        self.write(path, ca.pem, mode)
        self.write(key_of(path), traditional(ca), key_mode)
        self.authorities[path] = ca
        return ca

    def pair(self, path: str, ca: str, *, chain: bool = False, **wanted: Any) -> Issued:
        """Write a leaf that the CA at `ca` signs, and its key. With `chain` the CA's certificate follows the leaf."""
        self.leaves[path] = (ca, {"chain": chain, **wanted})
        return self.leaf(path)

    def leaf(self, path: str, by: Issued | None = None, **changes: Any) -> Issued:
        """Write the leaf of `pair` again with the `changes`. `by` is another CA that signs it."""
        ca, wanted = self.leaves[path]
        given = wanted | changes
        modes = given.pop("modes", (0o644, 0o600))
        chain, subject = given.pop("chain"), given.pop("subject")
        make = make_server if given.get("names") is not None else make_leaf
        issuer = by or self.authorities[ca]
        made = make(issuer, "", **{"subject": name_of(subject), "names": None} | given)
        self.write(path, made.pem + (issuer.pem if chain else b""), modes[0])
        self.write(key_of(path), traditional(made), modes[1])
        self.issued[path] = made
        return made

    def remove(self, *directories: str) -> None:
        for directory in directories:
            shutil.rmtree(self.at(directory))

    def service(self, name: str, content: str) -> None:
        """Write an enabled unit with a section [Service]."""
        unit, wants = f"/etc/systemd/system/{name}.service", "/etc/systemd/system/multi-user.target.wants"
        self.write(unit, f"[Service]\n{content}\n\n[Install]\nWantedBy=multi-user.target\n")
        self.at(wants).mkdir(exist_ok=True)
        self.at(f"{wants}/{name}.service").symlink_to(unit)

    def pod(self, file: str, containers: Mapping[str, Mapping[str, str]], mounts: Mapping[str, str]) -> None:
        """Write a manifest as kOps does. `containers` has the flags; go-runner starts the first program.

        `mounts` has the directories of the host by their paths in the containers.
        """
        volumes = [{"name": f"v{n}", "hostPath": {"path": path}} for n, path in enumerate(mounts.values())]
        common = {"volumeMounts": [{"name": f"v{n}", "mountPath": path} for n, path in enumerate(mounts)]}
        arguments = {name: [f"--{each}={value}" for each, value in flags.items()] for name, flags in containers.items()}
        each = [{"name": name, "args": words} | common for name, words in arguments.items()]
        log = ["--log-file=/var/log/component.log", "--also-stdout", f"/usr/local/bin/{each[0]['name']}"]
        each[0] |= {"command": ["/go-runner"], "args": [*log, *arguments[str(each[0]["name"])]]}
        self.write(f"/etc/kubernetes/manifests/{file}.manifest", yaml.safe_dump({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": file, "namespace": "kube-system"},
            "spec": {"hostNetwork": True, "containers": each, "volumes": volumes},
        }))  # fmt: skip

    def join_as_worker(self) -> None:
        """Create MicroK8s on a node that joined as a worker: the CA of the cluster, a lock file, and a separate
        port.
        """
        current = "/var/snap/microk8s/current"
        theirs = make_ca("10.152.183.1", names=None, usages=["cert sign", "crl sign"])
        self.write(f"{current}/certs/ca.remote.crt", theirs.pem, 0o660)
        for name in ("kubelet", "proxy"):
            made = self.leaf(f"{current}/certs/{name}.crt", by=theirs)
            user = f"system:node:{NODE}" if name == "kubelet" else "system:kube-proxy"
            config = f"{current}/credentials/{name}.config"
            self.kubeconfig(config, made.pem, traditional(made), theirs.pem, mode=0o660, name=user)
        self.write(f"{current}/var/lock/clustered.lock", "", 0o660)

    def kubeconfig(
        self, path: str, user: bytes, key: bytes, ca: bytes, *, mode: int = 0o600, name: str = "user"
    ) -> None:
        """With everything inside, as kubectl writes it."""
        coded = {part: base64.b64encode(content).decode() for part, content in zip("uka", (user, key, ca), strict=True)}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "Default",
            "clusters": [{"name": "local", "cluster": {
                "server": "https://127.0.0.1:6443", "certificate-authority-data": coded["a"]}}],
            "contexts": [{"name": "Default", "context": {"cluster": "local", "user": name}}],
            "users": [{"name": name, "user": {"client-certificate-data": coded["u"], "client-key-data": coded["k"]}}],
        }  # fmt: skip
        self.write(path, yaml.dump(document, Dumper=yaml.CSafeDumper), mode)


def name_of(text: str) -> x509.Name:
    """CN=a,O=b as a name."""
    kinds = {"CN": NameOID.COMMON_NAME, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
             "C": NameOID.COUNTRY_NAME, "ST": NameOID.STATE_OR_PROVINCE_NAME, "L": NameOID.LOCALITY_NAME}  # fmt: skip
    parts = (part.partition("=") for part in text.split(","))
    # Go signs common names of more than 64 characters.
    return x509.Name([x509.NameAttribute(kinds[kind], value, _validate=False) for kind, _, value in parts])


def key_of(path: str) -> str:
    """Return the key file beside NAME.crt or NAME.pem."""
    return path.replace(".crt", ".key").replace(".pem", "-key.pem")


def traditional(issued: Issued) -> bytes:
    return issued.key_as(PrivateFormat.TraditionalOpenSSL)


def rancher(root: Path, program: str) -> Tree:
    """A server of k3s or RKE2 with embedded etcd, with its own agent."""
    tree = Tree(root)
    data = f"/var/lib/rancher/{program}"
    tls, agent = f"{data}/server/tls", f"{data}/agent"
    client, server, proxy = (f"{tls}/{name}-ca.crt" for name in ("client", "server", "request-header"))
    etcd, peer = f"{tls}/etcd/server-ca.crt", f"{tls}/etcd/peer-ca.crt"
    prefixes = {client: f"{program}-client", server: f"{program}-server", proxy: f"{program}-request-header",
                etcd: "etcd-server", peer: "etcd-peer"}  # fmt: skip
    for path, prefix in prefixes.items():
        name = f"{prefix}-ca@{int((NOW - DAY).timestamp())}"
        tree.authority(path, make_ca(name, serial=0, names=None, not_before=NOW - DAY, not_after=NOW - DAY + 10 * YEAR))
    dates: dict[str, Any] = {"not_before": NOW - DAY, "not_after": NOW - DAY + YEAR}
    clients = {
        "client-kube-apiserver": "CN=system:apiserver,O=system:masters",
        "client-admin": "CN=system:admin,O=system:masters",
        "client-supervisor": f"CN=system:{program}-supervisor,O=system:masters",
        "client-controller": "CN=system:kube-controller-manager",
        "client-scheduler": "CN=system:kube-scheduler",
        "client-kube-proxy": "CN=system:kube-proxy",
        f"client-{program}-controller": f"CN=system:{program}-controller",
        f"client-{program}-cloud-controller": f"CN={program}-cloud-controller-manager",
    }
    for name, subject in clients.items():
        tree.pair(f"{tls}/{name}.crt", client, chain=True, subject=subject, **dates)
    tree.pair(f"{tls}/client-auth-proxy.crt", proxy, chain=True, subject="CN=system:auth-proxy", **dates)
    own = [*SERVICE_NAMES, "DNS:localhost", f"DNS:{NODE}", "IP:127.0.0.1", ADDRESS, "IP:10.43.0.1"]
    serving: dict[str, Any] = {"chain": True, "extended_usages": ["server auth"], **dates}
    tree.pair(f"{tls}/serving-kube-apiserver.crt", server, subject="CN=kube-apiserver", names=own, **serving)
    for name in ("kube-scheduler", "kube-controller-manager"):
        here = ["DNS:localhost", "IP:127.0.0.1"]
        tree.pair(f"{tls}/{name}/{name}.crt", server, subject=f"CN={name}", names=here, **serving)
    members: dict[str, Any] = {"chain": True, "extended_usages": BOTH, "names": ["DNS:kine.sock", *own[4:]], **dates}
    tree.pair(f"{tls}/etcd/client.crt", etcd, chain=True, subject="CN=etcd-client", **dates)
    tree.pair(f"{tls}/etcd/server-client.crt", etcd, subject="CN=etcd-server", **members)
    tree.pair(f"{tls}/etcd/peer-server-client.crt", peer, subject="CN=etcd-peer", **members)
    tree.write(f"{data}/server/db/etcd/name", f"{NODE}-12345678", 0o600)
    tree.write(f"{data}/server/cred/passwd", "", 0o600)
    admin = tree.issued[f"{tls}/client-admin.crt"]
    chain = admin.pem + tree.authorities[client].pem
    tree.kubeconfig(f"/etc/rancher/{program}/{program}.yaml", chain, traditional(admin), tree.authorities[server].pem)
    for name in ("client-kubelet", "serving-kubelet"):  # shared with agents that send no request
        tree.write(f"{tls}/{name}.key", traditional(make_leaf(tree.authorities[client])), 0o600)
    # certificates of the agent
    tree.write("/etc/rancher/node/password", "", 0o600)
    for path, name in ((client, "client-ca"), (server, "server-ca")):
        tree.write(f"{agent}/{name}.crt", tree.authorities[path].pem, 0o600)
    secret: dict[str, Any] = {"chain": True, "modes": (0o600, 0o600), **dates}
    kubelet = f"CN=system:node:{NODE},O=system:nodes"
    tree.pair(f"{agent}/client-kubelet.crt", client, subject=kubelet, **secret)
    tree.pair(f"{agent}/client-kube-proxy.crt", client, subject="CN=system:kube-proxy", **secret)
    controller = f"{agent}/client-{program}-controller.crt"
    tree.pair(controller, client, subject=f"CN=system:{program}-controller", **secret)
    names = [f"DNS:{NODE}", "DNS:localhost", "IP:127.0.0.1", ADDRESS]
    serving = secret | {"extended_usages": ["server auth"], "names": names}
    tree.pair(f"{agent}/serving-kubelet.crt", server, subject=f"CN={NODE}", **serving)
    tree.write("/etc/hostname", f"{NODE}\n")
    return tree


def k3s(root: Path) -> Tree:
    return rancher(root, "k3s")


def rke2(root: Path) -> Tree:
    return rancher(root, "rke2")


def k0s(root: Path) -> Tree:
    """A controller that is a worker, too, with etcd."""
    tree = Tree(root)
    pki = "/var/lib/k0s/pki"
    ca, front, etcd = f"{pki}/ca.crt", f"{pki}/front-proxy-ca.crt", f"{pki}/etcd/ca.crt"
    names = {ca: "kubernetes-ca", front: "kubernetes-front-proxy-ca", etcd: "etcd-ca"}
    own: dict[str, Any] = {"key": "rsa", "names": None, "usages": ["cert sign", "crl sign"],
                           "not_before": NOW - 5 * MINUTE, "not_after": NOW + 10 * YEAR}  # fmt: skip
    for path, name in names.items():
        tree.authority(path, make_ca(name, **own), key_mode=0o640)
    both: dict[str, Any] = {"key": "rsa", "extended_usages": BOTH, "modes": (0o644, 0o640)}

    def pair(name: str, subject: str, by: str = ca, names: list[str] | None = None) -> None:
        tree.pair(f"{pki}/{name}.crt", by, subject=subject, names=names, **both)

    hosts = [*SERVICE_NAMES, "DNS:kubernetes.default.svc.cluster.local.", "DNS:localhost", "IP:127.0.0.1", ADDRESS]
    pair("server", "CN=kubernetes,O=kubernetes", names=hosts)
    pair("k0s-api", "CN=k0s-api,O=kubernetes", names=hosts)
    pair("front-proxy-client", "CN=front-proxy-client,O=front-proxy-client", front)
    pair("apiserver-kubelet-client", "CN=apiserver-kubelet-client,O=system:masters")
    here = ["IP:127.0.0.1", "DNS:localhost"]
    pair("apiserver-etcd-client", "CN=apiserver-etcd-client,O=apiserver-etcd-client", etcd, here)
    pair("etcd/server", "CN=etcd-server,O=etcd-server", etcd, here)
    pair("etcd/peer", "CN=192.0.2.11,O=etcd-peer", etcd, [ADDRESS])
    users = {
        "admin": ("kubernetes-admin", "system:masters", 0o600),
        "ccm": ("system:kube-controller-manager", "system:kube-controller-manager", 0o600),
        "scheduler": ("system:kube-scheduler", "system:kube-scheduler", 0o600),
        "konnectivity": ("kubernetes-konnectivity", "system:masters", 0o640),
    }
    for name, (user, group, mode) in users.items():
        pair(name, f"CN={user},O={group}")
        made = tree.issued[f"{pki}/{name}.crt"]
        tree.kubeconfig(f"{pki}/{name}.conf", made.pem, traditional(made), tree.authorities[ca].pem, mode=mode)
    for name in ("sa", "etcd/jwt"):
        made = make_leaf(tree.authorities[ca], key="rsa")
        tree.write(f"{pki}/{name}.key", traditional(made), 0o640)
        tree.write(f"{pki}/{name}.pub", made.public_pem)
    tree.write("/var/lib/k0s/etcd/member/snap/db", "", 0o600)
    kubelet = "/var/lib/k0s/kubelet/pki"
    for name, usage in (("client", "client auth"), ("server", "server auth")):
        dated = f"{kubelet}/kubelet-{name}-2026-11-24-12-00-00.pem"
        usages: dict[str, Any] = {"usages": ["digital signature"], "extended_usages": [usage]}
        made = make_leaf(
            tree.authorities[ca], "", **{"subject": name_of(f"CN=system:node:{NODE},O=system:nodes")} | usages
        )
        tree.write(dated, made.pem + traditional(made), 0o600)
        tree.at(f"{kubelet}/kubelet-{name}-current.pem").symlink_to(dated)
    tree.write("/run/k0s/kubelet/ca.crt", tree.authorities[ca].pem)
    current = f"{kubelet}/kubelet-client-current.pem"
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "default-context",
        "clusters": [{"name": "default-cluster", "cluster": {
            "server": "https://192.0.2.11:6443",
            "certificate-authority-data": base64.b64encode(tree.authorities[ca].pem).decode()}}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "user": "default-auth"}}],
        "users": [{"name": "default-auth", "user": {"client-certificate": current, "client-key": current}}],
    }  # fmt: skip
    tree.write("/var/lib/k0s/kubelet.conf", yaml.safe_dump(document), 0o600)
    return tree


def microk8s(root: Path) -> Tree:
    """A control plane, alone or one of several."""
    tree = Tree(root)
    current = "/var/snap/microk8s/current"
    certs, credentials = f"{current}/certs", f"{current}/credentials"
    ca, front = f"{certs}/ca.crt", f"{certs}/front-proxy-ca.crt"
    decade: dict[str, Any] = {"key": "rsa", "not_before": NOW, "not_after": NOW + 10 * YEAR}
    for path, name in ((ca, "10.152.183.1"), (front, "front-proxy-ca")):
        made = make_ca(name, names=None, usages=["cert sign", "crl sign"], **decade)
        tree.authority(path, made, mode=0o660, key_mode=0o660)
    v3 = ["digital signature", "key encipherment", "data encipherment"]
    year: dict[str, Any] = {"key": "rsa", "not_before": NOW, "not_after": NOW + YEAR, "modes": (0o660, 0o660),
                            "usages": v3, "extended_usages": BOTH, "names": [
                                "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                                "DNS:kubernetes.default.svc.cluster", "DNS:kubernetes.default.svc.cluster.local",
                                "IP:127.0.0.1", "IP:10.152.183.1", ADDRESS]}  # fmt: skip
    canonical = "C=GB,ST=Canonical,L=Canonical,O=Canonical,OU=Canonical,CN=127.0.0.1"
    tree.pair(f"{certs}/server.crt", ca, subject=canonical, **year)
    tree.pair(f"{certs}/front-proxy-client.crt", front, subject="CN=front-proxy-client", **year)
    bare: dict[str, Any] = decade | {"usages": None, "extended_usages": None, "is_ca": None, "modes": (0o660, 0o660)}
    node = f"CN=system:node:{NODE},O=system:nodes"
    tree.pair(f"{certs}/kubelet.crt", ca, subject=node, names=[f"DNS:{NODE}", ADDRESS], **bare)
    client = f"{certs}/apiserver-kubelet-client.crt"
    tree.pair(client, ca, subject="CN=kube-apiserver-kubelet-client,O=system:masters", version=1, **bare)
    users = {
        "client": ("CN=admin,O=system:masters", "admin"),
        "controller": ("CN=system:kube-controller-manager", "system:kube-controller-manager"),
        "scheduler": ("CN=system:kube-scheduler", "system:kube-scheduler"),
        "proxy": ("CN=system:kube-proxy", "system:kube-proxy"),
    }
    for name, (subject, _) in users.items():
        tree.pair(f"{certs}/{name}.crt", ca, subject=subject, version=1, **bare)
    for name, user in {**{name: user for name, (_, user) in users.items()}, "kubelet": f"system:node:{NODE}"}.items():
        made = tree.issued[f"{certs}/{name}.crt"]
        config = f"{credentials}/{name}.config"
        tree.kubeconfig(config, made.pem, traditional(made), tree.authorities[ca].pem, mode=0o660, name=user)
    dqlite = make_ca("k8s", names=[f"DNS:{NODE}", "IP:127.0.0.1"], usages=None, **decade)
    backend = f"{current}/var/kubernetes/backend/cluster.crt"
    tree.write(backend, dqlite.pem, 0o660)
    tree.write(backend.replace(".crt", ".key"), dqlite.key_pem, 0o660)
    tree.write(f"{current}/args/kubelite", "", 0o660)
    tree.write(f"{certs}/serviceaccount.key", traditional(make_leaf(dqlite, key="rsa")), 0o660)
    return tree


def etcd(root: Path) -> Tree:
    """A member that etcdadm has made."""
    tree = Tree(root)
    pki = "/etc/etcd/pki"
    ca, created = f"{pki}/ca.crt", NOW - DAY
    own: dict[str, Any] = {"key": "rsa", "names": None, "not_before": created, "not_after": created + 10 * YEAR}
    tree.authority(ca, make_ca("etcd", **own))
    dates: dict[str, Any] = {"key": "rsa", "not_before": created, "not_after": NOW + YEAR}
    here, there = ["IP:127.0.0.1"], [f"DNS:{NODE}", ADDRESS]
    tree.pair(f"{pki}/server.crt", ca, subject=f"CN={NODE}", names=there + here, extended_usages=BOTH, **dates)
    tree.pair(f"{pki}/peer.crt", ca, subject=f"CN={NODE}", names=there, extended_usages=BOTH, **dates)
    for name, user in (("etcdctl-etcd-client", "etcdctl"), ("apiserver-etcd-client", "kube-apiserver-etcd-client")):
        tree.pair(f"{pki}/{name}.crt", ca, subject=f"CN={NODE}-{user},O=system:masters", **dates)
    tree.write("/etc/etcd/etcd.env", f"ETCD_NAME={NODE}\nETCD_CERT_FILE={pki}/server.crt\n")
    return tree


def starlingx(root: Path) -> Tree:
    """Create the active controller: kubeadm's files, with etcd's files and HAProxy's bundle at the paths of
    StarlingX.
    """
    node = Node(root)
    tree = Tree(root)
    for path in (root / "etc/kubernetes/pki/etcd").iterdir():
        path.unlink()
    (root / "etc/kubernetes/pki/etcd").rmdir()
    (root / "etc/kubernetes/manifests/etcd.yaml").unlink()
    manifest = root / "etc/kubernetes/manifests/kube-apiserver.yaml"
    text = manifest.read_text().replace("/etc/kubernetes/pki/etcd/ca.crt", "/etc/etcd/ca.crt")
    manifest.write_text(text.replace("6443", "16443"))
    pki, ca = "/etc/kubernetes/pki", "/etc/etcd/ca.crt"
    own: dict[str, Any] = {"key": "rsa-4096", "names": None, "path_length": 1, "not_before": NOW}
    tree.authority(ca, make_ca("etcd", not_after=NOW + 10 * YEAR, **own))
    both: dict[str, Any] = {"key": "rsa-4096", "extended_usages": BOTH, "not_before": NOW, "not_after": NOW + YEAR}
    names = ["IP:192.0.2.2", "IP:127.0.0.1"]
    tree.pair("/etc/etcd/etcd-server.crt", ca, subject="CN=etcd-server", names=names, **both)
    tree.pair(f"{pki}/apiserver-etcd-client.crt", ca, subject="CN=apiserver-etcd-client", names=names, **both)
    tree.pair("/etc/etcd/etcd-client.crt", ca, subject="CN=root", usages=["digital signature"], **both)
    (root / "etc/kubernetes/admin.conf").chmod(0o640)
    user = node.kubeconfig("etc/kubernetes/admin.conf")["users"][0]["user"]
    bundle = (base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key"))
    tree.write(f"{pki}/haproxy_client.pem", b"".join(bundle), 0o600)
    tree.write("/etc/platform/platform.conf", "nodetype=controller\nsw_version=26.03\n")
    platform_certificates(tree)
    return tree


def k8s_snap(root: Path) -> Tree:
    """Create the first control plane of Canonical Kubernetes, with etcd.

    Sources: the files of k8sd that certmond/profiles/k8s-snap.yaml names.
    """
    tree = Tree(root)
    pki, secret = "/etc/kubernetes/pki", (0o600, 0o600)
    ca, client, front, etcd = (f"{pki}/{name}.crt" for name in ("ca", "client-ca", "front-proxy-ca", "etcd/ca"))
    dates: dict[str, Any] = {"key": "rsa", "not_before": NOW - DAY, "not_after": NOW - DAY + 20 * YEAR}
    own: dict[str, Any] = {"names": None, "usages": ["digital signature", "cert sign"], "extended_usages": BOTH}
    for path, name in {ca: "kubernetes-ca", client: "kubernetes-ca-client", front: "front-proxy-ca",
                       etcd: "etcd-ca"}.items():  # fmt: skip
        tree.authority(path, make_ca(name, **own, **dates), mode=0o600)
    tree.at(f"{pki}/etcd/ca.key").unlink()
    usages = ["key encipherment", "data encipherment", "digital signature"]
    leaf: dict[str, Any] = {"usages": usages, "extended_usages": BOTH, "modes": secret, **dates}
    here, node = ["IP:127.0.0.1", "IP:::1", ADDRESS], f"CN=system:node:{NODE},O=system:nodes"
    names = [*SERVICE_NAMES, "DNS:kubernetes.default.svc.cluster", *here, "IP:10.152.183.1"]
    tree.pair(f"{pki}/apiserver.crt", ca, subject="CN=kube-apiserver", names=names, **leaf)
    tree.pair(f"{pki}/kubelet.crt", ca, subject=node, names=[f"DNS:{NODE}", *here], **leaf)
    masters = "CN=apiserver-kubelet-client,O=system:masters"
    tree.pair(f"{pki}/apiserver-kubelet-client.crt", client, subject=masters, **leaf)
    tree.pair(f"{pki}/front-proxy-client.crt", front, subject="CN=front-proxy-client", **leaf)
    tree.pair(f"{pki}/apiserver-etcd-client.crt", etcd, subject="CN=kube-apiserver-etcd-client", **leaf)
    for name, subject in (("server", "CN=kube-etcd"), ("peer", "CN=kube-etcd-peer")):
        tree.pair(f"{pki}/etcd/{name}.crt", etcd, subject=subject, names=[f"DNS:{NODE}", *here], **leaf)
    users = {"admin": "CN=kubernetes-admin,O=system:masters", "controller": "CN=system:kube-controller-manager",
             "proxy": "CN=system:kube-proxy", "scheduler": "CN=system:kube-scheduler", "kubelet": node}  # fmt: skip
    for name, subject in users.items():
        made = make_leaf(tree.authorities[client], "", **{key: value for key, value in leaf.items() if key != "modes"},
                         subject=name_of(subject))  # fmt: skip
        config = f"/etc/kubernetes/{name}.conf"
        tree.kubeconfig(config, made.pem, traditional(made), tree.authorities[ca].pem, name="k8s-user")
    tree.write("/var/snap/k8s/common/args/kubelet", "", 0o600)
    tree.write("/etc/hostname", f"{NODE}\n")
    return tree


def microshift(root: Path) -> Tree:
    """Create the node after the first start of MicroShift.

    Sources: the files of MicroShift that certmond/profiles/microshift.yaml names.
    """
    tree = Tree(root)
    data = "/var/lib/microshift"
    certs = f"{data}/certs"
    year: dict[str, Any] = {"key": "rsa", "not_before": NOW - DAY, "not_after": NOW - DAY + YEAR}
    decade = year | {"not_after": NOW - DAY + 10 * YEAR}
    signing = ["key encipherment", "digital signature", "cert sign"]
    signers = {"kube-control-plane-signer": year, "kube-apiserver-to-kubelet-client-signer": year,
               "admin-kubeconfig-signer": decade, "kubelet-csr-signer-signer": year, "aggregator-signer": year,
               "service-ca": decade, "ingress-ca": decade, "kube-apiserver-external-signer": decade,
               "kube-apiserver-localhost-signer": decade, "kube-apiserver-service-network-signer": decade,
               "etcd-signer": decade}  # fmt: skip
    names = {"kube-apiserver-to-kubelet-client-signer": "kube-apiserver-to-kubelet-signer",
             "kubelet-csr-signer-signer": "kubelet-signer"}  # fmt: skip
    for signer, dates in signers.items():
        tree.authority(f"{certs}/{signer}/ca.crt", make_ca(names.get(signer, signer), usages=signing, **dates))
    root_signer = tree.authorities[f"{certs}/kubelet-csr-signer-signer/ca.crt"]
    csr_signer = f"{certs}/kubelet-csr-signer-signer/csr-signer"
    between = make_intermediate(root_signer, "kube-csr-signer", usages=signing, **year)
    tree.authority(f"{csr_signer}/ca.crt", between)
    tree.write(f"{csr_signer}/ca-bundle.crt", between.pem + root_signer.pem)
    node = f"CN=system:node:{NODE},O=system:nodes"
    clients = {
        "kube-control-plane-signer": {
            "kube-controller-manager": "CN=system:kube-controller-manager",
            "kube-scheduler": "CN=system:kube-scheduler",
            "cluster-policy-controller": "CN=system:kube-controller-manager",
            "route-controller-manager":
                "CN=system:serviceaccount:openshift-route-controller-manager:route-controller-manager-sa,"
                "O=system:serviceaccounts,O=system:serviceaccounts:openshift-route-controller-manager",
        },
        "kube-apiserver-to-kubelet-client-signer": {
            "kube-apiserver-to-kubelet-client": "CN=system:kube-apiserver,O=kube-master",
            "metrics-server-kubelet-client": "CN=system:metrics-server",
        },
        "admin-kubeconfig-signer": {
            "admin-kubeconfig-client": "CN=system:admin,O=system:masters",
            "openshift-observability-client": "CN=openshift-observability-client",
        },
        "aggregator-signer": {"aggregator-client": "CN=system:openshift-aggregator"},
        "etcd-signer": {"apiserver-etcd-client": "CN=etcd,O=etcd"},
        "kubelet-csr-signer-signer/csr-signer": {"kubelet-client": node},
    }  # fmt: skip
    long_lived = {"admin-kubeconfig-client", "apiserver-etcd-client"}
    for signer, users in clients.items():
        for name, subject in users.items():
            dates = decade if name in long_lived else year
            tree.pair(f"{certs}/{signer}/{name}/client.crt", f"{certs}/{signer}/ca.crt", subject=subject, **dates)
    service, name_of_service = "route-controller-manager.openshift-route-controller-manager.svc", "kubernetes"
    openshift = [name.replace(name_of_service, "openshift", 1) for name in SERVICE_NAMES]
    servers: dict[str, list[str]] = {
        "service-ca/route-controller-manager-serving": [f"DNS:{service}", f"DNS:{service}.cluster.local"],
        "ingress-ca/router-default-serving": ["DNS:*.apps.example.com"],
        "kube-apiserver-external-signer/kube-external-serving": [f"DNS:{NODE}", "DNS:api.example.com"],
        "kube-apiserver-localhost-signer/kube-apiserver-localhost-serving": ["DNS:localhost"],
        "kube-apiserver-service-network-signer/kube-apiserver-service-network-serving": [
            *SERVICE_NAMES, *openshift, "DNS:api.example.com", "DNS:api-int.example.com", "IP:10.44.0.0",
            "IP:10.43.0.1"],
        "kubelet-csr-signer-signer/csr-signer/kubelet-server": [f"DNS:{NODE}", ADDRESS],
    }  # fmt: skip
    for path, hosts in servers.items():
        subject = f"CN={min(host.partition(':')[2] for host in hosts)}"
        ca = f"{certs}/{posixpath.dirname(path)}/ca.crt"
        server: dict[str, Any] = {"names": hosts, "extended_usages": ["server auth"], **year}
        tree.pair(f"{certs}/{path}/server.crt", ca, chain=True, subject=subject, **server)
    kubelet = f"{csr_signer}/kubelet-server/server.crt"
    tree.write(kubelet, tree.at(kubelet).read_bytes() + root_signer.pem)
    for name, subject in (("peer", "CN=system:etcd-peer:etcd-client,O=system:etcd-peers"),
                          ("serving", "CN=system:etcd-server:etcd-client,O=system:etcd-servers")):  # fmt: skip
        member: dict[str, Any] = {"names": ["DNS:localhost", f"DNS:{NODE}", ADDRESS], "extended_usages": BOTH, **decade}
        ca = f"{certs}/etcd-signer/ca.crt"
        tree.pair(f"{certs}/etcd-signer/etcd-{name}/peer.crt", ca, chain=True, subject=subject, **member)
    control, to_kubelet, admin = (tree.authorities[f"{certs}/{name}/ca.crt"] for name in [*signers][:3])
    api = [tree.authorities[f"{certs}/kube-apiserver-{name}-signer/ca.crt"] for name in
           ("localhost", "service-network", "external")]  # fmt: skip
    bundles = {"client-ca": [control, to_kubelet, admin, root_signer, between],
               "kubelet-ca": [control, to_kubelet, admin, root_signer, between],
               "kubelet-serving-ca": [root_signer, between], "service-account-token-ca": api}  # fmt: skip
    for name, members in bundles.items():
        tree.write(f"{certs}/ca-bundle/{name}.crt", b"".join(each.pem for each in members), 0o600)
    users_of = {"kubeadmin": "admin-kubeconfig-signer/admin-kubeconfig-client",
                "kubeadmin/node-1": "admin-kubeconfig-signer/admin-kubeconfig-client",
                "observability-client": "admin-kubeconfig-signer/openshift-observability-client",
                "kubelet": "kubelet-csr-signer-signer/csr-signer/kubelet-client"}  # fmt: skip
    users_of |= {name: f"kube-control-plane-signer/{name}" for name in clients["kube-control-plane-signer"]}
    for name, user in users_of.items():
        made, trusted = tree.issued[f"{certs}/{user}/client.crt"], api[2 if "/" in name else 0]
        tree.kubeconfig(f"{data}/resources/{name}/kubeconfig", made.pem, traditional(made), trusted.pem)
    tree.write("/etc/hostname", f"{NODE}\n")
    return tree


def kubespray(root: Path) -> Tree:
    """Create the second control plane of three, with etcd as a unit: kubespray copied the files of etcd to it.

    Sources: the files of kubespray that certmond/profiles/kubespray.yaml names.
    """
    Node(root)
    tree = Tree(root)
    old, ssl, etcd = "/etc/kubernetes/pki", "/etc/kubernetes/ssl", "/etc/ssl/etcd/ssl"
    tree.remove(f"{old}/etcd")
    tree.at(old).rename(tree.at(ssl))
    tree.at(old).symlink_to(ssl)
    for name in ("apiserver-etcd-client.crt", "apiserver-etcd-client.key"):
        tree.at(f"{ssl}/{name}").unlink()
    manifests = tree.at("/etc/kubernetes/manifests")
    (manifests / "etcd.yaml").unlink()
    for manifest in manifests.iterdir():
        text = manifest.read_text().replace(f"{old}/etcd/ca.crt", f"{etcd}/ca.pem")
        text = text.replace(f"{old}/apiserver-etcd-client.crt", f"{etcd}/node-{NODE}.pem")
        text = text.replace(f"{old}/apiserver-etcd-client.key", f"{etcd}/node-{NODE}-key.pem")
        fields = yaml.safe_load(text.replace(f"{old}/", f"{ssl}/").replace(f"path: {old}", f"path: {ssl}"))
        for container in fields["spec"]["containers"]:
            for mount in container["volumeMounts"]:
                mount["mountPath"] = mount["mountPath"].replace(old, ssl)
        if manifest.name == "kube-apiserver.yaml":
            container["volumeMounts"].append({"name": "etcd-certs-0", "mountPath": etcd, "readOnly": True})
            fields["spec"]["volumes"].append({"name": "etcd-certs-0", "hostPath": {"path": etcd}})
        manifest.write_text(yaml.safe_dump(fields))
    ca = f"{etcd}/ca.pem"
    century: dict[str, Any] = {"key": "rsa", "not_before": NOW - DAY, "not_after": NOW + 36500 * DAY}
    tree.authority(ca, make_ca("etcd-ca", names=None, usages=None, **century), mode=0o640, key_mode=0o640)
    hosts = [NODE, "node-2", "node-3"]
    names = ["DNS:localhost", *(f"DNS:{host}" for host in hosts), "DNS:etcd.kube-system.svc.cluster.local",
             "DNS:etcd.kube-system.svc", "DNS:etcd.kube-system", "DNS:etcd", ADDRESS, "IP:127.0.0.1",
             "IP:::1"]  # fmt: skip
    leaf: dict[str, Any] = {"usages": None, "extended_usages": BOTH, "names": names, "modes": (0o640, 0o640), **century}
    for role in ("member", "admin", "node"):
        for host in hosts if role != "node" else [NODE]:
            tree.pair(f"{etcd}/{role}-{host}.pem", ca, subject=f"CN=etcd-{role}-{host}", **leaf)
    for host in hosts[1:]:
        for suffix in ("", "-key"):
            tree.at(f"{etcd}/node-{host}{suffix}.pem").symlink_to(f"{etcd}/node-{NODE}{suffix}.pem")
    tree.at(etcd).chmod(0o700)
    if os.geteuid() == 0:
        for path in (tree.at(etcd), *tree.at(etcd).iterdir()):
            if not path.is_symlink():
                os.chown(path, ETCD_USER, 0)
    variables = {"TRUSTED_CA_FILE": ca, "CERT_FILE": f"{etcd}/member-{NODE}.pem",
                 "KEY_FILE": f"{etcd}/member-{NODE}-key.pem"}  # fmt: skip
    lines = ["ETCD_NAME=etcd2", *(f"ETCD_{prefix}{name}={value}" for prefix in ("", "PEER_") for name, value in
             variables.items()), f"ETCDCTL_CERT={etcd}/admin-{NODE}.pem"]  # fmt: skip
    tree.write("/etc/etcd.env", "\n".join(lines) + "\n", 0o640)
    tree.service("etcd", "EnvironmentFile=/etc/etcd.env\nExecStart=/usr/local/bin/etcd")
    tree.write("/etc/kubernetes/kubelet-config.yaml", yaml.safe_dump({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": f"{ssl}/ca.crt"}}, "staticPodPath": "/etc/kubernetes/manifests",
        "clusterDomain": "cluster.local", "rotateCertificates": True,
    }), 0o600)  # fmt: skip
    flags = "--config=/etc/kubernetes/kubelet-config.yaml --kubeconfig=/etc/kubernetes/kubelet.conf"
    tree.write("/etc/kubernetes/kubelet.env", f'KUBELET_ARGS="{flags}"\n', 0o600)
    tree.service(
        "kubelet", "EnvironmentFile=-/etc/kubernetes/kubelet.env\nExecStart=/usr/local/bin/kubelet $KUBELET_ARGS"
    )
    return tree


def member_entry(tree: Tree) -> dict[str, Any]:
    """Return the entry of an operator that lets certmond renew the member certificate of `NODE` on `kubespray`."""
    path = f"/etc/ssl/etcd/ssl/member-{NODE}.pem"
    names = x509.load_pem_x509_certificate(tree.at(path).read_bytes()).extensions
    listed = names.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        "name": "etcd-member", "path": path, "key": key_of(path), "renewed_by": None, "keep_key": True,
        "owner": str(tree.at(path).parent.stat().st_uid), "subject": f"CN=etcd-member-{NODE}",
        "names": [f"{'IP' if isinstance(each, x509.IPAddress) else 'DNS'}:{each.value}" for each in listed],
    }  # fmt: skip


def kops(root: Path) -> Tree:
    """Create a control plane of kOps on AWS, with the two etcd clusters of a default cluster.

    Sources: the files of kOps that certmond/profiles/kops.yaml names, and the manifests below
    nodeup/pkg/model/tests/golden/minimal.
    """
    tree = Tree(root)
    srv, kubernetes, instance = "/srv/kubernetes", "/etc/kubernetes", "i-0123456789abcdef0"
    api, manager, scheduler = (f"{srv}/kube-{name}" for name in ("apiserver", "controller-manager", "scheduler"))
    controller, health = f"{kubernetes}/kops-controller", f"{kubernetes}/kube-apiserver-healthcheck/secrets"
    own: dict[str, Any] = {"key": "rsa", "names": None, "usages": ["cert sign", "crl sign"],
                           "not_before": NOW - 2 * DAY, "not_after": NOW + 10 * YEAR}  # fmt: skip
    client: dict[str, Any] = {"key": "rsa", "usages": ["digital signature"], "not_before": NOW - 2 * DAY,
                              "not_after": NOW + 470 * DAY}  # fmt: skip
    server = client | {"usages": ["digital signature", "key encipherment"], "extended_usages": ["server auth"]}
    ca, front, etcd = f"{srv}/ca.crt", f"{api}/apiserver-aggregator-ca.crt", f"{api}/etcd-ca.crt"
    shared = {name: make_ca(name, **own) for name in ("kubernetes-ca", "etcd-clients-ca")}
    for path in (f"{manager}/ca.crt", f"{controller}/kubernetes-ca.crt", f"{health}/ca.crt", ca):
        tree.authority(path, shared["kubernetes-ca"])
    tree.authority(front, make_ca("apiserver-aggregator-ca", **own))
    tree.authority(etcd, shared["etcd-clients-ca"])
    for path in (f"{health}/ca.crt", ca, front, etcd):
        tree.at(key_of(path)).unlink()
    names = [*SERVICE_NAMES, "DNS:api.example.com", "DNS:api.internal.example.com", "IP:100.64.0.1", "IP:127.0.0.1"]
    tree.pair(f"{api}/server.crt", ca, chain=True, subject="CN=kubernetes-master", names=names, **server)
    for name in ("kube-controller-manager", "kube-scheduler"):
        service = [f"DNS:{name}.kube-system.svc.cluster.local"]
        tree.pair(f"{srv}/{name}/server.crt", ca, subject=f"CN={name}", names=service, **server)
    kubelet: dict[str, Any] = server | {"names": [f"DNS:{instance}", ADDRESS], "modes": (0o644, 0o400)}
    tree.pair(f"{srv}/kubelet-server.crt", ca, subject=f"CN={instance}", **kubelet)
    service = ["DNS:kops-controller.internal.example.com"]
    tree.pair(f"{controller}/kops-controller.crt", ca, subject="CN=kops-controller", names=service, **server)
    tree.write(f"{controller}/keypair-ids.yaml", "kubernetes-ca: '1'\n", 0o600)
    for path, signer, user in (
        (f"{api}/kubelet-api.crt", ca, "kubelet-api"), (f"{api}/apiserver-aggregator.crt", front, "aggregator"),
        (f"{api}/etcd-client.crt", etcd, "kube-apiserver"), (f"{health}/client.crt", ca, "kube-apiserver-healthcheck"),
    ):  # fmt: skip
        tree.pair(path, signer, subject=f"CN={user}", **client)
    users = {name: f"CN=system:{name}" for name in ("kube-proxy", "kube-controller-manager", "kube-scheduler")}
    users |= {"kubelet": f"CN=system:node:{instance},O=system:nodes", "kubectl": "CN=kubecfg,O=system:masters",
              "kops": "CN=kops,O=system:masters"}  # fmt: skip
    for name, subject in users.items():
        made = make_leaf(tree.authorities[ca], "", subject=name_of(subject), **client)
        parts = made.pem, traditional(made), tree.authorities[ca].pem
        tree.kubeconfig(f"/var/lib/{name}/kubeconfig", *parts, mode=0o400)
    for cluster in ("main", "events"):
        kops_etcd(tree, cluster, shared["etcd-clients-ca"], own)
    tree.pod("kube-apiserver", {"kube-apiserver": {
        "bind-address": "0.0.0.0", "secure-port": "443", "client-ca-file": ca, "etcd-cafile": etcd,  # noqa: S104
        "etcd-certfile": f"{api}/etcd-client.crt", "etcd-keyfile": f"{api}/etcd-client.key",
        "kubelet-client-certificate": f"{api}/kubelet-api.crt", "kubelet-client-key": f"{api}/kubelet-api.key",
        "proxy-client-cert-file": f"{api}/apiserver-aggregator.crt",
        "proxy-client-key-file": f"{api}/apiserver-aggregator.key", "requestheader-client-ca-file": front,
        "tls-cert-file": f"{api}/server.crt", "tls-private-key-file": f"{api}/server.key",
    }, "healthcheck": {
        "ca-cert": "/secrets/ca.crt", "client-cert": "/secrets/client.crt", "client-key": "/secrets/client.key",
    }}, {ca: ca, api: api, "/secrets": health})  # fmt: skip
    place = "/var/lib/kube-controller-manager"
    tree.pod("kube-controller-manager", {"kube-controller-manager": {
        **{f"{prefix}kubeconfig": f"{place}/kubeconfig" for prefix in ("", "authentication-", "authorization-")},
        "cluster-signing-cert-file": f"{manager}/ca.crt", "cluster-signing-key-file": f"{manager}/ca.key",
        "root-ca-file": ca, "tls-cert-file": f"{manager}/server.crt", "tls-private-key-file": f"{manager}/server.key",
    }}, {ca: ca, manager: manager, place: place})  # fmt: skip
    place = "/var/lib/kube-scheduler"
    tree.pod("kube-scheduler", {"kube-scheduler": {
        **{f"{prefix}-kubeconfig": f"{place}/kubeconfig" for prefix in ("authentication", "authorization")},
        "config": f"{place}/config.yaml", "tls-cert-file": f"{scheduler}/server.crt",
        "tls-private-key-file": f"{scheduler}/server.key",
    }}, {scheduler: scheduler, place: place})  # fmt: skip
    tree.write(f"{place}/config.yaml", yaml.safe_dump({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": f"{place}/kubeconfig"}}), 0o400)  # fmt: skip
    place = "/var/lib/kube-proxy"
    tree.pod("kube-proxy", {"kube-proxy": {"kubeconfig": f"{place}/kubeconfig"}}, {place: place})
    tree.write("/var/lib/kubelet/kubelet.conf", yaml.safe_dump({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": ca}}, "staticPodPath": f"{kubernetes}/manifests",
        "tlsCertFile": f"{srv}/kubelet-server.crt", "tlsPrivateKeyFile": f"{srv}/kubelet-server.key"}))  # fmt: skip
    arguments = "--kubeconfig=/var/lib/kubelet/kubeconfig --config=/var/lib/kubelet/kubelet.conf"
    tree.write("/etc/sysconfig/kubelet", f'DAEMON_ARGS="{arguments}"\nHOME="/root"\n')
    tree.service("kubelet", 'EnvironmentFile=/etc/sysconfig/kubelet\nExecStart=/usr/local/bin/kubelet "$DAEMON_ARGS"')
    tree.write("/etc/sysconfig/kops-configuration", "", 0o600)
    tree.write("/etc/hostname", "ip-192-0-2-11\n")
    return tree


def kops_worker(root: Path, instance: str = "i-0123456789abcdef0") -> Tree:
    """Create a worker of kOps on AWS with the name `instance`, which was the private DNS name in older releases.

    Sources: BuildBootstrapKubeconfig and GetBootstrapCert in nodeup/pkg/model/context.go, kubelet.go, kube_proxy.go and
    secrets.go beside it, and the names that cmd/kops-controller/pkg/server/server.go signs.
    """
    tree = Tree(root)
    ca = "/srv/kubernetes/ca.crt"
    dates: dict[str, Any] = {"not_before": NOW - 2 * DAY, "not_after": NOW + 470 * DAY}
    tree.authority(ca, make_ca("kubernetes-ca", key="rsa", names=None, usages=["cert sign", "crl sign"],
                               not_before=NOW - 2 * DAY, not_after=NOW + 10 * YEAR), mode=0o600)  # fmt: skip
    tree.at(key_of(ca)).unlink()
    names = [f"DNS:{instance}", "DNS:ip-192-0-2-11.eu-central-1.compute.internal", ADDRESS]
    tree.pair("/srv/kubernetes/kubelet-server.crt", ca, subject=f"CN={instance}", key="rsa", names=names,
              usages=["digital signature", "key encipherment"], extended_usages=["server auth"],
              modes=(0o644, 0o400), **dates)  # fmt: skip
    for name, subject in (
        ("kubelet", f"CN=system:node:{instance},O=system:nodes"), ("kube-proxy", "CN=system:kube-proxy"),
    ):  # fmt: skip
        made = make_leaf(tree.authorities[ca], "", subject=name_of(subject), key="rsa", usages=["digital signature"],
                         **dates)  # fmt: skip
        parts = made.pem, traditional(made), tree.authorities[ca].pem
        tree.kubeconfig(f"/var/lib/{name}/kubeconfig", *parts, mode=0o400, name=name)
    file = "/var/lib/kube-proxy/kubeconfig"
    tree.pod("kube-proxy", {"kube-proxy": {
        "cluster-cidr": "100.96.0.0/11", "hostname-override": instance, "kubeconfig": file,
    }}, {file: file, "/etc/ssl/certs": "/usr/share/ca-certificates"})  # fmt: skip
    tree.write("/var/lib/kubelet/kubelet.conf", yaml.safe_dump({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": ca}}, "staticPodPath": "/etc/kubernetes/manifests",
        "tlsCertFile": "/srv/kubernetes/kubelet-server.crt", "rotateCertificates": False,
        "tlsPrivateKeyFile": "/srv/kubernetes/kubelet-server.key"}))  # fmt: skip
    arguments = "--cloud-provider=external --kubeconfig=/var/lib/kubelet/kubeconfig"
    arguments += " --config=/var/lib/kubelet/kubelet.conf"
    tree.write("/etc/sysconfig/kubelet", f'DAEMON_ARGS="{arguments}"\nHOME="/root"\n')
    tree.service("kubelet", 'EnvironmentFile=/etc/sysconfig/kubelet\nExecStart=/usr/local/bin/kubelet "$DAEMON_ARGS"')
    tree.write("/etc/sysconfig/kops-configuration", "", 0o600)
    tree.write("/etc/hostname", "ip-192-0-2-11\n")
    return tree


def kops_etcd(tree: Tree, cluster: str, clients_ca: Issued, own: dict[str, Any]) -> None:
    """Create the files of etcd-manager and of its etcd, on the node and on the volume of etcd."""
    pki, volume = f"/etc/kubernetes/pki/etcd-manager-{cluster}", f"/mnt/master-{cluster}/pki/token"
    tree.authority(f"{pki}/etcd-clients-ca.crt", clients_ca)
    for name in ("etcd-manager-ca", "etcd-peers-ca"):
        tree.authority(f"{pki}/{name}.crt", make_ca(f"{name}-{cluster}", **own))
    dates: dict[str, Any] = {"key": "rsa", "not_before": NOW - 2 * DAY, "not_after": NOW + 2 * YEAR}
    server, user = "etcd-manager-server-etcd-a", "etcd-manager-client-etcd-a"
    serving: dict[str, Any] = {"names": [f"DNS:{server}"], "extended_usages": ["server auth"]}
    tree.pair(f"{pki}/{server}.crt", f"{pki}/etcd-manager-ca.crt", subject=f"CN={server}", **serving, **dates)
    tree.pair(f"{pki}/{user}.crt", f"{pki}/etcd-manager-ca.crt", subject=f"CN={user}", **dates)
    both: dict[str, Any] = {"names": ["DNS:etcd-a", ADDRESS, "IP:127.0.0.1", "IP:::1"], "extended_usages": BOTH}
    for kind, name in (("clients", "server"), ("peers", "me")):
        issuer = f"{pki}/etcd-{kind}-ca.crt"
        tree.pair(f"{volume}/{kind}/{name}.crt", issuer, subject="CN=etcd-a", **both, **dates)
        tree.write(f"{volume}/{kind}/ca.crt", tree.authorities[issuer].pem)
    mounts = {"/etc/kubernetes/pki/etcd-manager": pki, "/rootfs": "/"}
    tree.pod(f"etcd-etcdmanager-{cluster}", {"etcd-manager": {"cluster-name": cluster}}, mounts)


ANCHORS, PRIVATE = "/etc/pki/ca-trust/source/anchors", "/etc/ssl/private"
SHARED = "/opt/platform/config/26.03"
SHARED_FILES = {
    "etcd/ca.crt": "/etc/etcd/ca.crt", "etcd/ca.key": "/etc/etcd/ca.key",
    "etcd/etcd-server.crt": "/etc/etcd/etcd-server.crt", "etcd/etcd-server.key": "/etc/etcd/etcd-server.key",
    "etcd/etcd-client.crt": "/etc/etcd/etcd-client.crt", "etcd/etcd-client.key": "/etc/etcd/etcd-client.key",
    "kubernetes/pki/ca.crt": "/etc/kubernetes/pki/ca.crt",
    "kubernetes/pki/front-proxy-ca.crt": "/etc/kubernetes/pki/front-proxy-ca.crt",
    "server-cert.pem": f"{PRIVATE}/server-cert.pem",
    "registry-cert.crt": f"{PRIVATE}/registry-cert.crt", "registry-cert.key": f"{PRIVATE}/registry-cert.key",
    "registry.central/registry-cert.crt": "/etc/docker/certs.d/registry.central:9001/registry-cert.crt",
    "ca-cert.pem": f"{ANCHORS}/ca-cert.crt", "dc-adminep-root-ca.crt": f"{ANCHORS}/dc-adminep-root-ca.crt",
    "openstack/cert.pem": f"{PRIVATE}/openstack/cert.pem", "openstack/key.pem": f"{PRIVATE}/openstack/key.pem",
    "openstack/ca-cert.pem": f"{PRIVATE}/openstack/ca-cert.pem",
}  # fmt: skip
"""The copies in the configuration partition of StarlingX, with their originals."""


def platform_certificates(tree: Tree) -> None:
    """Write the platform certificates of the active controller of a subcloud, and the copies below /opt/platform."""
    quarter: dict[str, Any] = {"not_before": NOW - DAY, "not_after": NOW + 2 * YEAR}
    own: dict[str, Any] = {"names": None, "not_before": NOW - DAY, "not_after": NOW + 10 * YEAR}
    local = tree.authority("/etc/swanctl/x509ca/system-root-ca-1.crt", make_ca("starlingx", **own))
    issuing = make_intermediate(local, "system-local-ca", **own)
    tree.at("/etc/swanctl/x509ca/system-root-ca-1.key").unlink()
    tree.write("/etc/swanctl/x509ca/system-local-ca-1.crt", issuing.pem)
    root = make_ca("DC Root CA", **own)
    tree.write(f"{ANCHORS}/dc-adminep-root-ca.crt", root.pem)
    tree.write(f"{ANCHORS}/ca-cert.crt", local.pem + issuing.pem)
    tree.write(f"{SHARED}/ssl_ca/ssl_ca_12345678901234567890", local.pem)
    tree.write(f"{SHARED}/ssl_ca/ssl_ca_12345678901234567891", issuing.pem)
    write_pair(tree, f"{PRIVATE}/server-cert.pem", issuing, "CN=system-restapi-gui", together=True, **quarter)
    intermediate = make_intermediate(root, "subcloud1-adminep-ca", **own)
    write_pair(tree, f"{PRIVATE}/admin-ep-cert.pem", intermediate, "CN=sc-adminep", together=True, **quarter)
    write_pair(tree, f"{PRIVATE}/registry-cert.crt", issuing, "CN=registry.local", **quarter)
    write_pair(tree, "/etc/ldap/certs/openldap-cert.crt", issuing, "CN=system-openldap", key_mode=0o644, **quarter)
    write_pair(tree, f"{PRIVATE}/openstack/cert.pem", issuing, "CN=openstack", key="key.pem", **quarter)
    tree.write(f"{PRIVATE}/openstack/ca-cert.pem", local.pem)
    ipsec = "/etc/swanctl/x509/system-ipsec-certificate-controller-0.crt"
    write_pair(tree, ipsec, issuing, "CN=ipsec-controller-0", key="../private/system-ipsec.key", **quarter)
    write_pair(tree, "/run/ceph/mgr/restful.crt", make_ca("ceph-restful", **own), "CN=ceph-restful", **quarter)
    for name in ("local", "central"):
        content = tree.at(f"{PRIVATE}/registry-cert.crt").read_bytes()
        tree.write(f"/etc/docker/certs.d/registry.{name}:9001/registry-cert.crt", content, 0o400)
    for copy, path in SHARED_FILES.items():
        tree.write(f"{SHARED}/{copy}", tree.at(path).read_bytes(), 0o600)
    used = " ".join((f"{PRIVATE}/server-cert.pem", f"{PRIVATE}/admin-ep-cert.pem"))
    tree.write("/etc/haproxy/haproxy.cfg", f"# ssl crt {used}\n")
    tree.write("/etc/docker-distribution/registry/token_server.conf", f"TLSCERT={PRIVATE}/registry-cert.crt\n")


def write_pair(
    tree: Tree, path: str, ca: Issued, subject: str, *, together: bool = False, key: str = "", key_mode: int = 0o400,
    **wanted: Any,
) -> None:  # fmt: skip
    """Write a server certificate with the CA that signed it, unless that is a root, and its key. With `together`, the
    key is first in the same file, as in the files of HAProxy.
    """
    made = make_server(ca, "", subject=name_of(subject), names=["DNS:controller"], **wanted)
    chain = made.pem + (b"" if ca.cert.issuer == ca.cert.subject else ca.pem)
    tree.write(path, (traditional(made) if together else b"") + chain, 0o400 if together else 0o644)
    tree.issued[path] = made
    if not together:
        place = path.replace(".crt", ".key") if not key else f"{path.rpartition('/')[0]}/{key}"
        tree.write(place, traditional(made), key_mode)


MAKERS: Mapping[str, Callable[[Path], Tree]] = {
    "k3s": k3s, "rke2": rke2, "k0s": k0s, "microk8s": microk8s, "etcd": etcd, "starlingx": starlingx,
    "kubespray": kubespray,
    "microshift": microshift, "k8s-snap": k8s_snap, "kops": kops,
}  # fmt: skip
