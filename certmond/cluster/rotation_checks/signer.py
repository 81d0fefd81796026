"""Check that the cluster signs, and with which CA: certmond requests a certificate, verifies it and discards it.

Owns the request of the check: for the signer kubernetes.io/kube-apiserver-client, with a temporary key, for a user
without rights, and with the API's shortest lifetime. While the request waits for approval or for the signer, it stays,
and each later check reads it again, also from another process. A denied request stays until it is deleted, so that the
operator does not have to deny it again. Otherwise this check or a later one deletes it, or the cluster within a day.
Imports lightkube.
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

from certmond.cluster.client import Connection
from certmond.cluster.connection import Access
from certmond.cluster.csr_objects import Filed, Requests
from certmond.cluster.csr_signer import API_CLIENT
from certmond.cluster.rotation_checks.check import LIMIT, Canary, checked
from certmond.errors import CertmondError, MalformedError, RefusedError, SigningError, UnreachableError
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Certificate, load_request
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.parsing import decode
from certmond.pki.x509.path_building import find_paths
from certmond.pki.x509.public_key import PublicKey, describe_key, public_key_of

NAME = "signing"
REQUEST = "certmond-canary"
"""The fixed name of the request, so that a role can permit exactly this one."""
USER = "certmond:canary"
"""The common name of the certificate. It is in no group, and no role may be bound to it."""

_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, USER)])
_USAGES = ("digital signature", "client auth")
_SAID = "CertmondCanary", "certmond checks which CA the cluster signs with"
_SECONDS = 600  # the API's minimum
_LOOK_AGAIN = 0.5  # seconds
_APPROVE = (
    f"look at it (docs/cluster.md says how), then `kubectl certificate approve {REQUEST}`; or permit certmond to do so"
    f" for {API_CLIENT}"
)
_DENIED = (
    f"find out who denied it, and why; it is filed again when it is gone: `kubectl delete csr {REQUEST}`, or the"
    " cluster takes it away an hour after it was filed"
)
_CONTROLLER = "see that a kube-controller-manager leads, and what its log says of certificate signing"


@dataclass(slots=True)
class _Asked:
    """The request in the API. Its certificate can only be the answer to this check."""

    expected: Certificate
    key: PublicKey
    filed: Filed
    approved: bool = False


class Signing:
    """The check for one process, which keeps an undecided request."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._asked: _Asked | None = None

    def check(self, expected: Certificate, now: datetime, limit: timedelta = LIMIT) -> Canary:
        """Check that a certificate that the cluster signs now verifies with the CA `expected` at `now`.

        Takes at most `limit`, and one more call of the API for the deletion. Where certmond may not approve its
        request, it does not wait: the next check reads the request again.
        """
        seconds = limit.total_seconds()

        async def work(connection: Connection) -> Canary:
            api = Requests(connection)
            try:
                async with asyncio.timeout(seconds):
                    asked = await self._ask(api, expected)
                    forbidden = await self._approve(api, asked)
                    if forbidden and not asked.filed.conditions:
                        return Canary(NAME, False, f"the request {REQUEST} waits for approval: {forbidden}", _APPROVE)
                    await self._decide(api, asked)
            except TimeoutError:
                if self._asked and self._asked.approved:
                    fact = f"the request {REQUEST} was approved, and not signed within {seconds:g} s"
                    return Canary(NAME, False, fact, _CONTROLLER)
                raise UnreachableError(f"the Kubernetes API gave no whole answer within {seconds:g} s") from None
            if "Denied" in asked.filed.conditions:
                return Canary(NAME, False, _said_of(asked.filed, "was denied", "Denied"), _DENIED)
            self._asked = None
            with suppress(SigningError):  # a later check deletes it, or the cluster within a day
                await api.delete(REQUEST)
            return _verdict(asked.filed, asked.key, expected, now)

        return checked(self._access, NAME, work, limit=None)

    def withdraw(self) -> None:
        """Delete the request of this process. Never raises."""
        if self._asked is not None:
            self._asked = None
            with suppress(CertmondError):
                self._access.run(lambda connection: Requests(connection).delete(REQUEST))

    async def _ask(self, api: Requests, expected: Certificate) -> _Asked:
        """Return the earlier request for the same CA, or a new one."""
        if self._asked and self._asked.expected == expected:
            await self._look(api, self._asked)
            return self._asked
        before, self._asked = self._asked, None
        if before is None and (found := await self._left_to_a_person(api, expected)):
            self._asked = found
            return found
        await api.delete(REQUEST)  # of a killed process
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(_SUBJECT).sign(key, hashes.SHA256())
        filed = await api.create(REQUEST, request.public_bytes(Encoding.PEM), API_CLIENT, _USAGES, _SECONDS)
        if filed is None:
            raise UnreachableError(f"the request {REQUEST} was filed by another, too; it is filed again later")
        self._asked = _Asked(expected, public_key_of(key), filed)
        return self._asked

    async def _left_to_a_person(self, api: Requests, expected: Certificate) -> _Asked | None:
        """Return the request of another process that the operator must approve or has denied.

        Its deletion would force the operator to begin again.
        """
        filed = await api.read(REQUEST)
        key = _key_of(filed) if filed and not filed.certificate else None
        if filed is None or key is None:
            return None
        if filed.conditions:
            return _Asked(expected, key, filed) if "Denied" in filed.conditions else None
        try:
            await api.approve(filed, *_SAID, dry_run=True)
        except RefusedError:
            return _Asked(expected, key, filed)
        return None

    async def _approve(self, api: Requests, asked: _Asked) -> str | None:
        """Approve the request, and return why certmond may not; None where it is decided."""
        try:
            found = await api.approve(asked.filed, *_SAID)
        except RefusedError as error:
            return str(error)
        self._take(asked, found)
        return None

    async def _decide(self, api: Requests, asked: _Asked) -> None:
        """Wait until the request has a certificate, or will never have one."""
        while not (asked.filed.certificate or {"Denied", "Failed"} & asked.filed.conditions.keys()):
            asked.approved = "Approved" in asked.filed.conditions
            await asyncio.sleep(_LOOK_AGAIN)
            await self._look(api, asked)

    async def _look(self, api: Requests, asked: _Asked) -> None:
        self._take(asked, await api.read(REQUEST))

    def _take(self, asked: _Asked, found: Filed | None) -> None:
        """Store the API's current state of the request. Raises UnreachableError where it was deleted or replaced."""
        if found is None or found.uid != asked.filed.uid:
            self._asked = None
            raise UnreachableError(f"the request {REQUEST} was deleted by somebody else; it is filed again")
        asked.filed = found


