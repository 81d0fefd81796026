"""The policy for files themselves: what reading them met, who may read or write them, and whether two keys are a pair.

Owns these rules and the sentence of each, as `checks` does for certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from certmond.pki.attempt import IN_A_ROW
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.checks import finding, found_in
from certmond.pki.damage import damage, remedy
from certmond.pki.inventory import Observation, Permissions, Salvage
from certmond.pki.reason import Finding, Reason, Severity, printable

_OF_DAMAGE = frozenset(
    {Reason.MISSING, Reason.MALFORMED, Reason.KEY_MISSING, Reason.KEY_MISMATCH, Reason.EMBEDDED_CA_DIFFERS}
)


def about_files(seen: Observation) -> Iterator[Finding]:
    """Findings about the files themselves: what reading them met, and who may read or write them."""
    for fault in seen.faults:
        yield found_in(fault)
    for permissions in seen.permissions:
        yield from _too_open(permissions, seen.spec)
        owner = seen.spec.owner
        if owner and owner not in {permissions.owner, permissions.owner.partition(":")[0]}:
            fact = f"{permissions.path} belongs to {permissions.owner}, expected {owner}"
            yield finding(Reason.WRONG_OWNER, f"{fact}; chown {owner} {permissions.path}")


def about_damage(
    findings: Iterable[Finding], seen: Observation, salvage: Salvage | None, now: datetime, *,
    facts: Mapping[str, str], known: Certificate | None,
) -> tuple[Finding, ...]:  # fmt: skip
    """The findings of damaged files, with the command that puts them right on this node; and that they break again.
    Those of a CA that lacks its key, with where the archive has it. `known` is the last certificate of these files that
    their CA signed.
    """
    if salvage is None:
        return tuple(findings)
    if (what := damage(seen)) is None:
        return tuple(_with_its_place(item, salvage) for item in findings)
    said, command = [], remedy(seen, salvage, facts, known=known)
    for item in findings:
        fact, _, usual = item.message.partition("; ")
        own = any(path and path in fact for path in (seen.path, seen.key_path))
        told = own and item.reason in _OF_DAMAGE and usual
        said.append(replace(item, message=printable(f"{fact}; {command}")) if told else item)
    if salvage.repaired_at and now - salvage.repaired_at < IN_A_ROW:
        often = "once" if salvage.repairs == 1 else f"{salvage.repairs} times"
        last = f"{salvage.repaired_at:%Y-%m-%d %H:%M:%S} UTC"
        fact = f"{what}, and was put right {often}, last on {last}"
        said.append(finding(Reason.BREAKS_AGAIN, f"{fact}; see which program or disk breaks it: certmond plan"))
    return tuple(said)


def _with_its_place(item: Finding, salvage: Salvage) -> Finding:
    """The finding that a CA has no key, with where the archive has it."""
    if salvage.key_in is None or item.reason not in {Reason.KEY_MISSING, Reason.KEY_MISMATCH}:
        return item
    fact = item.message.partition("; ")[0]
    return replace(item, message=printable(f"{fact}; its key is in the archive, copy it back: ls {salvage.key_in}"))


def _too_open(permissions: Permissions, spec: CertificateSpec) -> Iterator[Finding]:
    # Where the catalogue names no mode for a certificate, only writing by others is too much: it is public.
    allowed = spec.key_mode if permissions.secret else 0o755 if spec.mode is None else spec.mode
    if excess := permissions.mode & ~allowed & 0o777:
        readable = permissions.secret and excess & 0o004
        yield finding(
            Reason.TOO_OPEN,
            f"{permissions.path} has mode {permissions.mode:04o}, {allowed:04o} at most is right; "
            f"chmod {permissions.mode & allowed:04o} {permissions.path}",
            Severity.CRITICAL if readable else None,
        )


def about_key_pair(seen: Observation) -> Iterator[Finding]:
    """The service-account keys: every API server must verify what every controller manager signs."""
    if seen.spec.kind is not Kind.KEY_PAIR or seen.public_key is None:
        return
    if seen.key is None and not seen.key_unknown and not seen.spec.key_optional:
        yield finding(Reason.KEY_MISSING, f"{seen.key_path} is not there, the private key of {seen.path}; put it back")
    elif seen.key is not None and seen.key.sha256 != seen.public_key.sha256:
        yield finding(
            Reason.SERVICE_ACCOUNT_KEY_MISMATCH,
            f"{seen.path} is not the public key of {seen.key_path}, so tokens signed here are refused; "
            "put back the pair that all control-plane nodes share",
        )
