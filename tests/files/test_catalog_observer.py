"""From the entries of the catalogue and the files of a node to observations: real files below a temporary root."""

from __future__ import annotations

import base64
import errno
import gc
import grp
import os
import pwd
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, PrivateFormat, pkcs12
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.config.loader import load
from certmond.files.cache import Files
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Reason, Severity
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from tests import node as real
from tests.builders import DAY, NOW, Issued, bundle, make_ca, make_intermediate, make_leaf, make_server, pem_block
from tests.files.beside import FORKS, elsewhere
from tests.files.test_cache import CHANGES, change
from tests.files.test_cache import Tree as FileTree
from tests.node import KUBELET_PEM, PKI, Node
from tests.sampling import examples

ROOT = make_ca()
LEAF = make_leaf(ROOT, "client")
OTHER = make_leaf(ROOT, "other")
PKCS8 = PrivateFormat.PKCS8


def row(name: str = "x", path: str = "/x.crt", **fields: Any) -> CertificateSpec:
    return validated(CertificateSpec, {"name": name, "path": path} | fields)


class Tree:
    """Files below a root, and a store that observes them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, content: bytes | str, mode: int = 0o600) -> Path:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        place.chmod(mode)
        return place

    def link(self, path: str, target: str) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).symlink_to(target)

    def look(self, *specs: CertificateSpec, **facts: str) -> tuple[Observation, ...]:
        return Store(specs, str(self.root), facts).observe().observations

    def one(self, *specs: CertificateSpec) -> Observation:
        (seen,) = self.look(*specs)
        return seen

    def touched(self, *paths: str) -> frozenset[str]:
        return frozenset(str(self.at(path)) for path in paths)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def reported(seen: Observation) -> list[str]:
    return [f"{fault.reason}: {fault.detail}" for fault in seen.faults]


def names(seen: Iterable[Observation]) -> list[str]:
    return [each.name for each in seen]


def subjects(seen: Observation) -> list[str | None]:
    return [certificate.common_name for certificate in seen.certificates]


def by_name(inventory: Inventory) -> dict[str, Observation]:
    found = {seen.name: seen for seen in inventory.observations}
    assert len({seen.identity for seen in inventory.observations}) == len(inventory.observations)
    return found


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def user(name: str, issued: Issued | None = None, **fields: Any) -> dict[str, Any]:
    embedded = {"client-certificate-data": b64(issued.pem), "client-key-data": b64(issued.key_pem)} if issued else {}
    return {"name": name, "user": embedded | {key.replace("_", "-"): value for key, value in fields.items()}}


def cluster(name: str, *cas: Issued, **fields: Any) -> dict[str, Any]:
    embedded = {"certificate-authority-data": b64(bundle(*cas))} if cas else {}
    return {"name": name, "cluster": embedded | {key.replace("_", "-"): value for key, value in fields.items()}}


def kubeconfig(
    users: Iterable[Any] = (), clusters: Iterable[Any] = (), current: tuple[str, str] | None = None
) -> bytes:
    document: dict[str, Any] = {"apiVersion": "v1", "users": list(users), "clusters": list(clusters)}
    if current:
        document["contexts"] = [{"name": "it", "context": {"user": current[0], "cluster": current[1]}}]
        document["current-context"] = "it"
    return yaml.safe_dump(document).encode()


CONF = row("conf", "/x.conf", kind="kubeconfig", embedded_ca="ca")


# --- certificates and their keys --------------------------------------------------------------------------------------


def test_a_certificate_is_observed_with_its_key(tree: Tree) -> None:
    """The key is in a file beside it, or in the same one. The observation has its path, its public half, and its
    permissions.
    """
    tree.write("/x.crt", LEAF.pem, 0o644)
    tree.write("/x.key", LEAF.key_pem)
    seen = tree.one(row(key="/x.key"))
    assert (seen.certificates, seen.key, seen.key_path, seen.faults) == ((LEAF.facts,), LEAF.facts.key, "/x.key", ())
    assert [(each.path, each.mode, each.secret) for each in seen.permissions] == [
        ("/x.crt", 0o644, False), ("/x.key", 0o600, True),
    ]  # fmt: skip
    assert all(":" in each.owner for each in seen.permissions)
    tree.write("/both.pem", LEAF.pem + LEAF.key_pem)
    for spec in (row("both", "/both.pem"), row("both", "/both.pem", key="/both.pem")):
        seen = tree.one(spec)
        assert (seen.key, seen.key_path) == (LEAF.facts.key, "/both.pem")
        assert [(each.path, each.secret) for each in seen.permissions] == [("/both.pem", True)]


def test_a_key_that_is_not_there_is_for_the_checks(tree: Tree) -> None:
    """No fault of a file: whether there should be one is for the catalogue to say."""
    tree.write("/x.crt", LEAF.pem)
    seen = tree.one(row(key="/x.key"))
    assert (seen.key, seen.key_unknown, seen.key_path, seen.faults) == (None, False, "/x.key", ())
    tree.write("/x.key", LEAF.pem + b"# a note\n")
    seen = tree.one(row(key="/x.key"))
    assert (seen.key, seen.key_unknown) == (None, False), "that text follows hides no key"
    assert tree.one(row()).key_path is None


@pytest.mark.parametrize("content", [b"", b"junk", LEAF.key_pem[:100]], ids=["empty", "junk", "cut off"])
def test_an_unreadable_key_is_a_fault_and_no_missing_key(tree: Tree, content: bytes) -> None:
    """The key exists, but its type is unknown."""
    tree.write("/x.crt", LEAF.pem)
    tree.write("/x.key", content)
    seen = tree.one(row(key="/x.key"))
    assert (seen.key, seen.key_unknown) == (None, True)
    assert [fault.reason for fault in seen.faults] == [Reason.MALFORMED]
    assert "/x.key" in seen.faults[0].detail


@pytest.mark.parametrize("place", ["beside it", "in the same file", "referred to", "embedded"])
def test_an_encrypted_key_is_unreadable_for_kubernetes(tree: Tree, place: str) -> None:
    """It is reported once, in any file, with the remedy. It is neither missing nor a mismatch."""
    key = LEAF.key_as(PKCS8, b"secret")
    spec = row()
    if place == "beside it":
        tree.write("/x.crt", LEAF.pem)
        tree.write("/x.key", key)
        spec = row(key="/x.key")
    elif place == "in the same file":
        tree.write("/x.crt", LEAF.pem + key)
    else:
        fields: dict[str, Any] = {"client_key_data": b64(key)} if place == "embedded" else {"client_key": "x.key"}
        tree.write("/x.key", key)
        tree.write("/x.crt", kubeconfig([user("u", client_certificate_data=b64(LEAF.pem), **fields)]))
        spec = row(kind="kubeconfig", embedded_ca="ca")
    seen = tree.one(spec)
    assert (seen.key, seen.key_unknown) == (None, True)
    assert [(fault.reason, fault.remedy) for fault in seen.faults] == [
        (Reason.UNREADABLE, "decrypt the key (openssl pkey), and set mode 0600")
    ]
    if place == "beside it":
        assert not tree.one(row(key="/x.key", key_optional=True)).faults


def test_a_private_key_in_a_certificates_file_makes_that_file_a_secret(tree: Tree) -> None:
    """The rule also covers a key elsewhere in the catalogue, and sa.key copied over sa.pub."""
    tree.write("/x.crt", LEAF.pem + OTHER.key_pem)
    tree.write("/x.key", LEAF.key_pem)
    seen = tree.one(row(key="/x.key"))
    assert [each.secret for each in seen.permissions] == [True, True]
    pair = tree.one(row("sa", "/x.key", kind="key-pair", key="/x.crt"))
    assert [each.secret for each in pair.permissions] == [True, True]


@pytest.mark.parametrize("key", ["PUBLIC", "PRIVATE", "CERTIFICATE"])
def test_service_account_keys_are_parsed_as_kubernetes_does(tree: Tree, key: str) -> None:
    """The verification file may have a public key, a private one or a certificate (client-go, util/keyutil)."""
    tree.write("/sa.pub", {"PUBLIC": LEAF.public_pem, "PRIVATE": LEAF.key_pem, "CERTIFICATE": LEAF.pem}[key])
    tree.write("/sa.key", LEAF.key_pem)
    seen = tree.one(row("sa", "/sa.pub", kind="key-pair", key="/sa.key"))
    assert (seen.public_key, seen.key, seen.certificates, seen.faults) == (LEAF.facts.key, LEAF.facts.key, (), ())


def test_of_several_public_keys_the_matching_one_counts(tree: Tree) -> None:
    """While service-account keys change, the API server verifies with both. If none matches, the first is reported."""
    tree.write("/sa.pub", OTHER.public_pem + LEAF.public_pem)
    spec = row("sa", "/sa.pub", kind="key-pair", key="/sa.key")
    for key, counts in ((LEAF, LEAF), (OTHER, OTHER), (ROOT, OTHER)):
        tree.write("/sa.key", key.key_pem)
        assert tree.one(spec).public_key == counts.facts.key


@pytest.mark.parametrize(
    ("content", "fact"),
    [(b"", "/sa.pub is empty"), (pem_block("X509 CRL", b"\x30\x00"), "/sa.pub contains no public key")],
)
def test_a_file_without_a_public_key_is_reported_once(tree: Tree, content: bytes, fact: str) -> None:
    """It is the only fault of the file."""
    tree.write("/sa.pub", content)
    tree.write("/sa.key", LEAF.key_pem)
    assert reported(tree.one(row("sa", "/sa.pub", kind="key-pair", key="/sa.key"))) == [f"malformed: {fact}"]


@pytest.mark.parametrize("content", [LEAF.key_pem, LEAF.key_pem + b"# note\n", pem_block("X509 CRL", b"\x30\x00")])
def test_a_file_without_a_certificate_is_malformed(tree: Tree, content: bytes) -> None:
    """Whatever else it holds."""
    tree.write("/x.crt", content)
    assert "malformed: /x.crt contains no certificate" in reported(tree.one(row()))


# --- chains and bundles -----------------------------------------------------------------------------------------------


def test_the_end_entity_is_judged_wherever_it_stands(tree: Tree) -> None:
    """The one whose key is there, or else the first that is no CA, or else the first."""
    middle = make_intermediate(ROOT)
    tree.write("/x.crt", bundle(middle, LEAF, OTHER))
    seen = tree.one(row())
    assert (subjects(seen), seen.leaf_first) == (["client", "intermediate", "other"], False)
    tree.write("/x.crt", bundle(LEAF, OTHER) + OTHER.key_pem)
    assert (subjects(tree.one(row())), tree.one(row()).leaf_first) == (["other", "client"], False)
    tree.write("/x.crt", bundle(middle, ROOT))
    assert (subjects(tree.one(row())), tree.one(row()).leaf_first) == (["intermediate", "kubernetes"], True)


def test_the_same_certificate_twice_is_observed_once(tree: Tree) -> None:
    """The rule covers a bundle, a chain, and two entries for one file."""
    tree.write("/ca.crt", bundle(ROOT, LEAF, ROOT, LEAF))
    seen = tree.look(row("ca", "/ca.crt", authority=True), row("copy", "/ca.crt", kind="bundle"))
    assert names(seen) == ["ca", "ca#2", "copy", "copy#2"]
    assert [subjects(each) for each in seen] == [["kubernetes"], ["client"]] * 2
    tree.write("/x.crt", bundle(LEAF, LEAF))
    assert (subjects(tree.one(row())), tree.one(row()).leaf_first) == (["client"], True)


def test_a_fault_of_a_bundle_is_reported_once(tree: Tree) -> None:
    """The first certificate has the faults, permissions and key. A bad block hides no good one."""
    tree.write("/ca.crt", ROOT.pem + pem_block("CERTIFICATE", b"junk") + OTHER.pem + ROOT.key_pem)
    first, second = tree.look(row("ca", "/ca.crt", authority=True))
    assert [fault.reason for fault in first.faults] == [Reason.MALFORMED]
    assert "PEM block 2" in first.faults[0].detail
    assert (first.key, second.key, second.faults, second.permissions) == (ROOT.facts.key, None, (), ())
    tree.write("/ca.crt", b"junk")
    assert names(tree.look(row("ca", "/ca.crt", authority=True))) == ["ca"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EMFILE, "raise LimitNOFILE= of the unit of certmond, or `ulimit -n` in a shell"),
        (errno.ENFILE, "find the processes with many open files (lsof), or raise fs.file-max"),
        (errno.ENOMEM, "raise MemoryMax= of the unit of certmond, or find the processes that use much memory"),
        (errno.ESTALE, "the server no longer exports its file system: mount it again"),
        (errno.EIO, "the disk fails: read the kernel's messages (dmesg) before you try again"),
        (errno.EACCES, None),
    ],
)
def test_a_fault_of_the_host_has_its_own_remedy(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str | None
) -> None:
    """The permissions of a file are not the cause if certmond has no descriptor or no memory left, or a disk fails."""
    tree.write("/ca.crt", ROOT.pem)
    monkeypatch.setattr("certmond.files.cache.content_at", mock.Mock(side_effect=OSError(code, os.strerror(code))))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (fault,) = tree.one(row("ca", "/ca.crt")).faults
    assert fault == Fault(Reason.UNREADABLE, f"certmond cannot read /ca.crt ({os.strerror(code)})", remedy)


@pytest.mark.long
def test_pkcs12_is_opened_with_the_password_in_a_file(tree: Tree) -> None:
    """The password is the first line. A wrong password and a missing file are faults."""
    lock = BestAvailableEncryption(b"secret")
    store = pkcs12.serialize_key_and_certificates(b"x", LEAF.key, LEAF.cert, [ROOT.cert], lock)
    tree.write("/x.p12", store)
    spec = row("p12", "/x.p12", password_file="/password")
    assert [fault.reason for fault in tree.one(spec).faults] == [Reason.MISSING, Reason.UNREADABLE]
    assert "/password does not exist" in tree.one(spec).faults[0].detail
    tree.write("/password", "wrong\n")
    assert [fault.reason for fault in tree.one(spec).faults] == [Reason.UNREADABLE]
    watching = Store([spec], str(tree.root))
    watching.observe()
    tree.write("/password", "secret\r\nand a note\n")
    (seen,) = watching.observe(tree.touched("/password")).observations
    assert (subjects(seen), seen.key, seen.key_path, seen.faults) == (
        ["client", "kubernetes"], LEAF.facts.key, "/x.p12", (),
    )  # fmt: skip
    assert [each.secret for each in seen.permissions] == [True]
    tree.write("/x.p12", pkcs12.serialize_key_and_certificates(b"x", None, LEAF.cert, None, NoEncryption()))
    assert not tree.one(row("p12", "/x.p12")).faults


# --- kubeconfigs ------------------------------------------------------------------------------------------------------


def test_every_user_of_a_kubeconfig_is_observed(tree: Tree) -> None:
    """The current one has the entry's name and requirements. Others are clients without further requirements."""
    tree.write("/x.conf", kubeconfig(
        [user("token", token="t"), user("a", LEAF), user("exec", exec={"command": "aws"}), user("b", OTHER)],
        [cluster("c", ROOT, server="https://10.0.0.1:6443")], ("b", "c"),
    ))  # fmt: skip
    spec = row("conf", "/x.conf", kind="kubeconfig", embedded_ca="ca", subject="CN=other", usages=["server auth"])
    first, second = tree.look(spec)
    assert (first.name, subjects(first), first.spec) == ("conf", ["other"], spec)
    assert (second.name, subjects(second), second.spec.subject) == ("conf#a", ["client"], ())
    assert second.spec.usages == ("client auth",)
    assert (first.key, second.key) == (OTHER.facts.key, LEAF.facts.key)
    assert first.key_path == second.key_path == "/x.conf"
    assert [each.certificates for each in first.embedded] == [(ROOT.facts,)]
    assert (second.embedded, second.permissions) == ((), ())
    assert [(each.path, each.secret) for each in first.permissions] == [("/x.conf", True)]
    assert not [*first.faults, *second.faults]


