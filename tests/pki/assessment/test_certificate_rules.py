"""The policy, rule by rule: the condition of each finding, its severity, and its message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from certmond.files.catalog_file_reader import bundle_observations
from certmond.pki.assessment import certificate_rules
from certmond.pki.assessment.assess import CertificateStatus, assess
from certmond.pki.assessment.certificate_rules import POLICY
from certmond.pki.assessment.validity_rules import critical_point, renewal_point
from certmond.pki.catalog.component_certificate_flags import ReferenceSpec
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Embedded, Inventory, Observation, Permissions
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Finding, Reason, Severity
from certmond.pki.x509.certificate import Certificate, parse_certificate
from certmond.pki.x509.path_building import signed_by
from fuzz.mutated_chains import rsa_info, with_key
from tests.builders import (
    DAY,
    NOW,
    UNKNOWN_OID,
    YEAR,
    Issued,
    cross_sign,
    make_ca,
    make_intermediate,
    make_leaf,
    make_server,
    reissue,
)

TICK = timedelta(microseconds=1)
ROOT = make_ca()
AUTHORITY = CertificateSpec(name="ca", path="/pki/ca.crt", authority=True, usages=("cert sign",))
CRITICAL_UNKNOWN = (UNKNOWN_OID, True, b"\x05\x00")


def row(name: str = "leaf", **fields: Any) -> CertificateSpec:
    return validated(CertificateSpec, {"name": name, "path": f"/pki/{name}.crt", "ca": "ca"} | fields)


def see(spec: CertificateSpec, *issued: Issued, **fields: Any) -> Observation:
    signs = {"key": issued[0].facts.key} if issued and spec.authority else {}
    return Observation(spec.name, spec, spec.path, tuple(each.facts for each in issued), **signs | fields)


def judge(
    *seen: Observation, now: datetime = NOW, facts: Mapping[str, str] | None = None
) -> dict[str, CertificateStatus]:
    """The verdicts by name. Whatever is found, its sentence names a file that it is about, and has a remedy."""
    statuses = assess(Inventory(seen, facts or {}), now).statuses
    for status in statuses:
        it = status.seen
        paths = {it.path, it.key_path, *(each.path for each in it.embedded), *(each.path for each in it.permissions)}
        for item in status.findings:
            fact, _, remedy = item.message.rpartition("; ")
            assert remedy, item.message
            assert any(path and path in fact for path in paths), item.message
            assert "\n" not in item.message
    return {status.seen.name: status for status in statuses}


def findings(*seen: Observation, about: str = "leaf", **conditions: Any) -> dict[str, Finding]:
    """Return the findings of one of them, by reason."""
    return {item.reason.value: item for item in judge(*seen, **conditions)[about].findings}


def of_leaf(leaf: Issued, *chain: Issued, by: Issued = ROOT, now: datetime = NOW, **fields: Any) -> dict[str, Finding]:
    return findings(see(AUTHORITY, by), see(row(**fields), leaf, *chain), now=now)


def of_ca(ca: Issued, now: datetime = NOW) -> dict[str, Finding]:
    return findings(see(AUTHORITY, ca), about="ca", now=now)


def test_a_good_certificate_of_a_good_ca_has_no_finding() -> None:
    """Silence is the normal case."""
    assert not of_leaf(make_leaf(ROOT))
    assert not of_ca(ROOT)


# --- when it is due ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "fields", "before_end"),
    [
        (365 * DAY, {}, 30 * DAY),
        (30 * DAY, {}, 10 * DAY),
        (365 * DAY, {"renew_before": "60d"}, 60 * DAY),
        (365 * DAY, {"renew_before": "300d"}, 365 * DAY / 3),
        (365 * DAY, {"renew_before": "1h"}, timedelta(hours=1)),
        (365 * DAY, {"kind": "kubelet"}, 30 * DAY),
        (30 * DAY, {"kind": "kubelet"}, 3 * DAY),
        (30 * DAY, {"kind": "kubelet", "renew_before": "1d"}, DAY),
        (30 * DAY, {"path": "/srv/kubelet-server-current.pem"}, 3 * DAY),
        (30 * DAY, {"path": "/srv/kubelet-client-2026-11-29-06-00-00.pem"}, 3 * DAY),
        (30 * DAY, {"path": "/srv/kubelet-client.crt"}, 10 * DAY),
        (timedelta(seconds=1), {}, timedelta(microseconds=333333)),
    ],
)
def test_it_is_due_so_long_before_its_end(life: timedelta, fields: Any, before_end: timedelta) -> None:
    """`renew_before`, the row's or else the general one; a third of its life where that is shorter. The kubelet renews
    its own at 70 to 90 % of the life, so that for those it is the last tenth."""
    leaf = make_leaf(ROOT, not_before=NOW, not_after=NOW + life).facts
    assert leaf.not_after - renewal_point(leaf, row(**fields), 30 * DAY) == before_end


@pytest.mark.parametrize(("life", "before_end"), [(365 * DAY, 7 * DAY), (70 * DAY, 7 * DAY), (10 * DAY, DAY)])
def test_it_is_critical_so_long_before_its_end(life: timedelta, before_end: timedelta) -> None:
    """The last seven days, or tenth of its life where that is shorter."""
    leaf = make_leaf(ROOT, not_before=NOW, not_after=NOW + life).facts
    assert leaf.not_after - critical_point(leaf) == before_end


@pytest.mark.parametrize("kind", ["file", "kubelet"])
def test_every_instant_at_which_the_verdict_turns_is_exact(kind: str) -> None:
    """Valid from notBefore to notAfter, both included; due and critical from their instants on: to the microsecond."""
    leaf = make_leaf(ROOT, not_before=NOW - 10 * DAY, not_after=NOW + 90 * DAY)
    due = NOW + 60 * DAY if kind == "file" else NOW + 80 * DAY
    expected = {
        NOW - 10 * DAY - TICK: {"not_yet_valid": Severity.CRITICAL},
        NOW - 10 * DAY: {},
        due - TICK: {},
        due: {"nearing_expiry": Severity.WARNING},
        NOW + 83 * DAY - TICK: {"nearing_expiry": Severity.WARNING},
        NOW + 83 * DAY: {"nearing_expiry": Severity.CRITICAL},
        NOW + 90 * DAY: {"nearing_expiry": Severity.CRITICAL},
        NOW + 90 * DAY + TICK: {"expired": Severity.CRITICAL},
    }
    for now, reasons in expected.items():
        found = of_leaf(leaf, kind=kind, now=now)
        assert {reason: item.severity for reason, item in found.items()} == reasons, now
    assert ("the kubelet did not rotate" in of_leaf(leaf, kind=kind, now=due)["nearing_expiry"].message) == (
        kind == "kubelet"
    )


def test_a_certificate_that_ends_before_it_begins_is_expired() -> None:
    """A signer can issue it by mistake. The arithmetic of its lifetime raises no error."""
    leaf = make_leaf(ROOT, not_before=NOW + DAY, not_after=NOW - DAY)
    assert of_leaf(leaf).keys() == {"expired", "not_yet_valid"}


def test_a_certificate_without_end_has_no_finding() -> None:
    """RFC 5280, 4.1.2.5: 99991231235959Z represents no well-defined end."""
    forever = datetime.fromisoformat("9999-12-31T23:59:59+00:00")
    ca = make_ca(not_after=forever)
    assert not of_leaf(make_leaf(ca, not_after=forever), by=ca)


# --- dates of the path ------------------------------------------------------------------------------------------------


def test_an_expired_intermediate_is_reported_at_its_file() -> None:
    """It has no separate entry, so the certificate's entry names it."""
    short = make_intermediate(ROOT, not_after=NOW - DAY)
    leaf = make_leaf(short)
    found = of_leaf(leaf, short)
    assert found["expired"].message == (
        "/pki/leaf.crt: the intermediate CN=intermediate expired on 2026-11-23 12:00 UTC; renew the certificate: "
        "certmond renew leaf"
    )
    early = make_intermediate(ROOT, not_before=NOW + DAY)
    assert "intermediate" in of_leaf(make_leaf(early), early)["not_yet_valid"].message


