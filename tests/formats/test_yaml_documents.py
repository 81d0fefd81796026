"""YAML documents whose aliases repeat values."""

from __future__ import annotations

import pytest

from certmond.errors import LimitError
from certmond.formats.yaml_documents import load_documents


def test_each_document_is_loaded() -> None:
    """A text can have several documents, each with separate anchors."""
    text = b"a: &x [1]\nb: *x\n--- {<<: &m {c: '*'}, d: 1}\n---\n"
    assert list(load_documents(text)) == [{"a": [1], "b": [1]}, {"c": "*", "d": 1}, None]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}\nb: {<<: [" + ", ".join(["*a"] * 1000) + "]}",
        "a: &a {c: [" + "x, " * 1000 + "]}\nb: [" + ", ".join(["*a"] * 1000) + "]",
        "a: &a " + "x" * 40_000 + "\nb: [" + ", ".join(["*a"] * 1000) + "]",
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 5000))]),
        "? &a [" + "x, " * 1000 + "]\n: [" + ", ".join(["*a"] * 1000) + "]",
    ],
    ids=["merged keys", "lists", "long texts", "aliases of aliases", "keys"],
)
def test_too_many_repeated_values_are_refused(text: str) -> None:
    """A text whose aliases represent more values than go-yaml permits is refused before a value is built."""
    with pytest.raises(LimitError, match="its aliases repeat more than 400,000 values"):
        list(load_documents(text.encode()))


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: {c: *a}}", "&a {? [*a] : 1}"])
def test_an_alias_inside_of_its_anchor_is_refused(text: str) -> None:
    """go-yaml refuses a value that contains itself."""
    with pytest.raises(LimitError, match="an alias is inside its anchor"):
        list(load_documents(text.encode()))


def test_aliases_below_the_limit_are_loaded() -> None:
    """1,000 clusters of a kubeconfig can share one CA, and an alias is the same object as its anchor."""
    text = f"ca: &a {'x' * 2000}\nall: [{', '.join(['{ca: *a, names: &b [*a]}', *['{ca: *a, names: *b}'] * 999])}]"
    (document,) = load_documents(text.encode())
    assert len({id(each["names"]) for each in document["all"]}) == 1


@pytest.mark.parametrize("text", ["=", "2001-99-99", "2026-11-28", "2026-11-28T20:00:00Z"])
def test_a_date_and_an_equals_sign_are_texts(text: str) -> None:
    """go-yaml decodes a date as text, and gives a single `=` no meaning."""
    assert list(load_documents(f"a: {text}".encode())) == [{"a": text}]
