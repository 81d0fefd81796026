"""Unit files of systemd, command lines and environment files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.formats.unit_file import (
    Environment,
    Setting,
    Word,
    command_line,
    parse_environment,
    parse_unit,
    places,
    settings,
    split_words,
    with_specifiers,
)

UNIT = rb"""
# a comment \
[Unit]
Environment=NAME=other section
[Service]
  ExecStart = /usr/bin/etcd \
    # a comment in a continued line
    --a=1 \
    --b=2

Restart=always
EnvironmentFile=-/etc/etcd.env
[Install]
ExecStart=/no
"""


def words(command: str, environment: Environment | None = None, unit: str = "a.service") -> list[str]:
    return [each.text for each in command_line(Word(command, "/u"), environment or {}, unit)]


def test_the_settings_of_a_service_are_read() -> None:
    """A backslash continues a line, comments are skipped, and other sections and settings do not count."""
    start, file = parse_unit(UNIT, "/u")
    assert (start.name, start.value.split()) == ("ExecStart", ["/usr/bin/etcd", "--a=1", "--b=2"])
    assert file == Setting("EnvironmentFile", "-/etc/etcd.env")


def test_an_empty_value_resets_a_setting() -> None:
    """A drop-in replaces the command of the unit with an empty ExecStart=, and adds to other settings."""
    unit = parse_unit(b"[Service]\nExecStart=/a\nEnvironment=A=1\n", "/u")
    drop_in = parse_unit(b"[Service]\nExecStart=\nExecStart=/b\nEnvironment=B=2\n", "/d")
    assert settings([("/u", unit), ("/d", drop_in)]) == {
        "ExecStart": [Word("/b", "/d")],
        "Environment": [Word("A=1", "/u"), Word("B=2", "/d")],
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ('--x="a b"c', ["--x=a bc"]),
        (r"a\sb \"c\n", ["a b", '"c\n']),
        ("\"\" ''", ["", ""]),
        ("'open quote", ["open quote"]),
        ("a\\", ["a\\"]),
        (r"'\'' b'c' \\ ", ["'", "bc", "\\"]),
        (r"/my\x2dpki \055\u002d\U0000002d", ["/my-pki", "---"]),
        (r"\xc3\xa4 \u00e4 \xff", ["ä", "ä", "\ufffd"]),
        (r"\q \x0 \x00 \ud800 \UFFFFFFFF \;", [r"\q", r"\x0", r"\x00", r"\ud800", r"\UFFFFFFFF", ";"]),
        ("", []),
    ],
)
def test_words_are_separated_as_systemd_does(text: str, found: list[str]) -> None:
    """Quotes and backslashes protect white space."""
    assert split_words(text) == found


@pytest.mark.parametrize("prefix", ["@", "-@", "@-", "@:", "+@", "@!", "!!@", ":-@!"])
def test_the_name_of_a_process_is_no_argument(prefix: str) -> None:
    """With the prefix "@", the second word is the name of the process, in any order of the prefixes."""
    assert words(f"{prefix}/usr/bin/kube-apiserver --name --x=%i y", unit="a@b.service") == [
        "/usr/bin/kube-apiserver", "--x=b", "y"
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "-", ":", "+", "!", "!!", "|", "-+", "|@", "@-|", ":|"])
def test_without_the_name_of_a_process_each_word_is_an_argument(prefix: str) -> None:
    """Other prefixes change no word. With "|", systemd starts a shell, and "@" makes this shell a login shell."""
    assert words(f"{prefix}/usr/bin/etcd --x y") == ["/usr/bin/etcd", "--x", "y"]


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("/a $LIST", ["/a", "--l=1", "--m=2 3"]),
        ("/a $NONE ${NONE} x${NONE}y", ["/a", "", "xy"]),
        ("/a ${STATE_DIRECTORY}/x", ["/a", "${STATE_DIRECTORY}/x"]),
        ("/a $ESCAPED", ["/a", "x2d", "b c"]),
        ("/a ${LIST}", ["/a", "--l=1 '--m=2 3'"]),
        ("/a x$ONE $$ONE --one=${ONE}", ["/a", "x$ONE", "$ONE", "--one=1"]),
        (":/a $ONE", ["/a", "$ONE"]),
        ("/a %p %i %n %N %% %H", ["/a", "s", "x", "s@x.service", "s@x", "%", "%H"]),
    ],
)
def test_variables_and_specifiers_are_replaced(command: str, found: list[str]) -> None:
    """`$NAME` gives words, `${NAME}` a part of a word, and an unset variable nothing. Other specifiers stay."""
    environment = {"LIST": ("--l=1 '--m=2 3'", "/e"), "ONE": ("1", "/e"), "ESCAPED": (r"\x2d b\ c", "/e")}
    assert words(command, environment, "s@x.service") == found


@pytest.mark.parametrize("reference", ["$A", "x${A}", "${A}"])
def test_variables_that_would_make_a_command_too_long_stay(reference: str) -> None:
    """A short command can repeat a long variable. certmond substitutes values up to 1 MiB in total."""
    environment = {"A": ("a" * (1 << 16), "/e")}
    value = reference.replace("${A}", "$A").replace("$A", environment["A"][0])
    assert words(f"/a {f'{reference} ' * 16}", environment)[1:] == [value] * 16
    assert words(f"/a {f'{reference} ' * 17}", environment)[1:] == [reference] * 17


def test_each_flag_has_the_file_of_its_value() -> None:
    """The file of a flag is that of the variable in its value, or else that of the command."""
    environment = {"CA": ("/ca.crt", "/e"), "ARGS": ("--k /k.key", "/f")}
    found = command_line(Word("/a --a=1 --ca=${CA} $ARGS --last -b", "/u"), environment, "a.service")
    assert places(found) == {"a": "/u", "ca": "/e", "k": "/f", "last": "/u", "b": "/u"}


def test_the_variables_of_an_environment_file_are_read() -> None:
    """Comments, quotes and continued lines have the meaning of systemd."""
    text = b"""# comment
; comment
A=/a.pem\x20\x20
 B = "b \\
c" 'd'  e
C="q\\"\\$\\x"
export D=1
E=
F=a\\
b'c'
G='last'"""
    assert parse_environment(text, "/e") == {
        "A": "/a.pem", "B": "b cde", "C": 'q"$\\x', "E": "", "F": "ab'c'", "G": "last",
    }  # fmt: skip


@given(st.binary(max_size=200) | st.text(alphabet="[]Service=ExecStart\\\"'$ {}%#;\n-@", max_size=80).map(str.encode))
def test_any_bytes_are_accepted(data: bytes) -> None:
    """Arbitrary content of a unit file or an environment file raises no exception."""
    unit = parse_unit(b"[Service]\n" + data, "/u")
    variables = {name: (value, "/e") for name, value in parse_environment(data, "/e").items()}
    for value in (
        data.decode("utf-8", "replace"),
        *(word.text for some in settings([("/u", unit)]).values() for word in some),
    ):
        found = command_line(Word(value, "/u"), variables, with_specifiers(value, "a@b.service"))
        assert set(places(found).values()) <= {"/u", "/e", ""}
