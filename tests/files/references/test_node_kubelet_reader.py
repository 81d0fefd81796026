"""The kubelet's configuration, as the kubelet merges it from its file, its drop-ins and its flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.catalog_observer import Store
from certmond.files.references.node_kubelet_reader import CONFIG, FLAGS, KubeletConfiguration
from certmond.files.references.unit_files import UnitFiles
from certmond.formats.kubelet.serving import DEFAULT_FILES, KubeletServing
from certmond.pki.catalog.component_certificate_flags import REQUESTED, ReferenceSpec
from certmond.services.endpoints import endpoints_of

DROP_INS = "/etc/kubernetes/kubelet.conf.d"
PAIR, REQUESTED_FILE = {"cert-dir": "/srv"}, {REQUESTED: "/srv/kubelet-server-current.pem"}
KIND = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}


class Tree:
    """Files of a kubelet below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(FLAGS, f'KUBELET_KUBEADM_ARGS="--config-dir={DROP_INS} --v=2"\n')
        (root / DROP_INS[1:]).mkdir(parents=True)

    def write(self, path: str, content: str | Mapping[str, Any]) -> None:
        place = self.root / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content if isinstance(content, str) else yaml.safe_dump({**KIND, **content}))

    def enable(self, name: str, *lines: str) -> None:
        """Write an enabled unit with the lines in [Service]."""
        path = self.root / f"etc/systemd/system/{name}.service"
        wanted = path.parent / "multi-user.target.wants"
        wanted.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["[Service]", *lines, ""]))
        if not (wanted / path.name).is_symlink():
            (wanted / path.name).symlink_to(f"/etc/systemd/system/{path.name}")

    def read(self) -> KubeletConfiguration:
        files = Files(str(self.root))
        reader = DocumentReader(files, own_root=False)
        return KubeletConfiguration(reader, files, UnitFiles(reader, files))

    def fields(self) -> Mapping[str, Any]:
        found = self.read().manifest()
        assert found is not None
        return {name: value for name, value in found.fields.items() if name not in KIND}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_drop_ins_are_merged_in_the_order_of_their_names(tree: Tree) -> None:
    """A later drop-in takes precedence, a mapping is merged, null removes a field, and a list is replaced."""
    x509 = {"x509": {"clientCAFile": "/a.crt"}, "anonymous": {"enabled": False}}
    tree.write(CONFIG, {"authentication": x509, "port": 1, "clusterDNS": ["a"], "tlsCertFile": "/t.crt"})
    tree.write(f"{DROP_INS}/20-b.conf", {"authentication": {"x509": {"clientCAFile": "/c.crt"}}, "tlsCertFile": None})
    tree.write(f"{DROP_INS}/10-a.conf", {"authentication": {"x509": {"clientCAFile": "/b.crt"}}, "clusterDNS": ["b"]})
    tree.write(f"{DROP_INS}/30-c.yaml", {"port": 2})
    assert tree.fields() == {
        "authentication": {"x509": {"clientCAFile": "/c.crt"}, "anonymous": {"enabled": False}},
        "port": 1,
        "clusterDNS": ["b"],
    }


def test_drop_ins_are_in_subdirectories_too(tree: Tree) -> None:
    """The kubelet walks the directory in lexical order and enters directories, but no symlink to a directory."""
    tree.write(CONFIG, {"port": 1})
    tree.write(f"{DROP_INS}/10/a.conf", {"port": 2, "healthzPort": 3})
    tree.write(f"{DROP_INS}/20.conf", {"port": 4})
    tree.write("/elsewhere/a.conf", {"port": 5})
    (tree.root / DROP_INS[1:] / "30").symlink_to("/elsewhere")
    assert tree.fields() == {"port": 4, "healthzPort": 3}


def test_a_relative_path_begins_at_its_file_only_in_the_main_file(tree: Tree) -> None:
    """The kubelet resolves relative paths of the main file, but not those of drop-ins, and its unit works in /."""
    tree.write(CONFIG, {"tlsCertFile": "pki/t.crt", "tlsPrivateKeyFile": "pki/t.key"})
    tree.write(f"{DROP_INS}/a.conf", {"tlsPrivateKeyFile": "pki/d.key"})
    assert tree.fields() == {"tlsCertFile": "/var/lib/kubelet/pki/t.crt", "tlsPrivateKeyFile": "/pki/d.key"}


