"""The choice of what reads and writes objects of the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers.coordinator_factory import ClusterObjects, cluster_objects_of

KUBECONFIG = "/etc/kubernetes/certmond.conf"


def chosen(cluster: dict[str, Any], wake: Callable[[], None] | None = lambda: None) -> ClusterObjects:
    """Return the objects for the section `cluster` of a configuration."""
    lines = "".join(f"  {key}: {value}\n" for key, value in cluster.items())
    config = parse([Source("config.yaml", f"cluster:\n{lines}" if lines else "")])
    return cluster_objects_of(
        config, node="node-1", real=str, clock=lambda: datetime.now(UTC), monotonic=time.monotonic,
        alive=lambda: None, wake=wake,
    )  # fmt: skip


def test_without_a_kubeconfig_nothing_uses_the_api() -> None:
    """A configuration without `cluster.kubeconfig` has no check of requests, no report and no reader."""
    assert chosen({}) == ClusterObjects(None, None, None)


@pytest.mark.parametrize(("condition", "reader"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_switches_enable_the_report_and_the_reader(*, condition: bool, reader: bool) -> None:
    """With `cluster.kubeconfig`, certmond checks the kubelet's request. `node_condition` enables the report to the
    Node, and `reader` the reader of the cluster.
    """
    keys = {"kubeconfig": KUBECONFIG, "node_condition": str(condition).lower(), "reader": str(reader).lower()}
    found = chosen(keys)
    assert found.serving_request is not None
    assert (found.node_condition is not None, found.reader is not None) == (condition, reader)


def test_a_command_has_no_reader() -> None:
    """A command, which gives no `wake`, does not start a reader."""
    assert chosen({"kubeconfig": KUBECONFIG, "reader": "true"}, wake=None).reader is None
