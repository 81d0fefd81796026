"""Mistakes of a new operator: the command that certmond prints is complete, and removes the problem."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from certmond.cli.main import cli
from certmond.state.archive import Archive
from tests.node import PKI, Node

RUN = re.compile(r": (certmond --root .+?|(?:ch(?:mod|own)|install|test) .+?)(?: \[\w+\]|$)", re.MULTILINE)


def certmond(node: Node, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--root", str(node.root)])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node of kubeadm whose certificates are valid now."""
    node = Node(tmp_path_factory.mktemp("template"))
    assert certmond(node, "renew", "--all").exit_code == 0
    shutil.rmtree(node.path("var/lib/certmond"))
    return node


@pytest.fixture
def node(template: Node, tmp_path: Path) -> Node:
    copy = Node.__new__(Node)  # without the tree that it would unpack
    copy.root = Path(shutil.copytree(template.root, tmp_path / "node", symlinks=True))
    return copy


def text(result: Result) -> str:
    return f"{result.output}\n{result.exception}"


def run_printed(result: Result) -> None:
    """Run the first command in the output, which must succeed."""
    printed = RUN.search(text(result))
    assert printed, text(result)
    program, *arguments = shlex.split(printed[1])
    if program == "certmond":
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, text(done)
    else:
        subprocess.run(["sh", "-c", printed[1]], check=True)


def open_key(node: Node) -> None:
    node.path(f"{PKI}/apiserver.key").chmod(0o644)


def no_key(node: Node) -> None:
    node.path(f"{PKI}/apiserver.key").unlink()


def key_of_another(node: Node) -> None:
    shutil.copyfile(node.path(f"{PKI}/front-proxy-client.key"), node.path(f"{PKI}/apiserver.key"))


def cut_off(node: Node) -> None:
    node.write(f"{PKI}/apiserver.crt", node.read(f"{PKI}/apiserver.crt")[:600])


def cut_off_after_a_renewal(node: Node) -> None:
    assert certmond(node, "renew", "front-proxy-client").exit_code == 0
    node.write(f"{PKI}/front-proxy-client.crt", node.read(f"{PKI}/front-proxy-client.crt")[:600])


def no_ca(node: Node) -> None:
    node.path(f"{PKI}/ca.crt").unlink()


def damaged_ca(node: Node) -> None:
    node.write(f"{PKI}/ca.crt", node.read(f"{PKI}/ca.crt")[:300])


def no_ca_of_the_kubeconfigs(node: Node) -> None:
    """An archived copy of the CA of etcd exists, and no kubeconfig embeds this CA."""
    ca = node.path(f"{PKI}/etcd/ca.crt")
    Archive(node.path("var/lib/certmond")).store("etcd-ca", {f"/{PKI}/etcd/ca.crt": ca}, datetime.now(UTC), {})
    ca.unlink()


def expired(node: Node) -> None:
    node.reissue(f"{PKI}/apiserver", end=node.certificate(f"{PKI}/apiserver.crt").not_valid_before_utc)


@pytest.mark.long
@pytest.mark.parametrize(
    "mistake",
    [
        open_key, no_key, key_of_another, cut_off, cut_off_after_a_renewal, expired, no_ca, damaged_ca,
        no_ca_of_the_kubeconfigs,
    ],
)  # fmt: skip
def test_the_command_of_a_finding_removes_the_finding(node: Node, mistake: Callable[[Node], None]) -> None:
    """After the command in the output of `check`, `check` exits with 0."""
    mistake(node)
    found = certmond(node, "check")
    assert found.exit_code in {1, 2}, text(found)
    run_printed(found)
    assert certmond(node, "check").exit_code == 0


@pytest.mark.long
def test_the_command_for_a_path_with_a_space_is_complete(node: Node) -> None:
    """The command in the finding about a key that other users can read quotes the path of the key."""
    (own := node.path("etc/own pki")).mkdir()
    for suffix, mode in (("crt", 0o644), ("key", 0o644)):
        shutil.copyfile(node.path(f"{PKI}/apiserver.{suffix}"), own / f"api.{suffix}")
        (own / f"api.{suffix}").chmod(mode)
    entry = "{name: own, path: /etc/own pki/api.crt, key: /etc/own pki/api.key, ca: ca}"
    (node.root / "config.yaml").write_text(f"certificates: [{entry}]\n")
    words = ["check", "own", "--config", str(node.root / "config.yaml")]
    run_printed(certmond(node, *words))
    assert certmond(node, *words).exit_code == 0


def test_init_names_the_setting_for_the_certificates_of_another_host(node: Node) -> None:
    """If the certificates are of a node with another name, `init` names the setting `node_name`. With this setting and
    the address of the node, `init` has nothing to do.
    """
    address = "init: {advertise_address: 10.88.0.1}\n"
    (node.root / "config.yaml").write_text(address)
    words = ["init", "--config", str(node.root / "config.yaml")]
    setting = re.search(r"set `(node_name: \S+)` in the configuration", text(certmond(node, *words)))
    assert setting
    (node.root / "config.yaml").write_text(f"{setting[1]}\n{address}")
    assert "nothing to do" in certmond(node, *words).output


@pytest.mark.parametrize("words", ["renew nonsense", "archive restore apiserver", "archive restore nonsense", "status"])
def test_the_command_of_an_error_succeeds(node: Node, words: str) -> None:
    """An error below --root contains a command for the same node, and this command succeeds."""
    failed = certmond(node, *words.split())
    assert failed.exception
    run_printed(failed)


@pytest.mark.parametrize(
    "words",
    ["renew ca", "renew apiserver", "root-ca show", "root-ca export", "root-ca stage --generate", "root-ca rotate"],
)
@pytest.mark.parametrize("damage", [no_ca, damaged_ca])
def test_a_command_without_the_ca_names_the_output_with_the_remedy(
    node: Node, words: str, damage: Callable[[Node], None]
) -> None:
    """A command that needs the CA certificate names `check`, whose output contains the command that restores it."""
    damage(node)
    failed = certmond(node, *words.split())
    assert text(failed).endswith(
        f"restore the CA first, with the command in the output of: certmond --root {node.root} check"
    )


PATH = re.compile(r"(?<![\w.:-])/\S*/[^\s,;]+")


@pytest.mark.long
@pytest.mark.parametrize("words", ["root-ca rotate --dry-run", "root-ca rotate --dry-run -o json", "archive list"])
def test_each_path_below_root_is_the_real_path(node: Node, words: str) -> None:
    """The preview of a rotation and the list of the archive contain the real paths of the files below --root."""
    assert certmond(node, "renew", "apiserver").exit_code == 0
    assert certmond(node, "root-ca", "stage", "--generate").exit_code == 0
    printed = certmond(node, *words.split())
    assert printed.exit_code == 0, text(printed)
    found = PATH.findall(printed.stdout)
    assert found
    assert [path for path in found if not path.startswith(f"{node.root}/")] == []
