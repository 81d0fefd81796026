"""Flags exchanged in the text of a static Pod's manifest: all other text stays."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from certmond.errors import WriteError
from certmond.formats import manifest_edit as manifest_text
from certmond.formats.manifest_edit import flag_values_in, with_flags
from tests.node import Node
from tests.sampling import examples

PATH = "/etc/kubernetes/manifests/kube-controller-manager.yaml"
NAME = "kube-controller-manager"
CERT, KEY = "cluster-signing-cert-file", "cluster-signing-key-file"
OLD = {CERT: "/etc/kubernetes/pki/ca.crt", KEY: "/etc/kubernetes/pki/ca.key"}
NEW = {CERT: "/etc/kubernetes/pki/signing-ca.crt", KEY: "/etc/kubernetes/pki/signing-ca.key"}
PLAIN = [f"--{flag}={value}" for flag, value in OLD.items()]


def exchange(data: bytes, flags: Mapping[str, str] = NEW) -> bytes:
    return with_flags(data, PATH, NAME, flags)


def values(data: bytes, *flags: str) -> dict[str, tuple[str, ...]]:
    return flag_values_in(data, PATH, NAME, flags or (CERT, KEY))


def refusal(data: bytes, flags: Mapping[str, str] = NEW) -> str:
    with pytest.raises(WriteError) as caught:
        exchange(data, flags)
    said = str(caught.value)
    assert all(PATH in line for line in said.split("\n"))
    assert all("; " in line for line in said.split("\n")), "there is no remedy"
    return said


def manifest(*lines: str, name: str = NAME) -> bytes:
    """Return a manifest with these lines below its container, in their written form."""
    below = "\n".join(f"    {line}" for line in lines)
    return f"""\
# local, do not touch
apiVersion: v1
kind: Pod
metadata:
  creationTimestamp: null
  annotations: {{'note':  "--{CERT}=/etc/kubernetes/pki/ca.crt", nan: .nan, when: 2026-01-01}}
spec:
  containers:
  - image: x   # pinned
    name: {name}
{below}
  - name: other
    command: [other, "--{CERT}=/other.crt", --{KEY}=/other.key]
