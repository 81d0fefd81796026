"""The part of structlog that certmond uses: bound loggers, context variables and levels.

structlog's `__init__` also imports asyncio, rich and pygments, which take 5 MB in the daemon (docs/decisions/0060).
This module imports parts of structlog without running `__init__`.
"""

from __future__ import annotations

from certmond.library_subset import register

register("structlog")

from structlog._base import BoundLoggerBase  # noqa: E402 - `register` must run first
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
