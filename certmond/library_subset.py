"""Import of a part of a library: modules one by one, without another module, and with deferred regular expressions."""

from __future__ import annotations

import re
import sys
from collections.abc import Container, Sequence
from functools import cached_property
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_COMPILE = re.compile


def exclude(name: str, *replacements: str) -> None:
    """Prevent the import of the module `name`, so that its importer uses the modules `replacements`.

    The function does nothing if a replacement is missing, or if the process has already imported `name`.
    """
    modules: dict[str, Any] = sys.modules
    if all(map(find_spec, replacements)):
        modules.setdefault(name, None)  # None prevents the import (Python language reference, 5.3.1)


def register(name: str, *sources: str) -> None:
    """Register the package `name` without running its `__init__`, which would import all modules of the package.

    The package has the names of the modules `sources`, from which its `__init__` imports names. Other modules of the
    process get the complete package at their first access to a name that is still missing. Only one thread may do this
    first access. The function does nothing if the process has already imported the package.
    """
    if name in sys.modules or (spec := find_spec(name)) is None or (loader := spec.loader) is None:
        return
    package = module_from_spec(spec)

    def complete(missing: str) -> Any:
        for source in map(import_module, sources):
            if missing in source.__dict__ and not missing.startswith("__"):
                return source.__dict__[missing]
        if find_spec(f"{name}.{missing}"):
            return import_module(f"{name}.{missing}")
        package.__dict__.pop("__getattr__", None)
        try:
            loader.exec_module(package)
        except BaseException:
            package.__dict__["__getattr__"] = complete
            raise
        publish(sys.modules[name])  # cryptography replaces the module of a package by a wrapper
        return getattr(sys.modules[name], missing)

    def publish(module: ModuleType) -> None:
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)

    package.__dict__["__getattr__"] = complete
    publish(package)


def defer_patterns(*names: str) -> None:
    """Compile the regular expressions of the modules `names` at their first use, not at the import of the module.

    The modules may call only methods of these expressions. The function does nothing for a module that the process has
    already imported, or whose source is not a file. Only one thread may import these modules.
    """
    sys.meta_path.insert(0, _PatternFinder(names))


class _PatternFinder:
    """Finder of the modules whose expressions are deferred."""

    def __init__(self, names: Container[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._names or (spec := PathFinder.find_spec(name, path, target)) is None:
            return None
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _PatternLoader(name, spec.loader.path)
        return spec


class _PatternLoader(SourceFileLoader):
    """Loader of such a module: `re.compile` returns a deferred expression to this module, and to no other module."""

    def exec_module(self, module: ModuleType) -> None:
        def compile_or_defer(pattern: Any, flags: Any = 0) -> Any:
            used = _DeferredPattern if sys._getframe(1).f_globals is module.__dict__ else _COMPILE
            return used(pattern, flags)

        re.compile = compile_or_defer
        try:
            super().exec_module(module)
        finally:
            re.compile = _COMPILE  # not the former value, which another thread can have replaced


class _DeferredPattern:
    """A regular expression that the first access to an attribute compiles."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    @cached_property
    def _compiled(self) -> re.Pattern[Any]:
        return re.compile(*self._arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _COMPILE, self._arguments
