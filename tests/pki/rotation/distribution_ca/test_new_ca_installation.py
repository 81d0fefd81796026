"""The check after a restart: leaves of the new CA, and endpoints that serve these leaves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from certmond.pki.assessment.assess import CertificateStatus, assess
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.rotation.distribution_ca.new_ca_installation import is_older, old_parts
from certmond.pki.services.staleness import Presence, ServedAt
from tests.builders import DAY, NOW, Issued, cross_sign, make_ca, make_intermediate, make_leaf

OLD, NEW = make_ca("old"), make_ca("new")
AUTHORITIES = {"client-ca": (NEW.facts, OLD.facts)}


def statuses(
    leaf: Issued | None, *ca: str, renewed: bool = True, served: tuple[ServedAt, ...] = ()
) -> list[CertificateStatus]:
    spec = CertificateSpec(
        name="admin", path="/admin.crt", ca=ca, usages=("client auth",), renewed_by="k3s", consumers=("k3s",),
        renewed_at_start=90 * DAY if renewed else None,
    )  # fmt: skip
    seen = Observation("admin", spec, spec.path, (leaf.facts,) if leaf else ())
    found = assess(Inventory((seen,)), NOW).statuses
    return [replace(each, presence=Presence(served=served)) for each in found]


def test_leaves_of_the_first_certificate_are_new() -> None:
    """A leaf of another certificate in the same file is old."""
    assert [*old_parts(statuses(make_leaf(NEW), "client-ca"), AUTHORITIES)] == []
    found = [*old_parts(statuses(make_leaf(OLD), "client-ca"), AUTHORITIES)]
    assert found == ["/admin.crt has the issuer CN=old, not a new CA"]


def test_only_leaves_of_these_cas_count() -> None:
    """Skip a leaf without a certificate, a leaf that no start issues, and a leaf of a CA that the node lacks."""
    old = make_leaf(OLD)
    for each in (statuses(None, "client-ca"), statuses(old, "client-ca", renewed=False), statuses(old, "other-ca")):
        assert [*old_parts(each, AUTHORITIES)] == []


def test_a_self_signed_leaf_is_accepted_where_the_entry_accepts_it() -> None:
    own = make_ca("own")
    assert [*old_parts(statuses(own, "client-ca", "self"), AUTHORITIES)] == []
    assert len([*old_parts(statuses(own, "client-ca"), AUTHORITIES)]) == 1


def test_an_endpoint_must_serve_the_new_leaf() -> None:
    at = ServedAt(Endpoint.parse("127.0.0.1:6443"), "k3s", "0" * 64, matches=False)
    found = [*old_parts(statuses(make_leaf(NEW), "client-ca", served=(at,)), AUTHORITIES)]
    assert found == ["127.0.0.1:6443 does not serve the certificate in /admin.crt"]
    silent = replace(at, matches=None)
    assert [*old_parts(statuses(make_leaf(NEW), "client-ca", served=(silent,)), AUTHORITIES)] == []


def test_the_order_of_two_replacements() -> None:
    """Each file is older than the next one, and not the other way round. Without its old Root CA, a file is as new as
    before.
    """
    files: list[tuple[Issued, ...]] = [(OLD,)]
    for number in (1, 2):
        before = files[-1][2] if number > 1 else OLD
        root = make_ca(f"root-{number}")
        files.append((make_intermediate(root, f"own-{number}"), cross_sign(root, by=before), root, before))
    bundles = [tuple(each.facts for each in file) for file in files]
    for earlier, later in pairwise(bundles):
        assert is_older(earlier, later)
        assert not is_older(later, earlier)
        assert not is_older(later, later)
    own, _, last, _ = bundles[1]
    assert not is_older((own, last), bundles[1])
    assert not is_older(bundles[1], (own, last))
