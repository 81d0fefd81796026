"""The commands and configuration in the documentation work.

Each command runs in a directory that represents a node, or belongs to a class with the reason why it cannot run. Its
calls of certmond use verbs and options that exist. Each YAML block is parsed by its reader.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from certmond.cli.main import cli
from certmond.config.parser import parse, schema
from certmond.config.source_merger import Source
from certmond.errors import CertmondError, ConfigError
from certmond.expose.http.web_config import WebConfig
from certmond.expose.http.web_config import parse as parse_web
from tests.conftest import real_part
from tests.documents import PAGES, ROOT, Block, blocks, calls, refusal
from tests.rotation_node import root_ca

CANNOT_BE_RUN = {
    r"(?<![-\w])(kubectl|kubeadm|etcdctl) | canary\.json": "asks a cluster",
    r"\b(systemctl|journalctl|systemd-sysusers|timedatectl|chronyc|sysctl)\b": "asks or changes this host's services",
    r"^kops ": "asks a cluster of kOps",
    r"^(ansible-playbook|podman) ": "needs hosts or images, as tests/packaging has",
    r"\bcrictl\b": "asks a container runtime",
    r"\b(getcert|crontab)\b|/cron": "looks at what certmonger or cron has on this host",
    r"\bcertmond (run|serve|status|restart)\b": "needs a daemon or services that run, as tests/daemon/test_loop.py has",
    r"\bcertmond root-ca (rotate(?!.*--(plan|dry-run))|abort)": "waits: tests/controllers/test_rotation.py has it",
    r"\bcertmond root-ca stage new\.crt(?! new)": "needs a node without ca.key: tests/controllers/test_external_ca.py",
    r"\b(curl|ssh|s_client)\b": "asks another process or host",
    r"\b(softhsm2-util|pkcs11-tool)\b|pkcs11:": "asks for a PIN, which tests/signers/test_pkcs11_docs.py types",
    r"^(apt|apt-get|dnf|make|pipx|ln|install|python3 -m venv|/opt/|\.ci/|\.venv/)": "installs, or is what runs this",
    r"\b(gpg|rpmkeys|rpmsign|sha256sum --check)\b|^(rpm |echo 'deb |tar -xf |KEY=)": "needs a release, as "
    "tests/packaging/test_release.py has",
    r"^promtool ": "is Prometheus' own; tests/expose/test_alerts.py runs it",
    r"^k3s |/var/lib/rancher/|\brotate-ca/|\bcertmond root-ca stage$": "needs k3s: "
    "tests/cli/distribution_ca/test_rotate.py",
    r"\bmicrok8s\b": "needs a node of MicroK8s, whose files tests/test_distributions.py has",
    r"\bage -r\b": "is an example for your own program",
}
"""A command that matches is not run, for this reason."""
ALSO_GOOD = {"check": 2, "plan": 2, "verify": 2, "renew": 1, "list": 3}
"""The highest exit code of a successful verb, with or without findings; 0 for verbs that are not listed."""
PLACEHOLDERS = {
    "FILE.crt": "/etc/kubernetes/pki/apiserver.crt",
    "FILE.key": "/etc/kubernetes/pki/apiserver.key",
    "FILE": "/etc/kubernetes/pki/apiserver.crt",
    "NAME": "apiserver",
}
_PLACES = re.compile(r"(?<![\w.$/}])/(etc|root|run|srv|var)(?=/)")
CONFIGURATION = jsonschema.Draft202012Validator(schema())
ONLY_A_CALL = re.compile(r"certmond [^|;&<>()$#]*(#.*)?")
INLINE = re.compile(r"`(certmond [^`…|\[\]]+)`")


def test_every_command_is_looked_at() -> None:
    """A block in which certmond is called is a block of commands, so that nothing escapes these tests."""
    for page in PAGES:
        for block in blocks(page):
            if re.search(r"^\$? ?certmond ", block.text, re.MULTILINE):
                assert block.is_commands, f"{page.name}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_call_is_one_that_certmond_understands(page: Path) -> None:
    """Each call of certmond, in a block, a quoted script or a sentence, has a verb and options that exist."""
    commands = [command for block in blocks(page) if block.is_commands for command in block.commands()]
    spans = [span for span in INLINE.findall(page.read_text()) if len(span.split()) > 1]
    wrong = [(call, why) for text in (*commands, *spans) for call in calls(text) if (why := refusal(call))]
    assert not wrong


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node as `certmond init` makes it, with the files around that the commands mention."""
    root = tmp_path_factory.mktemp("documented")
    configuration = root / "etc/certmond/config.yaml"
    for directory in ("etc/certmond/conf.d", "etc/kubernetes/manifests", "var/lib/certmond", "root/.kube", "run"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    configuration.write_text("key_algorithm: ECDSA-P256\nnode_name: node-1\ninit: {advertise_address: 192.0.2.10}\n")
    (root / "etc/certmond/conf.d/enforce.yaml").write_text("mode: observe\n")
    for words in (["init"], ["renew", "apiserver"]):  # so that there is a generation to restore
        done = CliRunner().invoke(cli, [*words, "--root", str(root), "--config", str(configuration)])
        assert done.exit_code == 0, done.output
    pod = "command:\n- kube-apiserver\n- --tls-cert-file=/etc/kubernetes/pki/apiserver.crt\n"
    (root / "etc/kubernetes/manifests/kube-apiserver.yaml").write_text(pod)
    (root / "var/lib/kubelet/config.yaml").write_text("rotateCertificates: true\n")
    (root / "etc/certmond/web").mkdir()
    shutil.copyfile(root / "etc/kubernetes/pki/apiserver.crt", root / "etc/certmond/web/tls.crt")
    return root


class Sandbox:
    """A page's working directory, and its node."""

    def __init__(self, directory: Path, template: Path, page: Path) -> None:
        self.cwd, self.root, self._template = directory / "cwd", directory / "root", template
        self.cwd.mkdir()
        for name in ("config", "systemd", "docs"):
            (self.cwd / name).symlink_to(ROOT / name)
        new = root_ca()
        for suffix, pem in ((".crt", new.pem), (".key", new.key_pem)):
            (self.cwd / f"new{suffix}").write_bytes(pem)
        with tarfile.open(self.cwd / "certmond.tar", "w") as kept:
            kept.add(template / "var/lib/certmond", "certmond")
        kubeadm = [block.text for block in blocks(page) if "kind: ClusterConfiguration" in block.text]
        text = kubeadm[0] if kubeadm else "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"
        for path, content in ((self.cwd / "kubeadm.yaml", text), (directory / "bin/certmond", _WRAPPER)):
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
            path.chmod(0o755)
        self.environment = {
            **os.environ, "PATH": f"{directory / 'bin'}:{os.environ['PATH']}", "ROOT": str(self.root),
            "CERTMOND": str(Path(sys.executable).parent / "certmond"),
        }  # fmt: skip

        self.refresh()

    def refresh(self) -> None:
        """The node as it was made."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self._template, self.root, symlinks=True)

    def run(self, command: str) -> str | None:
        """Run it. Return the error, or None."""
        for placeholder, meant in PLACEHOLDERS.items():
            command = re.sub(rf"\b{re.escape(placeholder)}(?![\w.])", meant, command)
        typed = _PLACES.sub(rf"{self.root}/\1", command)
        status, said = self._call(typed) if ONLY_A_CALL.fullmatch(typed) else self._type(typed)
        if "is already staged" in said:  # one of several ways to stage, of which a node accepts one
            self.refresh()
            status, said = self._type(typed)
        verbs = [word for call in calls(command) for word in call if not word.startswith("-")][:2]
        most = max([ALSO_GOOD.get(verb, 0) for verb in verbs], default=int("grep" in command))  # may find nothing
        return None if status <= most else f"{command}\n  {status}: {said}"

    def _type(self, typed: str) -> tuple[int, str]:
        done = subprocess.run(
            [real_part("bash"), "-euo", "pipefail", "-c", typed], cwd=self.cwd, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def _call(self, typed: str) -> tuple[int, str]:
        """Run the command in this process, which is much cheaper, if it is only a call of certmond."""
        (words,) = calls(typed)
        given = ["--root", str(self.root), "--config", str(self.root / "etc/certmond/config.yaml")]
        with contextlib.chdir(self.cwd):
            done = CliRunner().invoke(cli, [*given, *words])
        failed = isinstance(done.exception, CertmondError | click.ClickException)
        return 3 if failed else done.exit_code, f"{done.output}{done.exception or ''}"


_WRAPPER = """#!/bin/sh
exec "$CERTMOND" --root "$ROOT" --config "$ROOT/etc/certmond/config.yaml" "$@"
"""


def _reason(command: str) -> str | None:
    return next((why for pattern, why in CANNOT_BE_RUN.items() if re.search(pattern, command, re.MULTILINE)), None)


@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_can_be_run_is_good(page: Path, template: Path, tmp_path: Path) -> None:
    """Each command of a page works on a node in a directory, in the order of the page."""
    real_part("openssl")
    sandbox = Sandbox(tmp_path, template, page)
    failed = []
    for block in filter(lambda block: block.is_commands, blocks(page)):
        wrong = (sandbox.run(command) for command in block.commands() if not _reason(command))
        failed += [f"{page.name}:{block.line}: {each}" for each in wrong if each]
    assert not failed, "\n".join(failed)


@pytest.mark.long
@pytest.mark.real("unshare")
def test_the_first_steps_need_no_network(tmp_path: Path) -> None:
    """The node in a directory of the quick start is created and checked on a host without any network."""
    first = next(block for block in blocks(ROOT / "docs/quickstart.md") if block.is_commands)
    done = subprocess.run(
        [real_part("unshare"), "--map-root-user", "--net", "bash", "-euc", first.text], cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "node/etc/kubernetes/pki/apiserver.crt").exists()


def test_no_class_of_commands_is_empty() -> None:
    """Each reason for which a command is not run is the reason of some command."""
    commands = [
        command for page in PAGES for block in blocks(page) if block.is_commands for command in block.commands()
    ]
    assert not [p for p in CANNOT_BE_RUN if not any(re.search(p, command, re.MULTILINE) for command in commands)]
    assert sum(_reason(command) is None for command in commands) > 100


def _yaml_blocks() -> list[Block]:
    return [
        block
        for page in PAGES
        for block in blocks(page)
        if block.language == "yaml"
        or (not block.language and re.match(r"(#.*\n)*[a-z_]+:( |$)", block.text, re.MULTILINE))
        if not block.is_commands
    ]


@pytest.mark.long
@pytest.mark.parametrize("block", _yaml_blocks(), ids=lambda block: f"{block.page.stem}:{block.line}")
def test_every_yaml_is_good(block: Block) -> None:
    """A certmond configuration is valid by the schema and its own rules, except that it may name objects outside the
    block. A web configuration is valid. Other YAML is well-formed.
    """
    documents = list(yaml.safe_load_all(block.text))
    assert all(isinstance(document, dict) for document in documents)
    if all(name.startswith("certmond_") for document in documents for name in document):
        return  # variables of the Ansible role, which checks them
    if any({"apiVersion", "kind", "scrape_configs"} & set(document) for document in documents):
        return
    if documents[0].keys() <= WebConfig.model_fields.keys():
        parse_web(block.page.name, block.text, block.page.parent)
        return
    CONFIGURATION.validate(documents[0])
    assert not [problem for problem in _problems(block.text) if "there is no" not in problem]


def _problems(text: str) -> tuple[str, ...]:
    try:
        parse([Source("example", text)])
    except ConfigError as error:
        return error.problems
    return ()
