"""A certificate and a key that lie side by side belong together, or the reason why not is named with its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import KeyUnusableError
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.validator import validated
from certmond.renewal.key_pair import (
    KeyPair,
    KeyPairs,
    Unpaired,
    anchor_of_key,
    as_written,
    entry_pair,
    key_of_user,
    key_pair,
    kubeconfig_pairs,
)
from certmond.transaction.node_file_reader import NodeFiles
from certmond.transaction.operations import Change, NewFile, NewLink, Removed
from tests.builders import NOW, YEAR, Issued, make_ca, make_leaf
from tests.test_renewal import kubeconfig

CA, OTHER_CA = (make_ca(not_before=NOW - YEAR) for _ in range(2))
LEAF, OTHER = make_leaf(CA, "one"), make_leaf(CA, "two")


def problem(found: object) -> str:
    assert isinstance(found, Unpaired)
    return found.message


@pytest.mark.parametrize("kind", ["ec", "ec-p384", "rsa", "ed25519"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("layout", ["two files", "certificate first", "key first"])
def test_a_certificate_and_its_key_are_a_pair(kind: str, form: PrivateFormat, layout: str) -> None:
    """Whatever the kind of the key, in PKCS#8, PKCS#1 or SEC1, in two files or in one."""
    leaf = make_leaf(CA, "leaf", key=kind)
    if kind == "ed25519":
        form = PrivateFormat.PKCS8
    key = leaf.key_as(form)
    match layout:
        case "two files":
            found = key_pair(leaf.pem + CA.pem, key, "/crt", "/key")
        case "certificate first":
            found = key_pair(leaf.pem + CA.pem + key, leaf.pem + CA.pem + key, "/pem", "/pem")
        case _:
            found = key_pair(key + leaf.pem + CA.pem, key + leaf.pem + CA.pem, "/pem", "/pem")
    assert found == KeyPair((leaf.facts, CA.facts))


def lying(key: Any) -> bytes:
    """A key whose public half is `key`'s, and whose private exponents are not."""
    own = key.private_numbers()
    made = rsa.RSAPrivateNumbers(
        own.p, own.q, own.d + 2, own.dmp1 + 2, own.dmq1 + 2, own.iqmp, own.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    return Issued(b"", made, LEAF.subject, None, None).key_pem


RSA = make_leaf(CA, "rsa", key="rsa")


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (LEAF.pem, OTHER.key_pem, "/crt does not match the key in /key"),
        (OTHER.pem + LEAF.pem, LEAF.key_pem, "the first certificate in /crt does not match the key in /key"),
        (LEAF.pem, OTHER.key_pem + LEAF.key_pem, "/crt does not match the key in /key"),
        (None, LEAF.key_pem, "/crt does not exist"),
        (LEAF.pem, None, "/key does not exist"),
        (b"", LEAF.key_pem, "/crt is empty"),
        (LEAF.key_pem, LEAF.key_pem, "/crt contains no certificate"),
        (LEAF.pem[:-40], LEAF.key_pem, "/crt, PEM block 1: is cut off: its END CERTIFICATE line is missing"),
        (LEAF.pem, b"", "/key contains no usable private key"),
        (LEAF.pem, LEAF.key_pem[:80], "/key contains no usable private key"),
        (LEAF.pem, LEAF.key_as(PrivateFormat.PKCS8, b"secret"), "the private key in /key is encrypted"),
        (RSA.pem, lying(RSA.key), "the key in /key is damaged: it cannot sign"),
    ],
    ids=map(str, range(12)),  # of the keys themselves, each process would make another name
)
def test_an_invalid_pair_is_reported_with_its_file(certificate: bytes | None, key: bytes | None, said: str) -> None:
    """The first certificate and the first key count, as in Go. The key has to sign, and no message quotes a key."""
    assert problem(key_pair(certificate, key, "/crt", "/key")) == said