def test_without_a_current_context_the_first_user_stands_for_the_file(tree: Tree) -> None:
    """And a single cluster for what is trusted; of several, none is."""
    tree.write("/x.conf", kubeconfig([user("a", LEAF), user("b", OTHER)], [cluster("c", ROOT)]))
    seen = tree.look(CONF)
    assert names(seen) == ["conf", "conf#b"]
    assert len(seen[0].embedded) == 1
    tree.write("/x.conf", kubeconfig([user("a", LEAF)], [cluster("c", ROOT), cluster("d", ROOT)]))
    seen = tree.look(CONF)
    assert (names(seen), seen[0].embedded) == (["conf", "conf#ca:c", "conf#ca:d"], ())
    tree.write("/x.conf", kubeconfig([user("a", LEAF)], [cluster("c", ROOT), cluster("d", OTHER)], ("a", "d")))
    seen = tree.look(CONF)
    assert names(seen) == ["conf", "conf#ca:c"]
    assert [each.certificates for each in seen[0].embedded] == [(OTHER.facts,)]


def test_references_are_followed(tree: Tree) -> None:
    """Relative to the kubeconfig, or absolute; below the root in any case. The key's file is a secret, too."""
    tree.write("/etc/pki/a.crt", LEAF.pem)
    tree.write("/keys/a.key", LEAF.key_pem, 0o644)
    tree.write("/etc/pki/ca.crt", ROOT.pem)
    tree.write("/etc/x.conf", kubeconfig(
        [user("a", client_certificate="pki/a.crt", client_key="/keys/a.key")],
        [cluster("c", certificate_authority="pki/ca.crt")], ("a", "c"),
    ))  # fmt: skip
    seen = tree.one(row("conf", "/etc/x.conf", kind="kubeconfig", embedded_ca="ca"))
    assert (seen.certificates, seen.key, seen.key_path) == ((LEAF.facts,), LEAF.facts.key, "/keys/a.key")
    assert [each.certificates for each in seen.embedded] == [(ROOT.facts,)]
    assert [(each.path, each.mode, each.secret) for each in seen.permissions] == [
        ("/etc/x.conf", 0o600, True), ("/keys/a.key", 0o644, True),
    ]  # fmt: skip


