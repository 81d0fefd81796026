"""The mutants of mutation testing: each has one mistake and differs from the original, and unreachable code has
none.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutants import mutants
from benchmarks.mutation import fresh_copy
from tests.documents import ROOT


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("x = a < b", ["x = a <= b"]),
        ("x = a is None", ["x = a is not None"]),
        ("x = a and b", ["x = a or b"]),
        ("x = not a", ["x = a"]),
        ("x = 3", ["x = 4"]),
        ("x = True", ["x = False"]),
        ("x = a + b", ["x = a - b"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("def f():\n    return None", []),
        ("tell(a)", ["pass"]),
        ("raise a", ["pass"]),
        ("if a:\n    b = c", ["if not a:\n    b = c"]),
        ("def f(x: int=a | b) -> c < d: ...", ["def f(x: int=a & b) -> c < d: ..."]),
        ("@cache(3)\ndef f(): ...", []),
        ("'words'\nx = 'words'", []),
    ],
)
def test_a_mutant_has_one_mistake(text: str, wrong: list[str]) -> None:
    """The mistakes concern comparisons, booleans, numbers, operators, returned values and statements. Strings,
    annotations and decorators stay.
    """
    assert [each.text for each in mutants(text)] == [ast.unparse(ast.parse(each)) for each in wrong]


def test_a_mutant_has_its_line_and_the_start_of_its_statement() -> None:
    """So the tests that reach it can be found."""
    (found,) = mutants("x = (\n    a\n    == b\n)\n")
    assert (found.begin, found.line) == (1, 2)


RUN = """
import hypothesis
from benchmarks.mutation import Order, run
hypothesis.settings.register_profile("mutation", deadline=None)
print(run(Order(), ["tests"]).failed)
"""


@pytest.mark.long
def test_a_mutant_that_prevents_all_tests_is_detected(tmp_path: Path) -> None:
    """If even the fixtures cannot be imported, no test fails."""
    for name in ("certmond/__init__.py", "tests/test_it.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    (tmp_path / "tests/conftest.py").write_text("import certmond.nothing\n")
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r}){RUN}"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1].startswith("pytest itself, with the status ")


JUDGED = """
import hypothesis
from pathlib import Path
from benchmarks import mutation
from benchmarks.mutants import mutants
hypothesis.settings.register_profile("mutation", deadline=None)
mutation.LIMITS, mutation.WORK = (1, 2), Path.cwd()
(mutant,) = mutants("x = 3")
known = {"reached": {}, "tests": {"tests/test_it.py::test_it": 0.0}}
print(mutation.judged(Path.cwd(), "certmond/it.py", mutant, known)["verdict"])
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("condition", "verdict"), [("attempts.read_text() == 'x'", "survived"), ("len(attempts.read_text()) < 3", "killed")]
)
def test_a_test_that_exceeds_its_limit_has_a_second_attempt(tmp_path: Path, condition: str, verdict: str) -> None:
    """A mutant is detected if a test exceeds its time limit also with the second, longer limit."""
    for name in ("certmond/__init__.py", "certmond/it.py", "tests/test_it.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "tests/test_it.py").write_text(
        "import pathlib\n\ndef test_it():\n    attempts = pathlib.Path('attempts')\n"
        "    with attempts.open('a') as file:\n        file.write('x')\n"
        f"    while {condition}:\n        pass\n"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r}){JUDGED}"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == verdict


@pytest.mark.long
def test_the_copy_of_the_tree_has_all_that_the_tests_import(tmp_path: Path) -> None:
    """All tests of pki can be collected in the copy of the tree to which the mutants are written."""
    fresh_copy(tmp_path / "tree")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "--collect-only", "tests/pki"]
    without = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTEST_ADDOPTS"}}
    said = subprocess.run(command, cwd=tmp_path / "tree", env=without, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout[-2000:]
