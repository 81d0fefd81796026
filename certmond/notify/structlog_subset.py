"""The part of structlog that certmond uses: bound loggers, context variables and levels.

structlog's `__init__` also imports asyncio, rich and pygments, which take 5 MB in the daemon (docs/decisions/0060).
This module imports parts of structlog without running `__init__`.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from typing import Any


def _find_package() -> None:
    """Register `structlog` as a package without running its `__init__`."""
    spec = find_spec("structlog")
    if "structlog" in sys.modules or spec is None or (loader := spec.loader) is None:
        return
    package = module_from_spec(spec)

    def complete(name: str) -> Any:
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    # Other modules of the process get the complete package at their first access to a missing name.
    package.__dict__["__getattr__"] = complete
    sys.modules["structlog"] = package


_find_package()

from structlog._base import BoundLoggerBase  # noqa: E402 - `_find_package` must run first
from structlog._log_levels import add_log_level  # noqa: E402
from structlog.contextvars import bound_contextvars, merge_contextvars  # noqa: E402
from structlog.typing import EventDict, Processor, WrappedLogger  # noqa: E402

__all__ = [
    "BoundLoggerBase",
    "EventDict",
    "Processor",
    "WrappedLogger",
    "add_log_level",
    "bound_contextvars",
    "merge_contextvars",
]