def test_an_expired_anchor_is_reported_once_at_its_entry() -> None:
    """A hundred leaves do not repeat it: they only have no valid chain."""
    old = make_ca(not_after=NOW - DAY)
    verdicts = judge(see(AUTHORITY, old), see(row(), make_leaf(old, not_after=NOW - DAY / 2)))
    assert [item.reason for item in verdicts["ca"].findings] == [Reason.EXPIRED]
    assert [item.reason for item in verdicts["leaf"].findings] == [Reason.EXPIRED]
    verdicts = judge(see(AUTHORITY, old), see(row(), make_leaf(old)))
    assert not verdicts["leaf"].findings
    assert not verdicts["leaf"].chain_valid


@pytest.mark.parametrize(("left", "made"), [(-DAY, "--reuse-key"), (DAY, "--generate")])
def test_a_ca_that_ends_is_to_be_rotated(left: timedelta, made: str) -> None:
    """The remedy of a CA that has ended, or is about to, is a new CA and a rotation: `certmond renew` refuses a CA."""
    (reported,) = judge(see(AUTHORITY, make_ca(not_after=NOW + left)))["ca"].findings
    assert reported.message.endswith(f"; rotate it: certmond root-ca stage {made}, then: certmond root-ca rotate")


@pytest.mark.parametrize("left", [-DAY, DAY])
def test_a_node_without_the_key_stages_only_the_certificate_of_a_ca(left: timedelta) -> None:
    """A worker has no key of the CA, so `root-ca stage` creates no CA there."""
    (reported,) = judge(see(AUTHORITY, make_ca(not_after=NOW + left), key=None))["ca"].findings
    assert reported.message.endswith("certmond root-ca stage CERT, then: certmond root-ca rotate")


def test_an_expired_further_ca_of_a_bundle_is_a_leftover() -> None:
    """The first CA is the present one. The others are no longer needed after a rotation."""
    old = make_ca(not_after=NOW - DAY)
    seen = see(AUTHORITY, ROOT), replace(see(AUTHORITY, old), name="ca#2")
    found = findings(*seen, about="ca#2")["expired"]
    assert (found.severity, "remove it from the bundle" in found.message) == (Severity.WARNING, True)
    assert not findings(*seen, about="ca")
    assert of_ca(old)["expired"].severity is Severity.CRITICAL


BUNDLE = CertificateSpec(name="trust", path="/pki/trust.crt", kind=Kind.BUNDLE)


def see_bundle(*issued: Issued, spec: CertificateSpec = BUNDLE) -> list[Observation]:
    whole = Observation(spec.name, spec, spec.path)
    return list(bundle_observations(whole, [each.facts for each in issued]))


def test_an_expired_ca_beside_a_valid_ca_is_a_warning() -> None:
    """In a bundle of CAs, an expired CA is a warning while another one is valid, in any order."""
    old = make_ca(not_after=NOW - DAY)
    for order, name in (((old, ROOT), "trust"), ((ROOT, old), "trust#2")):
        found = findings(*see_bundle(*order), about=name)["expired"]
        assert (found.severity, "another CA in the bundle is valid" in found.message) == (Severity.WARNING, True)


@pytest.mark.parametrize(
    "others",
    [(), (make_ca(not_after=NOW - 2 * DAY),), (make_ca(not_before=NOW + DAY),), (ROOT, make_leaf(ROOT))],
    ids=["alone", "all expired", "not valid yet", "a chain"],
)
def test_an_expired_ca_without_a_valid_ca_is_critical(others: tuple[Issued, ...]) -> None:
    """No process can use a bundle whose CAs have all expired. A file with a leaf is a chain, not a bundle of CAs."""
    found = findings(*see_bundle(make_ca(not_after=NOW - DAY), *others), about="trust")["expired"]
    assert found.severity is Severity.CRITICAL


