"""Findings about a configuration that the daemon refused at a reload."""

from __future__ import annotations

from collections.abc import Iterator

from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.service_spec import ConfigurationSpec
from certmond.pki.findings import Fault, Reason

_NAME = "configuration"
_REMEDY = "correct the file, then run: systemctl reload certmond"


def refused_configuration(inventory: Inventory) -> Iterator[Observation]:
    """Yield an observation with a fault for each problem of the refused configuration, if there is a problem."""
    if problems := inventory.refused_configuration:
        facts = (f"{problem}; the daemon uses the previous configuration" for problem in problems)
        faults = tuple(Fault(Reason.CONFIGURATION_REFUSED, fact, _REMEDY) for fact in facts)
        yield Observation(_NAME, ConfigurationSpec(name=_NAME, path="/etc/certmond"), "/etc/certmond", faults=faults)
