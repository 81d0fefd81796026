"""The configuration that fits a node, from the flags of its components."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.discovery.configuration import _FLAGS, discover
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.findings import Reason, Severity
from tests.deadline import DEADLINE
from tests.node import KUBELET_PEM, NOW, PKI, Node, ca_like, key_pem, pem
from tests.reference_node import EXTRA, ReferenceNode
from tests.sampling import examples

MANIFESTS = "etc/kubernetes/manifests"
API, KCM, ETCD = (f"{MANIFESTS}/{name}.yaml" for name in ("kube-apiserver", "kube-controller-manager", "etcd"))
KUBELET = "var/lib/kubelet/config.yaml"


def found(node: Node, profile: str = "kubeadm") -> str:
    """Return the discovered configuration, after asserting that it loads and is stable."""
    text = discover(parse((), profile=profile), str(node.root))
    assert discover(loaded(text), str(node.root)) == text
    return text


def loaded(text: str) -> Config:
    return parse((Source("discovered", text),))


def entries(text: str) -> dict[str, dict[str, Any]]:
    """name -> the fields of each entry in the configuration, without the name."""
    return {entry.pop("name"): entry for entry in yaml.safe_load(text).get("certificates", [])}


def comments(text: str, name: str = "") -> list[str]:
    """The comments right before the entry of that name, or those outside all entries."""
    lines = text.splitlines()
    if not name:
        return [line.removeprefix("# ") for line in lines if line.startswith("#")]
    start = end = lines.index(f"  - name: {name}")
    while lines[start - 1].startswith("  #"):
        start -= 1
    return [line.removeprefix("  # ") for line in lines[start:end]]


def judged(node: Node, text: str) -> set[tuple[str, Reason]]:
    """Return the findings of a check with the configuration, except information."""
    config = loaded(text)
    assessment = assess(Store(config.certificates, str(node.root)).observe(), NOW)
    assert assessment.statuses
    pairs = ((status.seen.name, item) for status in assessment.statuses for item in status.findings)
    return {(name, item.reason) for name, item in pairs if item.severity is not Severity.INFO}


def seen(node: Node, text: str) -> dict[str, str]:
    """name -> path of all that a check with the configuration sees on the node."""
    return {each.name: each.path for each in Store(loaded(text).certificates, str(node.root)).observe().observations}


def edit(node: Node, name: str, *changes: tuple[str, str]) -> None:
    text = node.read(name).decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    node.write(name, text)


def add_flags(node: Node, name: str, *flags: str) -> None:
    document = yaml.safe_load(node.read(name))
    document["spec"]["containers"][0]["command"] += flags
    node.write(name, yaml.safe_dump(document))


def move(node: Node, old: str, new: str) -> None:
    node.path(new).parent.mkdir(parents=True, exist_ok=True)
    node.path(old).rename(node.path(new))


def create(node: Node, name: str, content: bytes | str) -> None:
    node.path(name).parent.mkdir(parents=True, exist_ok=True)
    node.write(name, content)


def keep_only(node: Node, *names: str) -> None:
    """Remove every file outside `names`."""
    for directory, _, files in os.walk(node.root):
        for file in (Path(directory) / file for file in files):
            if str(file.relative_to(node.root)) not in names:
                file.unlink()


def new_ca(node: Node, name: str, like: str = f"{PKI}/ca") -> None:
    """Write a separate CA to `name`.crt and `name`.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    create(node, f"{name}.crt", pem(ca_like(node.certificate(f"{like}.crt"), key)))
    create(node, f"{name}.key", key_pem(key))
    node.path(f"{name}.key").chmod(0o600)


def new_leaf(node: Node, name: str, like: str, ca: str = f"{PKI}/ca") -> None:
    certificate, key = node.mint(node.certificate(f"{like}.crt"), ca)
    create(node, f"{name}.crt", pem(certificate))
    create(node, f"{name}.key", key_pem(key))
    node.path(f"{name}.key").chmod(0o600)


def test_a_node_of_kubeadm_equals_the_profile(node: Node) -> None:
    """On a node of kubeadm the configuration has only the profile and the node's name, and reports that."""
    text = found(node)
    assert text == (
        "# this node does not differ from the profile kubeadm\n"
        "profile: kubeadm\n"
        "node_name: controller-0\n"
        "# not on this node: super-admin.conf, kubelet-server, kubelet-server-self\n"
    )
    assert not judged(node, text)


def test_the_table_knows_the_entries_of_the_profile() -> None:
    """Every entry that the table of flags speaks of is one of the kubeadm profile."""
    assert _FLAGS.keys() - {""} <= {spec.name for spec in parse(()).certificates}


def test_a_moved_pair_is_an_override_that_names_its_flags(node: Node) -> None:
    """A pair under another path is an override, and comments name manifest and flag and what the profile has."""
    for end in ("crt", "key"):
        move(node, f"{PKI}/apiserver.{end}", f"etc/ssl/private/api.{end}")
        edit(node, API, (f"/{PKI}/apiserver.{end}", f"/etc/ssl/private/api.{end}"))
    text = found(node)
    assert entries(text) == {
        "apiserver": {"path": "/etc/ssl/private/api.crt", "key": "/etc/ssl/private/api.key"},
    }
    assert comments(text, "apiserver") == [
        "kube-apiserver.yaml --tls-cert-file: the profile has /etc/kubernetes/pki/apiserver.crt",
        "kube-apiserver.yaml --tls-private-key-file: the profile has /etc/kubernetes/pki/apiserver.key",
    ]
    assert not judged(node, text)


