"""Each rule of the path search with a near pair: just good, and just bad. Then time, order, and the search itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.pki.x509.certificate import parse_certificate
from certmond.pki.x509.path_building import Path, PathSearch, Refusal, Rejection, find_paths, objection, signed_by
from fuzz.mutated_chains import key_forms, pss_signed, rsa_info, with_key
from tests.builders import (
    DAY,
    NOW,
    SECOND,
    UNKNOWN_OID,
    YEAR,
    Issued,
    cross_sign,
    general_name,
    make_ca,
    make_intermediate,
    make_leaf,
    make_server,
    new_key,
    oid,
    reissue,
    tlv,
)

CLIENT, SERVER = "client auth", "server auth"


class Scene(NamedTuple):
    """A leaf, its trust anchors, its intermediates, and its purpose."""

    leaf: Issued
    anchors: list[Issued]
    intermediates: list[Issued] = []  # noqa: RUF012 - a NamedTuple's default, which no code changes
    usages: tuple[str, ...] = (CLIENT,)


def search(scene: Scene) -> PathSearch:
    return find_paths(
        scene.leaf.facts,
        [anchor.facts for anchor in scene.anchors],
        [intermediate.facts for intermediate in scene.intermediates],
        scene.usages,
    )


def valid(scene: Scene, at: datetime = NOW) -> bool:
    return search(scene).valid_at(at) is not None


def refusals(scene: Scene) -> set[Refusal]:
    return {rejection.refusal for rejection in search(scene).rejections}


def under(root: Issued, **leaf: Any) -> Scene:
    return Scene(make_leaf(root, **leaf), [root])


def between(root: Issued, **intermediate: Any) -> Scene:
    issuer = make_intermediate(root, **intermediate)
    return Scene(make_leaf(issuer), [root], [issuer])


def below(depth: int, **root: Any) -> Scene:
    """A leaf with `depth` intermediates between it and its root."""
    chain = [make_ca(**root)]
    for number in range(depth):
        chain.append(make_intermediate(chain[-1], f"intermediate {number}"))
    return Scene(make_leaf(chain[-1]), chain[:1], chain[1:])


def named(constrained: Issued, *names: str) -> Scene:
    return Scene(make_server(constrained, names=names), [constrained], usages=(SERVER,))


def critical(dotted: str, der: bytes) -> dict[str, Any]:
    return {"extra": [(dotted, True, der)]}


DISTRIBUTION_POINTS = tlv(0x30, tlv(0x30, tlv(0xA0, tlv(0xA0, general_name("URI:http://a/crl")))))
POLICY_MAPPINGS = tlv(0x30, tlv(0x30, oid("1.2.3"), oid("1.2.4")))
EMPTY_CA: dict[str, Any] = {"usages": None, "subject_key_id": None, "authority_key_id": None, "names": None}


class Pair(NamedTuple):
    rule: str
    good: Callable[[], Scene]
    bad: Callable[[], Scene]
    refusal: Refusal


PAIRS = [
    Pair(
        "the issuer is found by the very bytes of its name",
        lambda: under(make_ca("kubernetes")),
        lambda: Scene(make_leaf(make_ca("Kubernetes")), [make_ca("kubernetes")]),
        Refusal.NO_ISSUER,
    ),
    Pair(
        "a name is not enough: the signature must be by the issuer's key",
        lambda: under(make_ca()),
        lambda: under(make_ca(), signing_key=new_key()),
        Refusal.BAD_SIGNATURE,
    ),
    Pair(
        "an issuer of version 3 is a CA by its basicConstraints",
        lambda: under(make_ca(is_ca=True)),
        lambda: under(make_ca(is_ca=False)),
        Refusal.NOT_CA,
    ),
    Pair(
        "an anchor of version 1 needs no basicConstraints, which it cannot have",
        lambda: under(make_ca(version=1)),
        lambda: under(make_ca(is_ca=None)),
        Refusal.NOT_CA,
    ),
    Pair(
        "an intermediate of version 1 is no CA",
        lambda: between(make_ca()),
        lambda: between(make_ca(), version=1),
        Refusal.NOT_CA,
    ),
    Pair(
        "an issuer that has a keyUsage must have keyCertSign in it",
        lambda: under(make_ca(usages=["cert sign"])),
        lambda: under(make_ca(usages=["crl sign"])),
        Refusal.CANNOT_SIGN,
    ),
    Pair(
        "a signature over SHA-1 does not count",
        lambda: under(make_ca(), hash="sha384"),
        lambda: under(make_ca(), hash="sha1"),
        Refusal.WEAK_SIGNATURE,
    ),
    Pair(
        "a signature over MD5 does not count",
        lambda: under(make_ca(key="rsa"), hash="sha256-pss"),
        lambda: under(make_ca(key="rsa"), hash="md5"),
        Refusal.WEAK_SIGNATURE,
    ),
    Pair(
        "nor does one over a digest that Go has no signature algorithm for",
        lambda: under(make_ca(), hash="sha512"),
        lambda: under(make_ca(), hash="sha224"),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "an issuer's curve is one of Go's",
        lambda: under(make_ca(key="ec-p521")),
        lambda: under(make_ca(key="ec-secp256k1")),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "an issuer's key is RSA, ECDSA or Ed25519",
        lambda: under(make_ca(key="ed25519")),
        lambda: under(make_ca(key="ed448")),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "so is a leaf's, for TLS takes no other",
        lambda: under(make_ca(), key="ed25519"),
        lambda: under(make_ca(), key="dsa"),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "a serial number may be zero, as in kubeadm's CAs before 1.27, but not below",
        lambda: under(make_ca(serial=0), serial=0),
        lambda: under(make_ca(serial=-1)),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "a leaf with a serial number below zero is not read by Go",
        lambda: under(make_ca(), serial=0),
        lambda: under(make_ca(), serial=-1),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "as many intermediates as pathLenConstraint says, and not one more",
        lambda: below(2, path_length=2),
        lambda: below(2, path_length=1),
        Refusal.TOO_LONG,
    ),
    Pair(
        "with a pathLenConstraint of zero an issuer signs leaves only",
        lambda: below(0, path_length=0),
        lambda: below(1, path_length=0),
        Refusal.TOO_LONG,
    ),
    Pair(
        "an unknown extension on the leaf is ignored unless it is critical",
        lambda: under(make_ca(), extra=[(UNKNOWN_OID, False, b"\x05\x00")]),
        lambda: under(make_ca(), extra=[(UNKNOWN_OID, True, b"\x05\x00")]),
        Refusal.UNKNOWN_CRITICAL,
    ),
    Pair(
        "an unknown extension on an issuer is ignored unless it is critical",
        lambda: under(make_ca(extra=[(UNKNOWN_OID, False, b"\x05\x00")])),
        lambda: under(make_ca(extra=[(UNKNOWN_OID, True, b"\x05\x00")])),
        Refusal.UNKNOWN_CRITICAL,
    ),
    Pair(
        "critical CRL distribution points are understood, a critical key identifier is not",
        lambda: under(make_ca(), **critical("2.5.29.31", DISTRIBUTION_POINTS)),
        lambda: under(make_ca(), **critical("2.5.29.14", tlv(0x04, b"12345678"))),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "critical policy mappings are understood, a critical authorityKeyIdentifier is not",
        lambda: under(make_ca(), **critical("2.5.29.33", POLICY_MAPPINGS)),
        lambda: under(make_ca(), authority_key_id=None, **critical("2.5.29.35", tlv(0x30, tlv(0x80, b"12345678")))),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "certificate policies that are demanded are refused, as they are not judged",
        lambda: under(make_ca(), **critical("2.5.29.36", tlv(0x30, b"\x81\x01\x00"))),
        lambda: under(make_ca(), **critical("2.5.29.36", tlv(0x30, b"\x80\x01\x00"))),
        Refusal.POLICIES,
    ),
    Pair(
        "of critical alternative names one at least is of a kind that Go knows",
        lambda: under(make_ca(), names=["dirName:a", "DNS:a"], names_critical=True),
        lambda: under(make_ca(), names=["dirName:a"], names_critical=True),
        Refusal.UNKNOWN_CRITICAL,
    ),
    Pair(
        "critical name constraints are all of kinds that Go knows",
        lambda: under(make_ca(excluded=["dirName:a"], constraints_critical=False)),
        lambda: under(make_ca(excluded=["dirName:a", "DNS:a"])),
        Refusal.UNKNOWN_CRITICAL,
    ),
    Pair(
        "the leaf must be good for the usage",
        lambda: under(make_ca(), extended_usages=[SERVER, CLIENT]),
        lambda: under(make_ca(), extended_usages=[SERVER]),
        Refusal.USAGE,
    ),
    Pair(
        "a leaf without extended usages is good for each, one with others only is not",
        lambda: under(make_ca(), extended_usages=None),
        lambda: under(make_ca(), extended_usages=["code signing", "1.2.3.4"]),
        Refusal.USAGE,
    ),
    Pair(
        "anyExtendedKeyUsage permits every usage",
        lambda: under(make_ca(), extended_usages=["any"]),
        lambda: under(make_ca(), extended_usages=["email protection"]),
        Refusal.USAGE,
    ),
    Pair(
        "the root's extended usages bind what is below it",
        lambda: under(make_ca(extended_usages=[CLIENT])),
        lambda: under(make_ca(extended_usages=[SERVER])),
        Refusal.USAGE,
    ),
    Pair(
        "so do an intermediate's",
        lambda: between(make_ca(), extended_usages=["any"]),
        lambda: between(make_ca(), extended_usages=[SERVER]),
        Refusal.USAGE,
    ),
    Pair(
        "every usage asked for must be there, as for etcd's peers",
        lambda: under(make_ca(), extended_usages=[SERVER, CLIENT])._replace(usages=(SERVER, CLIENT)),
        lambda: under(make_ca(), extended_usages=[CLIENT])._replace(usages=(SERVER, CLIENT)),
        Refusal.USAGE,
    ),
    Pair(
        "a leaf that is its own anchor must still be good for the usage",
        lambda: Scene(leaf := make_ca("node@1", is_ca=False, extended_usages=[CLIENT]), [leaf]),
        lambda: Scene(leaf := make_ca("node@1", is_ca=False, extended_usages=[SERVER]), [leaf]),
        Refusal.USAGE,
    ),
    Pair(
        "the leaf's names are within what the root permits",
        lambda: named(make_ca(permitted=["DNS:example.com"]), "DNS:a.example.com"),
        lambda: named(make_ca(permitted=["DNS:example.com"]), "DNS:a.example.org"),
        Refusal.NAME_CONSTRAINT,
    ),
    Pair(
        "a name constraint can be parsed",
        lambda: named(make_ca(permitted=["DNS:example.com"]), "DNS:example.com"),
        lambda: named(make_ca(permitted=["DNS:example.com."]), "DNS:example.com"),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "also where the certificate is its own anchor",
        lambda: Scene(alone := make_ca(permitted=["DNS:example.com"]), [alone]),
        lambda: Scene(alone := make_ca(permitted=["DNS:example.com."]), [alone]),
        Refusal.UNSUPPORTED,
    ),
    Pair(
        "an intermediate's names, too, are within what the root permits",
        lambda: between(make_ca(permitted=["DNS:example.com"]), names=["DNS:ca.example.com"]),
        lambda: between(make_ca(permitted=["DNS:example.com"]), names=["DNS:ca.example.org"]),
        Refusal.NAME_CONSTRAINT,
    ),
]


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.rule for pair in PAIRS])
def test_rule(pair: Pair) -> None:
    """Each rule refuses the near miss, for its own reason, and accepts the nearest valid chain."""
    good, bad = pair.good(), pair.bad()
    assert valid(good)
    assert not search(good).rejections
    assert not valid(bad)
    assert refusals(bad) == {pair.refusal}


FORGIVEN = {
    "a client without a subjectAltName": lambda: under(make_ca(), names=None),
    "a server without a subjectAltName": lambda: Scene(
        make_server(root := make_ca(), names=None), [root], usages=(SERVER,)
    ),
    "a leaf without an authorityKeyIdentifier": lambda: under(make_ca(), authority_key_id=None),
    "an authorityKeyIdentifier that fits nothing": lambda: under(make_ca(), authority_key_id=b"unrelated"),
    "a root as plain `openssl req -x509` makes it": lambda: under(make_ca(usages=None, names=None)),
    "a root with basicConstraints and nothing else": lambda: under(make_ca(**EMPTY_CA)),
    "a root that is signed with SHA-1": lambda: under(make_ca(hash="sha1")),
    "a keyUsage without any usage": lambda: under(make_ca(usages=[])),
    "a leaf of version 1": lambda: under(make_ca(), version=1),
    "a leaf without keyUsage": lambda: under(make_ca(), usages=None),
    "a leaf that is a CA": lambda: under(make_ca(), is_ca=True),
    "a leaf without basicConstraints": lambda: under(make_ca(), is_ca=None),
    "a leaf that outlives its root": lambda: under(make_ca(not_after=NOW + DAY)),
    "a serving certificate that signed itself": lambda: Scene(
        leaf := make_ca("node@1", extended_usages=[SERVER]), [leaf], usages=(SERVER,)
    ),
    "a broken signature of an anchor by itself": lambda: under(make_ca(signing_key=new_key())),
    "an intermediate for an anchor": lambda: Scene(make_leaf(issuer := make_intermediate(make_ca())), [issuer]),
    "an anchor that was sent along as well": lambda: Scene(make_leaf(root := make_ca()), [root], [root]),
    "no usage asked for": lambda: under(make_ca(), extended_usages=["1.2.3.4"])._replace(usages=()),
}


@pytest.mark.parametrize("scene", FORGIVEN.values(), ids=FORGIVEN)
def test_a_path_that_go_accepts_is_accepted(scene: Callable[[], Scene]) -> None:
    """certmond accepts what Go's crypto/x509 accepts, however untidy: Kubernetes works with it."""
    assert valid(scene())


