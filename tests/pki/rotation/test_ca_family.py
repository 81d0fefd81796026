"""A family: the certificates of its CA, the one that signs, and its leaves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.rotation.ca_family import Family, family_of
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_intermediate, make_leaf

AUTHORITY = CertificateSpec(name="ca", path="/pki/ca.crt", key="/pki/ca.key", authority=True)
OLD, NEW = make_ca(), make_ca()


def seen(
    *bundle: Issued, key: Issued | None = OLD, unknown: bool = False, leaves: dict[str, tuple[Issued, ...]],
    ca: tuple[str, ...] = ("ca",),
) -> Family | None:  # fmt: skip
    """The family `ca` of a node with this bundle, this key and these leaves."""
    found = [
        Observation(
            f"ca#{number}" if number else "ca", AUTHORITY, AUTHORITY.path, (each.facts,),
            key=key.facts.key if key and not number else None, key_unknown=unknown and not number,
        )
        for number, each in enumerate(bundle)
    ]  # fmt: skip
    for name, chain in leaves.items():
        spec = CertificateSpec(name=name, path=f"/pki/{name}.crt", ca=ca, usages=("client auth",))
        found.append(Observation(name, spec, spec.path, tuple(each.facts for each in chain)))
    return family_of(assess(Inventory(tuple(found)), NOW), "ca")


def test_the_signing_certificate_is_first() -> None:
    """Of the trusted certificates that of the key on this node is the first present one, at any position in the
    file.
    """
    family = seen(NEW, OLD, leaves={})
    assert family
    assert family.trusted == (NEW.facts, OLD.facts)
    assert family.present == (OLD.facts, NEW.facts)
    assert (family.holds_key, family.key) == (True, OLD.facts.key)


def test_without_a_key() -> None:
    """Without a readable key, the order of the file decides."""
    for unknown in (False, True):
        family = seen(NEW, OLD, key=None, unknown=unknown, leaves={})
        assert family
        assert family.present == (NEW.facts, OLD.facts)
        assert (family.holds_key, family.key) == (unknown, None)


def test_the_leaves_of_each_ca() -> None:
    """The signature decides, not the name, also through an intermediate, while it is valid."""
    sub = make_intermediate(OLD, "sub")
    family = seen(
        OLD, NEW,
        leaves={"old": (make_leaf(OLD),), "new": (make_leaf(NEW),), "below": (make_leaf(sub), sub),
                "expired": (make_leaf(OLD, not_after=NOW - DAY),), "absent": ()},
    )  # fmt: skip
    assert family
    assert [leaf.name for leaf in family.leaves] == ["old", "new", "below", "expired"]
    assert [leaf.name for leaf in family.signed_by(OLD.facts, NOW)] == ["old", "below"]
    assert [leaf.name for leaf in family.signed_by(NEW.facts, NOW)] == ["new"]


def test_a_self_signed_certificate_is_no_leaf_of_the_ca() -> None:
    """The certificate that a kubelet creates for itself stays in a rotation. Its entry also accepts the CA."""
    own = make_ca("worker-1-ca")
    leaves = {"own": (make_leaf(own), own), "issued": (make_leaf(OLD),)}
    family = seen(OLD, leaves=leaves, ca=("self", "ca"))
    assert family
    assert [leaf.name for leaf in family.leaves] == ["issued"]


def test_the_end_of_future_leaves() -> None:
    """The longest validity counts, the general one for an entry without it, and the calendar is the limit."""
    family = seen(OLD, leaves={"a": (make_leaf(OLD),)})
    assert family
    assert family.leaves_end(NOW, YEAR) == NOW + YEAR
    longer = replace(family, leaves=(replace(family.leaves[0], validity=2 * YEAR), *family.leaves))
    assert longer.leaves_end(NOW, YEAR) == NOW + 2 * YEAR
    assert family.leaves_end(NOW, timedelta.max) == datetime.max.replace(tzinfo=UTC)


def test_no_family() -> None:
    """An entry that is not in the catalogue, does not exist, or is no trust anchor has no family."""
    assert seen(leaves={"a": (make_leaf(OLD),)}) is None
    leaf = CertificateSpec(name="ca", path="/pki/ca.crt")
    assert family_of(assess(Inventory((Observation("ca", leaf, leaf.path, (OLD.facts,)),)), NOW), "ca") is None