def _key_of(filed: Filed) -> PublicKey | None:
    """Return the key of a request with exactly the content of this check, else None."""
    try:
        asked = load_request(filed.request)
        with guarded("is not a request that can be used"):
            key, plain = asked.public_key(), asked.subject == _SUBJECT and not len(asked.extensions)
            same = plain and filed.signer_name == API_CLIENT and filed.usages == {*_USAGES}
            return describe_key(key) if same and isinstance(key, ec.EllipticCurvePublicKey) else None
    except MalformedError:
        return None


def _verdict(filed: Filed, key: PublicKey, expected: Certificate, now: datetime) -> Canary:
    if "Failed" in filed.conditions:
        return Canary(NAME, False, _said_of(filed, "has failed", "Failed"), _CONTROLLER)
    issued = decode(filed.certificate, filed.name).certificates
    if not issued or issued[0].key != key:
        fact = f"what was issued for the request {filed.name} is no certificate of its key"
        return Canary(NAME, False, fact, f"see what signs {API_CLIENT}")
    search = find_paths(issued[0], [expected], issued[1:], ["client auth"])
    if search.valid_at(now) is None:
        by = printable(issued[0].issuer)
        fact = f"the cluster signs with a CA (of the name {by}) that is not {expected.sha256[:12]}, or not valid now"
        remedy = "see which pair each kube-controller-manager has for --cluster-signing-cert-file, and restart it"
        return Canary(NAME, False, fact, remedy)
    return Canary(NAME, True, f"the cluster signs with {expected.sha256[:12]}")


def _said_of(filed: Filed, what: str, condition: str) -> str:
    return f"the request {filed.name} {what} ({printable(filed.conditions[condition])[:300]})"
