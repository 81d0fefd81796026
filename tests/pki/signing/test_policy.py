"""The CA's key signs what an entry fixes, or a successor, at most as wide, of a certificate that the CA has signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation, Provenance
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Reason, Severity
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Issue
from certmond.pki.services.staleness import Surroundings
from certmond.pki.signing.policy import (
    Basis,
    Denial,
    Fixed,
    Grant,
    basis,
    contents_of,
    entry_that_fixes,
    fixed_by,
    grant,
    is_reserved,
    outdone,
    surplus,
)
from certmond.pki.signing.template import EXTENDED, Template, Terms, first, general_name, successor
from certmond.pki.x509.certificate import Certificate, attributes_of, names_in
from certmond.pki.x509.issuance import is_issued
from tests.builders import DAY, HOUR, NOW, YEAR, Issued, make_ca, make_intermediate, make_leaf, make_server, new_key

ROOT, TWIN, FORMER = make_ca(), make_ca(), make_ca()
KEY = new_key()
FACTS = {"node_name": "node-1"}
ADMIN = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
        x509.NameAttribute(NameOID.COMMON_NAME, "mallory"),
    ]
)
OLD: Any = {"not_before": NOW - YEAR, "not_after": NOW - HOUR}


def entry(**fields: Any) -> CertificateSpec:
    return validated(CertificateSpec, {"name": "app", "path": "/app.crt", "key": "/app.key", "ca": "ca"} | fields)


def basis_of(old: Issued, *chain: Issued, has_key: bool = True, **provenance: Any) -> Basis:
    found = Provenance(possessed=has_key, **provenance)
    return basis(old.facts, [each.facts for each in chain], (ROOT.facts,), found)


def decided(old: Issued, spec: CertificateSpec, derived: Basis) -> Grant | Denial:
    template = successor(old.facts, spec, Terms(NOW, None, FACTS), inherits=derived.predecessor is not None)
    return grant(template, fixed_by(spec, FACTS), derived)


def denied(decision: Grant | Denial) -> str:
    assert isinstance(decision, Denial), "it was granted"
    return str(decision)


def granted(decision: Grant | Denial) -> Template:
    assert isinstance(decision, Grant), str(decision)
    return decision.template


# --- a predecessor ----------------------------------------------------------------------------------------------------


def test_an_expired_certificate_of_the_ca_has_a_successor_with_its_subject_usages_and_names() -> None:
    """A signature that verifies against the present CA counts, whatever the dates."""
    old = make_server(ROOT, "app", names=["DNS:app", "IP:192.0.2.7"], **OLD)
    made = granted(decided(old, entry(), basis_of(old)))
    assert made.subject == old.cert.subject
    assert names_in(made.names) == {"DNS:app", "IP:192.0.2.7"}
    assert made.extended_usages == ("server auth",)


def test_an_old_ca_that_the_node_recorded_counts() -> None:
    """If the CA was replaced, the leaves of the old one have successors of the present one."""
    old = make_leaf(FORMER, "app", **OLD)
    assert "old CA of the entry has signed the certificate" in denied(decided(old, entry(), basis_of(old)))
    granted(decided(old, entry(), basis_of(old, former=(FORMER.facts,))))


def test_a_certificate_below_an_intermediate_of_the_ca_counts() -> None:
    """The CA has signed an intermediate, and the intermediate the certificate."""
    link = make_intermediate(ROOT)
    old = make_leaf(link, "app", **OLD)
    granted(decided(old, entry(), basis_of(old, link)))


def test_a_certificate_below_an_intermediate_has_no_usage_that_the_intermediate_may_not_certify() -> None:
    """A CA for server certificates that signed a client certificate, or one without usages, grants no successor. A
    server certificate has one.
    """
    link = make_intermediate(ROOT, extended_usages=["server auth"])
    for usages in (["client auth"], ["server auth", "client auth"], None, ["any"]):
        old = make_leaf(link, "app", extended_usages=usages, **OLD)
        assert not is_issued(old.facts, [link.facts], (ROOT.facts,)), usages
        assert "no current or old CA" in denied(decided(old, entry(), basis_of(old, link)))
    server = make_server(link, "app", names=["DNS:app"], **OLD)
    granted(decided(server, entry(), basis_of(server, link)))


def test_an_intermediate_proves_nothing_that_it_signed_out_of_its_dates() -> None:
    """A certificate that was valid only after its intermediate had expired has no successor. The dates of the CA of the
    entry do not count.
    """
    link = make_intermediate(ROOT, not_before=NOW - 3 * YEAR, not_after=NOW - 2 * YEAR)
    old = make_leaf(link, "app", **OLD)
    assert not is_issued(old.facts, [link.facts], (ROOT.facts,))
    reissued = make_ca(key=ROOT.key, not_before=NOW, not_after=NOW + YEAR)
    assert is_issued(make_leaf(ROOT, "app", **OLD).facts, (), (reissued.facts,))


FORGERIES: Any = {
    "self-signed": lambda: make_ca("app", is_ca=None, subject=ADMIN, extended_usages=["client auth"], **OLD),
    "signed by a CA of the same name": lambda: make_leaf(TWIN, subject=ADMIN, **OLD),
    "widened after it was signed": lambda: make_leaf(ROOT, subject=ADMIN, signing_key=new_key(), **OLD),
    "a copy of the CA's own certificate": lambda: ROOT,
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=list(FORGERIES))
def test_a_forged_certificate_has_no_successor(forge: Any) -> None:
    """A certificate that no CA of the entry has signed grants nothing, and nothing is signed if the entry fixes
    nothing.
    """
    forged = forge()
    assert "old CA of the entry has signed the certificate" in denied(decided(forged, entry(), basis_of(forged)))


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=list(FORGERIES))
def test_in_place_of_a_forged_certificate_the_entry_decides(forge: Any) -> None:
    """The entry alone decides subject, usages and names. No part of the forged certificate remains."""
    forged = forge()
    spec = entry(subject="CN=app", usages=["digital signature", "client auth"])
    made = granted(decided(forged, spec, basis_of(forged)))
    assert attributes_of(made.subject) == {"CN=app"}
    assert made.usages == {"digital signature"}
    assert (made.extended_usages, made.names) == (("client auth",), ())


def test_a_file_that_others_can_write_grants_nothing() -> None:
    """Its content may be anything, although the CA has signed it."""
    old = make_leaf(ROOT, "app", **OLD)
    derived = basis_of(old, file_writers="/app.crt belongs to user 1000")
    assert "/app.crt belongs to user 1000" in denied(decided(old, entry(), derived))


def test_a_ca_file_that_others_can_write_proves_nothing() -> None:
    """A user who can add a CA to it could use it for any certificate."""
    old = make_leaf(ROOT, "app", **OLD)
    derived = basis_of(old, ca_writers="/ca.crt belongs to user 1000")
    assert "/ca.crt belongs to user 1000, so this file does not prove that the CA has signed the certificate" in denied(
        decided(old, entry(), derived)
    )
    granted(decided(old, entry(subject="CN=app", usages="client auth"), derived))


def test_nothing_is_signed_where_others_can_take_the_key() -> None:
    """A user who can replace the file would own the file with the new key, even for a fixed subject."""
    old = make_leaf(ROOT, "app", **OLD)
    derived = basis_of(old, path_writers="/srv can be written by every user (mode 0777)")
    spec = entry(subject="CN=app", usages="client auth")
    assert denied(decided(old, spec, derived)).startswith("/srv can be written by every user (mode 0777)")


def test_an_owner_who_can_write_the_file_has_to_have_its_key() -> None:
    """Certificates are public: without its key, a certificate of another user in the owner's file is not renewed."""
    old = make_leaf(ROOT, "bob", **OLD)
    assert "private key of the certificate is not in the key file" in denied(
        decided(old, entry(), basis_of(old, owner_writes=True, has_key=False))
    )
    granted(decided(old, entry(), basis_of(old, owner_writes=True)))
    granted(decided(old, entry(), basis_of(old, has_key=False)))


