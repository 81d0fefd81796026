"""Registration of a library as a package whose modules a process imports one by one."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any


def register(name: str) -> None:
    """Register the package `name` without running its `__init__`, which would import all modules of the package.

    Other modules of the process get the complete package at their first access to a missing name. The function does
    nothing if the process has already imported the package.
    """
    spec = find_spec(name)
    if name in sys.modules or spec is None or (loader := spec.loader) is None:
        return
    package = module_from_spec(spec)

    def complete(missing: str) -> Any:
        if find_spec(f"{name}.{missing}"):
            return import_module(f"{name}.{missing}")
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, missing)

    package.__dict__["__getattr__"] = complete
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
