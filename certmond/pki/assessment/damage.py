"""Damaged files of an entry, and their repair: a generation of the archive, or a new certificate.

Owns which entries certmond repairs, which generation it restores, and the contents of a certificate without a
predecessor. `pki.planning` decides when. Pure: `Salvage` has the contents of the archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.field_types import expand, subject_attributes
from certmond.pki.catalog.observation import Observation, Salvage
from certmond.pki.catalog.requirements import accepted_subjects, has_accepted_subject
from certmond.pki.catalog.settings import LOCAL, NO_SIGNER
from certmond.pki.findings import Reason, Remedy
from certmond.pki.signing.policy import Basis, Denial, fixed_by, grant, is_issued, surplus
from certmond.pki.signing.template import Template, Terms, first
from certmond.pki.x509.certificate import Certificate, names_in
from certmond.pki.x509.path_building import find_paths

_NEED_CA_KEY = frozenset({LOCAL, "kubeadm"})  # signers that need the key of the CA on this node
_REPAIRED = frozenset({Kind.FILE, Kind.KUBECONFIG, Kind.KUBELET})


def damage(seen: Observation) -> str | None:
    """Return what is wrong with the files of an entry, as a clause. None if they hold a certificate and its key.

    Also None for files that certmond does not repair: trust anchors, patterns, unreadable files, and unwanted files.
    """
    spec, faults = seen.spec, [fault for fault in seen.faults if fault.reason.remedy is Remedy.REPAIR]
    if spec.kind not in _REPAIRED or spec.authority or spec.is_glob or spec.password_file or seen.name != spec.name:
        return None
    if not seen.wanted or any(fault.reason is Reason.UNREADABLE for fault in seen.faults):
        return None
    if spec.kind is Kind.KUBECONFIG and not seen.renewable:
        return None  # the file that it refers to has a separate entry
    if not seen.certificates:
        return faults[0].detail if faults else None
    if seen.key_path is None or spec.key_optional:
        return None
    if seen.key is None and (faults or not seen.key_unknown):
        return f"{seen.key_path} contains no private key"
    return f"{seen.key_path} is not the private key of {seen.path}" if seen.key_matches is False else None


def is_whole(seen: Observation) -> bool | None:
    """Return whether the files hold a certificate and its key, or None if that is unknown."""
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
    """Return the newest good generation that certmond may restore without the operator, with its certificate, or None.

    `known` is the last certificate of these files that their CA signed, or None if certmond does not have it. The
    generation must not exceed the contents of `known`. The rule is stricter without `known`. It is also stricter if the
    certificate that certmond installed last is neither `known` nor in the archive. Then the generation must not exceed
    the contents that the entry fixes, and must have the last subject. `under` is the anchor that must have signed the
    generation, or None for any anchor.
    """
    fixed, archived = fixed_by(seen.spec, facts), {each.sha256 for each in salvage.kept}
    lost = salvage.last is not None and salvage.last not in archived and (known is None or known.sha256 != salvage.last)
    for number, leaf in salvage.good:
        if under and not find_paths(leaf, (under,), ()).paths:
            continue
        if surplus(leaf, known, fixed):
            continue
        if (lost or known is None) and (surplus(leaf, None, fixed) or _has_other_subject(leaf, salvage.subject)):
            continue
        return number, leaf
    return None


def last_issued(certificate: Certificate | None, issuers: Sequence[Certificate]) -> Certificate | None:
    """Return the last certificate of an entry's files if one of `issuers` signed it, otherwise None.

    A certificate of another issuer does not show the rights that these files had.
    """
    return certificate if certificate and is_issued(certificate, (), issuers) else None


def new_template(
    seen: Observation, salvage: Salvage, terms: Terms, *, signer: str, authority: Observation | None,
    known: Certificate | None = None, siblings: Iterable[Certificate] = (),
) -> Template | str:  # fmt: skip
    """Return a certificate with only the contents that the entry fixes, or the reason against it with the remedy.

    `signer` is the kind of its signer. If the entry accepts several subjects, the template gets the subject of `known`
    or of the certificate that certmond installed last. If these two differ, it gets the one that the entry names first.
    Without either, the certificates in the archive decide, and then the groups of `siblings`, of the same CA on this
    node: a cluster that kubeadm before v1.29 created does not have the group kubeadm:cluster-admins.
    """
    spec = seen.spec
    if why := obstacle(seen, signer, authority):
        return why
    accepted = accepted_subjects(spec, terms.facts)
    if not accepted:
        fact = "this node has no fact for its subject" if spec.subject else "its entry fixes no subject"
        return f"{fact}; set `subject` in the entry"
    if spec.kind is Kind.KUBECONFIG and salvage.server is None:
        return f"no file on this node names its API server; move {seen.path} away, then run: certmond init"
    fixed = fixed_by(spec, terms.facts)
    try:
        last = {known.attributes if known else None, subject_attributes(salvage.subject) if salvage.subject else None}
        subject = next((text for text in accepted if subject_attributes(text) in last), None)
        template = first(spec, subject or _subject(accepted, salvage.kept, siblings), fixed.names, terms)
    except ValueError as error:
        return f"its entry has a value that no certificate can contain ({error}); correct the entry"
    granted = grant(template, fixed, Basis(barrier=salvage.barrier))
    return f"the CA's key does not sign it: {granted}" if isinstance(granted, Denial) else template


def lost_names(
    seen: Observation, template: Template, former: Sequence[Certificate], issuers: Sequence[Certificate]
) -> str:
    """Return the names that the newest of the `former` certificates of this CA had and the template lacks, joined.

    Return "" for a certificate of a client: only a server loses clients that connect to a missing name.
    """
    mine = [each for each in former if is_issued(each, (), issuers)]
    newest = max(mine, key=lambda each: each.not_after, default=None)
    return (
        ", ".join(sorted(newest.names - names_in(template.names)))
        if newest and "server auth" in seen.spec.usages
        else ""
    )


def unknown_names(seen: Observation, facts: Mapping[str, str]) -> list[str]:
    """Return the names of the entry that contain a fact which is unknown on the node now."""
    return [name for name in seen.spec.names if expand(name, facts) is None]


def remedy(seen: Observation, salvage: Salvage, facts: Mapping[str, str], *, known: Certificate | None) -> str:
    """Return the command that repairs the files, or the obstacle with its remedy. `known` is as for `generation`."""
    name = seen.spec.name
    if seen.spec.renewed_by:
        return f"certmond does not repair it; it is renewed by {seen.spec.renewed_by}"
    if found := generation(seen, salvage, facts, known=known):
        return f"restore it: certmond archive restore {name} {found[0]}"
    return salvage.obstacle or f"issue it again: certmond renew {name}"


def obstacle(seen: Observation, signer: str, authority: Observation | None) -> str | None:
    """Return why no signer signs a new certificate of this entry, a clause with the remedy, or None."""
    spec = seen.spec
    if spec.renewed_by:
        return f"certmond does not renew it; it is renewed by {spec.renewed_by}"
    if signer == NO_SIGNER:
        return "its entry has `signer: none`; restore the certificate and the key from a backup"
    if signer not in _NEED_CA_KEY:
        return None
    if authority is None or not authority.certificates:
        return "no CA of the catalogue signs it; set `ca` or `signer` in its entry"
    if fact := authority.certificates[0].refused:
        return f"its CA {authority.path} is unusable ({fact}); replace that CA"
    if not (authority.key_matches or authority.key_unknown):
        where = authority.key_path or authority.path
        otherwise = (
            "let the node join again: kubeadm reset, kubeadm join" if spec.kind is Kind.KUBELET
            else "issue it on the node with that key, and copy the certificate and its key to this node"
        )  # fmt: skip
        return f"the archive has no good generation of it, and its CA's key {where} is not on this node; {otherwise}"
    return None


def _has_other_subject(leaf: Certificate, subject: str | None) -> bool:
    """Return whether `leaf` has an attribute that `subject`, of the last certificate, does not have."""
    return subject is not None and not leaf.attributes <= subject_attributes(subject)


def _subject(accepted: Sequence[str], kept: Sequence[Certificate], siblings: Iterable[Certificate]) -> str:
    for certificate in kept:
        for text in accepted:
            if has_accepted_subject(certificate, (text,)):
                return text
    groups = {each for certificate in siblings for each in certificate.attributes if each.startswith("O=")}
    wanted = [text for text in accepted if groups.intersection(subject_attributes(text))]
    return wanted[0] if wanted and "O=" in accepted[0] else accepted[0]
