"""Each page of docs/migration is true on a node of its kind, and the names of certmond in it exist.

tests/test_command_blocks.py checks every command and every YAML block.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from certmond.cli.main import cli
from certmond.config.shipped_profiles import profiles
from certmond.expose.metrics.exposition import COUNT, FAMILIES
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.pki.findings import Reason
from tests.distributions import MAKERS
from tests.documents import DOCS, ROOT, blocks, calls

PAGES = {page.stem: page for page in sorted((DOCS / "migration").glob("*.md"))}
LOOKS = {"check", "plan", "forecast", "discover", "metrics", "config"}


@pytest.mark.long
@pytest.mark.parametrize("profile", ["starlingx", "kubespray", "kops"])
def test_the_commands_for_a_distribution_run_on_its_node(profile: str, tmp_path: Path) -> None:
    """Each command that reads, and each dry run, works with the profile that the page proposes."""
    tree = MAKERS[profile](tmp_path)
    commands = [command for block in blocks(PAGES[profile]) if block.is_commands for command in block.commands()]
    own = [words for command in commands for words in calls(command) if words[0] in LOOKS or "--dry-run" in words]
    assert len(own) > 3
    for words in own:
        done = CliRunner().invoke(cli, [*words, "--root", str(tree.root), "--profile", profile])
        assert done.exit_code in {0, 1}, (words, done.output, done.exception)


def test_the_names_on_the_page_of_the_exporters_exist() -> None:
    """Each series, reason and alert of certmond on that page exists."""
    page = PAGES["exporters"].read_text()
    known = {family.name for family in (*FAMILIES, COUNT)}
    known |= set(re.findall(r"(?m)^# TYPE (\S+)", Telemetry("observe").text()))
    assert not set(re.findall(r"\bcertmond_\w+", page)) - known
    reasons = {word for found in re.findall(r'reason=~?"([^"]+)"', page) for word in re.split(r"\\?\|", found)}
    assert reasons
    assert reasons <= {reason.value for reason in Reason}
    alerts = set(re.findall(r"alert: (\w+)", (ROOT / "config/alerts.yaml").read_text()))
    assert not set(re.findall(r"`(Certmond\w+)`", page)) - alerts


def test_every_page_is_in_the_list() -> None:
    """The list of pages has each of them."""
    assert set(re.findall(r"\(([\w-]+)\.md\)", PAGES["README"].read_text())) == set(PAGES) - {"README"}


@pytest.mark.parametrize("name", profiles())
def test_every_profile_has_its_section(name: str) -> None:
    """docs/profiles.md has a section for each profile that is shipped."""
    assert f"`profile: {name}`." in (DOCS / "profiles.md").read_text()