@given(st.binary(max_size=200), st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_pair_or_none(certificate: bytes, key: bytes, real: bool) -> None:
    """Nothing raises."""
    for found in (key_pair(certificate, key, "/a", "/b"), anchor_of_key(certificate, key, "/a", "/b")):
        assert isinstance(found, Unpaired)
    assert isinstance(key_pair(LEAF.pem + certificate, LEAF.key_pem if real else key, "/a", "/b"), KeyPair | Unpaired)
    assert all(isinstance(each, Unpaired) for each in kubeconfig_pairs(certificate, "/c"))


def test_a_trust_anchor_of_several_is_the_keys() -> None:
    """While a CA is rotated its file holds two, and the key is of either; so it is with bare public keys."""
    both = OTHER_CA.pem + CA.pem
    assert anchor_of_key(both, CA.key_pem, "/ca.crt", "/ca.key") == CA.facts
    assert anchor_of_key(LEAF.public_pem, LEAF.key_pem, "/sa.pub", "/sa.key") == LEAF.facts.key
    said = "/ca.key matches no certificate or public key in /ca.crt"
    assert problem(anchor_of_key(both, LEAF.key_pem, "/ca.crt", "/ca.key")) == said
    assert problem(anchor_of_key(None, CA.key_pem, "/ca.crt", "/ca.key")) == "/ca.crt does not exist"
    assert problem(anchor_of_key(both, None, "/ca.crt", "/ca.key")) == "/ca.key does not exist"


def two_users(first: bytes, second: Mapping[str, str]) -> bytes:
    document = yaml.safe_load(first)
    document["users"].insert(0, {"name": "other", "user": dict(second)})
    return yaml.safe_dump(document).encode()


def test_the_pairs_of_a_kubeconfig_begin_with_its_current_users() -> None:
    """Others follow. A user without a certificate has none. Referenced files are read only on request."""
    referring = two_users(kubeconfig(CA, LEAF), {"client-certificate": "two.crt", "client-key": "/k/two.key"})
    files = {"/etc/two.crt": OTHER.pem, "/k/two.key": OTHER.key_pem}
    assert kubeconfig_pairs(referring, "/etc/a.conf") == (KeyPair((LEAF.facts,)),)
    assert kubeconfig_pairs(referring, "/etc/a.conf", files.get) == (KeyPair((LEAF.facts,)), KeyPair((OTHER.facts,)))
    files["/k/two.key"] = LEAF.key_pem
    assert problem(kubeconfig_pairs(referring, "/etc/a.conf", files.get)[1]) == (
        "/etc/two.crt does not match the key in /k/two.key"
    )
    token = two_users(kubeconfig(CA, LEAF, OTHER.key_pem), {"token": "t"})
    (torn,) = kubeconfig_pairs(token, "/a.conf")
    assert problem(torn) == (
        "/a.conf, certificate of 'admin', does not match the key in /a.conf, key of 'admin',"
    )  # fmt: skip
    assert isinstance(torn, Unpaired)
    assert torn.leaf == LEAF.facts
    no_key = two_users(kubeconfig(CA, LEAF), {"client-certificate": "two.crt"})
    assert (
        problem(kubeconfig_pairs(no_key, "/etc/a.conf", files.get)[1]) == "/etc/a.conf, key of 'other', does not exist"
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "/a.conf does not exist"),
        (b"[]", "/a.conf is not a YAML mapping"),
        (b"users: []", "/a.conf contains no client certificate"),
    ],
)
def test_a_kubeconfig_without_a_pair_has_one_problem(data: bytes | None, said: str) -> None:
    """It has one problem, whatever its content."""
    (found,) = kubeconfig_pairs(data, "/a.conf")
    assert problem(found) == said


def test_the_key_of_a_user_is_found_by_the_certificate() -> None:
    """Of several users the key of that one is found. There is no key if no user has the certificate, or if it has no
    key beside it.
    """
    data = two_users(kubeconfig(CA, LEAF), {"client-certificate-data": "!"})
    assert key_of_user(data, "/a.conf", LEAF.facts) == LEAF.key_pem
    assert key_of_user(data, "/a.conf", OTHER.facts) is None
    document = yaml.safe_load(data)
    del document["users"][1]["user"]["client-key-data"]
    assert key_of_user(yaml.safe_dump(document).encode(), "/a.conf", LEAF.facts) is None
    with pytest.raises(KeyUnusableError, match=r"^/a.conf is not a YAML mapping; install a valid kubeconfig$"):
        key_of_user(b"[]", "/a.conf", LEAF.facts)


def spec(**fields: Any) -> CertificateSpec:
    pair = {"name": "leaf", "path": "/leaf.crt", "key": "/leaf.key"}
    return validated(CertificateSpec, pair | fields)


def test_the_pair_of_an_entry_is_found_by_its_kind() -> None:
    """Two files, one that holds both, or what a kubeconfig refers to, where references are read at all."""
    files = {"/leaf.crt": LEAF.pem, "/leaf.key": LEAF.key_pem, "/both.pem": OTHER.key_pem + OTHER.pem}
    files["/k.conf"] = yaml.safe_dump(
        {"users": [{"name": "a", "user": {"client-certificate": "leaf.crt", "client-key": "leaf.key"}}]}
    ).encode()
    assert entry_pair(Kind.FILE, "/leaf.crt", "/leaf.key", files.get) == KeyPair((LEAF.facts,))
    assert entry_pair(Kind.FILE, "/both.pem", None, files.get) == KeyPair((OTHER.facts,))
    assert entry_pair(Kind.KUBECONFIG, "/k.conf", "/k.conf", files.get, references=True) == KeyPair((LEAF.facts,))
    assert isinstance(entry_pair(Kind.KUBECONFIG, "/k.conf", "/k.conf", files.get), Unpaired)


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], None]:
    def put(path: str, content: bytes) -> None:
        (tmp_path / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.lstrip("/")).write_bytes(content)

    return put


