"""Argument files of MicroK8s and Canonical Kubernetes."""

from __future__ import annotations

from certmond.formats.argument_file import expanded, parse_arguments


def test_an_argument_file_has_words_as_kubelite_reads_them() -> None:
    """Quotes have no effect, a space separates words, and lines with "#" are comments."""
    lines = ["# --a=1", "", "  --b='x y'", '--c="/z"', "--d /w", "--e=" + "f" * 5000]
    assert parse_arguments("\n".join(lines).encode(), "") == ("--b=x", "y", "--c=/z", "--d", "/w")
    assert parse_arguments(b"\xff", "") == ("\ufffd",)


def test_variables_have_the_values_of_the_snap() -> None:
    """A variable without a known value stays."""
    words = ["--a=${SNAP_DATA}/x", "--b=$SNAP_DATA/y", "--c=${OTHER}/z", "--d=$(id)"]
    assert expanded(words, {"SNAP_DATA": "/data"}) == ["--a=/data/x", "--b=/data/y", "--c=${OTHER}/z", "--d=$(id)"]
