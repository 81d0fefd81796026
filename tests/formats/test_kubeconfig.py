"""The content of a kubeconfig: every user and cluster in it, despite defects beside them, and never a key in a
message.
"""

from __future__ import annotations

import base64
import traceback
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import Kubeconfig, Material, as_text, parse_kubeconfig
from tests.builders import make_ca, make_leaf
from tests.node import Node
from tests.sampling import examples

PATH = "/etc/kubernetes/admin.conf"
LEAF = make_leaf(make_ca(), key="rsa")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def config(users: Any = (), clusters: Any = (), contexts: Any = (), current: Any = None, **more: Any) -> dict[str, Any]:
    """A kubeconfig from (name, fields) pairs."""
    lists = (("user", users), ("cluster", clusters), ("context", contexts))
    entries = {f"{kind}s": [{"name": name, kind: fields} for name, fields in pairs] for kind, pairs in lists}
    return {"apiVersion": "v1", "kind": "Config", **entries, "current-context": current, **more}


def parse(document: Any) -> Kubeconfig:
    return parse_kubeconfig(yaml.safe_dump(document).encode(), PATH)


FULL = config(
    users=[("admin", {"client-certificate-data": b64(LEAF.pem), "client-key-data": b64(LEAF.key_pem)})],
    clusters=[("kubernetes", {"server": "https://k8s.example.com:6443", "certificate-authority-data": b64(LEAF.pem)})],
    contexts=[("admin@kubernetes", {"user": "admin", "cluster": "kubernetes"})],
    current="admin@kubernetes",
)
TEXT = yaml.safe_dump(FULL, width=10**6).encode()


# --- content ----------------------------------------------------------------------------------------------------------


def test_a_real_kubeconfig_of_kubeadm_is_read(node: Node) -> None:
    """User, cluster, and the context that joins them."""
    found = parse_kubeconfig(node.read("etc/kubernetes/admin.conf"), PATH)
    assert (found.current_user, found.current_cluster, found.problems) == ("kubernetes-admin", "kubernetes", ())
    assert found.users[0].certificate
    assert (found.users[0].certificate.data or b"").startswith(b"-----BEGIN CERTIFICATE-----")
    assert found.clusters[0].server_name == "k8s.example.com"


def test_a_kubelets_kubeconfig_refers_to_files(node: Node) -> None:
    """By absolute paths; nothing is read here."""
    found = parse_kubeconfig(node.read("etc/kubernetes/kubelet.conf"), "/etc/kubernetes/kubelet.conf")
    pem = Material(path="/var/lib/kubelet/pki/kubelet-client-current.pem")
    assert (found.users[0].certificate, found.users[0].key) == (pem, pem)


def test_a_relative_reference_starts_at_the_kubeconfig() -> None:
    """As in client-go."""
    user = {"client-certificate": "pki/../a.crt", "client-key": "/keys/a.key"}
    found = parse(config(users=[("u", user)], clusters=[("c", {"certificate-authority": "./ca.crt"})]))
    assert found.users[0].certificate == Material(path="/etc/kubernetes/a.crt")
    assert found.users[0].key == Material(path="/keys/a.key")
    assert found.clusters[0].ca == Material(path="/etc/kubernetes/ca.crt")


def test_embedded_data_precedes_a_reference() -> None:
    """The order is that of client-go. Empty data does not count."""
    user = {
        "client-certificate": "/a.crt",
        "client-certificate-data": b64(b"x"),
        "client-key": "/a.key",
        "client-key-data": "",
    }
    found = parse(config(users=[("u", user)])).users[0]
    assert (found.certificate, found.key) == (Material(data=b"x"), Material(path="/a.key"))


def test_embedded_data_may_be_folded() -> None:
    """Base64 with line breaks and blanks in it."""
    folded = "\n  ".join(b64(LEAF.pem)[start : start + 64] for start in range(0, len(b64(LEAF.pem)), 64))
    found = parse(config(users=[("u", {"client-certificate-data": folded})]))
    assert found.users[0].certificate == Material(data=LEAF.pem)


@pytest.mark.parametrize(
    "fields",
    [
        {"token": "abc"}, {"tokenFile": "/t"}, {"username": "a", "password": "b"}, {"exec": {"command": "aws"}},
        {"auth-provider": {"name": "oidc"}}, {}, None,
    ],
)  # fmt: skip
def test_users_without_a_certificate_hide_no_other(fields: Any) -> None:
    """A token, an exec plugin, a password: none of them is a problem."""
    found = parse(config(users=[("other", fields), ("admin", {"client-certificate": "/a.crt"})]))
    assert [user.name for user in found.users] == ["other", "admin"]
    assert (found.users[0].certificate, found.users[0].key, found.problems) == (None, None, ())
    assert found.users[1].certificate == Material(path="/a.crt")


