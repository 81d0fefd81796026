"""Credentials exchanged in the text of a kubeconfig: all other text stays."""

from __future__ import annotations

import base64
import json
import subprocess
import textwrap
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from certmond.errors import WriteError
from certmond.formats import yaml_edit
from certmond.formats.kubeconfig import parse_kubeconfig
from certmond.formats.kubeconfig_edit import Embedded, Files, new_kubeconfig, with_credentials
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from tests.builders import Issued, bundle, make_ca, make_leaf
from tests.conftest import real_part
from tests.node import Node
from tests.sampling import examples

PATH = "/etc/kubernetes/admin.conf"
CA, NEXT_CA = make_ca(), make_ca()
OLD, NEW, OTHER = make_leaf(CA, "admin", key="rsa"), make_leaf(CA, "admin"), make_leaf(CA, "other")
TRUST = bundle(CA, NEXT_CA)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def folded(data: bytes, indent: int, width: int = 76) -> str:
    return f"\n{' ' * indent}".join(textwrap.wrap(b64(data), width))


def exchange(data: bytes, old: Certificate | None = OLD.facts, trust: bytes | None = TRUST, new: Issued = NEW) -> bytes:
    return with_credentials(data, PATH, old=old, certificate_pem=new.pem, key_pem=new.key_pem, trust_pem=trust)


def refusal(data: bytes, old: Certificate | None = OLD.facts) -> str:
    with pytest.raises(WriteError) as caught:
        exchange(data, old)
    assert PATH in str(caught.value)
    assert b64(OLD.key_pem)[40:60] not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def replaced(data: bytes) -> bytes:
    """Return the expected result if all values are on one line: the three texts exchanged."""
    for old, new in ((OLD.pem, NEW.pem), (OLD.key_pem, NEW.key_pem), (CA.pem, TRUST)):
        assert data.count(b64(old).encode()) == 1
        data = data.replace(b64(old).encode(), b64(new).encode())
    return data


FULL = f"""\
# our cluster, do not touch
apiVersion: v1
kind: Config
current-context: "admin@prod"   # set by hand
preferences: {{colors: true}}
contexts:
- {{name: other@prod, context: {{cluster: prod, user: other}}}}
- name: admin@prod
  context: {{cluster: prod, user: admin, namespace: kube-system}}
clusters:
- name: prod
  cluster:
    server: https://k8s.example.com:6443
    # the CA of 2026
    certificate-authority-data: {b64(CA.pem)}   # embedded
    extensions:
    - {{name: own, extension: {{"näme": Zoë, when: 2026-01-01, no: .nan}}}}
- name: file
  cluster: {{server: "https://10.0.0.1", certificate-authority: /ca.crt}}
users:
- name: aws
  user:
    exec: {{apiVersion: client.authentication.k8s.io/v1, command: aws, args: ['eks', "get-token"], env: null}}
- name: admin
  user:
      client-key-data:   {b64(OLD.key_pem)}

      client-certificate-data: {b64(OLD.pem)}
- name: other
  user: {{client-certificate-data: {b64(OTHER.pem)}, client-key-data: {b64(OTHER.key_pem)}}}
""".encode()


def minimal(certificate: str, key: str, trust: str) -> bytes:
    """Return a kubeconfig with these three values in their written form, indented by six spaces on continuation
    lines.
    """
    return f"""\
apiVersion: v1
clusters:
- name: prod
  cluster:
    certificate-authority-data: {trust}
    server: https://10.0.0.1:6443
contexts:
- name: c
  context: {{cluster: prod, user: admin}}
current-context: c
users:
- name: admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
    token: "x"  # the last
""".encode()


# --- only the credentials change --------------------------------------------------------------------------------------


def test_everything_but_the_credentials_stays_byte_for_byte() -> None:
    """Comments, order, flow style, odd indentation, extensions and other users are as before."""
    assert exchange(FULL) == replaced(FULL)


