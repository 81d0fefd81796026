"""The commands in a shell script."""

from __future__ import annotations

import pytest

from certmond.pki.catalog.shell_commands import shell_commands

COMMANDS = {
    "separators": ("a b; c | d && e & f\n(g)", [("a", "b"), ("c",), ("d",), ("e",), ("f",), ("g",)]),
    "quotes": ("a 'b c'\"d e\"f \\g", [("a", "b cd ef", "g")]),
    "a comment": ("a # don't\nb#c", [("a",), ("b#c",)]),
    "redirections": ("a >/x 2>&1 b < /y", [("a", "b")]),
    "assignments": ("A=b\nexport C='d e'\n$A $C; ${C}", [("b", "$C"), ("d", "e")]),
    "keywords": ("if ! a; then b; fi", [("a",), ("b",), ("fi",)]),
    "substitutions": ('a $(b) `c`;d "x $(e "f") `g`"', [("a",), ("b",), ("c",), ("d", "x $(e f) `g`"), ("e",), ("g",)]),
    "an argument of a shell": ("sudo /bin/sh -ec 'a; b' x", [("sudo", "/bin/sh", "-ec", "a; b", "x"), ("a",), ("b",)]),
    "eval": ("eval a 'b; c'", [("eval", "a", "b; c"), ("a", "b"), ("c",)]),
    "a here-document": ("a <<'E'\nb\nE\nc <<-X\nd", [("a", "E"), ("c",), ("d",)]),
    "a here-document for a shell": ("sh <<E\nb\nE", [("sh",), ("b",), ("E",)]),
    "an open quote": ('a "b\nc', [("a", '"b'), ("c",)]),
}


@pytest.mark.parametrize(("text", "commands"), COMMANDS.values(), ids=COMMANDS)
def test_the_commands_of_a_script(text: str, commands: list[tuple[str, ...]]) -> None:
    """Each command has its words without quotes, and each nested command is in the result."""
    found = [*shell_commands(text)]
    assert sorted(found) == sorted(commands)


def test_nested_commands_are_bounded() -> None:
    """The depth of nested commands is bounded, so that a script cannot exhaust the stack."""
    text = "eval " * 100 + "a"
    assert len([*shell_commands(text)]) == 5