@pytest.mark.parametrize(
    ("cluster", "name"),
    [
        ({"server": "https://K8S.example.com:6443"}, "k8s.example.com"),
        ({"server": "https://10.0.0.1:6443"}, "10.0.0.1"),
        ({"server": "https://[fd00::1]:6443/path"}, "fd00::1"),
        ({"server": "https://10.0.0.1", "tls-server-name": "kubernetes.default"}, "kubernetes.default"),
        ({"server": "https://[fd00::1"}, ""),
        ({"server": 6443}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_name_that_the_server_is_checked_against(cluster: Any, name: str) -> None:
    """`tls-server-name`, or else the host of the URL; nothing where it is no URL."""
    assert parse(config(clusters=[("c", cluster)])).clusters[0].server_name == name


@pytest.mark.parametrize(
    ("current", "user"),
    [("two", "b"), ("one", "a"), ("none", None), (None, None), ("", None), (["two"], None), (7, None)],
)
def test_the_current_context_selects_the_user(current: Any, user: str | None) -> None:
    """Without a current context, or with an unknown one, no user is current."""
    contexts = [
        ("one", {"user": "a", "cluster": "c"}),
        ("two", {"user": "b", "cluster": "c"}),
        ("three", {"user": ["a"]}),
    ]
    found = parse(config(users=[("a", {}), ("b", {})], contexts=contexts, current=current))
    assert (found.current_user, found.current_cluster) == (user, user and "c")


# --- defects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (b"", "not a YAML mapping"),
        (b"- a\n", "not a YAML mapping"),
        (b"a: 1\n", "neither users nor clusters"),
        (b"a: 1\nb: {{{{\n", "is not YAML in line 3"),
        (b"\xff\xfe\xff", "is not YAML"),
        (b"users: !!python/object:os.system {}\n", "is not YAML in line 1"),
        (b'users: !!int ""\n', "is not YAML"),
        (b"users: !!bool x\n", "is not YAML"),
        (b"users: !!timestamp x\n", "is not YAML"),
        (b"users: !!timestamp 2026-99-99\n", "is not YAML"),
        (b"users: " + b"9" * 5000 + b"\n", "is not YAML"),
        (b"users: " + b"[" * 40_000, "is not YAML"),
        (b"users: []\nmore:\n" + b"- a\n" * 50_000, "is too large: it contains more than 50,000 lines, keys and items"),
        (b"users: &a !!int {=: *a}\n", "is not YAML"),
    ],
)
def test_an_invalid_kubeconfig_is_malformed(text: bytes, fact: str) -> None:
    """One error reports it, with the line if it is known, whatever the YAML parser raises."""
    with pytest.raises(MalformedError, match=fact):
        parse_kubeconfig(text, PATH)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("text", "entry 1 of users is not a user"),
        (None, "entry 1 of users is not a user"),
        ({"name": "x", "user": ["token"]}, "entry 1 of users is not a user"),
        ({"name": "x", "user": {"client-certificate-data": "%%%"}}, "user 'x': client-certificate-data is not base64"),
        ({"name": "x", "user": {"client-certificate-data": "YQ"}}, "user 'x': client-certificate-data is not base64"),
        ({"name": "x", "user": {"client-certificate-data": "ä"}}, "user 'x': client-certificate-data is not base64"),
        ({"name": "x", "user": {"client-certificate-data": " "}}, "user 'x': client-certificate-data is not base64"),
        (
            {"name": "x", "user": {"client-certificate-data": ["YQ=="]}},
            "user 'x': client-certificate-data is not base64",
        ),
        (
            {"name": "x", "user": {"client-certificate-data": b"YQ=="}},
            "user 'x': client-certificate-data is not base64",
        ),
        ({"name": "x", "user": {"client-key": ["/a"]}}, "user 'x': client-key is not a path"),
        ({"name": "x", "user": {"client-key": "/a\0b"}}, "user 'x': client-key is not a path"),
        ({"name": "x", "user": {"client-key": b64(LEAF.key_pem)}}, "user 'x': client-key is not a path"),
        ({"name": "x", "user": {"client-key": LEAF.key_pem.decode()}}, "user 'x': client-key is not a path"),
    ],
)
def test_a_broken_entry_is_a_problem_beside_the_good_ones(broken: Any, problem: str) -> None:
    """It hides no other entry, and is reported with its number or name."""
    document = config(users=[("good", {"client-certificate": "/a.crt"})])
    document["users"].insert(0, broken)
    found = parse(document)
    assert found.problems == (problem,)
    assert found.users[-1].certificate == Material(path="/a.crt")


def test_a_name_that_is_given_twice_is_a_problem() -> None:
    """client-go refuses such a file; the first of the name is what is shown."""
    found = parse(
        config(users=[("a", {"client-key": "/1"}), ("a", {"client-key": "/2"})], clusters=[("c", {}), ("c", {})])
    )
    assert [problem.partition(" has ")[0] for problem in found.problems] == ["entry 2 of users", "entry 2 of clusters"]
    assert [user.key for user in found.users] == [Material(path="/1")]