@pytest.mark.parametrize("key", ["rsa", "rsa-1024", "ec", "ec-p224", "ec-p384", "ec-p521", "ed25519"])
def test_every_key_that_kubernetes_can_use_makes_a_path(key: str) -> None:
    """Root and leaf may have any kind of key that Go's TLS knows; its size is no matter of the path."""
    assert valid(under(make_ca(key=key), key=key))


# --- which certificate a rejection is about ---------------------------------------------------------------------------


def test_a_rejection_names_the_child_for_its_signature_and_the_issuer_for_its_rights() -> None:
    """A rejection is beside the certificate that has to change."""
    root, unrelated = make_ca(), make_ca()
    leaf = make_leaf(root)
    assert search(Scene(leaf, [unrelated])).rejections == (Rejection(Refusal.BAD_SIGNATURE, leaf.facts),)
    powerless = make_ca(usages=["crl sign"])
    assert search(under(powerless)).rejections == (Rejection(Refusal.CANNOT_SIGN, powerless.facts),)


def test_the_uppermost_certificate_that_lacks_the_usage_is_named() -> None:
    """If root and leaf both lack the usage, the root is named: a new leaf would not help."""
    root = make_ca(extended_usages=[SERVER])
    assert search(under(root, extended_usages=[SERVER])).rejections == (Rejection(Refusal.USAGE, root.facts),)


