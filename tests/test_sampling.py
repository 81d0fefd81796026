"""A sample of stops is repeated with its seed, and leaves out no part and no kind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests import sampling
from tests.sampling import examples, left_out, module_of, sample

STOPS = [f"{'write' if n % 50 else 'rename'} {n}" for n in range(200)]


@pytest.fixture(autouse=True)
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "EVERY_STOP", False)
    monkeypatch.setattr(sampling, "SEED", "a")


def test_the_same_seed_repeats_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same seed a test tries the same stops, and with another seed others."""
    first = sample(STOPS, 10, "a test")
    assert sample(STOPS, 10, "a test") == first
    monkeypatch.setattr(sampling, "SEED", "b")
    assert sample(STOPS, 10, "a test") != first


def test_a_sample_has_each_part_and_each_kind() -> None:
    """One stop is of each tenth, and one of each kind, in their order."""
    found = sample(STOPS, 10, "a test", kind=lambda stop: stop.split()[0])
    places = [STOPS.index(stop) for stop in found]
    assert {place // 20 for place in places} == set(range(10))
    assert {stop.split()[0] for stop in found} == {"write", "rename"}
    assert places == sorted(places)
    assert 10 <= len(found) <= 11


def test_every_stop_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CERTMOND_EVERY_STOP=1 there is no sample."""
    monkeypatch.setattr(sampling, "EVERY_STOP", True)
    assert sample(STOPS, 10, "a test") == STOPS


def test_a_property_has_all_examples_with_the_thorough_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a property with many examples has a fifth of them, and one with few examples has all."""
    monkeypatch.setattr("hypothesis.settings", lambda: SimpleNamespace(max_examples=100))
    assert (examples(1500), examples(50)) == (300, 50)
    monkeypatch.setattr("hypothesis.settings", lambda: SimpleNamespace(max_examples=2000))
    assert examples(1500) == 1500


def test_a_run_tries_some_tests_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tests of a group remain as the group has in a run, and all other tests. Another seed keeps others. If a
    group has only as many tests, the run tries each of them.
    """
    monkeypatch.setattr(sampling, "GROUPS", {"cluster": 2, "node": 3})
    groups = [*["cluster"] * 4, None, *["node"] * 3]
    runs = set[frozenset[int]]()
    for seed in "abcdef":
        monkeypatch.setattr(sampling, "SEED", seed)
        out = left_out(groups)
        assert len(out) == 2
        assert out < {0, 1, 2, 3}
        runs.add(frozenset(out))
    assert len(runs) > 1
    monkeypatch.setattr(sampling, "EVERY_STOP", True)
    assert left_out(groups) == set()


def test_a_run_tries_a_quarter_of_the_long_tests_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CERTMOND_LONG=sample, a run tries a quarter of the long tests of each module, and at least one. A case is a
    test. Short tests and the tests of pki all run, as do all tests with CERTMOND_LONG=1.
    """
    tests = ["tests/a.py::test_b"] + [f"tests/c.py::test_d[{n}]" for n in range(7)] + ["tests/c.py::test_e"]
    monkeypatch.setattr(sampling, "LONG", "sample")
    left = {*range(9)} - left_out([module_of(test, long=True) for test in tests])
    assert 0 in left
    assert len(left) == 3
    assert [module_of(test, long=False) for test in tests] == [None] * 9
    assert module_of("tests/pki/test_a.py::test_b[1]", long=True) is None
    monkeypatch.setattr(sampling, "LONG", "1")
    assert [module_of(test, long=True) for test in tests] == [None] * 9
