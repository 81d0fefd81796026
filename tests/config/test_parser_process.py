"""The process that parses the configuration: its result, its errors, and its end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.deadline import DEADLINE

ROOT = Path(__file__).parents[2]
BEGIN = """
import json, os, select, signal, sys, threading
from certmond.config.parser_process import ForkedLoad, ParserProcess
from certmond.errors import CertmondError, ConfigError
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for a command in the background
"""


def printed(code: str, *, data: Path | None = None) -> object:
    """Return the JSON value that a process with one thread prints. Each test needs it: pytest has several threads."""
    run = subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(code), *([str(data)] if data else [])],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stderr == ""
    return json.loads(run.stdout)


def test_another_process_parses_and_ends() -> None:
    """`parse` runs in a child process. After the result, the child process and its pipe no longer exist."""
    code = """
        before = os.listdir("/proc/self/fd")
        process = ParserProcess(lambda: f"{os.getpid()} {os.getppid()}".encode())
        child, parent = map(int, process.result().split())
        try:
            os.waitpid(-1, 0)
            left = "a child"
        except ChildProcessError:
            left = ""
        print(json.dumps([child != os.getpid(), parent == os.getpid(), left, os.listdir("/proc/self/fd") == before]))
    """
    assert printed(code) == [True, True, "", True]


def test_a_long_result_arrives_whole() -> None:
    """A result that is longer than the buffer of a pipe arrives."""
    assert printed("print(json.dumps(len(ParserProcess(lambda: bytes(10_000_000)).result())))") == 10_000_000


@pytest.mark.parametrize(
    ("raised", "problems"),
    [('ConfigError(("a: 1", "b: é"))', ["a: 1", "b: é"]), ('CertmondError("no file")', ["no file"])],
)
def test_the_errors_are_those_of_parse(raised: str, problems: list[str]) -> None:
    """An error of `parse` is a ConfigError with the same problems."""
    code = f"""
        def parse():
            raise {raised}

        try:
            ParserProcess(parse).result()
        except ConfigError as error:
            print(json.dumps([error.problems, str(error)]))
    """
    assert printed(code) == [problems, "\n".join(problems)]


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(5)", "exec('raise MemoryError')"])
def test_a_process_that_ends_early_is_replaced(end: str) -> None:
    """If a signal kills the child process, or an exception ends it, this process parses by itself."""
    code = f"""
        def parse():
            if os.getpid() != parent:
                {end}
            return b"done"

        parent = os.getpid()
        print(json.dumps(ParserProcess(parse).result().decode()))
    """
    assert printed(code) == "done"


def test_the_child_process_ends_with_this_process() -> None:
    """If a signal ends this process while the child process parses, the child process ends, too."""
    code = """
        process = ParserProcess(lambda: os.write(1, str(os.getpid()).encode()) and signal.pause())
        signal.pause()
    """
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(code)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = os.pidfd_open(int(os.read(parent.stdout.fileno(), 64)))
        try:
            assert not select.select([child], [], [], 0)[0]
            parent.kill()
            assert select.select([child], [], [], DEADLINE)[0]
        finally:
            os.close(child)


def test_another_exception_is_not_hidden() -> None:
    """An exception that is no CertmondError has its own traceback in this process."""
    code = """
        try:
            ParserProcess(lambda: 1 // 0).result()
        except ZeroDivisionError as error:
            print(json.dumps(str(error)))
    """
    assert "zero" in str(printed(code))


def test_a_half_of_a_result_is_discarded() -> None:
    """If the child process dies within its answer, this process parses by itself."""
    code = """
        process = ParserProcess(lambda: bytes(10_000_000) + str(os.getpid()).encode())
        select.select([process._pipe], [], [])  # the answer does not fit into the pipe
        os.kill(process._pid, signal.SIGKILL)
        print(json.dumps(int(process.result().strip(b"\\0")) == os.getpid()))
    """
    assert printed(code) is True


@pytest.mark.parametrize(
    "prevented",
    ["threading.Thread(target=threading.Event().wait, daemon=True).start()", "os.fork = os.pipe2"],
    ids=["threads", "no process"],
)
def test_without_a_child_process_this_process_parses(prevented: str) -> None:
    """If this process has several threads, or cannot start another process, it parses by itself, and leaks no file."""
    code = f"""
        def refuse(*_):
            raise BlockingIOError(11, "Resource temporarily unavailable")

        os.pipe2 = refuse
        {prevented}
        before = os.listdir("/proc/self/fd")
        found = ParserProcess(lambda: str(os.getpid()).encode()).result()
        print(json.dumps([int(found) == os.getpid(), os.listdir("/proc/self/fd") == before]), flush=True)
        os._exit(0)
    """
    assert printed(code) == [True, True]


def test_a_caller_can_ignore_ended_children() -> None:
    """The result arrives also if the parent of this process ignores SIGCHLD, with which the kernel removes children."""
    code = """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print(json.dumps(ParserProcess(lambda: b"x").result().decode()))
    """
    assert printed(code) == "x"


def test_only_the_first_configuration_is_of_the_child_process(tmp_path: Path) -> None:
    """The configuration is the same from the child process, and without it at a later call, which reads the files
    again. After the first call, the process has not imported pydantic.
    """
    (tmp_path / "config.yaml").write_text("profile: none\npoll: 7s\nhooks: [{name: x, command: [/x]}]\n")
    code = """
        from pathlib import Path
        path = Path(sys.argv[1])

        def load():
            from certmond.config.loader import load
            return load(path)

        loaded = ForkedLoad(load)
        first, pydantic = loaded(), "pydantic" in sys.modules
        same = loaded() == first
        path.write_text(path.read_text().replace("7s", "9s"))
        print(json.dumps([first.poll.seconds, pydantic, same, loaded().poll.seconds]))
    """
    assert printed(code, data=tmp_path / "config.yaml") == [7, False, True, 9]


def test_a_reload_parses_in_a_new_process(tmp_path: Path) -> None:
    """A later call returns the present configuration, and its problems, without pydantic in this process. A relative
    path counts from the directory of this process.
    """
    (tmp_path / "config.yaml").write_text("profile: none\npoll: 7s\nhooks: [{name: x, command: [/x]}]\n")
    code = """
        from pathlib import Path
        from certmond.cli.options import Globals

        os.chdir(sys.argv[1])
        loaded = Globals(config=Path("config.yaml")).start_loading()
        first = loaded()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        same = loaded() == first
        Path("config.yaml").write_text("profile: none\\npoll: 9s\\n")
        second = loaded().poll.seconds
        Path("config.yaml").write_text("profile: none\\npoll: 9\\nmodes: enforce\\n")
        try:
            loaded()
        except ConfigError as error:
            problems = error.problems
        print(json.dumps([first.poll.seconds, same, second, problems, "pydantic" in sys.modules]), flush=True)
        os._exit(0)
    """
    found = printed(code, data=tmp_path)
    assert isinstance(found, list)
    first, same, second, problems, pydantic = found
    assert (first, same, second, pydantic) == (7, True, 9, False)
    assert [each.partition(";")[0] for each in problems] == [
        "config.yaml:2: poll: must be a duration such as 30d, 12h or 90s, not '9'",
        "config.yaml:3: modes: unknown key",
    ]


@pytest.mark.parametrize(
    "change",
    [
        "parser_process._PROGRAM = 'raise SystemExit(1)'",
        "parser_process._PROGRAM = 'print()'",
        "parser_process._PROGRAM = f'print(bytes({1 << 21}))'",
        "sys.executable = '/nonexistent'",
        "loaded._installation = (0, 0, 0)",
    ],
    ids=["it fails", "its answer is incomplete", "its answer is too long", "no program", "after an upgrade"],
)
def test_without_an_answer_of_the_new_process_this_process_parses(tmp_path: Path, change: str) -> None:
    """If the new process gives no answer, or can have the code of another version, this process parses by itself."""
    (tmp_path / "config.yaml").write_text("profile: none\npoll: 7s\n")
    code = f"""
        from pathlib import Path
        from certmond.cli.options import Globals
        from certmond.config import parser_process

        loaded = Globals(config=Path(sys.argv[1])).start_loading()
        first = loaded()
        {change}
        print(json.dumps([loaded() == first, "pydantic" in sys.modules]))
    """
    assert printed(code, data=tmp_path / "config.yaml") == [True, True]


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
        "sys.modules['pydantic'] = None",
        "sys.modules['certmond.config.parser'] = object()",
        "sys.meta_path.insert(0, Broken())",
    ],
)
def test_a_parser_that_a_reload_cannot_run_is_a_problem(change: str) -> None:
    """At a reload without a free descriptor, or with modules of another version, the problem has a command."""
    code = f"""
        import resource
        from certmond.pki.assessment import refused_configuration  # as the daemon has

        class Broken:
            def find_spec(self, name, *_):
                if name.startswith("pydantic"):
                    raise SystemError("pydantic-core is another version")

        def load():
            from certmond.config.loader import load
            return load()

        loaded = ForkedLoad(load)
        loaded()
        {change}
        try:
            loaded()
        except ConfigError as error:
            print(json.dumps(error.problems))
    """
    found = printed(code)
    assert isinstance(found, list)
    (said,) = found
    assert said.startswith("certmond cannot run its parser of the configuration (")
    assert said.endswith("); restart certmond: systemctl restart certmond")


def test_a_reload_uses_the_profiles_of_the_start(tmp_path: Path) -> None:
    """An upgrade on the disk does not change the profiles of a running process."""
    (tmp_path / "kubeadm.yaml").write_text("certificates: [")
    code = """
        from pathlib import Path
        from certmond.config import shipped_profiles

        def load():
            from certmond.config.loader import load
            return load(Path("/nonexistent"))

        loaded = ForkedLoad(load)
        first = loaded()
        shipped_profiles.__file__ = sys.argv[1] + "/config/shipped_profiles.py"
        shipped_profiles.Path = lambda _: Path(sys.argv[1]) / "a" / "b"
        print(json.dumps([loaded() == first, len(first.certificates) > 10]))
    """
    assert printed(code, data=tmp_path) == [True, True]


def test_an_interrupt_at_the_fork_is_not_lost() -> None:
    """Ctrl-C in the middle of fork() interrupts the caller afterwards. Python would print it, and continue."""
    code = """
        os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            ParserProcess(lambda: b"x")
        except KeyboardInterrupt:
            print(json.dumps(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()))
    """
    assert printed(code) is True


def test_an_interrupt_does_not_end_the_child_process() -> None:
    """Ctrl-C goes to both processes, and ends only the process that reads the answer."""
    code = """
        def parse():
            os.kill(os.getpid(), signal.SIGINT)
            return str(os.getpid()).encode()

        print(json.dumps(int(ParserProcess(parse).result()) != os.getpid()))
    """
    assert printed(code) is True


def test_a_configuration_that_is_invalid_at_the_start(tmp_path: Path) -> None:
    """`certmond run` and `certmond check` report every problem of the configuration, as without a child process."""
    (tmp_path / "config.yaml").write_text("profile: none\npoll: 7\nmodes: enforce\n")
    for command in ("run", "check"):
        argv = [sys.executable, "-m", "certmond", command, "--config", str(tmp_path / "config.yaml")]
        run = subprocess.run(
            [*argv, "--root", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ
        )
        assert run.returncode == 3
        assert f"{tmp_path}/config.yaml:2: poll: must be a duration" in run.stderr
        assert f"{tmp_path}/config.yaml:3: modes: unknown key; did you mean mode?" in run.stderr
        assert "Traceback" not in run.stderr
