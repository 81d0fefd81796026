"""The names in a directory, changed one by one, and the names to watch in a directory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certmond.files.directory_names import ANY, MatchingNames, Names, added_names, watched_names

NAMES = st.text("ab", min_size=1, max_size=2)


@given(st.sets(NAMES), st.lists(st.tuples(NAMES, st.booleans())))
def test_changed_names_equal_names_that_are_read_again(first: set[str], changes: list[tuple[str, bool]]) -> None:
    """After any sequence of created and removed names, the names are sorted, and `changes` has each name that has come
    or gone, in this order.
    """
    names, expected, came_or_went = Names(first), set(first), []
    for name, exists in changes:
        before = set(expected)
        (expected.add if exists else expected.discard)(name)
        names.update(name, exists=exists)
        came_or_went += [name] if expected != before else []
    assert names == Names(expected)
    assert names.snapshot == tuple(sorted(expected))
    assert {name for name in ("a", "b", "ab") if name in names} == expected & {"a", "b", "ab"}
    assert names.changes == came_or_went


def test_a_snapshot_is_one_object_until_a_name_changes() -> None:
    """Callers compare snapshots by identity."""
    names = Names(["b", "a"])
    first = names.snapshot
    names.update("a", exists=True)
    assert names.snapshot is first
    names.update("c", exists=True)
    assert (first, names.snapshot) == (("a", "b"), ("a", "b", "c"))


def test_the_changes_do_not_grow_without_bound() -> None:
    """After 1000 changes the object is exhausted, and its owner begins with a new one."""
    names = Names(())
    for number in range(500):
        names.update("a", exists=True)
        assert not names.is_exhausted, number
        names.update("a", exists=False)
    assert names.is_exhausted


def test_a_matching_name_is_a_single_name_or_a_name_that_a_wildcard_matches() -> None:
    """As `path` in the catalogue, a wildcard is case-sensitive, and matches hidden names."""
    watched = MatchingNames(frozenset({"ca.key"}), frozenset({"*.crt", "[ab]?.pem"}))
    names = ("ca.key", "a.crt", ".crt", "a1.pem", "ca.pem", "A.CRT", "a.crt.bak")
    assert [name for name in names if name in watched] == ["ca.key", "a.crt", ".crt", "a1.pem"]


def test_the_added_names_are_those_that_were_not_watched() -> None:
    """The result is None if these names have no list: all names, or the names that a wildcard matches."""
    some, crt = frozenset({"a.crt", "b.key"}), MatchingNames(frozenset({"b.key"}), frozenset({"*.crt"}))
    assert added_names(some, some) == added_names(some, None) == added_names(None, None) == frozenset()
    assert added_names(crt, crt) == added_names(crt, None) == frozenset()
    assert added_names(some, frozenset({"a.crt"})) == frozenset({"b.key"})
    assert added_names(some, MatchingNames(frozenset(), frozenset({"*.crt"}))) == frozenset({"b.key"})
    assert added_names(crt, MatchingNames(frozenset(), frozenset({"*.crt", "*"}))) == frozenset()
    assert added_names(crt, MatchingNames(frozenset({"c"}), frozenset({"*.crt"}))) == frozenset({"b.key"})
    assert added_names(crt, some) is added_names(None, some) is added_names(None, crt) is None


def test_a_directory_has_the_single_names_that_no_wildcard_matches() -> None:
    """A directory without wildcards has only its names, and a directory with the wildcard for all names has no list."""
    lookups = ["/pki/a.crt", "/pki/ca.key", "/etc", "/d", "/all/x", "/pki/ca.key", "/conf/b"]
    wildcards = {"/pki": ["*.crt"], "/all": ["*.crt", ANY], "/empty": ["*.pem"], "/": ["?"]}
    watched = watched_names(lookups, wildcards.items())
    assert list(watched) == ["/pki", "/", "/all", "/conf", "/empty"], "if inotify watches run out, the first count"
    assert watched == {
        "/pki": MatchingNames(frozenset({"ca.key"}), frozenset({"*.crt"})),
        "/": MatchingNames(frozenset({"etc"}), frozenset({"?"})),
        "/all": None,
        "/conf": frozenset({"b"}),
        "/empty": MatchingNames(frozenset(), frozenset({"*.pem"})),
    }
