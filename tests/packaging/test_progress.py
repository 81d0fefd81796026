"""Output of the long steps of a build."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"


def bash(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", f". {PACKAGING}/progress\n{script}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_step_has_a_line_before_its_end_and_a_line_every_few_seconds() -> None:
    """`step` prints the name of the step at its start. While the command runs, the latest line of its output follows,
    or the name if the command prints nothing.
    """
    for command, latest in (("cat", "Installing"), ("eval 'echo one; cat'", "one")):
        process = bash(f'step "Installing" {command}; echo after')
        assert process.stdout
        assert process.stdout.readline() == "Installing ...\n"
        lines = iter(process.stdout.readline, "")  # the first ones may precede the output of the command
        assert any(re.fullmatch(rf" +\d+ s  {latest}\n", line) for line in lines)
        out, err = process.communicate()  # this closes the input, so that cat ends
        assert (process.returncode, err, out.splitlines()[-1]) == (0, "", "after")


@pytest.mark.parametrize("step", ["false", "broken"])
def test_a_failed_step_ends_the_build(tmp_path: Path, step: str) -> None:
    """A failed command, and a failed command in a function, end the script with the status of the command."""
    process = bash(f'broken() {{ false; touch {tmp_path}/next; }}\nstep "Installing" {step}\ntouch {tmp_path}/after')
    process.communicate()
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_each_pip_command_of_a_build_is_a_step() -> None:
    """`packaging/build` hides no output of pip, and runs pip, venv and the programs that pack only in steps."""
    lines = (PACKAGING / "build").read_text().replace("\\\n", " ").splitlines()
    assert not [line for line in lines if "pip" in line and "--quiet" in line]
    slow = re.compile(r'^ *(?:TMPDIR=\S+ )?(?:step .*)?("\$\{pip\[@\]\}"|"\S*python" -m|rpmbuild|dpkg-deb --root)')
    found = [line for line in lines if slow.match(line)]
    assert len(found) >= 8
    assert [line for line in found if "step " not in line] == []
