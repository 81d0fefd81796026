"""The alerting rules, tested with promtool: each alert fires, does not fire, resolves, and uses certmond's terms."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.cli.runbook_search import sections
from certmond.expose.http.access_control import SUCCESSFUL
from certmond.expose.metrics.exposition import Renderer
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.pki.assessment.assess import Assessment
from certmond.pki.findings import Reason, Severity
from tests.conftest import real_part

CONFIG = Path(__file__).parents[2] / "config"
RULES: list[dict[str, Any]] = yaml.safe_load((CONFIG / "alerts.yaml").read_text())["groups"][0]["rules"]
RECORDING: list[dict[str, Any]] = yaml.safe_load((CONFIG / "recording.yaml").read_text())["groups"][0]["rules"]
UNIT_TESTS: list[dict[str, Any]] = yaml.safe_load((CONFIG / "alerts_test.yaml").read_text())["tests"]


def promtool(*arguments: str | Path) -> None:
    """Run promtool. The test fails with its output."""
    done = subprocess.run([real_part("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.real("promtool")
def test_promtool_has_no_objection_to_the_rules() -> None:
    """`promtool check rules` accepts the files, with every lint that it knows."""
    promtool("check", "rules", "--lint=all", "--lint-fatal", CONFIG / "alerts.yaml", CONFIG / "recording.yaml")


@pytest.mark.long
@pytest.mark.real("promtool")
def test_the_unit_tests_of_the_rules_hold() -> None:
    """`promtool test rules` passes: what fires, what it says, what does not fire, what resolves; what is recorded."""
    promtool("test", "rules", CONFIG / "alerts_test.yaml", CONFIG / "recording_test.yaml")


def test_each_recorded_series_is_tested_and_has_a_level() -> None:
    """A recording rule has a name of level:metric:operation, and a unit test that evaluates it."""
    tests = yaml.safe_load((CONFIG / "recording_test.yaml").read_text())["tests"]
    asked = {each["expr"] for test in tests for each in test["promql_expr_test"] if each["exp_samples"]}
    names = [rule["record"] for rule in RECORDING]
    assert set(names) == asked
    assert len(names) == len(asked)
    assert all(re.fullmatch(r"instance(_\w+)?:certmond_\w+:\w+", name) for name in names)


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in RULES}))
def test_each_alert_is_tested_firing_and_not_firing(alert: str) -> None:
    """The unit tests have, for each alert and severity, a moment at which it fires and one at which it does not."""
    expected = [
        {item["exp_labels"]["severity"] for item in each["exp_alerts"]}
        for test in UNIT_TESTS
        for each in test.get("alert_rule_test", ())
        if each["alertname"] == alert
    ]
    assert set().union(*expected) == {rule["labels"]["severity"] for rule in RULES if rule["alert"] == alert}
    assert set() in expected


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_has_a_severity_and_a_runbook(rule: dict[str, Any]) -> None:
    """An alert has a severity of certmond, a summary, a description, the command that explains it offline, and the
    address of the same section of the runbook.
    """
    assert rule["alert"].startswith("Certmond")
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in set(Severity)
    assert rule["annotations"].keys() == {"summary", "description", "runbook", "runbook_url"}
    assert rule["annotations"]["runbook"] == f"certmond explain {rule['alert']}"
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "file:///usr/share/doc/certmond/docs/runbook.md"
    assert anchor in {heading.lower() for heading in sections()}
    assert anchor == rule["alert"].lower()


def test_no_alert_has_two_rules_of_one_severity() -> None:
    """Name and severity together name a rule."""
    assert set(Counter((rule["alert"], rule["labels"]["severity"]) for rule in RULES).values()) == {1}


def test_the_rules_ask_only_for_what_is_exported() -> None:
    """Every metric in an expression is a family that the daemon renders, or the listener's own."""
    text = Renderer().metrics(Assessment(datetime.now(UTC), (), {}), Telemetry("observe").text())
    exported = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    exported |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\w+) histogram", text, re.MULTILINE)}
    exported |= {SUCCESSFUL}
    asked = {name for rule in [*RULES, *RECORDING] for name in re.findall(r"\bcertmond_\w+", rule["expr"])}
    assert asked
    assert asked <= exported


def test_the_rules_know_no_reason_that_does_not_exist() -> None:
    """Every reason that an expression names is a Reason."""
    named = re.findall(r'reason[=!]~?"([^"]*)"', " ".join(rule["expr"] for rule in RULES))
    assert {reason for alternatives in named for reason in alternatives.split("|")} <= set(Reason)


@pytest.mark.long
@pytest.mark.real("promtool")
def test_every_finding_that_is_more_than_information_raises_one_alert(tmp_path: Path) -> None:
    """Each Reason, critical or warning, alone on its certificate, raises exactly one alert of its severity.

    `nearing_expiry` raises none, because the dates have their own alerts. Information raises none either.
    """
    kinds = [(reason, severity) for reason in Reason for severity in Severity]
    series = [
        {"series": _finding(reason, severity, f"{reason}-{severity}"), "values": "1x40"} for reason, severity in kinds
    ]
    speaks = [kind for kind in kinds if kind[1] is not Severity.INFO and kind[0] is not Reason.NEARING_EXPIRY]
    samples = [
        {"labels": f'{{certificate="{reason}-{severity}", severity="{severity}"}}', "value": 1}
        for reason, severity in speaks
    ]
    expression = 'count by (certificate, severity) (ALERTS{alertstate="firing", certificate!=""})'
    test = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [{"expr": expression, "eval_time": "30m", "exp_samples": samples}],
    }
    document = {"rule_files": [str(CONFIG / "alerts.yaml")], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", tmp_path / "test.yaml")


def _finding(reason: Reason, severity: Severity, certificate: str) -> str:
    about = f'certificate="{certificate}", path="/x", reason="{reason}", severity="{severity}"'
    return f'certmond_finding{{job="certmond", instance="a", {about}}}'
