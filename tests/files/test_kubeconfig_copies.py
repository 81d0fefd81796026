"""Copies of kubeconfigs that are out of date, and those that certmond cannot read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from certmond.expose.metrics.exposition import Renderer
from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.catalog_observer import Store
from certmond.files.kubeconfig_copies import KubeconfigCopies, is_known_absent, own_mounts
from certmond.files.mount_table import hiding_directory, parse_mounts
from certmond.formats.kubeconfig_edit import Embedded, new_kubeconfig
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.rotation.phases import Mode, Phase
from tests.builders import DAY, NOW, Issued, make_ca, make_leaf
from tests.controllers.test_rotation import walk_into
from tests.rotation_node import RotatingNode, root_ca

CONF, SUPER, COPY = "/etc/kubernetes/admin.conf", "/etc/kubernetes/super-admin.conf", "/root/.kube/config"
CA, OTHER_CA = make_ca(), make_ca()
ADMIN, SUPER_ADMIN = "kubernetes-admin", "kubernetes-super-admin"
MASTERS = x509.Name.from_rfc4514_string(f"CN={ADMIN},O=system:masters")
OLD = make_leaf(CA, ADMIN, not_after=NOW + 10 * DAY)
NEW = make_leaf(CA, ADMIN, not_after=NOW + 300 * DAY)
SPECS = (
    CertificateSpec(name="ca", path="/etc/kubernetes/pki/ca.crt", authority=True, optional=True),
    validated(CertificateSpec, {"name": "admin.conf", "path": CONF, "kind": "kubeconfig", "embedded_ca": "ca"}),
    validated(
        CertificateSpec,
        {"name": "super-admin.conf", "path": SUPER, "kind": "kubeconfig", "embedded_ca": "ca", "optional": True},
    ),
)
DERIVED = (DerivedSpec(name="root-kubeconfig", kind="kubeconfig", source="admin.conf", path=COPY),)
UNREAD = f"certmond does not compare {COPY} with {CONF}: "


def kubeconfig(
    leaf: Issued, user: str = ADMIN, *, trust: bytes = CA.pem, cluster: str = "kubernetes", server: str = "10.0.0.1"
) -> bytes:
    return new_kubeconfig(
        cluster=cluster, server=f"https://{server}:6443", user=user, trust_pem=trust,
        credentials=Embedded(leaf.pem, leaf.key_pem),
    )  # fmt: skip


def with_another_user(content: bytes) -> bytes:
    document: dict[str, Any] = yaml.safe_load(content)
    document["users"].append({"name": "ops", "user": {"token": "secret"}})
    return yaml.safe_dump(document).encode()


class Tree:
    """The files of a node, with a store that observes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put(CONF, kubeconfig(NEW))
        self.store = Store(SPECS, str(root), derived=DERIVED)

    def put(self, path: str, content: bytes) -> None:
        place = self.root / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def findings(self) -> list[Finding]:
        """Return the findings about copies."""
        return [*assess(self.store.observe(), NOW).loose_findings]

    def messages(self) -> list[str]:
        return [each.message for each in self.findings() if each.reason is Reason.STALE_COPY]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_copy_with_an_older_certificate_is_a_warning(tree: Tree) -> None:
    """The finding has the two ends, and the command that copies the source again."""
    tree.put(COPY, kubeconfig(OLD))
    (found,) = tree.findings()
    assert (found.reason, found.severity) == (Reason.STALE_COPY, Severity.WARNING)
    ends = (
        f"the certificate in the copy ends on 2026-{OLD.facts.not_after:%m-%d %H:%M} UTC, but the certificate in "
        f"{CONF} ends on "
    )
    assert found.message.startswith(f"{COPY} is an old copy of {CONF}: {ends}")
    assert found.message.endswith(f"; run: cp {CONF} {COPY}")


