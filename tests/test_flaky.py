"""`make flaky` lists each test that failed in any of several runs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.flaky import busy_cpus, main

TESTS = """
import os
from pathlib import Path

RUNS = Path(__file__).with_name("runs")


def test_good():
    seed, long = (os.environ[f"CERTMOND_{name}"] for name in ("SEED", "LONG"))
    Path(__file__).with_name("seeds").open("a").write(f"{seed} {long};")


def test_that_fails_once():
    RUNS.open("a").write("x")
    assert len(RUNS.read_text()) != 2, "the second run"
"""


@pytest.mark.long
def test_a_test_that_fails_in_one_run_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The list has the number of failures and the first line of the error. The log has the rest. The exit code is 1.
    Each run has another sample of the long tests.
    """
    (tmp_path / "test_it.py").write_text(TESTS)
    options = ["--runs", "3", "--load", "1", "--log", str(tmp_path / "log")]
    assert main([*options, "--", "-n", "0", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)]) == 1
    *runs, listed, logs = capsys.readouterr().out.splitlines()
    assert runs == ["run 1 of 3: 0 failed", "run 2 of 3: 1 failed", "run 3 of 3: 0 failed"]
    assert listed.startswith("1 of 3  test_it::test_that_fails_once: AssertionError: the second run")
    assert logs == f"The logs are in {tmp_path / 'log'}."
    assert "1 failed, 1 passed" in (tmp_path / "log/2.log").read_text()
    assert (tmp_path / "seeds").read_text() == "run 1 sample;run 2 sample;run 3 sample;"


@pytest.mark.long
def test_a_run_that_does_not_begin_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose tests cannot be collected counts as failed."""
    (tmp_path / "test_it.py").write_text("import there_is_no_such_module\n")
    options = ["--runs", "1", "--load", "0", "--log", str(tmp_path / "log")]
    assert main([*options, "--", "-n", "0", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)]) == 1
    assert f"1 of 1  pytest: ended with the exit code 2; see {tmp_path}/log/1.log" in capsys.readouterr().out


def test_the_load_ends_with_the_block() -> None:
    """Each busy process runs until the end of the block, and not longer."""
    with busy_cpus(2) as processes:
        assert [each.poll() for each in processes] == [None, None]
    assert [each.poll() for each in processes] == [-signal.SIGKILL, -signal.SIGKILL]


def test_the_load_ends_with_a_killed_process() -> None:
    """A busy process also ends if the process that started it is killed."""
    code = "from benchmarks.flaky import busy_cpus\nwith busy_cpus(1) as some: print(some[0].pid, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout
        busy = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
        starter.wait()
        ended, _, _ = select.select([busy], [], [], 60)
        with suppress(ProcessLookupError):  # it has ended, as it should
            signal.pidfd_send_signal(busy, signal.SIGKILL)
        os.close(busy)
    assert ended
