"""Derived files: their content, when they are out of date, and when certmond may not replace them."""

from __future__ import annotations

import base64
import grp
import os
import pwd
import traceback
from dataclasses import replace
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import WriteError
from certmond.formats.kubeconfig_edit import Embedded, Files, new_kubeconfig, with_credentials
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.x509.certificate_file_parser import decode
from certmond.renewal.derived_file_state import (
    Absent,
    Current,
    Foreign,
    Stale,
    State,
    Unready,
    owner_ids,
    state,
    watched,
)
from tests.builders import Issued, bundle, make_ca, make_intermediate, make_leaf, pem_block
from tests.node import KUBELET_PEM, PKI, Node, key_pem, pem
from tests.sampling import examples

BUNDLE = DerivedSpec(name="proxy", kind="pem-bundle", source="apiserver", path="/etc/haproxy/apiserver.pem")
COPY = DerivedSpec(name="alice", kind="kubeconfig", source="admin", path="/home/alice/.kube/config")
CA, NEXT_CA, ELSEWHERE = make_ca(), make_ca(), make_ca()
OLD, NEW, OTHER = make_leaf(CA, "api", key="rsa"), make_leaf(CA, "api"), make_leaf(CA, "other")


def foreign(found: State) -> str:
    """Return the message of a foreign file, which always has the remedy."""
    assert isinstance(found, Foreign)
    assert found.message.startswith("/")
    assert found.message.endswith(
        ", so certmond does not replace it; move the file away, so that certmond creates it again"
    )
    return found.message


# --- pem-bundle -------------------------------------------------------------------------------------------------------


def bundled(present: bytes | None, *, new: Issued = NEW, chain: tuple[Issued, ...] = ()) -> State:
    return state(BUNDLE, bundle(new, *chain), new.key_pem, present)


def test_a_bundle_is_certificate_and_then_key(node: Node) -> None:
    """As HAProxy reads it; with the bytes that kubeadm wrote."""
    certificate, key = node.read(f"{PKI}/apiserver.crt"), node.read(f"{PKI}/apiserver.key")
    made = state(BUNDLE, certificate, key, None)
    assert made == Absent(certificate + key)
    assert state(BUNDLE, certificate, key, certificate + key) == Current()
    assert state(BUNDLE, certificate, key, b"\n") == Stale(certificate + key)


def test_a_source_may_hold_its_key_itself(node: Node) -> None:
    """As the kubelet's does: then the bundle is the same."""
    source = node.read(KUBELET_PEM)
    assert state(BUNDLE, source, None, None) == Absent(source)
    assert state(BUNDLE, source, None, source) == Current()


def test_the_certificate_of_the_key_goes_first_and_its_chain_follows() -> None:
    """Whatever their order in the source."""
    middle = make_intermediate(CA)
    leaf = make_leaf(middle, "api")
    found = state(BUNDLE, bundle(middle, leaf), leaf.key_pem, None)
    assert isinstance(found, Absent)
    assert decode(found.content, "").certificates == (leaf.facts, middle.facts)
    assert state(BUNDLE, bundle(leaf, middle), leaf.key_pem, found.content) == Current()
    renewed = bundled(found.content)
    assert isinstance(renewed, Stale)


@pytest.mark.parametrize(
    "present",
    [
        OLD.pem + OLD.key_pem,
        OLD.key_pem + OLD.pem,
        CA.pem + OLD.pem + OLD.key_pem,
        OLD.pem + NEW.key_pem,
        NEW.pem + OLD.key_pem,
        OLD.pem + CA.pem + OLD.key_pem,
        NEW.pem + CA.pem + NEW.key_pem,
        b"subject=CN = api\n" + OLD.pem + pem_block("EC PARAMETERS", b"\x06\x00") + OLD.key_pem,
    ],
)
def test_a_bundle_with_another_certificate_or_key_of_the_subject_is_stale(present: bytes) -> None:
    """It was the source's before, or was begun by hand."""
    content = bundled(None)
    assert isinstance(content, Absent)
    assert bundled(present) == Stale(content.content)


