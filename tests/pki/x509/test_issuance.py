"""Which certificates and which intermediate CAs a CA has issued."""

from __future__ import annotations

from dataclasses import replace

from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.issuance import cas_above, is_issued, issuing_cas
from tests.builders import make_ca, make_intermediate, make_leaf

ROOT, TWIN = make_ca(), make_ca()
UPPER = make_intermediate(ROOT, "upper")
LOWER = make_intermediate(UPPER, "lower")
ISSUERS = (ROOT.facts,)


def test_intermediate_cas_are_found_in_any_order() -> None:
    """The result begins with the CAs that a CA of `issuers` has issued directly. A copy counts once."""
    given = [each.facts for each in (LOWER, UPPER, LOWER)]
    assert issuing_cas(given, ISSUERS) == (UPPER.facts, LOWER.facts)
    assert issuing_cas([LOWER.facts], ISSUERS) == ()
    assert issuing_cas([ROOT.facts], ISSUERS) == ()


def test_a_false_ca_and_a_leaf_are_no_issuing_cas() -> None:
    """A false CA has the name of a genuine one. A certificate that Go or cryptography refuses is no CA, either."""
    false = make_intermediate(TWIN, "upper", subject_key_id=UPPER.subject_key_id)
    below = make_intermediate(false, "lower")
    assert issuing_cas([each.facts for each in (false, below, make_leaf(ROOT))], ISSUERS) == ()
    assert issuing_cas([replace(UPPER.facts, unread="odd")], ISSUERS) == ()


def test_the_check_of_a_ca_depends_only_on_the_cas_above() -> None:
    """The caller can store the result for the certificate and these CAs."""
    asked = list[tuple[Certificate, tuple[Certificate, ...]]]()

    def is_ca(certificate: Certificate, above: tuple[Certificate, ...]) -> bool:
        asked.append((certificate, above))
        return certificate != beside.facts

    beside = make_intermediate(ROOT, "beside")
    assert issuing_cas([each.facts for each in (LOWER, UPPER, beside)], ISSUERS, is_ca) == (UPPER.facts, LOWER.facts)
    assert asked == [(UPPER.facts, ()), (beside.facts, ()), (LOWER.facts, (UPPER.facts,))]


def test_the_cas_above_a_certificate_are_those_of_its_paths() -> None:
    """They have the names of the issuers, from one to the next. Two CAs can have issued each other (RFC 4158)."""
    leaf, other = make_leaf(LOWER), make_intermediate(ROOT, "other")
    cas = [each.facts for each in (other, LOWER, UPPER)]
    assert cas_above(leaf.facts, cas) == (LOWER.facts, UPPER.facts)
    assert cas_above(other.facts, cas) == ()
    first, second = make_intermediate(make_ca("second"), "first"), make_intermediate(make_ca("first"), "second")
    assert cas_above(make_leaf(first).facts, [first.facts, second.facts]) == (first.facts, second.facts)


def test_a_leaf_below_two_cas_is_issued_only_with_both() -> None:
    """A CA of `issuers` itself is not issued."""
    leaf = make_leaf(LOWER).facts
    assert is_issued(leaf, [LOWER.facts, UPPER.facts], ISSUERS)
    assert not is_issued(leaf, [LOWER.facts], ISSUERS)
    assert not is_issued(ROOT.facts, [], ISSUERS)
