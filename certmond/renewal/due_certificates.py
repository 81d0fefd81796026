"""The certificates that certmond may renew now, for the lookup of their origin."""

from __future__ import annotations

import math
from array import array
from datetime import datetime
from itertools import chain, repeat

from certmond.config.model import Config
from certmond.pki.assessment.validity_rules import renewal_point
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.settings import LOCAL, NO_SIGNER

_WITH_A_KEY = frozenset({LOCAL, "kubeadm"})  # kinds of signers that need the key of the CA on this node
_RENEWED = frozenset({Kind.FILE, Kind.KUBECONFIG, Kind.KUBELET})


class DueCertificates:
    """The due certificates of a configuration.

    A call reuses the renewal points of the last call for unchanged entries at the same position.
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
        starts, due, at = array("d"), list[Observation](), now.timestamp()
        known = zip(chain(self._observations, repeat(None)), chain(self._starts, repeat(math.inf)), strict=False)
        for seen, (former, known_start) in zip(inventory.observations, known, strict=False):
            starts.append(start := known_start if seen is former else self._start(seen))
            if start == math.inf or not (everything or family in seen.spec.ca or at >= start or _is_early(seen, now)):
                continue
            if self._signers.get(seen.spec.signer or LOCAL, LOCAL) not in _WITH_A_KEY or not keys.isdisjoint(
                seen.spec.ca
            ):
                due.append(seen)
        self._observations, self._starts = inventory.observations, starts
        return due

    def _start(self, seen: Observation) -> float:
        """Return the Unix time from which certmond may renew the certificate, or infinity if it never renews it."""
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
