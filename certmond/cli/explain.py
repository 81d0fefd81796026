"""Search for a section of the runbook. The package contains the runbook, so the search needs no network.

A section describes a reason or an alert: the meaning, the commands to inspect the problem, and the remedy. The headings
of runbook.md are exactly the names of the reasons and of the alerts.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.resources import files

from certmond.errors import CertmondError


def explain(name: str) -> str:
    """Return the runbook's section on a reason or an alert. Ignore case, spaces, hyphens and underscores in `name`.

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
    """Return the sections of the runbook by heading, in the order of the runbook."""
    text = files("certmond").joinpath("runbook.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return {part.partition("\n")[0].strip(): f"## {part.strip()}" for part in parts}


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