def test_a_file_of_a_flag_is_missing_when_it_is_removed(node: Node) -> None:
    """A certificate that was discovered under another path is missing as soon as it does not exist there."""
    test_a_moved_pair_is_an_override_that_names_its_flags(node)
    text = found(node)
    node.path("etc/ssl/private/api.crt").unlink()
    assert judged(node, text) == {("apiserver", Reason.MISSING)}
    assert found(node) == text


def test_etcds_certificates_elsewhere(node: Node) -> None:
    """etcd's certificates in /etc/etcd, as on StarlingX, are overrides. A CA's key is expected beside it.

    A file that no flag names cannot be found at another path: it is no longer expected, and a comment reports it.
    """
    move(node, f"{PKI}/etcd", "etc/etcd")
    for manifest in (API, ETCD):
        edit(node, manifest, (f"/{PKI}/etcd", "/etc/etcd"))
    text = found(node)
    assert entries(text) == {
        "etcd-ca": {"path": "/etc/etcd/ca.crt", "key": "/etc/etcd/ca.key"},
        "etcd-server": {"path": "/etc/etcd/server.crt", "key": "/etc/etcd/server.key"},
        "etcd-peer": {"path": "/etc/etcd/peer.crt", "key": "/etc/etcd/peer.key"},
        "etcd-healthcheck-client": {"optional": True},
    }
    assert comments(text, "etcd-ca") == [
        "etcd.yaml --trusted-ca-file: the profile has /etc/kubernetes/pki/etcd/ca.crt",
        "beside /etc/etcd/ca.crt: the profile has /etc/kubernetes/pki/etcd/ca.key",
    ]
    assert comments(text, "etcd-healthcheck-client") == [
        "not expected: the file is not on this node, and no flag names it"
    ]
    assert "etcd-healthcheck-client" in comments(text)[-1]
    assert not judged(node, text)


def test_external_etcd(node: Node) -> None:
    """With etcd elsewhere, the API server's flags alone tell its CA and client; the rest is not on this node."""
    node.path(ETCD).unlink()
    for name in ("server", "peer", "healthcheck-client"):
        node.path(f"{PKI}/etcd/{name}.crt").unlink()
        node.path(f"{PKI}/etcd/{name}.key").unlink()
    node.path(f"{PKI}/etcd/ca.key").unlink()
    text = found(node)
    assert not entries(text)
    assert {"etcd-server", "etcd-peer", "etcd-healthcheck-client"} <= set(re.findall(r"[\w.-]+", comments(text)[-1]))
    assert not judged(node, text)
    move(node, f"{PKI}/etcd/ca.crt", "etc/pki/etcd/ca.pem")
    move(node, f"{PKI}/apiserver-etcd-client.crt", "etc/pki/etcd/client.pem")
    move(node, f"{PKI}/apiserver-etcd-client.key", "etc/pki/etcd/client-key.pem")
    edit(
        node,
        API,
        (f"/{PKI}/etcd/ca.crt", "/etc/pki/etcd/ca.pem"),
        (f"/{PKI}/apiserver-etcd-client.crt", "/etc/pki/etcd/client.pem"),
        (f"/{PKI}/apiserver-etcd-client.key", "/etc/pki/etcd/client-key.pem"),
    )
    text = found(node)
    assert entries(text) == {
        "etcd-ca": {"path": "/etc/pki/etcd/ca.pem", "key": "/etc/pki/etcd/ca.key"},
        "apiserver-etcd-client": {"path": "/etc/pki/etcd/client.pem", "key": "/etc/pki/etcd/client-key.pem"},
    }
    assert not judged(node, text)


def test_a_worker(node: Node) -> None:
    """A worker has kubelet.conf, the kubelet's PEM and the Root CA: nothing differs, the rest is not there."""
    current = "var/lib/kubelet/pki/kubelet-client-current.pem"
    keep_only(node, "etc/kubernetes/kubelet.conf", f"{PKI}/ca.crt", KUBELET_PEM, current)
    create(node, KUBELET, kubelet_config(f"/{PKI}/ca.crt", staticPodPath=f"/{MANIFESTS}"))
    text = found(node)
    assert yaml.safe_load(text) == {"profile": "kubeadm", "node_name": "controller-0"}
    closing = set(re.findall(r"[\w.-]+", comments(text)[-1]))
    assert {"apiserver", "etcd-ca", "sa", "admin.conf"} <= closing
    assert not {"ca", "kubelet-client"} & closing
    assert not judged(node, text)
    assert set(seen(node, text)) == {"ca", "kubelet-client"}


def kubelet_config(ca: str, **fields: object) -> str:
    head = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
    return yaml.safe_dump(
        {**head, "authentication": {"x509": {"clientCAFile": ca}}, "rotateCertificates": True, **fields}
    )