@pytest.mark.parametrize("new", [OLD, NEW, make_leaf(CA, "api", key="ed25519")])
def test_what_was_made_is_current(new: Issued) -> None:
    """And is not made again; nor is one that differs in its form alone."""
    made = bundled(None, new=new)
    assert isinstance(made, Absent)
    assert bundled(made.content, new=new) == Current()
    assert bundled(new.key_pem + new.pem, new=new) == Current()


@pytest.mark.parametrize(
    ("present", "fact"),
    [
        (b"global\n  maxconn 100\n", "is not PEM"),
        (NEW.der, "is not PEM"),
        (OTHER.pem + OTHER.key_pem, "contains a certificate of CN=other,.*not of CN=api"),
        (OLD.pem + OTHER.pem + OLD.key_pem, "also contains a certificate of CN=other"),
        (OLD.pem + OLD.key_pem + OTHER.key_pem, "contains more than one private key"),
        (OLD.pem + OLD.key_pem + pem_block("DH PARAMETERS", b"0\0"), "contains a block DH PARAMETERS"),
        (OLD.key_pem, "is not a certificate with its key"),
        (NEW.pem, "is not a certificate with its key"),  # it is open to all, perhaps: no key is put into it
        (OLD.pem + OLD.key_pem[:-40], "is not a certificate with its key"),
        (OLD.pem + OLD.key_pem + b"# own\n", "is not a certificate with its key"),
        (
            NEW.pem + NEW.key_pem + b"# own\n",
            "is not a certificate with its key",
        ),  # reported before it is out of date
        (OLD.pem + OLD.key_as(PrivateFormat.TraditionalOpenSSL, b"x"), "is not a certificate with its key"),
        (OLD.pem + pem_block("ENCRYPTED PRIVATE KEY", b"0\0"), "contains a block ENCRYPTED PRIVATE KEY"),
    ],
)
def test_a_bundle_with_anything_else_is_foreign(present: bytes, fact: str) -> None:
    """It stays, with a message that has the reason and the remedy."""
    message = foreign(bundled(present))
    assert message.startswith(f"{BUNDLE.path} {fact.partition('.*')[0].rstrip(',')}")
    assert message.index(fact.rpartition(".*")[2]) > 0


@pytest.mark.parametrize("present", [None, b"", b"whatever", OLD.pem + OLD.key_pem])
@pytest.mark.parametrize(
    ("source", "key"),
    [
        (None, NEW.key_pem),
        (NEW.pem, None),
        (NEW.pem, b""),
        (NEW.pem, OLD.key_pem),
        (NEW.pem, NEW.key_pem[:-40]),
        (NEW.pem[:-40], NEW.key_pem),
        (NEW.pem + CA.pem[:-40], NEW.key_pem),
        (NEW.pem, NEW.key_pem + OLD.key_pem[:-40]),
        (b"", NEW.key_pem),
        (b"\xff", b"\xff"),
        (CA.pem, NEW.key_pem),
    ],
)
def test_nothing_is_made_from_a_broken_source(source: bytes | None, key: bytes | None, present: bytes | None) -> None:
    """The existing file stays, because it may still work."""
    found = state(BUNDLE, source, key, present)
    assert isinstance(found, Unready)
    assert BUNDLE.path in found.message
    assert "apiserver" in found.message


def test_what_a_source_holds_beside_its_certificate_does_no_harm() -> None:
    """Text after the last block, and a certificate that is neither a CA's nor the key's."""
    assert state(BUNDLE, NEW.pem + b"# own\n", NEW.key_pem, None) == bundled(None)
    found = bundled(OLD.pem + OTHER.pem + OLD.key_pem, chain=(OTHER,))
    assert isinstance(found, Stale)
    assert decode(found.content, "").certificates == (NEW.facts, OTHER.facts)


