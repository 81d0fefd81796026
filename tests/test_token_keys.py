"""The verbs `root-ca` with `--family sa` on the tree of a real kubeadm node: their output, their changes, and their
refusals.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from certmond.pki.x509.certificate_file_parser import decode
from certmond.rotation.staged_ca import Part
from tests.builders import Key, make_ca, new_key
from tests.cli.root_ca.test_inspection import Host
from tests.node import PKI, Node

SA = ("--family", "sa")


class Place(Host):
    """A node, and the private key that an operator brings to it."""

    def bring(self, kind: str | Key = "rsa") -> Path:
        self.key.touch(0o600)
        self.key.write_bytes(make_ca(key=kind).key_pem)
        return self.key


@pytest.fixture
def place(node: Node, tmp_path: Path) -> Place:
    return Place(node, tmp_path)


def test_show(place: Place) -> None:
    """`show` has the public key with its digest, and null for fields that only a certificate has."""
    found = place.document("show", *SA)
    public = decode(place.node.read(f"{PKI}/sa.pub"), "").public_keys[0]
    assert (found["family"], found["path"], found["staged"]) == ("sa", "/etc/kubernetes/pki/sa.pub", [])
    assert found["present"] == [
        {"subject": None, "serial": None, "serial_hex": None, "sha256": public.sha256, "pin": None, "key": "RSA-2048",
         "not_before": None, "not_after": None, "key_here": True, "signs": []}
    ]  # fmt: skip
    for wide in ((), ("-o", "wide")):
        done = place.run("show", *SA, *wide)
        assert done.code == 0
        assert f"public key with the SHA-256 {public.sha256}" in done.out
        assert "no rotation is in progress" in done.out


@pytest.mark.long
@pytest.mark.parametrize("kind", ["rsa", "rsa-3072", "ec", "ec-p384", "ec-p521"])
def test_stage(place: Place, kind: str) -> None:
    """`stage` stores and shows a key of a kind that can sign tokens, and no file of the node changes."""
    before = place.node.read(f"{PKI}/sa.pub"), place.node.read(f"{PKI}/sa.key")
    done = place.run("stage", place.bring(kind), *SA)
    assert (done.code, done.err) == (0, "")
    brought = decode(place.key.read_bytes(), "").key
    assert brought
    assert (found := place.staging.read(Part.NEW))
    assert (found.family, found.anchor, found.key, found.fault) == ("sa", brought, brought, None)
    assert f"staged for sa: {brought}, mode overlap\nsha256 {brought.sha256}\n" == done.out
    (staged,) = place.document("show", *SA)["staged"]
    assert (staged["family"], staged["key_here"], staged["certificate"]["sha256"]) == ("sa", True, brought.sha256)
    assert (place.node.read(f"{PKI}/sa.pub"), place.node.read(f"{PKI}/sa.key")) == before
    assert place.run("stage", place.key, *SA).code == 0  # again, as it is
    other = place.run("stage", "--generate", *SA)
    assert other.code == 2
    assert "to replace it and delete its key, give --force" in other.err
    assert "rotation/new.crt is staged" in (place.state / "audit.log").read_text()


def test_generate(place: Place) -> None:
    """`--generate` makes a key of the kind of the present one, or of the requested kind."""
    assert place.run("stage", "--generate", *SA).code == 0
    assert "RSA-2048" in place.run("show", *SA).out
    assert place.run("stage", "--generate", "--force", "--key-algorithm", "ECDSA-P384", *SA).code == 0
    assert (found := place.staging.read(Part.NEW))
    assert found.anchor
    assert str(found.anchor.key) == "ECDSA-384"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("rsa-1024", "has 1024 bits; give a key of at least 2048 bits"),
        ("ed25519", "give an RSA key, or an ECDSA key on P-256, P-384 or P-521"),
        ("ec-p224", "give an RSA key, or an ECDSA key on P-256, P-384 or P-521"),
        ("ec-secp256k1", "give an RSA key, or an ECDSA key on P-256, P-384 or P-521"),
    ],
)
def test_an_unsupported_kind_of_key_is_refused(place: Place, kind: str, said: str) -> None:
    """The error has the reason, and nothing is stored."""
    done = place.run("stage", place.bring(kind), *SA)
    assert done.code == 2
    assert said in done.err
    assert place.staging.read(Part.NEW) is None


def test_the_present_key_is_refused(place: Place) -> None:
    """A rotation to itself is no rotation."""
    done = place.run("stage", place.node.path(f"{PKI}/sa.key"), *SA)
    assert done.code == 2
    assert "is in use already; give another key" in done.err
    made = place.run("stage", "--generate", "--key-algorithm", "Ed25519", *SA)
    assert "cannot sign tokens with the Ed25519 key in the new key" in made.err


def test_what_is_no_key_is_refused(place: Place, tmp_path: Path) -> None:
    """A public key, nothing at all, and a file that is not there."""
    assert place.run("stage", place.node.path(f"{PKI}/sa.pub"), *SA).code == 2
    assert place.run("stage", place.node.path(f"{PKI}/ca.crt"), *SA).code == 2
    absent = place.run("stage", tmp_path / "nothing", *SA)
    assert absent.code == 3
    assert "(No such file or directory); give the private key" in absent.err
    assert place.staging.read(Part.NEW) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "own.crt"), "verify applies only to Root CAs, but sa is a key pair without a certificate"),
        (("export",), "export applies only to Root CAs, but sa is a key pair without a certificate"),
        (("stage", "--reuse-key"), "--reuse-key applies only to Root CAs"),
        (("stage", "--generate", "--validity", "1y"), "--validity applies only to Root CAs"),
        (("stage", "own.crt", "own.key"), "Give only KEY: sa has no certificate."),
    ],
    ids=" ".join,
)
def test_what_takes_a_certificate_is_refused(place: Place, arguments: tuple[str, ...], said: str) -> None:
    """A token key has no certificate: the command reports that, and changes nothing."""
    done = place.run(*arguments, *SA)
    assert done.code == 3
    assert said in done.err
    assert not place.state.exists()


def test_a_node_without_the_key_takes_none(place: Place) -> None:
    """A worker has none: the key that signs tokens belongs only on nodes that sign."""
    place.node.path(f"{PKI}/sa.key").unlink()
    done = place.run("stage", place.bring(), *SA)
    assert done.code == 2
    assert "stage the new key on the control-plane nodes" in done.err
    place.node.path(f"{PKI}/sa.pub").unlink()
    assert "there is no public key of sa below" in place.run("show", *SA).err


def plan(place: Place) -> dict[str, tuple[list[str], list[str]]]:
    """Return the changes and restarts of each phase."""
    done = place.run("rotate", "--plan", *SA, "-o", "json")
    assert done.code == 0, done.err
    return {each["phase"]: (each["steps"], each["restarts"]) for each in json.loads(done.out)["phases"]}


def test_a_plan_restarts_who_has_read_what_changes(place: Place) -> None:
    """kube-controller-manager reads the key that signs, and not the public keys: it is restarted once."""
    assert place.run("stage", "--generate", *SA).code == 0
    pub, key = (f"{place.node.root}/etc/kubernetes/pki/sa.{kind}" for kind in ("pub", "key"))
    server, both = ["kube-apiserver"], ["kube-apiserver", "kube-controller-manager"]
    holds = f"{pub} will contain the"
    assert plan(place) == {
        "prepare": ([], []),
        "trust": ([f"{holds} old public key and the new public key"], server),
        "issue": (
            [f"{key} will be the key of the new public key; {holds} new public key and the old public key"], both
        ),
        "distrust": ([f"{holds} new public key"], server),
        "done": ([], []),
    }  # fmt: skip


@pytest.mark.long
def test_obstacles_of_a_start(place: Place) -> None:
    """The cases are nothing staged, a CA of another family, two keys in place, and an API server that reads other
    files.
    """
    assert "no new key is staged for sa" in place.run("rotate", "--plan", *SA).err
    assert place.run("stage", "--generate").code == 0
    assert "no new key is staged for sa" in place.run("rotate", "--plan", *SA).err
    assert place.run("stage", "--generate", "--force", *SA).code == 0
    assert "no new CA is staged for ca" in place.run("rotate", "--plan").err
    good = place.node.read(f"{PKI}/sa.pub")
    place.node.write(f"{PKI}/sa.pub", good + make_ca().public_pem)
    assert "does not contain exactly the public key of" in place.run("rotate", "--plan", *SA).err
    place.node.write(f"{PKI}/sa.pub", good)
    manifest = "etc/kubernetes/manifests/kube-apiserver.yaml"
    text = place.node.read(manifest).decode()
    place.node.write(manifest, text.replace("key-file=/etc/kubernetes/pki/sa.pub", "key-file=/etc/ssl/certs/sa.pub"))
    config = place.state.parent / "config.yaml"
    config.write_text("{certificates: [{name: sa, path: /etc/kubernetes/pki/sa.pub}]}")
    done = place.run("rotate", "--plan", *SA, "--config", config)
    assert done.code == 2
    fact = f"no known service on this node reads {place.node.root}/etc/kubernetes/pki/sa.pub"
    assert f"{fact}; check --service-account-key-file of kube-apiserver" in done.err


def test_an_unfit_key_that_was_staged_otherwise_is_not_begun(place: Place) -> None:
    """It is checked again: the content of the state directory is no proof."""
    weak = make_ca(key=new_key("rsa-1024"))
    place.state.mkdir(mode=0o700)
    place.staging.put(Part.NEW, "sa", weak.facts.key, weak.key)  # type: ignore[arg-type]
    done = place.run("rotate", "--plan", *SA)
    assert done.code == 2
    assert "has 1024 bits" in done.err
