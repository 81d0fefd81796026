"""Copies of certificate files: when a copy differs from its original, and the sentence about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.copies import Difference, differing_copies
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Severity
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf

CA = make_ca()
OLD, NEW = make_leaf(CA, not_after=NOW + 3 * DAY), make_leaf(CA, not_after=NOW + YEAR)


def see(name: str, *issued: Issued, **fields: Any) -> Observation:
    spec = validated(CertificateSpec, {"name": name, "path": f"/pki/{name}.crt", "renewed_by": "others"} | fields)
    return Observation(name, spec, spec.path, tuple(each.facts for each in issued))


def copy(*issued: Issued) -> Observation:
    return see("copy", *issued, copy_of="original")


@pytest.mark.parametrize(
    ("original", "present", "fact"),
    [
        (
            [NEW],
            [OLD],
            (
                "the certificate in the copy ends on 2026-11-27 12:00 UTC, but the certificate in the original ends on "
                "2027-11-24 12:00 UTC"
            ),
        ),
        ([NEW, CA], [NEW], f"the copy lacks {CA.facts.subject}, which ends on"),
        ([NEW], [NEW, CA], f"only the copy contains {CA.facts.subject}, which ends on"),
    ],
)
def test_a_copy_with_other_certificates_is_a_warning(original: list[Issued], present: list[Issued], fact: str) -> None:
    """A copy that has another certificate, one less or one more is the warning `copy_differs` with both paths."""
    statuses = assess(Inventory((see("original", *original), copy(*present))), NOW).statuses
    found = [[item for item in status.findings if item.reason == "copy_differs"] for status in statuses]
    assert not found[0]
    ((item,),) = found[1:]
    assert item.severity is Severity.WARNING
    assert item.message.startswith(
        f"/pki/copy.crt, a copy of /pki/original.crt, does not contain the same certificates: {fact}"
    )


def test_a_copy_without_a_difference_has_no_finding() -> None:
    """Equal files, also in another order, and files of which one is missing or unreadable, are not compared."""
    assert not differing_copies((see("original", NEW, CA), copy(CA, NEW)))
    assert not differing_copies((copy(NEW),))
    assert not differing_copies((see("original"), copy(NEW)))
    assert not differing_copies((see("original", NEW), copy()))
    assert not differing_copies((see("original", NEW), see("other", OLD)))


def test_the_certificates_of_a_bundle_are_compared_together() -> None:
    """A bundle has an observation for each certificate, and one finding, at its first certificate."""
    bundle = see("copy", OLD, kind="bundle", copy_of="original")
    more = replace(bundle, name="copy#2", certificates=(CA.facts,))
    same = see("original", OLD), replace(see("original", CA), name="original#2")
    assert not differing_copies((*same, bundle, more))
    assert list(differing_copies((*same, bundle))) == [("copy", "/pki/copy.crt")]


def test_a_changed_original_changes_the_verdict_on_the_copy() -> None:
    """The copy is judged again after a change of the original alone, and its finding is cleared."""
    kept = copy(NEW)
    first = assess(Inventory((see("original", OLD), kept)), NOW)
    assert first.statuses[1].difference == Difference("/pki/original.crt", first.statuses[1].difference.fact)  # type: ignore[union-attr]
    second = assess(Inventory((see("original", NEW), kept)), NOW, first)
    assert second.statuses[1].difference is None
    assert not second.statuses[1].findings


def test_an_entry_that_certmond_renews_is_no_copy() -> None:
    """An entry with `copy_of` names who renews it, because a renewal by certmond would make it differ."""
    with pytest.raises(ValueError, match="must be absent without `renewed_by`"):
        validated(CertificateSpec, {"name": "copy", "path": "/pki/copy.crt", "copy_of": "original"})