def test_a_workers_ca_elsewhere(node: Node) -> None:
    """The kubelet's clientCAFile tells where a worker's Root CA is; relative, it counts from the configuration."""
    keep_only(node, "etc/kubernetes/kubelet.conf", f"{PKI}/ca.crt", KUBELET_PEM)
    node.path("var/lib/kubelet/pki/kubelet-client-current.pem").symlink_to(f"/{KUBELET_PEM}")
    move(node, f"{PKI}/ca.crt", "var/lib/kubelet/ssl/ca.crt")
    create(node, KUBELET, kubelet_config("/var/lib/kubelet/ssl/ca.crt"))
    text = found(node)
    assert entries(text)["ca"]["path"] == "/var/lib/kubelet/ssl/ca.crt"
    assert comments(text, "ca")[0] == f"/{KUBELET} clientCAFile: the profile has /etc/kubernetes/pki/ca.crt"
    assert not judged(node, text)
    create(node, KUBELET, kubelet_config("ssl/ca.crt"))
    text = found(node)
    assert entries(text)["ca"]["path"] == "/var/lib/kubelet/ssl/ca.crt"
    assert not judged(node, text)
    node.path("var/lib/kubelet/ssl/ca.crt").unlink()
    assert ("ca", Reason.MISSING) in judged(node, text)


@pytest.mark.parametrize("how", ["staticPodPath", "relative", "flag", "name"])
def test_manifests_elsewhere(node: Node, how: str) -> None:
    """With static pods in another directory or under other names, the conditions of the profile go with them."""
    if how == "name":
        move(node, API, f"{MANIFESTS}/api.yml")
        api = f"/{MANIFESTS}/api.yml"
    else:
        move(node, MANIFESTS, "etc/kubelet.d")
        api = "/etc/kubelet.d/kube-apiserver.yaml"
    if how == "staticPodPath":
        create(node, KUBELET, kubelet_config(f"/{PKI}/ca.crt", staticPodPath="/etc/kubelet.d"))
    elif how == "relative":  # to the configuration file
        create(node, KUBELET, kubelet_config(f"/{PKI}/ca.crt", staticPodPath="../../../etc/kubelet.d"))
    elif how == "flag":
        create(
            node,
            "var/lib/kubelet/kubeadm-flags.env",
            'KUBELET_KUBEADM_ARGS="--pod-manifest-path=/etc/kubelet.d/ --v 2"',
        )
    text = found(node)
    assert entries(text)["apiserver"] == {"mentioned_in": [api]}
    assert entries(text)["admin.conf"] == {"belongs_with": [api]}
    assert comments(text, "apiserver") == [
        f"kubelet's staticPodPath {Path(api).parent}, kubeconfig /etc/kubernetes/kubelet.conf: the profile has /{API}"
    ]
    assert "super-admin.conf" not in entries(text)
    assert not judged(node, text)
    for name in ("apiserver.crt", "front-proxy-ca.crt"):
        node.path(f"{PKI}/{name}").unlink()
    node.path("etc/kubernetes/admin.conf").unlink()
    missing = {name for name, reason in judged(node, text) if reason is Reason.MISSING}
    assert missing == {"apiserver", "front-proxy-ca", "admin.conf"}


@pytest.mark.parametrize(
    "content", [b"spec: [", b"", b"- a\n", b"\x00\xff\xfe", b"spec: {containers: {a: 1}}", b"a: 1\n---\nb: 2\n"]
)
def test_a_broken_manifest_is_reported_in_a_comment(node: Node, content: bytes) -> None:
    """A comment names an unreadable manifest, and all other files are discovered."""
    node.write(API, content)
    text = found(node)
    assert f"/{API}" in comments(text)[0]
    assert not entries(text)
    assert "this node does not differ" not in text
    assert not judged(node, text)


def test_a_manifest_that_is_no_file_is_reported_in_a_comment(node: Node) -> None:
    """A directory or a dangling link in place of a manifest gives no traceback."""
    node.path(API).unlink()
    node.path(API).mkdir()
    node.path(f"{MANIFESTS}/gone.yaml").symlink_to("/nowhere")
    assert f"/{API} is a directory, not a regular file" in comments(found(node))[0]


def test_an_empty_root(node: Node) -> None:
    """If the root has no part of a node, a comment reports it, and the configuration is only the profile."""
    keep_only(node)
    text = found(node)
    assert f"no file of a Kubernetes node exists below {node.root}" in comments(text)[0]
    assert yaml.safe_load(text) == {"profile": "kubeadm"}
    assert loaded(text) == parse(())


def test_certificates_by_server_name_are_additions(node: Node) -> None:
    """Each pair of --tls-sni-cert-key is one more entry with its own name, and chains to the CA that signed it."""
    for number in (1, 2):
        new_leaf(node, f"etc/sni/{number}", f"{PKI}/apiserver")
    new_leaf(node, "etc/sni/3", f"{PKI}/apiserver")
    add_flags(
        node,
        API,
        "--tls-sni-cert-key=/etc/sni/1.crt,/etc/sni/1.key",
        "--tls-sni-cert-key=/etc/sni/2.crt,/etc/sni/2.key:a.example,*.b.example",
        "--tls-sni-cert-key",
        "/etc/sni/3.crt,/etc/sni/3.key",
    )
    text = found(node)
    additions = entries(text)
    name = "kube-apiserver-tls-sni-cert-key"
    assert list(additions) == [name, f"{name}-2", f"{name}-3"]
    assert additions[f"{name}-2"] == {
        "path": "/etc/sni/2.crt", "key": "/etc/sni/2.key", "ca": "ca", "belongs_with": f"/{API}",
    }  # fmt: skip
    assert comments(text, name) == ["kube-apiserver.yaml --tls-sni-cert-key: the profile has no entry for this file"]
    assert not judged(node, text)
    node.path("etc/sni/2.crt").unlink()
    assert judged(node, text) == {(f"{name}-2", Reason.MISSING)}


