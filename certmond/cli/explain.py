"""The runbook, offline: what a reason or an alert means, how to see it, what to do.

Owns the looking up of a section of runbook.md, which is shipped with the package. Its headings are the names of the
reasons and of the alerts, and it has no other sections.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.resources import files

from certmond.errors import CertmondError


def explain(name: str) -> str:
    """The section of the runbook about a reason or an alert, in whatever case, with hyphens or underscores.

    Raises CertmondError for a name that has none.
    """
    by_key = {_key(heading): section for heading, section in sections().items()}
    if section := by_key.get(_key(name)):
        return section
    headings = {_key(heading): heading for heading in sections()}
    close = difflib.get_close_matches(_key(name)[:64], headings, n=1)
    meant = f"did you mean {headings[close[0]]}? " if close else ""
    raise CertmondError(f"the runbook has no section {name[:64]!r}; {meant}there are {', '.join(sections())}")


@cache
def sections() -> dict[str, str]:
    """Every section of the runbook by its heading, in order."""
    text = files("certmond").joinpath("runbook.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return {part.partition("\n")[0].strip(): f"## {part.strip()}" for part in parts}


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
