"""The Grafana dashboard: of a form that Grafana imports, and asking for nothing that is not there."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.expose.metrics.exposition import Renderer
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.pki.assessment.assess import Assessment
from tests.conftest import real_part

CONFIG = Path(__file__).parents[2] / "config"
TEXT = (CONFIG / "grafana-dashboard.json").read_text()
DASHBOARD: dict[str, Any] = json.loads(TEXT)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]
TARGETS = [target for panel in SHOWN for target in panel["targets"]]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
RECORDED = {
    rule["record"] for rule in yaml.safe_load((CONFIG / "recording.yaml").read_text())["groups"][0]["rules"]
}  # fmt: skip


def plain(expression: str) -> str:
    """As Grafana sends it: what it fills in filled in."""
    return expression.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")


def test_the_file_is_what_the_module_makes() -> None:
    """config/grafana-dashboard.json is made by config/grafana_dashboard.py: `make dashboard`."""
    assert runpy.run_path(str(CONFIG / "grafana_dashboard.py"))["text"]() == TEXT


def test_it_has_the_fields_that_grafana_requires() -> None:
    """kinds/dashboard/dashboard_kind.cue requires a title, a uid of 8 to 40 characters, a schema version, and no id."""
    assert DASHBOARD["id"] is None
    assert DASHBOARD["title"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{8,40}", DASHBOARD["uid"])
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert DASHBOARD["graphTooltip"] in {0, 1, 2}
    assert DASHBOARD["time"].keys() == {"from", "to"}
    assert {"annotations", "editable", "links", "refresh", "tags", "timepicker", "timezone"} <= DASHBOARD.keys()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_it_has_what_grafana_asks_of_a_panel(panel: dict[str, Any]) -> None:
    """A number, a kind, a place; a row has its panels; any other a data source, targets, options and a field config."""
    assert isinstance(panel["id"], int)
    assert panel["title"]
    place = panel["gridPos"]
    assert place.keys() == {"w", "h", "x", "y"}
    assert all(isinstance(number, int) and number >= 0 for number in place.values())
    assert place["h"] > 0 < place["w"] <= 24 - place["x"]
    if panel["type"] == "row":
        assert panel["panels"] == []
        assert panel["collapsed"] is False
        return
    assert panel["description"]
    assert panel["targets"]
    assert isinstance(panel["options"], dict)
    assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert [step["value"] for step in steps[1:]] == sorted(step["value"] for step in steps[1:])
    assert all(each.keys() == {"id", "options"} for each in panel["transformations"])
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"].keys() == {"id", "options"}
        assert all(each.keys() == {"id", "value"} for each in override["properties"])


@pytest.mark.parametrize("variable", VARIABLES.values(), ids=lambda variable: variable["name"])
def test_it_has_what_grafana_asks_of_a_variable(variable: dict[str, Any]) -> None:
    """VariableOption: what is chosen has a text and a value, or nothing is chosen yet."""
    assert {"text", "value"} <= variable.get("current", {"text": "", "value": ""}).keys()


def test_no_two_panels_share_a_number_or_a_place() -> None:
    """Every id is one panel's, and no panel covers another."""
    numbers = [panel["id"] for panel in PANELS]
    assert len(set(numbers)) == len(numbers)
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_the_user_chooses_the_data_source_at_import() -> None:
    """All queries use the data source of a variable, whose first value the import requests (`__inputs`)."""
    asks = [*SHOWN, *TARGETS, *(each for each in VARIABLES.values() if each["type"] == "query")]
    assert all(each["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for each in asks)
    (wanted,) = DASHBOARD["__inputs"]
    assert (wanted["type"], wanted["pluginId"]) == ("datasource", "prometheus")
    assert VARIABLES["datasource"]["current"]["value"] == f"${{{wanted['name']}}}"
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")


def test_what_it_requires_is_what_it_uses() -> None:
    """`__requires` has Grafana, the data source and each kind of panel, and nothing else."""
    required = {(each["type"], each["id"]) for each in DASHBOARD["__requires"]}
    assert required == {("grafana", "grafana"), ("datasource", "prometheus")} | {
        ("panel", each["type"]) for each in SHOWN
    }
    assert all({"name", "version"} <= each.keys() for each in DASHBOARD["__requires"])


def test_every_variable_that_is_used_is_one() -> None:
    """Each $name is a variable of the dashboard or one of Grafana's own."""
    used = set(re.findall(r"\$\{?(\w+)", TEXT)) - {"DS_PROMETHEUS"}
    assert {name for name in used if not name.startswith("__")} == set(VARIABLES)
    assert {name for name in used if name.startswith("__")} <= {"__rate_interval", "__all"}


def test_each_panel_labels_its_queries() -> None:
    """In a panel every target has a unique letter. A table queries the end of the range, a graph all of it."""
    for panel in SHOWN:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        over_time = panel["type"] == "timeseries"
        assert all((target["range"], target["instant"]) == (over_time, not over_time) for target in panel["targets"])
        assert all((target["format"] == "table") == (panel["type"] == "table") for target in panel["targets"])


def test_it_asks_only_for_what_is_exported_or_recorded() -> None:
    """Every metric in an expression or a variable is one that the daemon renders, or a rule of recording.yaml."""
    text = Renderer().metrics(Assessment(datetime.now(UTC), (), {}), Telemetry("observe").text())
    exported = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    exported |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\w+) histogram", text, re.MULTILINE)}
    questions = [target["expr"] for target in TARGETS]
    questions += [each["query"]["query"] for each in VARIABLES.values() if each["type"] == "query"]
    asked = {name for each in questions for name in re.findall(r"[a-z_]*:?certmond_\w+(?::\w+)?", each)}
    assert RECORDED & asked
    assert asked <= exported | RECORDED


@pytest.mark.real("promtool")
def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    """`promtool check rules` accepts each, with what Grafana fills in."""
    rules = [{"record": f"panel:number:{n}", "expr": plain(each["expr"])} for n, each in enumerate(TARGETS)]
    path = tmp_path / "expressions.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [real_part("promtool"), "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(TARGETS)} rules found" in done.stdout