def test_serving_certificates_of_the_others_are_additions(node: Node) -> None:
    """The profile knows no serving certificate of controller-manager and scheduler: one that a flag names is added."""
    new_leaf(node, "etc/serving", f"{PKI}/apiserver")
    add_flags(node, KCM, "--tls-cert-file=/etc/serving.crt", "--tls-private-key-file=/etc/serving.key")
    add_flags(node, f"{MANIFESTS}/kube-scheduler.yaml", "--tls-cert-file=/etc/serving.crt")
    text = found(node)
    assert entries(text) == {
        "kube-controller-manager-tls-cert-file": {
            "path": "/etc/serving.crt", "key": "/etc/serving.key", "belongs_with": f"/{KCM}", "ca": "ca",
        },
    }  # fmt: skip
    assert not judged(node, text)


def test_paths_are_those_of_the_host(node: Node) -> None:
    """Where a pod mounts a directory of the host under another name, the entry has the host's name."""
    move(node, f"{PKI}/etcd", "srv/etcd-pki")
    edit(node, ETCD, (f"path: /{PKI}/etcd", "path: /srv/etcd-pki/"), (f"/{PKI}/etcd", "/certs"))
    edit(node, API, (f"--etcd-cafile=/{PKI}/etcd/ca.crt", "--etcd-cafile=/srv/etcd-pki/ca.crt"))
    text = found(node)
    assert entries(text)["etcd-server"] == {
        "path": "/srv/etcd-pki/server.crt",
        "key": "/srv/etcd-pki/server.key",
        "belongs_with": [f"/{ETCD}"],
    }
    assert not judged(node, text)
    node.path("srv/etcd-pki/server.crt").unlink()
    assert judged(node, text) == {("etcd-server", Reason.MISSING)}


def test_files_that_are_not_the_hosts_are_not_followed(node: Node) -> None:
    """A flag that names no absolute path, a pattern, or a file in a volume that is not the host's is only noted."""
    edit(node, ETCD, (f"/{PKI}/etcd/server.crt", "server.crt"), (f"/{PKI}/etcd/peer.crt", "/etc/p*.crt"))
    document = yaml.safe_load(node.read(API))
    document["spec"]["volumes"] += [{"name": "own", "emptyDir": {}}]
    document["spec"]["containers"][0]["volumeMounts"] += [{"name": "own", "mountPath": "/own"}]
    document["spec"]["containers"][0]["command"] += ["--tls-sni-cert-key=/own/a.crt,/own/a.key"]
    node.write(API, yaml.safe_dump(document))
    text = found(node)
    assert not entries(text)
    notes = [note for note in comments(text) if "certmond ignores" in note]
    assert [note.split(":")[0] for note in notes] == [
        "etcd.yaml --cert-file", "etcd.yaml --peer-cert-file", "kube-apiserver.yaml --tls-sni-cert-key"
    ]  # fmt: skip


def test_a_peer_ca_of_its_own(node: Node) -> None:
    """Where etcd's peers have their own CA, it is an addition, and the peer certificate chains to it."""
    new_ca(node, "etc/etcd/peer-ca", f"{PKI}/etcd/ca")
    node.reissue(f"{PKI}/etcd/peer", "etc/etcd/peer-ca")
    edit(node, ETCD, (f"--peer-trusted-ca-file=/{PKI}/etcd/ca.crt", "--peer-trusted-ca-file=/etc/etcd/peer-ca.crt"))
    text = found(node)
    assert set(entries(text)) == {"etcd-peer-trusted-ca-file", "etcd-peer"}
    assert entries(text)["etcd-peer-trusted-ca-file"]["authority"] is True
    assert entries(text)["etcd-peer"] == {"ca": ["etcd-peer-trusted-ca-file"]}
    assert not judged(node, text)


def test_a_leaf_of_the_wrong_ca_stays_a_finding(node: Node) -> None:
    """A defect of a certificate is not discovered away: only a CA that is new here becomes another issuer."""
    node.reissue(f"{PKI}/apiserver", f"{PKI}/etcd/ca")
    text = found(node)
    assert not entries(text)
    assert ("apiserver", Reason.NO_PATH) in judged(node, text)


def test_the_signer_during_a_rotation(node: Node) -> None:
    """A signing pair that is not the Root CA's file is an addition, an authority with its key."""
    new_ca(node, f"{PKI}/signer")
    edit(
        node,
        KCM,
        (f"signing-cert-file=/{PKI}/ca.crt", f"signing-cert-file=/{PKI}/signer.crt"),
        (f"signing-key-file=/{PKI}/ca.key", f"signing-key-file=/{PKI}/signer.key"),
    )
    text = found(node)
    assert entries(text) == {
        "kube-controller-manager-cluster-signing-cert-file": {
            "path": f"/{PKI}/signer.crt", "key": f"/{PKI}/signer.key", "authority": True, "key_optional": True,
            "belongs_with": f"/{KCM}",
        },
    }  # fmt: skip
    assert not judged(node, text)


