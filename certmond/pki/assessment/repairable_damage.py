"""Damaged files of an entry, and their repair from the archive or with a new certificate.

This module decides which entries certmond repairs, and which contents certmond writes. `pki.planning` decides the time
of a repair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from certmond.pki.assessment.missing_ca_certificate import lacks_ca_certificate, missing_ca
from certmond.pki.catalog.entries import SELF, Kind
from certmond.pki.catalog.field_types import expand, subject_attributes
from certmond.pki.catalog.observation import Inventory, Observation, Salvage
from certmond.pki.catalog.settings import LOCAL, NO_SIGNER
from certmond.pki.catalog.unmet_requirements import accepted_subjects, has_accepted_subject
from certmond.pki.findings import Reason, Remedy
from certmond.pki.signing.policy import Basis, Denial, fixed_by, grant, surplus
from certmond.pki.signing.template import Template, Terms, first
from certmond.pki.x509.certificate import Certificate, names_in
from certmond.pki.x509.issuance import is_issued
from certmond.pki.x509.path_building import find_paths

_NEED_CA_KEY = frozenset({LOCAL, "kubeadm"})  # signers that need the key of the CA on this node
_REPAIRED = frozenset({Kind.FILE, Kind.KUBECONFIG, Kind.KUBELET})
_MASTERS = "O=system:masters"
"""The group whose permissions RBAC cannot restrict (k8s.io/apiserver, authentication/user, SystemPrivilegedGroup)."""


def damage(seen: Observation) -> str | None:
    """Return a clause that describes the damage to an entry's files, or None if the files are undamaged.

    Undamaged files contain a certificate, and its key if the entry requires a key. An undamaged kubeconfig also
    contains a usable cluster. The result is also None for files that are unreadable or that certmond does not repair,
    such as trust anchors.
    """
    spec = seen.spec
    if spec.kind not in _REPAIRED or spec.authority or spec.is_glob or spec.password_file or seen.name != spec.name:
        return None
    if not seen.wanted or any(fault.reason in {Reason.UNREADABLE, Reason.NOT_PERMITTED} for fault in seen.faults):
        return None
    if spec.kind is Kind.KUBECONFIG and not seen.renewable:
        return None  # the file to which the kubeconfig refers has a separate entry
    return _pair_damage(seen) or (f"{seen.path}: {seen.broken_cluster}" if seen.broken_cluster else None)


def unneeded_damage(seen: Observation) -> str | None:
    """Return the damage to files to which no other file of the node refers, or None.

    certmond does not repair these files. The operator can restore the files from the archive. The result is None for
    missing files.
    """
    if seen.wanted or seen.requested or any(fault.reason is Reason.MISSING for fault in seen.faults):
        return None
    return damage(replace(seen, wanted=True))


def _pair_damage(seen: Observation) -> str | None:
    """Return the reason why an entry's certificate or required key is damaged, or None if there is no such damage."""
    spec, faults = seen.spec, [fault for fault in seen.faults if fault.reason.remedy is Remedy.REPAIR]
    if not seen.certificates:
        return faults[0].detail if faults else None
    if seen.key_path is None or spec.key_optional:
        return None
    if seen.key is None and (faults or not seen.key_unknown):
        return f"{seen.key_path} contains no private key"
    return f"{seen.key_path} is not the private key of {seen.path}" if seen.key_matches is False else None


def is_cluster_damage(seen: Observation) -> bool:
    """Return whether the cluster of a kubeconfig is damaged, but its certificate and key are undamaged."""
    return bool(damage(seen) and seen.certificates) and _pair_damage(seen) is None


def has_damage(inventory: Inventory) -> bool:
    """Return whether an entry is damaged, or lacks a CA certificate or the key of a CA."""
    kinds = (damage, unneeded_damage, lacks_key, lacks_ca_certificate)
    return any(is_damaged(seen) for seen in inventory.observations for is_damaged in kinds)


def lacks_key(seen: Observation) -> bool:
    """Return whether this node requires the private key of a CA, but the key is missing or does not match the CA."""
    wanted = seen.spec.authority and seen.key_path is not None and not (seen.spec.key_optional or seen.key_unknown)
    return wanted and bool(seen.certificates) and not seen.key_matches


def is_whole(seen: Observation) -> bool | None:
    """Return False for damaged files, True for undamaged files with a certificate, and None for other files."""
    if damage(seen):
        return False
    return True if seen.certificates else None