# --- no wider ---------------------------------------------------------------------------------------------------------


def test_an_older_certificate_does_not_bring_back_what_a_later_one_had_not() -> None:
    """A group, a name or a usage that the later one had no more is not signed again."""
    later = make_leaf(ROOT, "app", not_after=NOW + YEAR)
    for old in (
        make_leaf(ROOT, subject=_name(CN="app", O="developers"), **OLD),
        make_leaf(ROOT, "app", names=["DNS:app"], **OLD),
        make_leaf(ROOT, "app", extended_usages=["client auth", "server auth"], names=None, **OLD),
        make_leaf(ROOT, "app", usages=["digital signature", "content commitment"], **OLD),
    ):
        said = denied(decided(old, entry(), basis_of(old, later=(later.facts,))))
        assert f"a later certificate (serial {later.facts.serial_hex}) lacks these contents" in said
    same = make_leaf(ROOT, "app", **OLD)
    granted(decided(same, entry(), basis_of(same, later=(later.facts,))))


def test_a_later_certificate_in_another_file_counts_whatever_the_chain_of_this_file() -> None:
    """The evidence has checked the CA of this certificate with the chain of that file."""
    later = make_leaf(make_intermediate(ROOT), "app", not_after=NOW + YEAR)
    old = make_leaf(ROOT, "app", names=["DNS:app"], **OLD)
    assert "lacks these contents" in denied(decided(old, entry(), basis_of(old, later_issued=(later.facts,))))


