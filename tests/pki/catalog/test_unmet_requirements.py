"""The requirements of an entry on this node, and those that a certificate does not meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.unmet_requirements import (
    accepted_subjects,
    has_accepted_subject,
    lacking_usages,
    missing_names,
    node_name_of,
)
from certmond.pki.catalog.validator import validated
from tests.builders import UNKNOWN_OID, make_ca, make_leaf

ROOT = make_ca()
FACTS = {"node_name": "worker-1", "advertise_address": "10.0.0.1", "control_plane_name": "DNS:k8s.example"}


def row(**fields: Any) -> CertificateSpec:
    return validated(CertificateSpec, {"name": "leaf", "path": "/pki/leaf.crt"} | fields)


@pytest.mark.parametrize(
    ("subjects", "facts", "accepted"),
    [
        ([], FACTS, ()),
        (["CN=${node_name}", "CN=b"], FACTS, ("CN=worker-1", "CN=b")),
        (["CN=a", "CN=${node_name}"], {}, ()),
    ],
)
def test_no_subject_is_wrong_if_an_accepted_one_is_unknown(
    subjects: list[str], facts: Mapping[str, str], accepted: tuple[str, ...]
) -> None:
    """The unknown subject may be the one of the certificate. The first is the one to issue."""
    assert accepted_subjects(row(subject=subjects), facts) == accepted


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("CN=a,O=b,O=c", True),
        ("O=c, CN=a , O=b", True),
        ("CN=a+O=b+O=c", True),
        ("CN=a,O=b", False),
        ("CN=a,O=b,O=c,O=d", False),
        ("CN=A,O=b,O=c", False),
    ],
)
def test_subjects_are_compared_by_their_attributes(text: str, right: bool) -> None:
    """Order and grouping do not count. The comparison is case-sensitive, as in Kubernetes."""
    leaf = make_leaf(ROOT, subject=x509.Name.from_rfc4514_string("CN=a,O=b+O=c"))
    assert has_accepted_subject(leaf.facts, ["CN=other", text]) is right
    assert not has_accepted_subject(leaf.facts, [])


@pytest.mark.parametrize(
    ("subjects", "name"),
    [
        (["CN=other", "CN=system:node:${node_name},O=system:nodes"], "worker-2"),
        (["CN=system:node:${node_name}"], None),
        (["CN=${node_name}.example,O=system:nodes"], None),
        (["CN=system:node:worker-2,O=system:nodes"], None),
    ],
)
def test_a_subject_contains_a_node_name(subjects: list[str], name: str | None) -> None:
    """The name is the value of the fact with which the entry accepts the whole subject of the certificate."""
    subject = x509.Name.from_rfc4514_string("CN=system:node:worker-2,O=system:nodes")
    assert node_name_of(make_leaf(ROOT, subject=subject).facts, row(subject=subjects), FACTS) == name


@pytest.mark.parametrize(
    ("key", "usages", "extended", "lacking"),
    [
        ("rsa", ["digital signature"], ["client auth"], ("key encipherment", "server auth")),
        ("ec", ["digital signature"], ["client auth"], ("server auth",)),
        ("ec", ["digital signature"], ["any", UNKNOWN_OID], ()),
        ("rsa", None, None, ()),
    ],
)
def test_a_usage_is_missing_if_it_is_not_permitted(key: str, usages: Any, extended: Any, lacking: Any) -> None:
    """Without the extension every usage is permitted. Keys other than RSA encipher no key, and need not."""
    leaf = make_leaf(ROOT, key=key, usages=usages, extended_usages=extended)
    spec = row(usages=["digital signature", "key encipherment", "server auth", "client auth"])
    assert lacking_usages(spec, leaf.facts) == lacking


@pytest.mark.parametrize(
    ("wanted", "present", "missing"),
    [
        (["DNS:a", "IP:10.0.0.1"], ["IP:10.0.0.1", "DNS:A."], ()),
        (["IP:0:0::1", "IP:::2"], ["IP:::1"], ("IP:::2",)),
        (["DNS:${node_name}", "DNS:worker-1", "DNS:WORKER-1"], [], ("DNS:WORKER-1",)),
        (["DNS:10.0.0.1"], ["IP:10.0.0.1"], ("DNS:10.0.0.1",)),
        (["IP:${node_name}"], ["IP:10.0.0.1"], ("IP:worker-1",)),
        (["${control_plane_name}", "IP:${advertise_address}"], [], ("DNS:k8s.example", "IP:10.0.0.1")),
        (["DNS:${dns_domain}", "IP:${service_ip}"], [], ()),
    ],
)
def test_names_are_missed_each_once_and_compared_as_resolvers_do(
    wanted: list[str], present: list[str], missing: tuple[str, ...]
) -> None:
    """Letters of names and spellings of addresses do not matter, and of an unknown fact nothing is demanded."""
    assert missing_names(row(names=wanted), FACTS, present) == missing


names = st.lists(st.sampled_from(["DNS:a", "DNS:A", "DNS:a.", "DNS:b", "IP:::1", "IP:0::1", "IP:10.0.0.1"]))


@given(names, names)
def test_a_certificate_with_the_missing_names_misses_none(wanted: list[str], present: list[str]) -> None:
    """So one renewal suffices, and no name is duplicated."""
    spec = row(names=wanted)
    missing = missing_names(spec, {}, present)
    assert missing_names(spec, {}, [*present, *missing]) == ()
    for number, name in enumerate(missing):
        others = [*present, *missing[:number], *missing[number + 1 :]]
        assert name in missing_names(row(names=name), {}, others)
