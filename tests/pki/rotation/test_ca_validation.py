"""The validation of a new Root CA: each defect has one sentence, and OpenSSL accepts each valid one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.certificate_rules import ROOT_CA_ONLY
from certmond.pki.rotation.ca_family import Leaf
from certmond.pki.rotation.ca_validation import Verdict, judge
from tests.builders import (
    DAY,
    HOUR,
    NOW,
    SECOND,
    UNKNOWN_OID,
    YEAR,
    Issued,
    bundle,
    make_ca,
    make_intermediate,
    make_leaf,
    make_server,
    reissue,
)
from tests.conftest import real_part

OLD = make_ca()
OTHER = make_ca("other")
OLD_ID = OLD.subject_key_id
LEAVES_END = NOW + YEAR
SERVER = make_server(OLD)
LEAVES = (
    Leaf("apiserver", "/pki/apiserver.crt", SERVER.facts, usages=frozenset({"server auth"})),
    Leaf("admin.conf", "/admin.conf", make_leaf(OLD).facts, usages=frozenset({"client auth"})),
)


def judged(
    ca: Issued, present: Sequence[Issued] = (OLD,), key: Issued | None = None, leaves: Sequence[Leaf] = LEAVES,
    *, in_place: bool = False,
) -> Verdict:  # fmt: skip
    """Return the verdict on a candidate in `new.crt`, with its own key in `new.key` or another's."""
    verdict = judge(
        ca.facts, (key or ca).facts.key, [each.facts for each in present], LEAVES_END, NOW,
        where="new.crt", key_where="new.key", leaves=leaves, in_place=in_place,
    )  # fmt: skip
    for said in (*verdict.problems, *verdict.warnings):
        fact, _, remedy = said.partition("; ")
        assert fact.startswith(("new.crt", "new.key")), said
        assert remedy, said
        assert "\n" not in said
    return verdict


@pytest.mark.long
@pytest.mark.parametrize("kind", ["rsa", "rsa-4096", "ec", "ec-p384", "ed25519"])
def test_a_good_one(kind: str) -> None:
    """A CA as kubeadm makes it, of the name of the present one or another and with a key of any good kind, is fit."""
    assert judged(make_ca(key=kind)) == Verdict("overlap")
    assert judged(make_ca("Example Root", key=kind)) == Verdict("overlap")


def test_the_same_key_once_more() -> None:
    """With key, name and identifier of the CA that signs now it is a reissue, whatever else is trusted."""
    assert judged(reissue(OLD)) == Verdict("reissue")
    assert judged(reissue(OLD), [OLD, OTHER]).mode == "reissue"


def test_the_key_of_another_trusted_ca() -> None:
    """A trusted CA that does not sign is not the one that is reissued: its leaves are not those of the signing one."""
    assert judged(reissue(OTHER), [OLD, OTHER]) == Verdict("overlap")