@pytest.mark.parametrize("name", ["admin.conf", "controller-manager.conf", "scheduler.conf"])
def test_the_files_of_kubeadm_are_renewed_in_place(node: Node, name: str) -> None:
    """Of what kubeadm wrote, three values on three lines change."""
    data = node.read(f"etc/kubernetes/{name}")
    result = exchange(data, None)
    changed = [
        (old.split(b":")[0].strip(), base64.b64decode(new.split(b": ")[1]))
        for old, new in zip(data.splitlines(), result.splitlines(), strict=True)
        if old != new
    ]
    assert changed == [
        (b"certificate-authority-data", TRUST),
        (b"client-certificate-data", NEW.pem),
        (b"client-key-data", NEW.key_pem),
    ]


# Each style has a head, the text in lines, and an end. %s is a unique name.
STYLES = {
    "plain": ("", "", 0),
    "plain over lines": ("", "", 76),
    "plain on the next line": ("\n      ", "", 0),
    "double quotes": ('"', '"', 0),
    "single quotes": ("'", "'", 0),
    "double quotes over lines": ('"', '"', 76),
    "single quotes over lines": ("'", "'", 76),
    "literal": ("|\n      ", "", 0),
    "literal over lines": ("|\n      ", "", 76),
    "literal, stripped": ("|-\n      ", "", 76),
    "literal, kept": ("|+\n      ", "\n\n", 76),
    "literal, indentation given": ("|2-\n      ", "", 76),
    "literal with a comment": ("|  # PEM\n      ", "", 76),
    "folded": (">\n      ", "", 76),
    "folded, stripped": (">-\n\n      ", "\n", 76),
    "anchored": ("&%s ", "", 0),
    "tagged": ("!!str '", "'", 0),
    "anchored and tagged": ("&%s !!str\n      ", "", 0),
    "tagged literal": ("!!str |\n      ", "", 76),
    "anchored quotes over lines": ('&%s "', '"', 76),
}


def styled(style: str, certificate: bytes, key: bytes, trust: bytes, lines: bool = True) -> bytes:
    head, tail, width = STYLES[style]

    def written(name: str, content: bytes) -> str:
        text = folded(content, 6, width) if width and lines else b64(content)
        return f"{head.replace('%s', name)}{text}{tail}"

    return minimal(written("a", certificate), written("b", key), written("c", trust))


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("style", STYLES)
def test_values_may_be_written_in_every_way_of_yaml(style: str, bom: bytes, eol: str) -> None:
    """Quotes, heads of blocks, anchors and line ends stay; the base64 that stands between them gets one line."""
    data = bom + styled(style, OLD.pem, OLD.key_pem, CA.pem).replace(b"\n", eol.encode())
    expected = styled(style, NEW.pem, NEW.key_pem, TRUST, lines=False).replace(b"\n", eol.encode())
    assert exchange(data) == bom + expected


def test_escaped_line_ends_in_quotes_are_understood() -> None:
    """A backslash at the end of a line joins it with the next."""
    escaped = ['"' + folded(content, 6).replace("\n", "\\\n") + '"' for content in (OLD.pem, OLD.key_pem, CA.pem)]
    expected = styled("double quotes", NEW.pem, NEW.key_pem, TRUST)
    assert exchange(minimal(*escaped)) == expected


@pytest.mark.parametrize("indent", [None, 2])
def test_a_kubeconfig_may_be_json(indent: int | None) -> None:
    """On one line or on many."""
    data = json.dumps(yaml.safe_load(minimal(b64(OLD.pem), b64(OLD.key_pem), b64(CA.pem))), indent=indent).encode()
    result = exchange(data)
    assert result == replaced(data)
    assert json.loads(result)["users"][0]["user"]["client-key-data"] == b64(NEW.key_pem)


def test_a_file_may_end_in_the_middle_of_a_block() -> None:
    """Without a line end after the key."""
    data = minimal("|\n      " + b64(OLD.pem), "|\n      " + b64(OLD.key_pem), b64(CA.pem)).partition(b"\n    token")[0]
    assert exchange(data) == replaced(data)


