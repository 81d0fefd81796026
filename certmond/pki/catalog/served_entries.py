"""Entries for certificates that a listener on this node serves, but that no watched file contains.

Such a certificate is in the memory of its service, in a database, or in a file that certmond cannot read.
"""

from __future__ import annotations

from certmond.immutable_class import immutable
from certmond.pki.catalog.component_certificate_flags import USAGES, Role
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.field_types import EndpointText
from certmond.pki.catalog.model_class import model
from certmond.pki.findings import Severity

_MAX_NAME = 63


@immutable
class Listener:
    """A listener of a service, or of a component without a service, whose certificate is in no file of this host.

    `renewed_by` is a clause that names the component that renews the certificate. If a restart renews the certificate,
    the clause also contains the command for this restart.
    """

    service: str
    renewed_by: str


@model
class ServedSpec(CertificateSpec):
    """An entry for a certificate that only a listener on the node serves. `path` is the endpoint of the listener."""

    path: EndpointText
    service: str

    @property
    def is_glob(self) -> bool:
        """Always False, because the brackets of an IPv6 address are not a pattern."""
        return False


def renewed_at_start(service: str, *, known: bool = True) -> str:
    """Return the clause for a service that renews its certificate when it starts.

    `known` is True if `certmond restart` can restart the service.
    """
    return f"{service}, when it starts; " + (f"run: certmond restart {service}" if known else "restart it")


def renewed_by_operator(service: str) -> str:
    """Return the clause for a service whose certificate is in a file that certmond does not watch."""
    return f"the operator of {service}, in a file that certmond does not watch"


def served_spec(endpoint: Endpoint, listener: Listener, at_most: Severity | None = None) -> ServedSpec:
    """Return the entry for the certificate of a listener. `at_most` is the maximum severity of the entry's findings."""
    port = f".{endpoint.port}"
    return ServedSpec(
        name=listener.service[: _MAX_NAME - len(port)] + port, path=str(endpoint), service=listener.service,
        usages=USAGES[Role.SERVER], renewed_by=listener.renewed_by, at_most=at_most,
    )  # fmt: skip
