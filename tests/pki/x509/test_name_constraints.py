"""May this CA certify these names? The answers here are Go's: test_differential.py holds them against the original."""

from __future__ import annotations

import pytest

from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.name_constraints import constraints_of
from tests.builders import make_ca, make_server


def permitted(issuer: Certificate, certificate: Certificate) -> bool:
    constraints = constraints_of(issuer)
    return constraints is not None and constraints.permit(certificate)


def allowed(name: str | list[str], permit: list[str] | None = None, exclude: list[str] | None = None) -> bool:
    ca = make_ca(permitted=permit or [], excluded=exclude or [])
    return permitted(ca.facts, make_server(ca, names=[name] if isinstance(name, str) else name).facts)


@pytest.mark.parametrize(
    ("constraint", "inside", "outside"),
    [
        ("DNS:example.com", "DNS:example.com", "DNS:example.org"),
        ("DNS:example.com", "DNS:a.b.example.com", "DNS:notexample.com"),
        ("DNS:example.com", "DNS:A.EXAMPLE.com", "DNS:com"),
        ("DNS:EXAMPLE.com", "DNS:a.example.com", "DNS:example.com.org"),
        ("DNS:.example.com", "DNS:a.example.com", "DNS:example.com"),
        ("DNS:a.example.com", "DNS:*.a.example.com", "DNS:*.example.com"),
        ("IP:10.0.0.0/8", "IP:10.255.255.255", "IP:11.0.0.0"),
        ("IP:10.0.0.0/8", "IP:10.0.0.0", "IP:9.255.255.255"),
        ("IP:10.96.0.1/32", "IP:10.96.0.1", "IP:10.96.0.2"),
        ("IP:fd00::/8", "IP:fdff::1", "IP:fe00::1"),
        ("IP:0.0.0.0/0", "IP:10.0.0.1", "IP:::1"),
        ("IP:::/0", "IP:::1", "IP:10.0.0.1"),
        ("email:example.com", "email:a@example.com", "email:a@example.org"),
        ("email:example.com", "email:a@B.Example.com", "email:a@notexample.com"),
        ("email:.example.com", "email:a@b.example.com", "email:a@example.com"),
        ("email:a@example.com", "email:a@Example.com", "email:A@example.com"),
        ("URI:example.com", "URI:https://a.example.com:6443/x?y=z", "URI:https://example.org/example.com"),
        ("URI:.example.com", "URI:spiffe://a.example.com/ns/x", "URI:spiffe://example.com/ns/x"),
        ("URI:example.com", "URI:https://user@EXAMPLE.com/", "URI:https://example.com@example.org/"),
    ],
)
def test_a_name_within_a_subtree_is_permitted_or_excluded(constraint: str, inside: str, outside: str) -> None:
    """A permitted subtree accepts the names within it and no others of its kind. An excluded one does the reverse."""
    assert allowed(inside, permit=[constraint])
    assert not allowed(outside, permit=[constraint])
    assert not allowed(inside, exclude=[constraint])
    assert allowed(outside, exclude=[constraint])


def test_an_empty_domain_includes_every_name_of_its_kind() -> None:
    """As in NSS and Go, a constraint of no length covers all of them."""
    assert allowed("DNS:anything", permit=["DNS:"])
    assert not allowed("DNS:anything", exclude=["DNS:"])
    assert not allowed("email:a@anything", exclude=["email:"])


def test_a_constraint_does_not_apply_to_names_of_another_kind() -> None:
    """A CA that is limited to a domain may certify any address, and vice versa."""
    assert allowed("IP:10.0.0.1", permit=["DNS:example.com"])
    assert allowed("DNS:example.com", permit=["IP:10.0.0.0/8"])
    assert allowed("URI:https://example.com/", exclude=["DNS:example.com"])
    assert allowed("email:a@example.com", permit=["DNS:example.org"])


def test_one_permitted_subtree_suffices_and_one_excluded_subtree_refuses() -> None:
    """Permitted subtrees add up. An excluded one takes precedence."""
    assert allowed("DNS:b.example.org", permit=["DNS:example.com", "DNS:example.org"])
    assert not allowed("DNS:b.example.org", permit=["DNS:example.org"], exclude=["DNS:b.example.org"])
    assert allowed("DNS:c.example.org", permit=["DNS:example.org"], exclude=["DNS:b.example.org"])


def test_every_name_must_be_permitted() -> None:
    """One name outside makes the certificate invalid. A certificate without names has none to forbid."""
    assert allowed(["DNS:a.example.com", "DNS:b.example.com"], permit=["DNS:example.com"])
    assert not allowed(["DNS:a.example.com", "DNS:example.org"], permit=["DNS:example.com"])
    assert allowed([], permit=["DNS:example.com"])


@pytest.mark.parametrize(
    "name", ["DNS:example.com.", "DNS:a..b", "DNS:.a", "DNS:a b", "email:a", "email:@b", "email:a@b."]
)
def test_a_malformed_name_is_not_permitted_by_any_ca_that_constrains_names(name: str) -> None:
    """Go refuses a name that it cannot parse if there are constraints, even on another kind of name."""
    assert not allowed(name, permit=["IP:10.0.0.0/8"])
    assert not allowed(name, exclude=["IP:10.0.0.0/8"])


@pytest.mark.parametrize(
    "uri", ["URI:urn:uuid:1", "URI:https://10.0.0.1/", "URI:https://[::1]:6443/", "URI:https://[::1]/", "URI:https://"]
)
def test_a_uri_without_a_host_name_is_refused_if_uris_are_constrained(uri: str) -> None:
    """RFC 5280 requires it (4.2.1.10). If only other names are constrained, such a URI is accepted."""
    assert not allowed(uri, permit=["URI:example.com"])
    assert not allowed(uri, exclude=["URI:example.com"])
    assert allowed(uri, permit=["DNS:example.com"])


@pytest.mark.parametrize("constraint", ["DNS:example.com.", "DNS:a..b", "email:a@b.", "email:@example.com", "URI:a b"])
def test_a_malformed_constraint_makes_a_ca_unreadable(constraint: str) -> None:
    """Go does not parse such a CA, so for Kubernetes it has signed nothing."""
    assert make_ca(permitted=[constraint]).facts.objections
    ca = make_ca(permitted=["DNS:a"], excluded=[constraint])
    assert ca.facts.objections
    assert constraints_of(ca.facts) is None


@pytest.mark.parametrize(
    "constraint", ["DNS:", "DNS:.a", "IP:10.0.0.0/8", "email:a@b", "email:.b", "URI:a", "dirName:a b"]
)
def test_a_proper_constraint_is_readable(constraint: str) -> None:
    """The cases are an empty one, a leading dot, an address range and a mailbox. Directory names are not read."""
    assert not make_ca(permitted=[constraint]).facts.objections
    assert not make_ca(excluded=[constraint]).facts.objections


def test_a_constraint_on_directory_names_is_ignored() -> None:
    """If it is not critical, it has no effect. If it is critical, the CA is refused before its constraints are read."""
    assert allowed("DNS:a", exclude=["dirName:a"])
    assert allowed("DNS:a.example.com", permit=["dirName:a", "DNS:example.com"])
