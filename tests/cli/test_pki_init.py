"""`certmond init`, compared with the files of a real kubeadm, and with real etcd, kubectl and openssl."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from certmond.cli import main as cli
from tests.conftest import real_part
from tests.deadline import DEADLINE
from tests.free_ports import free_port, free_ports
from tests.node import DATA, KUBELET_PEM, PKI, Node, key_pem
from tests.sampling import sample
from tests.tracing import kill_at, record

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs" / "init.md"
CONFIG = DATA / "kubeadm-1.24.config.yaml"
CURRENT = "var/lib/kubelet/pki/kubelet-client-current.pem"
KUBECONFIGS = ("admin.conf", "controller-manager.conf", "scheduler.conf")
ECDSA = """
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 127.0.0.1}
nodeRegistration: {name: node-1}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
encryptionAlgorithm: ECDSA-P256
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def certmond(*arguments: str | Path) -> Done:
    """The command line, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["certmond", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


class Host:
    """A node without any PKI below a separate directory, and the kubeadm configuration of its cluster."""

    def __init__(self, place: Path, kubeadm: str = ECDSA) -> None:
        self.place, self.root, self.state = place, place / "root", place / "state"
        self.root.mkdir(parents=True)
        self.config = place / "kubeadm.yaml"
        self.config.write_text(kubeadm)

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def init(self, *more: str | Path) -> Done:
        return certmond("init", "--root", self.root, "--state-dir", self.state, "--kubeadm-config", self.config, *more)

    def made(self, *more: str | Path) -> Done:
        done = self.init(*more)
        assert (done.code, done.err) == (0, ""), done
        return done

    def refused(self, *more: str | Path) -> list[str]:
        """Return the lines of the refusal, with paths below the root, after asserting that nothing changed."""
        before = snapshot(self.root)
        done = self.init(*more)
        assert (done.code, done.out) == (3, "")
        assert snapshot(self.root) == before
        return done.err.removeprefix("certmond: ").replace(f"{self.root}/", "/").splitlines()

    def check(self, *more: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and all findings."""
        done = certmond("check", "--root", self.root, "-o", "json", *more)
        document = json.loads(done.out)
        found = [item for entry in document["certificates"] for item in entry["findings"]] + document["findings"]
        return done.code, found

    def certificate(self, path: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.at(path).read_bytes())

    def copy(self, place: Path) -> Host:
        """Return a copy of the host."""
        shutil.copytree(self.place, place, symlinks=True)
        other = object.__new__(Host)
        other.place, other.root, other.state, other.config = (
            place,
            place / "root",
            place / "state",
            place / "kubeadm.yaml",
        )
        return other


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Return every name, with all attributes that a write would change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (status.st_ino, status.st_mode, status.st_mtime_ns, status.st_uid, content)
    return found


@pytest.fixture(scope="module")
def like_kubeadm(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Return the tree of `init` for the configuration of the real kubeadm. Read only."""
    host = Host(tmp_path_factory.mktemp("init") / "host", CONFIG.read_text())
    host.made()
    return host


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Return a complete node with ECDSA keys. Read or copy only."""
    host = Host(tmp_path_factory.mktemp("init") / "host")
    host.made()
    return host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


# Comparison with kubeadm


def certificates(root: Path) -> dict[str, bytes]:
    """The PEM of each certificate in a tree, by where it is."""
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.crt")}
    for name in KUBECONFIGS:
        found[f"etc/kubernetes/{name}"] = credential(root, name, "client-certificate-data")
    found[CURRENT] = (root / str((root / CURRENT).readlink()).lstrip("/")).read_bytes()
    return found


def keys(root: Path) -> dict[str, bytes]:
    """Return the PEM of each private key in a tree."""
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.key")}
    for name in KUBECONFIGS:
        found[f"etc/kubernetes/{name}"] = credential(root, name, "client-key-data")
    pem_file = (root / str((root / CURRENT).readlink()).lstrip("/")).read_bytes()
    return found | {CURRENT: pem_file[pem_file.index(b"-----END CERTIFICATE-----\n") + 26 :]}


def credential(root: Path, name: str, field: str) -> bytes:
    (user,) = yaml.safe_load((root / "etc/kubernetes" / name).read_bytes())["users"]
    return base64.b64decode(user["user"][field])


def made_at(root: Path, name: str) -> datetime:
    path = root / (str((root / name).readlink()).lstrip("/") if (root / name).is_symlink() else name)
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def about(span: timedelta) -> timedelta:
    """To the minute, as no tree is made in one instant."""
    return timedelta(minutes=round(span / timedelta(minutes=1)))


def fields(root: Path, name: str, pem_text: bytes) -> dict[str, object]:
    """All that a certificate says, by the names in docs/init.md, with keys and instants made comparable."""
    certificate = x509.load_pem_x509_certificate(pem_text)
    at = made_at(root, name)
    extensions = {extension.oid._name: extension for extension in certificate.extensions}
    own = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).public_bytes()
    key_id = extensions.pop("subjectKeyIdentifier", None)
    authority = extensions.pop("authorityKeyIdentifier", None)
    issuer = next(
        ca
        for path in ("ca", "etcd/ca", "front-proxy-ca")
        if (ca := x509.load_pem_x509_certificate((root / f"{PKI}/{path}.crt").read_bytes())).subject
        == certificate.issuer
    )
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    expected = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id).public_bytes()
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    number = certificate.serial_number
    certificate.verify_directly_issued_by(issuer)
    return {
        "serial number": 0 if number == 0 else "63 bits" if number < 1 << 63 else "159 bits",
        "notBefore": about(at - certificate.not_valid_before_utc),
        "end": about(certificate.not_valid_after_utc - at),
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "string type of the subject": {attribute._type for attribute in certificate.subject},
        "version": certificate.version,
        "key": (key.key_size, key.public_numbers().e),
        "signature": certificate.signature_algorithm_oid,
        "subject key identifier": key_id and (key_id.critical, key_id.value.public_bytes() == own),
        "authority key identifier": authority and (authority.critical, authority.value.public_bytes() == expected),
        "order of extensions": [
            extension.oid._name for extension in certificate.extensions if "KeyId" not in extension.oid._name
        ] + (["names last"] if extension_is_last(certificate, "subjectAltName") else []),
        **{extension: (value.critical, value.value.public_bytes()) for extension, value in extensions.items()},
    }  # fmt: skip


def extension_is_last(certificate: x509.Certificate, name: str) -> bool:
    return str(list(certificate.extensions)[-1].oid._name) == name


