"""The hash of a CA in a join token: the form of a token, and the hash of a CA file."""

from __future__ import annotations

import hashlib

import pytest

from certmond.pki.rotation.distribution_ca.join_token import ca_hash_in, hash_of_bundle
from certmond.pki.x509.certificate_file_parser import decode
from tests.builders import DAY, NOW, cross_sign, make_ca, make_intermediate
from tests.rancher_stand_in import ca_hash

HASH = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("token", "found"),
    [
        (f"K10{HASH}::server:secret", HASH),
        (f"K10{HASH}::abcdef.0123456789abcdef\n", HASH),
        (f"K10{HASH}", None),
        ("K10::server:secret", None),
        (f"{HASH}::server:secret", None),
        ("secret", None),
        ("", None),
    ],
)
def test_only_a_full_token_contains_a_hash(token: str, found: str | None) -> None:
    assert ca_hash_in(token) == found


def test_one_certificate_is_hashed_as_a_file() -> None:
    ca = make_ca()
    assert hash_of_bundle(ca.pem, (ca.facts,)) == hashlib.sha256(ca.pem).hexdigest() == ca_hash(ca.pem)


def test_several_certificates_have_the_hash_of_their_root_ca() -> None:
    """The result is that of the new Root CA, in any order. It is the hash of the file if there is no Root CA."""
    dates = {"not_before": NOW - DAY, "not_after": NOW + DAY, "names": None}
    old, root = make_ca("old", **dates), make_ca("root", **dates)  # type: ignore[arg-type]
    crossed, own = cross_sign(root, by=old), make_intermediate(root, "own")
    for files in ((own, crossed, root, old), (own, root, crossed, old)):
        content = b"".join(each.pem for each in files)
        found = hash_of_bundle(content, decode(content, "").certificates)
        assert found == root.facts.sha256 == ca_hash(content)
    content = own.pem + old.pem
    assert hash_of_bundle(content, (own.facts, old.facts)) == hashlib.sha256(content).hexdigest() == ca_hash(content)