UNPARSED = "new.crt: Go refuses this certificate, and so does every component of Kubernetes"
REFUSED = {
    "an intermediate": (make_intermediate(OLD, "sub"),
        f"new.crt: CN=sub is not self-signed (issuer CN=kubernetes); {ROOT_CA_ONLY}"),
    "signed by another key of its name": (make_ca(signing_key=OTHER.key), "new.crt: CN=kubernetes is not self-signed"),
    "a leaf": (make_ca(is_ca=False), "new.crt: CN=kubernetes lacks basicConstraints CA:TRUE"),
    "no basicConstraints": (make_ca(is_ca=None), "new.crt: CN=kubernetes lacks basicConstraints CA:TRUE"),
    "may not sign": (make_ca(usages=["digital signature"]), "new.crt: CN=kubernetes has a keyUsage without"),
    "version 1": (make_ca(version=1), "new.crt has version 1, which has no basicConstraints CA:TRUE"),
    "expired": (make_ca(not_after=NOW - SECOND), "new.crt expired on 2026-11-24 11:59 UTC"),
    "not valid yet": (make_ca(not_before=NOW + SECOND), "new.crt is not valid before 2026-11-24 12:00 UTC"),
    "just made": (make_ca(not_before=NOW - 299 * SECOND),
        ("new.crt has been valid for less than 5 minutes, so a host with a slow clock might reject this CA; "
         "wait until 2026-11-24 12:00:01 UTC")),
    "in its last days": (make_ca(not_after=NOW + DAY), "new.crt expires on 2026-11-25 12:00 UTC"),
    "a short RSA key": (make_ca(key="rsa-1024"), "new.crt has the key RSA-1024"),
    "a small curve": (make_ca(key="ec-p224"), "new.crt has the key ECDSA-224"),
    "an unknown curve": (make_ca(key="ec-secp256k1"), f"{UNPARSED} (x509: unsupported elliptic curve)"),
    "an Ed448 key": (make_ca(key="ed448"), "new.crt has the key Ed448"),
    "MD5": (make_ca(key="rsa", hash="md5"), "new.crt is signed with md5; reissue it with SHA-256"),
    "SHA-1": (make_ca(hash="sha1"), "new.crt is signed with sha1; reissue it with SHA-256"),
    "an identifier of another issuer": (make_ca(authority_key_id=b"another"),
        "new.crt has the authority key identifier of another key"),
    "no identifier": (make_ca(subject_key_id=None), "new.crt has no subject key identifier"),
    "the identifier of the present one": (make_ca(subject_key_id=OLD_ID, authority_key_id=OLD_ID),
        "new.crt has the subject key identifier of the present CA CN=kubernetes (serial"),
    "the present key under another identifier": (reissue(OLD, subject_key_id=b"another", authority_key_id=b"another"),
        "new.crt has the key of the present CA CN=kubernetes (serial"),
    "the present key under another name": (reissue(OLD, subject="another"),
        "new.crt has the key of the present CA CN=kubernetes (serial"),
    "the present one": (OLD, "new.crt is the present CA (serial"),
    "an unknown critical extension": (make_ca(extra=[(UNKNOWN_OID, True, b"\x05\x00")]),
        "new.crt: CN=kubernetes: has a critical extension that Go does not handle"),
    "a negative serial number": (make_ca(serial=-1),
        f"{UNPARSED} (x509: negative serial number)"),
    "names that are not the node's": (make_ca(permitted=["DNS:example.com"]),
        "new.crt: CN=kubernetes cannot sign /pki/apiserver.crt (has a name that the issuer may not certify)"),
    "no clients": (make_ca(extended_usages=["server auth"]),
        "new.crt: CN=kubernetes cannot sign /admin.conf (the issuer may not certify this usage)"),
}  # fmt: skip