def test_a_ca_of_a_bundle_is_critical_before_its_end() -> None:
    """Until its end, a peer on another host can need the CA, although another one is valid."""
    ending = make_ca(not_after=NOW + DAY)
    assert findings(*see_bundle(ending, ROOT), about="trust")["nearing_expiry"].severity is Severity.CRITICAL


def test_an_expired_leaf_in_a_bundle_is_critical() -> None:
    """No other certificate of the file replaces a certificate of a server or client."""
    seen = see_bundle(make_leaf(ROOT, not_after=NOW - DAY), make_leaf(ROOT))
    assert findings(*seen, about="trust")["expired"].severity is Severity.CRITICAL


def test_a_certificate_of_an_expired_ca_in_a_bundle_is_critical() -> None:
    """A certificate that needs the expired CA has a finding, because the finding of the CA is a warning."""
    old, new = make_ca("old", not_after=NOW - DAY), make_ca("new")
    spec = ReferenceSpec(name="trust", path="/pki/trust.crt", kind=Kind.BUNDLE, named_by="--a in /b")
    verdicts = judge(*see_bundle(old, new, spec=spec), see(row(ca="trust"), make_leaf(old, not_after=NOW + YEAR)))
    (found,) = verdicts["leaf"].findings
    assert found.severity is Severity.CRITICAL
    assert found.message == (
        "/pki/leaf.crt: the CA CN=old expired on 2026-11-23 12:00 UTC; renew the certificate: certmond renew leaf"
    )
    verdicts = judge(*see_bundle(old, new, spec=spec), see(row(ca="trust"), make_leaf(new, not_after=NOW + YEAR)))
    assert not verdicts["leaf"].findings


def test_the_end_of_the_last_valid_ca_changes_the_verdicts() -> None:
    """A verdict on an expired CA, and on its certificates, changes at the end of the other CAs."""
    old, new = make_ca("old", not_after=NOW - DAY), make_ca("new", not_after=NOW + 2 * DAY)
    spec = ReferenceSpec(name="trust", path="/pki/trust.crt", kind=Kind.BUNDLE, named_by="--a in /b")
    seen = (*see_bundle(old, new, spec=spec), see(row(ca="trust"), make_leaf(old, not_after=NOW + YEAR)))
    verdicts = judge(*seen)
    assert {verdicts[name].changes_at for name in ("trust", "leaf")} == {new.facts.expires_at}
    later = judge(*seen, now=NOW + 3 * DAY)
    assert [item.severity for item in later["trust"].findings] == [Severity.CRITICAL]
    assert not later["leaf"].findings


def test_a_further_ca_of_a_bundle_has_its_last_second_too() -> None:
    """RFC 5280, 4.1.2.5: notAfter is included, also behind the first CA of a bundle."""
    ending = replace(see(AUTHORITY, make_ca(not_after=NOW)), name="ca#2")
    assert "expired" not in findings(see(AUTHORITY, ROOT), ending, about="ca#2")


def test_an_expired_further_user_of_a_kubeconfig_is_critical() -> None:
    """It is the credential of a user, not a leftover."""
    second = replace(see(row(kind="kubeconfig"), make_leaf(ROOT, not_after=NOW - DAY)), name="leaf#b")
    found = findings(see(AUTHORITY, ROOT), second, about="leaf#b")["expired"]
    assert (found.severity, "renew the certificate" in found.message) == (Severity.CRITICAL, True)


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("leaf", "", "/pki/leaf.crt expired"),
        ("leaf", "/b.crt", "/b.crt (user 'b' of /pki/leaf.crt) expired"),
        ("leaf#b", "", "/pki/leaf.crt (user 'b') expired"),
    ],
)
def test_a_finding_about_a_kubeconfig_has_the_file_that_it_names(name: str, file: str, text: str) -> None:
    """The finding has the name of the user too, unless it is about the user of the current context."""
    seen = replace(see(row(kind="kubeconfig"), make_leaf(ROOT, not_after=NOW - DAY)), name=name, named_file=file)
    found = findings(see(AUTHORITY, ROOT), replace(seen, holder=("user", "b")), about=name)["expired"]
    assert found.message.startswith(text)


@pytest.mark.parametrize("ca", [[], "self"])
def test_an_anchor_in_the_same_file_is_reported_at_that_file(ca: Any) -> None:
    """The kubelet's own CA has no entry: when it has expired, its certificate's entry reports it."""
    own = make_ca("own", not_after=NOW - DAY)
    assert "CN=own expired" in of_leaf(make_leaf(own), own, ca=ca)["expired"].message


def test_the_path_that_holds_now_counts_not_the_one_that_will_last_longest() -> None:
    """In a rotation, a bridge that becomes valid tomorrow is no fault of today."""
    new = make_ca(not_before=NOW + DAY, not_after=NOW + 20 * YEAR)
    middle = make_intermediate(ROOT, not_after=NOW + 100 * DAY)
    later = cross_sign(middle, by=new, not_before=NOW + DAY, not_after=NOW + 15 * YEAR)
    leaf = make_leaf(middle)
    both = replace(see(AUTHORITY, new), name="new")
    verdict = judge(see(AUTHORITY, ROOT), both, see(row(), leaf, middle, later))["leaf"]
    assert verdict.chain_valid
    assert not verdict.findings


def test_a_leaf_that_ends_after_its_ca_has_a_finding() -> None:
    """The sentence names the CA that ends first. After that end, its own entry has the finding."""
    short = make_ca(not_after=NOW + 100 * DAY)
    leaf = make_leaf(short)
    found = of_leaf(leaf, by=short)["outlives_ca"]
    assert (found.severity, "2027-03-04 12:00 UTC" in found.message) == (Severity.WARNING, True)
    assert "outlives_ca" in of_leaf(leaf, by=short, now=NOW + 100 * DAY)
    assert "outlives_ca" not in of_leaf(leaf, by=short, now=NOW + 100 * DAY + TICK)
    middle = make_intermediate(ROOT, "middle", not_after=NOW + 50 * DAY)
    assert "CN=middle" in of_leaf(make_leaf(middle), middle)["outlives_ca"].message