def test_dangling_references_are_reported(tree: Tree) -> None:
    """The certificate's is a fault, and the key's is a missing key. One file for both is reported once."""
    tree.write("/x.conf", kubeconfig([user("a", client_certificate="/a.crt", client_key="/a.key")]))
    seen = tree.one(CONF)
    assert (reported(seen), seen.key, seen.key_unknown, seen.key_path) == (
        ["missing: /a.crt does not exist"],
        None,
        False,
        "/a.key",
    )
    tree.write("/a.crt", LEAF.pem)
    found = {item.reason for item in assess(Inventory(tree.look(CONF)), NOW).statuses[0].findings}
    assert found == {Reason.KEY_MISSING}
    tree.write("/x.conf", kubeconfig([user("a", client_certificate="/a.pem", client_key="/a.pem")]))
    tree.write("/a.pem", "junk")
    assert len(tree.one(CONF).faults) == 1
    tree.write("/a.pem", LEAF.key_pem)
    assert reported(tree.one(CONF)) == ["malformed: /a.pem contains no certificate"]


def test_embedded_data_without_a_certificate_is_reported(tree: Tree) -> None:
    """The fault has the file, the field and the user."""
    tree.write("/x.conf", kubeconfig([user("a", client_certificate_data=b64(b"junk")), user("b", LEAF)], (), ("b", "")))
    first, second = tree.look(CONF)
    assert not first.faults
    assert reported(second)[0].startswith("malformed: /x.conf, certificate of 'a' is neither PEM")
    tree.write("/x.conf", kubeconfig([user("a", client_certificate_data=b64(LEAF.key_pem))]))
    assert reported(tree.one(CONF)) == ["malformed: /x.conf, certificate of 'a', contains no certificate"]


def test_a_broken_entry_hides_no_good_one(tree: Tree) -> None:
    """The broken entry has a fault beside it."""
    tree.write("/x.conf", kubeconfig(["nonsense", user("a", LEAF), user("a", OTHER)], [cluster("c", ROOT)], ("a", "c")))
    seen = tree.one(CONF)
    assert subjects(seen) == ["client"]
    assert [detail.partition(" of users")[0] for detail in reported(seen)] == [
        "malformed: /x.conf: entry 1", "malformed: /x.conf: entry 3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"a: 1\nb: [}\n", "malformed: /x.conf is not YAML in line 2"),
        (b"a: 1", "malformed: /x.conf is not a kubeconfig: it contains neither users nor clusters"),
        (kubeconfig(), "missing: /x.conf contains no client certificate"),
        (
            kubeconfig([user("t", token="t")]),
            "missing: /x.conf contains no client certificate: user 't' authenticates with token",
        ),
        (
            kubeconfig([user("t", client_certificate_data="%%")]),
            "malformed: /x.conf: user 't': client-certificate-data is not base64",
        ),
    ],
)
def test_a_kubeconfig_without_a_certificate_is_one_fault(tree: Tree, content: bytes, fact: str) -> None:
    """Where the row names a subject, so that one has to be there."""
    tree.write("/x.conf", content)
    assert reported(tree.one(row("conf", "/x.conf", kind="kubeconfig", subject="CN=a"))) == [fact]


def test_a_kubeconfig_may_be_without_a_certificate_where_none_is_demanded(tree: Tree) -> None:
    """Without a required subject, or in an optional entry, a token is sufficient. certmond then verifies the CA of the
    cluster with the entry of the CA.
    """
    tree.write("/x.conf", kubeconfig([user("t", token="t")], [cluster("c", ROOT)]))
    for spec in (CONF, row("conf", "/x.conf", kind="kubeconfig", embedded_ca="ca", subject="CN=a", optional=True)):
        (seen,) = tree.look(spec)
        assert (seen.name, seen.spec.ca, seen.faults) == ("conf#ca:c", ("ca",), ())


def test_ca_data_without_an_entry_is_observed_separately(tree: Tree) -> None:
    """Every certificate of every cluster is observed, because its end matters. Only its dates are judged."""
    clusters = [
        cluster("c", ROOT, OTHER),
        cluster("d", certificate_authority="/d.crt"),
        cluster("e"),
        cluster("f", ROOT),
    ]
    tree.write("/x.conf", kubeconfig([user("a", LEAF)], clusters, ("a", "c")))
    spec = row("conf", "/x.conf", kind="kubeconfig", ca="ca", subject="CN=client", usages=["client auth"])
    seen = tree.look(spec)
    assert names(seen) == ["conf", "conf#ca:c", "conf#ca:c#2", "conf#ca:d", "conf#ca:f"]
    assert reported(seen[3]) == ["missing: /d.crt does not exist"]
    assert all((each.spec.subject, each.spec.usages, each.spec.ca) == ((), (), ()) for each in seen[1:])
    tree.write("/x.conf", kubeconfig([user("t", token="t")], [cluster("c", ROOT)]))
    assert names(tree.look(row("conf", "/x.conf", kind="kubeconfig"))) == ["conf#ca:c"]
    tree.write("/x.conf", kubeconfig([user("a", LEAF)], [cluster("c", certificate_authority_data=b64(b"junk"))]))
    assert [len(each.faults) for each in tree.look(row("conf", "/x.conf", kind="kubeconfig"))] == [0, 1]


def test_the_credentials_of_another_cluster_are_only_judged(tree: Tree) -> None:
    """A finding about their end has the named file and a warning. certmond does not renew or repair them."""
    far, end = make_ca("far"), NOW + 5 * DAY
    other, old = make_leaf(far, "far-admin", not_before=NOW - 360 * DAY, not_after=end), make_ca("far", not_after=end)
    tree.write("/far.crt", other.pem)
    tree.write("/far.key", other.key_pem)
    tree.write("/far-ca.crt", old.pem)
    tree.write("/ca.crt", ROOT.pem)
    users = [
        user("a", LEAF),
        user("b", LEAF),
        user("far", client_certificate="far.crt", client_key="far.key"),
        user("embedded", other),
        user("broken", client_certificate="none.crt"),
    ]
    clusters = [
        cluster("c", ROOT, server="https://10.0.0.1:6443"),
        cluster("same", ROOT),
        cluster("far", certificate_authority="far-ca.crt"),
        cluster("new", old, ROOT),
    ]
    tree.write("/x.conf", kubeconfig(users, clusters, ("a", "c")))
    spec = row("conf", "/x.conf", kind="kubeconfig", embedded_ca="ca", ca="ca", subject="CN=client")
    seen = tree.look(row("ca", "/ca.crt", authority=True), spec)
    assert names(seen) == [
        "ca", "conf", "conf#b", "conf#far", "conf#embedded", "conf#broken", "conf#ca:far", "conf#ca:new",
        "conf#ca:new#2",
    ]  # fmt: skip
    assert [each.spec.ca for each in seen[1:5]] == [("ca",), ("ca",), (), ()]
    assert all(each.spec.renewed_by == "its operator (the certificate is in /x.conf)" for each in seen[2:])
    assessment = assess(Inventory(seen), NOW)
    found = {each.seen.name: [(item.reason, item.severity) for item in each.findings] for each in assessment.statuses}
    due = [(Reason.NEARING_EXPIRY, Severity.WARNING)]
    assert {name: found[name] for name in found if found[name]} == {
        "conf#far": due, "conf#embedded": due, "conf#ca:far": due, "conf#ca:new": due,
        "conf#broken": [(Reason.MISSING, Severity.WARNING)],
    }  # fmt: skip
    texts = {each.seen.name: each.findings[0].message for each in assessment.statuses if each.findings}
    assert texts["conf#far"].startswith("/far.crt (user 'far' of /x.conf) expires on ")
    assert texts["conf#embedded"].startswith("/x.conf (user 'embedded') expires on ")
    assert texts["conf#ca:far"].startswith("/far-ca.crt (cluster 'far' of /x.conf) expires on ")
    assert texts["conf#ca:far"].endswith("it is renewed by its operator (the certificate is in /x.conf)")
    planned = plan(assessment, Policy(), {}, Circumstances())
    assert not planned.steps


