"""Certificates that a service has signed with a CA in the same file.

No CA of the catalogue can renew such certificates.

If the certificate file and the key file are both missing, the kubelet creates such a pair when it starts. The kubelet
does not store the key of the CA (cmd/kubelet/app/server.go, InitializeTLS; k8s.io/client-go/util/cert/cert.go,
GenerateSelfSignedCertKey). If only one of the files exists, the kubelet does not start
(k8s.io/client-go/util/cert/io.go, CanReadCertAndKey).
"""

from __future__ import annotations

import shlex
from collections.abc import Container

from certmond.pki.catalog.entries import SELF, CertificateSpec
from certmond.pki.catalog.observation import Observation
from certmond.pki.x509.certificate import Certificate


def is_self_signed(seen: Observation, anchor: Certificate | None, issuers: Container[Certificate]) -> bool:
    """Return whether the trust anchor is in the file of the certificate, and cannot sign a new certificate.

    Returns False if the entry does not accept such a certificate (`self`).
    """
    return SELF in seen.spec.ca and anchor in seen.certificates and anchor not in issuers


def is_renewed_elsewhere(spec: CertificateSpec, *, self_signed: bool) -> bool:
    """Return whether the component in `renewed_by` renews the certificate.

    If the entry also accepts a CA, the component renews only certificates of this CA.
    """
    return bool(spec.renewed_by) and not (self_signed and set(spec.ca) != {SELF})


def replacement(seen: Observation) -> str:
    """Return the fact that no CA can renew the self-signed certificate, and the remedy.

    The remedy contains a command if the entry specifies the key and exactly one service. The command uses `certmond
    restart`, which can restart each kind of service.
    """
    fact = "the certificate is self-signed, so no CA can renew it"
    if seen.key_path is None or len(seen.spec.consumers) != 1:
        return f"{fact}; remove the certificate and its key, and restart the service"
    files = shlex.join(dict.fromkeys((seen.path, seen.key_path)))
    return f"{fact}; run: rm {files} && certmond restart {seen.spec.consumers[0]}"
