"""The entry for a certificate that only a listener has."""

from __future__ import annotations

import pytest

from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.served_entries import Listener, renewed_at_start, renewed_by_operator, served_spec
from certmond.pki.findings import Severity


@pytest.mark.parametrize("text", ["127.0.0.1:10257", "[2001:db8::a]:6443", "api.example@[::1]:6443"])
def test_the_path_of_the_entry_is_the_endpoint(text: str) -> None:
    """The name is the service and the port. An address in brackets is no pattern of files."""
    spec = served_spec(Endpoint.parse(text), Listener("web", "the web server"), Severity.WARNING)
    assert (spec.name, spec.path, spec.is_glob) == (f"web.{text.rpartition(':')[2]}", text, False)
    assert (spec.renewed_by, spec.at_most, spec.usages) == ("the web server", Severity.WARNING, ("server auth",))
    assert (spec.ca, spec.authority, spec.consumers, spec.key) == ((), False, (), None)


def test_the_longest_name_of_a_service_fits() -> None:
    """The name of an entry has at most 63 characters. The port remains whole."""
    spec = served_spec(Endpoint("127.0.0.1", 10257), Listener("x" * 63, "it"))
    assert spec.name == "x" * 57 + ".10257"


def test_the_remedy_is_a_command_if_certmond_can_restart_the_service() -> None:
    """A component without a service has no command. Nor has a certificate that its operator renews."""
    assert renewed_at_start("web") == "web, when it starts; run: certmond restart web"
    assert renewed_at_start("web", known=False) == "web, when it starts; restart it"
    assert renewed_by_operator("web") == "the operator of web, in a file that certmond does not watch"
