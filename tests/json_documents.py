"""Strategies for JSON that a user may have edited by hand, for each reader of JSON."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def edited(draw: st.DrawFn, right: dict[str, Any]) -> Any:
    """Return any value, or `right` with some fields missing, arbitrary, or with the value of another field."""
    if draw(st.integers(0, 4)) == 0:
        return draw(_ANY)
    made = dict(right)
    words = [value for value in right.values() if isinstance(value, str)]
    likely = st.sampled_from([*words, *_phases_and_modes(), "2026-11-24T12:00:00Z", "9999-12-31T23:59:59Z", [], {}])
    for name in draw(st.lists(st.sampled_from(sorted(right)), min_size=1, max_size=3, unique=True)):
        if draw(st.integers(0, 4)) == 0:
            del made[name]
        else:
            made[name] = draw(likely | likely.map(lambda value: [value]) | _ANY)
    return made


def _phases_and_modes() -> list[str]:
    return ["prepare", "detach", "trust", "issue", "distrust", "attach", "done", "overlap", "reissue", "replace"]
