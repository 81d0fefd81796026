"""Label values of Prometheus's text format (0.0.4)."""

from __future__ import annotations

import re

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_SPECIAL = re.compile(r'[\\"\n]')


def escaped(value: str) -> str:
    """`value` as it stands between the quotes of a label."""
    if not value.isascii():  # a file's name may be any bytes; one that is no UTF-8 must not cost everybody the scrape
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value.translate(_ESCAPES) if _SPECIAL.search(value) else value
