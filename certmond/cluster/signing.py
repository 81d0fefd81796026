"""Whether the cluster signs, and with which CA: a certificate is asked for, looked at, and thrown away.

Owns the request of the check: for the signer kubernetes.io/kube-apiserver-client, with a key that is never written
anywhere, for a user who may do nothing, for the shortest time that the API takes. Whatever comes of it, the request is
deleted. Imports lightkube.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certmond.cluster.access import Access
from certmond.cluster.canary import LIMIT, Canary, checked
from certmond.cluster.client import Connection
from certmond.cluster.csr import API_CLIENT
from certmond.cluster.requests import Filed, Requests
from certmond.errors import RefusedError, SigningError, UnreachableError
from certmond.pki.certificate import Certificate, public_key_of
from certmond.pki.encoding import decode
from certmond.pki.path import find_paths
from certmond.pki.reason import printable

NAME = "signing"
REQUEST = "certmond-canary"
"""The name of the request: always the same, so that a role can permit this one and no other."""
USER = "certmond:canary"
"""The common name that is asked for. It is in no group, and nothing is to be bound to it."""

_SECONDS = 600  # the API's least
_LOOK_AGAIN = 0.5  # seconds
_CONTROLLER = "see that a kube-controller-manager leads, and what its log says of certificate signing"


def signing(access: Access, expected: Certificate, now: datetime, limit: timedelta = LIMIT) -> Canary:
    """A certificate that the cluster signs now verifies with the CA `expected` at `now`.

    Takes `limit` at most, and the time of one call of the API to clean up. Where certmond may not approve its request,
    somebody else may within `limit`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, USER)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())

    async def work(connection: Connection) -> Canary:
        api, progress = Requests(connection), _Progress()
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await api.delete(REQUEST)  # of a check that was cut off
                progress.filed = True
                pem, usages = request.public_bytes(Encoding.PEM), ("digital signature", "client auth")
                filed = await api.create(REQUEST, pem, API_CLIENT, usages, _SECONDS)
                if filed is None:
                    raise UnreachableError(f"the request {REQUEST} was filed by another, too; it is filed again later")
                return _verdict(await _decided(api, filed, progress), key, expected, now)
        except TimeoutError:
            return progress.canary(limit)
        finally:
            if progress.filed:
                with suppress(SigningError):  # what cannot be deleted now, the cluster cleans up within a day
                    await api.delete(REQUEST)

    return checked(access, NAME, work, limit=None)


@dataclass(slots=True)
class _Progress:
    """How far the request came, for when the time is up."""

    filed: bool = False
    approved: bool = False
    forbidden: str = ""

    def canary(self, limit: timedelta) -> Canary:
        within = f"within {limit.total_seconds():g} s"
        if self.approved:
            return Canary(NAME, False, f"the request {REQUEST} was approved, and not signed {within}", _CONTROLLER)
        fact = f"the request {REQUEST} was not approved {within}{f': {self.forbidden}' if self.forbidden else ''}"
        return Canary(NAME, False, fact, f"permit certmond to approve for {API_CLIENT}, or approve it in time")


async def _decided(api: Requests, filed: Filed, progress: _Progress) -> Filed:
    """The request as it is once it has a certificate, or will never have one."""
    found: Filed | None = filed
    try:
        found = await api.approve(filed, "CertmondCanary", "certmond checks which CA the cluster signs with")
    except RefusedError as error:
        progress.forbidden = str(error)
    while found and not (found.certificate or {"Denied", "Failed"} & found.conditions.keys()):
        progress.approved = "Approved" in found.conditions
        await asyncio.sleep(_LOOK_AGAIN)
        found = await api.read(REQUEST)
    if found is None:
        raise UnreachableError(f"the request {REQUEST} was deleted by somebody else; it is filed again")
    return found


def _verdict(filed: Filed, key: ec.EllipticCurvePrivateKey, expected: Certificate, now: datetime) -> Canary:
    for verdict in ("Denied", "Failed"):
        if verdict in filed.conditions:
            said = printable(filed.conditions[verdict])[:300]
            return Canary(NAME, False, f"the request {filed.name} was {verdict.lower()} ({said})", _CONTROLLER)
    issued = decode(filed.certificate, filed.name).certificates
    if not issued or issued[0].key != public_key_of(key):
        fact = f"what was issued for the request {filed.name} is no certificate of its key"
        return Canary(NAME, False, fact, f"see what signs {API_CLIENT}")
    search = find_paths(issued[0], [expected], issued[1:], ["client auth"])
    if search.valid_at(now) is None:
        by = printable(issued[0].issuer)
        fact = f"the cluster signs with a CA (of the name {by}) that is not {expected.sha256[:12]}, or not valid now"
        remedy = "see which pair each kube-controller-manager has for --cluster-signing-cert-file, and restart it"
        return Canary(NAME, False, fact, remedy)
    return Canary(NAME, True, f"the cluster signs with {expected.sha256[:12]}")