# --- paths ------------------------------------------------------------------------------------------------------------


def test_a_foreign_ca_of_the_same_name_is_no_anchor() -> None:
    """`CN=kubernetes` is the name of every cluster's CA: the signature decides, and the sentence explains it."""
    found = of_leaf(make_leaf(make_ca()))["no_path"]
    assert "not signed by the CA certificate with the name of its issuer" in found.message
    assert "to ca:" in found.message


def test_the_most_specific_refusal_is_reported() -> None:
    """That an intermediate matches nothing is less specific than that a matching one is no CA."""
    unrelated = make_intermediate(ROOT, "middle")
    for middle, fact in (
        (make_intermediate(ROOT, "middle", is_ca=False), "CN=middle (issuer CN=kubernetes): the issuer is not a CA"),
        (make_intermediate(make_ca("far"), "middle"), "CN=middle (issuer CN=far): no CA certificate has the name of"),
    ):
        for chain in ((middle, unrelated), (unrelated, middle)):
            assert fact in of_leaf(make_leaf(middle), *chain)["no_path"].message


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ({"is_ca": False}, "ca_not_ca"),
        ({"usages": ["digital signature"]}, "ca_cannot_sign"),
        ({"extra": [CRITICAL_UNKNOWN]}, "no_path"),
    ],
)
def test_a_defect_of_the_ca_is_reported_at_the_ca_only(flaw: Any, reason: str) -> None:
    """A fault is reported once, at its place."""
    bad = make_ca(**flaw)
    verdicts = judge(see(AUTHORITY, bad), see(row(), make_leaf(bad)), see(row("other"), make_server(bad)))
    assert reason in {item.reason for item in verdicts["ca"].findings}
    assert verdicts["leaf"].findings == verdicts["other"].findings == ()
    assert not verdicts["leaf"].chain_valid


@pytest.mark.parametrize("fault", [Reason.MISSING, Reason.MALFORMED, Reason.UNREADABLE])
def test_the_leaves_of_an_unreadable_ca_have_no_finding(fault: Reason) -> None:
    """The CA's entry has the finding. Whether the leaves chain to it is unknown."""
    absent = see(AUTHORITY, faults=(Fault(fault, "/pki/ca.crt is not as it should be"),))
    verdicts = judge(absent, see(row(), make_leaf(ROOT)))
    assert [item.reason for item in verdicts["ca"].findings] == [fault]
    assert not verdicts["leaf"].findings
    assert not verdicts["leaf"].chain_valid
    assert verdicts["leaf"].trust_anchor is None


def test_an_anchor_in_the_same_file_that_is_no_ca_is_reported_there() -> None:
    """It has no separate entry that could report it."""
    own = make_ca("own", is_ca=False)
    assert "CN=own" in of_leaf(make_leaf(own), own, ca="self")["no_path"].message


def test_the_finding_of_another_check_is_not_repeated() -> None:
    """A leaf without the usage, or with a broken digest, has no path for that reason alone."""
    assert of_leaf(make_leaf(ROOT), usages=["server auth"]).keys() == {"wrong_usage"}
    rsa = make_ca(key="rsa")
    assert of_leaf(make_leaf(rsa, hash="md5"), by=rsa).keys() == {"weak_signature"}


def test_a_ca_that_may_not_certify_the_usage_is_reported_at_the_leaf() -> None:
    """The CA's entry has no such requirement, so the leaf's entry has the finding."""
    narrow = make_ca(extended_usages=["server auth"])
    found = of_leaf(make_leaf(narrow), by=narrow, usages=["client auth"])
    assert "the issuer may not certify this usage" in found["no_path"].message


def test_a_file_does_not_prove_itself_if_a_ca_is_named() -> None:
    """It does not matter whether it has its own CA, or a self-signed certificate."""
    own = make_ca("own")
    assert of_leaf(make_leaf(own), own).keys() == {"no_path"}
    assert of_leaf(own).keys() == {"no_path"}
    twin = make_ca()
    assert of_leaf(make_leaf(twin), twin).keys() == {"no_path"}


def test_self_means_the_self_signed_certificate_in_the_file() -> None:
    """A certificate that another CA signed does not prove itself: with `self`, the file must have an anchor."""
    alone = make_leaf(make_ca("elsewhere"))
    assert "no certification path to self" in of_leaf(alone, ca="self")["no_path"].message
    assert not of_leaf(alone, ca=[])


def test_self_or_the_root_ca_takes_whichever_signed_it() -> None:
    """An operator may have replaced the kubelet's own certificate by one of the Root CA: that is then its anchor."""
    spec, leaf, own = row(ca=["self", "ca"]), make_leaf(ROOT), make_ca("own")
    by_root = judge(see(AUTHORITY, ROOT), see(spec, leaf))["leaf"]
    assert (by_root.findings, by_root.trust_anchor) == ((), ROOT.facts)
    by_itself = judge(see(AUTHORITY, ROOT), see(spec, make_leaf(own), own))["leaf"]
    assert (by_itself.findings, by_itself.trust_anchor) == ((), own.facts)
    assert of_leaf(make_leaf(make_ca()), ca=["self", "ca"]).keys() == {"no_path"}
    assert not findings(see(AUTHORITY), see(spec, leaf)), "the entry of the CA reports its absence"


def test_an_absent_ca_leaves_its_leaves_unproven() -> None:
    """Without an entry of that name, the leaf's entry has the finding."""
    found = findings(see(row(ca=["etcd-ca", "ca"]), make_leaf(ROOT)))["no_path"]
    assert "has no trust anchor: this node has no certificate of etcd-ca or ca" in found.message
    assert not findings(see(AUTHORITY, ROOT), see(row(ca=["etcd-ca", "ca"]), make_leaf(ROOT)))
    assert not findings(see(AUTHORITY), see(row(ca=["etcd-ca", "ca"]), make_leaf(ROOT)))


