"""Which key may sign tokens after the present one."""

from __future__ import annotations

import pytest

from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.rotation.service_account_key_validation import keys_of, objections
from certmond.pki.x509.public_key import PublicKey
from tests.builders import NOW


def key(algorithm: str, bits: int, der: bytes = b"new") -> PublicKey:
    return PublicKey(algorithm, bits, der)


PRESENT = (key("RSA", 2048, b"old"),)


@pytest.mark.parametrize("new", [("RSA", 2048), ("RSA", 4096), ("ECDSA", 256), ("ECDSA", 384), ("ECDSA", 521)])
def test_what_kubernetes_signs_with_may_follow(new: tuple[str, int]) -> None:
    """RSA of 2048 bits or more, and ECDSA on P-256, P-384 and P-521 (pkg/serviceaccount/jwt.go)."""
    assert list(objections(key(*new), PRESENT, "/new.key")) == []


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (("RSA", 2047), "2047 bits"),
        (("ECDSA", 224), "cannot sign tokens with"),
        (("ECDSA", 385), "cannot sign tokens with"),
        (("Ed25519", 256), "cannot sign tokens with"),
    ],
)
def test_what_it_does_not_sign_with_may_not(new: tuple[str, int], words: str) -> None:
    """The sentence names the file."""
    (said,) = objections(key(*new), PRESENT, "/new.key")
    assert words in said
    assert "/new.key" in said


def test_the_keys_are_those_of_one_entry() -> None:
    """A key pair of another entry, an entry that is no key pair, and a key pair without a public key have none."""
    pairs = ("sa", "other")
    specs = [CertificateSpec(name=name, path=f"/{name}.pub", key=f"/{name}.key", kind=Kind.KEY_PAIR) for name in pairs]
    specs.append(CertificateSpec(name="leaf", path="/leaf.crt"))
    keys = {spec.name: key("RSA", 2048, spec.name.encode()) for spec in specs}
    seen = tuple(
        Observation(spec.name, spec, spec.path, public_keys=(keys[spec.name],), key=keys[spec.name]) for spec in specs
    )
    found = keys_of(assess(Inventory(seen), NOW), "other")
    assert found is not None
    assert (found.spec, found.trusted, found.key, found.holds_key) == (specs[1], (keys["other"],), keys["other"], True)
    assert keys_of(assess(Inventory(seen), NOW), "leaf") is None
    bare = Observation("sa", specs[0], "/sa.pub")
    assert keys_of(assess(Inventory((bare,)), NOW), "sa") is None
