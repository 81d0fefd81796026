"""The code works with the oldest supported Python, as far as static checks can show.

mypy checks the functions of that version, and ruff the syntax. Neither detects a class that can be subscripted only
since a later version: `array[int]` is valid as an annotation, and a TypeError if it is evaluated. Neither detects a
value that is hashable only since a later version: as the default of a field, it is a ValueError when the dataclass is
created.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages
from types import MappingProxyType, ModuleType

import pytest

import certmond

ROOT = Path(__file__).parents[1]
OLDEST = tuple(
    map(int, tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"].split("."))
)


def stub(module: str) -> ast.Module:
    """Return mypy's stub of a module of the standard library."""
    spec = find_spec("mypy")
    assert spec
    assert spec.origin
    place = Path(spec.origin).parent / "typeshed/stdlib" / module.replace(".", "/")
    found = [path for path in (place.with_suffix(".pyi"), place / "__init__.pyi") if path.exists()]
    return ast.parse(found[0].read_text()) if found else ast.Module([], [])


@cache
def subscriptable_since(module: str, name: str) -> tuple[int, ...]:
    """The version that made this class subscriptable; () where it always was, or nothing is known."""
    for each in ast.walk(stub(module)):
        for inner in each.body if isinstance(each, ast.ClassDef) and each.name == name else ():
            if isinstance(inner, ast.If) and "__class_getitem__" in ast.unparse(inner):
                compared = inner.test
                if isinstance(compared, ast.Compare) and ast.unparse(compared.left) == "sys.version_info":
                    since: tuple[int, ...] = ast.literal_eval(compared.comparators[0])
                    return since
    return ()


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes below except annotations, which Python does not evaluate."""
    for each in ast.iter_child_nodes(node):
        if (
            isinstance(node, ast.arg)
            or each is getattr(node, "returns", None)
            or each is getattr(node, "annotation", None)
        ):
            continue
        yield each
        yield from evaluated(each)


def too_new(source: str) -> list[str]:
    """Each subscript of a class that the oldest Python cannot subscript, with its line."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: (each.module or "", alias.name)
        for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) and not each.level for alias in each.names
    }  # fmt: skip
    return [
        f"line {each.lineno}: {ast.unparse(each)}"
        for each in evaluated(tree) if isinstance(each, ast.Subscript) and isinstance(each.value, ast.Name)
        if subscriptable_since(*imported.get(each.value.id, ("", ""))) > OLDEST
    ]  # fmt: skip


@pytest.mark.long
def test_no_class_is_subscripted_that_the_oldest_cannot() -> None:
    """At run time no class of the standard library is subscripted that Python 3.11 cannot subscript."""
    sources = [path for part in ("certmond", "fuzz", "benchmarks", "packaging") for path in (ROOT / part).rglob("*.py")]
    assert {str(path): found for path in sources if (found := too_new(path.read_text()))} == {}


def test_what_is_evaluated_is_checked() -> None:
    """The check ignores an annotation, and checks a call and the value of a name."""
    lines = ["from array import array", "def f(a: array[int]) -> array[int]:", "    b: array[int] = a", "    return b",
             "found = list[array[int]]()", "Alias = array[int]"]  # fmt: skip
    assert too_new("\n".join(lines)) == ["line 5: array[int]", "line 6: array[int]"]


HASHABLE_LATER = (MappingProxyType, slice)
"""Classes whose instances are hashable since Python 3.12 ("What's New In Python 3.12", Other Language Changes)."""


def modules() -> Iterator[ModuleType]:
    """Every module of the package, imported."""
    for each in walk_packages(certmond.__path__, "certmond."):
        if not each.name.endswith("__main__"):
            yield import_module(each.name)


def is_refused(default: object) -> bool:
    """Python 3.11 treats the default of a field as mutable: it is not hashable there."""
    return isinstance(default, HASHABLE_LATER) or type(default).__hash__ is None


def test_every_dataclass_works_with_the_oldest() -> None:
    """No field of a dataclass has a default that Python 3.11 refuses because it is not hashable there."""
    classes = {each for module in modules() for each in vars(module).values() if isinstance(each, type)}
    own = [each for each in classes if each.__module__.partition(".")[0] == "certmond" and is_dataclass(each)]
    assert len(own) > 100
    refused = [
        (each.__module__, each.__name__, one.name) for each in own for one in fields(each) if is_refused(one.default)
    ]
    assert refused == []


def test_which_defaults_are_refused() -> None:
    """A read-only view of a mapping is refused as a default. No default at all, a tuple and a number are not."""
    assert all(map(is_refused, (MappingProxyType({}), slice(1), [])))
    assert not any(map(is_refused, (MISSING, (), 0)))
