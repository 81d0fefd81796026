"""`python -m docs.generate.terminal`: the output of `certmond check` as an image, docs/img/terminal.svg.

The node is that of the demonstration, with three faults. The image has the dates of the day of its creation, so
`make reference` does not write it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from certmond.demo.node import Node
from certmond.expose.documents.status_table import status_table
from docs.generate import ROOT

COLUMNS = 128
LOCAL = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<title>certmond check</title>
<style>.{unique_id}-matrix {{ font: {char_height}px monospace; line-height: {line_height}px; }} {styles}</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""
"""Template that uses a font of the reader: rich's own template downloads one."""


def check_document(root: Path, *, with_faults: bool = True) -> dict[str, Any]:
    """Return the document of `certmond check` on the node of the demonstration, by default with three faults."""
    now = datetime.now(UTC)
    node = Node(root, now)
    node.make()
    if with_faults:
        node.put(node.issue("front-proxy-client", timedelta(days=340)).files)
        node.put(node.other_key("apiserver-etcd-client"))
        node.truncate("/etc/kubernetes/pki/apiserver.crt")
    later = f"{now + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"  # certmond waits for a pair that has just changed
    command = [sys.executable, "-m", "certmond", "--root", str(root), "check", "-o", "json", "--at", later]
    printed = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
    document: dict[str, Any] = json.loads(printed.decode().replace(str(root), ""))
    return document


def picture(document: dict[str, Any]) -> str:
    """Return the SVG image of a terminal with the output."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, highlight=False)
    console.print(Text("$ certmond check"))
    console.print(status_table(document))
    return console.export_svg(title="certmond check", theme=MONOKAI, code_format=LOCAL, unique_id="terminal")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        made = picture(check_document(Path(place)))
    (ROOT / "docs/img/terminal.svg").write_text(made, encoding="utf-8")