def test_a_later_certificate_in_the_archive_needs_a_ca() -> None:
    """The evidence contains the intermediate CAs. Those in the chain of the file can be false."""
    sub = make_intermediate(ROOT, "sub")
    later, old = make_leaf(sub, "app", not_after=NOW + YEAR), make_leaf(ROOT, "app", names=["DNS:app"], **OLD)
    false = [make_intermediate(TWIN, "sub", subject_key_id=sub.subject_key_id) for _ in range(101)]
    assert basis_of(old, *false, sub, later=(later.facts,)).later == ()
    assert basis_of(old, *false, later=(later.facts,), intermediates=(sub.facts,)).later == (later.facts,)


def test_many_later_certificates_grant_only_what_the_entry_fixes() -> None:
    """The reason is in the message."""
    old = make_leaf(ROOT, "app", **OLD)
    derived = basis_of(old, more_later=True)
    assert "many later certificates with different contents" in denied(decided(old, entry(), derived))
    granted(decided(old, entry(subject="CN=app", usages="client auth"), derived))


def test_certificates_with_equal_contents_permit_the_same() -> None:
    """The serial number, the dates and the key do not count, but the algorithm of the key does. The order of common
    names counts. A certificate that cryptography cannot parse has its own contents.
    """
    same = [make_leaf(ROOT, "app", names=["DNS:a", "DNS:b"]), make_leaf(ROOT, "app", names=["DNS:a", "DNS:b"], **OLD)]
    same.append(make_leaf(ROOT, "app", names=["DNS:b", "DNS:a"]))
    assert len({contents_of(each.facts) for each in same}) == 1
    common = x509.NameAttribute(NameOID.COMMON_NAME, "app"), x509.NameAttribute(NameOID.COMMON_NAME, "b")
    others = [
        make_leaf(ROOT, "app", names=["DNS:a"]),
        make_leaf(ROOT, "app", names=["DNS:a"], key="rsa"),
        make_leaf(ROOT, "app", names=["DNS:a"], extended_usages=["server auth"]),
        make_leaf(ROOT, "app", names=["DNS:a"], usages=["digital signature"]),
        make_leaf(ROOT, subject=_name(CN="app", O="developers"), names=["DNS:a"]),
        make_leaf(ROOT, subject=x509.Name(common), names=["DNS:a"]),
        make_leaf(ROOT, subject=x509.Name(common[::-1]), names=["DNS:a"]),
    ]
    assert len({contents_of(each.facts) for each in (*same, *others)}) == 1 + len(others)
    broken = replace(same[0].facts, der=b"0")
    assert contents_of(broken) is broken


