"""Damaged files as a step: what keeps a new certificate from being issued, and what it says of that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from certmond.pki.assess import assess
from certmond.pki.circumstances import Circumstances, Policy
from certmond.pki.damage import new_template, obstacle, remedy
from certmond.pki.holding import Surroundings
from certmond.pki.inventory import Inventory, Observation, Salvage
from certmond.pki.issuance import Template
from certmond.pki.plan import plan
from certmond.pki.steps import Held, Issue, Restore
from tests.builders import NOW, SECOND, YEAR, make_ca, make_leaf
from tests.pki.test_damage import CA, GONE, GOOD, SPEC, TERMS, archived, only
from tests.pki.test_plan import AUTHORITY, CA_KEY, FACTS, KEY, ROOT, row, see


def cured(
    seen: Observation,
    *others: Observation,
    ca: Observation = CA,
    salvage: Salvage | None = None,
    asked: frozenset[str] | None = frozenset({"leaf"}),
) -> Issue | Restore | Held:
    """What is done about the entry `leaf`, which somebody asks to put right; with None, the daemon does."""
    around = Surroundings(salvage={seen.identity: salvage or Salvage()})
    assessment = assess(Inventory((ca, seen, *others), FACTS), NOW, around=around)
    return only(plan(assessment, Policy(), {}, Circumstances(), asked))


def fixing(**fields: Any) -> Observation:
    """The entry `leaf` without its files. It fixes also this."""
    return replace(GONE, spec=row("leaf", **({"subject": "CN=leaf", "usages": ["client auth"]} | fields)))


def test_a_ca_that_has_ended_signs_nothing_anew() -> None:
    """Nobody would accept it: the CA is to be rotated. As long as the CA is valid, what it signs ends with it."""
    for end, issued in ((NOW - SECOND, False), (NOW, False), (NOW + SECOND, True)):
        ca = see(AUTHORITY, make_ca(key=CA_KEY, not_before=NOW - YEAR, not_after=end))
        found = cured(GONE, ca=ca)
        if issued:
            assert isinstance(found, Issue)
            assert found.template.not_after == end
        else:
            assert isinstance(found, Held)
            assert found.because == (
                f"/pki/leaf.crt is not there; its CA ended on {end:%Y-%m-%d %H:%M} UTC: rotate the CA"
            )


@pytest.mark.parametrize(
    ("fields", "fact"),
    [({"subject": "C=Germany,CN=leaf"}, "length must be >= 2 and <= 2"), ({"names": ["DNS:größe"]}, "A-label")],
    ids=["subject", "name"],
)
def test_an_entry_that_asks_for_the_impossible_is_to_be_corrected(fields: dict[str, Any], fact: str) -> None:
    """A subject or a name that X.509 has no form for, with what is wrong with it."""
    found = cured(fixing(**fields))
    assert isinstance(found, Held)
    assert "its entry asks for what no certificate can say (" in found.because
    assert fact in found.because
    assert found.because.endswith("); correct it")


def test_a_name_that_the_node_does_not_tell_waits_for_the_other_damaged_files() -> None:
    """One of them may be the file that tells it. Where no other file is damaged, nothing will tell it any more, and the
    certificate is issued without that name.
    """
    seen = fixing(names=["DNS:leaf", "IP:${service_ip}"], usages=["server auth"])
    other = replace(GONE, name="other", spec=SPEC.model_copy(update={"name": "other", "path": "/pki/other.crt"}),
                    path="/pki/other.crt", key_path="/pki/other.key")  # fmt: skip
    waits = cured(seen, other)
    assert isinstance(waits, Held)
    assert waits.because.endswith(
        "; IP:${service_ip} is not known on this node before the other damaged files are right"
    )
    alone = cured(seen)
    assert isinstance(alone, Issue)
    assert [name.value for name in alone.template.names] == ["leaf"]
    assert isinstance(cured(fixing(names=["DNS:leaf"]), other), Issue)


@pytest.mark.parametrize(
    ("fields", "ca", "said"),
    [
        ({"ca": []}, CA, "no CA of the catalogue signs it; name its `ca`, or a `signer`"),
        ({"ca": ["another"]}, CA, "the file of its CA, the entry another, holds no certificate; put the CA back first"),
        ({}, see(AUTHORITY), "the file of its CA, the entry ca, holds no certificate; put the CA back first"),
        ({}, see(AUTHORITY, make_ca(serial=-1)), "the certificate of its CA, /pki/ca.crt, is refused ("),
    ],
    ids=["none is named", "not in the catalogue", "gone", "refused"],
)
def test_a_ca_that_cannot_sign_is_named(fields: dict[str, Any], ca: Observation, said: str) -> None:
    """It is none of the catalogue's, its file holds no certificate, or Go or cryptography does not read that."""
    found = cured(fixing(**fields), ca=ca)
    assert isinstance(found, Held)
    assert said in found.because
    named = ca if "ca" not in fields else None
    assert said in str(obstacle(fixing(**fields), "local", named))


