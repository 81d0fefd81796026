"""The table of certmond's effects is complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.documents import ROOT

RUNS = {"os.system", "os.popen", "os.fork", "os.forkpty"}
RUNS_BY = ("os.exec", "os.spawn", "os.posix_spawn")
SIGNALS = {"os.kill", "os.killpg", "signal.pidfd_send_signal"}
CONNECTS = {
    "socket.socket", "socket.create_connection", "socket.create_server", "socket.fromfd",
    "lightkube.AsyncClient", "lightkube.Client", "asyncio.open_connection", "asyncio.open_unix_connection",
    "asyncio.start_server", "urllib.request.urlopen", "systemd.journal.send", "systemd.daemon.notify",
}  # fmt: skip
WRITES = {
    "os.rename", "os.renames", "os.replace", "os.unlink", "os.remove", "os.removedirs", "os.rmdir",
    "os.mkdir", "os.makedirs", "os.mkfifo", "os.mknod", "os.symlink", "os.link", "os.chmod", "os.fchmod",
    "os.lchmod", "os.chown", "os.fchown", "os.lchown", "os.setxattr", "os.removexattr", "os.truncate",
    "os.ftruncate", "os.utime", "os.pwrite", "os.copy_file_range", "shutil.rmtree", "shutil.move",
    "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.copymode", "shutil.copystat",
    "shutil.chown",
}  # fmt: skip
OF_A_PATH = {
    "write_text", "write_bytes", "unlink", "rmdir", "mkdir", "rename", "symlink_to", "hardlink_to", "chmod",
    "touch",
}  # fmt: skip
OF_THE_API = {"create", "patch", "replace", "delete", "apply", "set"}
PARTS = {
    "subprocess": "runs",
    "pty": "runs",
    "tempfile": "writes",
    "http": "connects",
    "httpx": "connects",
}
FLAGS = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)")


class Module:
    """The source of a module, and what its names refer to."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.names = dict[str, str]()
        self.constants = dict[str, str]()
        for node in ast.walk(self.tree):
            match node:
                case ast.Import(names=names):
                    roots = [each.name if each.asname else each.name.partition(".")[0] for each in names]
                    self.names |= {each.asname or root: root for each, root in zip(names, roots, strict=True)}
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    self.names |= {each.asname or each.name: f"{module}.{each.name}" for each in names}
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.constants[name] = ast.unparse(value)
                case _:
                    pass

    def called(self, function: ast.expr) -> str:
        """Return the full name of the function, such as os.rename, or ".name" for a method."""
        root, *rest = ast.unparse(function).split(".")
        return ".".join((self.names.get(root, root), *rest)) if root in self.names or not rest else f".{rest[-1]}"

    def effects(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield from self._effects(node, self.called(node.func))

    def _effects(self, call: ast.Call, name: str) -> Iterator[str]:
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if method in OF_THE_API and re.search(r"(client|api)\.\w+$", ast.unparse(call.func)):
            yield "changes in the cluster"
        elif name in RUNS or name.startswith(RUNS_BY):
            yield "runs"
        elif name in SIGNALS:
            yield "signals"
        elif name in CONNECTS:
            yield "connects"
        elif name in WRITES or self._writes(call, name):
            yield "writes"
        elif (part := name.partition(".")[0]) in PARTS:
            yield PARTS[part]

    def _writes(self, call: ast.Call, name: str) -> bool:
        words = [ast.unparse(each) for each in (*call.args, *(each.value for each in call.keywords))]
        if name == "os.open" or name.endswith(".open_without_symlinks"):
            return any(FLAGS.search(self.constants.get(word, word)) for word in words)
        if name in {"open", "io.open", "os.fdopen", ".open"}:
            modes = words if name == ".open" else words[1:]  # a method of a path has no path argument
            return any(re.fullmatch(r"'[rbt]*[wax+][rwaxbt+]*'", mode) for mode in modes)
        # `replace` of a path has one argument, that of a text two, that of a time or a dataclass has names.
        return name.removeprefix(".") in OF_A_PATH or (name == ".replace" and len(call.args) == 1 and not call.keywords)


OWNERS = {
    "writes": ("transaction", "state"),
    "runs": ("subprocesses",),
    "signals": ("subprocesses",),
    "connects": ("services", "cluster/client", "expose/http/server", "notify/renderers", "daemon/sd_notify"),
    "changes in the cluster": ("cluster",),
}
"""The packages and modules to which an effect belongs."""
EXCEPTIONS = {
    ("writes", "rotation/staged_ca"): "the staged CA in the state directory",
    ("writes", "renewal/bootstrap"): "directories that are missing; the files in them are written by `transaction`",
    ("writes", "cli/output_file"): "the file that the operator names with -o",
    ("writes", "config/parser_process"): "a pipe",
    ("writes", "cli/stdio"): "/dev/null",
    ("writes", "signers/kubeadm"): "a separate temporary directory",
    ("writes", "subprocesses"): "a memfd",
    ("writes", "expose/http/tls"): "a memfd",
    ("writes", "expose/metrics/exposition"): "the runtime directory",
    ("writes", "expose/metrics/row_file_writer"): "the runtime directory",
    ("writes", "daemon/runtime_files"): "the runtime directory",
    ("writes", "daemon/runtime_lock"): "the runtime directory",
    ("writes", "files/forked_worker"): "the OOM score of the process, in /proc",
    ("writes", "demo/node"): "the directory of the demonstration",
    ("writes", "demo/certmond_processes"): "the directory of the demonstration",
    ("writes", "demo/walkthrough"): "the directory of the demonstration",
    ("runs", "config/parser_process"): "a fork that parses the configuration",
    ("runs", "files/forked_worker"): "a fork that reads a part of many files",
    ("runs", "demo/certmond_processes"): "certmond on the node of the demonstration",
    ("signals", "files/forked_worker"): "its own child process",
    ("signals", "restart/static_pod_stop"): "the process of a static pod, through a pidfd",
    ("connects", "cli/pki_init"): "a datagram socket that sends nothing",
    ("connects", "demo/certmond_processes"): "the server of the demonstration",
}
"""Every other module with an effect, and the reason why the effect is there."""


@cache
def found() -> frozenset[tuple[str, str]]:
    """Return each effect with the module that has it."""
    return frozenset(
        (effect, str(path.relative_to(ROOT / "certmond").with_suffix("")))
        for path in sorted((ROOT / "certmond").rglob("*.py"))
        for effect in Module(path.read_text("utf-8")).effects()
    )


def written_down() -> set[tuple[str, str]]:
    """The table of docs/security.md: an effect and the modules that have it in each row."""
    text = (ROOT / "docs/security.md").read_text("utf-8").partition("## Where it acts")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in text.splitlines() if re.match(r"\| [a-z]", line)]
    return {(row[1].strip(), module) for row in rows for module in re.findall(r"`([^`]+)`", row[2])}


