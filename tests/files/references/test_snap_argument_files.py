"""The flags of components in the argument files of MicroK8s and Canonical Kubernetes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Reason
from tests.builders import make_ca, make_leaf
from tests.distributions import Tree
from tests.node import NOW

DATA = "/var/snap/microk8s/current"
ARGS = f"{DATA}/args"
K8S = "/var/snap/k8s/common/args"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A CA in the directory of MicroK8s."""
    tree = Tree(tmp_path)
    tree.write(f"{DATA}/certs/oidc.crt", make_ca("oidc", not_after=NOW + timedelta(days=5)).pem)
    return tree


def named(tree: Tree) -> dict[str, Observation]:
    observations = Store((), str(tree.root), references=True).observe().observations
    return {each.name: each for each in observations}


def unwatched(tree: Tree) -> list[str]:
    found = assess(Store((), str(tree.root), references=True).observe(), NOW).loose_findings
    return [each.message for each in found if each.reason is Reason.NOT_WATCHED]


@pytest.mark.parametrize("name", ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"])
def test_the_flags_of_a_component_are_followed(tree: Tree, name: str) -> None:
    """certmond replaces the variables of the snap, and names the argument file."""
    tree.write(f"{ARGS}/{name}", "# a comment\n--client-ca-file='${SNAP_DATA}/certs/oidc.crt'\n--v=2\n")
    seen = named(tree)[f"{name}.client-ca-file"]
    assert (seen.path, seen.named_by) == (f"{DATA}/certs/oidc.crt", f"--client-ca-file in {ARGS}/{name}")


def test_the_flags_of_canonical_kubernetes_are_followed(tree: Tree) -> None:
    """The snap k8s has its argument files in the common directory of its revisions."""
    tree.write(f"{K8S}/kube-apiserver", f'--oidc-ca-file="{DATA}/certs/oidc.crt"\n')
    tree.write(f"{K8S}/containerd", f"--other={DATA}/certs/oidc.crt\n")
    assert [*named(tree)] == ["kube-apiserver.oidc-ca-file"]


def test_a_new_argument_file_is_followed(tree: Tree) -> None:
    """certmond follows an argument file that appears, at the next pass."""
    store = Store((), str(tree.root), references=True)
    tree.write(f"{ARGS}/kubelite", "--start-control-plane=true\n")
    assert not store.observe().observations
    tree.write(f"{ARGS}/kube-apiserver", f"--oidc-ca-file {DATA}/certs/oidc.crt\n")
    (seen,) = store.observe(frozenset({str(tree.at(f"{ARGS}/kube-apiserver"))})).observations
    assert seen.name == "kube-apiserver.oidc-ca-file"


def test_a_worker_runs_only_the_kubelet_and_the_proxy(tree: Tree) -> None:
    """The argument files of the control plane stay on a worker, and certmond ignores them."""
    for name in ("kube-apiserver", "kubelet"):
        tree.write(f"{ARGS}/{name}", f"--client-ca-file={DATA}/certs/oidc.crt\n--other-ca={DATA}/{name}.crt\n")
    tree.write(f"{ARGS}/kubelite", "--start-control-plane=false\n")
    assert {*named(tree)} == {"kubelet.client-ca-file", "kubelet.other-ca"}


def test_etcd_that_does_not_start_is_ignored(tree: Tree) -> None:
    """MicroK8s with dqlite keeps the argument file of etcd, and has the lock no-etcd."""
    tree.write(f"{ARGS}/etcd", f"--trusted-ca-file={DATA}/certs/oidc.crt\n")
    assert [*named(tree)] == ["etcd.trusted-ca-file"]
    tree.write(f"{DATA}/var/lock/no-etcd", "")
    assert not named(tree)


def change_owner(tree: Tree, path: str, mode: int, group: int) -> None:
    os.chown(tree.at(path), -1, group)
    tree.at(path).chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the group of a file")
def test_the_group_of_microk8s_may_write_the_argument_files(tree: Tree) -> None:
    """The configure hook of MicroK8s gives its group the mode rw for all argument files, and they are followed."""
    tree.write(f"{ARGS}/kube-apiserver", f"--admission-control-config-file={ARGS}/admission.yaml\n")
    plugin = f"plugins: [{{name: A, configuration: {{kubeConfigFile: {ARGS}/none.conf}}}}]"
    tree.write(f"{ARGS}/admission.yaml", f"kind: AdmissionConfiguration\n{plugin}\n")
    for name in ("", "/kube-apiserver", "/admission.yaml"):
        change_owner(tree, f"{ARGS}{name}", 0o660 if name else 0o770, 1234)
    (seen,) = named(tree).values()
    assert [fault.reason for fault in seen.faults] == [Reason.MISSING]
    assert not unwatched(tree)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the group of a file")
@pytest.mark.parametrize("group", [1234, 4321])
def test_the_group_of_microk8s_may_write_the_configuration_of_the_kubelet(tree: Tree, group: int) -> None:
    """This group can already change the flag that names the file. The members of another group cannot."""
    tree.write(f"{ARGS}/kubelet", f"--config={ARGS}/kubelet.yaml\n--config-dir={ARGS}/kubelet.d\n")
    tree.write(f"{ARGS}/kubelet.yaml", f"tlsCertFile: {DATA}/certs/oidc.crt\n")
    clients = f"authentication: {{x509: {{clientCAFile: {DATA}/certs/oidc.crt}}}}"
    tree.write(f"{ARGS}/kubelet.d/a.conf", f"kind: KubeletConfiguration\n{clients}\n")
    for name in ("", "/kubelet", "/kubelet.d"):
        change_owner(tree, f"{ARGS}{name}", 0o660 if name == "/kubelet" else 0o770, 1234)
    for name in ("/kubelet.yaml", "/kubelet.d/a.conf"):
        change_owner(tree, f"{ARGS}{name}", 0o660, group)
    seen = named(tree).values()
    assert any(each.is_watched for each in seen) is (group == 1234)
    assert len(unwatched(tree)) == (0 if group == 1234 else 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a file")
@pytest.mark.parametrize(
    ("path", "mode", "user", "group"),
    [
        (f"{ARGS}/kube-apiserver", 0o660, 0, 4321),
        (f"{ARGS}/kube-apiserver", 0o662, 0, 1234),
        (f"{ARGS}/kube-apiserver", 0o660, 4321, 1234),
        (DATA, 0o770, 0, 4321),
        (DATA, 0o777, 0, 1234),
    ],
)
def test_other_users_never_decide_what_certmond_reads(tree: Tree, path: str, mode: int, user: int, group: int) -> None:
    """An argument file that another group or user can change is not followed, but named."""
    tree.write(f"{ARGS}/kube-apiserver", f"--oidc-ca-file={DATA}/certs/oidc.crt\n")
    change_owner(tree, ARGS, 0o770, 1234)
    change_owner(tree, f"{ARGS}/kube-apiserver", 0o660, 1234)
    os.chown(tree.at(path), user, group)
    tree.at(path).chmod(mode)
    assert not any(each.is_watched for each in named(tree).values())
    (message,) = unwatched(tree)
    assert f"{ARGS}/kube-apiserver can be changed by" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a symlink")
def test_a_symlink_of_another_user_is_not_followed_to_an_argument_file(tree: Tree) -> None:
    """The owner of the symlink decides which file certmond would read."""
    tree.write("/srv/arguments", f"--oidc-ca-file={DATA}/certs/oidc.crt\n")
    tree.at(ARGS).mkdir()
    tree.at(f"{ARGS}/kube-apiserver").symlink_to("/srv/arguments")
    os.lchown(tree.at(f"{ARGS}/kube-apiserver"), 4321, 0)
    tree.root.chmod(0o755)  # the user can read the target
    assert not any(each.is_watched for each in named(tree).values())
    (message,) = unwatched(tree)
    assert f"{ARGS}/kube-apiserver can be changed by user 4321" in message


def test_an_argument_file_that_cannot_be_read_is_named(tree: Tree) -> None:
    """A directory in the place of the file is a finding."""
    tree.write(f"{ARGS}/kube-apiserver/x", "")
    (message,) = unwatched(tree)
    assert f"any flag in {ARGS}/kube-apiserver: {ARGS}/kube-apiserver is a directory" in message


@pytest.mark.parametrize(("name", "flag"), [("flanneld", "etcd-certfile"), ("cluster-agent", "certfile")])
def test_the_flags_of_other_programs_of_microk8s_are_followed(tree: Tree, name: str, flag: str) -> None:
    """certmond follows the certificates of flanneld and of the cluster agent, also on a worker, while they can run."""
    tree.write(f"{ARGS}/kubelite", "--start-control-plane=false\n")
    tree.write(f"{ARGS}/{name}", f'--{flag} "${{SNAP_DATA}}/certs/oidc.crt"\n--v=2\n')
    seen = named(tree)[f"{name}.{flag}"]
    assert (seen.path, seen.is_watched) == (f"{DATA}/certs/oidc.crt", True)
    tree.write(f"{DATA}/var/lock/no-{name}", "")
    assert bool(named(tree)) == (name != "flanneld")


@pytest.mark.parametrize(("directory", "is_shared"), [(f"{DATA}/certs", True), ("/etc/own", False)])
def test_the_group_of_microk8s_can_write_its_certificates(tree: Tree, directory: str, *, is_shared: bool) -> None:
    """Files beside the argument files have the modes of MicroK8s, so `too_open` applies only to other files."""
    ca = make_ca("etcd", not_after=NOW + timedelta(days=300), not_before=NOW - timedelta(days=1))
    leaf = make_leaf(ca, "client", not_after=NOW + timedelta(days=300), not_before=NOW - timedelta(days=1))
    tree.write(f"{directory}/etcd.crt", leaf.pem, 0o664)
    tree.write(f"{directory}/etcd.key", leaf.key_pem, 0o660)
    tree.write(f"{ARGS}/kube-apiserver", f"--etcd-certfile={directory}/etcd.crt\n--etcd-keyfile={directory}/etcd.key\n")
    (status,) = assess(Store((), str(tree.root), references=True).observe(), NOW).statuses
    assert (Reason.TOO_OPEN in {item.reason for item in status.findings}) is not is_shared
