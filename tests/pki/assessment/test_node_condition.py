"""The condition of the Node that describes the findings about its certificates."""

from __future__ import annotations

from collections.abc import Mapping

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.assessment.node_condition import NodeCondition, node_condition
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Fault, Reason
from tests.builders import DAY, NOW, make_ca, make_leaf

CA = make_ca(not_after=NOW + 3000 * DAY)
NEXT = "run on this node: certmond check"


def assessed(days: Mapping[str, int], *others: Observation) -> Assessment:
    """Return the assessment of a CA, of leaves with the days until their end, and of other observations."""
    spec = CertificateSpec(name="ca", path="/ca", authority=True)
    seen = [Observation("ca", spec, "/ca", (CA.facts,))]
    for name, left in days.items():
        leaf = make_leaf(CA, name, not_before=NOW - 300 * DAY, not_after=NOW + left * DAY)
        spec = CertificateSpec(name=name, path=f"/{name}", ca=("ca",))
        seen.append(Observation(name, spec, f"/{name}", (leaf.facts,)))
    return assess(Inventory((*seen, *others), {}), NOW)


def test_a_node_without_findings_is_healthy() -> None:
    """The message has the number of certificates."""
    expected = NodeCondition("True", "NoFindings", "2 certificates without a warning")
    assert node_condition(assessed({"web": 300})) == expected


def test_a_warning_does_not_make_the_node_unhealthy() -> None:
    """The status is "True", and the message has the entries with their reasons."""
    expected = NodeCondition("True", "Warnings", f"1 with a warning: web (nearing_expiry); {NEXT}")
    assert node_condition(assessed({"web": 20})) == expected


def test_a_critical_finding_makes_the_node_unhealthy() -> None:
    """The message has the critical entries only."""
    expected = NodeCondition("False", "CriticalFindings", f"1 critical: old (expired); {NEXT}")
    assert node_condition(assessed({"web": 20, "old": -1})) == expected


def test_many_findings_are_counted() -> None:
    """The message has the names of five entries, and the number of the others."""
    message = node_condition(assessed({f"web-{number}": -1 for number in range(7)})).message
    assert message.startswith("7 critical: web-0 (expired), ")
    assert message.endswith(f" and 2 more; {NEXT}")


def test_five_findings_are_named_without_a_number_of_others() -> None:
    """The message has the names of all five entries, and no number of further entries."""
    message = node_condition(assessed({f"web-{number}": -1 for number in range(5)})).message
    names = ", ".join(f"web-{number} (expired)" for number in range(5))
    assert message == f"5 critical: {names}; {NEXT}"


def test_a_finding_of_a_file_without_a_certificate_counts() -> None:
    """A missing file is a finding of its entry."""
    fault = Fault(Reason.MISSING, "is missing", "renew it")
    gone = Observation("gone", CertificateSpec(name="gone", path="/gone"), "/gone", faults=(fault,))
    assert "gone (missing)" in node_condition(assessed({}, gone)).message


def test_a_node_without_the_certificates_of_the_profile_is_unknown() -> None:
    """The status "Unknown" says that certmond has not checked any certificate."""
    condition = node_condition(assess(Inventory((), {}), NOW))
    assert (condition.status, condition.reason) == ("Unknown", "NoCertificates")
