"""Trust anchors of an entry, and the certificates of the CA that would sign the next certificate of the entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from certmond.pki.catalog.entries import SELF, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.x509.certificate import Certificate

Anchors = tuple[Certificate, ...]


def catalog_anchors(observations: Iterable[Observation]) -> dict[str, Anchors]:
    """Return the trust anchors of each authority and of each referenced CA file, by the name of the entry."""
    found: dict[str, list[Certificate]] = {}
    for seen in observations:
        if seen.named_by and seen.spec.kind is Kind.FILE:  # a pair whose certificates are also a CA bundle
            found.setdefault(seen.spec.name, []).extend(seen.certificates)
        elif seen.spec.authority or (seen.named_by and seen.spec.kind is Kind.BUNDLE):
            found.setdefault(seen.spec.name, []).extend(seen.certificates[:1])
    return {name: tuple(dict.fromkeys(certificates)) for name, certificates in found.items()}


def own_anchors(seen: Observation, anchors: Mapping[str, Anchors]) -> Anchors:
    """Return the trust anchors of an entry. The trust anchor of an authority is the authority's own certificate.

    The trust anchors of any other entry are those of the entries in `ca`, in which `self` represents the self-issued
    certificates of the file. If `ca` is empty, return the self-issued certificates of the file or, if the file contains
    none, the last certificate of the file.
    """
    if seen.spec.authority:
        return seen.certificates[:1]
    if not seen.spec.ca:
        return _self_issued(seen) or seen.certificates[-1:]
    if len(seen.spec.ca) == 1 and seen.spec.ca[0] != SELF:
        return anchors.get(seen.spec.ca[0], ())
    found: list[Certificate] = []
    for name in seen.spec.ca:
        found += _self_issued(seen) if name == SELF else anchors.get(name, ())
    return tuple(dict.fromkeys(found))


def issuers_of(seen: Observation, anchors: Mapping[str, Anchors]) -> Anchors:
    """Return the certificates of the CA that would sign the next certificate of the entry.

    This CA is the first one in `ca` that has a certificate on this node. Returns () if this node has no such
    certificate.
    """
    return next((found for name in seen.spec.ca if name != SELF and (found := anchors.get(name))), ())


def _self_issued(seen: Observation) -> Anchors:
    return tuple(certificate for certificate in seen.certificates if certificate.self_issued)