def test_the_same_rejection_is_reported_once() -> None:
    """Two foreign CAs of the issuer's name give one rejection."""
    leaf = make_leaf(make_ca())
    assert search(Scene(leaf, [make_ca(), make_ca()])).rejections == (Rejection(Refusal.BAD_SIGNATURE, leaf.facts),)


def test_without_anchors_there_is_no_path() -> None:
    """Nothing is trusted by default, and no self-signed certificate is."""
    root = make_ca()
    assert search(Scene(root, [])).paths == ()
    assert refusals(Scene(root, [])) == {Refusal.NO_ISSUER}


# --- searching --------------------------------------------------------------------------------------------------------


def test_of_two_roots_of_one_name_the_one_that_signed_is_found_in_either_order() -> None:
    """During a rotation `CN=kubernetes` is there twice: the issuer is never matched by name alone."""
    old, new = make_ca(), make_ca()
    for anchors in ([old, new], [new, old]):
        for root in anchors:
            for leaf in (make_leaf(root), make_leaf(root, authority_key_id=None)):
                path = search(Scene(leaf, anchors)).valid_at(NOW)
                assert path is not None
                assert path.certificates == (leaf.facts, root.facts)


def test_a_cross_signed_root_bridges_a_rotation() -> None:
    """A verifier that trusts only the old root reaches a leaf of the new one through the certificate that the old one
    issued for it.
    """
    old, new = make_ca(), make_ca()
    bridge, leaf = cross_sign(new, by=old), make_leaf(new)
    assert not valid(Scene(leaf, [old]))
    path = search(Scene(leaf, [old], [bridge])).valid_at(NOW)
    assert path is not None
    assert path.certificates == (leaf.facts, bridge.facts, old.facts)
    assert path.anchor == old.facts


