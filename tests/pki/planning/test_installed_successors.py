"""The order of two certificates at one path, by certmond's record of its renewals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.validator import validated
from certmond.pki.planning.installed_successors import Pattern, Renewals, holder_of, is_older, later_beside
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf

CA = make_ca()
MANY = validated(CertificateSpec, {"name": "many", "path": "/srv/*.pem", "key": "/srv/*.pem", "ca": "ca"})
ONE = validated(CertificateSpec, {"name": "one", "path": "/srv/one.pem", "key": "/srv/one.pem", "ca": "ca"})
PRESENT = make_leaf(CA, "app", not_before=NOW - YEAR, not_after=NOW + 9 * YEAR)
RENEWED = make_leaf(CA, "app", not_before=NOW - DAY, not_after=NOW + YEAR)
ATTEMPT = Attempt(NOW - DAY, sha256=RENEWED.facts.sha256, ends_at=RENEWED.facts.not_after, common_name="app")


def seen(path: str, issued: Issued, spec: CertificateSpec = MANY) -> Observation:
    return Observation(spec.name, spec, path, (issued.facts,))


def successors(present: Observation, attempts: Any, *, kept: Any = (), owner_writes: bool = True) -> list[Attempt]:
    return Renewals(attempts).successors(present, [each.facts for each in kept], owner_writes=owner_writes)


def test_a_certificate_from_before_the_last_renewal_is_older_whatever_its_end() -> None:
    """The rule holds if the owner can write the file. In a file of root alone the end decides, or the archive."""
    present = seen("/srv/one.pem", PRESENT, ONE)
    known = {present.identity: ATTEMPT}
    assert successors(present, known) == [ATTEMPT]
    assert successors(present, known, owner_writes=False) == []
    assert successors(present, known, kept=[PRESENT], owner_writes=False) == [ATTEMPT]
    ends_later = replace(ATTEMPT, ends_at=PRESENT.facts.not_after + DAY)
    assert successors(present, {present.identity: ends_later}, owner_writes=False) == [ends_later]


def test_the_last_certificate_of_certmond_has_no_later_one() -> None:
    """The same holds for a certificate that was issued after its last renewal, or if nothing was ever renewed."""
    present = seen("/srv/one.pem", PRESENT, ONE)
    assert successors(present, {present.identity: replace(ATTEMPT, sha256=PRESENT.facts.sha256)}) == []
    newer = seen("/srv/one.pem", make_leaf(CA, "app", not_before=NOW, not_after=NOW + 2 * YEAR), ONE)
    assert successors(newer, {newer.identity: ATTEMPT}) == []
    assert successors(present, {}) == []
    assert successors(present, {present.identity: Attempt(NOW, failures=1)}) == []


def test_in_a_pattern_the_renewal_of_another_file_counts() -> None:
    """The rule covers the same common name, and patterns only."""
    present = seen("/srv/b.pem", PRESENT)
    assert successors(present, {("many", "/srv/a.pem"): ATTEMPT}) == [ATTEMPT]
    assert successors(present, {("many", "/srv/a.pem"): replace(ATTEMPT, common_name="other")}) == []
    assert successors(present, {("many", "/srv/a.pem"): replace(ATTEMPT, sha256=PRESENT.facts.sha256)}) == []
    assert successors(seen("/srv/one.pem", PRESENT, ONE), {("one", "/srv/a.pem"): ATTEMPT}) == []
    assert successors(present, {("many", "/srv/a.pem"): ATTEMPT}, owner_writes=False) == []


def test_certificates_beside_it_are_later_by_their_end_or_by_the_renewal() -> None:
    """It covers certificates of the same common name in the files of the same pattern."""
    short = make_leaf(CA, "app", not_before=NOW - DAY, not_after=NOW + DAY)
    other = make_leaf(CA, "other", not_before=NOW - DAY, not_after=NOW + 20 * YEAR)
    present = seen("/srv/b.pem", PRESENT)
    pattern = Pattern(
        Inventory((present, seen("/srv/a.pem", short), seen("/srv/c.pem", other), seen("/x", other, ONE)))
    )
    beside = pattern.beside(present)
    assert set(beside) == {PRESENT.facts, short.facts}
    assert pattern.beside(seen("/x", PRESENT, ONE)) == ()
    assert later_beside(PRESENT.facts, beside, []) == ()
    assert later_beside(PRESENT.facts, beside, [replace(ATTEMPT, sha256=short.facts.sha256)]) == (short.facts,)
    assert later_beside(short.facts, beside, []) == (PRESENT.facts,)


def test_a_common_name_is_recorded_as_printable_text() -> None:
    """Control characters are escaped. Without a common name nothing is recorded."""
    assert holder_of(make_leaf(CA, "a\nb").facts) == "a\\nb"
    nameless = make_leaf(CA, subject=x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o")]))
    assert holder_of(nameless.facts) is None
    assert not is_older(PRESENT.facts, Attempt(NOW))