def generation(
    seen: Observation,
    salvage: Salvage,
    facts: Mapping[str, str],
    *,
    known: Certificate | None,
    under: Certificate | None = None,
) -> tuple[str, Certificate] | None:
    """Return the number and certificate of the newest generation that certmond may restore automatically.

    Returns None if there is no such generation. `known` is the last certificate in these files that the entry's CA
    signed. `under` is the CA that must have signed the certificate of the generation, or None to accept any CA.
    """
    # A restored certificate may contain only what `known` contains or the entry fixes. A stricter rule applies without
    # `known`, or if the certificate that certmond installed last is lost (neither `known` nor archived): the restored
    # certificate may contain only what the entry fixes, and only the attributes of the last subject.
    fixed, archived = fixed_by(seen.spec, facts), {each.sha256 for each in salvage.kept}
    lost = salvage.last is not None and salvage.last not in archived and (known is None or known.sha256 != salvage.last)
    for number, leaf in salvage.good:
        if under and not find_paths(leaf, (under,), ()).paths:
            continue
        if surplus(leaf, known, fixed):
            continue
        if (lost or known is None) and (surplus(leaf, None, fixed) or _has_other_subject(leaf, salvage.subject)):
            continue
        if known is None and not _has_last_subject(leaf, salvage.seen_subject, fixed.subjects):
            continue
        return number, leaf
    return None


def last_issued(certificate: Certificate | None, issuers: Sequence[Certificate]) -> Certificate | None:
    """Return `certificate` if one of `issuers` signed this certificate, otherwise None.

    A certificate from another issuer does not prove which permissions the CA granted.
    """
    return certificate if certificate and is_issued(certificate, (), issuers) else None


def new_template(
    seen: Observation, salvage: Salvage, terms: Terms, *, signer: str, authority: Observation | None,
    known: Certificate | None = None,
) -> Template | str:  # fmt: skip
    """Return a template with only the contents that the entry specifies, or the reason why there is no template.

    `signer` is the kind of the signer. If the entry accepts several subjects, the previous subject of the files takes
    precedence.
    """
    spec = seen.spec
    if why := obstacle(seen, signer, authority):
        return why
    accepted = accepted_subjects(spec, terms.facts)
    if not accepted:
        fact = "the subject in its entry contains an unknown fact" if spec.subject else "its entry specifies no subject"
        return f"{fact}; set `subject` in the entry"
    if spec.kind is Kind.KUBECONFIG and salvage.server is None:
        fact = "no file on this node contains the address of the API server"
        return f"{fact}; move {seen.path} away, then run: certmond init"
    fixed = fixed_by(spec, terms.facts)
    try:
        template = first(spec, _subject(accepted, salvage, known), fixed.names, terms)
    except ValueError as error:
        return f"its entry has a value that no certificate can contain ({error}); correct the entry"
    granted = grant(template, fixed, Basis(barrier=salvage.barrier))
    return (
        f"certmond does not sign the certificate with the CA's key: {granted}"
        if isinstance(granted, Denial)
        else template
    )


def lost_names(
    seen: Observation, template: Template, former: Sequence[Certificate], issuers: Sequence[Certificate]
) -> str:
    """Return the subject alternative names that the template lacks, but the newest certificate in `former` has.

    The result is one string, in which commas separate the names. The newest certificate is the one that expires last.
    Ignores certificates that no CA in `issuers` signed. Returns "" for a client certificate, because servers do not
    verify these names.
    """
    mine = [each for each in former if is_issued(each, (), issuers)]
    newest = max(mine, key=lambda each: each.not_after, default=None)
    return (
        ", ".join(sorted(newest.names - names_in(template.names)))
        if newest and "server auth" in seen.spec.usages
        else ""
    )


def unknown_names(seen: Observation, facts: Mapping[str, str]) -> list[str]:
    """Return the subject alternative names of the entry that contain an unknown fact."""
    return [name for name in seen.spec.names if expand(name, facts) is None]


