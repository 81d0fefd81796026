"""Elements of the page's HTML. Every value from a file, a certificate or a message passes through `text`.

Pure, standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

# The module `html` loads the names of all characters, which take memory that this process does not need.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_NO_FRAGMENT = re.compile(r"[^A-Za-z0-9./-]")


def text(value: object) -> str:
    """Return a value as the text of an element or of a quoted attribute.

    Escape invisible characters, and those that change the direction of text, because users choose subjects and file
    names.
    """
    plain = str(value)
    if not plain.isprintable():
        plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)
    return plain.translate(_ESCAPES)


def identity(entry: dict[str, Any]) -> str:
    """Return the URL fragment of a certificate's row. It is the same in every rendering, and valid in an attribute."""
    return "c-" + _NO_FRAGMENT.sub(lambda each: f"_{ord(each[0]):x}_", f"{entry['name']}:{entry['path']}")


def moment(value: str | None, style: str = "minute") -> str:
    """Return a time of the documents (RFC 3339, UTC) as markup, with its day, minute or second."""
    if value is None:
        return "never"
    instant = datetime.fromisoformat(value)
    written = {"day": f"{instant:%Y-%m-%d}", "minute": f"{instant:%Y-%m-%d %H:%M} UTC"}.get(
        style, f"{instant:%Y-%m-%d %H:%M:%S}"
    )
    return f'<time datetime="{instant:%Y-%m-%dT%H:%M:%SZ}">{written}</time>'


def mark(state: str) -> str:
    """Return the symbol of a state, a distinct shape that accompanies the word."""
    return f'<span class="mark {text(state)}" aria-hidden="true"></span>'


def section(name: str, title: str, *parts: str) -> str:
    """Return a section of the page with its heading, as a landmark for screen readers."""
    head = f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
    return "\n".join((head, *parts, "</section>\n"))


def items(kind: str, lines: Iterable[str], name: str = "") -> str:
    """Return a list (`ul` or `ol`) of markup."""
    named = f' class="{name}"' if name else ""
    return f"<{kind}{named}>\n" + "".join(f"<li>{line}</li>\n" for line in lines) + f"</{kind}>"


def count(number: int, one: str, many: str = "") -> str:
    """Return `1 warning`, `2 warnings`, `no warnings`."""
    return f"{number:,} {one}" if number == 1 else f"{number or 'no':{',' if number else ''}} {many or one + 's'}"
