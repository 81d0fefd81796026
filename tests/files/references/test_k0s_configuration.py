"""The flags of components in the configuration of k0s."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Reason
from tests.builders import make_ca, make_leaf
from tests.distributions import Tree
from tests.node import NOW
from tests.proc_tree import ProcTree

FILE = "/etc/k0s/k0s.yaml"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """The client certificate for an external etcd, and its CA."""
    tree, ca = Tree(tmp_path / "root"), make_ca("etcd", not_after=NOW + timedelta(days=50))
    leaf = make_leaf(ca, extended_usages=["client auth"], not_after=NOW + timedelta(days=50))
    for name, content in {"ca.crt": ca.pem, "client.crt": leaf.pem, "client.key": leaf.key_pem}.items():
        tree.write(f"/etc/etcd/{name}", content, 0o600)
    return tree


def configure(tree: Tree, mode: int = 0o600, **spec: object) -> None:
    tree.write(FILE, yaml.safe_dump({"kind": "ClusterConfig", "spec": spec}), mode)


def store(tree: Tree) -> Store:
    return Store((), str(tree.root), references=True, proc=str(tree.root.with_name("processes")))


def named(tree: Tree) -> dict[str, Observation]:
    return {each.name: each for each in store(tree).observe().observations}


def unwatched(tree: Tree) -> list[str]:
    loose = assess(store(tree).observe(), NOW).loose_findings
    return [each.message for each in loose if each.reason is Reason.NOT_WATCHED]


def test_the_number_of_files_is_limited(tree: Tree) -> None:
    """certmond follows the first files of a large configuration, and reports the number of the others."""
    configure(tree, api={"extraArgs": {f"x{number}": "/etc/etcd/ca.crt" for number in range(1100)}})
    assert "kube-apiserver.x0" in named(tree)
    (message,) = unwatched(tree)
    assert "certmond watches at most 1000 of these files, and ignores 100" in message
    assert FILE in message


def test_the_flags_of_the_configuration_are_followed(tree: Tree) -> None:
    """certmond follows a new file at the next pass, and names it."""
    tree.write("/etc/k0s/other", "")
    watched = store(tree)
    assert not watched.observe().observations
    external = {"caFile": "/etc/etcd/ca.crt", "clientCertFile": "/etc/etcd/client.crt",
                "clientKeyFile": "/etc/etcd/client.key"}  # fmt: skip
    configure(tree, storage={"etcd": {"externalCluster": external}})
    seen = {each.name: each for each in watched.observe(frozenset({str(tree.at(FILE))})).observations}
    assert seen.keys() == {"kube-apiserver.etcd-cafile", "kube-apiserver.etcd-certfile"}
    client = seen["kube-apiserver.etcd-certfile"]
    assert (client.key_path, client.named_by) == ("/etc/etcd/client.key", f"--etcd-certfile in {FILE}")


def test_the_process_of_another_user_does_not_hide_the_file(tree: Tree) -> None:
    """k0s starts the API server as the user kube-apiserver, and root owns the configuration."""
    configure(tree, api={"extraArgs": {"oidc-ca-file": "/etc/etcd/ca.crt"}})
    ProcTree(tree.root.with_name("processes")).add(
        "7", "/var/lib/k0s/bin/kube-apiserver", "--oidc-ca-file=/etc/etcd/ca.crt", user=996
    )
    (seen,) = named(tree).values()
    assert seen.named_by == f"--oidc-ca-file in {FILE}"
    assert seen.is_watched
    assert not unwatched(tree)


def test_a_configuration_that_another_user_can_change_is_not_followed(tree: Tree) -> None:
    """certmond names the flag and the file."""
    configure(tree, 0o622, scheduler={"extraArgs": {"client-ca-file": "/etc/etcd/ca.crt"}})
    (message,) = unwatched(tree)
    assert f"--client-ca-file in {FILE}: {FILE} can be changed by other users" in message


@pytest.mark.parametrize(("path", "fact"), [(FILE, "is not YAML"), (f"{FILE}/x", "is a directory")])
def test_a_configuration_that_cannot_be_read_is_named(tree: Tree, path: str, fact: str) -> None:
    """A broken file is a finding with its path."""
    tree.write(path, "{")
    (message,) = unwatched(tree)
    assert f"any flag in {FILE}: {FILE} {fact}" in message
