"""The prose linter of `make prose` finds the markers that docs/style.md excludes, where people read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.deadline import DEADLINE

ROOT = Path(__file__).parents[1]
TEXTLINT = ROOT / ".venv/lib/prose/node_modules/textlint/bin/textlint.js"


def findings(configuration: str, file: Path, text: str) -> list[tuple[int, str]]:
    """Line and text of each finding of the linter in `file` with this text."""
    if not TEXTLINT.exists():
        unavailable("textlint not installed: make prose")
    file.write_text(text)
    rules = ["--rules-base-directory", str(TEXTLINT.parents[2]), "--config", f"docs/prose/{configuration}.json"]
    command = [str(ROOT / ".venv/bin/node"), str(TEXTLINT), *rules, "--format", "unix", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == bool(done.stdout.strip()), done.stderr
    found = re.findall(rf"(?ms)^{re.escape(str(file))}:(\d+):\d+: (.*?) (?:=>|exceeds).*?\[Error/", done.stdout)
    return [(int(line), " ".join(words.split())) for line, words in found]


@pytest.mark.long
@pytest.mark.real("textlint")
def test_a_marker_in_a_page_is_a_finding(tmp_path: Path) -> None:
    """A marker is found in a heading, a paragraph, a link and a table, also across a line break, and not in code."""
    page = """# A page that nobody reads

The daemon does not read it any
more. See [what is told](page.md).

| key | meaning |
|---|---|
| `nobody` | whoever reads |

    somebody types this
"""
    assert findings("documentation", tmp_path / "page.md", page) == [
        (1, "nobody"), (3, "any more"), (4, "told"), (8, "whoever"),
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.real("textlint")
def test_a_long_sentence_in_a_page_is_a_finding(tmp_path: Path) -> None:
    """A sentence of more than 220 characters is a finding; two sentences of that length together are not."""
    half = f"The daemon reads {'each certificate and each key and ' * 3}nothing else"
    assert findings("documentation", tmp_path / "page.md", f"# Page\n\n{half}, and {half}.\n")
    assert not findings("documentation", tmp_path / "page.md", f"# Page\n\n{half}. {half}.\n")


@pytest.mark.long
@pytest.mark.real("textlint")
def test_a_marker_in_a_module_is_a_finding(tmp_path: Path) -> None:
    """A marker is a finding in a docstring, a comment and a message, but not in `is None` or the name of a function."""
    module = '''"""What somebody is told."""

# Put right by the next pass.
def told_once(value):
    if value is None:
        raise ValueError("nobody gave a value")
'''
    assert findings("python", tmp_path / "module.py", module) == [
        (1, "somebody"), (1, "told"), (3, "Put right"), (6, "nobody"),
    ]  # fmt: skip


def test_every_path_of_the_linter_exists() -> None:
    """Each exception names a file that exists."""
    lines = (ROOT / "docs/prose/exceptions").read_text().splitlines()
    paths = [line for line in lines if line and not line.startswith("#")]
    assert paths
    assert not [path for path in paths if not any(ROOT.glob(path))]