def test_a_signer_elsewhere_needs_no_ca_on_this_node() -> None:
    """It has the key: the certificate ends when the policy says."""
    spec = row("leaf", ca=["another"], signer="remote", subject="CN=leaf")
    made = new_template(replace(GONE, spec=spec), Salvage(), TERMS, signer="command", authority=None)
    assert isinstance(made, Template)
    assert made.not_after == NOW + YEAR


def test_what_another_service_renews_is_theirs_to_put_right() -> None:
    """The remedy says by what it is renewed, and names no command."""
    seen = fixing(renewed_by="the start of k3s")
    assert obstacle(seen, "local", CA) == "it is not renewed by certmond but by the start of k3s"
    assert remedy(seen, Salvage(), FACTS, known=None) == (
        "certmond does not put it right: it is renewed by the start of k3s"
    )


def test_a_kubeconfig_is_not_made_without_its_server() -> None:
    """Where nothing on the node says where the API server is, the way is by `certmond init`; else it is made."""
    spec = row("leaf", kind="kubeconfig", path="/etc/leaf.conf", key=None, subject="CN=leaf", embedded_ca="ca")
    seen = replace(GONE, spec=spec, path=spec.path, key_path=spec.path)
    salvage = Salvage()
    made = new_template(seen, salvage, TERMS, signer="local", authority=CA)
    assert made == "where its API server is, nothing here says; move /etc/leaf.conf away, then: certmond init"
    salvage = Salvage(server=("kubernetes", "https://10.0.0.1:6443"))
    assert isinstance(new_template(seen, salvage, TERMS, signer="local", authority=CA), Template)


def test_no_key_is_written_where_somebody_else_could_take_it() -> None:
    """Neither from the archive nor a new one."""
    barrier = "/pki may be written by others"
    for good in ((), (("000001-x", GOOD.certificates[0]),)):
        found = cured(GONE, salvage=Salvage(good, barrier=barrier))
        assert isinstance(found, Held)
        assert found.because == f"/pki/leaf.crt is not there; {barrier}"


def test_a_server_does_not_lose_a_name_that_its_entry_does_not_fix() -> None:
    """By itself certmond issues none without it; who asks for the certificate gets one."""
    seen = fixing(names=["DNS:leaf"], usages=["digital signature", "server auth"])
    salvage = Salvage(kept=(archived("DNS:leaf", "DNS:former").facts,))
    found = cured(seen, salvage=salvage, asked=None)
    assert isinstance(found, Held)
    assert found.because == (
        "/pki/leaf.crt is not there; the last one had DNS:former, which its entry does not fix; "
        "name it there as `names`, or do without: certmond renew leaf"
    )
    assert isinstance(cured(seen, salvage=salvage), Issue)


def test_of_a_pair_that_is_shared_no_half_is_made_anew() -> None:
    """The other entry would have a certificate without its key."""
    other = see(row("other", key="/pki/leaf.key"), make_leaf(ROOT, key=KEY, not_before=NOW, not_after=NOW + YEAR))
    found = cured(GONE, other)
    assert isinstance(found, Held)
    assert found.because == (
        "/pki/leaf.crt is not there; shares its key /pki/leaf.key with other; put the pair back from a backup"
    )