def test_a_usage_that_the_later_key_cannot_have_is_not_missing() -> None:
    """An ECDSA key has no key encipherment, so a later certificate without it removes nothing."""
    old = make_leaf(ROOT, "app", key="rsa", usages=["digital signature", "key encipherment"], **OLD)
    later = make_leaf(ROOT, "app", usages=["digital signature"], not_after=NOW + YEAR)
    granted(decided(old, entry(), basis_of(old, later=(later.facts,))))
    assert surplus(old.facts, later.facts, Fixed()) == ()


def test_a_later_certificate_that_no_ca_has_signed_does_not_count() -> None:
    """An archived certificate may be forged. It removes no right."""
    old = make_leaf(ROOT, subject=_name(CN="app", O="developers"), **OLD)
    granted(decided(old, entry(), basis_of(old, later=(make_leaf(TWIN, "app").facts,))))


def test_an_older_certificate_grants_nothing_if_the_later_one_is_lost() -> None:
    """The rights of the later one are unknown. What the entry fixes is signed."""
    old = make_leaf(ROOT, "app", **OLD)
    assert f"certmond installed a later certificate on {NOW:%Y-%m-%d %H:%M} UTC, and" in denied(
        decided(old, entry(), basis_of(old, lost=NOW))
    )
    granted(decided(old, entry(subject="CN=app", usages="client auth"), basis_of(old, lost=NOW)))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"subject": ADMIN}, "is reserved"),
        (
            {"subject": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])},
            "does not specify the subject CN=root",
        ),
        ({"usages": frozenset({"digital signature", "cert sign"})}, "does not specify the usage cert sign"),
        ({"extended_usages": ("client auth", "server auth")}, "does not specify the usage server auth"),
        ({"extended_usages": ("1.2.3.4",)}, "does not specify the usage 1.2.3.4"),
        ({"extended_usages": ()}, "specifies no extended key usage"),
        ({"names": (general_name("DNS:kubernetes"),)}, "does not specify the subject alternative name kubernetes"),
        ({"names": (x509.DirectoryName(ADMIN),)}, "does not specify the subject alternative name"),
        ({"is_ca": True}, "the certificate would be a CA"),
    ],
)
def test_any_addition_is_denied(change: Mapping[str, Any], problem: str) -> None:
    """No subject, usage or name beyond those of entry and predecessor is signed."""
    old = make_leaf(ROOT, "app", usages=["digital signature"], **OLD)
    derived = basis_of(old)
    wider = replace(granted(decided(old, entry(), derived)), **change)
    assert problem in denied(grant(wider, fixed_by(entry(), FACTS), derived))


def test_a_predecessor_without_usages_permits_every_usage() -> None:
    """An absent extension restricts nothing (RFC 5280, 4.2.1.3 and 4.2.1.12), so that a successor is no wider."""
    old = make_leaf(ROOT, "app", usages=None, extended_usages=None, **OLD)
    template = granted(decided(old, entry(), basis_of(old)))
    wide = replace(template, usages=frozenset({"data encipherment"}), extended_usages=("server auth",))
    granted(grant(wide, Fixed(), basis_of(old)))
    anything = make_leaf(ROOT, "app", extended_usages=["any"], **OLD)
    granted(grant(replace(template, usages=frozenset(), extended_usages=("client auth",)), Fixed(), basis_of(anything)))


def test_a_server_without_a_fixed_name_is_not_signed() -> None:
    """Without a predecessor it would have no name, and no client accepts that."""
    forged = make_server(TWIN, "app", names=["DNS:app"], **OLD)
    spec = entry(subject="CN=app", usages=["digital signature", "key encipherment", "server auth"])
    assert "does not specify the subject alternative name app" in denied(decided(forged, spec, basis_of(forged)))
    template = first(spec, "CN=app", (), Terms(NOW, None, FACTS))
    assert "no client accepts a server certificate without one" in denied(
        grant(template, fixed_by(spec, FACTS), Basis())
    )
    named = entry(subject="CN=app", usages="server auth", names=["DNS:app", "DNS:${node_name}"])
    assert names_in(granted(decided(forged, named, basis_of(forged))).names) == {"DNS:app", "DNS:node-1"}


# --- reserved subjects ------------------------------------------------------------------------------------------------