@pytest.mark.parametrize(
    ("most", "severities"),
    [
        (None, {"critical", "warning", "info"}),
        ("critical", {"critical", "warning", "info"}),
        ("warning", {"warning", "info"}),
        ("info", {"info"}),
    ],
)
def test_an_entry_limits_the_severity_of_its_findings(most: str | None, severities: set[str]) -> None:
    """A lower severity stays."""
    leaf = make_leaf(ROOT, serial=0, key="rsa-1024", not_after=NOW - DAY)
    assert {item.severity.value for item in of_leaf(leaf, at_most=most).values()} == severities
    absent = see(row(at_most=most), faults=(Fault(Reason.MISSING, "/pki/leaf.crt is not there"),))
    assert findings(absent)["missing"].severity.value == (most or "critical")


# --- trust anchors ----------------------------------------------------------------------------------------------------


def test_an_intermediate_is_refused_as_trust_anchor() -> None:
    """The reason is its issuer's name, or a signature by another key."""
    assert of_ca(make_intermediate(ROOT)).keys() == {"ca_not_self_signed"}
    assert of_ca(cross_sign(make_ca(), by=ROOT)).keys() == {"ca_not_self_signed"}
    assert "only Root CAs" in of_ca(make_intermediate(ROOT))["ca_not_self_signed"].message


def test_a_chain_of_cas_with_its_root_is_accepted_by_an_entry_with_intermediates() -> None:
    """With `intermediates`, an intermediate or cross-signed CA is only an info finding if its Root CA is in the file.
    A missing Root CA, and a Root CA that has not signed the intermediate CA, remain critical.
    """
    spec = row("ca", authority=True, ca=[], usages=["cert sign"], intermediates=True)
    root, old = make_ca("root"), make_ca("old")
    cross_signed, intermediate = cross_sign(root, by=old), make_intermediate(root)
    second = make_intermediate(intermediate, "second")

    def severity(ca: Issued, *others: Issued, of: CertificateSpec = spec) -> str:
        bundle = tuple(each.facts for each in (ca, *others))
        found = findings(see(of, ca, bundle=bundle), about="ca")
        assert found.keys() == {"ca_not_self_signed"}
        return str(found["ca_not_self_signed"].severity.value)

    assert severity(intermediate, root, cross_signed, old) == "info"
    assert severity(cross_signed, intermediate, root, old) == "info"
    assert severity(second, root, intermediate) == "info"
    assert severity(intermediate) == "critical"
    assert severity(second, root) == "critical"
    assert severity(intermediate, make_ca("root")) == "critical"
    assert severity(intermediate, make_leaf(root)) == "critical"
    assert severity(intermediate, root, of=AUTHORITY) == "critical"


