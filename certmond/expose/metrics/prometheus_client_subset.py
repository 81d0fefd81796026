"""The part of prometheus_client that certmond uses: counters, gauges, histograms and the text format (0.0.4).

The `__init__` of prometheus_client also imports HTTP servers and clients, which take 2 MB in the daemon. This module
imports parts of prometheus_client without running `__init__`. `text_of` replaces `exposition.generate_latest`, which
needs these servers and clients.
"""

from __future__ import annotations

import time

from certmond.expose.metrics.label_escapes import escaped
from certmond.library_subset import register

register("prometheus_client")

from prometheus_client.metrics import (  # noqa: E402 - `register` must run first
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.process_collector import ProcessCollector  # noqa: E402
from prometheus_client.registry import CollectorRegistry  # noqa: E402
from prometheus_client.utils import floatToGoString  # noqa: E402

__all__ = ["CollectorRegistry", "Counter", "Gauge", "Histogram", "ProcessMetrics", "text_of"]

# Do not export the series `_created` of each counter and histogram. The function has no type annotations.
disable_created_metrics()  # type: ignore[no-untyped-call]


class ProcessMetrics(ProcessCollector):
    """The memory, CPU time and file descriptors of the process.

    ProcessCollector reads the time of the boot from /proc/stat, which `ProcSubset=pid` of the unit hides, and exports
    nothing without this time.
    """

    def _boot_time(self) -> float:
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def text_of(registry: CollectorRegistry) -> str:
    """Return all metrics of the registry, which contains only counters, gauges and histograms without exemplars."""
    lines: list[str] = []
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n")
        for sample in family.samples:
            labels = ",".join(f'{label}="{escaped(value)}"' for label, value in sorted(sample.labels.items()))
            series = f"{sample.name}{{{labels}}}" if labels else sample.name
            value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
            lines.append(f"{series} {value}\n")
    return "".join(lines)