def test_a_copy_with_other_ca_certificates_is_a_warning(tree: Tree) -> None:
    """After a rotation of the CA, or on a node with a new cluster, the copy trusts other CA certificates."""
    for trust in (OTHER_CA.pem, CA.pem + OTHER_CA.pem):
        tree.put(COPY, kubeconfig(NEW, trust=trust))
        assert tree.messages() == [
            f"{COPY} is an old copy of {CONF}: the copy trusts other CA certificates; run: cp {CONF} {COPY}"
        ]


@pytest.mark.parametrize("leaf", [NEW, make_leaf(CA, ADMIN, not_after=NOW + 301 * DAY)])
def test_a_copy_that_is_current_is_no_finding(tree: Tree, leaf: Issued) -> None:
    """A copy with the certificate of the source, or with one that ends later, is not out of date."""
    tree.put(COPY, with_another_user(kubeconfig(leaf)))
    assert not tree.findings()


@pytest.mark.parametrize(
    "content",
    [
        kubeconfig(OLD, "ops"),
        kubeconfig(make_leaf(CA, "other", not_after=NOW + DAY)),
        kubeconfig(OLD, cluster="other"),
        kubeconfig(OLD, server="10.9.9.9", trust=OTHER_CA.pem),
    ],
    ids=["user", "common name", "cluster", "server and CA"],
)
def test_a_kubeconfig_of_another_cluster_or_user_is_no_copy(tree: Tree, content: bytes) -> None:
    """Another name of the user or cluster, another common name, or another server without a common CA: no finding."""
    tree.put(COPY, content)
    assert not tree.findings()


@pytest.mark.parametrize(
    "content",
    [
        with_another_user(kubeconfig(OLD)),
        kubeconfig(OLD, server="vip"),
        kubeconfig(OLD).replace(b"    user: kubernetes-admin\n", b"    user: kubernetes-admin\n    namespace: own\n"),
        kubeconfig(OLD) + b"extensions: [{name: own, extension: {}}]\n",
    ],
    ids=["another user", "another server", "namespace", "extension"],
)
def test_a_copy_with_own_content_is_not_to_be_overwritten(tree: Tree, content: bytes) -> None:
    """If the file has more than the source, or another server, the finding names a merge instead of cp."""
    tree.put(COPY, content)
    (message,) = tree.messages()
    assert message.endswith(f"; merge {CONF} into the copy; see: certmond explain stale_copy")


def test_a_copy_with_another_group_is_a_copy_of_the_same_user(tree: Tree) -> None:
    """kubeadm v1.29 replaced the group of admin.conf. The copy of the older version expires, so it is a finding."""
    tree.put(COPY, kubeconfig(make_leaf(CA, subject=MASTERS, not_after=NOW + DAY)))
    assert len(tree.messages()) == 1


def test_a_copy_of_super_admin_conf_is_compared_with_it(tree: Tree) -> None:
    """The user of the copy decides which kubeconfig of the catalogue is its source."""
    tree.put(SUPER, kubeconfig(make_leaf(CA, SUPER_ADMIN, not_after=NOW + 300 * DAY), SUPER_ADMIN))
    tree.put(COPY, kubeconfig(make_leaf(CA, SUPER_ADMIN, not_after=NOW + DAY), SUPER_ADMIN))
    (message,) = tree.messages()
    assert message.endswith(f"; run: cp {SUPER} {COPY}")


def test_a_file_with_its_own_entry_is_no_copy(tree: Tree) -> None:
    """An entry of the operator in `certificates` can give the file its own certificate, which ends earlier."""
    tree.put(COPY, kubeconfig(OLD))
    own = validated(CertificateSpec, {"name": "own", "path": COPY, "kind": "kubeconfig", "embedded_ca": "ca"})
    assessment = assess(Store((*SPECS, own), str(tree.root), derived=DERIVED).observe(), NOW)
    assert not [*assessment.loose_findings]


