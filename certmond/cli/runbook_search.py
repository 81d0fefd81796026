"""Search of the runbook, which is part of the package.

The heading of a section is exactly the name of a reason or an alert.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.resources import files

from certmond.errors import CertmondError


def explain(name: str) -> str:
    """Return the section of the runbook on a reason or an alert. Ignore case, spaces, hyphens and underscores.

    Raises CertmondError if the runbook has no such section.
    """
    by_key = {_key(heading): section for heading, section in sections().items()}
    if section := by_key.get(_key(name)):
        return section
    headings = {_key(heading): heading for heading in sections()}
    close = difflib.get_close_matches(_key(name)[:64], headings, n=1)
    suggestion = f"did you mean {headings[close[0]]}? " if close else ""
    raise CertmondError(
        f"the runbook has no section {name[:64]!r}; {suggestion}the sections are: {', '.join(sections())}"
    )


@cache
def sections() -> dict[str, str]:
    """Return the sections of the runbook by heading, in the order of the runbook."""
    text = files("certmond").joinpath("runbook.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return {part.partition("\n")[0].strip(): f"## {part.strip()}" for part in parts}


def contents() -> str:
    """Return one line for each section of the runbook: its heading and its first sentence."""
    width = max(map(len, sections()))
    return "\n".join(f"{name.ljust(width)}  {_first_sentence(text)}" for name, text in sections().items())


def _first_sentence(section: str) -> str:
    body = section.partition("\n\n")[2].partition("\n\n")[0]
    return re.split(r"(?<=[.:])\s", " ".join(body.split()), maxsplit=1)[0].rstrip(".:")


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
