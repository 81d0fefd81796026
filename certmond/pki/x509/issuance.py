"""Certificates that a CA has issued, directly or through intermediate CAs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import find_paths


def is_issued(certificate: Certificate, chain: Sequence[Certificate], issuers: Sequence[Certificate]) -> bool:
    """Return whether a CA in `issuers` has signed `certificate`, directly or through intermediate CAs in `chain`.

    The CA in `issuers` can be expired. Each intermediate CA must permit the usages of `certificate` (RFC 5280,
    4.2.1.12), and must have been valid at the same time as `certificate`. Returns False for a refused certificate, and
    for a CA in `issuers`.
    """
    if certificate.refused or certificate in issuers:
        return False
    usages = certificate.extended_usages
    limited = usages is not None and "any" not in usages
    for path in find_paths(certificate, issuers, chain, usages or frozenset() if limited else frozenset()).paths:
        signers = path.certificates[1:-1]
        in_date = max(each.not_before for each in path.certificates[:-1]) <= min(
            each.not_after for each in path.certificates[:-1]
        )
        if not signers or (in_date and (limited or all(each.extended_usages is None for each in signers))):
            return True
    return False


def issuing_cas(
    candidates: Iterable[Certificate],
    issuers: Sequence[Certificate],
    is_ca: Callable[[Certificate, tuple[Certificate, ...]], bool] | None = None,
) -> tuple[Certificate, ...]:
    """Return the CAs in `candidates` that a CA in `issuers` has issued, directly or through others.

    A candidate with the name of a CA costs one check of a signature. `is_ca` can store the results of `has_path` for a
    candidate and the CAs above it.
    """
    is_ca = is_ca or (lambda each, above: has_path(each, issuers, above))
    others = tuple(dict.fromkeys(each for each in candidates if each.is_ca and not each.refused))
    names, found = {each.subject_der for each in issuers}, tuple[Certificate, ...]()
    while names:
        named = (each for each in others if each.issuer_der in names and each not in found and each not in issuers)
        new = tuple(each for each in named if is_ca(each, cas_above(each, found)))
        found, names = (*found, *new), {each.subject_der for each in new}
    return found


def has_path(certificate: Certificate, issuers: Sequence[Certificate], above: Sequence[Certificate]) -> bool:
    """Return whether a CA certificate has a path to a CA in `issuers` through the intermediate CAs `above`."""
    return bool(find_paths(certificate, issuers, above, frozenset()).paths)


def cas_above(certificate: Certificate, cas: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Return the certificates in `cas` that can be in a path of `certificate`, in their order."""
    names, found = {certificate.issuer_der}, set[Certificate]()
    while new := {each for each in cas if each.subject_der in names} - found:
        found |= new
        names = {each.issuer_der for each in new}
    return tuple(each for each in cas if each in found)