def test_what_will_be_there_is_read_as_it_was_staged(tmp_path: Path, put: Callable[[str, bytes], None]) -> None:
    """By each name that leads to a changed file or symlink; everything else as it is at that moment."""
    files = NodeFiles(str(tmp_path))
    put("/d/old.pem", b"old")
    put("/d/other", b"other")
    put("/d/gone", b"gone")
    put("/d/kept", b"kept")
    (tmp_path / "d/current.pem").symlink_to("old.pem")
    (tmp_path / "d/alias").symlink_to("current.pem")
    (tmp_path / "d/second").symlink_to("other")
    changes: list[Change] = [
        NewFile("/d/new.pem", b""), NewLink("/d/current.pem", "/d/new.pem"), NewFile("/d/second", b""),
        Removed("/d/gone", ""), NewLink("/d/back", "/d/kept"),
    ]  # fmt: skip
    read = as_written(changes, {"/d/new.pem": b"new", "/d/second": b"changed"}, files)
    expected = {"new.pem": b"new", "current.pem": b"new", "alias": b"new", "second": b"changed", "other": b"changed",
                "gone": None, "kept": b"kept", "back": b"kept", "nowhere": None}  # fmt: skip
    assert {name: read(f"/d/{name}") for name in expected} == expected
    put("/d/kept", b"changed by another program")
    assert read("/d/kept") == b"changed by another program"


ENTRIES = {
    "a": spec(name="a"),
    "b": spec(name="b", path="/b.crt"),  # another certificate of the same key
    "ca": spec(name="ca", path="/ca.crt", key="/ca.key", authority=True),
    "many": spec(name="many", path="/many/*.pem", key="/many/*.pem"),
    "kube": spec(name="kube", kind="kubeconfig", path="/k.conf", key=None),
}


@pytest.fixture
def pairs(tmp_path: Path, put: Callable[[str, bytes], None]) -> tuple[KeyPairs, NodeFiles]:
    put("/leaf.crt", LEAF.pem)
    put("/leaf.key", LEAF.key_pem)
    put("/b.crt", make_leaf(CA, "b", key=LEAF.key).pem)
    put("/ca.crt", CA.pem + OTHER_CA.pem)
    put("/ca.key", CA.key_pem)
    files = NodeFiles(str(tmp_path))
    return KeyPairs(tuple(ENTRIES.values()), files), files


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            {"/leaf.crt": OTHER.pem, "/leaf.key": OTHER.key_pem},
            "the certificate and the key of b would not match: /b.crt does",
        ),
        (
            {"/leaf.crt": OTHER.pem},
            "the certificate and the key of a would not match: /leaf.crt does not match the key in",
        ),
        ({"/leaf.crt": make_leaf(CA, "new", key=LEAF.key).pem}, None),
        ({"/ca.key": OTHER_CA.key_pem}, None),
        (
            {"/ca.crt": OTHER_CA.pem},
            "the certificate and the key of ca would not match: /ca.key matches no certificate or public key in",
        ),
        (
            {"/ca.key": LEAF.key_pem},
            "the certificate and the key of ca would not match: /ca.key matches no certificate or public key in",
        ),
        ({"/unknown": b""}, None),
    ],
)
def test_no_pair_of_another_entry_is_torn(
    pairs: tuple[KeyPairs, NodeFiles], written: Mapping[str, bytes], said: str | None
) -> None:
    """An entry that has one of the changed files, and not the other, still has a pair, or nothing is changed."""
    known, files = pairs
    changes = [NewFile(path, content) for path, content in written.items()]
    read = as_written(changes, written, files)
    torn = list(known.mismatches(changes, read))
    assert len(torn) == (said is not None)
    assert all(each.startswith(str(said)) for each in torn)


def test_what_was_torn_before_stays_as_it_is(
    pairs: tuple[KeyPairs, NodeFiles], put: Callable[[str, bytes], None]
) -> None:
    """A pair that did not belong together is no reason to refuse; nor is a CA whose key goes."""
    known, files = pairs
    put("/b.crt", OTHER.pem)
    written = {"/leaf.crt": RSA.pem, "/leaf.key": RSA.key_pem}
    changes: list[Change] = [*(NewFile(path, content) for path, content in written.items()), Removed("/ca.key", "")]
    assert list(known.mismatches(changes, as_written(changes, written, files))) == []