def test_every_path_is_found() -> None:
    """With both roots trusted and the bridge available, both paths are known: the end of one may leave the other."""
    old, new = make_ca(), make_ca()
    found = search(Scene(make_leaf(new), [old, new], [cross_sign(new, by=old)]))
    assert {path.anchor for path in found.paths} == {old.facts, new.facts}


def test_certificates_that_sign_each_other_do_not_go_round_for_ever() -> None:
    """A certificate of the same name, key and names is in a path once."""
    one, other = make_ca("one"), make_ca("other")
    circle = [cross_sign(one, by=other), cross_sign(other, by=one)]
    assert not search(Scene(make_leaf(one), [make_ca("elsewhere")], circle)).paths
    assert {len(path.certificates) for path in search(Scene(make_leaf(one), [one, other], circle)).paths} == {2, 3}


@pytest.mark.parametrize("names", [None, ["DNS:b", "DNS:a"], ["DNS:a"]])
def test_a_root_that_was_renewed_with_its_key_leads_to_the_old_one_unless_it_is_the_same_entity(
    names: list[str] | None,
) -> None:
    """Go treats two certificates as one entity by subject, key and exact alternative names. Those add nothing."""
    old = make_ca(names=["DNS:a", "DNS:b"])
    assert valid(Scene(reissue(old, names=names), [old]))
    assert not valid(Scene(reissue(old), [old]))


