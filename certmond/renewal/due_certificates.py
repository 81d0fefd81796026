"""The certificates that certmond may renew now, for the lookup of their origin."""

from __future__ import annotations

import math
from array import array
from datetime import datetime

from certmond.config.model import Config
from certmond.pki.assessment.validity_rules import renewal_point
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.settings import LOCAL, NO_SIGNER
from certmond.unchanged_ends import unchanged_ends

_WITH_A_KEY = frozenset({LOCAL, "kubeadm"})  # kinds of signers that need the key of the CA on this node
_RENEWED = frozenset({Kind.FILE, Kind.KUBECONFIG, Kind.KUBELET})


class DueCertificates:
    """The due certificates of a configuration.

    A call reuses the renewal points of the last call for the unchanged entries at the start and at the end.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._signers = {spec.name: spec.kind for spec in config.signers}
        self._observations: tuple[Observation, ...] = ()
        self._starts = array("d")

    def of(
        self, inventory: Inventory, now: datetime, *, family: str | None = None, everything: bool = False
    ) -> list[Observation]:
        """Return the certificates in `inventory` that certmond may renew at `now` (aware, UTC).

        `family` adds the certificates of this CA, and `everything` adds all certificates that certmond renews. Omit
        certificates whose signer needs a CA key that is not on this node.
        """
        keys = {each.name for each in inventory.observations if each.spec.authority and (each.key or each.key_unknown)}
        due, at = list[Observation](), now.timestamp()
        self._update_starts(inventory.observations)
        for seen, start in zip(inventory.observations, self._starts, strict=True):
            if start == math.inf or not (everything or family in seen.spec.ca or at >= start or _is_early(seen, now)):
                continue
            if self._signers.get(seen.spec.signer or LOCAL, LOCAL) not in _WITH_A_KEY or not keys.isdisjoint(
                seen.spec.ca
            ):
                due.append(seen)
        return due

    def _update_starts(self, observations: tuple[Observation, ...]) -> None:
        head, tail = unchanged_ends(observations, self._observations)
        changed = array("d", map(self._start, observations[head : len(observations) - tail]))
        self._starts[head : len(self._starts) - tail] = changed
        self._observations = observations

    def _start(self, seen: Observation) -> float:
        """Return the Unix time from which certmond may renew the certificate, or infinity for never."""
        spec = seen.spec
        if seen.name != spec.name or spec.authority or spec.kind not in _RENEWED or not seen.certificates:
            return math.inf
        if spec.signer == NO_SIGNER or spec.renewed_by:
            return math.inf
        point = renewal_point(seen.certificates[0], spec, self._config.renew_before)
        try:
            return (point - self._config.spread).timestamp()
        except OverflowError:
            return point.timestamp()


def _is_early(seen: Observation, now: datetime) -> bool:
    """Return whether certmond may renew the certificate before its renewal point."""
    return now < seen.certificates[0].not_before or seen.symlink is False
