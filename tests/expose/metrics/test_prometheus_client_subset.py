"""The modules of prometheus_client that certmond loads, and its text format."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from prometheus_client import generate_latest

from certmond.expose.metrics.prometheus_client_subset import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessMetrics,
    text_of,
)


def test_no_http_server_is_loaded() -> None:
    """The metrics of a daemon load the counters of prometheus_client, but none of its HTTP servers and clients."""
    code = "import sys, certmond.expose.metrics.own_metrics\nprint(*sys.modules)"
    found = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "prometheus_client.metrics" in found
    assert not found & {
        "html",
        "http",
        "prometheus_client.exposition",
        "socketserver",
        "ssl",
        "urllib.request",
        "wsgiref",
    }


def test_the_text_is_that_of_prometheus_client() -> None:
    """The text is equal to the text of `prometheus_client.generate_latest`, for each kind of metric and label."""
    registry = CollectorRegistry()
    Counter("events", "Events", registry=registry).inc(12_345_678)
    Gauge("level", "A level", ["zone", "name"], registry=registry).labels('a"b\\c\nd', "é").set(float("inf"))
    Gauge("fraction", "A fraction", registry=registry).set(0.1)
    Counter("unused", "No series", ["cause"], registry=registry)
    Histogram("seconds", "A duration", buckets=(0.1, 1, 10), registry=registry).observe(0.5)
    assert text_of(registry) == generate_latest(registry).decode()


def test_the_process_is_measured_without_the_file_with_the_time_of_the_boot(tmp_path: Path) -> None:
    """With `ProcSubset=pid`, the unit has no /proc/stat. The daemon exports its memory, its start and its CPU time."""
    (tmp_path / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
    registry = CollectorRegistry()
    ProcessMetrics(proc=str(tmp_path), pid=os.getpid, registry=registry)
    names = ("resident_memory_bytes", "cpu_seconds_total", "start_time_seconds")
    resident, used, start = (registry.get_sample_value(f"process_{name}") or 0.0 for name in names)
    assert resident > 1 << 20
    assert used > 0
    assert 0 < start <= time.time()
