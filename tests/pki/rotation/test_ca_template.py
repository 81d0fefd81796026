"""The template of a new Root CA."""

from __future__ import annotations

import pytest

from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.rotation.ca_template import following
from certmond.pki.signing.template import Terms
from tests.builders import NOW, make_ca
from tests.pki.rotation_node import row


@pytest.mark.parametrize(
    ("present", "configured", "wanted"),
    [
        ("ec", None, KeyAlgorithm.ECDSA_P256),
        ("ec", "RSA-3072", KeyAlgorithm.RSA_3072),
        ("ed448", None, KeyAlgorithm.RSA_4096),
    ],
)
def test_a_new_key_has_the_algorithm_of_the_present_key(
    present: str, configured: str | None, wanted: KeyAlgorithm
) -> None:
    """The `key_algorithm` of the entry has precedence. The top-level `key_algorithm` applies if certmond does not
    create keys with the algorithm of the present key.
    """
    spec = row("ca", ca=[], authority=True, usages="cert sign", key_algorithm=configured)
    ca = make_ca(key=present).facts
    assert following(ca, spec, Terms(NOW, None, {}, key=KeyAlgorithm.RSA_4096)).key is wanted