@pytest.mark.parametrize(("ca", "reported"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(ca: Issued, reported: str) -> None:
    """Each kind of bad candidate is refused, with one sentence, which is its own."""
    (problem,) = judged(ca).problems
    assert problem.startswith(reported)


@pytest.mark.parametrize(("ca", "reported"), REFUSED.values(), ids=REFUSED)
def test_a_defect_is_refused_beside_other_cas(ca: Issued, reported: str) -> None:
    """It is also refused without a required key, and with another CA beside the present one."""
    found = judge(
        ca.facts, None, [OTHER.facts, OLD.facts], None, NOW, where="new.crt", key_where=None, leaves=LEAVES
    ).problems
    assert [problem for problem in found if problem.startswith(reported)] == list(found)
    assert found


FOLLOWED = {
    "in its last days", "MD5", "SHA-1", "an identifier of another issuer", "no identifier",
    "the identifier of the present one",
}  # fmt: skip
"""The defects that forbid staging, but with which the components of Kubernetes work."""


@pytest.mark.parametrize("what", REFUSED)
def test_an_installed_ca_is_followed_if_kubernetes_can_use_it(what: str) -> None:
    """A CA that is installed already, and whose clients are refused until it is followed, has only a warning about
    other programs, and none about its age. A defect for Kubernetes still forbids it.
    """
    ca, reported = REFUSED[what]
    verdict = judged(ca, in_place=True)
    if what == "just made":
        assert verdict.problems == ()
        assert not any(reported[:30] in each for each in verdict.warnings)
    elif what in FOLLOWED:
        assert verdict.problems == ()
        assert any(each.startswith(reported) for each in verdict.warnings)
    else:
        assert verdict.problems == judged(ca).problems
        assert not any(each.startswith(reported) for each in verdict.warnings)


def test_the_instant_at_which_a_candidate_becomes_fit() -> None:
    """A verdict that time alone changes has that instant: a staged CA must be valid for five minutes, an installed one
    at its first instant.
    """
    for seconds in (-1, 20):
        ca = make_ca(not_before=NOW + seconds * SECOND)
        assert judged(ca).until == NOW + (300 + seconds) * SECOND
        assert judged(ca, in_place=True).until == (ca.facts.not_before if seconds > 0 else None)
    assert judged(make_ca()).until is None


def test_the_key() -> None:
    """If a key is required, it must exist and belong to the certificate."""
    ca = make_ca()
    assert judged(ca, key=OTHER).problems == (
        "new.key is not the private key of new.crt; restore a matching pair, or reissue the pair",
    )
    (missing,) = judge(ca.facts, None, [OLD.facts], None, NOW, where="new.crt", key_where="new.key").problems
    assert missing.startswith("new.crt has no private key: new.key contains no key; ")
    assert judge(ca.facts, None, [OLD.facts], None, NOW, where="new.crt", key_where=None) == Verdict("overlap")


@pytest.mark.parametrize("candidate", ["another key", "the same key"])
def test_without_an_identifier(candidate: str) -> None:
    """A candidate without a key identifier has only that problem, also if the present CA has none."""
    present = make_ca(subject_key_id=None, authority_key_id=None)
    key = present.key if candidate == "the same key" else make_ca().key
    for other in (present, reissue(present, subject_key_id=b"one", authority_key_id=b"one")):
        verdict = judged(make_ca(key=key, subject_key_id=None, authority_key_id=None), [other])
        (problem,) = verdict.problems
        assert problem.startswith("new.crt has no subject key identifier")
        assert verdict.mode == "overlap"


def test_a_negative_serial_number_is_reported_once() -> None:
    """A serial number that Go refuses is not a warning as well."""
    assert judged(make_ca(serial=-1)).warnings == ()


def test_all_at_once() -> None:
    """All problems of a candidate are reported at once."""
    ca = make_ca(key="rsa-1024", hash="sha1", not_after=NOW - DAY, usages=["digital signature"])
    assert len(judged(ca, key=OTHER).problems) == 5


def test_a_leaf_is_reported_as_no_ca() -> None:
    """An ordinary leaf is reported as no CA, without the requirements of a CA."""
    found = judged(make_leaf(OLD)).problems
    assert len(found) == 3
    assert not any("identifier" in problem for problem in found)


def test_the_first_instant() -> None:
    """Five minutes after its start it is valid, and not a second before. A start in the future is reported once."""
    for ago, fit in ((300, True), (299, False), (0, False), (-1, False)):
        assert len(judged(make_ca(not_before=NOW - ago * SECOND)).problems) == (not fit)


WARNED = {
    "ends before its leaves": (make_ca(not_before=NOW - 10 * YEAR, not_after=LEAVES_END - SECOND),
        ("new.crt ends on 2027-11-24 11:59 UTC and shortens new certificates, which would otherwise end on "
         "2027-11-24 12:00 UTC")),
    "a shorter life": (make_ca(not_after=NOW + 9 * YEAR),
        "new.crt is valid for 3315 days, but the present CA is valid for 3680 days"),
    "serial number 0": (make_ca(serial=0), "new.crt has the serial number 0, which RFC 5280 forbids"),
}  # fmt: skip


@pytest.mark.parametrize(("ca", "reported"), WARNED.values(), ids=WARNED)
def test_warnings(ca: Issued, reported: str) -> None:
    """An accepted defect is a warning, each with one sentence."""
    verdict = judged(ca)
    assert not verdict.problems
    (warning,) = verdict.warnings
    assert warning.startswith(reported)


@pytest.mark.parametrize(
    "ca",
    [
        make_ca(not_after=NOW + 10 * YEAR - 23 * HOUR),
        make_ca(not_before=NOW - 10 * YEAR, not_after=LEAVES_END),
        make_ca(usages=None),
        make_ca(path_length=0),
        make_ca(permitted=["DNS:kube-apiserver", "IP:10.96.0.0/12"]),
        make_ca(excluded=["DNS:example.com"]),
        make_ca(extended_usages=["server auth", "client auth"]),
        make_ca(extra=[(UNKNOWN_OID, False, b"\x05\x00")]),
        make_ca(names=None),
        make_ca(authority_key_id=None),
    ],
    ids=["an hour shorter", "as long as its leaves", "no keyUsage", "pathlen 0", "permits", "excludes", "usages",
         "not critical", "no names", "no AKI"],
)  # fmt: skip
def test_harmless_differences(ca: Issued) -> None:
    """A constraint that all leaves meet, a lifetime that ends with them, and what RFC 5280 leaves open are accepted."""
    assert judged(ca) == Verdict("overlap")


def test_no_ca_is_installed() -> None:
    """Without a present CA, nothing is compared."""
    assert judged(make_ca(not_after=NOW + 2 * YEAR), []) == Verdict("overlap")


def test_control_characters_do_not_get_through() -> None:
    """A sentence shows a subject, whatever is in it, on one line."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil\x1b[2J\n")])
    for ca in (make_ca(subject=name, is_ca=False), reissue(OLD, subject=name)):
        (problem,) = judged(ca).problems
        assert "\x1b" not in problem


@given(st.integers(-600, 600), st.integers(1, 4000), st.tuples(st.booleans(), st.booleans(), st.booleans()),
       st.sampled_from([0, 1, 77]))  # fmt: skip
def test_any_mixture(age: int, days: int, same: tuple[bool, bool, bool], serial: int) -> None:
    """Refused exactly if it is too young or mistakable for the present one; a reissue exactly if all three agree."""
    same_key, same_id, same_name = same
    key, name = OLD.key if same_key else OTHER.key, "kubernetes" if same_name else "new"
    key_id = OLD_ID if same_id else b"new"
    ca = make_ca(
        subject=name, key=key, serial=serial, subject_key_id=key_id, authority_key_id=key_id,
        not_before=NOW - age * SECOND, not_after=NOW + timedelta(days=days + 800),
    )  # fmt: skip
    verdict = judged(ca)
    mistakable = (same_id != same_key) or (same_key and not same_name)
    assert bool(verdict.problems) == (age < 300 or mistakable)
    assert (verdict.mode == "reissue") == (same_key and same_id and same_name)
    assert any("serial number 0" in warning for warning in verdict.warnings) == (serial == 0)


@pytest.mark.real("openssl")
@pytest.mark.parametrize(
    ("new", "accepted"),
    [
        (make_ca(), True),
        (make_ca("new"), True),
        (make_ca(key="rsa"), True),
        (make_ca(authority_key_id=None), True),
        (make_ca(authority_key_id=b"another"), False),
        (reissue(OLD), True),
        (make_ca(subject_key_id=OLD_ID, authority_key_id=OLD_ID), False),
        (reissue(OLD, subject_key_id=b"another", authority_key_id=b"another"), False),
        (reissue(OLD, subject="another"), False),
    ],
    ids=[
        "same name",
        "new name",
        "RSA",
        "no AKI",
        "other AKI",
        "reissue",
        "same identifier",
        "other identifier",
        "other name",
    ],
)
def test_openssl_agrees(tmp_path: Path, new: Issued, accepted: bool) -> None:
    """An accepted CA verifies the earlier and later leaves, by OpenSSL, with the trust of each time: beside the present
    one for an overlap, alone for a reissue. Of the CAs with refused identifiers, one does not.
    """
    verdict = judged(new)
    assert bool(verdict.problems) is not accepted
    before, after = make_server(OLD, subject_key_id=b"1"), make_server(new, subject_key_id=b"2")
    alone = new.key is OLD.key
    for trusted in [(new,)] if alone else [(OLD, new), (new, OLD)]:
        (tmp_path / "ca.pem").write_bytes(bundle(*trusted))
        ok = []
        for name, leaf in (("before", before), ("after", after)):
            (tmp_path / name).write_bytes(leaf.pem)
            command = [real_part("openssl"), "verify", "-attime", str(int(NOW.timestamp())), "-CAfile", "ca.pem", name]
            ok.append(subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0)
        if accepted:
            assert all(ok)
        elif not all(ok):
            return
    assert accepted
