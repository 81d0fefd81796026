"""Policy of renewals, as the planner needs it, from the configuration."""

from __future__ import annotations

from certmond.config.model import Config
from certmond.pki.planning.planner_inputs import Policy


def policy_of(config: Config) -> Policy:
    """Return the renewal policy of the configuration."""
    return Policy(
        validity=config.validity,
        key=config.key_algorithm,
        spread=config.spread,
        signers={spec.name: spec.kind for spec in config.signers},
        services=config.services,
        restarts_for_renewal=config.restart.for_renewal,
    )