def table() -> dict[tuple[str, str], tuple[str, str]]:
    """The differences in docs/init.md: (of, field) -> (kubeadm's, certmond's)."""
    rows = re.findall(r"^\| (CA|leaf) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", DOCS.read_text(), re.MULTILINE)
    return {(of, field): (theirs, own_side) for of, field, theirs, own_side in rows}


SAID = {
    ("serial number", "0"): 0, ("serial number", "63 random bits"): "63 bits",
    ("serial number", "159 random bits"): "159 bits", ("notBefore", "the present time"): timedelta(),
    ("notBefore", "notBefore of the CA"): timedelta(),
    ("notBefore", "5 minutes before the present time"): timedelta(minutes=5),
    ("subject key identifier", "none"): None, ("subject key identifier", "SHA-1 of the public key"): (False, True),
    ("authority key identifier", "none"): None,
    ("authority key identifier", "the subject key identifier of the CA"): (False, True),
    ("string type of the subject", "PrintableString"): {x509.name._ASN1Type.PrintableString},
    ("string type of the subject", "UTF8String"): {x509.name._ASN1Type.UTF8String},
}  # fmt: skip
"""What the words of the table mean. (The CA of the real tree was made in the second before its certificates.)"""


@pytest.mark.long
def test_every_certificate_is_as_kubeadm_makes_it(node: Node, like_kubeadm: Host) -> None:
    """Each field of each certificate equals that of a real kubeadm for the same configuration, except for the
    differences in the table of docs/init.md. Each of those differs.
    """
    theirs, own_side = certificates(node.root), certificates(like_kubeadm.root)
    assert len(theirs) == 14
    assert theirs.keys() == own_side.keys()
    differences = set()
    said = table()
    for name in theirs:
        old, new = fields(node.root, name, theirs[name]), fields(like_kubeadm.root, name, own_side[name])
        of = "CA" if old["subject"] == old["issuer"] else "leaf"
        assert old.keys() == new.keys()
        for field in (field for field in old if old[field] != new[field]):
            differences.add((of, field))
            assert (of, field) in said, f"{name}: {field} is {new[field]}, of kubeadm {old[field]}"
            for words, value in zip(said[of, field], (old[field], new[field]), strict=True):
                assert SAID.get((field, words), value) == value, f"{name}: {field}"
    assert differences == set(said)


def test_a_leaf_of_kubeadm_begins_with_its_ca(node: Node) -> None:
    """What the table says of the start of kubeadm's certificates is so, though there it is but seconds."""
    ca = node.certificate(f"{PKI}/ca.crt")
    assert node.certificate(f"{PKI}/apiserver.crt").not_valid_before_utc == ca.not_valid_before_utc
    assert x509.load_pem_x509_certificate(node.read(KUBELET_PEM)).not_valid_before_utc == ca.not_valid_before_utc


@pytest.mark.long
def test_serial_numbers_are_random(like_kubeadm: Host) -> None:
    """Serial numbers are positive, of up to 159 bits, and no two are alike."""
    numbers = {x509.load_pem_x509_certificate(text).serial_number for text in certificates(like_kubeadm.root).values()}
    assert len(numbers) == 14
    assert 150 < max(numbers).bit_length() <= 159
    assert min(numbers) > 0


@pytest.mark.long
def test_every_key_is_as_kubeadm_makes_it(node: Node, like_kubeadm: Host) -> None:
    """Each key is of the type and in the form that a real kubeadm writes, and belongs to its certificate."""
    theirs, own_side = keys(node.root), keys(like_kubeadm.root)
    assert len(theirs) == 15
    assert theirs.keys() == own_side.keys()
    for name, text in own_side.items():
        assert labels(text) == labels(theirs[name]) == ["RSA PRIVATE KEY"]
        key = load_pem_private_key(text, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        assert key.key_size == 2048
        beside = name.replace(".key", ".crt")
        if beside in (known := certificates(like_kubeadm.root)):
            assert x509.load_pem_x509_certificate(known[beside]).public_key() == key.public_key()
    public = load_pem_public_key(like_kubeadm.at(f"{PKI}/sa.pub").read_bytes())
    assert public == load_pem_private_key(own_side[f"{PKI}/sa.key"], None).public_key()


def labels(text: bytes) -> list[str]:
    return re.findall(r"-----BEGIN (.*)-----\n", text.decode())


def test_files_are_as_kubeadm_makes_them(node: Node, like_kubeadm: Host) -> None:
    """Names, modes, owners, links and PEM types of files and directories are those of the real tree: all of it but the
    manifests, and nothing else.
    """

    def tree(root: Path) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in root.rglob("*"):
            name = re.sub(r"\d{4}(-\d\d){5}", "<date>", str(path.relative_to(root)))
            status = path.lstat()
            link = re.sub(r"\d{4}(-\d\d){5}", "<date>", str(path.readlink())) if path.is_symlink() else None
            content = labels(path.read_bytes()) if path.is_file() and link is None else None
            found[name] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, link, content)
        return found

    theirs = {name: what for name, what in tree(node.root).items() if "manifests" not in name}
    assert len(theirs) == 36
    assert tree(like_kubeadm.root) == theirs


@pytest.mark.parametrize("name", [*KUBECONFIGS, "kubelet.conf"])
def test_kubeconfigs_are_as_kubeadm_makes_them(node: Node, like_kubeadm: Host, name: str) -> None:
    """Server, cluster, context and user of each kubeconfig are kubeadm's, to the byte; it embeds our CA."""

    def bare(root: Path) -> str:
        return re.sub(r"(-data:) \S+", r"\1 …", (root / "etc/kubernetes" / name).read_text())

    assert bare(like_kubeadm.root) == bare(node.root)
    document = yaml.safe_load(like_kubeadm.at(f"etc/kubernetes/{name}").read_bytes())
    embedded = base64.b64decode(document["clusters"][0]["cluster"]["certificate-authority-data"])
    assert embedded == like_kubeadm.at(f"{PKI}/ca.crt").read_bytes()


def test_check_finds_nothing(like_kubeadm: Host) -> None:
    """`certmond check` after `init` exits 0, without a single finding."""
    assert like_kubeadm.check() == (0, [])


def test_check_accepts_the_node_with_its_manifests(node: Node, like_kubeadm: Host, tmp_path: Path) -> None:
    """The same holds with kubeadm's manifests, which name each file and require each name."""
    host = like_kubeadm.copy(tmp_path / "copy")
    shutil.copytree(node.path("etc/kubernetes/manifests"), host.at("etc/kubernetes/manifests"))
    assert host.check() == (0, [])


