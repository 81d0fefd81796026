"""The settings of `certmond init`: valid texts stay unchanged, and an error contains the accepted form."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from certmond.pki.catalog.init_cluster_spec import InitSpec, split_endpoint, subject_alternative_name
from certmond.pki.catalog.validator import validated


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("dns_domain", "cluster.example"), ("control_plane_endpoint", "api.example:8443"),
        ("control_plane_endpoint", "[fd00::1]:65535"), ("control_plane_endpoint", "api.example:1"),
        ("service_subnet", "10.0.0.0/8,fd00::/108"), ("service_subnet", "10.0.0.0/31"),
        ("service_subnet", "10.96.0.1/12"),
        ("kubernetes_version", "v1.34.0"), ("kubernetes_version", "1.34"), ("advertise_address", "fd00::1"),
    ],
)  # fmt: skip
def test_what_is_right_stays_as_it_was_given(field: str, text: str) -> None:
    """The value is the text."""
    assert getattr(validated(InitSpec, {field: text}), field) == text


@pytest.mark.parametrize("host", ["web.example", "10.0.0.1", "fd00::1"])
def test_a_name_or_an_address_is_a_host(host: str) -> None:
    """A list of hosts stays a list."""
    assert validated(InitSpec, {"cert_sans": [host, "other"]}).cert_sans == (host, "other")


def test_an_address_is_written_as_a_certificate_has_it() -> None:
    """The form is the shortest one."""
    assert validated(InitSpec, {"cert_sans": "FD00:0::1"}).cert_sans == ("fd00::1",)


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("dns_domain", "Cluster", "DNS name"), ("advertise_address", "node-1", "must be an IP address"),
        ("advertise_address", "fe80::1%eth0", "IP address"), ("cert_sans", "a_b", "IP address, or a DNS name"),
        ("control_plane_endpoint", "api.example:0", "from 1 to 65535"),
        ("control_plane_endpoint", "api.example:65536", "from 1 to 65535"),
        ("control_plane_endpoint", "fd00::1", "must be in brackets"), ("control_plane_endpoint", "a_b:1", "DNS name"),
        ("service_subnet", "ten", "network"), ("service_subnet", "10.0.0.1/32", "at least two addresses"),
        ("kubernetes_version", "2.0", "v1.34.0"), ("kubernetes_version", "v1.3400", "v1.34.0"),
    ],
)  # fmt: skip
def test_an_invalid_text_is_refused_with_the_accepted_form(field: str, text: str, words: str) -> None:
    """The error has the accepted form in words."""
    with pytest.raises(ValidationError, match=words):
        validated(InitSpec, {field: text})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("api.example", ("api.example", None)), ("api.example:6443", ("api.example", 6443)),
        ("[fd00::1]", ("fd00::1", None)), ("[fd00::1]:6443", ("fd00::1", 6443)),
    ],
)  # fmt: skip
def test_an_endpoint_is_a_host_and_perhaps_a_port(text: str, found: tuple[str, Any]) -> None:
    """The port as a number, the address without its brackets."""
    assert split_endpoint(text) == found


@pytest.mark.parametrize(("host", "name"), [("fd00::1", "IP:fd00::1"), ("web.example", "DNS:web.example")])
def test_a_host_is_an_address_or_a_name_in_a_certificate(host: str, name: str) -> None:
    """The form is that of subject alternative names."""
    assert subject_alternative_name(host) == name
