"""The values of stored documents: each type with its JSON, and an error for any other JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.cluster.record import ClusterRecord
from certmond.pki.assessment.hook_events import Notice
from certmond.pki.findings import Severity
from certmond.pki.instant import Instant, usable
from certmond.pki.services.restart_episode import Bystander, Episode, Past, Result, Stage, Target
from certmond.services.content_times import _Known
from certmond.state.archive import _Description, _File
from certmond.state.json_decoder import between, decoded, encoded, matching
from certmond.state.renewals import _Entry, _Line
from certmond.state.rotation_record import _Entry as _RotationEntry
from tests.builders import make_ca

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HUGE = 10**400


class Colour(StrEnum):
    RED = "red"
    LIGHT_BLUE = "light_blue"


@dataclass(frozen=True, slots=True)
class Leaf:
    since: Instant
    name: str = "x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    colour: Colour = Colour.RED
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    by_name: Mapping[str, Leaf | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.leaf.name == "odd":
            raise ValueError("contains an odd leaf")


SINCE = {"since": "2026-11-24T12:00:00Z"}


def short(text: str) -> str:
    if len(text) > 3:
        raise ValueError("is too long")
    return text


def upper(text: str) -> str:
    return text.upper()


def to_utf_8(text: str) -> str:
    text.encode()
    return text


_INSTANT: Any = Annotated[datetime, usable]
Short = Annotated[str, short, upper]
Encodable = Annotated[str, to_utf_8]
Share = Annotated[float, between(0, 1)]
Letters = Annotated[str, matching("[a-z]+", "must be letters")]


def why(value: Any, kind: Any) -> str:
    """Return the error for a value."""
    with pytest.raises(ValueError, match=r"^[^ ]+ (must|is|contains) ") as raised:
        decoded(value, kind)
    return str(raised.value)


# --- each type --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (str, "", ""),
        (str, "\ud800\x00", "\ud800\x00"),
        (int, -5, -5),
        (int, HUGE, HUGE),
        (bool, True, True),
        (type(None), None, None),
        (float, 0.5, 0.5),
        (float, 1, 1.0),
        (datetime, "2026-11-24T12:00:00Z", NOW),
        (datetime, "2026-11-24T12:00:00+00:00", NOW),
        (datetime, "2026-11-24T17:00:00.000005+05:00", NOW + timedelta(microseconds=5)),
        (Instant, "2026-11-24T17:00:00+05:00", NOW),
        (str | None, None, None),
        (str | None, "a", "a"),
        (Instant | None, "2026-11-24T12:00:00Z", NOW),
        (tuple[int, ...], [], ()),
        (tuple[tuple[int, ...], ...], [[1, 2], []], ((1, 2), ())),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Mapping[str, bool], {}, {}),
        (Colour, "light_blue", Colour.LIGHT_BLUE),
        (Literal[1], 1, 1),
        (Literal["a", "b"], "b", "b"),
        (Short, "abc", "ABC"),
        (Share, 0, 0.0),
        (Share, 1, 1.0),
        (Letters, "ab", "ab"),
        (Leaf, SINCE, Leaf(NOW)),
        (Leaf, {"since": "2026-11-24T17:00:00+05:00"}, Leaf(NOW)),
        (Tree, {"leaf": {**SINCE, "name": "a"}}, Tree(leaf=Leaf(NOW, "a"))),
        (
            Tree,
            {"colour": "light_blue", "leaf": SINCE, "leaves": [SINCE], "by_name": {"a": SINCE, "b": None}},
            Tree(colour=Colour.LIGHT_BLUE, leaf=Leaf(NOW), leaves=(Leaf(NOW),), by_name={"a": Leaf(NOW), "b": None}),
        ),
    ],
)
def test_a_value_is_decoded_as_its_type(kind: Any, value: Any, expected: Any) -> None:
    """The result has exactly the type, also where Python compares values of two types as equal."""
    found = decoded(value, kind)
    assert (found, type(found)) == (expected, type(expected))


def test_an_instant_is_decoded_in_utc() -> None:
    """A time without a check keeps its offset."""
    text = "2026-11-24T17:00:00+05:00"
    assert decoded(text, datetime).utcoffset() == timedelta(hours=5)
    assert decoded(text, _INSTANT).tzinfo is UTC


@pytest.mark.parametrize(
    ("kind", "values", "fact"),
    [
        (str, [1, None, ["a"], True], "it must be text"),
        (int, ["1", 1.0, True, None], "it must be an integer"),
        (bool, [1, 0, "true", None], "it must be true or false"),
        (type(None), [0, False, ""], "it must be null"),
        (float, ["1", True, None, math.nan, math.inf, -math.inf, HUGE, -HUGE], "it must be a number"),
        (
            datetime,
            [
                1764000000, None, "", "yesterday", "2026-11-24", "2026-11-24T12:00:00", "12:00:00Z", "\ud800",
                "2026-13-01T00:00:00Z", "2026-11-24T12:00:00+24:00", "٢٠٢٦-11-24T12:00:00Z", "2026-11-24T12:00:00Z ",
            ],
            "it must be a time with an offset",
        ),
        (
            Instant,
            ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00"],
            "it must be a time between the years 2 and 9998",
        ),
        (str | None, [1, False], "it must be text"),
        (tuple[int, ...], ["a", {}, None, {"0": 1}], "it must be a list"),
        (tuple[int, ...], [[1, "2"], [1, True], [1, None, "x"]], "1 must be an integer"),
        (dict[str, int], [[], "a", None, [["a", 1]]], "it must be an object"),
        (dict[str, int], [{"a": 1, "b.c": "x", "d": "y"}], "b.c must be an integer"),
        (Colour, ["RED", "Red", "", 1, None, ["red"], {}], "it must be one of red, light_blue"),
        (Literal[1], [2, "1", True, 1.0, None, [1]], "it must be 1"),
        (Literal["a", "b"], ["c", 1, {}], "it must be one of a, b"),
        (Short, ["abcd"], "it is too long"),
        (Short, [1], "it must be text"),
        (Share, [-0.1, 1.1, 2], "it must be from 0 to 1"),
        (Letters, ["", "a1", "a\n", "\na"], "it must be letters"),
        (Encodable, ["\ud800"], "it contains characters that are invalid in UTF-8"),
        (Leaf, [[], "a", 1, None], "it must be an object"),
        (Leaf, [{}, {"name": "a"}, {"Since": "x"}], "since is missing"),
        (Leaf, [{"since": 1}, {"since": None, "name": 1}], "since must be a time with an offset"),
        (Leaf, [{"since": "9999-12-31T23:59:59Z"}], "since must be a time between the years 2 and 9998"),
        (Tree, [{"leaf": {}}], "leaf.since is missing"),
        (Tree, [{"colour": "green"}], "colour must be one of red, light_blue"),
        (Tree, [{"leaf": SINCE, "leaves": [SINCE, {"since": "x"}]}], "leaves.1.since must be a time with an offset"),
        (Tree, [{"leaf": SINCE, "by_name": {"a": {**SINCE, "name": 5}}}], "by_name.a.name must be text"),
        (Tree, [{"leaf": {**SINCE, "name": "odd"}}], "it contains an odd leaf"),
        (tuple[Tree, ...], [[{"leaf": {**SINCE, "name": "odd"}}]], "0 contains an odd leaf"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_an_error(kind: Any, values: list[Any], fact: str) -> None:
    """The error has the place and the fact. No value is converted to the type."""
    assert {why(value, kind) for value in values} == {fact}


def test_unknown_fields_are_ignored() -> None:
    """The fields of a later version of certmond may have any value."""
    assert decoded({**SINCE, "later": {"a": [HUGE, None]}}, Leaf) == Leaf(NOW)


@pytest.mark.parametrize("kind", [object, Any, bytes, set[str], list[int], dict[int, str], tuple[int, str], int | str])
def test_an_unsupported_type_is_a_mistake_of_the_programmer(kind: Any) -> None:
    """The error covers every type with more than one form in JSON, or with none."""
    with pytest.raises(TypeError, match=r"^JSON has no form of "):
        decoded({}, kind)


@pytest.mark.parametrize("value", [{1}, b"a", timedelta(1), NOW.date()])
def test_an_unsupported_value_is_a_mistake_of_the_programmer(value: Any) -> None:
    """The error covers a value that certmond would not read again."""
    with pytest.raises(TypeError, match=r"^JSON has no form of "):
        json.dumps(value, default=encoded)


def test_a_dataclass_is_encoded_in_the_order_of_its_fields() -> None:
    """Nested values have their JSON, too: times with the offset, members of a set of texts as the text."""
    text = json.dumps(Tree(leaf=Leaf(NOW), leaves=(Leaf(NOW, "a"),)), default=encoded)
    leaf = '{"since": "2026-11-24T12:00:00+00:00", "name": "%s"}'
    assert text == f'{{"colour": "red", "leaf": {leaf % "x"}, "leaves": [{leaf % "a"}], "by_name": {{}}}}'


# --- any document -----------------------------------------------------------------------------------------------------

_texts = st.text(st.characters(exclude_categories=()), max_size=8)
_names = _texts.filter(lambda text: "\x00" not in text and not any("\ud800" <= each <= "\udfff" for each in text))
_instants = st.datetimes(datetime(2, 1, 2), datetime(9998, 12, 30)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001
_zoned = st.datetimes(timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))))
_targets = st.builds(Target, _texts, _texts, st.dictionaries(_texts, _texts, max_size=3), st.none() | _instants)
_many_texts = st.lists(_texts, max_size=3).map(tuple)
_bystanders = st.builds(Bystander, _texts, _texts, st.tuples(_targets), _texts, _many_texts)
_counts = st.integers(0, 1 << 31)
_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
_nodes = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
_pems = st.sampled_from([make_ca().pem.decode() for _ in range(2)])
_maybe = st.none() | _instants
_episodes = st.builds(
    Episode, _texts, st.tuples(_targets), _texts, _instants, stage=st.sampled_from(Stage), attempt=st.integers(),
    before=_texts, acted_at=_maybe, instances=_many_texts, good_since=_maybe, trouble=_texts,
    bystanders=st.lists(_bystanders, max_size=2).map(tuple), asked=st.booleans(),
)  # fmt: skip
_entries = st.builds(
    _Entry, _names, _names, _instants, _counts, _texts, st.none() | _texts, _maybe, _maybe, st.none() | _names, _maybe,
    st.none() | _texts, st.booleans(), _maybe, _counts, st.none() | _texts,
)  # fmt: skip
_owners = st.integers(0, (1 << 32) - 2)
STORED: dict[Any, st.SearchStrategy[Any]] = {
    Past: st.builds(
        Past, _texts, st.none() | _episodes, _maybe, st.none() | st.sampled_from(Result), _texts, _many_texts, _texts,
        st.dictionaries(_texts, _texts, max_size=3), st.booleans(),
    ),
    Notice: st.builds(
        Notice, _texts, _texts, _texts, st.sampled_from(Severity), _texts, _instants, _maybe, _maybe
    ),
    _Known: st.builds(_Known, _texts, _instants),
    _Line: st.builds(_Line, _entries, st.booleans()),
    _Description: st.builds(
        _Description, _zoned, st.dictionaries(_texts, _texts, max_size=3),
        st.lists(
            st.builds(
                _File, _names.map(lambda name: f"/{name}"), _texts, st.integers(0, 0o7777), _owners, _owners, _texts
            ),
            max_size=3,
        ).map(tuple),
    ),
    ClusterRecord: st.builds(
        ClusterRecord, id=_ids, family=_ids, mode=_ids, phase=_ids, since=_instants, new=_pems,
        old=st.lists(_pems, max_size=2).map(tuple), excluded=st.lists(_nodes, max_size=3).map(tuple),
        aborted=st.booleans(), coordinator=_nodes, published=_maybe,
        signature=st.from_regex("(x509:)?[A-Za-z0-9+/]{1,20}={0,2}", fullmatch=True), released=st.floats(0, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STORED)
@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_stored_value_is_decoded_as_it_was_encoded(kind: Any, data: st.DataObject) -> None:
    """The rule covers each stored dataclass with any valid value, also through its text."""
    value = data.draw(STORED[kind])
    assert decoded(json.loads(json.dumps(value, default=encoded)), kind) == value


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(HUGE) | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


def _damaged(draw: st.DrawFn, value: Any) -> Any:
    """Return the JSON value with one arbitrary value at an arbitrary place."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: _damaged(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        return [_damaged(draw, value[0]), *value[1:]]
    return draw(_json)