def test_a_key_that_kubernetes_cannot_use_is_not_handed_on() -> None:
    """It can be compared, but not written."""
    leaf = make_leaf(CA, "api", key="ed448")
    found = state(BUNDLE, leaf.pem, leaf.key_pem, None)
    assert isinstance(found, Unready)
    assert "is not an RSA, ECDSA or Ed25519 key" in found.message


# --- kubeconfig -------------------------------------------------------------------------------------------------------


def kubeconfig(leaf: Issued = NEW, trust: bytes = CA.pem, **names: str) -> bytes:
    given: dict[str, Any] = {"cluster": "kubernetes", "server": "https://10.0.0.1:6443", "user": "admin"} | names
    return new_kubeconfig(**given, trust_pem=trust, credentials=Embedded(leaf.pem, leaf.key_pem))


def edited(change: Any, data: bytes | None = None) -> bytes:
    document = yaml.load(data or kubeconfig(OLD), yaml.CSafeLoader)
    change(document)
    return yaml.dump(document, Dumper=yaml.CSafeDumper, encoding="utf-8")


def swapped(field: str, by: str) -> bytes:
    """One field of the user with what another holds."""
    return edited(lambda d: d["users"][0]["user"].update({field: d["users"][0]["user"][by]}))


def holding(certificate: str) -> bytes:
    """With this text as certificate of the user."""
    return edited(lambda d: d["users"][0]["user"].update({"client-certificate-data": certificate}))


SOURCE = kubeconfig()


def test_a_copy_is_the_source_byte_for_byte(node: Node) -> None:
    """Whatever it is like, it is made and found current."""
    for name in ("admin", "kubelet"):
        source = node.read(f"etc/kubernetes/{name}.conf")
        assert state(COPY, source, None, None) == Absent(source)
        assert state(COPY, source, None, source) == Current()
        assert state(COPY, source, None, b" \n") == Stale(source)


def test_a_copy_follows_the_renewal_of_its_source(node: Node) -> None:
    """The one that an operator made by hand as well."""
    before = node.read("etc/kubernetes/admin.conf")
    embedded = yaml.safe_load(before)["users"][0]["user"]["client-certificate-data"]
    new, key = node.mint(x509.load_pem_x509_certificate(base64.b64decode(embedded)))
    after = with_credentials(
        before,
        COPY.path,
        old=None,
        certificate_pem=pem(new),
        key_pem=key_pem(key),
        trust_pem=node.read(f"{PKI}/ca.crt"),
    )
    assert after != before
    assert state(COPY, after, None, before) == Stale(after)


@pytest.mark.parametrize(
    ("present", "source"),
    [
        (kubeconfig(OLD), SOURCE),
        (SOURCE.replace(b"kind: Config", b"kind:  Config # mine"), SOURCE),
        (kubeconfig(OLD, bundle(CA, NEXT_CA)), SOURCE),
        (kubeconfig(OLD), kubeconfig(NEW, bundle(CA, NEXT_CA))),
        (kubeconfig(OLD, bundle(CA, NEXT_CA)), kubeconfig(NEW, NEXT_CA.pem)),
        (kubeconfig(OLD, server="https://old:6443"), SOURCE),
        (SOURCE.replace(b"preferences: {}\n", b""), SOURCE),
        (SOURCE, SOURCE.replace(b"preferences: {}\n", b"")),
        (edited(lambda d: d["contexts"][0]["context"].update(namespace="")), SOURCE),
    ],
)
def test_a_copy_with_the_same_identity_is_replaced(present: bytes, source: bytes) -> None:
    """The same users with the same subjects, and a CA certificate in common: a rotation's bundle has both."""
    assert state(COPY, source, None, present) == Stale(source)


SECOND = {"name": "dev", "user": {"token": "abc"}}