def test_a_moved_root_ca_with_its_key_elsewhere(node: Node) -> None:
    """The flag of one component tells where the Root CA's certificate is, that of another where its key is."""
    move(node, f"{PKI}/ca.crt", "etc/root/ca.pem")
    move(node, f"{PKI}/ca.key", "etc/safe/ca-key.pem")
    for manifest in (API, KCM):
        edit(node, manifest, (f"/{PKI}/ca.crt", "/etc/root/ca.pem"))
    edit(node, KCM, (f"/{PKI}/ca.key", "/etc/safe/ca-key.pem"))
    create(node, KUBELET, kubelet_config("/etc/root/ca.pem"))
    text = found(node)
    assert entries(text) == {"ca": {"path": "/etc/root/ca.pem", "key": "/etc/safe/ca-key.pem"}}
    assert comments(text, "ca") == [
        "kube-controller-manager.yaml --root-ca-file: the profile has /etc/kubernetes/pki/ca.crt",
        "kube-controller-manager.yaml --cluster-signing-key-file: the profile has /etc/kubernetes/pki/ca.key",
    ]
    assert not judged(node, text)


def test_an_external_ca_leaves_the_signing_flags_empty(node: Node) -> None:
    """Signing flags without a value, as kubeadm writes them for an external CA, say nothing."""
    edit(
        node, KCM, (f"signing-cert-file=/{PKI}/ca.crt", "signing-cert-file="), (f"key-file=/{PKI}/ca.key", "key-file=")
    )
    node.path(f"{PKI}/ca.key").unlink()
    assert "this node does not differ" in comments(found(node))[0]


def test_service_account_keys(node: Node) -> None:
    """The key pair that signs tokens may be elsewhere; further keys that only verify get no entry."""
    create(node, f"{PKI}/old.pub", node.read(f"{PKI}/sa.pub"))
    add_flags(node, API, f"--service-account-key-file=/{PKI}/old.pub")
    assert not entries(found(node))
    move(node, f"{PKI}/sa.key", "etc/sa/signing.key")
    edit(node, API, (f"/{PKI}/sa.key", "/etc/sa/signing.key"))
    text = found(node)
    assert entries(text) == {"sa": {"key": "/etc/sa/signing.key"}}
    assert not judged(node, text)


def test_a_missing_kubeconfig_of_people_is_not_expected(node: Node) -> None:
    """admin.conf may be kept elsewhere: absent when the node is discovered, it is optional from then on."""
    node.path("etc/kubernetes/admin.conf").unlink()
    text = found(node)
    assert entries(text) == {"admin.conf": {"optional": True}}
    assert not judged(node, text)


def test_a_named_and_missing_file_stays_missing(node: Node) -> None:
    """A file that a flag names and that does not exist remains a finding."""
    node.path(f"{PKI}/front-proxy-client.crt").unlink()
    text = found(node)
    assert not entries(text)
    assert "front-proxy-client" not in comments(text)[-1]
    assert judged(node, text) == {("front-proxy-client", Reason.MISSING)}


def test_kubeconfigs_elsewhere(node: Node) -> None:
    """The kubeconfigs that flags name may lie elsewhere, the kubelet's too."""
    move(node, "etc/kubernetes/scheduler.conf", "etc/kube/s.conf")
    move(node, "etc/kubernetes/kubelet.conf", "etc/kube/k.conf")
    edit(node, f"{MANIFESTS}/kube-scheduler.yaml", ("/etc/kubernetes/scheduler.conf", "/etc/kube/s.conf"))
    create(node, "etc/default/kubelet", "# --kubeconfig=/no\nKUBELET_EXTRA_ARGS=--kubeconfig=/etc/kube/k.conf")
    text = found(node)
    assert entries(text) == {
        "scheduler.conf": {"path": "/etc/kube/s.conf"},
        "kubelet-client": {"belongs_with": ["/etc/kube/k.conf"], "kubeconfig": "/etc/kube/k.conf"},
    }
    assert not judged(node, text)


def test_the_kubelets_pem_elsewhere(node: Node) -> None:
    """kubelet.conf says where the kubelet's PEM and, by path, its CA are."""
    pems, ca = "var/lib/kube/pki", "/etc/other/ca.crt"
    node.path("var/lib/kubelet/pki/kubelet-client-current.pem").unlink()
    move(node, KUBELET_PEM, f"{pems}/{Path(KUBELET_PEM).name}")
    node.path(f"{pems}/kubelet-client-current.pem").symlink_to(Path(KUBELET_PEM).name)
    create(node, ca[1:], node.read(f"{PKI}/ca.crt"))
    document = node.kubeconfig("etc/kubernetes/kubelet.conf")
    pem_path = f"/{pems}/kubelet-client-current.pem"
    document["users"][0]["user"] = {"client-certificate": pem_path, "client-key": pem_path}
    del document["clusters"][0]["cluster"]["certificate-authority-data"]
    document["clusters"][0]["cluster"]["certificate-authority"] = ca
    node.write("etc/kubernetes/kubelet.conf", yaml.safe_dump(document))
    text = found(node)
    assert entries(text)["kubelet-client"] == {"path": pem_path, "key": pem_path}
    assert comments(text, "kubelet-client")[0].startswith(
        "/etc/kubernetes/kubelet.conf client-certificate: the profile"
    )
    assert entries(text)["kubelet.conf-certificate-authority"]["path"] == ca
    assert not judged(node, text)