""".encode()


LAST = f"spec:\n  containers:\n  - name: {NAME}\n    command:\n".encode()


def replaced(data: bytes, *pairs: tuple[str, str]) -> bytes:
    """The text with each first one, which is there once, in the place of the second."""
    for old, new in pairs:
        assert data.count(old.encode()) == 1
        data = data.replace(old.encode(), new.encode())
    return data


# --- only the values change -------------------------------------------------------------------------------------------


def test_of_kubeadms_manifest_two_lines_change(node: Node) -> None:
    """In each the value alone; and exchanged back it is the same bytes."""
    data = node.read("etc/kubernetes/manifests/kube-controller-manager.yaml")
    assert values(data) == {flag: (value,) for flag, value in OLD.items()}
    result = exchange(data)
    changed = [(old, new) for old, new in zip(data.split(b"\n"), result.split(b"\n"), strict=True) if old != new]
    assert changed == [
        (f"    - --{flag}={OLD[flag]}".encode(), f"    - --{flag}={NEW[flag]}".encode()) for flag in (CERT, KEY)
    ]
    assert values(result) == {flag: (value,) for flag, value in NEW.items()}
    assert exchange(result, OLD) == data


@pytest.mark.parametrize(
    "lines",
    [
        ["command:", f"- {NAME}", f"- --{CERT}=@C  # the CA's", "", f"-   '--{KEY}=@K'", "- --v=2"],
        ["command:", f"- \"--{CERT}=@C\"", "# between", f"- --{KEY}", "- @K"],
        [f"command: [kcm, --{CERT},   '@C'  , \"--{KEY}\" , \"@K\"]  # so"],
        [f"command: [kcm, --{CERT}]", f"args: [@C, --{KEY}=@K]"],
        ["command: [kcm]", "args:", f"    - --{CERT}=@C", f"    - --{KEY}=@K", "env: [{name: a, value: @other}]"],
        ["command: [kcm,", f"  --{CERT}=@C,", f"  --{KEY}=@K,", "  ]"],
        ["command: null", f"args: [--{KEY}=@K, --{CERT}=@C, --x, -y, z]"],
        ["\"command\": [\"kcm\", \"--äöü€😀\",", f"  \"--{CERT}=@C\",\"--{KEY}=@K\"]"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_everything_but_the_values_stays_byte_for_byte(lines: list[str], ends: str, mark: str) -> None:
    """However the words are written: one or two for a flag, plain or quoted, in blocks or flows, in command or args."""

    def written(paths: Mapping[str, str]) -> bytes:
        text = manifest(*(line.replace("@C", paths[CERT]).replace("@K", paths[KEY]) for line in lines)).decode()
        return (mark + text.replace("\n", ends)).encode()

    lines = [line.replace("@other", '"--x=y"') for line in lines]
    assert exchange(written(OLD)) == written(NEW)
    assert exchange(written(NEW), OLD) == written(OLD)


def test_a_manifest_in_json() -> None:
    """Tabs and all."""
    data = json.dumps({"spec": {"containers": [{"name": NAME, "command": ["kcm", *PLAIN]}]}}).encode()
    assert exchange(data) == replaced(data, *((OLD[flag], NEW[flag]) for flag in OLD))


def test_a_flag_that_is_repeated_is_exchanged_each_time() -> None:
    """The last one counts, and which is the last is not left to chance."""
    data = manifest(f"command: [--{CERT}=/a, --{CERT}, /b]", f"args: ['--{CERT}=/c']")
    assert values(data, CERT) == {CERT: ("/a", "/b", "/c")}
    result = exchange(data, {CERT: "/d"})
    assert values(result, CERT) == {CERT: ("/d", "/d", "/d")}
    assert result == replaced(data, ("t-file=/a,", "t-file=/d,"), (", /b]", ", /d]"), ("t-file=/c'", "t-file=/d'"))


def test_a_value_that_is_empty() -> None:
    """`--flag=` is given, and given nothing."""
    data = manifest(f"command: [--{CERT}=, --x]")
    assert values(data, CERT, KEY) == {CERT: ("",), KEY: ()}
    assert exchange(data, {CERT: "/d"}) == replaced(data, (f"[--{CERT}=,", f"[--{CERT}=/d,"))
    assert exchange(exchange(data, {CERT: "/d"}), {CERT: ""}) == data


@pytest.mark.parametrize("signer", ["kubelet-serving", "kubelet-client", "kube-apiserver-client", "legacy-unknown"])
def test_the_flags_of_a_single_signer(signer: str) -> None:
    """They are other flags than those whose names they hold, and are exchanged alone."""
    flag = f"cluster-signing-{signer}-cert-file"
    data = manifest("command:", *(f"- {word}" for word in PLAIN), f"- --{flag}=/a.crt")
    assert exchange(data, {flag: "/b.crt"}) == replaced(data, ("/a.crt", "/b.crt"))
    assert values(exchange(data), flag) == {flag: ("/a.crt",)}


def test_what_is_there_already_stays_as_it_is_written() -> None:
    """A word that no edit could be made in is in the way of none that is not needed."""
    data = manifest("command:", f"- !!str --{CERT}={NEW[CERT]}", "- |-", f"  --{KEY}={NEW[KEY]}")
    assert exchange(data) == data
    assert "without another change to the file" in refusal(data, OLD)


def test_a_quoted_word_may_be_written_with_escapes() -> None:
    """It is written again between its quotes."""
    data = manifest(f'command: ["\\x2d-{CERT}=\\', "  /etc\", '--x=it''s']")
    assert exchange(data, {CERT: "/d"}) == replaced(data, (f'\\x2d-{CERT}=\\\n      /etc"', f'--{CERT}=/d"'))


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (manifest("command: [kcm]"), "is not set; add it to the command"),
        (manifest("command: [sh, -c, 'kcm " + " ".join(PLAIN) + "']"), "is not set"),
        (manifest("env: [" + ", ".join(PLAIN) + "]"), "is not set"),
        (manifest(f"command: {{--{CERT}: /a, --{KEY}: /b}}"), "is not set"),
        (manifest(f"command: [-{CERT}=/a, {KEY}=/b]"), "is not set"),
        (manifest(f"command: [--{KEY}=/b, --{CERT}]"), f"has no value; write it as --{CERT}=VALUE"),
        (manifest(f"command: [--{CERT}, --{KEY}=/b]"), "has no value"),
        (manifest(f"command: [--{KEY}=/b, --{CERT}=/a, --{CERT.replace('-', '_')}=/c]"), "contains underscores"),
        (manifest(f"command: [{', '.join(PLAIN)}]", name="another"), f"contains no container '{NAME}'"),
        (manifest(f"command: [{', '.join(PLAIN)}]").replace(b"name: other", b"name: " + NAME.encode()), "than one"),
        (manifest("command: &c [" + ", ".join(PLAIN) + "]"), "contains YAML anchors"),
        (manifest(f"command: [&a --{CERT}=/a, --{KEY}=/b]", "args: [*a]"), "contains YAML anchors"),
        (manifest(f"command: [{', '.join(PLAIN)}]").replace(b"v1", b"&v v1"), "contains YAML anchors"),
        (manifest(f"command: [{', '.join(PLAIN)}]") + b"---\nkind: Pod\n", "contains several documents"),
        (manifest(f"command: [{', '.join(PLAIN)}]") + b"---\n", "contains several documents"),
        (manifest(f"command: [{', '.join(PLAIN)}]").decode().encode("utf-16"), "is not UTF-8"),
        (manifest(f"command: [{', '.join(PLAIN)}]").replace(b"local", b"\xff"), "is not UTF-8"),
        (manifest(f"command: [{', '.join(PLAIN)}"), "is not YAML in line"),
        (b"- a\n", "is not a YAML mapping"),
        (b"[" * 50_000, "is not YAML"),
        (b"", "is not a YAML mapping"),
        (b"spec: 5\n", "contains no container"),
        (manifest(f"command: [--{CERT}=/a]", f"command: [{', '.join(PLAIN)}]"), "without another change to the file"),
        (manifest("command:", f"- >-\n      --{CERT}=/a", f"- --{KEY}=/b"), "without another change to the file"),
        (manifest("command:", f"- !!str '--{CERT}=/a'", f"- --{KEY}=/b"), "without another change to the file"),
        (manifest("command:", f"- !!str --{CERT}=/a", f"- --{KEY}=/b"), "without another change to the file"),
        (LAST + f"    - --{KEY}=/b\n    - |-\n      --{CERT}=/a\n".encode(), "without another change to the file"),
        (LAST + f"    - --{KEY}=/b\n    - >-\n      --{CERT}=/a".encode(), "without another change to the file"),
    ],
)  # fmt: skip
def test_refused(data: bytes, fact: str) -> None:
    """The error has file, fact and remedy for each obstacle of a safe edit."""
    assert fact in refusal(data)


def test_every_flag_without_an_exchange_is_reported() -> None:
    """All are reported at once."""
    assert len(refusal(manifest(f"command: [--{CERT}]")).split("\n")) == 2


@pytest.mark.parametrize(
    "value", ["a, b", "a #b", "a: b", "", " a", "a ", "-a", "--a", "\n", "'", "a]", "\ud800", "\0"]
)
def test_a_value_that_does_not_read_back_is_refused(value: str) -> None:
    """However it is written there: no value is quoted that was not."""
    refusal(manifest(f"command: [--{CERT}, /a]"), {CERT: value})


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("signing-ca.key", "ca.key"),
        ("signing-ca.crt", "signing-ca.crt2"),
        ("/other.crt", NEW[CERT]),
        (".nan", "1.0"),
        ("v1", "1"),
        ("image: x", "image: y"),
        ("kind: Pod\n", ""),
        ("spec:", "more: 1\nspec:"),
        (f"--{CERT}=/etc", f"--{CERT}=/a, --{CERT}=/etc"),
        ("apiVersion: v1\nkind: Pod", "kind: Pod\napiVersion: v1"),
    ],
)
def test_an_unproven_result_is_refused(monkeypatch: pytest.MonkeyPatch, part: str, instead: str) -> None:
    """Every field of the result is compared, with its type and its place."""
    data = manifest(f"command: [{', '.join(PLAIN)}]")
    right = exchange(data).decode()
    assert part in right
    monkeypatch.setattr(manifest_text, "_with_edits", lambda *_: right.replace(part, instead))
    assert "without another change to the file" in refusal(data)


def test_a_manifest_that_cannot_be_read_tells_no_values() -> None:
    """That is no answer "none"."""
    for data in (b"\xff", b"{", manifest("command: []", name="another")):
        with pytest.raises(WriteError, match=PATH):
            values(data)


# --- whatever the file ------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | TEXT | st.floats() | st.dates()
EXTRAS = st.dictionaries(TEXT, SCALARS | st.lists(SCALARS, max_size=2), max_size=3)
PATHS = st.from_regex(r"/[a-z0-9/._-]{1,60}", fullmatch=True)
FORMS = st.lists(
    st.tuples(st.sampled_from([CERT, KEY]), st.booleans()) | st.sampled_from(["--v=2", "kcm", "--x", "-y", "it's: #"]),
    max_size=4,
)


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    """With both flags, wherever, and in either form; and anything else."""
    command: list[str] = ["kcm"]
    for form in [*draw(FORMS), (CERT, draw(st.booleans())), (KEY, draw(st.booleans())), *draw(FORMS)]:
        if isinstance(form, str):
            command.append(form)
        else:
            command += [f"--{form[0]}", OLD[form[0]]] if form[1] else [f"--{form[0]}={OLD[form[0]]}"]
    cut = draw(st.integers(0, len(command)))
    own = draw(EXTRAS) | {"name": NAME, "command": command[:cut], "args": command[cut:]}
    others = [draw(EXTRAS) | {"name": "other", "command": command} for _ in range(draw(st.integers(0, 2)))]
    containers = draw(st.permutations([own, *others]))
    return draw(EXTRAS) | {"kind": "Pod", "spec": draw(EXTRAS) | {"containers": containers}}


@pytest.mark.long
@settings(max_examples=examples(120), deadline=None)
@given(
    pods(),
    st.fixed_dictionaries({CERT: PATHS, KEY: PATHS}),
    st.fixed_dictionaries({
        "default_style": st.sampled_from([None, "'", '"']), "default_flow_style": st.sampled_from([None, True, False]),
        "width": st.sampled_from([40, 10**6]), "allow_unicode": st.booleans(),
    }),
)  # fmt: skip
def test_the_documents_are_equal_but_for_the_values(
    document: dict[str, Any], new: dict[str, str], style: dict[str, Any]
) -> None:
    """However the file is written; and what was exchanged and exchanged back is the same bytes."""
    data = yaml.dump(copy.deepcopy(document), Dumper=Unshared, sort_keys=False, **style).encode()
    assume(repr(yaml.safe_load(data)) == repr(document))  # PyYAML does not read all that it writes
    result = exchange(data, new)
    own = next(each for each in document["spec"]["containers"] if each["name"] == NAME)
    for field in ("command", "args"):
        for flag, old in OLD.items():
            own[field] = [word.replace(old, new[flag]) for word in own[field]]
    assert repr(yaml.safe_load(result)) == repr(document)
    assert exchange(result, OLD) == data


class Unshared(yaml.SafeDumper):
    """Writes no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


FULL = manifest("command: [kcm, '--x=y',", f"  --{CERT}=/a, \"--{KEY}\", '/b']", f"args: [--{CERT}, /a]")


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(FULL)), st.integers(0, 8), st.binary(max_size=4))
def test_a_damaged_manifest_is_exchanged_rightly_or_refused(start: int, length: int, instead: bytes) -> None:
    """Wherever it was damaged: no other error gets out, and what is returned has the new values."""
    data = FULL[:start] + instead + FULL[start + length :]
    try:
        result = exchange(data)
    except WriteError as error:
        assert PATH in str(error)  # noqa: PT017 - it may be refused, and need not be
    else:
        assert {flag: set(given) for flag, given in values(result).items()} == {flag: {NEW[flag]} for flag in NEW}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_sentence(data: bytes) -> None:
    """No other error is raised."""
    for text in (data, b"spec: [" + data + b"]", b"spec:\n  containers:\n" + data, FULL.replace(b"kcm", data)):
        try:
            assert NEW[KEY].encode() in exchange(text)
        except WriteError as error:
            assert PATH in str(error)  # noqa: PT017 - it may be refused, and need not be
