"""The pages of the documentation that contain measurements. The text of a page is a template."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).parent / "templates"


def filled(name: str, values: Mapping[str, str]) -> str:
    """Return the page `name` with `values` in the place of the placeholders of its template."""
    return Template((TEMPLATES / name).read_text()).substitute(values)


def write_pages(directory: Path, pages: Mapping[str, str]) -> None:
    """Replace the files `pages` in a directory. A failure leaves each file complete, and no temporary file."""
    with tempfile.TemporaryDirectory(prefix=".pages-", dir=directory) as staged:
        for name, text in pages.items():
            (Path(staged) / name).write_text(text)
        for name in pages:
            os.replace(Path(staged) / name, directory / name)
