"""The certificates that certmond may renew now, for the lookup of their origin."""

from __future__ import annotations

from datetime import datetime

from certmond.config.model import Config
from certmond.pki.assessment.validity_rules import renewal_point
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.settings import LOCAL, NO_SIGNER
from certmond.pki.planning.steps import Identity

_WITH_A_KEY = frozenset({LOCAL, "kubeadm"})  # kinds of signers that need the key of the CA on this node
_RENEWED = frozenset({Kind.FILE, Kind.KUBECONFIG, Kind.KUBELET})


class DueCertificates:
    """The due certificates of a configuration. This class computes the renewal point of unchanged files once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._signers = {spec.name: spec.kind for spec in config.signers}
        self._since: dict[Identity, tuple[Observation, datetime | None]] = {}

    def of(
        self, inventory: Inventory, now: datetime, *, family: str | None = None, everything: bool = False
    ) -> list[Observation]:
        """Return the certificates in `inventory` that certmond may renew at `now` (aware, UTC).

        `family` adds the certificates of this CA, and `everything` adds all certificates that certmond renews. Omit
        certificates whose signer needs a CA key that is not on this node.
        """
        keys = {each.name for each in inventory.observations if each.spec.authority and (each.key or each.key_unknown)}
        since, due = dict[Identity, tuple[Observation, datetime | None]](), list[Observation]()
        for seen in inventory.observations:
            known = self._since.get(seen.identity)
            start = known[1] if known and seen is known[0] else self._start(seen)
            since[seen.identity] = seen, start
            if start is None or not (everything or family in seen.spec.ca or _is_due(seen, start, now)):
                continue
            if self._signers.get(seen.spec.signer or LOCAL, LOCAL) not in _WITH_A_KEY or not keys.isdisjoint(
                seen.spec.ca
            ):
                due.append(seen)
        self._since = since
        return due

    def _start(self, seen: Observation) -> datetime | None:
        """Return the time from which certmond may renew the certificate, or None if certmond never renews it."""
        spec = seen.spec
        if seen.name != spec.name or spec.authority or spec.kind not in _RENEWED or not seen.certificates:
            return None
        if spec.signer == NO_SIGNER or spec.renewed_by:
            return None
        point = renewal_point(seen.certificates[0], spec, self._config.renew_before)
        try:
            return point - self._config.spread
        except OverflowError:
            return point


def _is_due(seen: Observation, since: datetime, now: datetime) -> bool:
    return now >= since or now < seen.certificates[0].not_before or seen.symlink is False