def test_a_kubelet_whose_kubeconfig_embeds_its_credentials(node: Node) -> None:
    """Without a rotated PEM, embedded credentials are judged where they are; beside one, they stay a finding."""
    content = node.read(KUBELET_PEM)
    node.edit_kubeconfig("etc/kubernetes/kubelet.conf", client_certificate_data=content, client_key_data=content)
    text = found(node)
    assert not entries(text)
    assert judged(node, text) == {("kubelet-client", Reason.NOT_ROTATING_PEM)}
    node.path(KUBELET_PEM).unlink()
    text = found(node)
    assert entries(text)["kubelet-client"]["path"] == "/etc/kubernetes/kubelet.conf"
    assert entries(text)["kubelet-client"]["kind"] == "kubeconfig"
    assert not judged(node, text)


def test_a_kubelet_without_certificates(node: Node) -> None:
    """A kubelet that has a token has no PEM, and is not asked for one."""
    node.path(KUBELET_PEM).unlink()
    node.path("var/lib/kubelet/pki/kubelet-client-current.pem").unlink()
    document = node.kubeconfig("etc/kubernetes/kubelet.conf")
    document["users"][0]["user"] = {"token": "abc"}
    node.write("etc/kubernetes/kubelet.conf", yaml.safe_dump(document))
    text = found(node)
    assert entries(text) == {"kubelet-client": {"optional": True}}
    assert not judged(node, text)


def test_the_kubelets_serving_certificate(node: Node) -> None:
    """tlsCertFile and serverTLSBootstrap say which serving certificate the kubelet has: that one is not optional."""
    new_leaf(node, "etc/kubelet/serving", f"{PKI}/apiserver")
    fields = {"tlsCertFile": "/etc/kubelet/serving.crt", "tlsPrivateKeyFile": "/etc/kubelet/serving.key"}
    create(node, KUBELET, kubelet_config(f"/{PKI}/ca.crt", **fields))
    text = found(node)
    assert entries(text) == {
        "kubelet-server-self": {
            "path": "/etc/kubelet/serving.crt", "key": "/etc/kubelet/serving.key",
            "optional": False, "belongs_with": [f"/{KUBELET}"],
        },
    }  # fmt: skip
    assert not judged(node, text)
    create(node, KUBELET, kubelet_config(f"/{PKI}/ca.crt", serverTLSBootstrap=True))
    text = found(node)
    assert entries(text) == {"kubelet-server": {"optional": False, "belongs_with": [f"/{KUBELET}"]}}
    assert judged(node, text) == {("kubelet-server", Reason.MISSING)}


def test_a_single_manifest_counts(node: Node) -> None:
    """`staticPodPath` can be the path of one manifest, and then certmond ignores the others in its directory."""
    create(node, KUBELET, kubelet_config(f"/{PKI}/ca.crt", staticPodPath=f"/{API}"))
    etcd = "etc/kubernetes/manifests/etcd.yaml"
    move(node, f"{PKI}/apiserver.crt", "etc/ssl/api.crt")
    move(node, f"{PKI}/apiserver.key", "etc/ssl/api.key")
    edit(node, API, (f"/{PKI}/apiserver.", "/etc/ssl/api."))
    edit(node, etcd, (f"/{PKI}/etcd/server.crt", "/etc/none.crt"))
    text = found(node)
    assert entries(text)["apiserver"]["path"] == "/etc/ssl/api.crt"
    assert "etcd-server" not in entries(text)


def test_settings_without_an_absolute_path_are_ignored(node: Node) -> None:
    """A kubeconfig with a pattern, and a path of static Pods that no file can have, count as unset."""
    create(node, "var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=--kubeconfig=a*b\n")
    assert "this node does not differ" in comments(found(node))[0]
    create(node, KUBELET, 'staticPodPath: "/a\\0b"\n')
    assert "this node does not differ" in comments(found(node))[0]


def test_a_manifest_whose_name_is_no_text_is_passed_over(node: Node) -> None:
    """A name that is not UTF-8 cannot be written into a configuration; hidden files are not the kubelet's."""
    for name in (b"\xff.yaml", b".hidden.yaml"):
        Path(os.fsdecode(os.fsencode(node.path(MANIFESTS)) + b"/" + name)).write_text("broken: [")
    assert "this node does not differ" in comments(found(node))[0]