def test_what_is_there_already_is_left_as_it_is_written() -> None:
    """To exchange something for itself changes no byte, wrapped as it may be."""
    data = minimal(*(f"|\n      {folded(content, 6)}" for content in (NEW.pem, NEW.key_pem, TRUST)))
    assert exchange(data, NEW.facts) == data


# --- the chosen user --------------------------------------------------------------------------------------------------


def test_the_user_is_the_one_that_embeds_the_old_certificate() -> None:
    """Wherever it stands and whatever its name; the current context's user is left alone."""
    result = exchange(FULL, OTHER.facts, None)
    expected = FULL.replace(b64(OTHER.pem).encode(), b64(NEW.pem).encode())
    assert result == expected.replace(b64(OTHER.key_pem).encode(), b64(NEW.key_pem).encode())


def test_without_an_old_certificate_it_is_the_current_user() -> None:
    """The rule also applies if its embedded data is no certificate."""
    damaged = FULL.replace(b64(OLD.pem).encode(), b"LS0tLQ")
    assert exchange(damaged, None) == exchange(FULL)


def test_of_two_users_with_the_certificate_the_current_one_changes() -> None:
    """Exactly one user changes. The next pass changes the other one."""
    twin = f"- {{name: a, user: {{client-certificate-data: {b64(OLD.pem)}, client-key-data: {b64(OLD.key_pem)}}}}}\n"
    data = FULL.replace(b"users:\n", f"users:\n{twin}".encode())
    first = exchange(data)
    assert first == replaced(FULL).replace(b"users:\n", f"users:\n{twin}".encode())
    second = yaml.safe_load(exchange(first))["users"]
    assert second[0]["user"] == second[2]["user"]


def test_a_certificate_with_its_chain_is_found() -> None:
    """A user may embed intermediates after its own."""
    data = FULL.replace(b64(OLD.pem).encode(), b64(OLD.pem + CA.pem).encode())
    assert exchange(data) == exchange(FULL)


def test_the_trust_is_that_of_the_current_context() -> None:
    """A user may be used for several clusters."""
    extra = f"- {{name: dev, cluster: {{certificate-authority-data: {b64(CA.pem)}}}}}\n"
    context = "- {name: admin@dev, context: {cluster: dev, user: admin}}\n"
    data = FULL.replace(b"clusters:\n", f"clusters:\n{extra}".encode())
    data = data.replace(b"contexts:\n", f"contexts:\n{context}".encode())
    clusters = {entry["name"]: entry["cluster"] for entry in yaml.safe_load(exchange(data))["clusters"]}
    assert clusters["prod"]["certificate-authority-data"] == b64(TRUST)
    assert clusters["dev"]["certificate-authority-data"] == b64(CA.pem)
    elsewhere = data.replace(b'admin@prod"', b'admin@dev"')
    clusters = {entry["name"]: entry["cluster"] for entry in yaml.safe_load(exchange(elsewhere))["clusters"]}
    assert clusters["prod"]["certificate-authority-data"] == b64(CA.pem)
    assert clusters["dev"]["certificate-authority-data"] == b64(TRUST)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (b"cluster: prod, user: admin", b"cluster: file, user: admin"),
        (b"cluster: prod, user: admin", b"cluster: gone, user: admin"),
        (b"cluster: prod, user: admin", b"user: admin"),
        (b"cluster: prod, user: admin", b"cluster: prod, user: unknown"),
    ],
)
def test_a_cluster_that_embeds_no_ca_gets_none(line: bytes, instead: bytes) -> None:
    """Nor does one that no context joins to the user, or that is not there."""
    data = FULL.replace(line, instead)
    assert exchange(data) == exchange(data, trust=None)
    assert yaml.safe_load(exchange(data))["users"][1]["user"]["client-key-data"] == b64(NEW.key_pem)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_user_that_refers_to_files_is_refused(node: Node) -> None:
    """Those files have separate entries."""
    for old in (None, OLD.facts):
        message = refusal(node.read("etc/kubernetes/kubelet.conf"), old)
        assert "refers to a file in `client-certificate`; renew the certificate in that file" in message
    half = FULL.replace(f"client-key-data:   {b64(OLD.key_pem)}".encode(), b"client-key: /a.key")
    assert "refers to a file in `client-key`" in refusal(half)


