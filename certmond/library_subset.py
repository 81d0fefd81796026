"""Import of a part of a library: a package whose modules a process imports one by one, and a module without another."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


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