def test_a_manifest_has_any_suffix(node: Node) -> None:
    """The kubelet starts the Pod of each file, so `discover` reads each file."""
    manifest = f"{MANIFESTS}/kube-apiserver.yaml"
    text = node.read(manifest).decode().replace("/etc/kubernetes/pki/apiserver.", "/etc/kubernetes/pki/other.")
    node.path(manifest).unlink()
    create(node, f"{MANIFESTS}/kube-apiserver.manifest", text)
    create(node, f"{MANIFESTS}/kube.bak", "broken: [")
    text = found(node)
    assert entries(text)["apiserver"]["path"] == "/etc/kubernetes/pki/other.crt"
    assert "/etc/kubernetes/manifests/kube.bak is broken" in comments(text)[0]


@pytest.mark.parametrize(
    "fields", [{"authentication": None}, {"authentication": {"x509": []}}, {"authentication": "x"}]
)
def test_an_unknown_kubelet_configuration(node: Node, fields: dict[str, object]) -> None:
    """A document without the fields of a kubelet's configuration is ignored."""
    create(node, KUBELET, yaml.safe_dump({"kind": "KubeletConfiguration", **fields}))
    assert "this node does not differ" in comments(found(node))[0]


def test_without_a_profile_all_that_flags_name_is_listed(node: Node) -> None:
    """With `profile: none` every file that a flag names is an entry, by its name in the kubeadm profile."""
    text = found(node, "none")
    assert yaml.safe_load(text)["profile"] == "none"
    assert set(entries(text)) == {spec.name for spec in parse(()).certificates} - {
        "sa", "admin.conf", "super-admin.conf", "etcd-healthcheck-client", "kubelet-server", "kubelet-server-self",
    }  # fmt: skip
    assert entries(text)["apiserver"]["ca"] == "ca"
    assert not judged(node, text)


def test_a_name_that_kubernetes_refuses_is_omitted(node: Node) -> None:
    """The node's name is proposed only if it is valid. The present configuration takes precedence."""
    keep_only(node)
    create(node, "etc/hostname", "not_a-name!\n")
    assert "node_name" not in yaml.safe_load(found(node))
    create(node, "etc/hostname", "Worker-1.example\n")
    assert yaml.safe_load(found(node))["node_name"] == "worker-1.example"
    config = parse((Source("own", "node_name: given"),))
    assert yaml.safe_load(discover(config, str(node.root)))["node_name"] == "given"


@pytest.mark.long
def test_the_verb(node: Node, tmp_path: Path) -> None:
    """`certmond discover > FILE` makes a configuration with which `certmond check` has no finding."""
    command = [sys.executable, "-m", "certmond", "--root", str(node.root)]
    done = subprocess.run([*command, "discover"], capture_output=True, check=True, timeout=DEADLINE)
    assert not done.stderr
    config = tmp_path / "config.yaml"
    config.write_bytes(done.stdout)
    check = [*command, "--config", str(config), "check", "--at", "2026-12-01T00:00:00Z"]
    assert subprocess.run(check, capture_output=True, check=False, timeout=DEADLINE).returncode == 0


ANYTHING = st.text(max_size=40) | st.sampled_from(
    [
        "/a\nb",
        "/etc/x: y",
        "# c",
        "/\x85\u2028",
        "/../..",
        "//a",
        "/" + "a" * 5000,
        "/a\x07",
        "/*",
        "-",
        "~",
        "/é",
        "/{a: 1}",
    ]
)


@pytest.mark.long
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(ANYTHING, min_size=4, max_size=4), name=ANYTHING, root=ANYTHING)
def test_any_content_of_the_files_gives_a_valid_result(node: Node, texts: list[str], name: str, root: str) -> None:
    """No text in the node's files causes a traceback or a broken configuration, or escapes its comment."""
    one, two, three, four = texts
    mounts = [{"name": four, "mountPath": "/x", "subPath": two}]
    words = [f"--tls-cert-file={one}", f"--client-ca-file={two}", f"--tls-sni-cert-key=/x{one},/y{two}"]
    containers: list[dict[str, object]] = [
        {"name": "kube-apiserver", "command": words, "volumeMounts": mounts},
        {"name": name, "command": [f"--{two}={three}", f"--{two}=/{PKI}/apiserver.crt"]},
        {"name": "etcd", "args": [f"--cert-file=/{three}", f"--key-file=/{four}", f"--trusted-ca-file=/{one}"]},
    ]
    volumes = [{"name": four, "hostPath": {"path": one}}]
    node.write(API, yaml.safe_dump({"spec": {"containers": containers, "volumes": volumes}}))
    create(node, KUBELET, kubelet_config(one, tlsCertFile=two, tlsPrivateKeyFile=three))
    create(node, "etc/default/kubelet", f"A=--client-ca-file={four} --kubeconfig={root}")
    create(node, "etc/hostname", name)
    node.path("etc/kubernetes/kubelet.conf").unlink(missing_ok=True)
    text = discover(parse(()), str(node.root))
    assert loaded(text).profile == "kubeadm"
    assert yaml.safe_load(text).keys() <= {"profile", "node_name", "certificates"}


