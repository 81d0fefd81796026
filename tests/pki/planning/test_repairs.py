"""The repair of damaged files as a step: the obstacles of a new certificate, and their messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.repairable_damage import new_template, obstacle, remedy
from certmond.pki.catalog.observation import Inventory, Observation, Salvage
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Held, Issue, Restore
from certmond.pki.services.staleness import Surroundings
from certmond.pki.signing.template import Template
from tests.builders import NOW, SECOND, YEAR, make_ca, make_leaf
from tests.pki.assessment.test_repairable_damage import CA, GONE, GOOD, SPEC, TERMS, archived, only
from tests.pki.planning.test_renewals import AUTHORITY, CA_KEY, FACTS, KEY, ROOT, row, see


def cured(
    seen: Observation,
    *others: Observation,
    ca: Observation = CA,
    salvage: Salvage | None = None,
    asked: frozenset[str] | None = frozenset({"leaf"}),
    policy: Policy = Policy(),  # noqa: B008 - immutable
) -> Issue | Restore | Held:
    """Return the step or hold for the entry `leaf`, for a command with `asked`, or for the daemon with None."""
    around = Surroundings(salvage={seen.identity: salvage or Salvage()})
    assessment = assess(Inventory((ca, seen, *others), FACTS), NOW, around=around)
    return only(plan(assessment, policy, {}, Circumstances(), asked))


def fixing(**fields: Any) -> Observation:
    """The entry `leaf` without its files. It fixes also this."""
    return replace(GONE, spec=row("leaf", **({"subject": "CN=leaf", "usages": ["client auth"]} | fields)))


def test_an_external_signer_selects_the_end() -> None:
    """The step states the end that certmond requests, because an external signer can select another end."""
    for kind, promise in (("local", "valid"), ("command", "validity requested")):
        found = cured(fixing(signer="site"), policy=Policy(signers={"site": kind}))
        assert isinstance(found, Issue)
        assert f"; signer site, {promise} until {found.template.not_after:%Y-%m-%d %H:%M} UTC" in found.detail


def test_a_damaged_pair_gets_a_new_key() -> None:
    """The certificate that repairs damaged files gets a new key."""
    found = cured(GONE)
    assert isinstance(found, Issue)
    assert not found.keep_key


def test_an_expired_ca_issues_nothing() -> None:
    """No component would accept it: the CA must be rotated. A valid CA issues certificates that end with it at the
    latest.
    """
    for end, issued in ((NOW - SECOND, False), (NOW, False), (NOW + SECOND, True)):
        ca = see(AUTHORITY, make_ca(key=CA_KEY, not_before=NOW - YEAR, not_after=end))
        found = cured(GONE, ca=ca)
        if issued:
            assert isinstance(found, Issue)
            assert found.template.not_after == end
        else:
            assert isinstance(found, Held)
            assert found.because == (
                f"/pki/leaf.crt is not there; the CA expired on {end:%Y-%m-%d %H:%M} UTC; rotate the CA"
            )


@pytest.mark.parametrize(
    ("fields", "fact"),
    [({"subject": "C=Germany,CN=leaf"}, "length must be >= 2 and <= 2"), ({"names": ["DNS:größe"]}, "A-label")],
    ids=["subject", "name"],
)
def test_an_impossible_entry_must_be_corrected(fields: dict[str, Any], fact: str) -> None:
    """The message has the subject or name that X.509 cannot represent, with the reason."""
    found = cured(fixing(**fields))
    assert isinstance(found, Held)
    assert "its entry has a value that no certificate can contain (" in found.because
    assert fact in found.because
    assert found.because.endswith("); correct the entry")


def test_an_unknown_name_waits_for_the_other_damaged_files() -> None:
    """One of them may be the source of the name. Without another damaged file the name stays unknown, and the
    certificate is issued without it.
    """
    seen = fixing(names=["DNS:leaf", "IP:${service_ip}"], usages=["server auth"])
    other = replace(GONE, name="other", spec=replace(SPEC, name="other", path="/pki/other.crt"),
                    path="/pki/other.crt", key_path="/pki/other.key")  # fmt: skip
    waits = cured(seen, other)
    assert isinstance(waits, Held)
    assert waits.because.endswith(
        "; a fact in IP:${service_ip} is unknown until certmond repairs the other damaged files"
    )
    alone = cured(seen)
    assert isinstance(alone, Issue)
    assert [name.value for name in alone.template.names] == ["leaf"]
    assert isinstance(cured(fixing(names=["DNS:leaf"]), other), Issue)


@pytest.mark.parametrize(
    ("fields", "ca", "said"),
    [
        ({"ca": []}, CA, "no CA of the catalogue signs this certificate; set `ca` or `signer` in its entry"),
        ({"ca": ["another"]}, CA, "the entry another contains no certificate; restore the CA first"),
        ({}, see(AUTHORITY), "the CA file of the entry ca contains no certificate; restore the CA first"),
        ({}, see(AUTHORITY, make_ca(serial=-1)), "the CA /pki/ca.crt is unusable ("),
    ],
    ids=["none configured", "not in the catalogue", "gone", "refused"],
)
def test_a_ca_that_cannot_sign_is_named(fields: dict[str, Any], ca: Observation, said: str) -> None:
    """The CA is not in the catalogue, its file has no certificate, or Go or cryptography cannot read it."""
    found = cured(fixing(**fields), ca=ca)
    assert isinstance(found, Held)
    assert said in found.because
    named = ca if "ca" not in fields else None
    assert said in str(obstacle(fixing(**fields), "local", named))


def test_a_signer_elsewhere_needs_no_ca_on_this_node() -> None:
    """The signer has the key: the certificate ends according to the policy."""
    spec = row("leaf", ca=["another"], signer="remote", subject="CN=leaf")
    made = new_template(replace(GONE, spec=spec), Salvage(), TERMS, signer="command", authority=None)
    assert isinstance(made, Template)
    assert made.not_after == NOW + YEAR


def test_a_certificate_of_another_service_is_left_to_it() -> None:
    """The remedy names the service that renews it, and no command."""
    seen = fixing(renewed_by="the start of k3s")
    assert obstacle(seen, "local", CA) == "certmond does not renew this certificate; it is renewed by the start of k3s"
    assert remedy(seen, Salvage(), FACTS, known=None) == (
        "certmond does not repair this certificate; it is renewed by the start of k3s"
    )
    found = cured(seen)
    assert isinstance(found, Held)
    assert found.because == (
        "/pki/leaf.crt is not there; certmond does not renew this certificate; it is renewed by the start of k3s"
    )


def test_a_kubeconfig_is_not_created_without_its_server() -> None:
    """If no file of the node has the address of the API server, the remedy is `certmond init`. Otherwise it is
    created.
    """
    spec = row("leaf", kind="kubeconfig", path="/etc/leaf.conf", key=None, subject="CN=leaf", embedded_ca="ca")
    seen = replace(GONE, spec=spec, path=spec.path, key_path=spec.path)
    salvage = Salvage()
    made = new_template(seen, salvage, TERMS, signer="local", authority=CA)
    assert (
        made == "no file on this node contains the address of the API server; "
        "move /etc/leaf.conf away, then run: certmond init"
    )
    salvage = Salvage(server=("kubernetes", "https://10.0.0.1:6443"))
    assert isinstance(new_template(seen, salvage, TERMS, signer="local", authority=CA), Template)


def test_no_key_is_written_where_another_user_could_take_it() -> None:
    """This holds for the archive and for a new key."""
    barrier = "/pki may be written by others"
    for good in ((), (("000001-x", GOOD.certificates[0]),)):
        found = cured(GONE, salvage=Salvage(good, barrier=barrier))
        assert isinstance(found, Held)
        assert found.because == f"/pki/leaf.crt is not there; {barrier}"


def test_a_server_does_not_lose_a_name_that_its_entry_does_not_fix() -> None:
    """The daemon issues none without it. A command does."""
    seen = fixing(names=["DNS:leaf"], usages=["digital signature", "server auth"])
    salvage = Salvage(kept=(archived("DNS:leaf", "DNS:former").facts,))
    found = cured(seen, salvage=salvage, asked=None)
    assert isinstance(found, Held)
    assert found.because == (
        "/pki/leaf.crt is not there; the last certificate contained DNS:former, which the entry does not specify; "
        "add the missing names to `names`, or renew without them: certmond renew leaf"
    )
    assert isinstance(cured(seen, salvage=salvage), Issue)


def test_a_shared_pair_is_not_replaced_by_half() -> None:
    """The other entry would have a certificate without its key."""
    other = see(row("other", key="/pki/leaf.key"), make_leaf(ROOT, key=KEY, not_before=NOW, not_after=NOW + YEAR))
    found = cured(GONE, other)
    assert isinstance(found, Held)
    assert found.because == (
        "/pki/leaf.crt is not there; the entry shares its key /pki/leaf.key with other; restore the pair from a backup"
    )


def test_a_pair_of_two_entries_is_repaired_once() -> None:
    """The step for the first entry also repairs the files of the second entry."""
    other = replace(GONE, name="other", spec=row("other", path=GONE.path, key=GONE.key_path))
    around = Surroundings(salvage={each.identity: Salvage() for each in (GONE, other)})
    found = plan(assess(Inventory((CA, GONE, other), FACTS), NOW, around=around), Policy(), {}, Circumstances())
    assert [step.target for step in found.steps] == ["leaf"]
    assert found.held == ()
