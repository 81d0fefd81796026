"""Label values of Prometheus's text format (0.0.4)."""

from __future__ import annotations

import re

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_SPECIAL = re.compile(r'[\\"\n]')


def escaped(value: str) -> str:
    """Return `value` as written between the quotes of a label."""
    if not value.isascii():  # file names may be any bytes; invalid UTF-8 must not break the scrape
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value.translate(_ESCAPES) if _SPECIAL.search(value) else value