@pytest.mark.parametrize(
    ("data", "old", "fact"),
    [
        (FULL, NEXT_CA.facts, "no longer embeds the certificate"),
        (FULL.replace(b"user: admin,", b"user: aws,"), None, "user 'aws' in .* has no client-certificate"),
        (
            FULL.replace(b'"admin@prod"', b"none"),
            None,
            "no current context with a user; set one: .* use-context NAME --kubeconfig ",
        ),
        (FULL.replace(b"user: admin,", b"user: unknown,"), None, "contains no user 'unknown' for its current context"),
        (b"", None, "is not a YAML mapping; correct the file"),
        (b"users: {{{{", None, "is not YAML in line 2; correct the file"),
    ],
)
def test_what_has_no_such_user_is_refused(data: bytes, old: Certificate | None, fact: str) -> None:
    """With the file, the fact, the remedy."""
    with pytest.raises(WriteError, match=fact):
        exchange(data, old)
    assert "; " in refusal(data, old)


def test_only_the_first_document_is_edited() -> None:
    """The components read only the first document of a kubeconfig (kubernetes-sigs/yaml). The others stay unchanged."""
    assert exchange(FULL + b"---\n" + FULL) == exchange(FULL) + b"---\n" + FULL


PLAIN = minimal(b64(OLD.pem), b64(OLD.key_pem), b64(CA.pem))
SHARED = {
    "a value": PLAIN.replace(b"client-key-data: ", b"client-key-data: &k ") + b"  \n- {name: b, user: {token: *k}}\n",
    "an alias of a value": PLAIN.replace(b64(OLD.key_pem).encode(), b"*k").replace(
        b"apiVersion", f"x: &k {b64(OLD.key_pem)}\napiVersion".encode()
    ),
    "a user": PLAIN.replace(b"  user:\n", b"  user: &u\n") + b"- {name: b, user: *u}\n",
    "an entry": PLAIN.replace(b"- name: admin\n", b"- &e\n  name: admin\n") + b"- *e\nextra: *e\n",
    "the users": PLAIN.replace(b"users:\n", b"users: &all\n") + b"extensions: *all\n",
    "a merged mapping": (b"x: &m {client-key-data: %s}\n" % b64(OLD.key_pem).encode())
    + PLAIN.replace(b"client-key-data: " + b64(OLD.key_pem).encode(), b"<<: *m"),
    "a value given twice": PLAIN + f"    client-key-data: {b64(OLD.key_pem)}\n".encode(),
    "UTF-16": b"\xff\xfe" + PLAIN.decode().encode("utf-16-le"),
}  # fmt: skip


@pytest.mark.parametrize("what", SHARED)
def test_a_shared_value_is_refused(what: str) -> None:
    """The cases are a value or mapping that represents others as well, or appears twice, or has another encoding."""
    assert yaml.safe_load(SHARED[what])["users"][0]["user"]["client-key-data"] == b64(OLD.key_pem)
    assert "without another change to the file" in refusal(SHARED[what])


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (b64(NEW.key_pem).encode(), b64(OLD.key_pem).encode()),
        (b64(NEW.pem).encode(), b64(NEW.pem + b"\n").encode()),
        (b64(TRUST).encode(), b64(CA.pem).encode()),
        (b"10.0.0.1", b"10.0.0.2"),
        (b"token: ", b"tokenFile: "),
        (b'token: "x"', b""),
        (b"apiVersion: v1\n", b""),
        (b"user: admin", b"user: other"),
        (b"server: ", b"a: 1\n    server: "),
        (b"v1\n", b"v1\nkind: Config\n"),
        (b"apiVersion: v1\nclusters:", b"clusters:"),
        (b"current-context: c\nusers:", b"users:"),
        (b"users:", b"users: {"),
    ],
)
def test_an_unproven_result_is_refused(monkeypatch: pytest.MonkeyPatch, part: bytes, instead: bytes) -> None:
    """Every field of the result is compared, with its type and its place."""
    right = exchange(PLAIN)
    assert right.count(part) >= 1
    monkeypatch.setattr(yaml_edit, "_with_edits", lambda *_: right.replace(part, instead).decode())
    assert "without another change to the file" in refusal(PLAIN)