def test_a_derived_file_of_the_operator_has_one_finding(tree: Tree) -> None:
    """An entry in `derived` that certmond writes replaces the entry of the profile with the same path."""
    tree.put(COPY, kubeconfig(OLD))
    profile = replace(DERIVED[0], write="existing")
    own = replace(DERIVED[0], name="own")
    for derived in ((profile, own), (own, profile)):
        found = Store(SPECS, str(tree.root), derived=derived).observe().observations[-2:]
        assert [each.name for each in found if each.path == COPY] == ["own"]


def test_a_replaced_copy_clears_the_finding(tree: Tree) -> None:
    """The store watches the copy and the source: the finding is set and cleared after a change of one file."""
    tree.put(COPY, kubeconfig(NEW))
    assert not tree.findings()
    tree.put(CONF, kubeconfig(make_leaf(CA, ADMIN, not_after=NOW + 600 * DAY)))
    before = tree.store.observe(frozenset({str(tree.root / CONF[1:])})).observations[-1]
    assert [fault.reason for fault in before.faults] == [Reason.STALE_COPY]
    assert tree.store.observe(frozenset()).observations[-1] is before
    assert tree.store.interest[str(tree.root / "root/.kube")] == frozenset({"config"})
    tree.put(COPY, (tree.root / CONF[1:]).read_bytes())
    after = tree.store.observe(frozenset({str(tree.root / COPY[1:])})).observations
    assert not [each for each in after if each.path == COPY]


@pytest.mark.parametrize("content", [b"not: a kubeconfig\n", b"{", None], ids=["mapping", "YAML", "directory"])
def test_an_unreadable_copy_is_named(tree: Tree, content: bytes | None) -> None:
    """A file that certmond cannot read as a kubeconfig is an info finding, and no reference of the node."""
    if content is None:
        (tree.root / COPY[1:]).mkdir(parents=True)
    else:
        tree.put(COPY, content)
    assessment = assess(tree.store.observe(), NOW)
    (found,) = assessment.loose_findings
    assert (found.reason, found.severity) == (Reason.NOT_WATCHED, Severity.INFO)
    assert found.message.startswith(f"{UNREAD}{COPY} is")
    assert "\ncertmond_unwatched_references 0\n" in Renderer().metrics(assessment)


def test_a_missing_copy_is_no_finding(tree: Tree) -> None:
    """A node without the copy, and a node without the source, have no finding."""
    assert not tree.findings()
    (tree.root / CONF[1:]).unlink()
    tree.put(COPY, kubeconfig(OLD))
    assert not tree.findings()


def test_a_directory_that_the_sandbox_hides_is_named(tree: Tree) -> None:
    """The finding is info, because the copy need not exist. A node without the source, or on which certmond knows that
    the copy does not exist, has none.
    """

    def faults(table: bytes = MOUNTS, host: str = "/no/root") -> list[str]:
        reader = DocumentReader(Files(str(tree.root)), own_root=False)
        copies = KubeconfigCopies(reader, DERIVED, SPECS, parse_mounts(table), host)
        return [f"{fault.reason} {fault.detail}" for each in copies.observations() for fault in each.faults]

    assert faults() == [f"not_watched {UNREAD}the sandbox of this process hides /root"]
    assert faults(MOUNTS + b"43 40 8:1 /root/.kube /root/.kube ro - ext4 /dev/sda1 rw\n") == []
    host = tree.root / "host"
    (host / "root").mkdir(parents=True)
    assert faults(host=str(host)) == []
    (host / "root/.kube").mkdir()
    assert faults(host=str(host)) == []
    (host / "root/.kube/config").touch()
    assert len(faults(host=str(host))) == 1
    (tree.root / CONF[1:]).unlink()
    assert faults() == []


