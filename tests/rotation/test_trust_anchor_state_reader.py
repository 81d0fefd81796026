"""The state of an anchor and of its signer, from the files of a real kubeadm node."""

from __future__ import annotations

import pytest

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.files.catalog_observer import Store
from certmond.pki.rotation.trust_anchor_state import SIGNING_FLAGS, Ground, Signer
from certmond.pki.x509.certificate_file_parser import decode
from certmond.rotation.trust_anchor_state_reader import ground_of, own_files
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import make_ca
from tests.node import Node

PKI = "/etc/kubernetes/pki"
MANIFEST = "etc/kubernetes/manifests/kube-controller-manager.yaml"
SHARED = (f"{PKI}/ca.crt", f"{PKI}/ca.key")
APART = (f"{PKI}/signing-ca.crt", f"{PKI}/signing-ca.key")


def shown(node: Node, family: str = "ca") -> Ground | None:
    config = parse([Source("test", "profile: kubeadm")])
    store = Store(config.certificates, str(node.root), config.given_facts)
    return ground_of(family, store.observe(), store.components(), NodeFiles(str(node.root)))


def signer(node: Node) -> Signer:
    found = shown(node)
    assert found is not None
    assert found.signer is not None
    return found.signer


def edit(node: Node, *replaced: tuple[str, str]) -> None:
    text = node.read(MANIFEST).decode()
    for before, after in replaced:
        assert before in text
        text = text.replace(before, after)
    node.write(MANIFEST, text)


def test_a_control_plane(node: Node) -> None:
    """It has the anchor with its key, and a controller-manager that signs with the same files."""
    found = shown(node)
    assert found is not None
    trust = decode(node.read(f"{PKI[1:]}/ca.crt"), "").certificates
    assert (found.path, found.key_path, found.trust, found.key) == (*SHARED, trust, trust[0].key)
    assert found.holds_key
    assert found.signer == Signer(f"/{MANIFEST}", "kube-controller-manager", SHARED, SHARED, APART, APART)
    assert own_files(SHARED[0]) == APART


def test_a_signer_without_a_manifest(node: Node) -> None:
    """Its separate files are still found, because they contain a key."""
    node.write(APART[1][1:], make_ca().key_pem)
    assert (found := shown(node))
    assert found.left == ()
    node.path(MANIFEST).unlink()
    assert (found := shown(node))
    assert (found.signer, found.left) == (None, APART[1:])


def test_the_keys_of_tokens(node: Node) -> None:
    """They are an anchor of public keys, with all keys of its file, and without a controller-manager to move."""
    pub, key = f"{PKI}/sa.pub", f"{PKI}/sa.key"
    own = node.read(pub[1:])
    node.write(pub[1:], own + make_ca().public_pem)
    trust = decode(node.read(pub[1:]), "").public_keys
    assert len(trust) == 2
    assert shown(node, "sa") == Ground("sa", pub, key, trust, trust[0])


def test_a_bundle_in_its_order(node: Node) -> None:
    """The trust has each certificate of the file, in its order."""
    own, other = node.read(f"{PKI[1:]}/ca.crt"), make_ca()
    node.write(f"{PKI[1:]}/ca.crt", other.pem + own)
    found = shown(node)
    assert found is not None
    assert found.trust == (other.facts, *decode(own, "").certificates)


@pytest.mark.parametrize("family", ["etcd-ca", "front-proxy-ca"])
def test_another_family_has_no_signer(node: Node, family: str) -> None:
    """Only the cluster's CA is used by the controller-manager to sign."""
    found = shown(node, family)
    assert found is not None
    assert found.holds_key
    assert found.signer is None


def test_an_anchor_that_is_not_in_the_catalogue(node: Node) -> None:
    """It has no state, and neither has an entry that is no anchor."""
    assert shown(node, "absent") is None
    assert shown(node, "apiserver") is None


def test_a_worker(node: Node) -> None:
    """It has the anchor, no key and no signer."""
    node.path(f"{PKI[1:]}/ca.key").unlink()
    node.path(MANIFEST).unlink()
    found = shown(node)
    assert found is not None
    assert found.trust
    assert (found.key, found.holds_key, found.signer) == (None, False, None)


def test_an_unreadable_key(node: Node) -> None:
    """The key exists, and its CA is unknown."""
    node.write(f"{PKI[1:]}/ca.key", b"-----BEGIN PRIVATE KEY-----\n")
    found = shown(node)
    assert found is not None
    assert (found.key, found.key_unknown, found.holds_key) == (None, True, True)


def test_a_signer_with_separate_files(node: Node) -> None:
    """The result has the existing files and their content, whatever the manifest names."""
    new = make_ca()
    node.write(APART[0][1:], new.pem)
    found = signer(node)
    assert (found.now, found.holds, found.key, found.present) == (SHARED, (new.facts,), None, APART[:1])
    node.write(APART[1][1:], new.key_pem)
    edit(node, (f"cert-file={SHARED[0]}", f"cert-file={APART[0]}"), (f"key-file={SHARED[1]}", f"key-file={APART[1]}"))
    found = signer(node)
    assert (found.now, found.holds, found.key, found.present) == (APART, (new.facts,), new.facts.key, APART)
    assert found.problem is None


def test_a_directory_that_is_mounted_elsewhere(node: Node) -> None:
    """The flags are as the container sees its files, the files as the host does."""
    edit(node, (f"mountPath: {PKI}", "mountPath: /certs"), (f"-file={PKI}/ca", "-file=/certs/ca"))
    found = signer(node)
    assert found.shared == ("/certs/ca.crt", "/certs/ca.key")
    assert found.apart == ("/certs/signing-ca.crt", "/certs/signing-ca.key")
    assert (found.files, found.problem) == (APART, None)


@pytest.mark.parametrize("flag", SIGNING_FLAGS)
def test_a_controller_manager_that_does_not_sign(node: Node, flag: str) -> None:
    """If the CA's key is elsewhere it has no signer, and nothing to move."""
    edit(node, (f"--{flag}=", "--unused="))
    found = shown(node)
    assert found is not None
    assert found.signer is None


PROBLEMS: dict[str, tuple[tuple[str, str], str]] = {
    "one signer for each usage": (
        ("--controllers=", "--cluster-signing-kubelet-client-cert-file=/x.crt\n    - --controllers="),
        "by --cluster-signing-kubelet-client-cert-file, but certmond supports no such signer; configure one signer",
    ),
    "files of another directory": (
        ("cert-file=/etc/kubernetes/pki/ca.crt", "cert-file=/elsewhere/ca.crt"),
        "sign with /elsewhere/ca.crt, which is neither /etc/kubernetes/pki/ca.crt nor in",
    ),
    "another file beside it": (
        ("key-file=/etc/kubernetes/pki/ca.key", "key-file=/etc/kubernetes/pki/other.key"),
        "configure kube-controller-manager to sign with the files of the CA",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PROBLEMS)
def test_a_signer_that_cannot_be_moved(node: Node, what: str) -> None:
    """A signer that certmond cannot move to separate files and back is reported with the remedy."""
    replaced, sentence = PROBLEMS[what]
    edit(node, replaced)
    problem = signer(node).problem or ""
    assert f"/{MANIFEST}" in problem
    assert sentence in problem
