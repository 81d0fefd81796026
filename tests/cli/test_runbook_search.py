"""The runbook has a section for each finding and alert, and every command in it exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from certmond.cli.deferred_commands import DeferredCommands
from certmond.cli.main import cli
from certmond.cli.runbook_search import explain, sections
from certmond.errors import CertmondError
from certmond.pki.findings import Reason

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "config/alerts.yaml").read_text())["groups"][0]["rules"]
ALERTS = list(dict.fromkeys(rule["alert"] for rule in RULES))
NAMES = [*(reason.value for reason in Reason), *ALERTS]


def test_each_reason_and_alert_has_one_section() -> None:
    """Every Reason and every alert of config/alerts.yaml has one section, and there are no others."""
    text = (ROOT / "certmond/runbook.md").read_text()
    assert sorted(re.findall(r"^## (.*)$", text, re.MULTILINE)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_section_of_a_name_is_its_own(name: str) -> None:
    """What is explained begins with the name itself and ends where the next section begins."""
    section = explain(name)
    assert section.startswith(f"## {name}\n\n")
    assert re.findall(r"^#+ ", section, re.MULTILINE) == ["## "]
    assert section == section.strip()


@given(st.sampled_from(NAMES), st.sampled_from([str.lower, str.upper, str.title, str.swapcase]), st.sampled_from("_- "))
def test_a_name_is_known_however_it_is_written(name: str, case: object, separator: str) -> None:
    """Upper and lower case, hyphens and underscores make no difference."""
    assert callable(case)
    assert explain(case(name.replace("_", separator))) == explain(name)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("near_expiry", "nearing_expiry"),
        ("keymismatched", "key_mismatch"),
        ("CertmondChainsBroken", "CertmondChainBroken"),
        ("certmond-daemon-down", "CertmondDown"),
    ],
)
def test_an_unknown_name_is_answered_with_what_may_have_been_meant(wrong: str, meant: str) -> None:
    """An unknown name is refused with the closest one, and with all that there are."""
    with pytest.raises(CertmondError, match=f"did you mean {meant}\\?") as refusal:
        explain(wrong)
    assert all(name in str(refusal.value) for name in NAMES)


@pytest.mark.parametrize("wrong", ["", "xyzzy", "\n", "a" * 100_000])
def test_an_unknown_name_gets_the_list(wrong: str) -> None:
    """Without a similar name, only the list is printed, and the message stays readable for any input."""
    with pytest.raises(CertmondError, match="no section") as refusal:
        explain(wrong)
    assert "did you mean" not in str(refusal.value)
    assert "nearing_expiry" in str(refusal.value)
    assert len(str(refusal.value)) < 2000


@pytest.mark.parametrize("name", NAMES)
def test_a_section_fits_on_a_terminal_and_has_a_command(name: str) -> None:
    """A section has a command that inspects the problem. It fits on a terminal of 24 lines and 120 columns."""
    _, *lines = [line for line in explain(name).splitlines() if line]
    assert len(lines) >= 3
    assert len(explain(name).splitlines()) <= 24
    assert max(map(len, lines)) <= 120
    assert any(line.startswith("    ") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_a_section_starts_with_the_action_of_the_operator(name: str) -> None:
    """A section starts with the action. The meaning and the special cases follow the commands."""
    _, *lines = [line for line in explain(name).splitlines() if line]
    is_command = [line.startswith("    ") for line in lines]
    assert not is_command[0]
    assert not is_command[-1]


@pytest.mark.parametrize("name", NAMES)
def test_no_code_is_broken_over_two_lines(name: str) -> None:
    """Text in backquotes can be copied from one line."""
    assert all(line.count("`") % 2 == 0 for line in explain(name).splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_ours_exists(name: str) -> None:
    """A section names only verbs that this version of certmond has, and only sections that are there."""
    commands = re.findall(r"(?:^    |[`;] ?)certmond ((?:[\w-]+ ?)+)", explain(name), re.MULTILINE)
    verbs = cli.every_command()
    for verb, *rest in map(str.split, commands):
        assert verb in verbs
        if verb == "explain":
            assert not rest or rest[0] in NAMES
        elif isinstance(group := verbs[verb], DeferredCommands):
            assert rest[0] in group.every_command()
        elif isinstance(group, click.Group):
            assert rest[0] in group.commands


def test_the_verb_prints_the_section() -> None:
    """`certmond explain` prints it and exits with 0; an unknown name is an error of certmond's own."""
    done = CliRunner().invoke(cli, ["explain", "Key-Mismatch"])
    assert (done.exit_code, done.output) == (0, explain("key_mismatch") + "\n")
    assert isinstance(CliRunner().invoke(cli, ["explain", "nonsense"]).exception, CertmondError)


def test_the_runbook_in_the_documentation_is_the_shipped_one() -> None:
    """docs/runbook.md is the file that is shipped with the package, not a copy that could differ."""
    assert (ROOT / "docs/runbook.md").resolve() == ROOT / "certmond/runbook.md"
    assert all(section in (ROOT / "docs/runbook.md").read_text() for section in sections().values())
