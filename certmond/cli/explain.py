"""The runbook, offline: the meaning of a reason or an alert, the commands to inspect it, and the remedy.

Owns the search for a section of runbook.md, which is part of the package. Its headings are exactly the names of the
reasons and of the alerts.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.resources import files

from certmond.errors import CertmondError


def explain(name: str) -> str:
    """Return the runbook's section on a reason or an alert. Case, hyphens and underscores in `name` do not matter.

    Raises CertmondError for a name without a section.
    """
    by_key = {_key(heading): section for heading, section in sections().items()}
    if section := by_key.get(_key(name)):
        return section
    headings = {_key(heading): heading for heading in sections()}
    close = difflib.get_close_matches(_key(name)[:64], headings, n=1)
    suggestion = f"did you mean {headings[close[0]]}? " if close else ""
    raise CertmondError(f"the runbook has no section {name[:64]!r}; {suggestion}its sections: {', '.join(sections())}")


@cache
def sections() -> dict[str, str]:
    """Return every section of the runbook by its heading, in order."""
    text = files("certmond").joinpath("runbook.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return {part.partition("\n")[0].strip(): f"## {part.strip()}" for part in parts}


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
