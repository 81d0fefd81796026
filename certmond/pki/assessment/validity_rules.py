"""Rules for the validity of a certificate and of its CAs, and the renewal point."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from certmond.pki.assessment.rule_input import Case, finding, has_entry
from certmond.pki.assessment.self_signed_leaves import is_renewed_elsewhere, replacement
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.x509.certificate import Certificate

CRITICAL_WINDOW = timedelta(days=7)
_KUBELET_STORE = re.compile(r"/kubelet-(?:client|server)-[^/]*\.pem$")
"""The files in which the kubelet stores the certificates that it requests, and the symlinks to these files."""


def renewal_point(certificate: Certificate, spec: CertificateSpec, default: timedelta) -> datetime:
    """Return the renewal point: `renew_before` before the end, but at most one third of the lifetime before the end.

    If the entry does not specify `renew_before`, `default` applies. The maximum is a tenth for the kubelet, which
    renews its certificates after 70 to 90 % of the lifetime (k8s.io/client-go, util/certificate).
    """
    life = certificate.not_after - certificate.not_before
    share = life / 10 if spec.kind is Kind.KUBELET or _KUBELET_STORE.search(spec.path) else life / 3
    return certificate.not_after - min(spec.renew_before or default, share)


def critical_point(certificate: Certificate) -> datetime:
    """Return the start of the critical window: the last 7 days, or the last tenth of a lifetime below 70 days."""
    return certificate.not_after - min(CRITICAL_WINDOW, (certificate.not_after - certificate.not_before) / 10)


def expired(case: Case) -> Iterator[Finding]:
    """Report that the certificate, or a CA of its path, has expired (RFC 5280, 4.1.2.5).

    In a bundle of CAs, an expired CA is a warning while another CA of the bundle is valid. A bundle keeps an old CA
    beside a new CA, and every process that reads the bundle trusts the new CA. This applies to all bundles, because the
    flag or entry that names a bundle does not change what the reading process accepts. If a watched certificate needs
    the expired CA, this certificate has a critical finding. The certificates of other hosts are unknown, so
    `nearing_expiry` stays critical in the last days of the CA. A file that also contains certificates of servers or
    clients is a chain. An expired CA in a chain is critical.

    The remedy for an expired self-signed certificate also replaces its CA, so the CA has no separate finding.
    """
    over = case.self_signed and case.now > case.certificate.not_after
    for link in (case.certificate,) if over else (*_own_links(case), *_replaced_anchor(case)):
        if case.now <= link.not_after:
            continue
        if case.further_anchor:
            message = f"{case.where}: the old CA {link.called} in the bundle expired on {_day(link.not_after)}"
            yield finding(Reason.EXPIRED, f"{message}; remove it from the bundle", Severity.WARNING)
        elif link is case.certificate and _is_replaceable(case):
            fact = f"{case.where}: the CA {link.called} expired on {_day(link.not_after)}"
            remedy = "remove the expired CA from the bundle, or replace this CA if a peer still needs it"
            yield finding(Reason.EXPIRED, f"{fact}, but another CA in the bundle is valid; {remedy}", Severity.WARNING)
        else:
            yield finding(Reason.EXPIRED, f"{_called(case, link)} expired on {_day(link.not_after)}; {_renew(case)}")


def not_yet_valid(case: Case) -> Iterator[Finding]:
    """Report that the certificate, or a CA of its path, is not valid yet. The usual cause is a wrong clock."""
    for link in _own_links(case):
        if case.now < link.not_before:
            yield finding(
                Reason.NOT_YET_VALID,
                f"{_called(case, link)} is not valid before {_day(link.not_before)}; "
                "check the clock of this host, and then the clock of the issuer",
            )


def nearing_expiry(case: Case) -> Iterator[Finding]:
    """Report that the certificate is due and has not expired."""
    if case.renew_at <= case.now <= case.certificate.not_after:
        late = case.now >= critical_point(case.certificate)
        remedy = (
            "the kubelet did not rotate this certificate; see: journalctl -u kubelet"
            if case.spec.kind is Kind.KUBELET
            else _renew(case)
        )
        yield finding(
            Reason.NEARING_EXPIRY,
            f"{case.where} expires on {_day(case.certificate.not_after)} and has been due since {_day(case.renew_at)}; "
            f"{remedy}",
            Severity.CRITICAL if late else None,
        )


def still_due(case: Case) -> Iterator[Finding]:
    """Report a certificate that is due even after a renewal, because the signer or the CA limits the lifetime.

    The renewal is the last renewal, or the next renewal if the CA ends at the same time as the certificate.
    """
    if not case.renew_at <= case.now <= case.certificate.not_after:
        return
    best = case.search.best
    if case.renewed_at is not None and case.renew_at <= case.renewed_at:
        yield finding(
            Reason.STILL_DUE,
            f"{case.where} was renewed on {_day(case.renewed_at)}, but the new certificate, which ends on "
            f"{_day(case.certificate.not_after)}, was due immediately; rotate the CA if the CA ends on the same "
            "day, or else set a longer validity at the signer, or a shorter renew_before",
        )
    elif case.self_signed:
        return  # the next certificate has a new CA
    elif best and len(best.certificates) > 1 and best.certificates[1].not_after == case.certificate.not_after:
        yield finding(
            Reason.STILL_DUE,
            f"{case.where} is due, but a new certificate cannot outlive its CA {best.certificates[1].subject}, which "
            f"ends on {_day(case.certificate.not_after)}; rotate the CA before that day",
        )


def outlives_ca(case: Case) -> Iterator[Finding]:
    """Report a certificate that ends after a CA of its path, while this CA has not expired."""
    best = case.search.best
    if best and len(best.certificates) > 1 and best.until < case.certificate.not_after and case.now <= best.until:
        issuer = min(best.certificates[1:], key=lambda link: link.not_after)
        remedy = _renew(case) if case.self_signed else "rotate the CA before its end"
        yield finding(
            Reason.OUTLIVES_CA,
            f"{case.where} ends on {_day(case.certificate.not_after)}, but its CA {issuer.subject} ends on "
            f"{_day(issuer.not_after)}; {remedy}",
        )


def next_change(case: Case, others: Iterable[datetime | None]) -> datetime | None:
    """Return the next time at which the findings or the renewal can change although no file changes, or None."""
    certificate, paths = case.certificate, case.search.paths
    instants = [certificate.not_before, case.renew_at, critical_point(certificate), certificate.expires_at]
    instants += filter(None, others)
    further = (*case.seen.bundle, *case.anchors) if case.path is None else ()
    for link in {*further, *(link for path in paths for link in path.certificates)}:
        instants += [link.not_before, link.expires_at]
    return min((instant for instant in instants if instant > case.now), default=None)


def _own_links(case: Case) -> tuple[Certificate, ...]:
    """Return the certificate and the CAs of its path. Omit a trust anchor that has a separate entry.

    The path is the path that is valid now, or the path that ends last if no path is valid now.
    """
    best = case.shown
    if best is None:
        return (case.certificate,)
    return (case.certificate, *(best.certificates[1:-1] if has_entry(case, best.anchor) else best.certificates[1:]))


def _replaced_anchor(case: Case) -> Iterator[Certificate]:
    """Yield the trust anchor of a certificate without a valid path, if another accepted trust anchor is valid.

    The entry of the expired anchor reports this anchor only as a warning.
    """
    best = case.search.best
    if best and not case.path and has_entry(case, best.anchor) and _any_valid(case, case.anchors):
        yield best.anchor


def _is_replaceable(case: Case) -> bool:
    """Return whether the certificate is a CA in a bundle that contains only CAs, of which at least one is valid."""
    bundle = () if case.spec.authority else case.seen.bundle
    return all(each.is_ca or each.version < 3 for each in bundle) and _any_valid(case, bundle)


def _any_valid(case: Case, certificates: Iterable[Certificate]) -> bool:
    return any(each.not_before <= case.now <= each.not_after for each in certificates)


def _called(case: Case, link: Certificate) -> str:
    if link is case.certificate:
        return case.where
    return f"{case.where}: the {'CA' if link in case.anchors else 'intermediate'} {link.subject}"


def _renew(case: Case) -> str:
    if is_renewed_elsewhere(case.spec, self_signed=case.self_signed):
        return f"it is renewed by {case.spec.renewed_by}"
    if case.self_signed:
        return replacement(case.seen)
    # `certmond renew` refuses a CA.
    if case.spec.authority:
        return case.seen.ca_remedy(expired=case.now > case.certificate.not_after)
    return case.signing_obstacle or f"renew the certificate: certmond renew {case.spec.name}"


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