@pytest.mark.parametrize(
    ("present", "fact"),
    [
        (b"# nothing\n", "is not a readable kubeconfig"),
        (b"\xff\xfe", "is not a readable kubeconfig"),
        (NEW.pem + NEW.key_pem, "is not a readable kubeconfig"),
        (holding("%"), "is not a readable kubeconfig"),
        (holding("QQ=="), "is not a readable kubeconfig"),
        (edited(lambda d: d["users"].append(SECOND)), "contains the user 'dev', which admin lacks"),
        (edited(lambda d: d["clusters"].append({"name": "dev", "cluster": {}})), "contains the cluster 'dev', which"),
        (edited(lambda d: d["contexts"].append({"name": "dev", "context": {}})), "contains the context 'dev', which"),
        (
            edited(lambda d: d["contexts"][0]["context"].update(namespace="shop")),
            "contains the context 'admin@kubernetes' with 'namespace', which admin lacks",
        ),
        (edited(lambda d: d["users"][0]["user"].update(token="abc")), "contains the user 'admin' with 'token', which"),
        (edited(lambda d: d.update(extensions=[{"name": "x"}])), "contains 'extensions', which"),
        (edited(lambda d: d.update(preferences={"colors": True})), "contains 'preferences', which"),
        (edited(lambda d: d.update(users=[])), "lacks the user 'admin' of admin"),
        (kubeconfig(OTHER), "contains an identity for user 'admin' that differs"),
        (edited(lambda d: d["users"][0].update(user={})), "contains an identity for user 'admin' that differs"),
        (
            swapped("client-certificate-data", "client-key-data"),
            "contains an identity for user 'admin' that differs",
        ),
        (kubeconfig(OLD, ELSEWHERE.pem), "trusts no CA certificate of admin: it might be for another cluster"),
        (edited(lambda d: d["clusters"][0].update(cluster={})), "trusts no CA certificate of admin"),
    ],
)  # fmt: skip
def test_a_kubeconfig_with_anything_else_is_foreign(present: bytes, fact: str) -> None:
    """A merged one, one with an operator's settings, or one for another cluster or user would lose content."""
    assert foreign(state(COPY, SOURCE, None, present)).startswith(f"{COPY.path} {fact}")


def test_a_copy_may_refer_to_files() -> None:
    """The same files are the same identity, by absolute paths alone: others lead elsewhere from a copy."""

    def referring(path: str, **names: str) -> bytes:
        given: dict[str, Any] = {"cluster": "c", "server": "https://a", "user": "u"} | names
        return new_kubeconfig(**given, trust_pem=CA.pem, credentials=Files(path, path))

    source = referring("/k/current.pem")
    assert state(COPY, source, None, referring("/k/current.pem", server="https://b")) == Stale(source)
    assert "an identity" in foreign(state(COPY, source, None, referring("/k/old.pem")))
    relative = state(COPY, referring("current.pem"), None, None)
    assert isinstance(relative, Unready)
    assert "by a relative path" in relative.message
    trust = edited(lambda d: d["clusters"][0].update(cluster={"certificate-authority": "/ca.crt"}), source)
    moved = edited(lambda d: d["clusters"][0].update(cluster={"certificate-authority": "/old.crt"}), source)
    assert state(COPY, trust, None, trust + b"# mine\n") == Stale(trust)
    assert "trusts no CA" in foreign(state(COPY, trust, None, moved))


@pytest.mark.parametrize("present", [None, b"", kubeconfig(OLD), b"whatever"])
@pytest.mark.parametrize(
    "source",
    [
        None,
        b"",
        b"\xff",
        b"users: []\n",
        SOURCE[:-200],
        holding("%"),
        edited(lambda d: d["users"][0]["user"].pop("client-key-data")),
        swapped("client-key-data", "client-certificate-data"),
        swapped("client-certificate-data", "client-key-data"),
        edited(lambda d: d["users"].append(d["users"][0])),
        edited(lambda d: d["clusters"][0]["cluster"].update({"certificate-authority-data": "QQ=="})),
    ],
)  # fmt: skip
def test_a_broken_kubeconfig_is_not_handed_on(source: bytes | None, present: bytes | None) -> None:
    """Whatever is there stays: it may still do."""
    found = state(COPY, source, None, present)
    assert isinstance(found, Unready)
    assert found.message.startswith(f"certmond does not write {COPY.path}: ")