def test_a_context_of_the_current_cluster_relates_a_user_to_this_cluster(tree: Tree) -> None:
    """The certificate of this user needs a path to the CA, although another CA has signed it."""
    document = yaml.safe_load(kubeconfig([user("a", LEAF), user("b", OTHER)], [cluster("c", ROOT)], ("a", "c")))
    document["contexts"].append({"name": "second", "context": {"user": "b", "cluster": "c"}})
    tree.write("/x.conf", yaml.safe_dump(document))
    spec = row("conf", "/x.conf", kind="kubeconfig", embedded_ca="ca", ca="ca", subject="CN=client")
    assert [each.spec.ca for each in tree.look(spec)] == [("ca",), ("ca",)]


def test_the_kubelets_kubeconfig_may_have_credentials_of_another_cluster(tree: Tree) -> None:
    """Their entries follow that of the kubelet. A further user with the kubelet's file has no separate entry."""
    users = [user(name, client_certificate="/k.pem") for name in ("a", "same")]
    clusters = [cluster("c", ROOT), cluster("far", make_ca("far"))]
    tree.write("/kubelet.conf", kubeconfig([*users, user("far", OTHER)], clusters, ("a", "c")))
    tree.write("/k.pem", LEAF.pem + LEAF.key_pem)
    spec = row("k", "/k.pem", kind="kubelet", key="/k.pem", kubeconfig="/kubelet.conf", embedded_ca="ca", ca="ca")
    seen = tree.look(spec)
    assert names(seen) == ["k", "k#far", "k#ca:far"]
    assert [(each.path, each.spec.kind) for each in seen[1:]] == [("/kubelet.conf", Kind.KUBECONFIG)] * 2


@pytest.mark.parametrize(
    ("trusts", "findings"),
    [
        ({"certificate_authority_data": b64(ROOT.pem)}, set()),
        ({"certificate_authority": "/ca.crt"}, set()),
        ({"certificate_authority_data": b64(OTHER.pem)}, {Reason.EMBEDDED_CA_DIFFERS}),
        ({"certificate_authority_data": b64(b"junk")}, {Reason.MALFORMED}),
        ({"certificate_authority_data": "%%"}, {Reason.MALFORMED}),
        ({"certificate_authority_data": b64(ROOT.pem + b"# note\n")}, {Reason.TRAILING_DATA}),
        ({"certificate_authority_data": b64(ROOT.pem + pem_block("CERTIFICATE", b"junk"))}, {Reason.MALFORMED}),
        ({"certificate_authority": "/nowhere.crt"}, {Reason.EMBEDDED_CA_DIFFERS}),
        ({}, {Reason.EMBEDDED_CA_DIFFERS}),
    ],
)
def test_what_a_kubeconfig_trusts_is_compared_with_the_ca_file(tree: Tree, trusts: Any, findings: set[Reason]) -> None:
    """One fault, one finding: data that cannot be read is not also another CA, and no CA at all is another one."""
    tree.write("/ca.crt", ROOT.pem)
    tree.write("/x.conf", kubeconfig([user("a", LEAF)], [cluster("c", **trusts)], ("a", "c")))
    tree.write(
        "/kubelet.conf", kubeconfig([user("a", client_certificate="/k.pem")], [cluster("c", **trusts)], ("a", "c"))
    )
    tree.write("/k1.pem", LEAF.pem + LEAF.key_pem)
    tree.link("/k.pem", "/k1.pem")
    kubelet = row("kubelet", "/k.pem", kind="kubelet", kubeconfig="/kubelet.conf", embedded_ca="ca", ca="ca")
    specs = [row("ca", "/ca.crt", authority=True), CONF, kubelet]
    for status in assess(Inventory(tree.look(*specs)), NOW).statuses[1:]:
        assert {item.reason for item in status.findings} == findings, status.seen.name


# --- the kubelet ------------------------------------------------------------------------------------------------------

KUBELET = row("k", "/pki/current.pem", kind="kubelet", key="/pki/current.pem", kubeconfig="/kubelet.conf")


@pytest.mark.parametrize(
    ("users", "refers_to"),
    [
        ([user("a", client_certificate="pki/current.pem")], "/pki/current.pem"),
        ([user("a", client_certificate="pki/current.pem", client_key="pki/current.pem")], "/pki/current.pem"),
        ([user("a", client_certificate="pki/current.pem", client_key="/dated.pem")], "/dated.pem"),
        ([user("a", client_certificate="/dated.pem", client_key="pki/current.pem")], "/dated.pem"),
        ([user("a", client_certificate="pki/current.pem", client_key_data=b64(LEAF.key_pem))], ""),
        ([user("a", LEAF)], ""),
        ([user("a", token="t")], None),
        ([user("b", LEAF)], None),
    ],
)
def test_what_kubelet_conf_refers_to(tree: Tree, users: list[Any], refers_to: str | None) -> None:
    """A file, embedded credentials, or neither."""
    tree.write("/pki/1.pem", LEAF.pem + LEAF.key_pem)
    tree.link("/pki/current.pem", "1.pem")
    tree.write("/kubelet.conf", kubeconfig(users, (), ("a", "c")))
    seen = tree.look(KUBELET)[0]
    assert (seen.refers_to, seen.symlink, seen.faults) == (refers_to, True, ())
    assert [each.path for each in seen.permissions] == ["/pki/current.pem", "/kubelet.conf"]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (None, "missing: /kubelet.conf does not exist"),
        (b"a: 1\nb: [}\n", "malformed: /kubelet.conf is not YAML in line 2"),
        (kubeconfig(["x"]), "malformed: /kubelet.conf: entry 1 of users is not a user"),
    ],
)
def test_a_bad_kubelet_conf_is_reported_at_the_kubelets_certificate(
    tree: Tree, content: bytes | None, fact: str
) -> None:
    """kubelet.conf has no separate entry, and the certificate itself may be valid."""
    tree.write("/pki/current.pem", LEAF.pem + LEAF.key_pem)
    if content is not None:
        tree.write("/kubelet.conf", content)
    seen = tree.one(KUBELET)
    assert (reported(seen), seen.certificates, seen.symlink) == ([fact], (LEAF.facts,), False)


def test_whether_it_is_a_link_matters_for_the_rotating_pem_alone(tree: Tree) -> None:
    """Other files may be what they like, and only the kubelet's row looks at kubelet.conf."""
    tree.write("/x.crt", LEAF.pem)
    assert tree.one(row(kind="kubelet")).symlink is None
    seen = tree.one(row(kubeconfig="/kubelet.conf"))
    assert (seen.symlink, seen.refers_to, seen.faults) == (None, None, ())


# --- expected files ---------------------------------------------------------------------------------------------------


def test_a_required_file_is_missing(tree: Tree) -> None:
    """An optional one is not. A dangling link is reported as such, whatever the entry requires."""
    assert reported(tree.one(row())) == ["missing: /x.crt does not exist"]
    for spec in (row(optional=True), row(belongs_with="/none"), row(path="/*.crt", optional=True)):
        assert tree.look(spec) == ()
    tree.link("/x.crt", "/nowhere")
    for spec in (row(), row(optional=True), row(belongs_with="/none"), row(path="/*.crt")):
        assert reported(tree.one(spec)) == ["missing: /x.crt does not exist (it is a symlink to a missing file)"]


def test_what_is_optional_is_judged_where_it_is(tree: Tree) -> None:
    """Only its absence is no fault."""
    tree.write("/x.crt", "junk")
    assert [fault.reason for fault in tree.one(row(optional=True)).faults] == [Reason.MALFORMED]


def test_a_file_may_be_expected_because_another_names_it(tree: Tree) -> None:
    """The reference is its path, and the message names the file."""
    spec = row(mentioned_in=["/a.yaml", "/b.yaml"])
    assert tree.look(spec) == ()
    tree.write("/a.yaml", "command: [--cert=/y.crt]")
    tree.write("/b.yaml", "command: [--cert=/x.crt]")
    assert reported(tree.one(spec)) == ["missing: /x.crt does not exist, although /b.yaml refers to this file"]


def test_a_file_is_expected_if_the_file_that_may_name_it_is_unreadable(tree: Tree) -> None:
    """An additional finding is better than an unexplained absence."""
    tree.at("/a.yaml").mkdir()
    assert reported(tree.one(row(mentioned_in="/a.yaml"))) == ["missing: /x.crt does not exist"]


def test_a_file_may_be_expected_because_another_is_there(tree: Tree) -> None:
    """Readable or not."""
    spec = row(belongs_with="/a.yaml")
    assert tree.look(spec) == ()
    tree.at("/a.yaml").mkdir()
    assert reported(tree.one(spec)) == ["missing: /x.crt does not exist"]
    assert tree.look(replace(spec, optional=True)) == ()


def test_the_files_that_decide_are_watched(tree: Tree) -> None:
    """A manifest that comes, or changes what it names, changes what is missing."""
    store = Store([row(mentioned_in="/a.yaml", belongs_with="/c.yaml")], str(tree.root))
    assert store.observe().observations == ()
    assert store.interest[str(tree.root)] == frozenset({"x.crt", "a.yaml", "c.yaml", "etc", "lib", "run", "usr", "var"})
    tree.write("/a.yaml", "/x.crt")
    assert len(store.observe(tree.touched("/a.yaml")).observations) == 1
    tree.write("/a.yaml", "/y.crt")
    assert store.observe(tree.touched("/a.yaml")).observations == ()
    tree.write("/c.yaml", "")
    assert len(store.observe(tree.touched("/c.yaml")).observations) == 1


