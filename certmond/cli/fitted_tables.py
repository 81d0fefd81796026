"""Tables of the commands, in the width of the terminal.

The environment variable COLUMNS overrides the width of the terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


def columns(default: int) -> int:
    """Return the value of COLUMNS or the width of the terminal. Without both, return `default`."""
    # A command in the same process, such as a test, can have another stdout than the process.
    is_known = "COLUMNS" in os.environ or sys.stdout.isatty()
    return shutil.get_terminal_size((default, 24)).columns if is_known else default


def status_table(document: dict[str, Any], wide: bool) -> RenderableType:
    """Return the table of the status document. If stdout is no terminal, the table has all columns in full width."""
    from certmond.expose.documents.status_table import FULL_WIDTH
    from certmond.expose.documents.status_table import status_table as full_table

    return full_table(document, wide, columns(FULL_WIDTH))


def plan_table(document: dict[str, Any], wide: bool) -> RenderableType:
    """Return the table of the plan document."""
    from certmond.expose.documents.forecast_table import WIDTH
    from certmond.expose.documents.forecast_table import plan_table as full_table

    return full_table(document, wide, columns(WIDTH))


def forecast_table(document: dict[str, Any], wide: bool) -> RenderableType:
    """Return the chart and the table of the forecast document."""
    from certmond.expose.documents.forecast_table import WIDTH
    from certmond.expose.documents.forecast_table import forecast_table as full_table

    return full_table(document, wide, columns(WIDTH))