def test_an_issuer_with_the_key_identifier_is_tried_before_a_hundred_others() -> None:
    """A bundle with many CAs of one name does not hide the right one from a leaf that has its key identifier."""
    root, crowd = make_ca(), [make_ca() for _ in range(120)]
    assert valid(Scene(make_leaf(root), [*crowd, root]))
    assert valid(Scene(make_leaf(root), [root], crowd))
    assert valid(Scene(make_leaf(root, authority_key_id=None), [root, *crowd]))
    assert valid(Scene(make_leaf(root), [*(make_ca(subject_key_id=None) for _ in range(120)), root]))


def test_no_more_than_a_hundred_signatures_are_checked_for_one_leaf() -> None:
    """A hostile bundle costs no more than in Go, and the search reports that it stopped."""
    root, crowd = make_ca(), [make_ca() for _ in range(100)]
    lost = Scene(make_leaf(root, authority_key_id=None), [*crowd, root])
    assert not valid(lost)
    assert refusals(lost) == {Refusal.BAD_SIGNATURE, Refusal.TOO_MANY}


def test_an_endless_chain_of_intermediates_is_given_up_with_a_reason() -> None:
    """Every search without a path has at least one rejection to show for it."""
    assert valid(below(99))
    assert refusals(below(100)) == {Refusal.TOO_MANY}


def test_signed_by_checks_only_the_name_and_the_signature() -> None:
    """It detects a self-signed root whatever its rights and its digest. MD5 and SHA-1 are weak, but signatures."""
    for key, digest in (("ec", "sha256"), ("ec", "sha1"), ("rsa", "sha256-pss"), ("rsa", "sha1"), ("rsa", "md5")):
        root = make_ca(is_ca=False, key=key, hash=digest)
        leaf = make_leaf(root, hash=digest)
        assert signed_by(root.facts, root.facts)
        assert signed_by(leaf.facts, root.facts)
        for unrelated in (make_ca(), make_ca(key="rsa"), make_ca(key="ed25519"), make_ca("other", key=root.key)):
            assert not signed_by(leaf.facts, unrelated.facts)


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_path_holds_from_its_latest_beginning_to_its_earliest_end_both_included() -> None:
    """Validity ends with the second that notAfter names, not before it (RFC 5280, 4.1.2.5)."""
    root = make_ca(not_before=NOW - 3 * DAY, not_after=NOW + 9 * DAY)
    issuer = make_intermediate(root, not_before=NOW - DAY, not_after=NOW + 5 * DAY)
    scene = Scene(make_leaf(issuer, not_before=NOW - 2 * DAY, not_after=NOW + 7 * DAY), [root], [issuer])
    (path,) = search(scene).paths
    assert (path.since, path.until) == (NOW - DAY, NOW + 5 * DAY)
    assert [valid(scene, NOW - DAY + step) for step in (-SECOND, 0 * SECOND, SECOND)] == [False, True, True]
    assert [valid(scene, NOW + 5 * DAY + step) for step in (-SECOND, 0 * SECOND, SECOND)] == [True, True, False]


