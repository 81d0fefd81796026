"""Each call of a program refuses one that another user can change, immediately before it runs."""

from __future__ import annotations

import os
from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from certmond.errors import CertmondError, RefusedError, RestartError, TriedError, UntrustedError
from certmond.formats.private_key import make_key
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import Terms, first
from certmond.restart.act import Restarter
from certmond.services.crictl import Crictl
from certmond.services.observed_subjects import Pod
from certmond.signers.command import CommandSigner
from certmond.signers.kubeadm import KubeadmSigner
from certmond.signers.protocol import Request
from certmond.subprocesses import exposures, first_line, run
from tests.builders import NOW, YEAR, make_ca
from tests.cli.test_main import certmond

MINUTE = timedelta(minutes=1)
POD = Pod(container="kube-scheduler", name="kube-scheduler-node-1", executable="kube-scheduler")


class Program:
    """A program that leaves a trace when it runs, and the message about it while others can write it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path, self.ran = directory / "bin" / name, directory / "ran"
        self.path.parent.mkdir()
        self.path.write_text(f"#!/bin/sh\n: >{self.ran}\n")
        self.path.chmod(0o777)
        self.said = f"other users can write {self.path} (mode 0777); run: chmod go-w {self.path}"


def request() -> Request:
    spec = CertificateSpec(name="apiserver", path="/a.crt", key="/a.key", usages=("server auth",))
    terms = Terms(now=NOW, issuer_end=NOW + 10 * YEAR, facts={}, key=KeyAlgorithm.ECDSA_P256)
    made = first(spec, "CN=kube-apiserver", ("DNS:kubernetes",), terms)
    return Request("apiserver", Grant(made), make_key(made.key), "node-1")


def sign_by_command(program: Program) -> None:
    CommandSigner("own", (str(program.path),), time_limit=MINUTE).sign(request())


def sign_by_kubeadm(program: Program) -> None:
    """Sign with kubeadm, which has no path in the configuration and is found in PATH."""
    state = program.path.parent / "state"
    state.mkdir(mode=0o700)
    KubeadmSigner((), "/ca.crt", "/ca.key", directory=str(state), time_limit=MINUTE).sign(request())


def restart_by_command(program: Program) -> None:
    Restarter().act(ServiceSpec(name="app", kind="command", command=(str(program.path),)), "", None, revive=False)


def restart_by_script(program: Program) -> None:
    command = ("/bin/sh", "-e", str(program.path))
    Restarter().act(ServiceSpec(name="app", kind="command", command=command), "", None, revive=False)


def ask_crictl(program: Program) -> None:
    Crictl((str(program.path),)).running(POD, lambda: None)


@pytest.mark.parametrize(
    ("use", "name", "kind"),
    [
        (sign_by_command, "helper", RefusedError), (sign_by_kubeadm, "kubeadm", RefusedError),
        (restart_by_command, "again", RestartError), (restart_by_script, "again", RestartError),
        (ask_crictl, "crictl", RestartError),
    ],
)  # fmt: skip
def test_a_program_that_another_user_can_change_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: object, name: str, kind: type[CertmondError]
) -> None:
    """The calls are signers, services, crictl, and a lookup in PATH: the error is the one of that use, with file, fact
    and remedy.
    """
    program = Program(tmp_path, name)
    monkeypatch.setenv("PATH", str(program.path.parent), prepend=os.pathsep)
    with pytest.raises(kind) as refused:
        use(program)  # type: ignore[operator]
    assert str(refused.value).startswith(program.said)
    assert not isinstance(refused.value, TriedError)  # a tried restart may have had an effect
    assert not program.ran.exists()


def test_the_check_is_made_at_each_run(tmp_path: Path) -> None:
    """A program that ran before, and that others can write now, does not run again."""
    program = Program(tmp_path, "again")
    program.path.chmod(0o755)
    assert run((str(program.path),), {}, MINUTE, lambda: None).status == 0
    program.ran.unlink()
    program.path.parent.chmod(0o777)
    with pytest.raises(UntrustedError, match=r"other users can write .*bin \(mode 0777\); run: chmod go-w "):
        run((str(program.path),), {}, MINUTE, lambda: None)
    assert not program.ran.exists()


@pytest.mark.long
def test_validation_reports_each_refused_program(tmp_path: Path) -> None:
    """`config validate` exits 3 and names its user. A missing program is no problem."""
    program = Program(tmp_path, "own")
    command = [str(program.path)]
    given = {
        "profile": "none",
        "hold": {"command": command},
        "signers": [{"name": "s", "kind": "command", "command": ["/bin/sh", *command]}],
        "services": [{"name": "app", "kind": "command", "command": command}],
        "hooks": [{"name": "h", "command": command}, {"name": "later", "command": ["/opt/none/later"]}],
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(given))
    done = certmond("config", "validate", "--config", path)
    assert done.returncode == 3
    assert [line.removeprefix("certmond: ") for line in done.stderr.splitlines()] == [
        f"{what}: {program.said}" for what in ("hold", "signer s", "service app", "hook h")
    ]
    program.path.chmod(0o755)
    assert certmond("config", "validate", "--config", path).returncode == 0


def test_a_trusted_program_has_no_exposure() -> None:
    """A program of the system, by its whole path or found in PATH."""
    assert list(exposures({"hold": ("/bin/sh", "-c", "true"), "signer s": ("sh",)})) == []


def test_the_output_of_a_program_is_quoted_without_keys() -> None:
    """The first line of the output is quoted, with each private key removed before it is truncated."""
    key = make_ca().key_pem
    assert first_line(b"\n" + key + b"more") == "[private key removed]"
    assert first_line(b"key: " + b64encode(key) + b" is refused\nmore") == "key: [private key removed] is refused"
    assert first_line(b" a\x1b[2J\nb") == "a\\x1b[2J"
    assert first_line(b"x" * 300) == "x" * 200