@pytest.mark.long
@pytest.mark.parametrize(
    "part", ["spec", "containers", "command", "args", "volumes", "volumeMounts", "hostPath", "name"]
)
@pytest.mark.parametrize("value", [None, 1, "x", [], [1], {}, {"a": [None]}, [[]], [{}]], ids=repr)
def test_a_manifest_of_another_shape_is_no_traceback(node: Node, part: str, value: object) -> None:
    """Whatever has not the shape of a pod says nothing."""

    def changed(here: object) -> object:
        if isinstance(here, dict):
            return {key: value if key == part else changed(below) for key, below in here.items()}
        return [changed(below) for below in here] if isinstance(here, list) else here

    node.write(API, yaml.safe_dump(changed(yaml.safe_load(node.read(API)))))
    loaded(found(node))


def test_an_invalid_kubelet_conf_is_ignored(node: Node) -> None:
    """A broken kubelet.conf gives no entry, and its finding stays."""
    node.write("etc/kubernetes/kubelet.conf", "a: [")
    text = found(node)
    assert not entries(text)
    assert ("kubelet-client", Reason.MALFORMED) in judged(node, text)


@pytest.mark.long
def test_a_file_that_certmond_watches_without_an_entry_is_a_comment(node: Node) -> None:
    """`discover` names each file that only a flag names, and each file that certmond cannot watch, with the flag."""
    world = ReferenceNode(node, datetime(2036, 1, 1, tzinfo=UTC))
    world.add_flags("kube-apiserver", "--peer-ca-file=/in/the/image.crt")
    text = discover(parse((), profile="kubeadm"), str(node.root))
    flag, path = (
        "--oidc-ca-file in /etc/kubernetes/manifests/kube-apiserver.yaml",
        f"{EXTRA}/kube-apiserver-oidc-ca-file",
    )
    name = "kube-apiserver.oidc-ca-file"
    assert f"# {flag} names {path}.crt: certmond watches this file as {name} without an entry\n" in text
    assert "# certmond does not watch the file of --peer-ca-file in " in text
    parse((Source("discovered", text),))


def test_a_drop_in_of_the_kubelet_counts(node: Node) -> None:
    """`discover` reads the kubelet's configuration with its drop-ins."""
    node.path("var/lib/kubelet/kubeadm-flags.env").write_text('KUBELET_KUBEADM_ARGS="--config-dir=/etc/kubelet.d"\n')
    node.path("etc/kubelet.d").mkdir()
    fields = {"kind": "KubeletConfiguration", "authentication": {"x509": {"clientCAFile": "/etc/other/ca.crt"}}}
    node.path("etc/kubelet.d/10.conf").write_text(yaml.safe_dump(fields))
    text = discover(parse((), profile="kubeadm"), str(node.root))
    assert "path: /etc/other/ca.crt" in text


def test_components_that_run_as_services_are_followed(node: Node) -> None:
    """`discover` reads the flags of etcd and the kubelet in units and environment files of systemd."""
    node.path(ETCD).unlink()
    move(node, f"{PKI}/etcd", "etc/ssl/etcd")
    move(node, "etc/ssl/etcd/ca.crt", "etc/ssl/etcd/ca.pem")
    move(node, "etc/ssl/etcd/ca.key", "etc/ssl/etcd/ca-key.pem")
    edit(node, API, (f"/{PKI}/etcd/ca.crt", "/etc/ssl/etcd/ca.pem"))
    flags = {"TRUSTED_CA_FILE": "ca.pem", "CERT_FILE": "server.crt", "KEY_FILE": "server.key"}
    flags |= {"PEER_TRUSTED_CA_FILE": "ca.pem", "PEER_CERT_FILE": "peer.crt", "PEER_KEY_FILE": "peer.key"}
    create(node, "etc/etcd.env", "".join(f"ETCD_{name}=/etc/ssl/etcd/{file}\n" for name, file in flags.items()))
    create(node, "etc/kubernetes/kubelet.env", 'ARGS="--config=/etc/kubernetes/kubelet.yaml"\n')
    create(node, "etc/kubernetes/kubelet.yaml", "kind: KubeletConfiguration\nstaticPodPath: /etc/kubernetes/pods\n")
    move(node, MANIFESTS, "etc/kubernetes/pods")
    for name, file, arguments in (("etcd", "/etc/etcd.env", ""), ("kubelet", "/etc/kubernetes/kubelet.env", " $ARGS")):
        unit = f"[Service]\nEnvironmentFile=-{file}\nExecStart=/usr/local/bin/{name}{arguments}\n"
        create(node, f"etc/systemd/system/{name}.service", unit)
        wants = node.path("etc/systemd/system/multi-user.target.wants")
        wants.mkdir(exist_ok=True)
        (wants / f"{name}.service").symlink_to(f"../{name}.service")
    text = found(node)
    entry = entries(text)["etcd-server"]
    assert (entry["path"], entry["key"]) == ("/etc/ssl/etcd/server.crt", "/etc/ssl/etcd/server.key")
    assert entries(text)["etcd-peer"]["path"] == "/etc/ssl/etcd/peer.crt"
    assert entries(text)["etcd-ca"]["key"] == "/etc/ssl/etcd/ca-key.pem"
    assert f"/etc/etcd.env ETCD_CERT_FILE: the profile has /{PKI}/etcd/server.crt" in comments(text, "etcd-server")
    assert "/etc/kubernetes/pods/kube-apiserver.yaml" in entries(text)["etcd-ca"]["mentioned_in"]
    assert not {name for name, _ in judged(node, text) if name.startswith("etcd")}
