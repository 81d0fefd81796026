"""Reference of the metrics: every family with its type, labels and meaning, from the code that renders them."""

from __future__ import annotations

from collections.abc import Iterator

from certmond.expose.http.access_control import MEANING, SUCCESSFUL
from certmond.expose.metrics.cluster_certificate_metrics import CLUSTER_FAMILIES
from certmond.expose.metrics.exposition import COUNT, FAMILIES, UNWATCHED
from certmond.expose.metrics.own_metrics import Telemetry

_Row = tuple[str, str, tuple[str, ...], str]
"""Name, type, labels, meaning."""

_HEAD = """# Metrics reference

Every metric of `/metrics`, `/run/certmond/metrics.prom` and `certmond metrics`, generated from the code that renders
them. The metric of the listener is only at `/metrics`. [Monitoring](../monitoring.md) describes the lifetime of a
series, the JSON and the journal.

"""


def reference() -> str:
    """Return docs/reference/metrics.md."""
    own = [row for row in _own() if not row[0].startswith("certmond_process_")]
    process = [row for row in _own() if row[0].startswith("certmond_process_")]
    families = (*FAMILIES, COUNT, UNWATCHED)
    certificates: list[_Row] = [(each.name, "gauge", each.labels, each.meaning) for each in families]
    cluster: list[_Row] = [(each.name, "gauge", each.labels, each.meaning) for each in CLUSTER_FAMILIES]
    return (
        _HEAD
        + _table("Certificates", certificates)
        + _table("The cluster, with `cluster.reader`", cluster)
        + _table("certmond's own work", own)
        + _table("The process", process)
        + _table("The listener, with a web configuration", [(SUCCESSFUL, "gauge", (), MEANING)])
    ).rstrip() + "\n"


def _table(title: str, rows: list[_Row]) -> str:
    lines = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |\n"
        for name, kind, labels, meaning in rows
    ]
    return f"## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n{''.join(lines)}\n"


def _own() -> Iterator[_Row]:
    telemetry = Telemetry("observe")
    telemetry.renewals.labels("apiserver", "done")  # a counter with labels has no series before its first event
    telemetry.restarts.labels("kubelet", "done")
    telemetry.set_hooks({"fault-manager": 0})
    for family in telemetry.registry.collect():
        labels = tuple(family.samples[0].labels)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield name, family.type, tuple(label for label in labels if label != "le"), family.documentation.rstrip(".")
