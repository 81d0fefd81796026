"""The certificates beside a certificate in the files of a pattern: their contents, and who issued them."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest

from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import NO_FILES, Inventory, Observation, PatternContents
from certmond.pki.catalog.validator import validated
from certmond.pki.planning.pattern_files import PatternFiles
from certmond.pki.signing.policy import contents_of
from certmond.pki.x509 import issuance
from certmond.pki.x509.path_building import find_paths
from tests.builders import DAY, NOW, Issued, make_ca, make_intermediate, make_leaf

CA, OTHER = make_ca(), make_ca()
SUB = make_intermediate(CA, "sub")
BELOW = make_intermediate(SUB, "below")
MANY = validated(CertificateSpec, {"name": "many", "path": "/srv/*.pem", "key": "/srv/*.pem", "ca": "ca"})
ONE = validated(CertificateSpec, {"name": "one", "path": "/srv/one.pem", "key": "/srv/one.pem", "ca": "ca"})
ISSUERS = (CA.facts,)


def seen(path: str, *issued: Issued, spec: CertificateSpec = MANY) -> Observation:
    return Observation(spec.name, spec, path, tuple(each.facts for each in issued))


def index(*observations: Observation) -> PatternFiles:
    made = PatternFiles(lambda: None)
    made.begin(Inventory(observations))
    return made


def test_the_files_are_those_with_the_common_name_in_the_pattern() -> None:
    """A certificate in several files is once in the result. An entry with a single file has no such files."""
    app, also, other = make_leaf(CA, "app"), make_leaf(CA, "app", names=["DNS:app"]), make_leaf(CA, "other")
    first = seen("/srv/a.pem", app)
    found = index(first, seen("/srv/b.pem", also), seen("/srv/c.pem", other), seen("/srv/d.pem", app, CA))
    assert {**found.of(first, ISSUERS)} == {each.facts: contents_of(each.facts) for each in (app, also)}
    assert found.of(first, ISSUERS) is found.of(seen("/srv/b.pem", also), ISSUERS)
    assert found.of(seen("/srv/one.pem", app, spec=ONE), ISSUERS) is NO_FILES


def test_a_certificate_that_no_ca_of_the_entry_has_issued_has_no_contents() -> None:
    """The file is in the result, because certmond can have installed its certificate before the CA was replaced."""
    forged = make_leaf(OTHER, "app")
    assert (
        index(seen("/srv/a.pem", forged)).of(seen("/srv/a.pem", forged), ISSUERS).items()
        == {forged.facts: None}.items()
    )


def test_an_intermediate_ca_can_be_in_any_file() -> None:
    """The owner of a file can remove it there. The CA of the entry must have issued it, directly or through others."""
    below, false = make_leaf(BELOW, "app"), make_leaf(make_intermediate(OTHER, "sub"), "app")
    alone, chains = seen("/srv/a.pem", below), (make_leaf(CA, "app"), BELOW, SUB)
    assert index(alone).of(alone, ISSUERS)[below.facts] is None
    assert index(alone, seen("/srv/b.pem", *chains)).of(alone, ISSUERS)[below.facts] == contents_of(below.facts)
    unknown = make_intermediate(OTHER, "sub")
    found = index(seen("/srv/c.pem", false, unknown), seen("/srv/b.pem", *chains)).of(alone, ISSUERS)
    assert found[false.facts] is None


@pytest.mark.parametrize("usages", [None, ["client auth", "server auth"]])
def test_the_usages_of_a_ca_limit_leaves_and_not_the_cas_below(usages: list[str] | None) -> None:
    """A policy CA with an extended key usage can issue a CA without one, or with others (RFC 5280, 4.2.1.12)."""
    upper = make_intermediate(CA, "policy", extended_usages=["client auth"])
    lower = make_intermediate(upper, "issuing", extended_usages=usages)
    later = make_leaf(lower, "app")
    file = seen("/srv/a.pem", later, lower, upper)
    assert index(file).of(file, ISSUERS)[later.facts] == contents_of(later.facts)


def test_a_ca_is_judged_again_with_the_cas_above() -> None:
    """A CA that is first without the CA above, and then with it, is a CA of the entry from then on, and conversely."""
    leaf = make_leaf(BELOW, "app")
    without, above = seen("/srv/a.pem", leaf, BELOW), seen("/srv/b.pem", make_leaf(CA, "app"), SUB)
    made = PatternFiles(lambda: None)
    for files, contents in (
        ((without,), None), ((without, above), contents_of(leaf.facts)), ((without,), None),
        ((without, above), contents_of(leaf.facts)),
    ):  # fmt: skip
        made.begin(Inventory(files))
        assert made.of(without, ISSUERS)[leaf.facts] == contents


def searches(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    counted = mock.Mock(side_effect=find_paths)
    monkeypatch.setattr(issuance, "find_paths", counted)
    return counted


def test_certificates_with_the_name_of_a_ca_cost_one_search_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user can add them to each file. They are compared with the CAs of the entry only, and not with each other. A
    certificate with another issuer, or of no CA, costs no search. The index calls `alive` for each search.
    """
    counted, calls = searches(monkeypatch), list[None]()
    junk = [make_ca() for _ in range(20)]
    others = [make_ca("other"), make_intermediate(make_ca("other")), make_leaf(make_ca("other")), make_leaf(CA, "leaf")]
    files = [seen(f"/srv/{number}.pem", make_leaf(CA, "app"), *junk, *others) for number in range(10)]
    made = PatternFiles(lambda: calls.append(None))
    made.begin(Inventory(tuple(files)))
    made.of(files[0], ISSUERS)
    assert counted.call_count == len(junk) + len(files)
    assert len(calls) == len(junk) + len(files)
    assert all(len(call.args[2]) == 0 for call in counted.call_args_list)


