"""The generated references: `python -m docs.generate` writes them all from the code, and they are committed.

Each module returns text and reads only the code. `OUTPUTS` maps each file to its text. A test compares the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from docs.generate import commands, configuration, findings, flags, manual, metrics, profiles

ROOT = Path(__file__).parents[2]

OUTPUTS: Mapping[str, Callable[[], str]] = {
    "config/config.schema.json": configuration.schema_text,
    "docs/reference/configuration.md": configuration.reference,
    "docs/reference/metrics.md": metrics.reference,
    "docs/reference/findings.md": findings.reference,
    "docs/reference/flags.md": flags.reference,
    "docs/reference/commands.md": commands.reference,
    "docs/profiles.md": profiles.reference,
    "docs/man/certmond.8": manual.program,
    **{f"docs/man/certmond-{group.name}.8": partial(manual.verb, group) for group in commands.groups()},
    "docs/man/certmond.yaml.5": manual.file,
}
"""File below the root of the repository -> function that returns its text."""
