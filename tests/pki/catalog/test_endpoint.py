"""An endpoint is its text, and the result of a probe there is a value."""

from __future__ import annotations

import dataclasses
import hashlib
import ssl
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.pki.catalog.endpoint import Endpoint, Served

NOW = datetime(2026, 11, 24, tzinfo=UTC)
LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "example"])[-253:].lstrip("-."))
ADDRESSES = st.ip_addresses().filter(lambda address: not address.is_unspecified).map(str)


@pytest.mark.long
@given(ADDRESSES, st.integers(1, 65535), st.none() | NAMES)
def test_the_text_of_an_endpoint_is_the_endpoint(address: str, port: int, name: str | None) -> None:
    """The text has all fields of an endpoint, and parses to it."""
    endpoint = Endpoint(address, port, name)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.long
@given(NAMES)
def test_every_server_name_can_be_sent(name: str) -> None:
    """A valid name is also valid for OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asked = Endpoint("127.0.0.1", 1, name).server_name
    assert context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=asked).server_hostname == name


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("192.0.2.10:6443", "192.0.2.10:6443"),
        ("[2001:DB8:0:0::1]:2379", "[2001:db8::1]:2379"),
        ("[192.0.2.10]:06443", "192.0.2.10:6443"),
        ("API.example.com.@192.0.2.10:6443", "api.example.com@192.0.2.10:6443"),
        ("localhost@[::1]:1", "localhost@[::1]:1"),
    ],
)
def test_an_endpoint_is_written_in_one_way(text: str, written: str) -> None:
    """The form is unique, so that equal endpoints are equal."""
    assert str(Endpoint.parse(text)) == written
    assert Endpoint.parse(text) == Endpoint.parse(written)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not an endpoint such as"),
        ("192.0.2.10", "is not an endpoint such as"),
        ("2001:db8::1:6443", "is not an endpoint such as"),
        ("node-1:6443", "is not an endpoint such as"),
        ("192.0.2.10:6443 ", "is not an endpoint such as"),
        ("192.0.2.10:6443\n", "is not an endpoint such as"),
        ("192.0.2.010:6443", "'192.0.2.010' is not an IP address"),
        ("[1::2::3]:6443", "'1::2::3' is not an IP address"),
        ("0.0.0.0:6443", "0.0.0.0 is not the address of a server"),
        ("[::]:6443", ":: is not the address of a server"),
        ("192.0.2.10:0", "0 is not a port"),
        ("192.0.2.10:65536", "65536 is not a port"),
        ("*.example.com@192.0.2.10:6443", "'*.example.com' is not a DNS name"),
        ("192.0.2.11@192.0.2.10:6443", "'192.0.2.11' is not a DNS name"),
        (f"{'a' * 64}@192.0.2.10:6443", "is not a DNS name"),
        (f"{'a.' * 127}a@192.0.2.10:6443", "is not a DNS name"),
    ],
)
def test_an_address_without_a_possible_connection_is_no_endpoint(text: str, complaint: str) -> None:
    """The error has the reason."""
    with pytest.raises(MalformedError, match=complaint.replace("*", r"\*")):
        Endpoint.parse(text)


def test_an_address_has_no_zone() -> None:
    """Components of Kubernetes have none."""
    with pytest.raises(MalformedError, match="not the address of a server"):
        Endpoint("fe80::1%eth0", 6443)


def test_a_served_certificate_is_compared_by_the_digest_of_its_der() -> None:
    """The notation is the same as for certificates."""
    served = Served(b"certificate", "TLSv1.3", NOW)
    assert served.sha256 == hashlib.sha256(b"certificate").hexdigest()
    assert served == Served(b"certificate", "TLSv1.3", NOW)
    assert served != dataclasses.replace(served, der=b"another")
    assert "certificate" not in repr(served).replace("Served", "")
