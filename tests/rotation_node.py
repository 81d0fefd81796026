"""A small node whose Root CA will be rotated: its files, its configuration, and the verdict of openssl.

All files are below a directory of the test, and have absolute paths, so that the real program treats them like those of
a node. The only service is a command that records its runs.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
import yaml

from certmond.cli import wait_progress as wait
from certmond.cli.main import main
from certmond.cli.root_ca import rotate as root_rotation
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon.enforcer import Enforcer
from certmond.formats.kubeconfig_edit import Embedded, new_kubeconfig
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.rotation.staged_ca import Part, Staging
from certmond.state.rotation_record import RotationRecord
from tests import hurried_certmond, preloaded_certmond
from tests.builders import DAY, HOUR, Issued, make_ca, make_leaf, make_server
from tests.conftest import real_part
from tests.daemon_harness import Running
from tests.deadline import DEADLINE
from tests.preloaded_certmond import CERTMOND

_KEYS = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*-----", re.DOTALL)


def root_ca(**modifiers: Any) -> Issued:
    """Return a CA that has been valid for ten days, and will be for more than two years."""
    now = datetime.now(UTC)
    return make_ca(**{"not_before": now - 10 * DAY, "not_after": now + 900 * DAY} | modifiers)


class Said(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


class RotatingNode:
    """The node below `place`. `served` decides whether a service uses its files; `more` extends the configuration.

    On its clock an hour passes in a second, in every process that is forked from this one, so that tests do not wait.
    Without `hurried` it has the clock of the real program.
    """

    def __init__(self, place: Path, *, served: bool = False, hurried: bool = True, **more: Any) -> None:
        self.place, self.files, self.state = place, place / "node", place / "state"
        self._began, self._pace = datetime.now(UTC), 3600 if hurried else 1
        self.files.mkdir(parents=True)
        self.old = root_ca()
        now = datetime.now(UTC)
        self.put("ca.crt", self.old.pem)
        self.put("ca.key", self.old.key_pem)
        dates: Any = {"not_before": now - HOUR, "not_after": now + 90 * DAY}
        web = make_server(self.old, "web", names=["DNS:web"], **dates)
        self.put("web.crt", web.pem)
        self.put("web.key", web.key_pem)
        user = make_leaf(self.old, "user", **dates)
        self.put("user.conf", kubeconfig(self.old, user))
        self._program = place / "restart"
        self.program("true")
        self.settings: dict[str, Any] = {
            "mode": "enforce", "profile": "none", "node_name": "node-1", "poll": "1s", "validity": "90d",
            "hold": {"unsynchronised_clock": False}, "root_ca": {"overlap": "1s"},
            "restart": {"stable": "1s", "spacing": "1s", "reload_within": "1s"}, **more,
        }  # fmt: skip
        self._served = served
        self.configure()

    def clock(self) -> datetime:
        return self._began + (datetime.now(UTC) - self._began) * self._pace

    def seconds(self) -> float:
        """Return the seconds of a clock that is never set."""
        return self.clock().timestamp()

    def configure(self, **more: Any) -> None:
        """Write the configuration, with `more` settings from now on."""
        self.settings |= more
        used = {"consumers": ["web"]} if self._served else {}
        entries: list[dict[str, Any]] = [
            {"name": "ca", "path": str(self.files / "ca.crt"), "key": str(self.files / "ca.key"), "authority": True,
             "validity": "2y"},
            {"name": "web", "path": str(self.files / "web.crt"), "key": str(self.files / "web.key"), "ca": "ca",
             "usages": ["server auth"]},
            {"name": "user.conf", "kind": "kubeconfig", "path": str(self.files / "user.conf"), "ca": "ca",
             "embedded_ca": "ca", "usages": ["client auth"]},
        ]  # fmt: skip
        services = [{"name": "web", "kind": "command", "command": [str(self._program)]}] if self._served else []
        document = {**self.settings, "certificates": [entry | used for entry in entries], "services": services}
        (self.place / "config.yaml").write_text(yaml.safe_dump(document))

    def program(self, check: str) -> None:
        """Write the program that restarts the service, which is healthy if the shell condition `check` is true."""
        self._program.write_text(
            f"#!/bin/sh\necho run >>{self.place}/restarts\n"
            f"cat /proc/$$/cmdline /proc/$$/environ /proc/$PPID/cmdline /proc/$PPID/environ >>{self.place}/processes\n"
            f"{check}\n"
        )
        self._program.chmod(0o755)

    def put(self, name: str, content: bytes) -> None:
        """Write a file of the node in place, like `cat >`."""
        path = self.files / name
        path.touch(0o644 if name.endswith(".crt") else 0o600)
        with path.open("r+b") as file:
            file.truncate()
            file.write(content)

    def rename(self, name: str, content: bytes) -> None:
        """A file of the node, replaced by another."""
        draft = self.place / f"draft-{name}"
        draft.write_bytes(content)
        draft.chmod(0o644 if name.endswith(".crt") else 0o600)
        draft.rename(self.files / name)

    def read(self, name: str) -> bytes:
        return (self.files / name).read_bytes()

    def copy(self, place: Path) -> Self:
        """The same node elsewhere, configured so."""
        twin = object.__new__(type(self))
        twin.__dict__ |= self.__dict__ | {"place": place, "files": place / "node", "state": place / "state"}
        shutil.copytree(self.place, place, symlinks=True)
        twin.configure()
        return twin

    # The program

    @property
    def options(self) -> list[str]:
        return ["--config", str(self.place / "config.yaml"), "--state-dir", str(self.state)]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, *self._program_of(words), *self.options, *words]

    @staticmethod
    def _program_of(words: Sequence[str]) -> Sequence[str]:
        """Return the program for this command: only commands that act wait for times that a test shortens."""
        return hurried_certmond.PROGRAM if {"run", "rotate"} & {*words} else CERTMOND

    def certmond(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        return preloaded_certmond.run([*self.options, *words], DEADLINE, environment, self._program_of(words))

    @contextmanager
    def daemon(self, *options: str) -> Iterator[Running]:
        """The real daemon, which has made its first pass, and in enforce mode knows its anchor."""
        runtime, log = self.place / "run", self.place / "log"
        runtime.mkdir(exist_ok=True)
        command = self.command("run", "--runtime-dir", str(runtime), "--log", "json", *options)
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        running = Running(process, runtime, log)
        try:
            running.until(lambda: '"started"' in log.read_text(), "started")
            if self.settings["mode"] == "enforce":
                running.until((self.state / "anchors.json").exists, "knows its anchor")
            yield running
        finally:
            process.kill()
            process.wait()

    def hurry(self, *words: str) -> Said:
        """Run the command in this process with this node's clock, without waiting."""
        said, reported = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(said), redirect_stderr(reported):
            patched.setattr(wait, "_LONGEST", 0.0)
            patched.setattr(root_rotation, "enforcer_for", lambda *_, **__: self.enforcer())
            patched.setattr(sys, "argv", ["certmond", *self.options, *words])
            try:
                main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        return Said(code, said.getvalue(), reported.getvalue())

    # The same parts without a process

    @property
    def config(self) -> Config:
        return parse([Source("test", (self.place / "config.yaml").read_text())])

    def enforcer(self) -> Enforcer:
        audit = Audit(Journal("none"), self.state, "test")
        return Enforcer(
            self.config, root="/", state_dir=self.state, audit=audit, clock=self.clock, acting=True, keeps=True,
            monotonic=self.seconds,
        )  # fmt: skip

    def stage(self, new: Issued) -> None:
        Staging(self.state).put(Part.NEW, "ca", new.facts, new.key)  # type: ignore[arg-type]

    def begin(self, new: Issued, mode: Mode = Mode.OVERLAP) -> Rotation:
        """Stage `new`, and note a rotation to it."""
        self.stage(new)
        made = Rotation(
            "20261124T120000Z-abcdef", "ca", mode, (self.old.facts,), new.facts, Phase.PREPARE, self.clock()
        )
        self.enforcer().rotating.start(made)
        return made

    def step(self) -> str | None:
        """Make one pass of a new process. Return what it reports of the rotation."""
        enforcer = self.enforcer()
        assessment, around = enforcer.see()
        made = enforcer.plan(assessment, around=around)
        if made.writes:
            outcomes = enforcer.executor.execute(made)
            return "; ".join(f"{each.result}: {each.message}" for each in outcomes)
        return enforcer.rotate(assessment, around, made)

    def walk(self, until: Callable[[], bool] = lambda: False, passes: int = 200) -> None:
        """Pass after pass, until so or at the end of the rotation."""
        for _ in range(passes):
            if until() or (self.record is None and self.staged == []):
                return
            self.step()
        raise AssertionError(f"it does not become idle: {self.record}")

    def findings(self) -> dict[str, str]:
        """Return the findings of the CA, by reason."""
        assessment, _ = self.enforcer().see()
        return {each.reason.value: each.message for status in assessment.statuses for each in status.findings}

    # The state of the node

    @property
    def record(self) -> Rotation | None:
        return RotationRecord(self.state).load()

    @property
    def phase(self) -> Phase | None:
        record = self.record  # read once: a rotation may end between two reads
        return record.phase if record else None

    @property
    def staged(self) -> list[str]:
        """Return the files of CAs that are stored for the rotation."""
        directory = self.state / "rotation"
        found = (path.name for path in directory.iterdir()) if directory.is_dir() else iter(())
        return sorted(name for name in found if name.startswith(("new.", "old.", ".new", ".old")))

    def trust(self, name: str = "ca.crt") -> tuple[Certificate, ...]:
        return decode(self.read(name), name).certificates

    def embedded(self) -> tuple[Certificate, ...]:
        """Return the CAs that the kubeconfig trusts."""
        found = yaml.safe_load(self.read("user.conf"))["clusters"][0]["cluster"]["certificate-authority-data"]
        return decode(base64.b64decode(found), "user.conf").certificates

    def user(self) -> bytes:
        """The kubeconfig's certificate, as PEM."""
        data = yaml.safe_load(self.read("user.conf"))["users"][0]["user"]["client-certificate-data"]
        return base64.b64decode(data)

    def restarts(self) -> int:
        path = self.place / "restarts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def audit(self) -> list[dict[str, Any]]:
        path = self.state / "audit.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def phases(self) -> list[str]:
        """The phases in the trail, in their order."""
        return [entry["phase"] for entry in self.audit() if entry["event"] == "rotation"]

    def tree(self) -> dict[str, str]:
        """Every file of the node, by its name: inode, mode and content."""
        found = dict[str, str]()
        for path in sorted(self.files.rglob("*")):
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(self.files))] = f"{status.st_ino} {status.st_mode:o} {content}"
        return found

    def verifies(self, leaf: bytes, *trust: Issued, usage: str = "any") -> bool:
        """Return whether openssl accepts a certificate, strictly, with only `trust` as trust anchors."""
        anchors, certificate = self.place / "anchors.pem", self.place / "leaf.pem"
        anchors.write_bytes(b"".join(each.pem for each in trust))
        certificate.write_bytes(leaf)
        at = str(int(self.clock().timestamp()) + 1)  # a certificate of this second is valid
        options = ["-x509_strict", "-attime", at, "-purpose", usage, "-CAfile", str(anchors)]
        command = [real_part("openssl"), "verify", *options, str(certificate)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def unwell(self, ca: Issued) -> list[str]:
        """Return all deviations from the state in which `ca` is the only CA and no rotation runs."""
        trusted = {"ca.crt": self.trust(), "user.conf": self.embedded()}
        problems = [f"{name} trusts others" for name, trust in trusted.items() if trust != (ca.facts,)]
        key = decode(self.read("ca.key"), "ca.key").key
        problems += ["ca.key is another one's"] * (key != ca.facts.key)
        problems += ["web.crt does not verify"] * (not self.verifies(self.read("web.crt"), ca, usage="sslserver"))
        problems += ["user.conf does not verify"] * (not self.verifies(self.user(), ca, usage="sslclient"))
        for name in ("web.crt", "user.conf"):
            problems += [f"{name}: key"] * (not self.belongs(name))
        problems += [f"{name} is staged" for name in self.staged] + ["a rotation is under way"] * (
            self.record is not None
        )
        problems += [f"{each} is left" for each in (self.state / "transactions").glob("*")]
        problems += [f"{path} is left" for path in self.files.iterdir() if path.name.startswith(".")]
        return problems + self.readable()

    def belongs(self, name: str) -> bool:
        """Return whether a leaf belongs to its key."""
        if name == "user.conf":
            data = yaml.safe_load(self.read(name))["users"][0]["user"]["client-key-data"]
            leaf, key = self.user(), base64.b64decode(data)
        else:
            leaf, key = self.read(name), self.read(name.replace(".crt", ".key"))
        return decode(leaf, "").certificates[0].key == decode(key, "").key

    def readable(self) -> list[str]:
        """Return the key files that other users can read, and the parts of the state directory that they can enter or
        read.
        """
        problems = list[str]()
        for path in self.files.iterdir():
            with suppress(FileNotFoundError):  # it was renamed meanwhile
                if not path.is_file() or not path.stat().st_mode & 0o077:
                    continue
                content = path.read_bytes()
                problems += [f"{path} can be read"] * (b"PRIVATE KEY" in content or b"client-key-data" in content)
        for path in (self.state, *self.state.rglob("*")):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue
            if stat.S_IMODE(mode) != (0o700 if stat.S_ISDIR(mode) else 0o600):
                problems.append(f"{path} has mode {mode:o}")
        return problems

    def secrets(self) -> dict[str, bytes]:
        """Every private key that is anywhere on the node or in the state directory, by its content."""
        found = dict[str, bytes]()
        for path in (*self.files.rglob("*"), *self.state.rglob("*")):
            with suppress(FileNotFoundError):  # it was renamed, and is found under its other name
                content = path.read_bytes() if path.is_file() else b""
                for data in re.findall(rb"client-key-data: (\S+)", content):
                    content += base64.b64decode(data)
                found |= {hashlib.sha256(block).hexdigest(): block for block in _KEYS.findall(content)}
        return found


def with_manager(node: RotatingNode) -> Path:
    """A manifest of a kube-controller-manager that signs with the CA's files; its path."""
    flags = [f"--cluster-signing-cert-file={node.files}/ca.crt", f"--cluster-signing-key-file={node.files}/ca.key"]
    mounted: dict[str, Any] = {"name": "pki", "mountPath": str(node.files)}
    container = {"name": "kube-controller-manager", "command": ["kube-controller-manager", *flags]}
    spec = {
        "containers": [container | {"image": "x", "volumeMounts": [mounted]}],
        "volumes": [{"name": "pki", "hostPath": {"path": str(node.files)}}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kube-controller-manager"}, "spec": spec}
    manifest = node.place / "manifests/kube-controller-manager.yaml"
    manifest.parent.mkdir()
    manifest.write_text(yaml.safe_dump(pod))
    return manifest


def kubeconfig(ca: Issued, user: Issued) -> bytes:
    return new_kubeconfig(
        cluster="kubernetes", server="https://127.0.0.1:6443", user="user", trust_pem=ca.pem,
        credentials=Embedded(user.pem, user.key_pem),
    )  # fmt: skip


def secret_lines(keys: Mapping[str, bytes]) -> set[bytes]:
    """The lines that make keys secret, as PEM and as kubeconfigs have them."""
    found = set[bytes]()
    for pem in keys.values():
        lines = [line for line in pem.splitlines() if len(line) > 20 and not line.startswith(b"-----")]
        whole = base64.b64encode(pem + b"\n")
        found |= {*lines, *(whole[at : at + 40] for at in range(60, len(whole) - 60, 40))}
    return found
