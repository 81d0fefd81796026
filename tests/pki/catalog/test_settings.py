"""Defaults and limits of the settings in the configuration."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from certmond.pki.catalog.settings import ClusterSpec, SignerSpec
from certmond.pki.catalog.validator import validated


def test_a_signer_approves_nothing_and_has_a_short_time_limit_by_default() -> None:
    """These are the defaults of a signer with only a name and a kind."""
    plain = validated(SignerSpec, {"name": "api", "kind": "csr"})
    assert (plain.approve, plain.time_limit.total_seconds()) == (False, 20)


@pytest.mark.parametrize("interval", ["59s", "25h"])
def test_an_interval_outside_of_its_limits_is_refused(interval: str) -> None:
    """The message has both limits."""
    with pytest.raises(ValidationError, match="must be from 1m to 24h"):
        validated(ClusterSpec, {"reader_interval": interval})