def test_a_mapping_in_another_order_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost by it, but the user chose the order."""
    version = b"apiVersion: v1\n"
    moved = exchange(PLAIN).replace(version, b"") + version
    monkeypatch.setattr(yaml_edit, "_with_edits", lambda *_: moved.decode())
    refusal(PLAIN)


def test_aliases_elsewhere_are_ignored() -> None:
    """Aliases of aliases outside the edited values stay unchanged."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 5)]
    data = FULL + ("\n".join(lines) + "\n").encode()
    assert exchange(data) == replaced(data)


# --- whatever the file ------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "system:node:x", "", "1", "no", "ä", " x ", "- a"])
VALUES = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats() | st.dates() | st.binary(max_size=4)
)
EXTRAS = st.dictionaries(st.text(max_size=4), VALUES | st.lists(VALUES, max_size=2), max_size=3)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    own = draw(st.sampled_from(names))
    holders = {name: OLD if name == own else OTHER for name in names}
    contexts = [
        {"name": f"{name}@c", "context": draw(EXTRAS) | {"user": name, "cluster": "c"}}
        for name in names
        if draw(st.booleans())
    ]
    return draw(EXTRAS) | {
        "users": [
            {"name": name, "user": draw(EXTRAS) | {
                "client-certificate-data": b64(holder.pem), "client-key-data": b64(holder.key_pem),
            }}
            for name, holder in holders.items()
        ],
        "clusters": [{"name": "c", "cluster": draw(EXTRAS) | {"certificate-authority-data": b64(CA.pem)}}],
        "contexts": contexts,
        "current-context": f"{draw(NAMES)}@c",
    }  # fmt: skip


@pytest.mark.long
@settings(max_examples=examples(60), deadline=None)
@given(
    configs(),
    st.sampled_from([None, "'", '"', "|", ">"]),
    st.sampled_from([None, True, False]),
    st.sampled_from([40, 10**6]),
    st.booleans(),
)
def test_the_documents_are_equal_but_for_the_credentials(
    document: dict[str, Any], style: str | None, flow: bool | None, width: int, unicode: bool
) -> None:
    """However the file is written; and what was exchanged can be exchanged back."""
    data = yaml.safe_dump(
        document, default_style=style, default_flow_style=flow, width=width, allow_unicode=unicode, sort_keys=False
    ).encode()
    assume(repr(yaml.safe_load(data)) == repr(document))  # PyYAML does not read all that it writes
    result = exchange(data)
    own = next(entry for entry in document["users"] if entry["user"]["client-key-data"] == b64(OLD.key_pem))
    own["user"] |= {"client-certificate-data": b64(NEW.pem), "client-key-data": b64(NEW.key_pem)}
    if any(entry["context"]["user"] == own["name"] for entry in document["contexts"]):
        document["clusters"][0]["cluster"]["certificate-authority-data"] = b64(TRUST)
    found = yaml.safe_load(result)
    for entry in (found["users"], found["clusters"]):
        for fields in entry:
            for field, value in fields.get("user", fields.get("cluster")).items():
                if field.endswith("-data"):
                    fields.get("user", fields.get("cluster"))[field] = "".join(value.split())
    assert repr(found) == repr(document)
    back = exchange(result, NEW.facts, CA.pem if b64(TRUST).encode() in result else None, OLD)
    if width > 40:
        assert back == data


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@example(FULL.index(b"me: aws"), 8, b"", False)  # two lines of another user are one
@given(st.integers(0, len(FULL)), st.integers(0, 8), st.binary(max_size=4), st.booleans())
def test_a_damaged_kubeconfig_is_exchanged_correctly_or_refused(
    start: int, length: int, instead: bytes, by_certificate: bool
) -> None:
    """Whatever the damage: no other error is raised, no message has a key, and the result has the new values."""
    data = FULL[:start] + instead + FULL[start + length :]
    try:
        result = exchange(data, OLD.facts if by_certificate else None)
    except WriteError as error:
        said = "".join(traceback.format_exception(error))
        assert PATH in said
        assert not any(key in said for key in (b64(OLD.key_pem)[100:120], OLD.key_pem.decode()[100:120]))
    else:
        # The damage may be in another user, which stays.
        users = [user["user"] for user in yaml.safe_load(result)["users"] if isinstance(user.get("user"), dict)]
        holders = [user for user in users if user.get("client-key-data") == b64(NEW.key_pem)]
        assert [user["client-certificate-data"] for user in holders] == [b64(NEW.pem)]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_sentence(data: bytes) -> None:
    """No other error is raised."""
    for text in (
        data,
        b"users:\n" + data,
        b"users: [" + data + b"]",
        PLAIN.replace(b"admin\n", b"admin" + data + b"\n"),
    ):
        try:
            assert b64(NEW.key_pem).encode() in exchange(text)
        except WriteError as error:
            assert PATH in str(error)  # noqa: PT017 - it may be refused, and need not be


