"""Inputs of the planner besides the assessment: the configuration of renewals, and the state of the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from certmond.pki.catalog.entries import KeyAlgorithm, ServiceSpec
from certmond.pki.planning.renewal_holds import NO_REPLACED_CA, ReplacedCA


@dataclass(frozen=True, slots=True)
class Policy:
    """Configuration of renewals. `signers` maps the name of each signer to its kind."""

    validity: timedelta = timedelta(days=365)
    key: KeyAlgorithm = KeyAlgorithm.RSA_2048
    spread: timedelta = timedelta(days=3)
    signers: Mapping[str, str] = field(default_factory=dict)
    services: Sequence[ServiceSpec] = ()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """State of the host. `hold` (an upgrade) and `clock` (a clock that is not synchronized) are reasons to wait.

    `derived` has the path and the source of each derived file. `stale` has the reason for each derived file that
    certmond must write again. `unsure` has the reason for each anchor that other components may not trust yet.
    `in_use` has the names of the anchors in `unsure` that signed all leaves of this node, and that may sign more if an
    operator requests it. `replaced_ca` is a CA that was replaced without a rotation, which a rotation now repairs.
    """

    hold: str | None = None
    stale: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    clock: str | None = None
    unsure: Mapping[str, str] = field(default_factory=dict)
    in_use: frozenset[str] = frozenset()
    replaced_ca: ReplacedCA = NO_REPLACED_CA