@st.composite
def _documents(draw: st.DrawFn, kind: Any) -> Any:
    return _damaged(draw, json.loads(json.dumps(draw(STORED[kind]), default=encoded)))


@pytest.mark.long
@pytest.mark.parametrize("kind", [*STORED, _RotationEntry])
@given(st.data())
@settings(max_examples=80, deadline=None)
def test_any_json_is_a_value_or_an_error(kind: Any, data: st.DataObject) -> None:
    """The error is a ValueError with one sentence. A valid document results in the same value again."""
    document = data.draw(_documents(kind) if kind in STORED else _json)
    try:
        found = decoded(document, kind)
    except ValueError as error:
        said = str(error)
    else:
        said = "it is valid"
        assert decoded(json.loads(json.dumps(found, default=encoded)), kind) == found
    assert len(said.split()) > 1


def test_the_depth_of_a_document_is_no_limit() -> None:
    """An unknown or invalid value may be as deep as the parser of JSON permits."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert decoded({**SINCE, "later": deep}, Leaf) == Leaf(NOW)
    assert why({**SINCE, "name": deep}, Leaf) == "name must be text"
    assert why(deep, tuple[tuple[int, ...], ...]) == "0.0 must be an integer"


def test_an_error_does_not_quote_the_value() -> None:
    """A value can be secret, long, or an integer that Python refuses to print."""
    for kind in (bool, float, datetime, Colour, Literal[1], Short, Share, Letters, Leaf, tuple[int, ...], Tree):
        for value in ("SECRET", ["SECRET"], {"SECRET": "SECRET"}, {"colour": "SECRET"}, HUGE**20):
            assert not {"SECRET", "000"} & set(re.findall("SECRET|000", why(value, kind)))