@pytest.mark.parametrize("role", ["root", "intermediate", "leaf"])
@pytest.mark.parametrize("dates", [{"not_after": NOW - SECOND}, {"not_before": NOW + SECOND}])
def test_every_certificate_of_a_path_must_be_in_its_time(role: str, dates: dict[str, datetime]) -> None:
    """An expired or future certificate spoils the path it is in, root included; the path itself is still known."""
    given_dates: dict[str, Any] = {"root": {}, "intermediate": {}, "leaf": {}, role: dates}
    root = make_ca(**given_dates["root"])
    issuer = make_intermediate(root, **given_dates["intermediate"])
    scene = Scene(make_leaf(issuer, **given_dates["leaf"]), [root], [issuer])
    assert not valid(scene)
    assert search(scene).paths
    assert not search(scene).rejections


def test_the_path_that_is_valid_longest_is_chosen_and_the_best_ends_last() -> None:
    """`valid_at` prefers, of the paths that are valid now, the one that is valid longest. `best` ignores the present
    time.
    """
    ending, lasting = make_ca(not_after=NOW + DAY), make_ca(not_before=NOW + SECOND)
    new = make_ca()
    bridges = [cross_sign(new, by=ending), cross_sign(new, by=lasting)]
    found = search(Scene(make_leaf(new), [ending, lasting], bridges))
    present, best = found.valid_at(NOW), found.best
    assert present is not None
    assert best is not None
    assert (present.anchor, best.anchor) == (ending.facts, lasting.facts)
    assert found.valid_at(NOW + 2 * YEAR) is None
    assert PathSearch((), ()).best is None


# --- properties -------------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    """Certificates of one name in all the relations that a rotation makes."""

    leaves: list[Issued]
    cas: list[Issued]


@pytest.fixture(scope="module")
def family() -> Family:
    old, new = make_ca(not_after=NOW + 3 * DAY), make_ca(not_before=NOW - 2 * DAY)
    renewed, unrelated = reissue(old, not_before=NOW - DAY), make_ca("unrelated")
    bridge, back = cross_sign(new, by=old, not_after=NOW + 2 * DAY), cross_sign(old, by=new, not_before=NOW + DAY)
    issuer = make_intermediate(new, path_length=0, not_after=NOW + 4 * DAY)
    leaves = [make_leaf(old), make_leaf(new, authority_key_id=None), make_leaf(issuer), make_leaf(make_ca()), bridge]
    return Family(leaves, [old, new, renewed, unrelated, bridge, back, issuer])