def test_nothing_is_missing_on_a_worker(node: Node) -> None:
    """It has kubelet.conf, the kubelet's PEM and ca.crt only."""
    keep = {
        f"{PKI}/ca.crt",
        "etc/kubernetes/kubelet.conf",
        KUBELET_PEM,
        "var/lib/kubelet/pki/kubelet-client-current.pem",
    }
    for path in sorted(node.root.rglob("*"), reverse=True):
        if not path.is_dir() and str(path.relative_to(node.root)) not in keep:
            path.unlink()
    inventory = Store(load(None).certificates, str(node.root)).observe()
    assert names(inventory.observations) == ["ca", "kubelet-client"]
    statuses = assess(inventory, real.NOW).statuses
    assert {item.reason for status in statuses for item in status.findings} <= {Reason.NONPOSITIVE_SERIAL}
    assert all(status.chain_valid for status in statuses)
    node.path(f"{PKI}/ca.crt").unlink()
    config = node.path("var/lib/kubelet/config.yaml")
    config.write_text("authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\n")
    seen = by_name(Store(load(None).certificates, str(node.root)).observe())["ca"]
    assert reported(seen) == [
        "missing: /etc/kubernetes/pki/ca.crt does not exist, although /var/lib/kubelet/config.yaml refers to this file"
    ]


def test_facts_are_the_nodes_own_but_for_what_is_given(node: Node) -> None:
    """The configuration overrules the files; the host's name is the last resort."""
    specs = load(None).certificates
    facts = Store(specs, str(node.root)).observe().facts
    assert facts["service_ip"] == "10.96.0.1"
    assert Store(specs, str(node.root), {"node_name": "mine"}).observe().facts == {**facts, "node_name": "mine"}


@pytest.mark.parametrize(
    ("text", "facts"), [(b"Worker-1\nmore\n", {"node_name": "worker-1"}), (b"\xff", {"node_name": "�"}), (b"", {})]
)
def test_the_hosts_name_is_the_first_line_of_its_file(tree: Tree, text: bytes, facts: Mapping[str, str]) -> None:
    """In lower case, as the kubelet takes it."""
    tree.write("/etc/hostname", text)
    assert Store([], str(tree.root)).observe().facts == facts


# --- patterns ---------------------------------------------------------------------------------------------------------


def paths(seen: Iterable[Observation]) -> list[str]:
    return [each.path for each in seen if each.certificates]


def test_a_pattern_stands_for_any_number_of_files(tree: Tree) -> None:
    """In order, each once; names are matched with regard to case, and a literal part may follow."""
    for path in ("/c/b.crt", "/c/a.crt", "/c/A.CRT", "/c/sub/a.crt", "/c/sub/deep/a.crt", "/d/a.crt"):
        tree.write(path, LEAF.pem)
    assert paths(tree.look(row(path="/c/*.crt"))) == ["/c/a.crt", "/c/b.crt"]
    assert paths(tree.look(row(path="/?/[ab].crt"))) == ["/c/a.crt", "/c/b.crt", "/d/a.crt"]
    assert paths(tree.look(row(path="/*/a.crt"))) == ["/c/a.crt", "/d/a.crt"]
    assert paths(tree.look(row(path="/c/**/a.crt"))) == ["/c/a.crt", "/c/sub/a.crt", "/c/sub/deep/a.crt"]
    assert paths(tree.look(row(path="/c/**"))) == [
        "/c/A.CRT",
        "/c/a.crt",
        "/c/b.crt",
        "/c/sub/a.crt",
        "/c/sub/deep/a.crt",
    ]
    assert paths(tree.look(row(path="/**/sub/*"))) == ["/c/sub/a.crt"]
    assert {each.name for each in tree.look(row(path="/c/*"))} == {"x"}


def test_a_pattern_passes_over_what_is_in_no_use(tree: Tree) -> None:
    """Retired PEM files of the kubelet, `expired`, backups, keys and requests; a row may say otherwise."""
    tree.write("/pki/kubelet-client-2026-11-24-14-15-30.pem", LEAF.pem + LEAF.key_pem)
    tree.link("/pki/kubelet-client-current.pem", "kubelet-client-2026-11-24-14-15-30.pem")
    for name in ("a.crt", "expired/a.crt", "a.crt.bak", "a.crt~", ".a.crt", "a.crt.old"):
        tree.write(f"/pki/{name}", LEAF.pem)
    for name in ("a.key", "lone.pem"):
        tree.write(f"/pki/{name}", LEAF.key_pem)
    for label, name in (("CERTIFICATE REQUEST", "a.csr"), ("DH PARAMETERS", "dh.pem"), ("X509 CRL", "crl.pem")):
        tree.write(f"/pki/{name}", pem_block(label, b"\x30\x00"))
    tree.write("/pki/sa.pub", LEAF.public_pem)
    tree.write("/pki/locked.pem", LEAF.key_as(PKCS8, b"secret"))
    for pattern in ("/pki/*", "/pki/**"):
        seen = tree.look(row(path=pattern))
        assert paths(seen) == ["/pki/a.crt", "/pki/kubelet-client-current.pem"]
        assert not [fault for each in seen for fault in each.faults]
    assert len(paths(tree.look(row(path="/pki/**", exclude=[])))) == 8
    assert paths(tree.look(row(path="/pki/*", exclude=["*.pem", "*.b*"]))) == [
        "/pki/.a.crt", "/pki/a.crt", "/pki/a.crt.old", "/pki/a.crt~",
    ]  # fmt: skip


