"""The pages of docs/migration: each command of ours is one, each configuration good, each series and alert there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from certmond.cli import cli
from certmond.config import Source, parse
from certmond.expose.render import COUNT, FAMILIES
from certmond.expose.telemetry import Telemetry
from certmond.pki.reason import Reason
from tests.distributions import MAKERS
from tests.node import Node

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs/migration").glob("*.md"))}
PAGES["profiles"] = (ROOT / "docs/profiles.md").read_text()
PROFILES = {"starlingx": "starlingx"}
READ_ONLY = ("check", "plan", "forecast", "discover", "metrics", "config validate")


def commands(text: str) -> Iterator[list[str]]:
    """Each command line of ours in a block of them."""
    for line in re.findall(r"(?m)^    (certmond .*)$", text):
        words = shlex.split(line, comments=True)
        yield words[1 : words.index(">")] if ">" in words else words[1:]


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```$", text)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page: str) -> None:
    """Each command line of ours has a verb and options that there are."""
    for words in commands(PAGES[page]):
        group: click.Command = cli
        arguments = list(words)
        while isinstance(group, click.Group):
            group = group.commands[arguments.pop(0)]
        group.make_context(" ".join(words), arguments)  # raises for what there is not


@pytest.mark.parametrize("page", ["kubeadm", "starlingx"])
def test_what_only_looks_runs(page: str, tmp_path: Path) -> None:
    """Each of these commands that only looks, and each dry run, does so on a node of its kind."""
    root = tmp_path / "node"
    root.mkdir()
    _ = MAKERS[page](root) if page in MAKERS else Node(root)
    for words in commands(PAGES[page]):
        if not " ".join(words).startswith(READ_ONLY) and "--dry-run" not in words:
            continue
        arguments = [*words, "--root", str(root), "--profile", PROFILES.get(page, "kubeadm")]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code in {0, 1}, (words, done.output, done.exception)
        assert not isinstance(done.exception, Exception), words


@pytest.mark.parametrize("page", PAGES)
def test_every_configuration_is_good(page: str) -> None:
    """Each block of YAML is a configuration without a problem, with the profile that the page is about."""
    for number, block in enumerate(blocks(PAGES[page], "yaml"), start=1):
        named = yaml.safe_load(block).get("profile")
        config = parse([Source(f"{page}, block {number}", block)], profile=named or PROFILES.get(page))
        assert config.certificates


def test_every_series_and_reason_of_ours_is_there() -> None:
    """Each series, reason and alert of ours on the page of the exporters is one."""
    page = PAGES["exporters"]
    known = {name for name, *_ in (*FAMILIES, COUNT)}
    known |= set(re.findall(r"(?m)^# TYPE (\S+)", Telemetry("observe").text()))
    assert not set(re.findall(r"\bcertmond_\w+", page)) - known
    reasons = {word for found in re.findall(r'reason=~?"([^"]+)"', page) for word in re.split(r"\\?\|", found)}
    assert reasons
    assert reasons <= {reason.value for reason in Reason}
    alerts = set(re.findall(r"alert: (\w+)", (ROOT / "config/alerts.yaml").read_text()))
    assert not set(re.findall(r"`(Certmond\w+)`", page)) - alerts


def test_every_page_is_linked() -> None:
    """The list of pages has each of them."""
    listed = set(re.findall(r"\((\w+)\.md\)", PAGES["README"]))
    assert listed == set(PAGES) - {"README", "profiles"}
