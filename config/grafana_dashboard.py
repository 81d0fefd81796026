"""Generator of the Grafana dashboard: `python config/grafana_dashboard.py >config/grafana-dashboard.json`.

This module defines the panels with their queries and positions. Do not edit the generated JSON file. The format is the
classic format of Grafana (kinds/dashboard/dashboard_kind.cue). The dashboard contains the fields `__inputs` and
`__requires` of an export for sharing, so that Grafana prompts for the data source during an import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

WIDTH = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_FLEET = 'job=~"$job", instance=~"$instance"'
_NODE = 'job=~"$job", instance="$node"'
_END = "certmond_certificate_not_after_timestamp_seconds"
_LEAVES = f"{_END}{{%s}} unless ignoring (sha256) certmond_trust_anchor_not_after_timestamp_seconds"
_GREEN, _YELLOW, _RED = "green", "yellow", "red"
_HOLDS = [
    {
        "type": "value",
        "options": {
            "0": {"text": "broken", "color": "red", "index": 0},
            "1": {"text": "valid", "color": "green", "index": 1},
        },
    }
]
_GOOD_AT_0: Any = [(None, _GREEN), (1, _RED)]
_DAYS: Any = [(None, _RED), (14 * 86400, _YELLOW), (45 * 86400, _GREEN)]
_CA_DAYS: Any = [(None, _RED), (30 * 86400, _YELLOW), (180 * 86400, _GREEN)]
_SEVERITIES = {"critical": _RED, "warning": _YELLOW, "info": "blue"}

Panel = dict[str, Any]


def query(expression: str, legend: str = "", *, table: bool = False, ref: str = "A") -> dict[str, Any]:
    """Return a query to Prometheus, over the time range if `legend` is set, otherwise at the end of the time range."""
    over_time = bool(legend) and not table
    return {
        "refId": ref, "datasource": _SOURCE, "expr": expression, "legendFormat": legend or "__auto",
        "editorMode": "code", "instant": not over_time, "range": over_time,
        "format": "table" if table else "time_series",
    }  # fmt: skip


def panel(kind: str, title: str, size: tuple[int, int], says: str, targets: list[dict[str, Any]], **more: Any) -> Panel:
    """Return a panel. `more` contains properties of this kind: `unit`, `steps`, `options`, `overrides`, `changes`."""
    steps = [{"color": color, "value": value} for value, color in more.get("steps", [(None, "text")])]
    defaults: dict[str, Any] = {
        "color": {"mode": "thresholds" if "steps" in more else "palette-classic"},
        "mappings": more.get("mappings", []), "thresholds": {"mode": "absolute", "steps": steps},
        "unit": more.get("unit", "short"), "custom": more.get("custom", {}),
    }  # fmt: skip
    if "none" in more:
        defaults["noValue"] = more["none"]
    return {
        "type": kind, "title": title, "description": says, "datasource": _SOURCE, "targets": targets,
        "gridPos": {"w": size[0], "h": size[1], "x": 0, "y": 0}, "options": more.get("options", {}),
        "fieldConfig": {"defaults": defaults, "overrides": more.get("overrides", [])},
        "transformations": more.get("changes", []),
    }  # fmt: skip


def stat(title: str, expression: str, says: str, **more: Any) -> Panel:
    """Return a panel with one number."""
    options = {
        "colorMode": "background" if "steps" in more else "none", "graphMode": "none", "justifyMode": "center",
        "textMode": "value", "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }  # fmt: skip
    return panel("stat", title, (3, 4), says, [query(expression)], options=options, **more)


def series(title: str, width: int, says: str, *asked: tuple[str, str], stacked: bool = False, **more: Any) -> Panel:
    """Return a panel with lines or stacked areas over time. `asked` are pairs of an expression and its legend."""
    custom = {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 40 if stacked else 5, "showPoints": "auto",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }  # fmt: skip
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    targets = [query(expression, legend, ref=chr(ord("A") + n)) for n, (expression, legend) in enumerate(asked)]
    return panel("timeseries", title, (width, 8), says, targets, custom=custom, options=options, **more)


def table(title: str, width: int, height: int, says: str, *asked: tuple[str, str], **more: Any) -> Panel:
    """Return a table. `asked` are pairs of an expression and the title of its column."""
    targets = [query(expression, table=True, ref=chr(ord("A") + n)) for n, (expression, _) in enumerate(asked)]
    columns = [f"Value #{chr(ord('A') + n)}" for n in range(len(asked))] if len(asked) > 1 else ["Value"]
    names = dict(zip(columns, (title for _, title in asked), strict=True))
    hidden = dict.fromkeys(("Time", "job", "__name__", *more.pop("hidden", ())), True)
    changes = [
        *([{"id": "merge", "options": {}}] if len(asked) > 1 else []),
        {"id": "organize", "options": {"excludeByName": hidden, "renameByName": names, "indexByName": {}}},
    ]
    options: dict[str, Any] = {"showHeader": True, "cellHeight": "sm"}
    if by := more.pop("sort", None):
        options["sortBy"] = [{"displayName": by, "desc": False}]
    return panel("table", title, (width, height), says, targets, options=options, changes=changes,
                 custom={"align": "auto", "filterable": True}, **more)  # fmt: skip


def column(name: str, **properties: Any) -> dict[str, Any]:
    """Return the display properties of a column."""
    shown = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": shown}


def duration(name: str, steps: Iterable[tuple[int | None, str]] = _DAYS) -> dict[str, Any]:
    """Return the properties of a column that shows remaining seconds in colored cells."""
    thresholds = {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in steps]}
    return column(
        name, unit="s", decimals=0, thresholds=thresholds, color={"mode": "thresholds"},
        custom__cellOptions={"type": "color-background", "mode": "basic"},
    )  # fmt: skip


def colours(by_name: dict[str, str]) -> list[dict[str, Any]]:
    """Return the overrides that set the color of each series in `by_name`."""
    return [column(name, color={"mode": "fixed", "fixedColor": color}) for name, color in by_name.items()]


def increase(metric: str, where: str) -> str:
    """Return the expression for the increase of a counter between two points of a graph."""
    return f"increase({metric}{{{where}}}[$__rate_interval])"


def p99(metric: str, where: str) -> str:
    """Return the expression for the 99th percentile of a histogram."""
    return f"histogram_quantile(0.99, sum by (le) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


def fleet() -> Iterator[Panel]:
    """Yield the panels about all nodes."""
    yield stat("Nodes", f"count(certmond_build_info{{{_FLEET}}})", "Nodes that certmond watches.")
    yield stat("Certificates", f"count(certmond_certificate_chain_valid{{{_FLEET}}})", "Certificates on these nodes.")
    for severity, color in (("critical", _RED), ("warning", _YELLOW)):
        yield stat(
            f"{severity.title()} findings", f'sum(certmond_findings{{{_FLEET}, severity="{severity}"}})',
            "`certmond status` on the node prints each finding and its remedy.", steps=[(None, _GREEN), (1, color)],
        )  # fmt: skip
    yield stat(
        "First end", f"min({_LEAVES % _FLEET}) - time()",
        "Time until the first certificate expires, except trust anchors.", unit="s", steps=_DAYS,
    )  # fmt: skip
    yield stat(
        "First CA end", f"min(certmond_trust_anchor_not_after_timestamp_seconds{{{_FLEET}}}) - time()",
        "Time until the first trust anchor expires. The replacement of a trust anchor takes weeks.", unit="s",
        steps=_CA_DAYS,
    )  # fmt: skip
    yield stat(
        "Served differs", f"count(certmond_certificate_served_matches{{{_FLEET}}} == 0) or vector(0)",
        "Endpoints that do not serve the certificate in the file.", steps=_GOOD_AT_0,
    )  # fmt: skip
    yield stat(
        "Silent daemons",
        f"count((time() - certmond_last_pass_timestamp_seconds{{{_FLEET}}} > 900) or up{{{_FLEET}}} == 0) or vector(0)",
        "Nodes without a scrape, or without a pass of the daemon for 15 minutes.", steps=_GOOD_AT_0,
    )  # fmt: skip
    left = f"({_LEAVES % _FLEET}) - time()"
    yield table(
        "Nodes", 14, 9, "Each node, with its findings and the time until its first certificate expires.",
        (f"min by (instance) ({left})", "First end"),
        (f"min by (instance) (certmond_trust_anchor_not_after_timestamp_seconds{{{_FLEET}}}) - time()", "CA end"),
        (f"count by (instance) (certmond_certificate_chain_valid{{{_FLEET}}})", "Certificates"),
        (f'sum by (instance) (certmond_findings{{{_FLEET}, severity="critical"}})', "Critical"),
        (f'sum by (instance) (certmond_findings{{{_FLEET}, severity="warning"}})', "Warnings"),
        (f'max by (instance) (certmond_mode{{{_FLEET}, mode="enforce"}})', "Enforcing"),
        (f"time() - max by (instance) (certmond_last_pass_timestamp_seconds{{{_FLEET}}})", "Last pass ago"),
        sort="First end",
        overrides=[duration("First end"), duration("CA end", _CA_DAYS), column("Last pass ago", unit="s", decimals=0)],
    )  # fmt: skip
    yield table(
        "Next to end", 10, 9, "The twenty certificates that expire first.",
        (f"sort(bottomk(20, {left}))", "Left"), sort="Left", hidden=["path"], overrides=[duration("Left")],
    )  # fmt: skip
    matrix = panel(
        "table", "Time left, nodes and certificates", (WIDTH, 9),
        "Certificates of each node, by name, with the time until each certificate expires.",
        [query(f"min by (instance, certificate) ({_END}{{{_FLEET}}}) - time()", table=True)],
        unit="s", steps=_DAYS, options={"showHeader": True, "cellHeight": "sm"},
        custom={"align": "center", "cellOptions": {"type": "color-background", "mode": "basic"}},
        changes=[{"id": "groupingToMatrix",
                  "options": {"rowField": "instance", "columnField": "certificate", "valueField": "Value"}}],
        overrides=[column("instance\\certificate", custom__cellOptions={"type": "auto"})],
    )  # fmt: skip
    matrix["fieldConfig"]["defaults"]["decimals"] = 0
    yield matrix
    yield series(
        "Findings by severity", 8, "Current findings of all nodes.",
        (f"sum by (severity) (certmond_findings{{{_FLEET}}})", "{{severity}}"),
        stacked=True, overrides=colours(_SEVERITIES),
    )  # fmt: skip
    yield table(
        "Findings by reason", 8, 8, "`certmond explain REASON` prints the runbook of a reason.",
        (f"sort_desc(count by (reason, severity) (certmond_finding{{{_FLEET}}}))", "Certificates"),
        none="no findings",
    )  # fmt: skip
    yield table(
        "Served differs", 8, 8, "Endpoints that do not serve the certificate in the file.",
        (f"certmond_certificate_served_matches{{{_FLEET}}} == 0", "Matches"), hidden=["path", "Value"],
        none="every endpoint serves the certificate in its file",
    )  # fmt: skip
    yield series(
        "Rotation: nodes in each phase", 8,
        "Rotation of a Root CA; `idle`: no rotation. A phase begins after all nodes have reached the previous phase.",
        (f"sum by (phase) (certmond_rotation_phase{{{_FLEET}}})", "{{phase}}"), stacked=True,
    )  # fmt: skip
    yield series(
        "Restarts", 8, "Restarts of services by certmond, by result. `proven` means success.",
        (f"sum by (result) ({increase('certmond_restarts_total', _FLEET)})", "{{result}}"),
        stacked=True,
    )  # fmt: skip
    yield series(
        "Renewals", 8, "Attempts to renew a certificate, by result.",
        (f"sum by (result) ({increase('certmond_renewals_total', _FLEET)})", "{{result}}"),
        stacked=True,
    )  # fmt: skip


def history() -> Iterator[Panel]:
    """Yield the panels about past months, from the series of recording.yaml."""
    needs = "Needs config/recording.yaml."
    yield series(
        "First end of each node", 12, f"Time until the first certificate expires. A renewal is a step up. {needs}",
        (f"instance:{_END}:min{{{_FLEET}}} - time()", "{{instance}}"), unit="s",
    )  # fmt: skip
    yield series(
        "Findings by reason", 12, f"Number of certificates with each finding. {needs}",
        (f"sum by (reason) (instance_reason:certmond_finding:count{{{_FLEET}}})", "{{reason}}"), stacked=True,
    )  # fmt: skip
    yield series(
        "Certificates", 8, f"Number of watched certificates. {needs}",
        (f"sum(instance:certmond_certificates:count{{{_FLEET}}})", "certificates"),
    )  # fmt: skip
    yield series(
        "Broken chains and stale servers", 8, f"Invalid chains; endpoints that serve a different certificate. {needs}",
        (f"sum(instance:certmond_certificate_chain_broken:count{{{_FLEET}}})", "chains broken"),
        (f"sum(instance:certmond_certificate_served_differs:count{{{_FLEET}}})", "served differs"),
    )  # fmt: skip
    yield series(
        "Renewals and restarts of a day", 8, f"By result. {needs}",
        (f"sum by (result) (instance_result:certmond_renewals:increase1d{{{_FLEET}}})", "renewals {{result}}"),
        (f"sum by (result) (instance_result:certmond_restarts:increase1d{{{_FLEET}}})", "restarts {{result}}"),
    )  # fmt: skip


def one_node() -> Iterator[Panel]:
    """Yield the panels about the selected node."""
    yield table(
        "Certificates", 16, 10, "Each certificate of the node: its expiry, its renewal, and the validity of its chain.",
        (f"{_END}{{{_NODE}}} - time()", "Left"),
        (f"certmond_certificate_renewal_timestamp_seconds{{{_NODE}}} - time()", "Renewal in"),
        (f"certmond_certificate_chain_valid{{{_NODE}}}", "Chain"),
        sort="Left", hidden=["instance"],
        overrides=[
            duration("Left"), column("Renewal in", unit="s", decimals=0),
            column("Chain", mappings=_HOLDS, custom__cellOptions={"type": "color-text"}),
        ],
    )  # fmt: skip
    yield table(
        "Findings", 8, 10, "Current findings of the node.",
        (f"certmond_finding{{{_NODE}}}", "Current"), hidden=["instance", "path", "Value"], none="no findings",
    )  # fmt: skip
    yield series(
        "Passes", 8, "Passes of the daemon, by cause.",
        (f"sum by (cause) ({increase('certmond_passes_total', _NODE)})", "{{cause}}"), stacked=True,
    )  # fmt: skip
    yield series(
        "How long things take", 8, "99th percentile of a pass, and of the time from a changed file to its verdict.",
        (p99("certmond_pass_duration_seconds", _NODE), "pass"),
        (p99("certmond_change_to_publish_seconds", _NODE), "change to verdict"),
        (f"time() - certmond_last_pass_timestamp_seconds{{{_NODE}}}", "since the last pass"),
        unit="s",
    )  # fmt: skip
    yield series(
        "The daemon", 8, "Memory, and the share of a core.",
        (f"certmond_process_resident_memory_bytes{{{_NODE}}}", "memory"),
        (f"rate(certmond_process_cpu_seconds_total{{{_NODE}}}[$__rate_interval])", "CPU"),
        unit="bytes", overrides=[column("CPU", unit="percentunit", custom__axisPlacement="right")],
    )  # fmt: skip
    yield series(
        "Planned steps", 8, "Steps that enforce mode would execute now.",
        (f"certmond_planned_steps{{{_NODE}}}", "{{step}}"), stacked=True,
    )  # fmt: skip
    yield series(
        "Hooks", 8, "Findings that wait for delivery, and runs by result.",
        (f"certmond_hook_waiting{{{_NODE}}}", "{{hook}} waiting"),
        (f"sum by (hook, result) ({increase('certmond_hook_runs_total', _NODE)})", "{{hook}} {{result}}"),
    )  # fmt: skip
    yield series(
        "Watching", 8, "Directories under inotify, polled directories, overflows, and a refused configuration.",
        (f"certmond_watched_directories{{{_NODE}}}", "watched"),
        (f"certmond_polled_directories{{{_NODE}}}", "polled"),
        (increase("certmond_watch_overflows_total", _NODE), "overflows"),
        (f"1 - certmond_config_last_reload_successful{{{_NODE}}}", "configuration refused"),
    )  # fmt: skip


def arranged(rows: Iterable[tuple[str, Iterable[Panel]]]) -> list[Panel]:
    """Return the panels with numbers and positions, from left to right and then in the next line."""
    placed: list[Panel] = []
    y = 0
    for title, panels in rows:
        placed.append({"type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"w": WIDTH, "h": 1, "x": 0, "y": y}})  # fmt: skip
        x, y, height = 0, y + 1, 0
        for each in panels:
            place = each["gridPos"]
            if x + place["w"] > WIDTH:
                x, y, height = 0, y + height, 0
            place |= {"x": x, "y": y}
            x, height = x + place["w"], max(height, place["h"])
            placed.append(each)
        y += height
    return [{"id": number, **each} for number, each in enumerate(placed, start=1)]


def variable(name: str, label: str, asks: str, *, several: bool) -> dict[str, Any]:
    """Return a variable of the dashboard whose values are the values of a label."""
    everything = {"current": {"text": "All", "value": "$__all"}, "allValue": ".*"}
    return {
        "type": "query", "name": name, "label": label, "datasource": _SOURCE, "definition": asks,
        "query": {"query": asks, "refId": f"Variable-{name}", "qryType": 1}, "refresh": 2, "sort": 1, "regex": "",
        "hide": 0, "skipUrlSync": False, "multi": several, "includeAll": several, "options": [],
        **(everything if several else {}),
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    kinds = {"stat": "Stat", "table": "Table", "timeseries": "Time series"}
    source = {
        "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "regex": "",
        "hide": 0, "refresh": 1, "skipUrlSync": False, "multi": False, "includeAll": False, "options": [],
        "current": {"text": "${DS_PROMETHEUS}", "value": "${DS_PROMETHEUS}"},
    }  # fmt: skip
    return {
        "__inputs": [{
            "name": "DS_PROMETHEUS", "label": "Prometheus", "description": "The Prometheus that scrapes certmond",
            "type": "datasource", "pluginId": "prometheus", "pluginName": "Prometheus",
        }],
        "__elements": {},
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "10.4.0"},
            {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
            *({"type": "panel", "id": kind, "name": name, "version": ""} for kind, name in kinds.items()),
        ],
        "id": None, "uid": "certmond", "title": "certmond: certificates of Kubernetes nodes",
        "description": "Certificates of Kubernetes nodes: dates, findings, renewals and restarts by certmond.",
        "tags": ["certmond", "certificates", "kubernetes"], "timezone": "browser", "editable": True, "graphTooltip": 1,
        "fiscalYearStartMonth": 0, "schemaVersion": 39, "version": 1, "refresh": "5m", "links": [],
        "time": {"from": "now-24h", "to": "now"}, "timepicker": {},
        "annotations": {"list": [{
            "name": "Annotations & Alerts", "type": "dashboard", "builtIn": 1, "enable": True, "hide": True,
            "iconColor": "rgba(0, 211, 255, 1)", "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        }]},
        "templating": {"list": [
            source,
            variable("job", "Job", "label_values(certmond_build_info, job)", several=True),
            variable("instance", "Nodes", 'label_values(certmond_build_info{job=~"$job"}, instance)', several=True),
            variable("node", "Node", 'label_values(certmond_build_info{job=~"$job"}, instance)', several=False),
        ]},
        "panels": arranged([("Fleet", fleet()), ("History", history()), ("Node $node", one_node())]),
    }  # fmt: skip


def text() -> str:
    """Return the content of the JSON file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
