"""The new CAs of a distribution: what `k3s certificate rotate-ca` refuses, and what would break during the change."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from certmond.pki.rotation.distribution_ca.new_ca_validation import NewCA, objections
from tests.builders import DAY, NOW, YEAR, Issued, cross_sign, make_ca, make_intermediate, make_leaf

COMMAND = "k3s certificate rotate-ca"
OLD = make_ca("old", not_before=NOW - DAY, not_after=NOW + YEAR)
ROOT = make_ca("root", not_before=NOW - DAY, not_after=NOW + YEAR)
CROSSED = cross_sign(ROOT, by=OLD, not_before=NOW - DAY, not_after=NOW + YEAR)
OWN = make_intermediate(ROOT, "own", not_before=NOW - DAY, not_after=NOW + YEAR)


def new_ca(*new: Issued, present: tuple[Issued, ...] = (OLD,)) -> NewCA:
    return NewCA(
        "server-ca", "/new/server-ca.crt", "/new/server-ca.key", "/tls/server-ca.crt",
        tuple(each.facts for each in present), tuple(each.facts for each in new), new[0].facts.key if new else None,
    )  # fmt: skip


def problems(ca: NewCA) -> list[str]:
    return [*objections(ca, NOW, COMMAND)]


WHOLE = new_ca(OWN, CROSSED, ROOT, OLD)


def test_cross_signed_cas_are_accepted_in_any_order() -> None:
    for files in ((OWN, CROSSED, ROOT, OLD), (OWN, OLD, ROOT, CROSSED)):
        assert problems(new_ca(*files)) == []
    assert not WHOLE.is_installed


def test_each_problem_is_named() -> None:
    """A CA that no present CA signs has several problems, and all of them are yielded."""
    found = problems(new_ca(make_ca("other", not_before=NOW - DAY)))
    assert [each.partition(" ")[2][:40] for each in found[:1]] == ["contains only one certificate, but k3s c"]
    text = "\n".join(found)
    for part in (
        "requires the Root CA in the same file",
        "has no valid certification path to a Root CA in /tls/server-ca.crt",
        "/new/server-ca.crt contains no valid Root CA for its first certificate",
        "does not contain the Root CA of CN=old",
    ):
        assert part in text
    assert len(found) == 4


def test_old_leaves_need_the_old_root_ca() -> None:
    found = problems(new_ca(OWN, CROSSED, ROOT))
    assert len(found) == 1
    assert "components with the new CA would refuse the old certificates" in found[0]


def test_the_first_certificate_must_be_a_ca() -> None:
    leaf = make_leaf(ROOT, "leaf", extended_usages=["server auth"])
    assert "may not sign certificates" in problems(new_ca(leaf, CROSSED, ROOT, OLD))[0]


def test_the_key_must_belong_to_the_first_certificate() -> None:
    assert problems(replace(WHOLE, key=None)) == ["/new/server-ca.key is missing"]
    assert problems(replace(WHOLE, key=None, key_problem="is damaged")) == ["is damaged"]
    other = "the first key in /new/server-ca.key is not the key of the first certificate in /new/server-ca.crt"
    assert problems(replace(WHOLE, key=OLD.facts.key)) == [other]


def test_a_file_without_a_certificate() -> None:
    assert problems(new_ca()) == ["/new/server-ca.crt contains no certificate"]
    assert problems(replace(new_ca(), faults=("is not PEM",))) == ["is not PEM"]


def test_an_older_file_would_stop_the_start() -> None:
    """k3s accepts a difference of less than three seconds. Equal files are not compared."""
    old = replace(WHOLE, written_at=NOW, present_written_at=NOW + timedelta(seconds=3))
    assert "the service would not start after k3s certificate rotate-ca" in problems(old)[0]
    assert problems(replace(old, present_written_at=NOW + timedelta(seconds=2))) == []
    assert problems(replace(old, present=WHOLE.new)) == []


def test_the_old_root_ca_can_be_removed() -> None:
    """If the first certificate stays, the new file needs only its Root CA."""
    present = (OWN, CROSSED, ROOT, OLD)
    assert problems(new_ca(OWN, ROOT, present=present)) == []
    assert "contains no valid Root CA" in problems(new_ca(OWN, CROSSED, present=present))[0]
    assert new_ca(*present, present=present).is_installed


def test_a_second_replacement_is_accepted() -> None:
    """The Root CA in a present file with intermediate CAs cross-signs the next Root CA."""
    root = make_ca("root-2", not_before=NOW - DAY, not_after=NOW + YEAR)
    crossed = cross_sign(root, by=ROOT, not_before=NOW - DAY, not_after=NOW + YEAR)
    own = make_intermediate(root, "own-2", not_before=NOW - DAY, not_after=NOW + YEAR)
    assert problems(new_ca(own, crossed, root, ROOT, present=(OWN, CROSSED, ROOT, OLD))) == []


def test_an_expired_ca_is_refused() -> None:
    expired = make_intermediate(ROOT, "own", not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    assert "has no valid certification path" in problems(new_ca(expired, CROSSED, ROOT, OLD))[0]


def test_a_file_without_present_certificates_is_compared_with_none() -> None:
    assert "has no valid certification path" in problems(new_ca(OWN, ROOT, present=()))[0]
