"""What is broken of an entry's files, and what puts them right: a generation of the archive, or a new certificate.

Owns which entries certmond puts right by itself, which generation comes back, and what a certificate says that is
issued without a predecessor. When that is done is `pki.plan`'s. Pure: what the archive has is an argument (`Salvage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from certmond.pki.catalog import SELF, Kind
from certmond.pki.certificate import Certificate, names_in
from certmond.pki.demand import accepted_subjects, has_accepted_subject
from certmond.pki.fields import expand, subject_attributes
from certmond.pki.inventory import Observation, Salvage
from certmond.pki.issuance import Template, Terms, first
from certmond.pki.path import find_paths
from certmond.pki.reason import Reason
from certmond.pki.settings import LOCAL, NOBODY
from certmond.pki.signing_policy import Basis, Denial, fixed_by, grant, is_issued, surplus

_WITH_A_KEY = frozenset({LOCAL, "kubeadm"})  # kinds of signers that need the key of the CA on this node
_REPAIRED = frozenset({Kind.FILE, Kind.KUBECONFIG, Kind.KUBELET})
_BROKEN = frozenset({Reason.MISSING, Reason.MALFORMED})
_MASTERS = "O=system:masters"
"""Not subject to RBAC, and not to be revoked by it (k8s.io/apiserver, authentication/user, SystemPrivilegedGroup)."""


def damage(seen: Observation) -> str | None:
    """Return what is wrong with the files of an entry, in a clause; None where they hold a certificate and its key, and
    a kubeconfig leads to a server that it trusts; and where certmond does not put them right: trust anchors, patterns,
    files that cannot be read or are not wanted.
    """
    spec = seen.spec
    if spec.kind not in _REPAIRED or spec.authority or spec.is_glob or spec.password_file or seen.name != spec.name:
        return None
    if not seen.wanted or any(fault.reason is Reason.UNREADABLE for fault in seen.faults):
        return None
    if spec.kind is Kind.KUBECONFIG and not seen.renewable:
        return None  # what it refers to has an entry of its own
    return _no_pair(seen) or (f"{seen.path}: {seen.broken_cluster}" if seen.broken_cluster else None)


def _no_pair(seen: Observation) -> str | None:
    """Return why the files of an entry do not hold a certificate and its key; None where they do."""
    spec, faults = seen.spec, [fault for fault in seen.faults if fault.reason in _BROKEN]
    if not seen.certificates:
        return faults[0].detail if faults else None
    if seen.key_path is None or spec.key_optional:
        return None
    if seen.key is None and (faults or not seen.key_unknown):
        return f"{seen.key_path} holds no private key"
    return f"{seen.key_path} is not the private key of {seen.path}" if seen.key_matches is False else None


def is_of_cluster(seen: Observation) -> bool:
    """Return whether the certificate and the key of a damaged kubeconfig are whole: only its cluster is broken."""
    return bool(damage(seen) and seen.certificates) and _no_pair(seen) is None


def lacks_key(seen: Observation) -> bool:
    """Return whether it is a CA whose private key should be on this node, and is not."""
    wanted = seen.spec.authority and seen.key_path is not None and not (seen.spec.key_optional or seen.key_unknown)
    return wanted and bool(seen.certificates) and not seen.key_matches


def is_whole(seen: Observation) -> bool | None:
    """Return whether the files hold a certificate and its key; None where that cannot be told."""
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
    """Return the newest good generation that may come back by itself, with its certificate; None where none may.

    `known` is the last certificate of these files that their CA signed; None where it is not remembered. A generation
    has no more than that one. Where that is not known, or what certmond put in place last is neither that one nor in
    the archive, the generation has no more than the entry fixes, and no other subject than the last one had. Where
    that is not known either, its subject has to be one of `_unprivileged`. `under` is the anchor that has to have
    signed it, None for any.
    """
    fixed, archived = fixed_by(seen.spec, facts), {each.sha256 for each in salvage.kept}
    lost = salvage.last is not None and salvage.last not in archived and (known is None or known.sha256 != salvage.last)
    for number, leaf in salvage.good:
        if under and not find_paths(leaf, (under,), ()).paths:
            continue
        if surplus(leaf, known, fixed):
            continue
        if (lost or known is None) and (surplus(leaf, None, fixed) or _is_another(leaf, salvage.subject)):
            continue
        if known is None and not _may_return(leaf, salvage.seen_subject, fixed.subjects):
            continue
        return number, leaf
    return None


def last_issued(certificate: Certificate | None, issuers: Sequence[Certificate]) -> Certificate | None:
    """Return the certificate that was last in the files of an entry, if one of `issuers` signed it: what anybody else
    signed says nothing of the rights that these files had.
    """
    return certificate if certificate and is_issued(certificate, (), issuers) else None


def new_template(
    seen: Observation, salvage: Salvage, terms: Terms, *, signer: str, authority: Observation | None,
    known: Certificate | None = None,
) -> Template | str:  # fmt: skip
    """Return what a certificate says that only the entry decides, or why there is none: a clause, and the remedy.

    `signer` is the kind of its signer. Of several accepted subjects, it has the one that was there last: `known` had
    it, or the last certificate that was seen there. Where what certmond put in place last had another one, it has the
    first of both that is `_unprivileged`. Where the last subject is not known, the newest certificate of the archive
    decides among those that are.
    """
    spec = seen.spec
    if why := obstacle(seen, signer, authority):
        return why
    accepted = accepted_subjects(spec, terms.facts)
    if not accepted:
        fact = "this node does not tell its subject" if spec.subject else "its entry fixes no subject"
        return f"{fact}; name it there as `subject`"
    if spec.kind is Kind.KUBECONFIG and salvage.server is None:
        return f"where its API server is, nothing here says; move {seen.path} away, then: certmond init"
    fixed = fixed_by(spec, terms.facts)
    try:
        template = first(spec, _subject(accepted, salvage, known), fixed.names, terms)
    except ValueError as error:
        return f"its entry asks for what no certificate can say ({error}); correct it"
    granted = grant(template, fixed, Basis(barrier=salvage.barrier))
    return f"the CA's key does not sign it: {granted}" if isinstance(granted, Denial) else template


def lost_names(
    seen: Observation, template: Template, former: Sequence[Certificate], issuers: Sequence[Certificate]
) -> str:
    """Return the names that the newest of the `former` certificates of this CA had and the template has not, joined;
    "" where there are none: a server would lose clients that reach it by one of these.
    """
    mine = [each for each in former if is_issued(each, (), issuers)]
    newest = max(mine, key=lambda each: each.not_after, default=None)
    return (
        ", ".join(sorted(newest.names - names_in(template.names)))
        if newest and "server auth" in seen.spec.usages
        else ""
    )


def unknown_names(seen: Observation, facts: Mapping[str, str]) -> list[str]:
    """Return the names of the entry with a fact that the node does not tell at this moment."""
    return [name for name in seen.spec.names if expand(name, facts) is None]


def remedy(seen: Observation, salvage: Salvage, facts: Mapping[str, str], *, known: Certificate | None) -> str:
    """Return the command that puts the files right, as certmond would do by itself, or why it cannot, with the remedy
    of that. `known` is as for `generation`.
    """
    name = seen.spec.name
    if seen.spec.renewed_by:
        return f"certmond does not put it right: it is renewed by {seen.spec.renewed_by}"
    if salvage.barrier:
        return salvage.barrier
    mends = is_of_cluster(seen)
    if mends and not salvage.uncorrected:
        return f"put it right: certmond renew {name}"
    if found := generation(seen, salvage, facts, known=known):
        return f"put it back: certmond archive restore {name} {found[0]}"
    return (salvage.uncorrected if mends else salvage.obstacle) or f"issue it anew: certmond renew {name}"


def obstacle(seen: Observation, signer: str, authority: Observation | None) -> str | None:
    """Return why nothing signs a new certificate of this entry, a clause with the remedy; None where something does."""
    spec = seen.spec
    if spec.renewed_by:
        return f"it is not renewed by certmond but by {spec.renewed_by}"
    if signer == NOBODY:
        return "its entry says that nobody signs it; put certificate and key back from a backup"
    if signer not in _WITH_A_KEY:
        return None
    if authority is None or not authority.certificates:
        if names := [name for name in spec.ca if name != SELF]:
            return f"the file of its CA, the entry {' or '.join(names)}, holds no certificate; put the CA back first"
        return "no CA of the catalogue signs it; name its `ca`, or a `signer`"
    if fact := authority.certificates[0].refused:
        return f"the certificate of its CA, {authority.path}, is refused ({fact}); replace that CA"
    if not (authority.key_matches or authority.key_unknown):
        where = authority.key_path or authority.path
        otherwise = (
            "let the node join again: kubeadm reset, kubeadm join" if spec.kind is Kind.KUBELET
            else "issue it where that key is, and copy certificate and key here"
        )  # fmt: skip
        return f"the archive has no good generation of it, and the key of its CA, {where}, is not here; {otherwise}"
    return None


def _is_another(leaf: Certificate, subject: str | None) -> bool:
    """The subject of the last certificate is remembered, and `leaf` has one that is no part of it."""
    return subject is not None and not leaf.attributes <= subject_attributes(subject)


def _may_return(leaf: Certificate, last: str | None, accepted: Sequence[str]) -> bool:
    """The subject of `leaf` is a part of the `last` one; where that is not known, one of `_unprivileged`."""
    return has_accepted_subject(leaf, _unprivileged(accepted)) if last is None else not _is_another(leaf, last)


def _subject(accepted: Sequence[str], salvage: Salvage, known: Certificate | None) -> str:
    last = known.subject if known else salvage.seen_subject
    remembered = [subject_attributes(text) for text in (last, salvage.subject) if last and text]
    if there := [text for text in accepted if subject_attributes(text) in remembered]:
        return _unprivileged(there)[0]
    safe = _unprivileged(accepted)
    archived = (text for each in salvage.kept for text in safe if has_accepted_subject(each, (text,)))
    return next(archived, safe[0])


def _unprivileged(accepted: Sequence[str]) -> Sequence[str]:
    """Return the subjects without the group that Kubernetes authorizes for everything; all, where each one has it."""
    return [text for text in accepted if _MASTERS not in subject_attributes(text)] or accepted
