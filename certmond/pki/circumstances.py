"""What a plan is made from besides the assessment: what is configured, and what the host says.

Owns these values. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from certmond.pki.catalog import KeyAlgorithm, ServiceSpec
from certmond.pki.holds import NOTHING_REPLACED, Healing


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says of renewing. `signers` has the kind of each by its name."""

    validity: timedelta = timedelta(days=365)
    key: KeyAlgorithm = KeyAlgorithm.RSA_2048
    spread: timedelta = timedelta(days=3)
    signers: Mapping[str, str] = field(default_factory=dict)
    services: Sequence[ServiceSpec] = ()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the host says at this moment: why to wait (`hold`: an upgrade; `clock`: an unsynchronised one), and which
    derived files are to be made again, by name with the reason; `derived` gives their paths and sources. `unsure` are
    the anchors, by name with the reason, of which it is not known that others trust what is signed with them.
    With those of them that are `in_use`, as they signed all leaves of this node, a person may have more signed.
    `healing` is the one that was replaced without a rotation, and is followed now.
    """

    hold: str | None = None
    stale: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    clock: str | None = None
    unsure: Mapping[str, str] = field(default_factory=dict)
    in_use: frozenset[str] = frozenset()
    healing: Healing = NOTHING_REPLACED
