"""Rules for files: read and parse errors, modes and owners, repeated damage, and the service-account key pair.

`certificate_rules` contains the rules for certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from shlex import quote

from certmond.pki.assessment.missing_ca_certificate import with_ca_remedy
from certmond.pki.assessment.renewal_attempt import IN_A_ROW
from certmond.pki.assessment.repairable_damage import damage, last_issued, remedy, unneeded_damage, unneeded_remedy
from certmond.pki.assessment.rule_input import fault_finding, finding
from certmond.pki.assessment.service_rules import served_before_restart
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation, Permissions, Salvage
from certmond.pki.findings import Finding, Reason, Remedy, Severity, printable
from certmond.pki.services.serving_request_state import with_request
from certmond.pki.services.staleness import NOWHERE, Presence, ServedAt
from certmond.pki.x509.certificate import Certificate


def about_files(seen: Observation, presence: Presence = NOWHERE) -> Iterator[Finding]:
    """Yield the findings about read errors, parse errors, wrong modes and wrong owners of an entry's files.

    If the serving certificate of the kubelet is missing, `presence` contains the state of the kubelet's request, and
    the certificate that the kubelet serves.
    """
    served = served_before_restart(seen, presence)
    if served:
        yield _before_restart(seen.path, served)
    for fault in () if served else seen.faults:
        known = with_request(fault, presence.request) if presence.request else fault
        yield fault_finding(with_ca_remedy(known, seen, presence.salvage))
    for permissions in seen.permissions:
        yield from _too_open(permissions, seen.spec)
        owner = seen.spec.owner
        if owner and not permissions.belong_to(owner):
            fact = f"{permissions.path} belongs to {permissions.owner}, but the entry requires {owner}"
            yield finding(Reason.WRONG_OWNER, f"{fact}; run: chown {owner} {quote(permissions.path)}")


def _before_restart(path: str, served: ServedAt) -> Finding:
    """Return the finding for a missing certificate that the kubelet requests after its next start."""
    fact = (
        f"{path} does not exist: the kubelet serves another certificate at {served.endpoint}, and requests this "
        "certificate only after a restart"
    )
    remedy = (
        "run `systemctl restart kubelet`, find the new request of this node with `kubectl get csr`, then run: "
        "kubectl certificate approve NAME"
    )
    return finding(Reason.MISSING, f"{fact}; {remedy}", Severity.WARNING)


def about_damage(
    findings: Iterable[Finding], seen: Observation, salvage: Salvage | None, now: datetime, *,
    facts: Mapping[str, str], known: Certificate | None, issuers: Sequence[Certificate],
) -> tuple[Finding, ...]:  # fmt: skip
    """Return `findings` with the remedy for this node in each finding about damage to the entry's files.

    If the node does not refer to the damaged files, the remedy is the restoration from the archive, if possible.

    If certmond has repaired the damaged files in the last two hours, the result also contains the finding
    `breaks_again`. `known` is the last certificate of these files. The function ignores `known` if no certificate in
    `issuers` signed `known`. If `salvage` is None, the findings are unchanged.
    """
    if salvage is None:
        return tuple(findings)
    what, issued = damage(seen), last_issued(known, issuers)
    command = remedy(seen, salvage, facts, known=issued) if what else None
    if unneeded_damage(seen):
        command = unneeded_remedy(seen, salvage, facts, known=issued)
    if command is None:
        return tuple(_with_archived_key(item, salvage) for item in findings)
    found = list[Finding]()
    for item in findings:
        fact, _, usual = item.message.partition("; ")
        own = any(path and path in fact for path in (seen.path, seen.key_path))
        of_damage = item.reason.remedy is Remedy.REPAIR or item.reason is Reason.EMBEDDED_CA_DIFFERS
        repairable = own and of_damage and usual
        found.append(replace(item, message=printable(f"{fact}; {command}")) if repairable else item)
    if what and salvage.repaired_at and now - salvage.repaired_at < IN_A_ROW:
        often = "once" if salvage.repairs == 1 else f"{salvage.repairs} times"
        last = f"{salvage.repaired_at:%Y-%m-%d %H:%M:%S} UTC"
        fact = f"{what}, although certmond has repaired the file {often}, last on {last}"
        found.append(
            finding(
                Reason.BREAKS_AGAIN,
                f"{fact}; find the program or disk that damages the file; to see the next repair, run: certmond plan",
            )
        )
    return tuple(found)


def _with_archived_key(item: Finding, salvage: Salvage) -> Finding:
    """Return the finding. If the archive contains the missing key of a CA, name the archive in the remedy."""
    if salvage.key_directory is None or item.reason not in {Reason.KEY_MISSING, Reason.KEY_MISMATCH}:
        return item
    fact = item.message.partition("; ")[0]
    return replace(
        item, message=printable(f"{fact}; copy the key of the CA from the archived files in {salvage.key_directory}")
    )


def _too_open(permissions: Permissions, spec: CertificateSpec) -> Iterator[Finding]:
    # If the catalogue sets no mode, all users may read a certificate file, and only its owner may write the file.
    allowed = spec.key_mode if permissions.secret else 0o755 if spec.mode is None else spec.mode
    if excess := permissions.mode & ~allowed & 0o777:
        readable = permissions.secret and excess & 0o004
        yield finding(
            Reason.TOO_OPEN,
            f"{permissions.path} has mode {permissions.mode:04o}, but the maximum is {allowed:04o}; "
            f"run: chmod {permissions.mode & allowed:04o} {quote(permissions.path)}",
            Severity.CRITICAL if readable else None,
        )


def about_key_pair(seen: Observation) -> Iterator[Finding]:
    """Yield a finding if the private service-account key is required but missing, or does not match the public key.

    Every API server must verify the tokens of every controller manager, so the keys must match.
    """
    if seen.spec.kind is not Kind.KEY_PAIR or seen.public_key is None:
        return
    if seen.key is None and not seen.key_unknown and not seen.spec.key_optional:
        yield finding(
            Reason.KEY_MISSING,
            f"{seen.key_path}, the private key of {seen.path}, is missing; copy the pair from another control-plane "
            "node",
        )
    elif seen.key is not None and seen.key.der != seen.public_key.der:
        yield finding(
            Reason.SERVICE_ACCOUNT_KEY_MISMATCH,
            f"{seen.path} is not the public key of {seen.key_path}, so API servers reject tokens signed on this node; "
            "restore the pair that all control-plane nodes share",
        )
