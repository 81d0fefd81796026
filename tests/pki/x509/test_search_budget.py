"""The cost of the search for paths: the limit of Go for one path, and one for all paths of a file."""

from __future__ import annotations

import pytest

from certmond.pki.x509.path_building import PathSearch, Question, Refusal, find_all, find_paths
from certmond.pki.x509.search_budget import MAX_NAMES, MAX_WORK, Budget, work_of
from tests.builders import Issued, make_ca, make_intermediate, make_leaf, make_server


def refusals(search: PathSearch) -> list[Refusal]:
    return [each.refusal for each in search.rejections]


def named(ca: Issued, count: int) -> Issued:
    return make_server(ca, names=[f"DNS:{n}.a" for n in range(count)])


@pytest.mark.parametrize(("names", "allowed"), [(499, True), (500, True), (501, False)])
def test_so_many_comparisons_as_go_makes_and_no_more(names: int, allowed: bool) -> None:
    """Every name is compared with every subtree of its kind: 500 with 500 are 250,000, which Go does."""
    ca = make_ca(permitted=["DNS:a", *(f"DNS:b{n}" for n in range(299))], excluded=[f"DNS:c{n}" for n in range(200)])
    search = find_paths(named(ca, names).facts, [ca.facts])
    assert refusals(search) == ([] if allowed else [Refusal.TOO_MANY_COMPARISONS])


def test_the_same_name_counts_as_often_as_it_appears() -> None:
    """The rule is that of Go, which compares each."""
    ca = make_ca(permitted=["DNS:a", *(f"DNS:b{n}" for n in range(499))])
    leaf = make_server(ca, names=["DNS:a"] * 501)
    assert refusals(find_paths(leaf.facts, [ca.facts])) == [Refusal.TOO_MANY_COMPARISONS]


def test_empty_names_count() -> None:
    """An empty name is the shortest name in a certificate, and counts as any other name."""
    ca = make_ca(permitted=["DNS:a", *(f"DNS:b{n}" for n in range(499))])
    for count, refused in ((500, Refusal.NAME_CONSTRAINT), (501, Refusal.TOO_MANY_COMPARISONS)):
        assert refusals(find_paths(make_server(ca, names=["DNS:"] * count).facts, [ca.facts])) == [refused]


def test_names_of_another_kind_do_not_count() -> None:
    """They are compared with nothing."""
    ca = make_ca(permitted=["DNS:a", *(f"IP:10.{n >> 8}.{n & 255}.0/24" for n in range(600))])
    assert find_paths(named(ca, 600).facts, [ca.facts]).paths


def test_the_names_of_a_whole_file_have_a_bound() -> None:
    """They are judged once for each CA with name constraints, and names beyond the limit are refused as such."""
    ca = make_ca(permitted=["DNS:a"])
    middle = make_intermediate(ca, permitted=["DNS:a"])
    leaf = named(middle, 60).facts
    budget = Budget(names=60 + 60)
    assert find_paths(leaf, [ca.facts], [middle.facts], (), budget).paths
    assert budget.names == 0
    assert refusals(find_paths(leaf, [ca.facts], [middle.facts], (), budget)) == [Refusal.NAMES_EXCEEDED]
    assert f"{MAX_NAMES:,}" in Refusal.NAMES_EXCEEDED


@pytest.mark.long
def test_the_signatures_of_a_whole_file_have_a_bound() -> None:
    """Questions about one file share it. Those about another file, or about none, have a separate one."""
    ca = make_ca(key="rsa-4096")
    leaf = make_leaf(ca)
    least = work_of(leaf.facts, ca.facts)
    questions = [Question(leaf.facts, (ca.facts,), (), frozenset(), "/a")] * (MAX_WORK // least + 1)
    *proven, last = find_all(questions)
    assert all(search.paths for search in proven)
    assert refusals(last) == [Refusal.WORK_EXCEEDED]
    assert f"{MAX_WORK:,}" in Refusal.WORK_EXCEEDED
    others = [questions[0]._replace(file=file) for file in ("/b", "", "")]
    assert all(search.paths for search in [*find_all([*questions, *others])][-3:])


@pytest.mark.long
@pytest.mark.parametrize(
    ("key", "work"), [("rsa", 1), ("rsa-4096", 8), ("ec", 2), ("ed25519", 3), ("ec-p384", 25), ("ec-p521", 25)]
)
def test_a_signature_counts_by_its_cost(key: str, work: int) -> None:
    """The cost depends on the key of the issuer and the size of the hashed part."""
    ca = make_ca(key=key)
    assert work_of(make_leaf(ca).facts, ca.facts) == work
    assert work_of(make_leaf(ca, names=["DNS:" + "a" * 100_000]).facts, ca.facts) == work + 2


def test_two_certificates_that_differ_in_their_names_alone_are_two() -> None:
    """Go compares key, subject and the bytes of the names: a CA with the same of all three adds nothing to a path."""
    ca = make_ca("ca", names=["DNS:a"])
    again, other = (make_ca("ca", key=ca.key, names=[name]) for name in ("DNS:a", "DNS:b"))
    leaf = make_leaf(ca)
    found = find_paths(leaf.facts, [ca.facts], [again.facts, other.facts])
    assert {len(path.certificates) for path in found.paths} == {2, 3}
    assert all(
        len({each.names for each in path.certificates[1:]}) == len(path.certificates) - 1 for path in found.paths
    )