def test_the_table_of_effects_is_complete() -> None:
    """A module that writes, runs a program, signals, connects, or changes the cluster is in the table of the security
    model, with its target. Each row of the table is true.
    """
    assert written_down() == found()


def test_an_effect_is_in_its_package_or_has_a_reason() -> None:
    """Only `transaction` and `state` write, only `subprocesses` runs programs and signals them, only `cluster` changes
    the cluster. Each other module with an effect is an exception with a reason, and each exception has the effect.
    """
    outside = {
        (effect, module)
        for effect, module in found()
        if not any(module == owner or module.startswith(f"{owner}/") for owner in OWNERS[effect])
    }
    assert outside == EXCEPTIONS.keys()


@pytest.mark.parametrize(
    ("effect", "source"),
    [
        ("writes", "import os\nos.rename('a', 'b')"),
        ("writes", "from os import unlink as away\naway('a')"),
        ("writes", "import os\nFLAGS = os.O_RDWR | os.O_CLOEXEC\nos.open('a', FLAGS)"),
        ("writes", "open('a', 'ab')"),
        ("writes", "open('a', mode='w')"),
        ("writes", "path.open('x')"),
        ("writes", "path.replace(other)"),
        ("writes", "Path('a').write_text('b')"),
        ("writes", "import shutil\nshutil.rmtree('a')"),
        ("writes", "from tempfile import mkdtemp\nmkdtemp()"),
        ("runs", "import subprocess\nsubprocess.run(['a'])"),
        ("runs", "from subprocess import Popen\nPopen(['a'])"),
        ("runs", "import os\nos.execv('a', ['a'])"),
        ("signals", "import os\nos.kill(1, 9)"),
        ("connects", "import socket\nsocket.socket()"),
        ("connects", "import systemd.journal\nsystemd.journal.send('a')"),
        ("connects", "import http.client\nhttp.client.HTTPConnection('a')"),
        ("connects", "from asyncio import open_connection\nopen_connection('a')"),
        ("changes in the cluster", "connection.client.patch(Node, 'a')"),
        (None, "import os\nos.open('a', os.O_RDONLY)\nopen('a')\nopen('a', 'rb')\ntext.replace('a', 'b')"),
    ],
)
def test_no_spelling_hides_an_effect(effect: str | None, source: str) -> None:
    """The check finds each spelling of an effect under any name. Reading a file is no effect."""
    assert set(Module(source).effects()) == ({effect} if effect else set())
