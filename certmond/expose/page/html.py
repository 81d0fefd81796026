"""HTML elements of the page. The function `text` escapes every value from a file, a certificate or a message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

# The module `html` of Python loads the names of all characters, which would waste memory in this process.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_NO_FRAGMENT = re.compile(r"[^A-Za-z0-9./-]")


def text(value: object) -> str:
    """Return `value` with escapes, as the text of an HTML element or of a quoted attribute.

    Invisible characters also get escapes, because other users can choose subjects and file names.
    """
    plain = str(value)
    if not plain.isprintable():
        plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)
    return plain.translate(_ESCAPES)


def identity(entry: dict[str, Any]) -> str:
    """Return the URL fragment of the row of a certificate. Every version of the page has the same fragment."""
    # No character of a fragment requires an escape in an HTML attribute.
    return "c-" + _NO_FRAGMENT.sub(lambda each: f"_{ord(each[0]):x}_", f"{entry['name']}:{entry['path']}")


def moment(value: str | None, style: str = "minute") -> str:
    """Return the UTC time `value` (RFC 3339) as a `time` element, or "never" for None.

    `style` is the precision: `day`, `minute` or `second`.
    """
    if value is None:
        return "never"
    instant = datetime.fromisoformat(value)
    written = {"day": f"{instant:%Y-%m-%d}", "minute": f"{instant:%Y-%m-%d %H:%M} UTC"}.get(
        style, f"{instant:%Y-%m-%d %H:%M:%S}"
    )
    return f'<time datetime="{instant:%Y-%m-%dT%H:%M:%SZ}">{written}</time>'


def mark(state: str) -> str:
    """Return the symbol of a state. Each state has a different shape, for readers who cannot distinguish the colors."""
    return f'<span class="mark {text(state)}" aria-hidden="true"></span>'


def section(name: str, title: str, *parts: str) -> str:
    """Return a section of the page with the heading `title`. Screen readers show the section as a landmark."""
    head = f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
    return "\n".join((head, *parts, "</section>\n"))


def items(kind: str, lines: Iterable[str], name: str = "") -> str:
    """Return an HTML list with one item for each of `lines`. `kind` is `ul` or `ol`, and `name` is a CSS class."""
    named = f' class="{name}"' if name else ""
    return f"<{kind}{named}>\n" + "".join(f"<li>{line}</li>\n" for line in lines) + f"</{kind}>"


def count(number: int, one: str, many: str = "") -> str:
    """Return `number` with its noun in the singular or plural, such as `1 warning`, `2 warnings` or `no warnings`."""
    return f"{number:,} {one}" if number == 1 else f"{number or 'no':{',' if number else ''}} {many or one + 's'}"