def test_the_search_for_a_root_in_the_file_verifies_each_ca_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, a file with hundreds of intermediate CAs and Root CAs could take half a minute."""
    verified = list[Certificate]()

    def counted(certificate: Certificate, issuer: Certificate) -> bool:
        verified.append(certificate)
        return signed_by(certificate, issuer)

    monkeypatch.setattr(certificate_rules, "signed_by", counted)
    spec = row("ca", authority=True, ca=[], usages=["cert sign"], intermediates=True)
    roots = [make_ca(f"root-{number}") for number in range(5)]
    children = [make_intermediate(root) for root in roots]
    (whole,) = [see(spec, *children, *roots)]
    statuses = assess(Inventory(tuple(bundle_observations(whole, whole.certificates)), {}), NOW).statuses
    reasons = [[item.severity.value for item in status.findings] for status in statuses]
    assert reasons == [["info"]] * 5 + [[]] * 5
    assert sorted(each.subject for each in verified) == sorted(each.facts.subject for each in roots)


def test_a_ca_has_the_ca_flag() -> None:
    """The flag is CA:TRUE in basicConstraints. A version 1 certificate cannot have it and is accepted, as in Go."""
    assert of_ca(make_ca(is_ca=None)).keys() == {"ca_not_ca"}
    assert of_ca(make_ca(is_ca=False)).keys() == {"ca_not_ca"}
    assert not of_ca(make_ca(version=1))


def test_a_ca_may_sign_certificates() -> None:
    """A keyUsage must have keyCertSign. Without the extension everything is permitted."""
    assert of_ca(make_ca(usages=["crl sign"])).keys() == {"ca_cannot_sign"}
    assert not of_ca(make_ca(usages=None))


def test_a_broken_digest_on_a_root_is_for_information() -> None:
    """No component verifies the signature of a root. On a leaf every component refuses it."""
    root = make_ca(key="rsa", hash="sha1")
    assert of_ca(root)["weak_signature"].severity is Severity.INFO
    rsa = make_ca(key="rsa")
    assert of_leaf(make_leaf(rsa, hash="sha1"), by=rsa)["weak_signature"].severity is Severity.CRITICAL


@pytest.mark.parametrize(("serial", "found"), [(0, {"nonpositive_serial"}), (1, set()), (2**159, set())])
def test_serial_number_zero_is_for_information(serial: int, found: set[str]) -> None:
    """kubeadm gave its CAs that number before v1.27, and everything works with it."""
    ca = make_ca(serial=serial)
    assert of_ca(ca).keys() == found
    assert not of_leaf(make_leaf(ca), by=ca)
    if found:
        assert of_ca(ca)["nonpositive_serial"].severity is Severity.INFO


# --- subject, names and usages ----------------------------------------------------------------------------------------


def test_the_subject_is_the_identity() -> None:
    """Any of the accepted ones, in any order of attributes, and nothing more or less than it."""
    leaf = make_leaf(ROOT, "system:kube-scheduler")
    assert not of_leaf(leaf, subject=["CN=x", "CN=system:kube-scheduler"])
    found = of_leaf(leaf, subject=["CN=x", "CN=system:kube-scheduler,O=system:masters"])["wrong_subject"]
    assert (
        "CN=system:kube-scheduler, but the entry requires CN=x or CN=system:kube-scheduler,O=system:masters"
        in found.message
    )


def test_the_api_server_requires_the_name_of_the_node_from_a_kubelet() -> None:
    """With --enable-kubelet-cert-cn-validation, the serving certificate of the kubelet has this common name. The rule
    concerns only the file that the kubelet serves.
    """
    leaf, facts = make_leaf(ROOT, "worker-1"), {"kubelet_common_name": "system:node:worker-1"}
    seen = see(AUTHORITY, ROOT), see(row(), leaf)
    said = findings(*seen, facts=facts | {"kubelet_serving_file": "/pki/leaf.crt"})["wrong_subject"].message
    assert "the API server requires CN=system:node:worker-1 (--enable-kubelet-cert-cn-validation)" in said
    assert not findings(*seen, facts=facts | {"kubelet_serving_file": "/pki/other.crt"})
    good = see(AUTHORITY, ROOT), see(row(), make_leaf(ROOT, "system:node:worker-1"))
    assert not findings(*good, facts=facts | {"kubelet_serving_file": "/pki/leaf.crt"})


def test_an_unknown_fact_requires_nothing() -> None:
    """If one accepted subject is unknown, it may be the one of the certificate."""
    spec = row(subject=["CN=system:node:${node_name}", "CN=fixed"], names=["DNS:${node_name}", "IP:${service_ip}"])
    seen = see(AUTHORITY, ROOT), see(spec, make_leaf(ROOT, "system:node:worker-1"))
    assert not findings(*seen)
    assert not findings(*seen, facts={"dns_domain": "cluster.local"})
    assert findings(*seen, facts={"node_name": "worker-1"}).keys() == {"missing_name"}
    assert findings(*seen, facts={"node_name": "worker-2"}).keys() == {"missing_name", "wrong_subject"}


def test_every_usage_that_is_asked_for_is_needed() -> None:
    """All that lack are named in one sentence. An absent extension permits everything, and so does `any`."""
    asked = ["digital signature", "key encipherment", "server auth", "client auth"]
    bare = make_leaf(ROOT, usages=["crl sign"], extended_usages=["server auth"], key="rsa")
    found = of_leaf(bare, usages=asked)["wrong_usage"].message
    assert "digital signature, key encipherment, client auth;" in found
    assert not of_leaf(make_leaf(ROOT, usages=None, extended_usages=None), usages=asked)
    assert not of_leaf(make_leaf(ROOT, extended_usages=["any"]), usages=asked)


def test_key_encipherment_is_asked_of_rsa_keys_only() -> None:
    """The signer of kubelet certificates leaves it out for ECDSA keys: there is nothing to encipher with."""
    asked = ["digital signature", "key encipherment"]
    assert not of_leaf(make_leaf(ROOT, usages=["digital signature"]), usages=asked)
    assert (
        "key encipherment"
        in of_leaf(make_leaf(ROOT, usages=["digital signature"], key="rsa"), usages=asked)["wrong_usage"].message
    )
    assert "key encipherment" not in of_leaf(make_leaf(ROOT, usages=["crl sign"]), usages=asked)["wrong_usage"].message


def test_names_are_compared_as_resolvers_and_routers_do() -> None:
    """DNS names without regard to case and final dot, addresses by value."""
    leaf = make_server(ROOT, names=["DNS:Kubernetes.Default", "IP:fd00::1", "email:a@b"])
    assert not of_leaf(leaf, names=["DNS:kubernetes.default.", "IP:FD00:0:0:0:0:0:0:1"])
    assert (
        "lacks the subject alternative name DNS:a, IP:10.0.0.1;"
        in of_leaf(leaf, names=["DNS:a", "IP:10.0.0.1", "DNS:a"])["missing_name"].message
    )


def test_a_fact_that_is_no_address_is_a_missing_name() -> None:
    """The node's files may have an invalid value, which is reported as it is."""
    spec = row(names=["IP:${advertise_address}"])
    found = findings(see(AUTHORITY, ROOT), see(spec, make_leaf(ROOT)), facts={"advertise_address": "nowhere"})
    assert "IP:nowhere" in found["missing_name"].message


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("rsa-1024", {"weak_key"}), ("ec-p224", {"weak_key"}), ("ec-secp256k1", {"weak_key"}),
        ("ed448", {"weak_key", "no_path"}), ("rsa", set()), ("rsa-3072", set()), ("ec", set()), ("ec-p384", set()),
        ("ed25519", set()),
    ],
)  # fmt: skip
def test_keys_that_are_too_short_or_that_go_does_not_know(key: str, found: set[str]) -> None:
    """RSA-2048, P-256 and Ed25519 are the least."""
    assert of_leaf(make_leaf(ROOT, key=key)).keys() == found


def test_a_key_that_go_refuses_to_use_is_critical() -> None:
    """A key is a warning if RSA has 1,024 bits or if a CA may have it. It is critical if it prevents a handshake."""
    assert of_leaf(make_leaf(ROOT, key="rsa-1024"))["weak_key"].severity is Severity.WARNING
    assert of_leaf(make_leaf(ROOT, key="ec-p224"))["weak_key"].severity is Severity.CRITICAL
    assert of_leaf(make_leaf(ROOT, key="ed448"))["weak_key"].severity is Severity.CRITICAL
    small = make_ca(key="ec-p224")
    (status,) = [each for name, each in judge(see(AUTHORITY, small)).items() if name == "ca"]
    assert [each.severity for each in status.findings if each.reason is Reason.WEAK_KEY] == [Severity.WARNING]