# --- a new one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["admin.conf", "controller-manager.conf", "scheduler.conf", "kubelet.conf"])
def test_a_new_kubeconfig_is_kubeadms_byte_for_byte(node: Node, name: str) -> None:
    """From the same names, credentials and trust come the same bytes."""
    data = node.read(f"etc/kubernetes/{name}")
    found = parse_kubeconfig(data, PATH)
    cluster, user = found.clusters[0], found.users[0]
    assert cluster.ca
    assert user.certificate
    assert user.key
    credentials = (
        Embedded(user.certificate.data or b"", user.key.data or b"")
        if user.certificate.path is None
        else Files(user.certificate.path, user.key.path or "")
    )
    made = new_kubeconfig(
        cluster=cluster.name, server=cluster.server, user=user.name, trust_pem=cluster.ca.data or b"",
        credentials=credentials,
    )  # fmt: skip
    assert made == data


@pytest.mark.long
@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_a_new_kubeconfig_has_its_parameters(cluster: str, server: str, user: str) -> None:
    """The rule holds for any names."""
    made = new_kubeconfig(
        cluster=cluster, server=server, user=user, trust_pem=TRUST, credentials=Embedded(NEW.pem, NEW.key_pem)
    )
    found = yaml.safe_load(made)
    assert (found["clusters"][0]["name"], found["clusters"][0]["cluster"]["server"]) == (cluster, server)
    assert found["contexts"] == [{"name": f"{user}@{cluster}", "context": {"user": user, "cluster": cluster}}]
    assert (found["current-context"], found["users"][0]["name"]) == (f"{user}@{cluster}", user)


def test_credentials_do_not_show_the_key() -> None:
    """A traceback or a debugger may print them."""
    assert repr(Embedded(NEW.pem, NEW.key_pem)) == "Embedded()"


@pytest.mark.real("kubectl")
@pytest.mark.parametrize(
    "style", ["plain", *(pytest.param(style, marks=pytest.mark.long) for style in STYLES if style != "plain")]
)
def test_kubectl_reads_the_same(tmp_path: Path, style: str) -> None:
    """To client-go the result is the old file with the new credentials."""
    kubectl = real_part("kubectl")
    data = styled(style, OLD.pem, OLD.key_pem, CA.pem)

    def view(content: bytes) -> dict[str, Any]:
        (tmp_path / "config").write_bytes(content)
        command = [kubectl, "config", "view", "--raw", "--kubeconfig", str(tmp_path / "config"), "-o", "json"]
        document: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return document

    expected = view(minimal(b64(OLD.pem), b64(OLD.key_pem), b64(CA.pem)))
    expected["users"][0]["user"] |= {"client-certificate-data": b64(NEW.pem), "client-key-data": b64(NEW.key_pem)}
    expected["clusters"][0]["cluster"]["certificate-authority-data"] = b64(TRUST)
    assert view(exchange(data)) == expected
    assert decode(NEW.pem, "").certificates == (NEW.facts,)