def test_a_drop_in_of_another_kind_is_a_fault(tree: Tree) -> None:
    """certmond omits a drop-in with which the kubelet does not start, and reports the drop-in."""
    tree.write(CONFIG, {"port": 1})
    tree.write(f"{DROP_INS}/a.conf", "port: 2\n")
    read = tree.read()
    manifest = read.manifest()
    assert manifest is not None
    assert manifest.fields["port"] == 1
    assert [each.file for each in read.unread_files()] == [f"{DROP_INS}/a.conf"]
    (seen,) = Store((), str(tree.root), references=True).observe().observations
    assert not seen.is_watched
    assert f"{DROP_INS}/a.conf" in seen.faults[0].detail


def unread(tree: Tree) -> dict[str, str]:
    """Return the facts about the files that certmond does not watch, by file."""
    seen = Store((), str(tree.root), references=True).observe().observations
    assert not any(each.is_watched for each in seen)
    return {each.path: each.faults[0].detail for each in seen}


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("a: [", "is not YAML in line"),
        ("- a\n", "is not a YAML mapping"),
        ("a: &a [*a]\n", "an alias is inside its anchor"),
        ("#" * 1_100_000, "more than the maximum"),
    ],
    ids=["broken", "list", "alias", "large"],
)
@pytest.mark.parametrize("path", [CONFIG, f"{DROP_INS}/a.conf"])
def test_a_configuration_that_certmond_cannot_read_is_named(tree: Tree, path: str, content: str, fact: str) -> None:
    """The finding not_watched names the configuration file or the drop-in, and the reason for the failed read."""
    tree.write(path, content)
    ((file, detail),) = unread(tree).items()
    assert file == path
    assert fact in detail


@pytest.mark.parametrize("path", [CONFIG, FLAGS, f"{DROP_INS}/a.conf"])
def test_a_fifo_is_not_watched(tree: Tree, path: str) -> None:
    """certmond names a file of the kubelet that is not a regular file."""
    place = tree.root / path[1:]
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(place)
    assert "is a FIFO" in unread(tree)[path]


def test_only_a_configuration_that_a_flag_names_can_be_missing(tree: Tree) -> None:
    """certmond reports a missing configuration file if a flag names this file."""
    assert not unread(tree)
    tree.write("/etc/default/kubelet", "KUBELET_EXTRA_ARGS=--config=/etc/kubernetes/kubelet-config.yaml\n")
    (file,) = unread(tree)
    assert file == "/etc/kubernetes/kubelet-config.yaml"


def test_an_environment_file_that_the_enabled_unit_does_not_use_is_no_finding(tree: Tree) -> None:
    """If a unit of the kubelet is enabled, only the environment files of this unit count."""
    tree.write("/etc/default/kubelet", "#" * 1_100_000)
    assert [*unread(tree)] == ["/etc/default/kubelet"]
    enabled = "/etc/systemd/system/multi-user.target.wants/kubelet.service"
    tree.write("/etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet\n")
    (tree.root / enabled[1:]).parent.mkdir(parents=True)
    (tree.root / enabled[1:]).symlink_to("/etc/systemd/system/kubelet.service")
    assert not unread(tree)


def test_the_file_of_the_flag_config_is_read(tree: Tree) -> None:
    """`--config` in the environment file of the unit replaces the usual path, and the last file takes precedence."""
    tree.write(CONFIG, {"port": 1})
    tree.write("/etc/kubernetes/kubelet-config.yaml", {"port": 2})
    tree.write("/etc/default/kubelet", "KUBELET_EXTRA_ARGS=--config=/etc/kubernetes/kubelet-config.yaml\n")
    assert tree.fields()["port"] == 2


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("manifests", "/var/lib/kubelet/manifests/p.yaml"),
        ("../../../srv/p", "/srv/p/p.yaml"),
        ("/srv/p.yaml", "/srv/p.yaml"),
    ],
)
def test_the_path_of_static_pods_can_be_relative_or_a_file(tree: Tree, given: str, place: str) -> None:
    """A relative `staticPodPath` begins at the configuration file, and a path of one manifest is accepted."""
    container = {"name": "a", "command": ["kube-scheduler", "--client-ca-file=/etc/none.crt"]}
    tree.write(CONFIG, {"staticPodPath": given})
    tree.write(place, yaml.safe_dump({"kind": "Pod", "spec": {"containers": [container]}}))
    (seen,) = Store((), str(tree.root), references=True).observe().observations
    assert isinstance(seen.spec, ReferenceSpec)
    assert seen.spec.named_by == f"--client-ca-file in {place}"


def test_a_flag_takes_precedence_over_a_field(tree: Tree) -> None:
    """The kubelet parses its flags again after the configuration."""
    tree.write(CONFIG, {"tlsCertFile": "/f.crt", "authentication": {"x509": {"clientCAFile": "/ca.crt"}}})
    tree.write("/etc/sysconfig/kubelet", "KUBELET_EXTRA_ARGS=--tls-cert-file=/flag.crt\n")
    sources = {each.file: each.container for each in tree.read().sources()}
    assert sources["/etc/sysconfig/kubelet"].values("tls-cert-file") == ["/flag.crt"]
    assert not sources[CONFIG].values("tlsCertFile")
    assert sources[CONFIG].values("clientCAFile") == ["/ca.crt"]