@pytest.mark.parametrize(
    ("modulus", "exponent", "severity"),
    [((1 << 8192) + 1, 65537, Severity.WARNING), ((1 << 4095) + 1, (1 << 31) + 1, Severity.CRITICAL)],
)
def test_a_key_that_go_reads_and_cannot_use(modulus: int, exponent: int, severity: Severity) -> None:
    """On a CA more than 8,192 bits are a warning, because Go verifies its signatures. On a leaf every case is
    critical.
    """
    strange = parse_certificate(with_key(ROOT, ROOT, rsa_info(modulus, exponent)))
    seen = Observation("ca", AUTHORITY, "/pki/ca.crt", (strange,))
    (status,) = assess(Inventory((seen,)), NOW).statuses
    assert [each.severity for each in status.findings if each.reason is Reason.KEY_UNUSABLE] == [severity]
    leaf = make_leaf(ROOT)
    changed = parse_certificate(with_key(leaf, ROOT, rsa_info(modulus, exponent)))
    (status,) = assess(Inventory((Observation("leaf", row(), "/pki/leaf.crt", (changed,)),)), NOW).statuses
    assert Severity.CRITICAL in {each.severity for each in status.findings if each.reason is Reason.KEY_UNUSABLE}


# --- its key ----------------------------------------------------------------------------------------------------------


def test_the_private_key_beside_it_matches() -> None:
    """The public halves are compared."""
    leaf, other = make_leaf(ROOT), make_leaf(ROOT)
    spec = row(key="/pki/leaf.key")

    def found(**fields: Any) -> dict[str, Finding]:
        return findings(see(AUTHORITY, ROOT), see(spec, leaf, key_path="/pki/leaf.key", **fields))

    assert not found(key=leaf.facts.key)
    assert "/pki/leaf.key is not the private key of /pki/leaf.crt" in found(key=other.facts.key)["key_mismatch"].message
    assert found().keys() == {"key_missing"}
    assert not found(key_unknown=True)
    assert not findings(see(AUTHORITY, ROOT), see(row(), leaf))


def test_a_key_may_be_elsewhere_if_the_catalogue_allows_it() -> None:
    """The key of an external CA is not on the node."""
    assert not of_leaf(make_leaf(ROOT), key_optional=True, key="/pki/leaf.key")
    spec = row(key_optional=True)
    assert not findings(see(AUTHORITY, ROOT), see(spec, make_leaf(ROOT), key_path="/pki/leaf.key"))


@pytest.mark.parametrize(("matches", "verdict"), [(True, True), (False, False), (None, None)])
def test_the_verdict_has_whether_the_key_matches_or_null(matches: bool | None, verdict: bool | None) -> None:
    """null in the JSON is no series in the metrics."""
    leaf = make_leaf(ROOT)
    key = {True: leaf.facts.key, False: ROOT.facts.key, None: None}[matches]
    assert judge(see(AUTHORITY, ROOT), see(row(), leaf, key=key))["leaf"].key_matches is verdict


def test_service_account_keys_belong_together() -> None:
    """Every API server verifies the tokens of every controller manager. The findings belong to no certificate."""
    spec = row("sa", kind="key-pair", path="/pki/sa.pub", key="/pki/sa.key")
    pair, other = ROOT.facts.key, make_leaf(ROOT).facts.key

    def found(**fields: Any) -> set[str]:
        return set(findings(see(spec, key_path="/pki/sa.key", **fields), about="sa"))

    assert not found(public_key=pair, key=pair)
    assert found(public_key=pair, key=other) == {"service_account_key_mismatch"}
    assert found(public_key=pair) == {"key_missing"}
    assert not found(public_key=pair, key_unknown=True)
    assert not found(key=pair), "that there is no public key is a fault of the file"
    optional = replace(spec, key_optional=True)
    assert not findings(see(optional, public_key=pair), about="sa")


# --- kubeconfigs and the kubelet --------------------------------------------------------------------------------------


def test_a_kubeconfig_trusts_exactly_the_cas_of_the_file() -> None:
    """Without any of them the finding is critical, because no connection works. One more or less is an incomplete
    rotation.
    """
    spec = row(kind="kubeconfig", embedded_ca="ca")
    new = reissue(ROOT, not_before=NOW - DAY)
    anchors = see(AUTHORITY, ROOT), replace(see(AUTHORITY, new), name="ca#2")

    def found(*trusted: Issued) -> dict[str, Finding]:
        embedded = (Embedded("/etc/leaf.conf", tuple(each.facts for each in trusted)),)
        return findings(*anchors, see(spec, make_leaf(ROOT), embedded=embedded))

    assert not found(ROOT, new)
    assert not found(new, ROOT)
    assert found(ROOT)["embedded_ca_differs"].severity is Severity.WARNING
    assert found(ROOT, new, make_ca())["embedded_ca_differs"].severity is Severity.WARNING
    none = found(make_ca())["embedded_ca_differs"]
    assert (none.severity, "/etc/leaf.conf trusts none of" in none.message) == (Severity.CRITICAL, True)
    assert found()["embedded_ca_differs"].severity is Severity.CRITICAL


def test_without_a_ca_file_the_embedded_ca_is_not_judged() -> None:
    """The same holds if the catalogue names no entry for the comparison."""
    trust = {"embedded": (Embedded("/etc/leaf.conf", (make_ca().facts,)),)}
    assert not findings(see(AUTHORITY), see(row(embedded_ca="ca"), make_leaf(ROOT), **trust))
    assert not findings(see(AUTHORITY, ROOT), see(row(), make_leaf(ROOT), **trust))


@pytest.mark.parametrize(
    ("refers_to", "instead"),
    [("/pki/leaf.crt", None), (None, None), ("", "embedded credentials"), ("/pki/dated.pem", "/pki/dated.pem")],
)
def test_kubelet_conf_refers_to_the_pem_that_rotates(refers_to: str | None, instead: str | None) -> None:
    """Otherwise the next start of the kubelet uses credentials that no component renews."""
    spec = row(kind="kubelet", kubeconfig="/etc/kubelet.conf")
    found = findings(see(AUTHORITY, ROOT), see(spec, make_leaf(ROOT), refers_to=refers_to))
    assert bool(found) == bool(instead)
    if instead:
        assert f"/etc/kubelet.conf uses {instead}" in found["not_rotating_pem"].message