def test_a_directory_that_certmond_cannot_read_is_a_fault_of_the_pattern(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certmond does not know whether the directory contains certificates, so it neither omits the directory silently
    nor reports a missing certificate. The fault is removed when certmond can read the directory again.
    """
    for path in ("/c/a.crt", "/c/sub/a.crt", "/c/third/a.crt"):
        tree.write(path, LEAF.pem)
    listdir = os.listdir

    def failing(code: int, *names: str) -> Callable[[Any], list[str]]:
        def some(directory: Any) -> list[str]:
            if str(directory).rpartition("/")[2] in names:
                raise OSError(code, os.strerror(code))
            return listdir(directory)

        return some

    fact, remedy = "certmond cannot read /c/sub (Input/output error)", "the disk fails: read the kernel's messages"
    one = ", and 1 other directory of the pattern has the same problem"
    for path, names, others in (
        ("/c/**", ("sub",), ""),
        ("/c/**/*.crt", ("sub",), ""),  # both wildcards list the directory
        ("/c/**", ("sub", "third"), one),
    ):
        monkeypatch.setattr(os, "listdir", failing(errno.EIO, *names))
        *found, rest = tree.look(row(path=path))
        assert len(found) == 3 - len(names)
        assert [(fault.reason, fault.detail) for fault in rest.faults] == [(Reason.UNREADABLE, f"{fact}{others}")]
        assert str(rest.faults[0].remedy).startswith(remedy)
    monkeypatch.setattr(os, "listdir", failing(errno.EMFILE, "c"))
    (rest,) = tree.look(row(path="/c/*.crt"))
    assert [(fault.reason, fault.detail) for fault in rest.faults] == [
        (Reason.UNREADABLE, "certmond cannot read /c (Too many open files)")
    ]
    monkeypatch.undo()
    assert paths(tree.look(row(path="/c/**"))) == ["/c/a.crt", "/c/sub/a.crt", "/c/third/a.crt"]
    assert not [fault for each in tree.look(row(path="/c/**")) for fault in each.faults]


def test_a_directory_that_could_not_be_read_has_no_fault_after_a_change(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of a name in the directory makes certmond read the directory again."""
    tree.write("/c/a.crt", LEAF.pem)
    store = Store((row(path="/c/*.crt"),), str(tree.root))
    monkeypatch.setattr(os, "listdir", mock.Mock(side_effect=OSError(errno.EMFILE, "")))
    assert [each.path for each in store.observe().observations] == ["/c/*.crt"]
    monkeypatch.undo()
    tree.write("/c/b.crt", LEAF.pem)
    seen = store.observe(tree.touched("/c/b.crt")).observations
    assert [(each.path, each.faults) for each in seen] == [("/c/a.crt", ()), ("/c/b.crt", ())]


def test_a_broken_file_of_a_pattern_is_a_fault(tree: Tree) -> None:
    """The cases are an unreadable file and a dangling link. Directories are skipped."""
    tree.write("/c/a.crt", LEAF.pem)
    tree.write("/c/b.crt", "junk")
    os.mkfifo(tree.at("/c/c.crt"))
    tree.link("/c/d.crt", "nowhere")
    tree.at("/c/e.crt").mkdir()
    seen = tree.look(row(path="/c/*.crt"))
    assert {each.path: [fault.reason for fault in each.faults] for each in seen} == {
        "/c/a.crt": [], "/c/b.crt": [Reason.MALFORMED], "/c/c.crt": [Reason.UNREADABLE], "/c/d.crt": [Reason.MISSING],
    }  # fmt: skip


def unreadable(tree: Tree, spec: CertificateSpec) -> list[tuple[str, str | None]]:
    """Return the fact and the remedy of each fault of the pattern."""
    (seen,) = (each for each in tree.look(spec) if each.path == spec.path)
    return [(fault.detail, fault.remedy) for fault in seen.faults]


def test_each_cause_has_its_own_fault(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of a pattern with another remedy have a separate fault, so that no cause hides another."""
    for name in ("broken", "first", "loop", "other"):
        tree.write(f"/c/{name}/a.crt", LEAF.pem)
    for name in ("loop", "first"):
        shutil.rmtree(tree.at(f"/c/{name}"))
        tree.link(f"/c/{name}", name)
    listdir = os.listdir

    def some(directory: Any) -> list[str]:
        if str(directory).endswith("/broken"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return listdir(directory)

    monkeypatch.setattr(os, "listdir", some)
    assert paths(tree.look(row(path="/c/*/*.crt"))) == ["/c/other/a.crt"]
    (disk, remedy), loop = unreadable(tree, row(path="/c/*/*.crt"))
    assert disk == "certmond cannot read /c/broken (Input/output error)"
    assert str(remedy).startswith("the disk fails")
    fact = "/c/first is a loop of symlinks, and 1 other directory of the pattern has the same problem"
    assert loop == (fact, "correct or remove these symlinks")


def test_a_name_that_can_be_an_unreadable_directory_is_a_fault(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """If certmond cannot determine whether a name below `**` is a directory, certmond does not omit the name."""
    tree.write("/c/sub/a.crt", LEAF.pem)
    lstat = os.lstat

    def some(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("/sub"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", some)
    assert [fact for fact, _ in unreadable(tree, row(path="/c/**/*.crt"))] == [
        "certmond cannot read /c/sub (Input/output error)"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a symlink")
def test_a_symlink_of_another_user_does_not_hide_the_cause(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A symlink that leads to a readable file is no directory. For a directory that this user can read, the fault
    contains the error. A symlink that leads to no file is a fault, because certmond cannot disclose more.
    """
    tree.write("/readme", "", 0o644)
    tree.write("/d/a.crt", LEAF.pem, 0o644)
    tree.write("/c/b/b.crt", LEAF.pem)
    for path in ("/", "/d"):
        tree.at(path).chmod(0o755)
    for name, target in (("README", "../readme"), ("d", "../d")):
        tree.link(f"/c/{name}", target)
        os.lchown(tree.at(f"/c/{name}"), 1000, 1000)
    tree.root.parent.chmod(0o755)
    assert paths(tree.look(row(path="/c/*/*.crt"))) == ["/c/b/b.crt", "/c/d/a.crt"]
    listdir = os.listdir

    def some(directory: Any) -> list[str]:
        if str(directory).endswith("/d"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return listdir(directory)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", some)
        ((fact, remedy),) = unreadable(tree, row(path="/c/*/*.crt"))
        assert fact == "certmond cannot read /c/d (Too many open files)"
        assert "LimitNOFILE" in str(remedy)
    shutil.rmtree(tree.at("/d"))
    ((fact, _),) = unreadable(tree, row(path="/c/*/*.crt"))
    assert fact.startswith("/c/d is behind a symlink of user 1000, and leads to no file")


STATES = ("missing", "loop", "EIO", "EACCES", "readable")


@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("after", STATES)
@pytest.mark.parametrize("before", STATES)
def test_the_fault_of_a_directory_is_the_present_one(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, before: str, after: str, *, everything: bool
) -> None:
    """After each change, a store that has observed the former state reports the same as a new store.

    A full scan detects all changes. A change without an event of inotify, such as a failing disk, needs a full scan.
    """
    listdir = os.listdir

    def become(state: str) -> None:
        monkeypatch.setattr(os, "listdir", listdir)
        place = tree.at("/c")
        place.unlink() if place.is_symlink() else shutil.rmtree(place, ignore_errors=True)
        if state == "loop":
            tree.link("/c", "c")
        elif state != "missing":
            tree.write("/c/a.crt", LEAF.pem)
        if code := getattr(errno, state, None):
            error = OSError(code, os.strerror(code))
            monkeypatch.setattr(os, "listdir", mock.Mock(side_effect=error))

    spec = row(path="/c/*.crt")
    become(before)
    store = Store((spec,), str(tree.root))
    store.observe()
    become(after)
    assert store.observe(None if everything else tree.touched("/c")).observations == tree.look(spec)


def test_links_to_directories_are_not_descended(tree: Tree) -> None:
    """Else a link to its parent would never end; nor does a tree that is too deep."""
    tree.write("/c/a.crt", LEAF.pem)
    tree.link("/c/loop", ".")
    deep = "/c" + "/d" * 30
    tree.write(f"{deep}/a.crt", LEAF.pem)
    tree.link("/c/itself", "itself")
    (one,) = tree.look(row(path="/c/**/a.crt"))
    assert (one.path, one.faults) == ("/c/a.crt", ())
    tree.write("/c" + "/d" * 16 + "/a.crt", LEAF.pem)
    assert len(paths(tree.look(row(path="/c/**/a.crt")))) == 2


@pytest.mark.parametrize("pattern", ["/c/*.crt", "/c/*/tls.crt", "/none/**", "/c/*.pem"])
def test_a_pattern_without_a_match_is_missing(tree: Tree, pattern: str) -> None:
    """An optional pattern is not, nor one that belongs with an absent file. The observation stays the same object
    meanwhile.
    """
    tree.write("/c/d/other.crt", LEAF.pem)
    tree.write("/c/lone.pem", LEAF.key_pem)
    store = Store([row(path=pattern)], str(tree.root))
    (first,) = store.observe().observations
    assert (reported(first), first.path) == ([f"missing: {pattern} matches no certificate"], pattern)
    assert store.observe().observations[0] is first
    assert tree.look(row(path=pattern, optional=True)) == ()
    assert tree.look(row(path=pattern, belongs_with="/m.yaml")) == ()
    tree.write("/m.yaml", "")
    assert len(tree.look(row(path=pattern, belongs_with="/m.yaml"))) == 1


def test_a_pattern_has_a_limit_of_files(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who can write in its directory does not choose the amount of work. The pattern reports the excess while it
    lasts. The files within the limit are observed as usual.
    """
    monkeypatch.setattr("certmond.files.glob.MAX_FILES", 3)
    for number in range(3):
        tree.write(f"/c/{number}.crt", LEAF.pem)
    store = Store([row(path="/**/*.crt")], str(tree.root))
    assert paths(store.observe().observations) == ["/c/0.crt", "/c/1.crt", "/c/2.crt"]
    for number in (3, 4):
        tree.write(f"/c/{number}.crt", LEAF.pem)
    *looked_at, rest = store.observe().observations
    assert paths(looked_at) == ["/c/0.crt", "/c/1.crt", "/c/2.crt"]
    fact = "/**/*.crt matches more than 3 files, and certmond ignores the others"
    assert (reported(rest), rest.path) == ([f"unreadable: {fact}"], "/**/*.crt")
    assert store.observe().observations[-1] is rest
    for number in (0, 4):
        tree.at(f"/c/{number}.crt").unlink()
    assert paths(store.observe().observations) == ["/c/1.crt", "/c/2.crt", "/c/3.crt"]


def test_a_pattern_has_a_limit_of_directories(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each directory needs a watch, and the number of watches of a user is limited; root shares it with the kubelet.
    The pattern reports the excess while it lasts.
    """
    monkeypatch.setattr("certmond.files.glob.MAX_DIRECTORIES", 3)
    for name in ("a", "b"):
        tree.write(f"/c/{name}/x.crt", LEAF.pem)
    store = Store([row(path="/c/**/*.crt")], str(tree.root))
    assert paths(store.observe().observations) == ["/c/a/x.crt", "/c/b/x.crt"]
    tree.write("/c/c/x.crt", LEAF.pem)
    *looked_at, rest = store.observe().observations
    assert paths(looked_at) == ["/c/a/x.crt", "/c/b/x.crt"]
    fact = "/c/**/*.crt matches more than 3 directories, and certmond ignores the others"
    assert (reported(rest), rest.path) == ([f"unreadable: {fact}"], "/c/**/*.crt")
    assert str(tree.at("/c/c")) not in store.interest
    shutil.rmtree(tree.at("/c/a"))
    assert paths(store.observe().observations) == ["/c/b/x.crt", "/c/c/x.crt"]


def test_files_come_and_go_from_a_pattern(tree: Tree) -> None:
    """With their directories; all names in one that was listed are of interest."""
    store = Store([row(path="/c/*/tls.crt", optional=True)], str(tree.root))
    assert store.observe().observations == ()
    tree.write("/c/a/tls.crt", LEAF.pem)
    assert paths(store.observe(tree.touched("/c")).observations) == ["/c/a/tls.crt"]
    assert store.interest[str(tree.at("/c"))] is None
    tree.write("/c/b/tls.crt", OTHER.pem)
    first, second = store.observe(tree.touched("/c/b")).observations
    tree.at("/c/a/tls.crt").unlink()
    assert store.observe(tree.touched("/c/a/tls.crt")).observations == (second,)
    assert store.observe(tree.touched("/c/a/tls.crt")).observations[0] is second
    tree.write("/c/a/tls.crt", LEAF.pem)
    assert store.observe(tree.touched("/c/a/tls.crt")).observations == (first, second)
    tree.at("/c/a/tls.crt").unlink()
    tree.at("/c/a").rmdir()
    for _ in range(2):
        store.observe()
    kept = {each.path for each in reachable(store) if isinstance(each, Observation)}
    assert kept == {"/c/b/tls.crt"}, "the cache drops a removed file"


def test_a_directory_in_the_place_of_a_file_is_descended(tree: Tree) -> None:
    """Although no name has come or gone above it."""
    tree.write("/c/a", "")
    store = Store([row(path="/c/**/*.crt", optional=True)], str(tree.root))
    assert store.observe().observations == ()
    tree.at("/c/a").unlink()
    tree.write("/c/a/tls.crt", LEAF.pem)
    assert paths(store.observe(tree.touched("/c/a")).observations) == ["/c/a/tls.crt"]


# --- the same objects until something changes -------------------------------------------------------------------------


def test_a_file_that_cannot_be_used_yet_is_news_with_each_change(tree: Tree) -> None:
    """Although it tells the same: who waits for its writer has to know when it changed last."""
    store, content = Store([row()], str(tree.root), {}), LEAF.pem
    tree.write(row().path, content[:200])
    (first,) = store.observe().observations
    tree.write(row().path, content[:300])
    (second,) = store.observe().observations
    assert first.faults
    assert second == first
    assert first.changed_at
    assert second.changed_at
    assert second.changed_at > first.changed_at


def test_equal_bytes_keep_the_observations(node: Node) -> None:
    """A whole node looked at again, touched and rewritten as it was: not one of them is another object."""
    store = Store(load(None).certificates, str(node.root))
    first = store.observe().observations
    again = store.observe().observations
    node.replace(f"{PKI}/apiserver.crt", node.read(f"{PKI}/apiserver.crt"))
    node.write("etc/kubernetes/admin.conf", node.read("etc/kubernetes/admin.conf"))
    node.path(KUBELET_PEM).touch()
    rewritten = store.observe().observations
    touched = store.observe(frozenset(str(path) for path in node.root.rglob("*"))).observations
    for seen in (again, rewritten, touched):
        assert all(one is two for one, two in zip(first, seen, strict=True))


def test_only_observations_behind_a_change_are_new(node: Node) -> None:
    """A CA file concerns the entry of its name. The kubelet's entry also depends on its kubeconfig."""
    store = Store(load(None).certificates, str(node.root))
    for name, concerned in (
        (f"{PKI}/apiserver.key", {"apiserver"}),
        ("etc/kubernetes/kubelet.conf", {"kubelet-client"}),
        (KUBELET_PEM, {"kubelet-client"}),
        (f"{PKI}/sa.pub", {"sa"}),
    ):
        first = by_name(store.observe())
        node.path(name).chmod(0o640)
        second = by_name(store.observe(frozenset({str(node.path(name))})))
        assert {each for each, seen in second.items() if seen is not first[each]} == concerned


@pytest.mark.long
@settings(max_examples=examples(150), deadline=None)
@given(changes=st.lists(CHANGES, min_size=1, max_size=12))
def test_a_reported_change_gives_the_same_result_as_a_new_store(changes: list[Any], tmp_path_factory: Any) -> None:
    """Files appear, disappear, move and are linked elsewhere, in patterns as well. Only the events in the watched
    directories are used.
    """
    files = FileTree(tmp_path_factory.mktemp("root"))
    patterns = ["/d/*", "/d/x*", "/**/x", "/l/*", "/*/e/x", "/m"]
    specs = [row(f"row{number}", pattern, optional=True) for number, pattern in enumerate(patterns)]
    store = Store(specs, str(files.root))
    store.observe()
    for number, (kind, what) in enumerate(changes):
        events = change(files, kind, what, (LEAF.pem, OTHER.pem)[number % 2])
        wanted = store.interest
        places = {event: os.path.split(event) for event in events}
        seen = {event for event, (place, name) in places.items()
                if place in wanted and ((names := wanted[place]) is None or name in names)}  # fmt: skip
        assert store.observe(frozenset(seen)) == Store(specs, str(files.root)).observe()


def test_a_look_at_one_file_asks_nothing_of_the_others(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even whether they are there."""
    store = Store(load(None).certificates, str(node.root))
    store.observe()
    node.replace(f"{PKI}/apiserver.crt", node.read(f"{PKI}/front-proxy-client.crt"))
    looked: set[str] = set()
    for call in ("open", "lstat", "readlink", "listdir", "stat"):
        function = getattr(os, call)

        def counted(path: Any, *rest: Any, function: Callable[..., Any] = function, **named: Any) -> Any:
            if not str(path).startswith("/proc/self/fd/"):  # what the kernel calls a file that is open
                looked.add(os.path.basename(path))
            return function(path, *rest, **named)

        monkeypatch.setattr(os, call, counted)
    changed = store.observe(frozenset({str(node.path(f"{PKI}/apiserver.crt"))}))
    assert looked == {"apiserver.crt"}
    assert subjects(by_name(changed)["apiserver"]) == ["front-proxy-client"]


def test_every_file_that_was_looked_at_is_of_interest(node: Node) -> None:
    """The link, its target, keys, kubeconfigs and manifests: by their directories, whose parents count as well."""
    store = Store(load(None).certificates, str(node.root))
    store.observe()
    interest = {place.removeprefix(str(node.root)): found for place, found in store.interest.items()}
    expected = {
        "/var/lib/kubelet/pki": {"kubelet-client-current.pem", os.path.basename(KUBELET_PEM)},
        "/etc/kubernetes/pki": {"ca.crt", "ca.key", "sa.pub", "sa.key", "etcd"},
        "/etc/kubernetes": {"pki", "admin.conf", "super-admin.conf", "kubelet.conf", "manifests"},
        "/etc/kubernetes/manifests": {"kube-apiserver.yaml", "etcd.yaml"},
        "/var/lib/kubelet": {"config.yaml", "kubeadm-flags.env", "pki"},
    }
    for directory, names in expected.items():
        watched = interest[directory]
        assert watched is None or all(name in watched for name in names), directory
    assert interest[""] == frozenset({"etc", "lib", "run", "usr", "var"})


def test_the_renewal_of_the_kubelet_is_detected(node: Node) -> None:
    """A new dated file appears, and a rename moves the link to it."""
    store = Store(load(None).certificates, str(node.root))
    before = by_name(store.observe())["kubelet-client"]
    certificate, key = node.mint(node.certificate(KUBELET_PEM))
    new = "var/lib/kubelet/pki/kubelet-client-2027-01-01-00-00-00.pem"
    node.path(new).write_bytes(real.pem(certificate) + real.key_pem(key))
    staged = node.path("var/lib/kubelet/pki/kubelet-client-updated.pem")
    staged.symlink_to(f"/{new}")
    staged.rename(node.path("var/lib/kubelet/pki/kubelet-client-current.pem"))
    after = by_name(store.observe(frozenset({str(node.path("var/lib/kubelet/pki/kubelet-client-current.pem"))})))
    assert after["kubelet-client"].certificates != before.certificates
    assert after["kubelet-client"].symlink


def test_a_path_that_is_no_file_has_no_permissions(tree: Tree) -> None:
    """The mode of a directory is not the mode of a certificate."""
    (tree.root / "x.crt").mkdir()
    seen = tree.one(row())
    assert seen.permissions == ()
    assert [fault.reason for fault in seen.faults] == [Reason.UNREADABLE]


def test_owners_have_names_on_this_node_and_numbers_elsewhere(tree: Tree) -> None:
    """The users of a mounted disk are not this node's. 0 is root everywhere. A user without a name is a number."""
    path = tree.write("/x.crt", LEAF.pem)
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    other_user = next(each for each in pwd.getpwall() if each.pw_uid and each.pw_gid)
    name = f"{other_user.pw_name}:{grp.getgrgid(other_user.pw_gid).gr_name}"
    for uid, gid, here, there in (
        (0, 0, "root:root", "root:root"),
        (other_user.pw_uid, other_user.pw_gid, name, f"{other_user.pw_uid}:{other_user.pw_gid}"),
        (61234, 61235, "61234:61235", "61234:61235"),
        (0, 61235, "root:61235", "root:61235"),
        (61234, 0, "61234:root", "61234:root"),
    ):
        os.chown(path, uid, gid)
        assert tree.one(row()).permissions[0].owner == there
        (seen,) = Store([row(path=str(path))], "/").observe().observations
        assert seen.permissions[0].owner == here


def test_the_owner_of_the_root_of_a_tree_counts_as_root(tree: Tree) -> None:
    """In a directory that represents the root of a node, this applies to the user and to the group separately."""
    path = tree.write("/x.crt", LEAF.pem)
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(tree.root, 61234, 61235)
    for uid, gid, owner in ((61234, 61235, "root:root"), (61235, 61234, "61235:61234"), (0, 61235, "root:root")):
        os.chown(path, uid, gid)
        assert tree.one(row()).permissions[0].owner == owner


# --- failures while reading -------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_without_privileges_a_closed_file_is_unreadable() -> None:
    """Certificates are observed, and keys and kubeconfigs are reported as not permitted."""
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        node = Node(Path(root))
        node.root.chmod(0o755)
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                seen = Store(load(None).certificates, str(node.root)).observe().observations
                lines = [
                    " ".join((each.name, str(len(each.certificates)), str(each.key_unknown), *reported(each)[:1]))
                    for each in seen
                ]
                os.write(write, "\n".join(lines).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            lines = pipe.read().splitlines()
        os.waitpid(child, 0)
    denied = "because user 65534 is not permitted to read this path"
    fact = "not_permitted: certmond cannot check /etc/kubernetes"
    assert f"apiserver 1 True {fact}/pki/apiserver.key, {denied}" in lines
    assert f"admin.conf 0 False {fact}/admin.conf, {denied}" in lines
    assert any(line.startswith("kubelet-client 0") and denied in line for line in lines)


@pytest.mark.long
def test_two_hundred_scans_beside_a_writer_in_place(tree: Tree) -> None:
    """An observed certificate equals a written one to the last byte, or there is a fault: never a mixture."""
    # Ed25519 signatures have one length, so that the files do, and a mixture would parse.
    ca = make_ca(key="ed25519")
    issued = [make_server(ca, f"server-{number}", key="ed25519") for number in range(4)]
    assert len({len(each.pem) for each in issued}) == 1
    written = {each.facts.sha256 for each in issued}
    path = tree.write("/x.crt", issued[0].pem)
    done = threading.Event()

    def rewrite() -> None:
        while not done.is_set():
            for each in issued:
                with path.open("r+b", buffering=0) as file:
                    file.write(each.pem)
            path.write_bytes(issued[0].pem)

    writer = threading.Thread(target=rewrite)
    writer.start()
    store = Store([row()], str(tree.root))
    try:
        for _ in range(200):
            (seen,) = store.observe(tree.touched("/x.crt")).observations
            assert {certificate.sha256 for certificate in seen.certificates} <= written
            assert bool(seen.certificates) != bool(seen.faults)
    finally:
        done.set()
        writer.join()
    (seen,) = store.observe(tree.touched("/x.crt")).observations
    assert subjects(seen) == ["server-0"]


def reachable(start: object) -> Iterator[object]:
    """Every object that can be reached from one, also through the globals and caches of certmond's own modules."""
    seen, pending = {id(start)}, [start]
    while pending:
        current = pending.pop()
        yield current
        for other in gc.get_referents(current):
            is_foreign = isinstance(other, dict) and "__builtins__" in other and "certmond." not in other["__name__"]
            if id(other) not in seen and not is_foreign and not isinstance(other, type | type(os)):
                seen.add(id(other))
                pending.append(other)


def secrets(tree: Path) -> set[bytes]:
    """Pieces of the private parts of every key below a directory: in DER, PEM and the base64 of kubeconfigs."""
    found: set[bytes] = set()
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            for embedded in re.findall(rb"client-key-data: (\S+)", data):
                found |= {embedded[1000:1060], embedded[-200:-140]}
                data += base64.b64decode(embedded)
            for body in re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", data, re.DOTALL):
                lines, der = body.split(), base64.b64decode(b"".join(body.split()))
                is_rsa = len(lines) > 8  # whose modulus, which is public, comes first
                found |= {*lines[8:-1], der[400:460]} if is_rsa else {lines[0], der[7:39]}
    return found


def kept(secret: set[bytes], *things: object) -> list[bytes]:
    """Which of them are in memory behind `things`, as text or as bytes."""
    held = [each for each in reachable(things) if isinstance(each, str | bytes)]
    text = b"\0".join(each.encode(errors="replace") if isinstance(each, str) else each for each in held)
    return [each for each in secret if each in text]


def test_no_private_key_stays_in_memory(node: Node) -> None:
    """Only the public half of a key stays in memory: neither PEM nor DER, neither of a file nor of a kubeconfig."""
    wanted = secrets(node.root)
    assert len(wanted) > 200
    store = Store(load(None).certificates, str(node.root))
    inventory = store.observe()
    first = assess(inventory, real.NOW)
    assert not kept(wanted, store, inventory, first)
    node.write("etc/kubernetes/admin.conf", node.read("etc/kubernetes/admin.conf") + b"{")
    node.write(f"{PKI}/apiserver.key", node.read(f"{PKI}/apiserver.key")[:-300])
    broken = store.observe()
    assert not kept(wanted, store, broken, assess(broken, real.NOW, first))
    # The walk goes everywhere, and finds what is there.
    assert any(isinstance(each, Files) for each in reachable(store))
    for path, least in (("etc/kubernetes/scheduler.conf", 2), (f"{PKI}/ca.key", 10), (KUBELET_PEM, 1)):
        assert len(kept(wanted, store, {"somewhere": [node.read(path)]})) >= least


@pytest.mark.long
@pytest.mark.filterwarnings(FORKS)
def test_a_second_process_returns_the_same_result_and_no_key(node: Node) -> None:
    """The rule covers every file of a node, including kubeconfigs with their keys."""
    specs = load(None).certificates
    with elsewhere() as brought:
        inventory = Store(specs, str(node.root)).observe()
    assert inventory == Store(specs, str(node.root)).observe()
    assert len(brought) > 10
    assert not [secret for secret in secrets(node.root) if secret in b"".join(brought)]


def test_no_fault_reveals_what_is_embedded(tree: Tree) -> None:
    """Whatever was damaged: the field, the base64, the PEM, or the key in the place of a path."""
    good = user("a", LEAF)["user"]
    body = b"".join(LEAF.key_pem.split(b"\n")[1:-2])
    spoilt = [
        {"client-key": good["client-key-data"]},
        {"client-certificate": LEAF.key_pem.decode()},
        {"client-key-data": good["client-key-data"][:-7]},
        {"client-key-data": b64(LEAF.key_pem[:-60])},
        {"client-key-data": b64(LEAF.key_pem.replace(b"PRIVATE KEY", b"SECRET"))},
        {"client-certificate-data": good["client-key-data"]},
    ]
    for fields in spoilt:
        tree.write("/x.conf", kubeconfig([{"name": "a", "user": {"client-certificate-data": b64(LEAF.pem), **fields}}]))
        inventory = Inventory(tree.look(CONF))
        text = repr((inventory, assess(inventory, NOW)))
        assert not any(
            secret in text for secret in (body.decode()[:30], body.decode()[-40:], good["client-key-data"][60:90])
        )


@pytest.mark.long
def test_private_keys_beyond_the_limit_are_reported_once_for_each_user(tree: Tree) -> None:
    """The keys of the first 256 users are read. Whether the others match is unknown."""
    tree.write("/many.conf", kubeconfig([user(f"u{number}", make_leaf(ROOT)) for number in range(258)]))
    seen = tree.look(row("many", "/many.conf", kind="kubeconfig"))
    assert [each.key is None for each in seen] == [False] * 256 + [True] * 2
    assert [each.key_unknown for each in seen[-3:]] == [False, True, True]
    said = "/many.conf contains more than 256 private keys; certmond reads no further key"
    assert [[fault.detail for fault in each.faults] for each in (seen[0], seen[1], seen[-1])] == [[said], [], [said]]


def test_a_pkcs12_file_in_a_kubeconfig_is_not_opened(tree: Tree) -> None:
    """client-go takes PEM only."""
    store = pkcs12.serialize_key_and_certificates(b"x", None, LEAF.cert, None, NoEncryption())
    tree.write("/x.conf", kubeconfig([user("u", client_certificate_data=b64(store))]))
    (seen,) = tree.look(row("conf", "/x.conf", kind="kubeconfig"))
    assert reported(seen) == ["malformed: /x.conf, certificate of 'u' is PKCS#12, but client-go reads only PEM"]
