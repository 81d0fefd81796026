"""The files that the flags of one kubelet name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.flag_source import Source
from certmond.files.references.merged_kubelet_configuration import KubeletFiles
from certmond.formats.manifest import Container
from certmond.pki.catalog.component_certificate_flags import KUBELET
from tests.distributions import Tree

UNIT, DROP_INS = "/etc/systemd/system/kubelet.service", "/etc/kubelet.d"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.write(UNIT, "")
    return tree


def drop_in(tree: Tree, path: str, mode: int = 0o644, /, **fields: object) -> None:
    tree.write(path, yaml.safe_dump({"kind": "KubeletConfiguration", **fields}), mode)


def kubelet(tree: Tree, **flags: str) -> KubeletFiles:
    files = Files(str(tree.root))
    container = Container(KUBELET, tuple((name.replace("_", "-"), value) for name, value in flags.items()), {})
    return KubeletFiles(DocumentReader(files, own_root=False), files, Source(KUBELET, container, UNIT, in_pod=False))


def facts(found: KubeletFiles) -> list[str]:
    return [each.fact for each in found.unread_files(found.merged())]


def test_a_drop_in_that_another_user_can_change_is_left_out(tree: Tree) -> None:
    """Such a drop-in could remove a field with a file that certmond watches."""
    drop_in(tree, f"{DROP_INS}/1.conf", tlsCertFile="/a.crt")
    drop_in(tree, f"{DROP_INS}/2.conf", 0o646, tlsCertFile=None)
    found = kubelet(tree, config_dir=DROP_INS)
    fields = found.fields(found.merged())
    assert fields is not None
    assert fields.container.values("tlsCertFile") == ["/a.crt"]
    assert fields.named_by("tlsCertFile") == f"tlsCertFile in {DROP_INS}/1.conf"
    assert facts(found) == [f"{DROP_INS}/2.conf can be changed by other users"]


def test_a_large_directory_is_read_in_part(tree: Tree) -> None:
    """The kubelet walks the whole directory, and certmond reports that it does not."""
    for number in range(1100):
        tree.write(f"{DROP_INS}/{number // 100:02}/{number}", "")
    drop_in(tree, f"{DROP_INS}/00/a.conf", port=1)
    drop_in(tree, f"{DROP_INS}/99/a.conf", port=2)
    found = kubelet(tree, config_dir=DROP_INS)
    manifest = found.merged().manifest
    assert manifest is not None
    assert manifest.fields["port"] == 1
    assert facts(found) == [
        f"{DROP_INS} contains more than 1024 files and directories, and certmond ignores the others"
    ]


@pytest.mark.parametrize("value", ["/a\0b", "/a\nb", "/" + "x" * 4095])
@pytest.mark.parametrize("flag", ["config", "config_dir", "pod_manifest_path"])
def test_a_text_that_is_no_path_is_named(tree: Tree, flag: str, value: str) -> None:
    """A flag can have any text, and the fact has a part of this text."""
    (fact,) = facts(kubelet(tree, **{flag: value}))
    assert fact == f"{value[:200]} is not the path of a file on this host"


def test_a_field_with_a_text_that_is_no_path_is_named(tree: Tree) -> None:
    """certmond names `staticPodPath` with its file."""
    drop_in(tree, "/etc/kubelet.yaml", staticPodPath="/a\0b")
    found = kubelet(tree, config="/etc/kubelet.yaml")
    (unread,) = found.unread_files(found.merged())
    assert (unread.named_by, unread.file) == ("staticPodPath in /etc/kubelet.yaml", "/etc/kubelet.yaml")
    assert unread.fact.endswith("is not the path of a file on this host")


@pytest.mark.parametrize(
    ("path", "fact"), [("/none", ["/none does not exist"]), ("/a.txt", []), ("/etc/kubelet.d", [])]
)
def test_a_directory_of_drop_ins_must_exist(tree: Tree, path: str, fact: list[str]) -> None:
    """The kubelet does not start without this directory, and ignores a file that has not the suffix of a drop-in."""
    tree.write("/a.txt", "x")
    tree.write(f"{DROP_INS}/a.txt", "x")
    assert facts(kubelet(tree, config_dir=path)) == fact


def test_a_directory_in_the_place_of_the_configuration_is_named(tree: Tree) -> None:
    """certmond cannot read a directory as a file."""
    tree.write("/etc/x/y", "")
    (fact,) = facts(kubelet(tree, config="/etc/x"))
    assert fact == "/etc/x is a directory, not a regular file"


def test_a_flag_for_static_pods_takes_precedence(tree: Tree) -> None:
    """A relative path of the flag starts at /, and a relative path of the field at the configuration file."""
    drop_in(tree, "/etc/kubelet.yaml", staticPodPath="../pods")
    found = kubelet(tree, config="etc/kubelet.yaml")
    assert found.static_pods(found.merged()).path == "/pods"
    flagged = kubelet(tree, config="etc/kubelet.yaml", pod_manifest_path="srv/./pods")
    assert flagged.static_pods(flagged.merged()).path == "/srv/pods"