def test_unchanged_files_give_the_same_object(tree: Tree) -> None:
    """The merge happens again only after one of the files has changed."""
    tree.write(CONFIG, {"port": 1})
    tree.write(f"{DROP_INS}/a.conf", {"port": 2})
    read = tree.read()
    assert read.manifest() is read.manifest()


def test_a_removed_drop_in_has_no_fault(tree: Tree) -> None:
    """The fault of a drop-in ends when an operator removes the file."""
    tree.write(CONFIG, {"port": 1})
    tree.write(f"{DROP_INS}/a.conf", "port: 2\n")
    store = Store((), str(tree.root), references=True)
    assert len(store.observe().observations) == 1
    (tree.root / f"{DROP_INS}/a.conf"[1:]).unlink()
    assert not store.observe().observations


def test_the_listener_uses_the_certificate_of_a_drop_in(tree: Tree) -> None:
    """`serverTLSBootstrap` in a drop-in makes certmond expect the rotated certificate on the kubelet's port."""
    tree.write(CONFIG, {"port": 10250})
    tree.write(f"{DROP_INS}/a.conf", {"serverTLSBootstrap": True})
    store = Store((), str(tree.root))
    store.observe()
    ((component, path),) = endpoints_of(store.components()).values()
    assert (component, path) == ("kubelet", "/var/lib/kubelet/pki/kubelet-server-current.pem")


def test_the_enabled_unit_decides_the_flags_of_the_kubelet(tree: Tree) -> None:
    """If the enabled unit names an environment file, certmond does not read the environment files of kubeadm."""
    tree.write("/etc/kubernetes/kubelet.env", 'KUBELET_ARGS="--config=/etc/kubernetes/kubelet-config.yaml \\\n--v=1"\n')
    unit = "[Service]\nEnvironmentFile=-/etc/kubernetes/kubelet.env\nExecStart=/usr/bin/kubelet $KUBELET_ARGS\n"
    tree.write("/etc/systemd/system/kubelet.service", unit)
    tree.write("/etc/kubernetes/kubelet-config.yaml", {"port": 3})
    assert tree.read().flags()["config-dir"] == (DROP_INS, FLAGS)
    enabled = tree.root / "etc/systemd/system/multi-user.target.wants"
    enabled.mkdir()
    (enabled / "kubelet.service").symlink_to("/etc/systemd/system/kubelet.service")
    place = "/etc/kubernetes/kubelet.env"
    assert tree.read().flags() == {"config": ("/etc/kubernetes/kubelet-config.yaml", place), "v": ("1", place)}
    assert tree.fields() == {"port": 3}


@pytest.mark.parametrize(
    ("flags", "fields", "used"),
    [
        ("", {}, PAIR),
        ("", {"tlsCertFile": "/a.crt"}, {}),
        ("", {"serverTLSBootstrap": True}, REQUESTED_FILE),
        ("", {"serverTLSBootstrap": True, "tlsCertFile": "/a.crt"}, {}),
        ("--rotate-server-certificates", {}, REQUESTED_FILE),
        ("--rotate-server-certificates=1", {}, REQUESTED_FILE),
        ("--rotate-server-certificates=false", {}, PAIR),
        ("--tls-cert-file= --tls-private-key-file=", {"tlsCertFile": "/a.crt", "tlsPrivateKeyFile": "/a.key"}, PAIR),
        ("--rotate-server-certificates=false", {"serverTLSBootstrap": True}, PAIR),
        ("--cert-dir=//srv/.", {}, PAIR),
        ("--cert-dir=//srv/.", {"serverTLSBootstrap": True}, REQUESTED_FILE),
    ],
)
def test_the_certificate_in_the_directory_is_the_one_that_the_kubelet_serves(
    tree: Tree, flags: str, fields: Mapping[str, Any], used: dict[str, str]
) -> None:
    """The kubelet uses kubelet.crt in --cert-dir only if it has no serving certificate of another kind."""
    tree.write(FLAGS, f'KUBELET_KUBEADM_ARGS="--cert-dir=/srv {flags}"\n')
    tree.write(CONFIG, fields)
    found = dict(each for source in tree.read().sources() for each in source.container.flags)
    assert {name: found[name] for name in (*PAIR, *REQUESTED_FILE) if name in found} == used


