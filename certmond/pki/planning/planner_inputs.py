"""Inputs of the planner in addition to the assessment: the configuration of renewals, and the state of the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.planning.host_hold_rules import NO_REPLACED_CA, ReplacedCA
from certmond.pki.planning.steps import Identity


@immutable
class Policy:
    """Configuration of renewals. `signers` maps the name of each signer to its kind.

    `restarts_for_renewal` permits restarts of services that issue their due certificates again when they start.
    """

    validity: timedelta = timedelta(days=365)
    key: KeyAlgorithm = KeyAlgorithm.RSA_2048
    spread: timedelta = timedelta(days=3)
    signers: Mapping[str, str] = field(default_factory=dict)
    services: Sequence[ServiceSpec] = ()
    restarts_for_renewal: bool = False


@immutable
class Circumstances:
    """State of the host, such as an upgrade in progress or a clock that is not synchronized."""

    hold: str | None = None  # the reason to wait for the end of an upgrade
    stale: Mapping[str, str] = field(default_factory=dict)  # why certmond must write a derived file again
    derived: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # the path and the source of each derived file
    clock: str | None = None  # the reason to wait for a synchronized clock
    unsure: Mapping[str, str] = field(default_factory=dict)  # why other components might not trust an anchor yet
    # The anchors in `unsure` that signed all leaves of this node. These anchors may sign a renewal that an operator
    # requests.
    in_use: frozenset[str] = frozenset()
    replaced_ca: ReplacedCA = NO_REPLACED_CA
    # Certificates that certmond must first compare with the other files of a pattern, because a user can write these.
    uncompared: frozenset[Identity] = frozenset()
    compared_at: datetime | None = None  # the time of the next comparison, or None if it has no known time
