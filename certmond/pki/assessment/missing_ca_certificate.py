"""Missing and damaged CA certificates: the remedy for the file, and the obstacle to renewals under the CA."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from shlex import quote

from certmond.pki.catalog.observation import Observation, Salvage
from certmond.pki.findings import Fault, Reason


def lacks_ca_certificate(seen: Observation) -> bool:
    """Return whether the file of a CA is missing, or contains no undamaged certificate."""
    damaged = any(fault.reason in {Reason.MISSING, Reason.MALFORMED} for fault in seen.faults)
    return seen.spec.authority and not seen.spec.is_glob and not seen.certificates and damaged


def with_ca_remedy(fault: Fault, seen: Observation, salvage: Salvage | None) -> Fault:
    """Return the fault. If a CA certificate is missing or damaged, add the command that restores its file."""
    if fault.remedy or seen.path not in fault.detail or not lacks_ca_certificate(seen):
        return fault
    if salvage and salvage.copy_command:
        return replace(fault, remedy=f"restore the CA from a copy on this node: {salvage.copy_command}")
    return replace(fault, remedy=f"restore the CA from a backup, or {ca_copy_remedy(seen.path)}")


def ca_copy_remedy(path: str) -> str:
    """Return the remedy that copies the CA certificate at `path` from another node, with a command."""
    return f"copy the file from another control-plane node: scp NODE:{quote(path)} {quote(path)}"


def missing_ca(names: Iterable[str]) -> str:
    """Return the fact that no CA file of the entries `names` contains a certificate, with the remedy."""
    fact = f"the CA file of the entry {' or '.join(names)} contains no certificate"
    return f"{fact}; restore the CA first, with the command in the output of: certmond check"


def missing_ca_of(name: str, observations: Iterable[Observation]) -> str | None:
    """Return the text of `missing_ca` if the certificate of the CA entry `name` is missing or damaged, else None."""
    lacks = any(each.spec.name == name and lacks_ca_certificate(each) for each in observations)
    return missing_ca([name]) if lacks else None