@st.composite
def bundles(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    some = st.lists(st.integers(0, 6), unique=True)
    return draw(st.integers(0, 4)), draw(some), draw(some)


@pytest.mark.long
@settings(deadline=None, max_examples=200)
@given(choice=bundles(), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_a_bundle_never_changes_what_is_found(
    family: Family, choice: tuple[int, list[int], list[int]], shuffle: Random
) -> None:
    """Anchors and intermediates are sets: any order gives the same paths, the same rejections and the same verdict."""
    leaf, anchors, intermediates = choice
    first = Scene(family.leaves[leaf], [family.cas[i] for i in anchors], [family.cas[i] for i in intermediates])
    shuffle.shuffle(anchors)
    shuffle.shuffle(intermediates)
    second = Scene(family.leaves[leaf], [family.cas[i] for i in anchors], [family.cas[i] for i in intermediates])
    one, other = search(first), search(second)
    assert set(one.paths) == set(other.paths)
    assert set(one.rejections) == set(other.rejections)
    assert valid(first) == valid(second)
    assert one.paths or one.rejections


@pytest.mark.long
@settings(deadline=None, max_examples=200)
@given(choice=bundles(), seconds=st.integers(-4 * 86400, 6 * 86400))
def test_a_paths_window_is_exactly_where_valid_at_answers(
    family: Family, choice: tuple[int, list[int], list[int]], seconds: int
) -> None:
    """`valid_at` gives a path exactly while one holds; and each path is signed, link by link, up to an anchor."""
    leaf, anchors, intermediates = choice
    found = search(Scene(family.leaves[leaf], [family.cas[i] for i in anchors], [family.cas[i] for i in intermediates]))
    moments = {NOW + timedelta(seconds=seconds)}
    for path in found.paths:
        moments |= {edge + step for edge in (path.since, path.until) for step in (-SECOND, 0 * SECOND, SECOND)}
    for moment in moments:
        holding = [path for path in found.paths if path.since <= moment <= path.until]
        given_path = found.valid_at(moment)
        assert (given_path is not None) == bool(holding)
        assert given_path is None or given_path.until == max(path.until for path in holding)
    for path in found.paths:
        assert path.anchor in [family.cas[i].facts for i in anchors]
        assert all(signed_by(child, issuer) for child, issuer in pairwise(path.certificates))
        assert isinstance(path, Path)


@pytest.mark.parametrize(
    ("anchor", "leaf", "why"),
    [
        (make_ca(), make_leaf(make_ca()), None),
        (make_ca(version=1), make_leaf(make_ca()), None),
        (make_leaf(make_ca()), make_leaf(make_ca()), Refusal.NOT_CA),
        (make_ca(extended_usages=["server auth"]), make_leaf(make_ca()), Refusal.USAGE),
    ],
)
def test_the_certifiable_names_of_a_future_anchor_are_known(anchor: Issued, leaf: Issued, why: Refusal | None) -> None:
    """The check treats it as an anchor: a version without extensions has no requirements."""
    assert objection(anchor.facts, leaf.facts, [CLIENT]) is why


@pytest.mark.parametrize(
    ("digest", "mask", "salt", "held"),
    [("256", "256", 32, True), ("256", "256", 20, False), ("256", "1", 32, False), ("384", "384", 48, True)],
)
def test_a_signature_by_pss_holds_with_one_digest_and_a_salt_of_its_length(
    digest: str, mask: str, salt: int, held: bool
) -> None:
    """Go refuses whatever else OpenSSL signs with `-sigopt rsa_pss_saltlen`."""
    ca = make_ca(key="rsa")
    leaf = parse_certificate(pss_signed(make_leaf(ca), ca, digest, mask, salt))
    found = find_paths(leaf, [ca.facts])
    assert bool(found.paths) is held
    assert held or [why.refusal for why in found.rejections] == [Refusal.UNSUPPORTED]


def test_a_key_that_is_for_pss_alone_verifies_nothing() -> None:
    """Go has no algorithm for such a key, and so no CA with one."""
    ca = make_ca(key="rsa")
    (form, *_) = [each for each in key_forms(ca) if oid("1.2.840.113549.1.1.10") in each]
    reported = parse_certificate(with_key(ca, ca, form))
    assert (reported.objections, reported.key.algorithm) == ((), "RSASSA-PSS")
    assert not find_paths(make_leaf(ca).facts, [reported]).paths


@pytest.mark.parametrize(("power", "held"), [(3, True), (5, False)])
def test_a_key_that_exceeds_a_limit_only_in_its_usual_encoding_verifies_nothing(power: int, held: bool) -> None:
    """certmond checks the limits of a key before cryptography loads the key for a signature. In this certificate, the
    key lacks the NULL parameters, so a public exponent of 81 bits is in too few bytes for the check of the certificate.
    """
    ca, key = make_ca(key="rsa"), new_key("rsa")
    assert isinstance(key, rsa.RSAPrivateKey)
    old, exponent = key.private_numbers(), 65537**power
    public = rsa.RSAPublicNumbers(exponent, old.public_numbers.n)
    d = pow(exponent, -1, (old.p - 1) * (old.q - 1))
    made = rsa.RSAPrivateNumbers(old.p, old.q, d, d % (old.p - 1), d % (old.q - 1), old.iqmp, public).private_key()
    info = rsa_info(public.n, exponent, tlv(0x30, oid("1.2.840.113549.1.1.1")))
    leaf = make_leaf(ca, signing_key=made)
    assert signed_by(leaf.facts, parse_certificate(with_key(ca, ca, info))) is held


def test_a_ca_whose_constraints_are_not_found_certifies_nothing() -> None:
    """A CA is refused, and the search does not raise, where its facts have constraints that its DER lacks."""
    ca = make_ca()
    claimed = replace(ca.facts, constrains_names=True)
    search = find_paths(make_server(ca).facts, [claimed])
    assert search.paths == ()
    assert [each.refusal for each in search.rejections] == [Refusal.UNSUPPORTED]