def test_a_kubeconfig_without_certificates_is_copied_too() -> None:
    """The cases are one with a token, one that trusts the CAs of the host, and one whose key is in a separate file."""
    public = edited(lambda d: d["clusters"][0].update(cluster={"server": "https://a"}))
    assert state(COPY, public, None, public + b"# mine\n") == Stale(public)
    token = edited(lambda d: d["users"][0].update(user={"token": "abc"}))
    assert state(COPY, token, None, None) == Absent(token)
    assert state(COPY, token, None, token + b"# mine\n") == Stale(token)

    def move(document: Any) -> None:
        document["users"][0]["user"].pop("client-key-data")
        document["users"][0]["user"]["client-key"] = "/k/admin.key"

    split = edited(move)
    assert state(COPY, split, None, None) == Absent(split)


# --- both -------------------------------------------------------------------------------------------------------------

KEYS = [issued.key_pem.decode()[60:90] for issued in (OLD, NEW)] + [
    kubeconfig(issued).decode().partition("client-key-data: ")[2][60:90] for issued in (OLD, NEW)
]


@pytest.mark.long
@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=120), st.integers(0, 4000), st.integers(0, 60), st.sampled_from([BUNDLE, COPY]))
def test_any_bytes_have_a_state(noise: bytes, start: int, length: int, spec: DerivedSpec) -> None:
    """As source, as key or as what is there; what may be shown of the state shows no key."""
    whole = SOURCE if spec is COPY else NEW.pem
    older = kubeconfig(OLD) if spec is COPY else OLD.pem + OLD.key_pem
    for source, key, present in (
        (noise, noise, noise),
        (whole, NEW.key_pem, noise),
        (whole, NEW.key_pem, older[:start] + noise + older[start + length :]),
        (whole[:start] + noise + whole[start + length :], NEW.key_pem, older),
        (whole, NEW.key_pem[:start] + noise + NEW.key_pem[start + length :], older),
    ):
        found = state(spec, source, key, present)
        assert isinstance(found, Current | Stale | Absent | Foreign | Unready)
        assert not any(secret in f"{found!r}" for secret in KEYS)
        assert "b'" not in f"{found!r}"


def test_a_derived_file_depends_on_its_source_and_itself() -> None:
    """And on the key, where it holds it."""
    source = CertificateSpec(name="apiserver", path="/pki/apiserver.crt", key="/pki/apiserver.key")
    assert watched(BUNDLE, source) == (BUNDLE.path, "/pki/apiserver.crt", "/pki/apiserver.key")
    assert watched(BUNDLE, replace(source, key=None)) == (BUNDLE.path, "/pki/apiserver.crt")
    assert watched(COPY, source) == (COPY.path, "/pki/apiserver.crt")


def test_an_owner_is_a_user_and_a_group_of_this_host() -> None:
    """Without a group it is the user's own; numbers need no name."""
    user = pwd.getpwnam("nobody")
    group = grp.getgrgid(os.getgid()).gr_name
    assert owner_ids("nobody") == (user.pw_uid, user.pw_gid)
    assert owner_ids(f"nobody:{group}") == (user.pw_uid, os.getgid())
    assert owner_ids("64999") == (64999, 64999)
    assert (owner_ids("64999:12"), owner_ids("nobody:12"), owner_ids(f"64999:{group}")) == (
        (64999, 12), (user.pw_uid, 12), (64999, os.getgid()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "fact"),
    [
        ("no-such-user", "no user 'no-such-user'"),
        ("no-such-user:root", "no user 'no-such-user'"),
        ("root:no-such-group", "no group 'no-such-group'"),
    ],
)
def test_an_owner_who_is_not_there_is_named(owner: str, fact: str) -> None:
    """With what to do about it."""
    with pytest.raises(WriteError, match=rf"this host has {fact}; create it, or correct `owner`") as caught:
        owner_ids(owner)
    assert "KeyError" not in "".join(traceback.format_exception(caught.value))
