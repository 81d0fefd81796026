"""Tables for narrow terminals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.expose.documents.stacked_rows import Row, stacked

_WORDS = st.lists(st.text("abc", min_size=1, max_size=30), min_size=1, max_size=8).map(" ".join)


def test_texts_are_below_each_other() -> None:
    """The first text starts beside the cells. The others are indented below it, and wrap between words."""
    rows = [
        Row(("2027-10-22", "renew"), ("apiserver, etcd-server", "is due; valid until 2028-10-21"), "green"),
        Row(("2027-10-25", "due"), ("kubelet",), "yellow"),
    ]
    made = stacked(("WHEN", "WHAT", "TARGET"), rows, 45)
    assert made.plain.splitlines() == [
        "WHEN        WHAT   TARGET",
        "2027-10-22  renew  apiserver, etcd-server",
        "                     is due; valid until",
        "                     2028-10-21",
        "2027-10-25  due    kubelet",
    ]
    assert [(made.plain[span.start : span.end], span.style) for span in made.spans] == [
        ("WHEN        WHAT   TARGET", "bold"), ("2027-10-22  renew  ", "green"), ("2027-10-25  due    ", "yellow"),
    ]  # fmt: skip


def test_a_long_word_stays_whole() -> None:
    """A path or a name that is longer than the column is not cut."""
    path = "/etc/kubernetes/pki/apiserver-kubelet-client.crt"
    made = stacked(("WHAT", "TARGET"), [Row(("due",), ("x", f"{path} is due"))], 30)
    assert made.plain.splitlines()[2].strip() == path


def test_a_row_without_text_has_its_cells() -> None:
    """An empty text takes no line."""
    assert stacked(("WHAT", "TARGET"), [Row(("due",), ("",))], 30).plain.splitlines()[1].rstrip() == "due"


@pytest.mark.long
@given(st.lists(st.tuples(_WORDS, _WORDS), max_size=4))
def test_no_word_is_lost_and_no_line_is_too_long(texts: list[tuple[str, str]]) -> None:
    """Each word of each text is in the output, and each line with several words fits."""
    made = stacked(("A", "TEXT"), [Row(("a",), each) for each in texts], 50).plain.splitlines()
    words = [word for each in texts for word in ("a", *" ".join(each).split())]
    assert " ".join(made[1:]).split() == words
    assert all(len(line) <= 50 for line in made)