def _name(**attributes: str) -> x509.Name:
    oids = {"CN": NameOID.COMMON_NAME, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME}
    return x509.Name([x509.NameAttribute(oids[kind], value) for kind, value in attributes.items()])


@pytest.mark.parametrize(
    "name",
    [
        _name(CN="system:kube-scheduler"), _name(CN="app", O="system:masters"),
        _name(CN="app", O="kubeadm:cluster-admins"), _name(CN="system:node:node-1", O="system:nodes"),
        _name(CN="app", O=" System:Masters"), _name(OU="system:masters"),
    ],
)  # fmt: skip
def test_a_reserved_subject_needs_an_entry_that_names_exactly_it(name: x509.Name) -> None:
    """A certificate of the CA alone does not do."""
    old = make_leaf(ROOT, subject=name, **OLD)
    assert is_reserved(name)
    assert "is reserved" in denied(decided(old, entry(), basis_of(old)))
    granted(decided(old, entry(subject=name.rfc4514_string().replace(" System", "\\ System")), basis_of(old)))


def test_a_subject_that_is_not_reserved_needs_none() -> None:
    """Users and groups of an operator's own."""
    assert not is_reserved(_name(CN="jane", O="developers"))
    assert not is_reserved(_name(CN="my-system:x"))


def test_the_order_of_common_names_counts() -> None:
    """Go uses the last one as the user: two names in reverse order are another user."""
    both = [x509.NameAttribute(NameOID.COMMON_NAME, "jane"), x509.NameAttribute(NameOID.COMMON_NAME, "root")]
    old = make_leaf(ROOT, subject=x509.Name(both), **OLD)
    template = replace(granted(decided(old, entry(), basis_of(old))), subject=x509.Name(both[::-1]))
    assert "does not specify the subject" in denied(grant(template, Fixed(), basis_of(old)))


def test_an_unknown_fact_fixes_no_subject() -> None:
    """Otherwise any node's identity would be accepted."""
    spec = entry(subject="CN=system:node:${node_name},O=system:nodes", usages="client auth")
    assert fixed_by(spec, {}).subjects == ()
    old = make_leaf(ROOT, subject=_name(CN="system:node:node-2", O="system:nodes"), **OLD)
    template = successor(old.facts, spec, Terms(NOW, None, {}))
    assert "is reserved" in denied(grant(template, fixed_by(spec, {}), basis_of(old)))


def test_an_impossible_field_of_an_entry_fixes_nothing() -> None:
    """An invalid subject or name covers nothing."""
    old = make_leaf(TWIN, "app", names=["DNS:app"], **OLD)
    derived = basis_of(old)
    template = successor(old.facts, entry(), Terms(NOW, None, FACTS), inherits=False)
    assert "does not specify the subject CN=app" in denied(
        grant(template, Fixed(("CN=",), (), ("DNS:ä", "IP:x")), derived)
    )


# --- the property -----------------------------------------------------------------------------------------------------

SUBJECTS = st.sampled_from([_name(CN="app"), _name(CN="root"), ADMIN, _name(CN="app", O="dev"), _name(CN="system:x")])
USAGES = st.sampled_from([["client auth"], ["server auth"], ["client auth", "server auth"], ["code signing"], None])
NAMES = st.sampled_from([None, ["DNS:app"], ["DNS:app", "DNS:kubernetes"], ["IP:192.0.2.1"]])
SIGNERS = st.sampled_from([ROOT, TWIN, FORMER])


@st.composite
def certificates(draw: st.DrawFn) -> Issued:
    return make_leaf(
        draw(SIGNERS), key=KEY, subject=draw(SUBJECTS), extended_usages=draw(USAGES), names=draw(NAMES),
        not_before=NOW - YEAR, not_after=NOW + draw(st.sampled_from([-HOUR, DAY])),
    )  # fmt: skip


@dataclass(frozen=True)
class World:
    """A certificate in its file, its entry, and the evidence of its origin on the node."""

    old: Issued
    later: list[Issued]
    subject: list[str]
    usages: list[str]
    names: list[str]
    file_writers: str
    path_writers: str
    former: bool
    has_key: bool
    owner_writes: bool

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        return (ROOT.facts, FORMER.facts) if self.former else (ROOT.facts,)

    def basis(self) -> Basis:
        return basis_of(
            self.old, has_key=self.has_key, later=tuple(each.facts for each in self.later), former=self.issuers[1:],
            file_writers=self.file_writers, path_writers=self.path_writers, owner_writes=self.owner_writes,
        )  # fmt: skip


