"""Escapes for label values in the text format of Prometheus (0.0.4)."""

from __future__ import annotations

import re

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_SPECIAL = re.compile(r'[\\"\n]')


def escaped(value: str) -> str:
    """Return `value` with the escapes that a label value requires, without the quotes."""
    if not value.isascii():  # a file name can contain invalid UTF-8, which must not break the scrape
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value.translate(_ESCAPES) if _SPECIAL.search(value) else value
