"""Findings about a configuration that the daemon refused at a reload."""

from __future__ import annotations

from collections.abc import Iterator

from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.service_spec import ConfigurationSpec
from certmond.pki.findings import Fault, Reason

_NAME = "configuration"
_REMEDY = "correct the file, then run: systemctl reload certmond"
RESTART = "restart certmond: systemctl restart certmond"
"""Remedy at the end of a problem that no change of a file can correct."""


def refused_configuration(inventory: Inventory) -> Iterator[Observation]:
    """Yield an observation with a fault for each problem of the refused configuration, if there is a problem."""
    if problems := inventory.refused_configuration:
        faults = tuple(map(_fault, problems))
        yield Observation(_NAME, ConfigurationSpec(name=_NAME, path="/etc/certmond"), "/etc/certmond", faults=faults)


def _fault(problem: str) -> Fault:
    fact, remedy = problem.removesuffix(f"; {RESTART}"), RESTART if problem.endswith(RESTART) else _REMEDY
    return Fault(Reason.CONFIGURATION_REFUSED, f"{fact}; the daemon uses the previous configuration", remedy)
