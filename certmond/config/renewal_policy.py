"""Policy of renewals and time limits of restarts, as the planner needs them, from the configuration."""

from __future__ import annotations

from certmond.config.model import Config
from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.services.restart_episode import Terms


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


def restart_terms_of(config: Config) -> Terms:
    """Return the time limits of a restart."""
    return Terms(config.restart.ready_within, config.restart.stable, config.restart.spacing)