def test_an_entry_without_a_list_is_a_list_of_one() -> None:
    """The user omitted the dash. A list of other values is a problem."""
    assert parse({"users": {"name": "a", "user": {}}, "clusters": 5}).users[0].name == "a"
    assert parse({"users": None, "clusters": 5}).problems == ("entry 1 of clusters is not a cluster",)


def test_aliases_have_bounded_cost() -> None:
    """A few lines of YAML can represent more text than the memory holds. Like the components, certmond refuses them."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 40)]
    with pytest.raises(MalformedError, match="its aliases repeat more than 400,000 values"):
        parse_kubeconfig("\n".join([*lines, "users: *a39"]).encode(), PATH)
    few = [*lines[:5], "users: [{name: *a3, user: {client-key: *a3, client-key-data: *a3}}]", "current-context: *a3"]
    few += ["clusters: [{name: *a3, cluster: {server: *a3, tls-server-name: *a3}}]"]
    few += ["contexts: [{name: *a3, context: {user: *a3, cluster: *a3}}]"]
    assert parse_kubeconfig("\n".join(few).encode(), PATH).problems == ("user '': client-key-data is not base64",)
    assert as_text([]) == as_text(5) == as_text(None) == ""


# --- secrets ----------------------------------------------------------------------------------------------------------

SECRET = b64(LEAF.key_pem)
BODY = LEAF.key_pem.decode()
WINDOW = 16
SECRETS = {text[start : start + WINDOW] for text in (SECRET, BODY) for start in range(len(text) - WINDOW)}
SECRETS -= {
    text[start : start + WINDOW]
    for text in ("-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n")
    for start in range(30)
}


def reveals(text: str) -> bool:
    return any(text[start : start + WINDOW] in SECRETS for start in range(len(text) - WINDOW + 1))


def outcome(data: bytes) -> Kubeconfig | MalformedError:
    try:
        return parse_kubeconfig(data, PATH)
    except MalformedError as error:
        return error


def said(data: bytes) -> str:
    """All text that comes of reading it: values and problems, or the error with its traceback."""
    found = outcome(data)
    return repr(found) if isinstance(found, Kubeconfig) else "".join((repr(found), *traceback.format_exception(found)))


def test_no_representation_holds_what_is_embedded() -> None:
    """Neither of a file nor of a part: a traceback or a debugger may print it. The test itself would notice."""
    assert not reveals(said(TEXT))
    assert repr(Material(data=b"x")) == "Material(embedded)"
    assert repr(Material(path="/a")) == "Material(/a)"
    assert reveals(f"...{SECRET[100:120]}...")
    assert reveals(repr(LEAF.key_pem[100:200].decode()))


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT)), st.integers(0, 8), st.binary(max_size=4))
def test_a_damaged_kubeconfig_reveals_no_key(start: int, length: int, instead: bytes) -> None:
    """Whatever the damage, no message contains a part of the key."""
    assert not reveals(said(TEXT[:start] + instead + TEXT[start + length :]))


def test_a_key_in_the_wrong_field_is_not_reported_as_a_path() -> None:
    """Messages, labels and the journal contain paths."""
    assert b"client-key-data: LS0t" in TEXT
    for text in (
        TEXT.replace(b"client-key-data", b"client-key"),
        yaml.safe_dump(config(users=[("u", {"client-key": BODY, "client-certificate": f"x{BODY}"})])).encode(),
    ):
        assert not reveals(said(text))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_kubeconfig_or_malformed(data: bytes) -> None:
    """No other error is raised."""
    for text in (data, b"users:\n" + data, b"users: [" + data + b"]"):
        found = outcome(text)
        assert isinstance(found, Kubeconfig) or str(found).startswith("is not")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8) | st.dates()
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=8
)
REFERENCES = ["client-certificate", "client-key", "certificate-authority"]
FIELD_NAMES = ["server", "tls-server-name", *REFERENCES, *(f"{name}-data" for name in REFERENCES)]
FIELDS = st.dictionaries(st.sampled_from(FIELD_NAMES), TREES)
ENTRIES = TREES | st.lists(
    st.fixed_dictionaries(
        {}, optional={"name": TREES, "user": TREES | FIELDS, "cluster": TREES | FIELDS, "context": TREES}
    )
)


@pytest.mark.long
@settings(max_examples=examples(200), deadline=None)
@given(
    st.fixed_dictionaries(
        {"users": ENTRIES}, optional={"clusters": ENTRIES, "contexts": ENTRIES, "current-context": TREES}
    )
)
def test_any_shape_of_yaml_is_taken(document: dict[str, Any]) -> None:
    """Names, paths and hosts are text, whatever the file has in their place, and each name is there once."""
    data = yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
    found = outcome(data)
    if isinstance(found, MalformedError):
        return
    names = [user.name for user in found.users]
    assert len(set(names)) == len(names)
    for user in found.users:
        for material in filter(None, (user.certificate, user.key)):
            assert isinstance(material.data, bytes) or (material.path and material.path.startswith("/"))
