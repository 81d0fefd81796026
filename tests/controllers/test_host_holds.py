"""The holds of the host: what certmond reads or runs, and how it interprets each result."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from certmond.controllers.host_holds import clock_hold, clock_is_synchronised, operator_hold
from certmond.pki.catalog.settings import HoldSpec
from tests.conftest import real_part


def reason(hold: HoldSpec, root: Path) -> str | None:
    found = operator_hold(hold, str(root), lambda: None)
    return found.fact if found else None


def hold(*, file: str | None = None, command: tuple[str, ...] = ()) -> HoldSpec:
    return HoldSpec(file=file, command=command, unsynchronised_clock=False)


def test_nothing_asked_is_no_reason(tmp_path: Path) -> None:
    assert reason(hold(), tmp_path) is None


def test_a_file_holds_while_it_exists(tmp_path: Path) -> None:
    """Any kind of file at its path holds, below the root directory."""
    spec = hold(file="/run/upgrade")
    assert reason(spec, tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run/upgrade").touch()
    assert reason(spec, tmp_path) == "held while /run/upgrade exists"
    (tmp_path / "run/upgrade").unlink()
    assert reason(spec, tmp_path) is None
    (tmp_path / "run/upgrade").mkdir()
    assert reason(spec, tmp_path) == "held while /run/upgrade exists"


@pytest.mark.parametrize(("command", "holds"), [(("/bin/true",), True), (("/bin/false",), False), (("/gone",), False)])
def test_a_program_holds_while_it_exits_with_zero(tmp_path: Path, command: tuple[str, ...], holds: bool) -> None:
    """Another exit status, and a program that is not there, hold nothing: a typing error must not stop renewals."""
    assert reason(hold(command=command), tmp_path) == (
        f"held while {command[0]} exits with status 0" if holds else None
    )


def test_a_program_that_another_user_can_change_holds(tmp_path: Path) -> None:
    """It does not run, so its answer is unknown, and every step is held. The reason has file, fact and remedy."""
    program, ran = tmp_path / "quiet", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\n: >{ran}\nexit 1\n")
    program.chmod(0o755)
    assert reason(hold(command=(str(program),)), tmp_path) is None
    ran.unlink()
    program.chmod(0o777)
    said = f"other users can write {program} (mode 0777); run: chmod go-w {program}"
    assert (
        reason(hold(command=(str(program),)), tmp_path) == f"held: {said}; until then, certmond does not run {program}"
    )
    script = reason(hold(command=("/bin/sh", str(program))), tmp_path)
    assert script == f"held: {said}; until then, certmond does not run /bin/sh"
    assert not ran.exists()


@pytest.mark.real("python3")
def test_the_state_of_the_kernel_clock_counts() -> None:
    """The result of adjtimex(2) counts. An unsynchronized clock is a reason if the configuration requires it."""
    asked = "import ctypes; print(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))"
    done = subprocess.run([real_part("python3"), "-c", asked], capture_output=True, text=True, check=True)
    synchronised = done.stdout.strip() != "5"
    assert clock_is_synchronised() is synchronised
    assert clock_hold(hold()) is None
    found = clock_hold(HoldSpec())
    assert (found.fact if found else None) == (
        None if synchronised else "held until the clock of this host is synchronized (check: timedatectl)"
    )