def remedy(seen: Observation, salvage: Salvage, facts: Mapping[str, str], *, known: Certificate | None) -> str:
    """Return the command that repairs the files, or the reason why certmond cannot repair the files."""
    name = seen.spec.name
    if seen.spec.renewed_by:
        return f"certmond does not repair this certificate; it is renewed by {seen.spec.renewed_by}"
    if salvage.barrier:
        return salvage.barrier
    only_cluster = is_cluster_damage(seen)
    if only_cluster and not salvage.cluster_obstacle:
        return f"repair it: certmond renew {name}"
    if command := restore_command(seen, salvage, facts, known=known):
        return command
    return (
        salvage.cluster_obstacle if only_cluster else salvage.obstacle
    ) or f"issue the certificate again: certmond renew {name}"


def restore_command(
    seen: Observation, salvage: Salvage, facts: Mapping[str, str], *, known: Certificate | None
) -> str | None:
    """Return the command that restores the files from the archive, or None if the archive has no good generation."""
    found = generation(seen, salvage, facts, known=known)
    return f"restore the files: certmond archive restore {seen.spec.name} {found[0]}" if found else None


def unneeded_remedy(
    seen: Observation, salvage: Salvage, facts: Mapping[str, str], *, known: Certificate | None
) -> str | None:
    """Return the command that repairs files to which no other file of the node refers, or None without a command.

    An operator may restore any good generation, because the operator decides about its contents.
    """
    if command := restore_command(seen, salvage, facts, known=known):
        return command
    if salvage.good:
        return f"restore the files: certmond archive restore {seen.spec.name}"
    if seen.spec.renewed_by or salvage.barrier or salvage.obstacle or not seen.certificates:
        return None
    return f"issue the certificate again: certmond renew {seen.spec.name}"


def obstacle(seen: Observation, signer: str, authority: Observation | None) -> str | None:
    """Return why the signer kind `signer` cannot sign a new certificate of this entry, with the remedy, or None."""
    spec = seen.spec
    if spec.renewed_by:
        return f"certmond does not renew this certificate; it is renewed by {spec.renewed_by}"
    if signer == NO_SIGNER:
        return "its entry has `signer: none`; restore the certificate and the key from a backup"
    if signer not in _NEED_CA_KEY:
        return None
    if authority is None or not authority.certificates:
        if names := [name for name in spec.ca if name != SELF]:
            return missing_ca(names)
        return "no CA of the catalogue signs this certificate; set `ca` or `signer` in its entry"
    if fact := authority.certificates[0].refused:
        return f"the CA {authority.path} is unusable ({fact}); replace this CA"
    if not authority.may_have_key:
        where = authority.key_path or authority.path
        otherwise = (
            "rejoin the node: kubeadm reset, then kubeadm join" if spec.kind is Kind.KUBELET
            else "issue the certificate on a node with this CA key, then copy the certificate and its key to this node"
        )  # fmt: skip
        key = f"the CA's key {where} is not on this node, or does not match the CA"
        return f"the archive has no good generation, and {key}; {otherwise}"
    return None


def _has_other_subject(leaf: Certificate, subject: str | None) -> bool:
    """Return whether the subject of `leaf` has an attribute that `subject` lacks, or False if `subject` is None."""
    return subject is not None and not leaf.attributes <= subject_attributes(subject)


def _has_last_subject(leaf: Certificate, last: str | None, accepted: Sequence[str]) -> bool:
    """Return whether the subject `last` has all attributes of the subject of `leaf`.

    If `last` is None, return whether the subject of `leaf` is one of the subjects that `_unprivileged` returns.
    """
    if last is None:
        return has_accepted_subject(leaf, _unprivileged(accepted))
    return not _has_other_subject(leaf, last)


def _subject(accepted: Sequence[str], salvage: Salvage, known: Certificate | None) -> str:
    last = known.subject if known else salvage.seen_subject
    recorded = [subject_attributes(text) for text in (last, salvage.subject) if last and text]
    # If two accepted subjects are recorded, an unprivileged subject takes precedence.
    if previous := [text for text in accepted if subject_attributes(text) in recorded]:
        return _unprivileged(previous)[0]
    unprivileged = _unprivileged(accepted)
    archived = (text for each in salvage.kept for text in unprivileged if has_accepted_subject(each, (text,)))
    return next(archived, unprivileged[0])


def _unprivileged(accepted: Sequence[str]) -> Sequence[str]:
    """Return the subjects that lack the group system:masters, or all subjects if each subject has this group."""
    return [text for text in accepted if _MASTERS not in subject_attributes(text)] or accepted