@pytest.mark.parametrize(
    ("files", "absent"),
    [
        ([], True),
        (["root/"], True),
        (["root/.kube/"], True),
        (["root/.kube/config"], False),
        (["root/.kube@elsewhere"], False),
        (["root"], False),
        (None, False),
    ],
    ids=["no directory", "no .kube", "no file", "a file", "a symlink", "not a directory", "unreadable"],
)
def test_a_file_outside_the_sandbox_is_absent_only_if_certmond_knows_it(
    tmp_path: Path, files: list[str] | None, absent: bool
) -> None:
    """certmond omits the finding only if the file does not exist on the host. A symlink, and a root directory that
    certmond may not read, prove nothing.
    """
    host = tmp_path / "host"
    if files is not None:
        host.mkdir()
    for name in files or ():
        link, _, target = name.partition("@")
        place = host / link.rstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if target:
            place.symlink_to(target)
        elif name.endswith("/"):
            place.mkdir(parents=True)
        else:
            place.touch()
    assert is_known_absent("/root/.kube/config", str(host)) == absent


MOUNTS = b"""\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
40 22 0:25 /systemd/inaccessible/dir /root ro - tmpfs tmpfs rw
41 22 0:25 / /home ro,nodev - tmpfs tmpfs rw
42 22 0:26 / /tmp rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "hiding"),
    [("/root/.kube/config", "/root"), ("/home/a/.kube/config", "/home"), ("/tmp/config", None), ("/srv/config", None)],
    ids=["inaccessible", "tmpfs", "own tmpfs", "visible"],
)
def test_systemd_hides_a_directory_by_an_empty_one(path: str, hiding: str | None) -> None:
    """ProtectHome=yes mounts /run/systemd/inaccessible/dir, and ProtectHome=tmpfs a tmpfs that is read-only."""
    assert hiding_directory(path, parse_mounts(MOUNTS)) == hiding


def test_the_last_mount_at_a_point_counts() -> None:
    """A later mount at the same point replaces the one that hides it. Without a mount table, certmond hides nothing."""
    again = MOUNTS + b"44 40 8:2 / /root rw - ext4 /dev/sda2 rw\n"
    assert hiding_directory("/root/.kube/config", parse_mounts(again)) is None
    assert hiding_directory("/root/.kube/config", ()) is None
    assert hiding_directory("/root/.kube/config", own_mounts()) is None


def rotating(place: Path, write: str) -> tuple[RotatingNode, Path]:
    """Return a node with a CA to rotate, and its current copy of the kubeconfig."""
    node, copy = RotatingNode(place / "node"), place / "copy.conf"
    copy.write_bytes(node.read("user.conf"))
    copy.chmod(0o600)
    derived = {"name": "copy", "kind": "kubeconfig", "source": "user.conf", "path": str(copy), "write": write}
    node.configure(derived=[derived])
    node.step()
    return node, copy


@pytest.mark.long
@pytest.mark.parametrize("write", ["never", "existing"])
def test_each_phase_of_a_rotation_reports_a_copy_that_does_not_follow(quick: Path, write: str) -> None:
    """In `trust`, `issue` and `distrust`, and after the rotation, `stale_copy` names a copy that certmond does not
    write. A copy with `write: existing` follows each phase, and has no finding.
    """
    node, copy = rotating(quick, write)
    node.begin(root_ca())
    found = []
    for phase in (Phase.TRUST, Phase.ISSUE, Phase.DISTRUST):
        walk_into(node, phase, reached=True)
        found.append("stale_copy" in node.findings())
    node.walk()
    assert [*found, "stale_copy" in node.findings()] == [write == "never"] * 4
    assert (copy.read_bytes() == node.read("user.conf")) is (write == "existing")


@pytest.mark.long
def test_a_rotation_at_once_reports_a_copy(quick: Path) -> None:
    """After a rotation at once, the copy trusts only the old CA. certmond does not replace it, and `stale_copy` has the
    command.
    """
    node, copy = rotating(quick, "existing")
    before = copy.read_bytes()
    node.begin(root_ca(), Mode.REPLACE)
    node.walk()
    assert copy.read_bytes() == before
    assert node.findings()["stale_copy"].endswith(
        f"the copy trusts other CA certificates; run: cp {node.files}/user.conf {copy}"
    )
