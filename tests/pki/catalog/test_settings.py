"""Defaults of the settings in the configuration."""

from __future__ import annotations

from certmond.pki.catalog.settings import SignerSpec
from certmond.pki.catalog.validator import validated


def test_a_signer_approves_nothing_and_has_a_short_time_limit_by_default() -> None:
    """These are the defaults of a signer with only a name and a kind."""
    plain = validated(SignerSpec, {"name": "api", "kind": "csr"})
    assert (plain.approve, plain.time_limit.total_seconds()) == (False, 20)