# The version of the cluster


@pytest.mark.parametrize(
    ("version", "current"),
    [("v1.28.15", False), ("v1.29.0", True), (None, True),
     *(pytest.param(*case, marks=pytest.mark.long) for case in (
         ("v1.24.0", False), ("1.34", True), ("stable-1.28", False), ("stable-1.29", True), ("stable", True),
         ("latest-1", True)))],
)  # fmt: skip
def test_groups_follow_the_version(host: Host, version: str | None, current: bool) -> None:
    """Before v1.29 admins are system:masters. From then on they are kubeadm:cluster-admins, super-admin.conf is there
    for the first binding, and clients of etcd have no group.
    """
    if version:
        host.config.write_text(f"{ECDSA}kubernetesVersion: {version!r}\n")
    host.made()
    group = "O=kubeadm:cluster-admins" if current else "O=system:masters"
    subjects = {name: x509.load_pem_x509_certificate(text).subject for name, text in certificates(host.root).items()}
    texts = {name.rpartition("/")[2]: set(subject.rfc4514_string().split(",")) for name, subject in subjects.items()}
    assert texts["admin.conf"] == {"CN=kubernetes-admin", group}
    assert texts["apiserver-kubelet-client.crt"] == {"CN=kube-apiserver-kubelet-client", group}
    old = set() if current else {"O=system:masters"}
    assert texts["healthcheck-client.crt"] == {"CN=kube-etcd-healthcheck-client"} | old
    assert texts["apiserver-etcd-client.crt"] == {"CN=kube-apiserver-etcd-client"} | old
    assert host.at("etc/kubernetes/super-admin.conf").exists() is current
    if current:
        text = credential(host.root, "super-admin.conf", "client-certificate-data")
        subject = x509.load_pem_x509_certificate(text).subject.rfc4514_string()
        assert set(subject.split(",")) == {"CN=kubernetes-super-admin", "O=system:masters"}
    assert host.check() == (0, [])


@pytest.mark.parametrize(("version", "local"), [("v1.32.9", False), ("v1.33.0", True), (None, True)])
def test_servers(host: Host, version: str | None, local: bool) -> None:
    """People reach the API server by its endpoint, the node's own components locally: the kubelet, too, since v1.33."""
    line = f"kubernetesVersion: {version}\n" if version else ""
    host.config.write_text(f"{ECDSA}controlPlaneEndpoint: k8s.example.com:443\n{line}")
    host.made()
    servers = {
        name: yaml.safe_load(host.at(f"etc/kubernetes/{name}").read_bytes())["clusters"][0]["cluster"]["server"]
        for name in (*KUBECONFIGS, "kubelet.conf")
    }
    own, common = "https://127.0.0.1:6443", "https://k8s.example.com:443"
    assert servers == {
        "admin.conf": common, "controller-manager.conf": own, "scheduler.conf": own,
        "kubelet.conf": own if local else common,
    }  # fmt: skip


# Real peers


def leaves(host: Host) -> Iterator[tuple[str, str, list[str]]]:
    """Each leaf with its CA and what it is good for."""
    for name, text in certificates(host.root).items():
        certificate = x509.load_pem_x509_certificate(text)
        if certificate.subject == certificate.issuer:
            continue
        (issuer,) = [attribute.value for attribute in certificate.issuer]
        ca = {"kubernetes": "ca", "etcd-ca": "etcd/ca", "front-proxy-ca": "front-proxy-ca"}[str(issuer)]
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        yield name, f"{PKI}/{ca}.crt", [{"serverAuth": "sslserver", "clientAuth": "sslclient"}[u._name] for u in usages]


@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize("which", ["like_kubeadm", "whole"])
def test_openssl_verifies_strictly(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """OpenSSL verifies each leaf against its CA, each for what it is good for, and its strictest checks object to none;
    for what it is not good for it is refused.
    """
    host: Host = request.getfixturevalue(which)
    openssl = real_part("openssl")
    verified = 0
    for name, ca, purposes in leaves(host):
        leaf = tmp_path / "leaf.pem"
        leaf.write_bytes(certificates(host.root)[name])
        for purpose in ("sslserver", "sslclient"):
            command = [openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(host.at(ca)), str(leaf)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode == 0) is (purpose in purposes), f"{name} as {purpose}: {done.stderr}"
            verified += done.returncode == 0
    assert verified == 13


@pytest.mark.long
@pytest.mark.real("etcd")
@pytest.mark.real("etcdctl")
def test_etcd_works_with_it(whole: Host, tmp_path: Path) -> None:
    """Two members of a real etcd, the second on a node that joined, connect with mutual TLS. They answer the health
    check of a client with a certificate, and of no other.
    """
    etcd, etcdctl = real_part("etcd"), real_part("etcdctl")
    second = joined(whole, tmp_path / "second", name="node-2")
    second.made()
    ports = free_ports(4)
    members = [("node-1", whole, ports[0], ports[1]), ("node-2", second, ports[2], ports[3])]
    cluster = ",".join(f"{name}=https://127.0.0.1:{peer}" for name, _, _, peer in members)
    endpoints = ",".join(f"https://127.0.0.1:{client}" for _, _, client, _ in members)
    with contextlib.ExitStack() as stack:
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(str(tmp_path / "notify"))
        ready.settimeout(DEADLINE)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "ETCDCTL_API": "3"}
        for name, host, client, peer in members:
            pki = host.at(f"{PKI}/etcd")
            command = [
                etcd, f"--name={name}", f"--data-dir={tmp_path / name}", f"--initial-cluster={cluster}",
                f"--listen-client-urls=https://127.0.0.1:{client}", f"--advertise-client-urls=https://127.0.0.1:{client}",
                f"--listen-peer-urls=https://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=https://127.0.0.1:{peer}",
                f"--cert-file={pki}/server.crt", f"--key-file={pki}/server.key", "--client-cert-auth",
                f"--trusted-ca-file={pki}/ca.crt", f"--peer-cert-file={pki}/peer.crt",
                f"--peer-key-file={pki}/peer.key", "--peer-client-cert-auth", f"--peer-trusted-ca-file={pki}/ca.crt",
            ]  # fmt: skip
            log = stack.enter_context((tmp_path / f"{name}.log").open("w"))
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            stack.callback(process.wait, DEADLINE)
            stack.callback(process.terminate)
        for _ in members:  # a member that has joined the cluster notifies systemd (server/etcdmain/etcd.go)
            assert ready.recv(4096) == b"READY=1"

        def healthy(*credentials: str, limit: str) -> subprocess.CompletedProcess[str]:
            ask = [
                etcdctl,
                f"--command-timeout={limit}",
                f"--dial-timeout={limit}",
                f"--endpoints={endpoints}",
                f"--cacert={whole.at(PKI)}/etcd/ca.crt",
                *credentials,
                "endpoint",
                "health",
            ]
            return subprocess.run(ask, capture_output=True, text=True, check=False, env=environment)

        for client_name in ("etcd/healthcheck-client", "apiserver-etcd-client"):
            pair = [f"--cert={whole.at(PKI)}/{client_name}.crt", f"--key={whole.at(PKI)}/{client_name}.key"]
            done = healthy(*pair, limit=f"{DEADLINE:.0f}s")
            assert done.returncode == 0, done.stderr + (tmp_path / "node-1.log").read_text()[-2000:]
            assert (done.stdout + done.stderr).count("is healthy") == 2
        foreign = [f"--cert={whole.at(PKI)}/apiserver-kubelet-client.crt",
                   f"--key={whole.at(PKI)}/apiserver-kubelet-client.key"]  # fmt: skip
        for credentials in ([], foreign):
            assert healthy(*credentials, limit="1s").returncode != 0
        refused, end = re.compile("certificate required|didn't provide a certificate"), time.monotonic() + DEADLINE
        while not refused.search((tmp_path / "node-1.log").read_text()):
            assert time.monotonic() < end
            assert healthy(limit="1s").returncode != 0  # again: a slow host may not have connected in this time