def test_an_empty_flag_overrides_a_field(tree: Tree) -> None:
    """The kubelet then uses no certificate and no CA of its configuration."""
    tree.write(FLAGS, 'KUBELET_KUBEADM_ARGS="--tls-cert-file= --client-ca-file="')
    tree.write(CONFIG, {"tlsCertFile": "/a.crt", "authentication": {"x509": {"clientCAFile": "/b.crt"}}})
    flags = [name for source in tree.read().sources() for name, value in source.container.flags if value]
    assert not {"tlsCertFile", "clientCAFile"} & {*flags}
    serving = tree.read().serving()
    assert serving
    assert serving.path == "/var/lib/kubelet/pki/kubelet.crt"


def test_a_requested_certificate_beside_that_of_an_operator_counts_when_it_exists(tree: Tree) -> None:
    """The kubelet serves the requested certificate to clients that name the server."""
    tree.write(FLAGS, 'KUBELET_KUBEADM_ARGS="--cert-dir=/srv"\n')
    tree.write(CONFIG, {"serverTLSBootstrap": True, "tlsCertFile": "/a.crt"})
    tree.write(REQUESTED_FILE[REQUESTED], "x")
    assert [*REQUESTED_FILE.items()] in [[*source.container.flags] for source in tree.read().sources()]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_unit_that_only_mentions_the_kubelet_is_not_the_kubelet(tree: Tree, *, enabled: bool) -> None:
    """The flags are those of the unit that runs the kubelet, or of the environment files without such a unit."""
    units = {"kubelet-monitor": "/opt/monitor.sh kubelet", **({"kubelet": "/usr/bin/kubelet --v=3"} if enabled else {})}
    for name, command in units.items():
        tree.enable(name, f"ExecStart={command}")
    flags = {name: value for name, (value, _) in tree.read().flags().items()}
    assert flags == ({"v": "3"} if enabled else {"config-dir": DROP_INS, "v": "2"})


@pytest.mark.parametrize("others", [{}, {"my-kubelet": "/opt/kubelet --config=/etc/my.yaml"}])
def test_a_unit_that_runs_the_kubelet_for_its_version_is_not_the_kubelet(tree: Tree, others: dict[str, str]) -> None:
    """The kubelet is a unit with --config or --kubeconfig, or else the unit kubelet.service."""
    units = {"a-kubelet": "/usr/bin/kubelet --version", "kubelet": "/usr/bin/kubelet --v=3", **others}
    for name, command in units.items():
        tree.enable(name, f"ExecStart={command}")
    flags = {name: value for name, (value, _) in tree.read().flags().items()}
    assert flags == ({"config": "/etc/my.yaml"} if others else {"v": "3"})


def test_the_served_file_of_a_kubelet_is_a_path_on_the_host(tree: Tree) -> None:
    """The unit can mount the directories of the kubelet from another place, or hide them. Then the kubelet serves no
    file in its default directory on the host.
    """
    tree.write("/etc/own.yaml", {"tlsCertFile": "/run/kubelet/own.crt"})
    command = "ExecStart=/usr/bin/kubelet --config=/etc/own.yaml"
    tree.enable("kubelet", "BindPaths=/srv/tls:/run/kubelet", "BindPaths=/srv/pki:/var/lib/kubelet/pki", command)
    unused = frozenset({"/srv/pki/kubelet.crt", "/srv/pki/kubelet-server-current.pem"})
    assert tree.read().serving() == KubeletServing("/srv/tls/own.crt", False, unused | DEFAULT_FILES)
    tree.enable("kubelet", "TemporaryFileSystem=/run/kubelet /var/lib/kubelet", command)
    assert tree.read().serving() == KubeletServing("", False, DEFAULT_FILES)


@pytest.mark.parametrize(
    ("flags", "files", "served"),
    [
        ("--tls-cert-file=/etc/own.crt", {}, "/etc/own.crt"),
        ("--v=2", {}, "/var/lib/kubelet/pki/kubelet.crt"),
        ("--v=2", {CONFIG: {"tlsCertFile": "/etc/own.crt"}}, "/etc/own.crt"),
        ("--tls-cert-file=/etc/own.crt --config=/etc/none.yaml", {}, None),
        ("--tls-cert-file=/etc/own.crt --config-dir=/etc/none", {}, None),
        ("", {}, None),
    ],
)
def test_a_kubelet_can_have_only_flags(
    tree: Tree, flags: str, files: Mapping[str, Mapping[str, Any]], served: str | None
) -> None:
    """Without a configuration file, the flags decide which file the kubelet serves. The file is unknown if certmond
    cannot read the configuration file.
    """
    tree.write(FLAGS, f'KUBELET_KUBEADM_ARGS="{flags}"\n')
    for path, fields in files.items():
        tree.write(path, fields)
    found = tree.read().serving()
    assert (found and found.path) == served
