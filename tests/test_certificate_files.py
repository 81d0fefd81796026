"""`check` lists each file with a certificate that openssl finds on a node, or says why it does not watch the file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import NoEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from certmond.cli.main import cli
from tests.builders import make_ca, make_leaf
from tests.cli.test_pki_init import ECDSA, Host
from tests.conftest import real_part
from tests.distributions import MAKERS, kops_worker
from tests.node import NOW, Node
from tests.openssl_search import certificate_files, real_path


def kubeadm(place: Path, version: str) -> Path:
    """Create the files of this version of kubeadm. Return their root."""
    host = Host(place, f"{ECDSA}kubernetesVersion: {version}\n")
    host.made()
    return host.root


def made(place: Path, maker: Callable[[Path], object]) -> Path:
    root = place / "node"
    root.mkdir()
    maker(root)
    return root


VERSIONS = ("v1.28.15", "v1.29.0", "v1.33.0", "v1.36.0")
TREES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "kubeadm-1.24": ("kubeadm", partial(made, maker=Node)),
    **{f"kubeadm-{version}": ("kubeadm", partial(kubeadm, version=version)) for version in VERSIONS},
    **{name: (name, partial(made, maker=maker)) for name, maker in MAKERS.items()},
    "kops-worker": ("kops", partial(made, maker=kops_worker)),
}
"""Name -> profile and maker."""


@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize("name", TREES)
def test_check_has_each_file_that_openssl_finds(name: str, tmp_path: Path) -> None:
    """Each file with a certificate is the file of an entry, or a finding `not_watched` names it, or it is a kubeconfig
    whose CA certmond compares with the entry of the CA.
    """
    profile, make = TREES[name]
    root = make(tmp_path)
    done = CliRunner().invoke(cli, ["check", "--root", str(root), "--profile", profile, "-o", "json"])
    document = json.loads(done.stdout)
    listed = {real_path(root, entry["path"]) for entry in document["certificates"] + document["trust_anchors"]}
    findings = [item for entry in document["certificates"] for item in entry["findings"]] + document["findings"]
    unwatched = " ".join(item["message"] for item in findings if item["reason"] == "not_watched")
    found = certificate_files(root, real_part("openssl"))
    assert len(found) > 3
    assert [path for path in found - listed - {*document["ca_only"]} if path not in unwatched] == []
    wide = CliRunner().invoke(cli, ["check", "--root", str(root), "--profile", profile, "-o", "wide"]).stdout
    assert [path for path in document["ca_only"] if path not in "".join(wide.splitlines())] == []


@pytest.mark.real("openssl")
def test_the_search_finds_each_encoding(tmp_path: Path) -> None:
    """The search finds PEM, DER, PKCS#12 without a password, base64 in YAML and JSON, and indented PEM."""
    leaf = make_leaf(make_ca())
    encoded = base64.b64encode(leaf.pem).decode()
    (tmp_path / "etc").mkdir()
    files = {
        "pem": leaf.key_pem + leaf.pem,
        "der": leaf.der,
        "p12": serialize_key_and_certificates(b"x", leaf.key, leaf.cert, None, NoEncryption()),
        "kubeconfig": yaml.safe_dump({"users": [{"user": {"client-certificate-data": encoded}}]}).encode(),
        "json": json.dumps({"ca": base64.b64encode(leaf.der).decode()}).encode(),
        "yaml": f"a:\n  b: |\n{''.join(f'    {line}{chr(10)}' for line in leaf.pem.decode().splitlines())}".encode(),
        "key": leaf.key_pem,
        "text": b"no certificate",
    }
    for name, content in files.items():
        (tmp_path / "etc" / name).write_bytes(content)
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/link").symlink_to("/etc/pem")
    found = certificate_files(tmp_path, real_part("openssl"))
    assert found == {f"/etc/{name}" for name in files} - {"/etc/key", "/etc/text"}


@pytest.mark.parametrize("days", [300, -1])
def test_the_ca_of_a_kubeconfig_with_a_token_is_watched(tmp_path: Path, days: int) -> None:
    """If a kubeconfig contains a token, and its CA is not the CA of the entry `embedded_ca` or has expired, `check`
    reports a warning.
    """
    node = Node(tmp_path)
    ca = make_ca("kubernetes", not_after=NOW + timedelta(days=days), not_before=NOW - timedelta(days=300))
    cluster = {"server": "https://a", "certificate-authority-data": base64.b64encode(ca.pem).decode()}
    config = {
        "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": "t"}}],
    }  # fmt: skip
    node.write("etc/token.conf", yaml.safe_dump(config))
    node.path("etc/token.conf").chmod(0o600)
    entry = {"name": "token", "path": "/etc/token.conf", "kind": "kubeconfig", "ca": "ca", "embedded_ca": "ca"}
    node.write("certmond.yaml", yaml.safe_dump({"certificates": [entry]}))
    words = ["check", "--root", str(node.root), "--config", str(node.path("certmond.yaml")), "--at", NOW.isoformat()]
    done = CliRunner().invoke(cli, [*words, "-o", "json"])
    (found,) = [each for each in json.loads(done.stdout)["certificates"] if each["path"] == "/etc/token.conf"]
    assert done.exit_code == 1
    assert found["name"] == "token#ca:c"
    assert ("no_path" if days > 0 else "expired") in {item["reason"] for item in found["findings"]}
