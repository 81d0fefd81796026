"""Findings about other programs on the node that renew the same certificates as certmond."""

from __future__ import annotations

from collections.abc import Iterator

from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.other_renewer_spec import KUBEADM_FILES, Renewer, RenewerSpec
from certmond.pki.catalog.settings import NO_SIGNER
from certmond.pki.findings import Fault, Reason

_ENDS = tuple(f"/{name}" for name in KUBEADM_FILES)


def second_renewers(inventory: Inventory) -> Iterator[Observation]:
    """Yield an observation with the fault `second_renewer` for each program in the inventory.

    Yield nothing if certmond renews none of the certificates that `kubeadm certs renew all` renews on this node. In
    observe mode, the inventory contains no programs.
    """
    if not inventory.renewers:
        return
    shared = [seen.name for seen in inventory.observations if _is_shared(seen)]
    for renewer in inventory.renewers if shared else ():
        fault = Fault(Reason.SECOND_RENEWER, _fact(renewer, shared), renewer.stop)
        spec = RenewerSpec(name=renewer.name, path=renewer.path)
        yield Observation(renewer.name, spec, renewer.path, faults=(fault,))


def _is_shared(seen: Observation) -> bool:
    """Return whether certmond renews the certificate, and `kubeadm certs renew all` also renews it."""
    spec = seen.spec
    is_renewed = not (spec.renewed_by or spec.signer == NO_SIGNER)
    return is_renewed and bool(seen.certificates) and seen.name == spec.name and seen.path.endswith(_ENDS)


def _fact(renewer: Renewer, shared: list[str]) -> str:
    where = f"line {renewer.line} of {renewer.path}" if renewer.line else renewer.path
    command = f"starts {renewer.script}, which runs" if renewer.script else "runs"
    more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
    return f"{where} {command} `kubeadm certs renew`, but certmond also renews these certificates ({shared[0]}{more})"