def test_an_unchanged_file_costs_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next pass searches only for new certificates, or if the CAs of the entry have changed. Without a change, the
    result is the same object, so that no verdict is repeated. The results for a certificate or a CA that is no longer
    there are dropped.
    """
    counted, before = searches(monkeypatch), PatternContents()
    files = tuple(seen(f"/srv/{number}.pem", make_leaf(CA, "app"), SUB) for number in range(5))
    made = PatternFiles(lambda: None)
    for inventory, issuers, number in (
        (files, ISSUERS, 6), (files, ISSUERS, 0), ((*files, seen("/srv/x.pem", make_leaf(SUB, "app"))), ISSUERS, 1),
        (files, (CA.facts, OTHER.facts), 6),
    ):  # fmt: skip
        counted.reset_mock()
        made.begin(Inventory(inventory))
        found = made.of(files[0], issuers)
        assert (counted.call_count, found is before) == (number, number == 0)
        before = found
    for inventory, issuers, number in (
        (files, ISSUERS, 6), (files[:1], ISSUERS, 0), (files, ISSUERS, 4),
    ):  # fmt: skip
        counted.reset_mock()
        made.begin(Inventory(inventory))
        made.of(files[0], issuers)
        assert counted.call_count == number
    counted.reset_mock()
    for _ in range(2):
        made.begin(Inventory(files))  # a pass in which no certificate of the pattern is due
    made.of(files[0], ISSUERS)
    assert counted.call_count == 0


def test_a_change_of_one_file_costs_only_the_searches_of_that_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of thousands of files can change one of them in each pass: a leaf, a false CA, or a CA of other files.
    A CA that returns costs no search.
    """
    counted = searches(monkeypatch)
    junk = [make_ca() for _ in range(20)]
    files = [seen(f"/srv/{number}.pem", make_leaf(CA, "app"), *junk) for number in range(5)]
    files += [seen(f"/srv/below-{number}.pem", make_leaf(SUB, "app")) for number in range(3)]
    leaf, false = seen("/srv/x.pem", make_leaf(CA, "app")), seen("/srv/x.pem", make_leaf(CA, "app"), make_ca())
    sub = seen("/srv/sub.pem", make_leaf(CA, "app"), SUB)
    made = PatternFiles(lambda: None)
    for added, number in (
        ([], 28), ([leaf], 1), ([false], 2), ([sub], 5), ([], 0), ([sub], 2), ([sub], 0),
    ):  # fmt: skip
        counted.reset_mock()
        made.begin(Inventory((*files, *added)))
        made.of(files[0], ISSUERS)
        assert counted.call_count == number


def test_a_certificate_in_the_files_of_two_entries_costs_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """If both entries have the same CAs."""
    counted, leaf = searches(monkeypatch), make_leaf(CA, "app")
    also = validated(CertificateSpec, {"name": "also", "path": "/opt/*.pem", "key": "/opt/*.pem", "ca": "ca"})
    files = seen("/srv/a.pem", leaf), seen("/opt/a.pem", leaf, spec=also)
    made = index(*files)
    assert [{**made.of(each, ISSUERS)} for each in files] == [{leaf.facts: contents_of(leaf.facts)}] * 2
    assert counted.call_count == 1


def test_a_certificate_that_cryptography_cannot_parse_has_no_contents() -> None:
    """A certificate that cryptography refuses is not issued, whatever its signature."""
    leaf = make_leaf(CA, "app", not_after=NOW + DAY)
    refused = replace(seen("/srv/a.pem", leaf), certificates=(replace(leaf.facts, unread="odd"),))
    assert [*index(refused).of(refused, ISSUERS).values()] == [None]
