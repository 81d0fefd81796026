"""Self-signed certificates: a finding has the command that replaces the certificate, because no CA can renew it."""

from __future__ import annotations

from typing import Any

import pytest

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.assessment.self_signed_leaves import replacement
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation, Provenance
from certmond.pki.catalog.validator import validated
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Held, Plan
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf

ROOT = make_ca()
AUTHORITY = CertificateSpec(name="ca", path="/pki/ca.crt", authority=True, usages=("cert sign",))
OWN = make_ca("own", not_before=NOW - YEAR, not_after=NOW)
LEAF = make_leaf(OWN, not_before=NOW - YEAR, not_after=NOW)
FACT = "the certificate is self-signed, so no CA can renew it"
COMMAND = f"{FACT}; run: rm /pki/leaf.crt /pki/leaf.key && certmond restart kubelet"


def row(**fields: Any) -> CertificateSpec:
    own = {"name": "leaf", "path": "/pki/leaf.crt", "key": "/pki/leaf.key", "ca": ["self", "ca"]}
    return validated(CertificateSpec, own | {"consumers": "kubelet"} | fields)


def look(*issued: Issued, after: Any = -DAY, **fields: Any) -> Assessment:
    """Assess the file of an entry beside a Root CA, at a time after the end of OWN, on a node with all evidence."""
    spec = row(**fields)
    certificates = tuple(each.facts for each in issued)
    seen = Observation("leaf", spec, spec.path, certificates, key=issued[0].facts.key, key_path=spec.key)
    ca = Observation("ca", AUTHORITY, AUTHORITY.path, (ROOT.facts,), key=ROOT.facts.key, key_path="/pki/ca.key")
    around = Surroundings(provenance={seen.identity: Provenance()})
    return assess(Inventory((ca, seen), {}), NOW + after, around=around)


def found(assessment: Assessment) -> list[tuple[str, str]]:
    (status,) = (each for each in assessment.statuses if each.seen.name == "leaf")
    return [(item.reason.value, item.message) for item in status.findings]


def planned(assessment: Assessment) -> Plan:
    return plan(assessment, Policy(), {}, Circumstances())


@pytest.mark.parametrize("ca", [["self", "ca"], ["ca", "self"], "self"])
def test_a_due_self_signed_certificate_has_one_finding(ca: Any) -> None:
    """The finding has the command that replaces the certificate, the key and the CA in the same file."""
    due = "/pki/leaf.crt expires on 2026-11-24 12:00 UTC and has been due since 2026-10-25 12:00 UTC"
    assert found(look(LEAF, OWN, ca=ca)) == [("nearing_expiry", f"{due}; {COMMAND}")]


def test_an_expired_self_signed_certificate_has_one_finding() -> None:
    """The CA in the same file expires at the same time, and the same command replaces this CA."""
    expired = f"/pki/leaf.crt expired on 2026-11-24 12:00 UTC; {COMMAND}"
    assert found(look(LEAF, OWN, after=DAY)) == [("expired", expired)]


def test_a_ca_that_ends_before_its_self_signed_certificate_has_the_same_remedy() -> None:
    """The end of the CA is the end of the certificate, so certmond reports the end before and after this time."""
    leaf = make_leaf(OWN, not_before=NOW - YEAR, not_after=NOW + YEAR)
    ends = "/pki/leaf.crt ends on 2027-11-24 12:00 UTC, but its CA CN=own ends on 2026-11-24 12:00 UTC"
    assert found(look(leaf, OWN)) == [("outlives_ca", f"{ends}; {COMMAND}")]
    expired = "/pki/leaf.crt: the CA CN=own expired on 2026-11-24 12:00 UTC"
    assert found(look(leaf, OWN, after=DAY)) == [("expired", f"{expired}; {COMMAND}")]


@pytest.mark.parametrize("after", [-DAY, DAY])
def test_the_plan_holds_a_due_self_signed_certificate(after: Any) -> None:
    """The reason of the hold is the remedy of the finding. Before the renewal point, the plan has no hold."""
    assert planned(look(LEAF, OWN, after=after)).held == (Held("leaf", "/pki/leaf.crt", COMMAND),)
    assert planned(look(LEAF, OWN, after=-100 * DAY)).held == ()


def test_a_certificate_of_a_ca_of_the_entry_is_renewed() -> None:
    """The same entry accepts a certificate of the Root CA, even if the file contains the Root CA."""
    leaf = make_leaf(ROOT, not_before=NOW - YEAR, not_after=NOW)
    for chain in ((leaf,), (leaf, ROOT)):
        (found_reason,) = found(look(*chain))
        assert found_reason[1].endswith("; renew the certificate: certmond renew leaf")
        assert [step.target for step in planned(look(*chain)).steps] == ["leaf"]


def test_a_component_that_renews_certificates_of_its_ca_keeps_a_self_signed_one() -> None:
    """k3s renews kube-scheduler.crt at a start only if its CA has signed this file. With `self` alone, `renewed_by`
    names the component that replaces the self-signed certificate.
    """
    for ca, remedy in ((["ca", "self"], COMMAND), ("self", "it is renewed by k3s")):
        assessment = look(LEAF, OWN, ca=ca, renewed_by="k3s")
        ((reason, message),) = found(assessment)
        assert (reason, message.endswith(f"; {remedy}")) == ("nearing_expiry", True)
        (held,) = planned(assessment).held
        assert remedy in held.because


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({}, "run: rm /pki/leaf.crt /pki/leaf.key && certmond restart kubelet"),
        ({"path": "/p q.pem", "key": "/p q.pem"}, "run: rm '/p q.pem' && certmond restart kubelet"),
        ({"key": None}, "remove the certificate and its key, and restart the service"),
        ({"consumers": []}, "remove the certificate and its key, and restart the service"),
        ({"consumers": ["k3s", "k3s-agent"]}, "remove the certificate and its key, and restart the service"),
    ],
    ids=["a pair", "one file", "no key", "no service", "two services"],
)
def test_the_remedy_has_a_command_if_the_entry_names_its_parts(fields: Any, remedy: str) -> None:
    """The command removes each file once, and restarts the only service of the entry."""
    spec = row(**fields)
    assert replacement(Observation("leaf", spec, spec.path, key_path=spec.key)) == f"{FACT}; {remedy}"