WORLDS = st.builds(
    World,
    old=certificates(),
    later=st.lists(certificates(), max_size=2),
    subject=st.sampled_from([[], ["CN=app"], ["CN=mallory,O=system:masters", "CN=app"]]),
    usages=st.sampled_from([[], ["client auth"], ["digital signature", "server auth"]]),
    names=st.sampled_from([[], ["DNS:app"], ["DNS:${node_name}"]]),
    file_writers=st.sampled_from(["", "x belongs to user 1000"]),
    path_writers=st.sampled_from(["", "", "", "d belongs to user 1000"]),
    former=st.booleans(),
    has_key=st.booleans(),
    owner_writes=st.booleans(),
)


@given(WORLDS)
def test_whatever_is_granted_is_fixed_by_the_entry_or_no_wider_than_what_the_ca_had_signed(world: World) -> None:
    """Subject, usages and names of a granted certificate, each on its own, for any file and any entry."""
    old, spec = world.old, entry(subject=world.subject, usages=world.usages, names=world.names)
    decision = decided(old, spec, world.basis())
    if isinstance(decision, Denial):
        assert decision.problems
        return
    made, fixed = decision.template, fixed_by(spec, FACTS)
    inherited = (
        is_issued(old.facts, (), world.issuers) and not world.file_writers and (world.has_key or not world.owner_writes)
    )
    assert not world.path_writers
    assert not made.is_ca
    attributes = attributes_of(made.subject)
    if attributes not in [frozenset(each.split(",")) for each in fixed.subjects]:
        assert inherited
        assert attributes == old.facts.attributes
        assert not is_reserved(made.subject)
    for usage in {*made.extended_usages} - EXTENDED.intersection(fixed.usages):
        assert inherited
        assert old.facts.has_usage(usage)
    for name in names_in(made.names) - {*fixed.names}:
        assert inherited
        assert name in old.facts.names


# --- in the plan and the findings -------------------------------------------------------------------------------------

CA_ROW = validated(
    CertificateSpec, {"name": "ca", "path": "/ca.crt", "key": "/ca.key", "authority": True, "usages": "cert sign"}
)


def looked(old: Issued, provenance: Provenance | None, now: Any = NOW, **fields: Any) -> Any:
    spec = entry(**fields)
    ca = Observation("ca", CA_ROW, "/ca.crt", (ROOT.facts,), key=ROOT.facts.key, key_path="/ca.key")
    seen = Observation("app", spec, "/app.crt", (old.facts,), key=old.facts.key, key_path="/app.key")
    around = Surroundings(provenance={("app", "/app.crt"): provenance} if provenance else {})
    return assess(Inventory((ca, seen), FACTS), now, around=around)


def test_an_unsigned_successor_is_a_critical_finding_once_it_is_due() -> None:
    """The finding not_issued_by_ca has the file, each fact, and the command that shows what would be signed."""
    forged = make_leaf(TWIN, subject=ADMIN, **OLD)
    (_, status) = looked(forged, Provenance()).statuses
    (found,) = [each for each in status.findings if each.reason is Reason.NOT_ISSUED_BY_CA]
    assert found.severity is Severity.CRITICAL
    assert found.message == (
        "certmond does not renew /app.crt: the subject CN=mallory,O=system:masters is reserved, but the entry does "
        "not specify exactly this subject; the entry does not specify the usage client auth; no current or old CA of "
        "the entry has signed the certificate; see the contents that certmond would sign: certmond renew app --dry-run"
    )


@pytest.mark.parametrize("provenance", [None, Provenance()])
def test_a_signed_or_valid_certificate_has_no_such_finding(provenance: Provenance | None) -> None:
    """The rule covers a due certificate of the CA, and one of another CA that is not due."""
    for issued in (make_leaf(ROOT, "app", **OLD), make_leaf(TWIN, "app", not_before=NOW, not_after=NOW + YEAR)):
        (_, status) = looked(issued, provenance, NOW + HOUR).statuses
        assert Reason.NOT_ISSUED_BY_CA not in {each.reason for each in status.findings}


