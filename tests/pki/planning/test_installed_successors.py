"""The order of two certificates at one path, by certmond's record of its renewals."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import NO_FILES, Observation, PatternContents
from certmond.pki.catalog.validator import validated
from certmond.pki.planning.installed_successors import (
    Holder,
    LaterCertificates,
    Renewals,
    holder_of,
    is_older,
    later_certificates,
)
from certmond.pki.signing.policy import contents_of
from certmond.pki.x509.certificate import Certificate
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf

CA = make_ca()
MANY = validated(CertificateSpec, {"name": "many", "path": "/srv/*.pem", "key": "/srv/*.pem", "ca": "ca"})
ONE = validated(CertificateSpec, {"name": "one", "path": "/srv/one.pem", "key": "/srv/one.pem", "ca": "ca"})
PRESENT = make_leaf(CA, "app", not_before=NOW - YEAR, not_after=NOW + 9 * YEAR)
RENEWED = make_leaf(CA, "app", not_before=NOW - DAY, not_after=NOW + YEAR)
ATTEMPT = Attempt(NOW - DAY, sha256=RENEWED.facts.sha256, ends_at=RENEWED.facts.not_after, common_name="app")


def seen(path: str, issued: Issued, spec: CertificateSpec = MANY) -> Observation:
    return Observation(spec.name, spec, path, (issued.facts,))


def later(present: Observation, attempts: Any, *, archived: Any = (), owner_writes: bool = True) -> LaterCertificates:
    """Return the later certificates if no other file of a pattern has the same common name."""
    renewals = Renewals(attempts)
    holder = renewals.holder(present, NO_FILES) if owner_writes and present.spec.is_glob else None
    own = renewals.attempts.get(present.identity)
    return later_certificates(present, [each.facts for each in archived], own, holder, owner_writes=owner_writes)


def test_a_certificate_from_before_the_last_renewal_is_older_whatever_its_end() -> None:
    """The rule holds if the owner can write the file. In a file of root alone the end decides, or the archive."""
    present = seen("/srv/one.pem", PRESENT, ONE)
    known = {present.identity: ATTEMPT}
    assert later(present, known).lost == ATTEMPT.at
    assert later(present, known, archived=[RENEWED]) == LaterCertificates((), (RENEWED.facts,))
    assert not later(present, known, owner_writes=False).lost
    assert later(present, known, archived=[PRESENT], owner_writes=False).lost
    ends_later = replace(ATTEMPT, ends_at=PRESENT.facts.not_after + DAY)
    assert later(present, {present.identity: ends_later}, owner_writes=False).lost


def test_the_last_certificate_of_certmond_has_no_later_one() -> None:
    """The same holds for a certificate that was issued after its last renewal, or if nothing was ever renewed."""
    present = seen("/srv/one.pem", PRESENT, ONE)
    newer = seen("/srv/one.pem", make_leaf(CA, "app", not_before=NOW, not_after=NOW + 2 * YEAR), ONE)
    for each, attempts in (
        (present, {present.identity: replace(ATTEMPT, sha256=PRESENT.facts.sha256)}),
        (newer, {newer.identity: ATTEMPT}),
        (present, {}),
        (present, {present.identity: Attempt(NOW, failures=1)}),
    ):
        assert later(each, attempts) == LaterCertificates()


def test_in_a_pattern_the_renewal_of_another_file_counts() -> None:
    """The rule covers the same common name, and patterns only. A certificate in the archive is not lost. If certmond
    installed the present certificate, only the certificates in other files count.
    """
    present = seen("/srv/b.pem", PRESENT)
    beside = {("many", "/srv/a.pem"): ATTEMPT}
    assert later(present, beside).lost == ATTEMPT.at
    assert later(present, beside, archived=[RENEWED]) == LaterCertificates((), (RENEWED.facts,))
    assert not later(present, {("many", "/srv/a.pem"): replace(ATTEMPT, common_name="other")}).lost
    assert not later(present, {("many", "/srv/a.pem"): replace(ATTEMPT, sha256=PRESENT.facts.sha256)}).lost
    assert not later(seen("/srv/one.pem", PRESENT, ONE), {("one", "/srv/a.pem"): ATTEMPT}).lost
    assert not later(present, beside, owner_writes=False).lost
    own = {present.identity: replace(ATTEMPT, sha256=PRESENT.facts.sha256)}
    assert later(present, beside | own, archived=[RENEWED]) == LaterCertificates()


@pytest.mark.parametrize("contents", ["contents", None])
def test_the_last_certificate_of_a_file_is_not_lost_if_another_file_contains_it(contents: str | None) -> None:
    """The record of certmond proves its origin, also if the CA that issued the certificate is no longer known."""
    present = seen("/srv/b.pem", PRESENT)
    renewals = Renewals({present.identity: replace(ATTEMPT, common_name="former name")})
    holder, own = (
        renewals.holder(present, PatternContents({RENEWED.facts: contents})),
        renewals.attempts[present.identity],
    )
    found = later_certificates(present, [], own, holder, owner_writes=True)
    assert found == LaterCertificates((), (RENEWED.facts,))
    assert later_certificates(present, [], own, owner_writes=True).lost


def test_a_certificate_of_an_unknown_ca_counts_only_if_certmond_installed_it() -> None:
    """The owner of the file can remove the CA from its chain, and the operator can have replaced the CA."""
    recorded, ends_later = {("many", "/srv/a.pem"): ATTEMPT}, make_leaf(CA, "app", not_after=NOW + 20 * YEAR)
    for other, attempts, contents, is_later in (
        (RENEWED, recorded, None, True), (RENEWED, recorded, "contents", True), (RENEWED, {}, "contents", False),
        (ends_later, {}, None, False), (ends_later, {}, "contents", True),
    ):  # fmt: skip
        present = seen("/srv/b.pem", PRESENT)
        holder = Renewals(attempts).holder(present, PatternContents({other.facts: contents}))
        found = later_certificates(present, [], None, holder, owner_writes=True)
        assert found == LaterCertificates((), (other.facts,) if is_later else ())


def test_an_archived_certificate_that_ends_later_is_later() -> None:
    """Without a record, its issuer is not proven. A later start proves nothing, because a certificate of kubeadm has
    the start of its CA (pkiutil, NewSignedCert).
    """
    present, ends = seen("/srv/b.pem", RENEWED), make_leaf(CA, "app", not_before=NOW, not_after=NOW + 2 * YEAR)
    assert later(present, {}, archived=[ends, PRESENT]) == LaterCertificates((ends.facts, PRESENT.facts))
    assert later(seen("/srv/b.pem", PRESENT), {}, archived=[RENEWED]) == LaterCertificates()


def test_a_restored_certificate_hides_no_later_one() -> None:
    """Certmond restored the present certificate last. A certificate that certmond installed before is later."""
    restored = Attempt(NOW, sha256=PRESENT.facts.sha256, common_name="app")
    failed = Attempt(NOW + DAY, failures=1, common_name="app")  # an attempt that installed no certificate
    files = PatternContents({PRESENT.facts: "present", RENEWED.facts: "renewed"})
    found, _ = Holder([ATTEMPT, restored, failed], files).later(PRESENT.facts)
    assert found == {"renewed": RENEWED.facts}


def test_more_different_contents_than_the_limit_are_reported() -> None:
    """A plan of many files with different contents must not compare each with all others."""
    present, number = seen("/srv/b.pem", PRESENT), 20
    files = {
        replace(RENEWED.facts, der=bytes([each]), not_after=PRESENT.facts.not_after + DAY): each
        for each in range(number + 1)
    }
    for some, more in ((dict(list(files.items())[:number]), False), (files, True)):
        found = later_certificates(present, [], None, Holder([], PatternContents(some)), owner_writes=True)
        assert (len(found.issued), found.lost, found.more) == (number, None, more)


def test_the_record_of_a_common_name_is_made_once() -> None:
    """As long as the files are the same object."""
    renewals, files = Renewals({("many", "/srv/a.pem"): ATTEMPT}), PatternContents({RENEWED.facts: "contents"})
    one, other = seen("/srv/b.pem", PRESENT), seen("/srv/c.pem", make_leaf(CA, "app"))
    assert renewals.holder(one, files) is renewals.holder(other, files)
    assert renewals.holder(one, files) is not renewals.holder(one, NO_FILES)


def test_the_time_of_a_missing_certificate_is_that_of_its_installation() -> None:
    """A later attempt that failed does not change this time. The record of the file itself has it too."""
    present = seen("/srv/b.pem", PRESENT)
    failed = replace(ATTEMPT, at=ATTEMPT.at + DAY, issued_at=ATTEMPT.at, failures=1)
    assert later(present, {("many", "/srv/a.pem"): failed}).lost == ATTEMPT.at
    assert later(present, {present.identity: failed}).lost == ATTEMPT.at


def test_a_missing_certificate_is_later_by_its_time_or_by_its_end() -> None:
    """The one that was installed last, and the one that ends last, can be different certificates."""
    before, end = PRESENT.facts.not_before - DAY, PRESENT.facts.not_after
    short = Attempt(before, sha256="a" * 64, ends_at=end - DAY)
    for attempt, is_later in (
        (Attempt(before - DAY, sha256="b" * 64, ends_at=end + DAY), True),
        (Attempt(before - DAY, sha256="b" * 64, ends_at=end - DAY), False),
        (Attempt(NOW, sha256="b" * 64), True),
    ):
        for order in ([short, attempt], [attempt, short]):
            assert Holder(order, NO_FILES).missing_since(PRESENT.facts, ()) == (attempt.at if is_later else None)
            undated = [replace(each, ends_at=None, at=each.at + DAY / 2) for each in order]
            assert bool(Holder([*order, *undated], NO_FILES).missing_since(PRESENT.facts, ())) == is_later


POOL = [
    make_leaf(CA, "app", not_before=NOW + start * DAY, not_after=NOW + end * DAY, names=[f"DNS:{name}"]).facts
    for start, end, name in (
        (-9, 1, "a"), (-8, 3, "a"), (-5, 2, "b"), (-5, 2, "a"), (-3, 9, "b"), (-2, 1, "c"), (-1, 1, "a")
    )
]  # fmt: skip
INSTALLATIONS = st.lists(st.tuples(st.sampled_from(POOL), st.integers(-10, 1), st.booleans()), max_size=6)


@given(
    st.dictionaries(st.sampled_from(POOL), st.booleans()),
    INSTALLATIONS,
    st.sampled_from(POOL),
    st.sets(st.sampled_from(POOL)),
)
def test_one_certificate_stands_for_all_with_equal_contents(
    issued: dict[Certificate, bool], installed: list[tuple[Certificate, int, bool]], present: Certificate,
    archived: set[Certificate],
) -> None:  # fmt: skip
    """A search finds exactly the contents of the later certificates that a CA issued or certmond installed, except the
    contents of the present certificate, each with a later certificate. A certificate is missing if it is later, and
    neither in a file nor in the archive.
    """
    attempts = [
        Attempt(NOW + day * DAY, sha256=each.sha256, ends_at=each.not_after if dated else None)
        for each, day, dated in installed
    ]
    files = PatternContents({each: contents_of(each) if is_issued else None for each, is_issued in issued.items()})
    holder = Holder(attempts, files)
    recorded = {each.sha256 for each in attempts}
    contents = {each: contents_of(each) for each in files if issued[each] or each.sha256 in recorded}
    followed = {each.sha256 for each in attempts if is_older(present, each)}
    is_later = {each for each in files if each.not_after > present.not_after or each.sha256 in followed}
    found, more = holder.later(present)
    assert set(found.values()) <= is_later
    assert {each: contents_of(each) for each in found.values()} == {each: key for key, each in found.items()}
    assert set(found) == {contents[each] for each in is_later & contents.keys()} - {contents.get(present)}
    assert not more
    assert {each for each in POOL if holder.is_later(each.sha256, present)} == {
        each for each in POOL if each.sha256 in followed
    }
    known = {each.sha256 for each in (*archived, present)}
    missing = followed - known - {each.sha256 for each in files}
    times: set[datetime | None] = {each.at for each in attempts if each.sha256 in missing}
    assert holder.missing_since(present, known) in (times or {None})


def test_a_common_name_is_recorded_as_printable_text() -> None:
    """Control characters are escaped. Without a common name nothing is recorded."""
    assert holder_of(make_leaf(CA, "a\nb").facts) == "a\\nb"
    nameless = make_leaf(CA, subject=x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o")]))
    assert holder_of(nameless.facts) is None
    assert not is_older(PRESENT.facts, Attempt(NOW))
