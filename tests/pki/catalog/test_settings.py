"""Defaults and limits of the settings in the configuration."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from certmond.pki.catalog.settings import ArchiveSpec, ClusterSpec, SignerSpec
from certmond.pki.catalog.validator import validated


def test_a_signer_approves_nothing_and_has_a_short_time_limit_by_default() -> None:
    """These are the defaults of a signer with only a name and a kind."""
    plain = validated(SignerSpec, {"name": "api", "kind": "csr"})
    assert (plain.approve, plain.time_limit.total_seconds()) == (False, 20)


def test_the_archive_keeps_three_generations_by_default() -> None:
    """The default of `keep` is 3, and the default of `keep_for` is 400 days."""
    plain = validated(ArchiveSpec, {})
    assert (plain.keep, plain.keep_for.days) == (3, 400)


@pytest.mark.parametrize("name", ["a", "7", "kube-system", "a" * 63])
def test_a_namespace_is_a_label(name: str) -> None:
    """The name of a namespace has 1 to 63 lowercase letters and digits, with "-" only between them."""
    assert validated(ClusterSpec, {"reader_namespaces": [name]}).reader_namespaces == (name,)


@pytest.mark.parametrize("name", ["", "Web", "a.b", "-a", "a-", "a" * 64, "a\n"])
def test_a_namespace_of_another_form_is_refused(name: str) -> None:
    """The message has the permitted characters."""
    with pytest.raises(ValidationError, match="must be a namespace: at most 63 lowercase letters and digits"):
        validated(ClusterSpec, {"reader_namespaces": [name]})


@pytest.mark.parametrize("interval", ["59s", "25h"])
def test_an_interval_outside_of_its_limits_is_refused(interval: str) -> None:
    """The message has both limits."""
    with pytest.raises(ValidationError, match="must be from 1m to 24h"):
        validated(ClusterSpec, {"reader_interval": interval})