def test_the_kubelets_current_pem_is_a_link() -> None:
    """The rule applies if the entry requires it."""
    spec = row(kind="kubelet")
    assert findings(see(AUTHORITY, ROOT), see(spec, make_leaf(ROOT), symlink=False)).keys() == {"not_a_symlink"}
    assert not findings(see(AUTHORITY, ROOT), see(spec, make_leaf(ROOT), symlink=True))
    assert not findings(see(AUTHORITY, ROOT), see(spec, make_leaf(ROOT)))


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_chain_is_allowed_if_its_readers_accept_one() -> None:
    """The end entity comes first."""
    middle = make_intermediate(ROOT)
    leaf = make_leaf(middle)
    assert not of_leaf(leaf, middle)
    assert (
        "contains 1 certificate in addition to the leaf"
        in of_leaf(leaf, middle, chain=False)["unexpected_chain"].message
    )
    turned = findings(see(AUTHORITY, ROOT), see(row(), leaf, middle, leaf_first=False))["unexpected_chain"]
    assert "does not begin with the leaf" in turned.message
    assert turned.severity is Severity.CRITICAL, "Go's TLS takes the first"
    assert not findings(see(AUTHORITY, ROOT, middle), about="ca")


@pytest.mark.parametrize(
    ("mode", "fields", "secret", "severity"),
    [
        (0o644, {}, False, None),
        (0o755, {}, False, None),
        (0o666, {}, False, Severity.WARNING),
        (0o644, {"mode": 0o600}, False, Severity.WARNING),
        (0o400, {"mode": 0o600}, False, None),
        (0o600, {}, True, None),
        (0o640, {}, True, Severity.WARNING),
        (0o640, {"key_mode": 0o640}, True, None),
        (0o601, {}, True, Severity.WARNING),
        (0o604, {}, True, Severity.CRITICAL),
        (0o4600, {}, True, None),
    ],
)
def test_the_mode_and_owner_are_limited(mode: int, fields: Any, secret: bool, severity: Severity | None) -> None:
    """The catalogue has the maximum. A private key that all users can read is critical. A certificate is public, so
    only writing is restricted if the entry has no mode.
    """
    permissions = (Permissions("/pki/some.file", mode, "root:root", (0, 0), secret),)
    found = findings(see(AUTHORITY, ROOT), see(row(**fields), make_leaf(ROOT), permissions=permissions)).get("too_open")
    assert (found and found.severity) == severity
    if found:
        assert "chmod 0" in found.message


@pytest.mark.parametrize(
    ("wanted", "owner", "right"),
    [
        (None, "nobody:nogroup", True), ("root", "root:adm", True), ("root:root", "root:root", True),
        ("root:root", "root:adm", False), ("root", "etcd:root", False),
        # UID 0 and GID 4, as numbers. Below another root, the file has no names.
        ("0", "root:adm", True), ("0:4", "root:adm", True), ("root:4", "root:adm", True), ("00", "root:4", True),
        ("0:adm", "root:adm", True), ("1000", "root:adm", False), ("0:0", "root:adm", False),
        ("4", "4:root", False),  # a number is not the name of a user
    ],
)  # fmt: skip
def test_whom_it_belongs_to(wanted: str | None, owner: str, right: bool) -> None:
    """A user alone leaves the group open. A number is a UID or GID, as in chown(1) and in `renewal`."""
    permissions = (Permissions("/pki/some.file", 0o600, owner, (0, 4), True),)
    found = findings(see(AUTHORITY, ROOT), see(row(owner=wanted), make_leaf(ROOT), permissions=permissions))
    assert ("wrong_owner" not in found) == right
    if not right:
        assert f"chown {wanted} /pki/some.file" in found["wrong_owner"].message


@pytest.mark.parametrize("reason", [Reason.UNREADABLE, Reason.MISSING, Reason.MALFORMED, Reason.TRAILING_DATA])
def test_a_fault_of_a_file_is_a_finding_with_a_remedy(reason: Reason) -> None:
    """The remedy is the fault's own, or the usual one of its reason. The finding is beside the other verdicts."""
    faults = (Fault(reason, "/pki/leaf.crt has a flaw"), Fault(reason, "/pki/leaf.crt has another", "certmond fix"))
    verdict = judge(see(AUTHORITY, ROOT), see(row(), make_leaf(ROOT), faults=faults))["leaf"]
    assert [item.message.rpartition("; ")[0] for item in verdict.findings] == [fault.detail for fault in faults]
    assert verdict.findings[1].message.endswith("; certmond fix")
    assert verdict.findings[0].severity is (Severity.INFO if reason is Reason.TRAILING_DATA else Severity.CRITICAL)
    assert verdict.chain_valid


def test_a_message_has_no_control_character() -> None:
    """A subject may have any content."""
    evil = make_leaf(ROOT, "a\x1b[31m\nb\u202e")
    message = of_leaf(evil, subject="CN=good")["wrong_subject"].message
    assert message.isprintable()
    assert r"CN=a\x1b[31m\nb\u202e" in message


def test_an_outage_precedes_a_defect_of_form() -> None:
    """The order of the policy is the order of the findings."""
    leaf = make_leaf(make_ca(), not_after=NOW - DAY, key="rsa-1024", serial=0)
    order = list(of_leaf(leaf, subject="CN=other", names="DNS:a"))
    assert order == ["expired", "no_path", "wrong_subject", "missing_name", "weak_key", "nonpositive_serial"]
    names = [check.__name__ for check in POLICY]
    assert len(set(names)) == len(names)
    assert all(check.__doc__ for check in POLICY)
    assert set(names) <= {reason.value for reason in Reason}
