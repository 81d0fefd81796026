"""Faults of certificates whose encoding Go or cryptography refuses."""

from __future__ import annotations

from collections.abc import Iterator

from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate import Certificate


def encoding_faults(certificate: Certificate, where: str) -> Iterator[Fault]:
    """Yield the fault in the encoding of the certificate, if any. `where` names the file and the PEM block."""
    if certificate.objections:
        refused = "; ".join(certificate.objections)
        yield Fault(
            Reason.MALFORMED,
            f"{where}: Go refuses this certificate, and so does every component of Kubernetes ({refused})",
            "issue the certificate again, or restore it from a backup",
        )
    elif certificate.unread:
        yield Fault(
            Reason.NONCONFORMING,
            f"{where}: Kubernetes can parse this certificate, but the encoding violates RFC 5280, so the library "
            f"cryptography, with which certmond renews certificates, refuses the certificate: {certificate.unread}",
            "issue the certificate again from a new certificate request, because certmond cannot copy its contents",
        )