def test_the_plan_holds_an_unsigned_certificate_with_the_reason() -> None:
    """The plan has no step for it. Certificates that the CA has signed are renewed."""
    made = plan(looked(make_leaf(TWIN, "app", **OLD), Provenance()), Policy(), {}, Circumstances())
    assert made.steps == ()
    (held,) = made.held
    assert held.because.startswith(
        "certmond does not sign the certificate with the CA's key: the entry does not specify the subject CN=app"
    )
    (step,) = plan(looked(make_leaf(ROOT, "app", **OLD), Provenance()), Policy(), {}, Circumstances()).steps
    assert isinstance(step, Issue)


@pytest.mark.parametrize("fields", [{"path_length": 0}, {"serial": -1}], ids=["by cryptography", "by Go"])
def test_an_unreadable_certificate_has_no_successor_with_its_content(fields: Any) -> None:
    """Its content is unknown: it is no predecessor, no step renews it, and the plan has the reason."""
    old = make_leaf(ROOT, "app", **OLD, **fields)
    assert old.facts.refused
    assert not is_issued(old.facts, (), (ROOT.facts,))
    assert basis_of(old).reasons == (old.facts.refused,)
    assert surplus(old.facts, make_leaf(ROOT, "app").facts, Fixed()) == (old.facts.refused,)
    looked_at = looked(old, Provenance())
    (_, status) = looked_at.statuses
    assert Reason.NOT_ISSUED_BY_CA not in {each.reason for each in status.findings}
    made = plan(looked_at, Policy(), {}, Circumstances(), frozenset({"app"}))
    assert made.steps == ()
    assert made.held[0].because.startswith(old.facts.refused)


def test_a_self_signed_certificate_has_no_successor_of_the_ca() -> None:
    """An example is the kubelet's own serving certificate, whose entry accepts `self` beside a CA."""
    own = make_ca("node-1@1700000000", is_ca=None, extended_usages=["server auth"], names=["DNS:node-1"], **OLD)
    made = plan(looked(own, None, ca=["self", "ca"]), Policy(), {}, Circumstances(), frozenset({"app"}))
    assert made.steps == ()
    assert made.held[0].because.startswith("the certificate is self-signed, so no CA can renew it")


def test_a_right_that_a_later_certificate_lost_is_named() -> None:
    """Each part that no entry fixes is named once. If the later certificate is lost, all parts that no entry fixes are.
    A later one that the CA has not signed removes nothing.
    """
    old, new = make_leaf(ROOT, "app", names=["DNS:a"]).facts, make_leaf(ROOT, "app").facts
    forged = make_leaf(make_ca(), "app").facts
    said = ("the entry does not specify the subject alternative name a",)
    for provenance, fixed, expected in (
        (Provenance(), Fixed(), ()),
        (Provenance(later=(new, new)), Fixed(), said),
        (Provenance(later=(new,)), Fixed(names=("DNS:a",)), ()),
        (Provenance(later=(forged,)), Fixed(), ()),
        (Provenance(lost=NOW), Fixed(("CN=app",), ("digital signature", "key encipherment", "client auth")), said),
    ):
        assert outdone(old, (), (ROOT.facts,), provenance, fixed) == expected


def test_an_entry_that_fixes_a_certificate_has_its_subject_usages_and_names() -> None:
    """certmond may then sign the certificate again: only the kinds of names and usages that an entry can have are in
    it.
    """
    old = make_leaf(
        ROOT, "app", names=["DNS:b", "DNS:a", "IP:192.0.2.1", "URI:spiffe://a"], extended_usages=["client auth"]
    ).facts
    made = entry_that_fixes(entry(), old)
    assert made == {
        "name": "app", "subject": "CN=app", "usages": ["client auth", "digital signature", "key encipherment"],
        "names": ["DNS:a", "DNS:b", "IP:192.0.2.1"],
    }  # fmt: skip