@contextlib.contextmanager
def api_server(host: Host, port: int) -> Iterator[list[Mapping[str, Any]]]:
    """A server with apiserver.crt that asks for a certificate of the Root CA; what certificates it was shown."""
    shown: list[Mapping[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            shown.append(self.connection.getpeercert() or {})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"gitVersion": "v1.34.0"}')

        def log_message(self, *_: object) -> None:
            """Quietly."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that refuses us is what is tested."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host.at(f"{PKI}/apiserver.crt"), host.at(f"{PKI}/apiserver.key"))
    context.load_verify_locations(host.at(f"{PKI}/ca.crt"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = Server(("127.0.0.1", port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield shown
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.long
@pytest.mark.real("kubectl")
def test_kubectl_works_with_it(host: Host) -> None:
    """A real kubectl reads each kubeconfig, sends its certificate to a server, and accepts apiserver.crt under each of
    its names and under no other.
    """
    kubectl = real_part("kubectl")
    port = free_port()
    host.config.write_text(ECDSA.replace("127.0.0.1}", f"127.0.0.1, bindPort: {port}}}"))
    host.made()

    def ask(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [kubectl, "--kubeconfig", host.at(f"etc/kubernetes/{name}"), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})

    viewed = yaml.safe_load(ask("admin.conf", "config", "view", "--raw").stdout)
    assert viewed["current-context"] == "kubernetes-admin@kubernetes"
    assert viewed["users"] == yaml.safe_load(host.at("etc/kubernetes/admin.conf").read_bytes())["users"]
    # kubelet.conf names the PEM as the node has it; here the node is below a directory.
    kubelet_conf = host.at("etc/kubernetes/kubelet.conf")
    real = host.at(str(host.at(CURRENT).readlink()))
    kubelet_conf.write_text(kubelet_conf.read_text().replace(f"/{CURRENT}", str(real)))
    users = {
        "admin.conf": "kubernetes-admin", "super-admin.conf": "kubernetes-super-admin",
        "scheduler.conf": "system:kube-scheduler", "controller-manager.conf": "system:kube-controller-manager",
        "kubelet.conf": "system:node:node-1",
    }  # fmt: skip
    with api_server(host, port) as shown:
        for name, user in users.items():
            done = ask(name, "get", "--raw", "/version")
            assert done.returncode == 0, done.stderr
            assert "v1.34.0" in done.stdout
            assert ("commonName", user) in [pair for part in shown.pop()["subject"] for pair in part]
        for server_name in ("node-1", "kubernetes", "kubernetes.default.svc.cluster.local", "10.96.0.1"):
            done = ask("admin.conf", "--tls-server-name", server_name, "get", "--raw", "/version")
            assert done.returncode == 0, done.stderr
        shown.clear()
        done = ask("admin.conf", "--tls-server-name", "elsewhere.example.com", "get", "--raw", "/version")
        assert done.returncode != 0
        assert "certificate is valid for" in done.stderr
        assert not shown
        unrelated = host.at("unrelated.conf")
        document = yaml.safe_load(host.at("etc/kubernetes/admin.conf").read_bytes())
        document["users"][0]["user"] = {}
        unrelated.write_text(yaml.safe_dump(document))
        assert subprocess.run(
            [kubectl, "--kubeconfig", unrelated, "get", "--raw", "/version"], capture_output=True, check=False
        ).returncode
        assert not shown


# Existing files stay


def joined(first: Host, place: Path, name: str = "node-1") -> Host:
    """Return a host with only the files that all control-plane nodes share, copied from the first one."""
    host = Host(place, first.config.read_text().replace("name: node-1", f"name: {name}"))
    host.at(f"{PKI}/etcd").mkdir(parents=True)
    for path in ("ca", "etcd/ca", "front-proxy-ca", "sa"):
        for suffix in ("key", "pub" if path == "sa" else "crt"):
            shutil.copy2(first.at(f"{PKI}/{path}.{suffix}"), host.at(f"{PKI}/{path}.{suffix}"))
    return host


def test_twice(whole: Host, tmp_path: Path) -> None:
    """A second run has nothing to do, reports that, and changes no byte, time or inode of the node."""
    host = whole.copy(tmp_path / "copy")
    before = snapshot(host.root), snapshot(host.state)
    done = host.made()
    assert done.out == "nothing to do: all files exist\n"
    assert (snapshot(host.root), snapshot(host.state)) == before
    document = json.loads(host.made("-o", "json").out)
    assert document["steps"] == []
    assert len(document["kept"]) == 16


def test_nothing_to_do_on_what_kubeadm_made(node: Node, tmp_path: Path) -> None:
    """A node that kubeadm made has everything."""
    done = certmond("init", "--root", node.root, "--state-dir", tmp_path / "state", "--kubeadm-config", CONFIG)
    assert (done.code, done.out, done.err) == (0, "nothing to do: all files exist\n", "")
    assert not (tmp_path / "state").exists()


def test_a_node_that_joins(whole: Host, tmp_path: Path) -> None:
    """A control plane that has the CAs and service-account keys gets new leaves. Its files stay."""
    host = joined(whole, tmp_path / "second", name="node-2")
    before = snapshot(host.root)
    out = host.made().out
    assert out.endswith("13 created; unchanged: ca, front-proxy-ca, etcd-ca, sa\n")
    after = snapshot(host.root)
    kept = {name for name, what in before.items() if what[-1] is not None}
    assert len(kept) == 8
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert host.certificate(f"{PKI}/etcd/server.crt").subject.rfc4514_string() == "CN=node-2"
    assert host.check() == (0, [])


def test_what_a_node_that_joins_must_be_given(host: Host) -> None:
    """With the configuration of `kubeadm join`, nothing is made that all nodes share, and no super-admin.conf."""
    host.config.write_text(
        ECDSA.replace("InitConfiguration\nlocalAPIEndpoint", "JoinConfiguration\ncontrolPlane:\n  localAPIEndpoint")
    )
    problems = host.refused()
    assert [problem.split(",", 1)[0] for problem in problems] == [
        f"/{PKI}/ca.crt", f"/{PKI}/front-proxy-ca.crt", f"/{PKI}/etcd/ca.crt", f"/{PKI}/sa.pub",
    ]  # fmt: skip
    assert all("copy it and" in problem for problem in problems)
    first = Host(host.place / "first")
    first.made()
    for path in ("ca", "etcd/ca", "front-proxy-ca", "sa"):
        host.at(f"{PKI}/etcd").mkdir(parents=True, exist_ok=True)
        for suffix in ("key", "pub" if path == "sa" else "crt"):
            shutil.copy2(first.at(f"{PKI}/{path}.{suffix}"), host.at(f"{PKI}/{path}.{suffix}"))
    host.made()
    assert host.at("etc/kubernetes/admin.conf").exists()
    assert not host.at("etc/kubernetes/super-admin.conf").exists()
    assert host.init().out == "nothing to do: all files exist\n"


def test_a_super_admin_that_was_moved_away(whole: Host, tmp_path: Path) -> None:
    """If admin.conf exists, a missing super-admin.conf was moved away by the operator, and is not created again."""
    host = whole.copy(tmp_path / "copy")
    host.at("etc/kubernetes/super-admin.conf").unlink()
    assert host.made().out == "nothing to do: all files exist\n"


def test_dry_run_writes_nothing(host: Host) -> None:
    """`--dry-run` prints the files to create, and creates no file and no directory, also none of certmond's own."""
    done = host.made("--dry-run", "-o", "json")
    assert list(host.root.iterdir()) == []
    assert not host.state.exists()
    planned = [step["path"] for step in json.loads(done.out)["steps"]]
    reported = re.findall(r"^\[\d+/17\] (\S+): ", host.made().out, re.MULTILINE)
    assert [f"{host.root}{path}" for path in planned] == reported
    assert len(reported) == 17


def test_json_has_the_created_files(host: Host) -> None:
    """`-o json` and `-o yaml` print the steps and nothing else."""
    document = json.loads(host.made("-o", "json").out)
    assert [document["steps"][0][field] for field in ("step", "target", "reason")] == ["init", "ca", "missing"]
    again = yaml.safe_load(host.made("-o", "yaml").out)
    assert again["steps"] == []
    assert again["kept"]


def test_symlinked_directories(host: Host) -> None:
    """Where pki/ is a symlink, to a directory or to nothing yet, the files are made behind it."""
    host.at("etc/kubernetes").mkdir(parents=True)
    host.at(PKI).symlink_to("/data/pki")
    host.made()
    assert host.at("data/pki/etcd/ca.key").is_file()
    assert host.at(PKI).is_symlink()


def test_directories_are_made_whatever_the_umask(host: Host) -> None:
    """Directories have mode 0755 under any umask, as kubeadm's have, and keys are for root alone."""
    before = os.umask(0o077)
    try:
        host.made()
    finally:
        os.umask(before)
    assert stat.S_IMODE(host.at(f"{PKI}/etcd").stat().st_mode) == 0o755
    assert stat.S_IMODE(host.at(f"{PKI}/ca.crt").stat().st_mode) == 0o644
    assert open_secrets(host.root) == []


# Killed


def open_secrets(place: Path) -> list[Path]:
    """Files with a private key, or what may become one, that others than their owner may read."""
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if path.stat().st_mode & 0o077 and b"PRIVATE KEY" in path.read_bytes()]


