"""The policy of renewals that a configuration defines."""

from __future__ import annotations

from datetime import timedelta

from certmond.config.parser import parse
from certmond.config.renewal_policy import policy_of
from certmond.config.source_merger import Source
from certmond.pki.catalog.entries import KeyAlgorithm


def test_a_policy_has_the_values_of_the_configuration() -> None:
    """It has the lifetime, the algorithm, the spread, the kind of each signer, the services and the restarts."""
    text = (
        "validity: 90d\nkey_algorithm: ECDSA-P256\nspread: 1d\nrestart: {for_renewal: true}\n"
        "signers: [{name: token, kind: command, command: [/bin/sign]}, {name: api, kind: csr}]\n"
    )
    config = parse([Source("config.yaml", text)])
    policy = policy_of(config)
    assert (policy.validity, policy.spread) == (timedelta(days=90), timedelta(days=1))
    assert (policy.key, policy.restarts_for_renewal) == (KeyAlgorithm.ECDSA_P256, True)
    assert policy.signers == {"token": "command", "api": "csr"}
    assert policy.services == config.services
