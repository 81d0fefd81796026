"""The record of restarts: the next process continues a restart that was under way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import WriteError
from certmond.pki.services.restart_episode import Episode, Past, Result, Stage, Target
from certmond.restart.history import History

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TEXT = st.text(max_size=8)
TEXTS = st.lists(TEXT, max_size=2).map(tuple)
DIGESTS = st.dictionaries(TEXT, TEXT, max_size=2)
INSTANTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - naive, as hypothesis asks
EPISODES = st.builds(
    Episode,
    service=TEXT,
    targets=st.lists(st.builds(Target, TEXT, TEXT, DIGESTS), max_size=2).map(tuple),
    why=TEXT,
    begun_at=INSTANTS,
    stage=st.sampled_from(Stage),
    attempt=st.integers(1, 3),
    before=TEXT,
    acted_at=st.none() | INSTANTS,
    instances=TEXTS,
    well_before=TEXTS,
    good=st.integers(0, 9),
    good_since=st.none() | INSTANTS,
    good_at=st.none() | INSTANTS,
    trouble=TEXT,
    put_back_at=st.none() | INSTANTS,
)
PASTS = st.builds(
    Past,
    service=TEXT,
    episode=st.none() | EPISODES,
    ended_at=st.none() | INSTANTS,
    result=st.none() | st.sampled_from(Result),
    message=TEXT,
    targets=TEXTS,
    instance=TEXT,
    contents=DIGESTS,
)


@pytest.mark.long
@given(PASTS)
def test_the_past_is_remembered_as_it_was(tmp_path_factory: pytest.TempPathFactory, past: Past) -> None:
    """Every field of it, for the next process."""
    state = tmp_path_factory.mktemp("state")
    History(state).store(past)
    assert History(state).all() == {past.service: past}


def test_each_service_has_its_own(tmp_path: Path) -> None:
    """What is noted of one replaces what was known of it, and nothing of another."""
    one, other = Past("a", None, NOW, Result.PROVEN), Past("b", Episode("b", (), "x", NOW))
    for past in (one, other, replace(one, result=Result.FAILED)):
        History(tmp_path).store(past)
    assert History(tmp_path).all() == {"a": replace(one, result=Result.FAILED), "b": other}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b'{"a": {}}', b'{"a": {"service": "a", "result": "no such"}}',
        b'{"a": {"service": "a", "ended_at": "2026-11-24T12:00:00"}}',
        b'{"a":{"service": "a", "episode": {"service": "a", "targets": [], "why":"", "begun_at": "2026-11-24T12:00"}}}',
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_no_memory(tmp_path: Path, content: bytes) -> None:
    """Also one with times that have no zone, which could be compared with nothing."""
    (tmp_path / "restarts.json").write_bytes(content)
    assert History(tmp_path).all() == {}
    History(tmp_path).store(Past("a"))
    assert History(tmp_path).all() == {"a": Past("a")}


def test_nothing_is_restarted_without_a_record(tmp_path: Path) -> None:
    """If the record cannot be written, that is an error, and not ignored."""
    (tmp_path / "state").touch()
    with pytest.raises(WriteError, match=r"restarts\.json"):
        History(tmp_path / "state").store(Past("a"))