@pytest.mark.real("gcc")
@pytest.mark.long
def test_killed_at_every_system_call(quick: Path) -> None:
    """After a kill at any call, no key is open to others, and the next run completes the same files."""
    host = Host(quick / "host")
    seen: dict[object, Host] = {}
    stops = 0

    def look(_: str) -> None:
        nonlocal stops
        stops += 1
        mark = tuple(
            (str(path), status.st_mode, status.st_ino, status.st_size)
            for path in sorted(host.place.rglob("*"))
            if path.name != "audit.log"  # only ever appended to
            for status in [path.lstat()]
        )
        if mark not in seen:  # the leftovers of a process that is killed here, while it is stopped
            seen[mark] = host.copy(quick / f"killed-{len(seen)}")

    record(host.made, look)
    whole = {path.rpartition("/")[2] for path in snapshot(host.root) if "kubelet-client-2" not in path}
    assert stops > 1000
    assert len(seen) > 150
    assert [left.place for left in seen.values() if open_secrets(left.place)] == []
    chosen = sample([*seen.values()], 12, "init")
    for left in chosen:
        authorities = {path: path.read_bytes() for path in left.root.rglob("*ca.key")}
        left.made()
        assert {path.rpartition("/")[2] for path in snapshot(left.root) if "kubelet-client-2" not in path} == whole
        assert len(list(left.root.rglob("kubelet-client-2*"))) == 1
        assert list((left.state / "transactions").iterdir()) == []
        assert all(path.read_bytes() == content for path, content in authorities.items())
    assert all(left.check() == (0, []) for left in chosen[:: max(len(chosen) // 6, 1)])


@pytest.mark.long
@pytest.mark.real("gcc")
@pytest.mark.parametrize("n", [40, 333])
def test_killed_for_good(host: Host, n: int) -> None:
    """A run that a signal ends in the middle lets go of its lock, and the next one completes it."""
    kill_at(host.made, n)
    host.made()
    assert host.check() == (0, [])


def test_dry_run_beside_a_damaged_record(host: Host) -> None:
    """A renamed record, and any other file that is no record, is no run to continue."""
    records = host.state / "transactions"
    records.mkdir(mode=0o700, parents=True)
    for name in ("0123456789abcdef.intent.json.damaged", "notes.txt", ".0123456789abcdef"):
        (records / name).write_text("{")
    assert host.init("--dry-run").code == 0
    (records / "0123456789abcdef.intent.json").write_text("{")
    assert "is incomplete" in host.init("--dry-run").err


@pytest.mark.long
@pytest.mark.real("gcc")
def test_dry_run_after_a_kill(host: Host) -> None:
    """The next run completes what a killed run left. `--dry-run` only reports it."""
    stops = record(Host(host.place / "other").made)
    n = [number for number, stop in enumerate(stops) if stop == "exit renameat"][1]  # a record, then the first key
    kill_at(host.made, n)
    before = snapshot(host.root), snapshot(host.state)
    done = host.init("--dry-run")
    assert done.code == 3
    assert "is incomplete" in done.err
    assert (snapshot(host.root), snapshot(host.state)) == before
    host.made()


# Refusals


def test_all_obstacles_at_once(whole: Host, tmp_path: Path) -> None:
    """A missing CA, a key without its certificate, a broken leaf, and a leaf without its key are all reported with file
    and remedy, and nothing is created.
    """
    host = whole.copy(tmp_path / "copy")
    for path in ("etcd/ca.crt", "etcd/ca.key", "front-proxy-client.crt", "apiserver-kubelet-client.key"):
        host.at(f"{PKI}/{path}").unlink()
    host.at(f"{PKI}/apiserver.crt").write_bytes(b"broken")
    host.at("etc/kubernetes/kubelet.conf").write_bytes(b"broken")
    problems = host.refused()
    for fact in (
        f"/{PKI}/etcd/ca.crt is missing, but certificates of this CA exist: /{PKI}/etcd/server.crt, ",
        f"/{PKI}/front-proxy-client.key exists without /{PKI}/front-proxy-client.crt; restore",
        f"/{PKI}/apiserver-kubelet-client.crt has no private key: /{PKI}/apiserver-kubelet-client.key contains no key",
        f"/{PKI}/apiserver.crt ", "/etc/kubernetes/kubelet.conf ",
    ):  # fmt: skip
        assert len([problem for problem in problems if problem.startswith(fact)]) == 1, fact
    assert len(problems) == 5


def test_kubelet_conf_without_its_pem(whole: Host, tmp_path: Path) -> None:
    """A kubelet.conf without its PEM is not assumed to match a new one."""
    host = whole.copy(tmp_path / "copy")
    host.at(CURRENT).unlink()
    path = "/etc/kubernetes/kubelet.conf"
    assert host.refused() == [f"{path} exists without /{CURRENT}; restore /{CURRENT}, or move {path} away"]


def test_an_invalid_ca(node: Node, tmp_path: Path) -> None:
    """A certificate that has expired or is no CA signs nothing."""
    node.new_ca(end=datetime.now(UTC) - timedelta(hours=1), start=datetime(2026, 1, 1, tzinfo=UTC))
    node.new_ca(f"{PKI}/etcd/ca", is_ca=False)
    node.path(f"{PKI}/apiserver.crt").unlink()
    node.path(f"{PKI}/apiserver.key").unlink()
    done = certmond("init", "--root", node.root, "--state-dir", tmp_path / "state", "--kubeadm-config", CONFIG)
    assert done.code == 3
    assert f"/{PKI}/ca.crt expired on" in done.err
    assert "lacks basicConstraints CA:TRUE" in done.err
    assert not node.path(f"{PKI}/apiserver.crt").exists()


def test_external_ca(whole: Host, tmp_path: Path) -> None:
    """If the CA's key is elsewhere, a complete node has nothing to do. An incomplete one gets the list of missing
    files. Files of other CAs are created.
    """
    host = whole.copy(tmp_path / "copy")
    host.at(f"{PKI}/ca.key").unlink()
    assert host.made().out == "nothing to do: all files exist\n"
    for path in ("apiserver-etcd-client.crt", "apiserver-etcd-client.key"):
        host.at(f"{PKI}/{path}").unlink()
    assert host.made().out.startswith(f"[1/1] {host.root}/{PKI}/apiserver-etcd-client.crt: ")
    for path in (f"{PKI}/apiserver.crt", f"{PKI}/apiserver.key", "etc/kubernetes/scheduler.conf"):
        host.at(path).unlink()
    missing = f"/{PKI}/apiserver.crt, /etc/kubernetes/scheduler.conf"
    assert host.refused() == [
        f"/{PKI}/ca.key is missing, so certmond cannot issue {missing}; copy these files, or the key, to this node"
    ]


def test_a_ca_whose_key_is_encrypted(whole: Host, tmp_path: Path) -> None:
    """A CA whose key has a passphrase cannot sign, which is reported before anything is created."""
    host = joined(whole, tmp_path / "second")
    key = load_pem_private_key(host.at(f"{PKI}/ca.key").read_bytes(), None)
    host.at(f"{PKI}/ca.key").write_bytes(key_pem(key, b"secret"))
    (problem,) = host.refused()
    assert problem.startswith(
        f"/{PKI}/ca.key is unreadable or encrypted, so certmond cannot issue /{PKI}/apiserver.crt, "
    )


def test_leaves_of_another_node(whole: Host, tmp_path: Path) -> None:
    """Leaves that were copied from another node are reported with their names."""
    host = whole.copy(tmp_path / "copy")
    host.config.write_text(ECDSA.replace("node-1", "node-2"))
    problems = host.refused()
    assert any(
        f"/{PKI}/etcd/server.crt has the subject CN=node-1, but the entry requires CN=node-2" in each
        for each in problems
    )


def test_a_name_that_no_certificate_can_have(host: Host) -> None:
    """A node's name too long for a common name is refused before anything is made."""
    host.config.write_text(ECDSA.replace("node-1", "n" * 53))
    (problem,) = host.refused()
    assert problem.startswith(f"certmond cannot create /{CURRENT}: its entry kubelet-client has an invalid value")


# A CA of one's own


def own_ca(openssl: str, place: Path, kind: str, *extensions: str) -> list[str | Path]:
    """A Root CA that openssl made, as the options that give it."""
    options = {"rsa": ["rsa:3072"], "ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], "ed25519": ["ed25519"]}
    key, certificate = place / "own.key", place / "own.crt"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", *options[kind], "-noenc", "-keyout", key, "-out", certificate,
         "-days", "200", "-subj", "/O=Example/CN=Example Root", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
         *(word for extension in extensions for word in ("-addext", extension))],
        check=True, capture_output=True,
    )  # fmt: skip
    return ["--root-ca-cert", certificate, "--root-ca-key", key]


@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_own_ca(host: Host, kind: str) -> None:
    """A Root CA of the operator replaces a new one: its certificate is copied unchanged, and the key has the usual path
    and form. OpenSSL verifies its certificates, and none outlives it. Given again, it is the same.
    """
    openssl = real_part("openssl")
    given = own_ca(openssl, host.place, kind)
    host.made(*given)
    ca = host.certificate(f"{PKI}/ca.crt")
    assert host.at(f"{PKI}/ca.crt").read_bytes() == (host.place / "own.crt").read_bytes()
    assert stat.S_IMODE(host.at(f"{PKI}/ca.key").stat().st_mode) == 0o600
    form = {"rsa": "RSA PRIVATE KEY", "ecdsa": "EC PRIVATE KEY", "ed25519": "PRIVATE KEY"}[kind]
    assert labels(host.at(f"{PKI}/ca.key").read_bytes()) == [form]
    for name in ("apiserver", "apiserver-kubelet-client"):
        leaf = host.at(f"{PKI}/{name}.crt")
        done = subprocess.run(
            [openssl, "verify", "-x509_strict", "-CAfile", host.at(f"{PKI}/ca.crt"), leaf],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert host.certificate(f"{PKI}/{name}.crt").not_valid_after_utc == ca.not_valid_after_utc
    assert {item["severity"] for item in host.check()[1]} <= {"info", "warning"}  # it ends in 200 days: for a CA, soon
    assert host.made(*given).out == "nothing to do: all files exist\n"


@pytest.mark.real("openssl")
@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
@pytest.mark.parametrize(
    ("extension", "forbidden"),
    [
        ("nameConstraints=critical,permitted;DNS:example.com", {f"/{PKI}/apiserver.crt"}),
        ("extendedKeyUsage=serverAuth", {
            f"/{PKI}/apiserver-kubelet-client.crt", *(f"/etc/kubernetes/{name}" for name in KUBECONFIGS), f"/{CURRENT}",
            "/etc/kubernetes/super-admin.conf",
        }),
    ],
)  # fmt: skip
def test_own_ca_that_may_not_sign_it_all(host: Host, kind: str, extension: str, forbidden: set[str]) -> None:
    """A Root CA whose constraints forbid what it has to sign is refused before anything is made, with all of that."""
    problems = host.refused(*own_ca(real_part("openssl"), host.place, kind, extension))
    assert {next(word for word in problem.split() if word in forbidden) for problem in problems} == forbidden
    assert all("may not certify" in problem for problem in problems)
    assert not host.state.exists()


@pytest.mark.real("openssl")
def test_another_ca_is_there(whole: Host, tmp_path: Path) -> None:
    """If another Root CA exists already, the given one is refused: `init` replaces no CA."""
    host = whole.copy(tmp_path / "copy")
    problems = host.refused(*own_ca(real_part("openssl"), host.place, "ecdsa"))
    fact = f"/{PKI}/ca.crt differs from --root-ca-cert, but `certmond init` does not replace a CA"
    assert problems == [f"{fact}; omit --root-ca-cert"]


@pytest.mark.real("openssl")
def test_no_own_ca_without_its_key(host: Host) -> None:
    """Certificate and key are given together."""
    given = own_ca(real_part("openssl"), host.place, "ecdsa")
    done = host.init(*given[:2])
    assert done.code == 3
    assert "together" in done.err
    assert host.refused(*given[:3], CONFIG) == [
        f"{CONFIG} contains no usable private key; replace it with the right key"
    ]


# Without a kubeadm configuration


def own_config(host: Host, text: str) -> Path:
    path = host.place / "config.yaml"
    path.write_text(text)
    return path


def bare(host: Host, *more: str | Path) -> Done:
    return certmond("init", "--root", host.root, "--state-dir", host.state, *more)


def names_of(host: Host, name: str) -> set[str]:
    extensions = host.certificate(f"{PKI}/{name}.crt").extensions
    return {str(name.value) for name in extensions.get_extension_for_class(x509.SubjectAlternativeName).value}


def test_certmonds_own_configuration_will_do(host: Host) -> None:
    """The section `init:` of certmond's configuration says as much as a kubeadm configuration."""
    config = own_config(
        host,
        """
node_name: node-7
key_algorithm: ECDSA-P384
validity: 90d
init:
  advertise_address: 192.0.2.7
  control_plane_endpoint: "[2001:db8::1]:8443"
  service_subnet: fd00:10::/108,10.0.0.0/16
  dns_domain: example.internal
  cluster_name: shop
  cert_sans: [api.example.com, 198.51.100.7]
  etcd_server_cert_sans: etcd.example.com
  etcd_peer_cert_sans: [peer.example.com]
  ca_validity: 5y
certificates:
  - name: backup.conf
    kind: kubeconfig
    path: /etc/backup/kubeconfig
    ca: ca
    embedded_ca: ca
    subject: CN=backup,O=example:backup
    usages: client auth
  - name: watched
    path: /etc/ssl/watched.crt
    subject: CN=watched
    ca: ca
    optional: true
  - name: company
    path: /etc/ssl/company.crt
    authority: true
    optional: true
  - name: others
    path: /etc/ssl/others.crt
    key: /etc/ssl/others.key
    subject: CN=others
    ca: company
""",
    )
    done = bare(host, "--config", config)
    assert (done.code, done.err) == (0, "")
    apiserver = host.certificate(f"{PKI}/apiserver.crt")
    assert names_of(host, "apiserver") == {
        "node-7", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
        "kubernetes.default.svc.example.internal", "fd00:10::1", "192.0.2.7", "2001:db8::1", "api.example.com",
        "198.51.100.7",
    }  # fmt: skip
    key = apiserver.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    ca = host.certificate(f"{PKI}/ca.crt")
    assert ca.not_valid_after_utc - ca.not_valid_before_utc == timedelta(days=5 * 365, minutes=5)
    assert apiserver.not_valid_after_utc - apiserver.not_valid_before_utc == timedelta(days=90, minutes=5)
    for name, further in (("server", "etcd.example.com"), ("peer", "peer.example.com")):
        assert further in names_of(host, f"etcd/{name}")
    backup = yaml.safe_load(host.at("etc/backup/kubeconfig").read_bytes())
    assert backup["clusters"] == [{"cluster": backup["clusters"][0]["cluster"], "name": "shop"}]
    assert backup["clusters"][0]["cluster"]["server"] == "https://[2001:db8::1]:8443"
    assert backup["current-context"] == "backup@shop"
    assert not host.at("etc/ssl").exists()
    assert bare(host, "--config", config).out == "nothing to do: all files exist\n"


def test_what_kubeadm_does_not_say_certmond_may(host: Host) -> None:
    """A kubeadm configuration is laid over certmond's own, field by field."""
    config = own_config(host, "init: {cert_sans: [own.example.com], cluster_name: own, advertise_address: 192.0.2.9}\n")
    host.config.write_text(f"{ECDSA}clusterName: theirs\n")
    host.made("--config", config)
    names = names_of(host, "apiserver")
    assert {"own.example.com", "127.0.0.1"} <= names
    assert "192.0.2.9" not in names
    assert yaml.safe_load(host.at("etc/kubernetes/admin.conf").read_bytes())["clusters"][0]["name"] == "theirs"


def test_node_name_and_address_by_default(host: Host) -> None:
    """Without options the node has the host's name in lower case, and the address of the default route."""
    host.at("etc").mkdir()
    host.at("etc/hostname").write_text("# local\nNode-A.Example.COM\n")
    config = own_config(host, "key_algorithm: ECDSA-P256\ninit: {advertise_address: 0.0.0.0}\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            assert "has no default route" in bare(host, "--config", config).err
            return
        address = probe.getsockname()[0]
    assert bare(host, "--config", config).code == 0
    assert host.certificate(f"{PKI}/etcd/peer.crt").subject.rfc4514_string() == "CN=node-a.example.com"
    assert names_of(host, "etcd/peer") == {"node-a.example.com", "localhost", address, "127.0.0.1", "::1"}


def test_a_profile_of_which_init_makes_nothing(host: Host) -> None:
    """Where a distribution makes its PKI by itself, `init` does not say that everything is there, but that it has
    nothing to make.
    """
    config = own_config(host, "profile: k3s\ninit: {advertise_address: 192.0.2.9}\n")
    for more in ((), ("--dry-run",)):
        done = bare(host, "--config", config, *more)
        assert (done.code, done.out) == (3, "")
        assert "`certmond init` creates no file of the profile 'k3s'" in done.err
    assert not list(host.at(".").iterdir())


@pytest.mark.parametrize("name", ["under_score", "-", "ü", "a b"])
def test_an_invalid_host_name(host: Host, name: str) -> None:
    """A host name that no node can have is reported with the remedy."""
    host.at("etc").mkdir()
    host.at("etc/hostname").write_text(name)
    done = bare(host)
    assert done.code == 3
    assert "set `node_name`" in done.err


@pytest.mark.long
@pytest.mark.real("unshare")
def test_no_default_route(host: Host) -> None:
    """On a host without any route, the error asks for the address."""
    command = [real_part("unshare"), "--net", sys.executable, "-m", "certmond", "init", f"--root={host.root}",
               f"--state-dir={host.state}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if "unshare" in done.stderr:
        pytest.skip("this machine cannot create a network namespace")
    assert done.returncode == 3
    assert "set `init: {advertise_address: …}` in the configuration" in done.stderr


def test_certificates_elsewhere_and_etcd_elsewhere(host: Host) -> None:
    """`certificatesDir` is where pki/ is, and with an external etcd none of its certificates is made."""
    host.config.write_text(
        f"{ECDSA}certificatesDir: /srv/pki\netcd: {{external: {{endpoints: ['https://192.0.2.3:2379']}}}}\n"
    )
    host.made()
    assert not host.at(PKI).exists()
    names = {path.name for path in host.at("srv/pki").iterdir()}
    assert names == {
        f"{name}.{suffix}"
        for name in ("ca", "apiserver", "apiserver-kubelet-client", "front-proxy-ca", "front-proxy-client", "sa")
        for suffix in ("key", "pub" if name == "sa" else "crt")
    }
    assert host.made().out == "nothing to do: all files exist\n"


def test_a_kubeadm_configuration_that_is_no_file(host: Host) -> None:
    """An unreadable file is reported with one sentence."""
    done = certmond("init", "--root", host.root, "--state-dir", host.state, "--kubeadm-config", "/dev/zero")
    assert done.code == 3
    assert "certmond cannot read /dev/zero (it is not a regular file)" in done.err
    host.config.write_bytes(b"\xff")
    assert host.refused() == [f"{host.config}: is not YAML; correct the file"]


def test_a_kubeadm_configuration_that_others_can_write_is_refused(host: Host) -> None:
    """It may be writable neither by the group nor by all; `--dry-run` may read it."""
    for mode in (0o664, 0o646):
        host.config.chmod(mode)
        done = host.init()
        assert done.code == 3
        assert f"and other users can write this file (mode {mode:04o})" in done.err
        assert done.err.endswith(f"; run: chmod go-w {host.config}\n")
        assert not host.state.exists()
        assert host.init("--dry-run").code == 0
    host.config.chmod(0o644)
    host.made()


# The documentation


@pytest.mark.long
@pytest.mark.real("openssl")
def test_the_example_works(tmp_path: Path) -> None:
    """The commands at the head of docs/init.md do what they say."""
    real_part("openssl")
    text = DOCS.read_text()
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (tmp_path / "kubeadm.yaml").write_text(config)
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    program = bin_directory / "certmond"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m certmond "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-exc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "17 created" in done.stdout
    assert done.stdout.endswith("node/etc/kubernetes/pki/apiserver.crt: OK\n")


def test_the_configuration_of_the_real_tree_is_at_hand() -> None:
    """The tree and the configuration that tests compare are of one kubeadm."""
    with tarfile.open(DATA / "kubeadm-1.24.tar") as archive:
        assert f"{PKI}/apiserver.crt" in archive.getnames()
    assert "v1.24.0" in CONFIG.read_text()


def test_the_state_is_on_the_node_below_the_root(tmp_path: Path) -> None:
    """Without `--state-dir` the state is in `/var/lib/certmond` below `--root`. `init` creates the directories above
    it, unless there is nothing to do.
    """
    host = Host(tmp_path)
    options = ("--root", host.root, "--kubeadm-config", host.config)
    assert certmond("init", *options, "--dry-run").code == 0
    assert list(host.root.iterdir()) == []
    done = certmond("init", *options)
    assert (done.code, done.err) == (0, "")
    state = host.at("/var/lib/certmond")
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert (state / "audit.log").stat().st_size > 0
    renewed = certmond("renew", "apiserver", "--root", host.root)
    assert (renewed.code, renewed.err) == (0, "")
    assert "apiserver" in certmond("archive", "list", "--root", host.root).out
