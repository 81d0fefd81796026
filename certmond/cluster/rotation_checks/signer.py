"""Check of the cluster's signer: certmond requests, verifies and discards a certificate.

The certificate is for a user without permissions. certmond keeps a request that waits for an operator, or that an
operator has denied.
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

from certmond.cluster.api_access import Access
from certmond.cluster.client import Connection
from certmond.cluster.csr_api import Filed, Requests
from certmond.cluster.csr_signer import API_CLIENT
from certmond.cluster.rotation_checks.check import LIMIT, CheckResult, run_check
from certmond.errors import CertmondError, MalformedError, RefusedError, SigningError, UnreachableError
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Certificate, load_request
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.path_building import find_paths
from certmond.pki.x509.public_key import PublicKey, describe_key, public_key_of

NAME = "signing"
REQUEST = "certmond-canary"
"""Name of the request, which is fixed so that a role can permit exactly this request."""
USER = "certmond:canary"
"""Common name of the certificate. Do not bind a role to this user."""

_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, USER)])
_USAGES = ("digital signature", "client auth")
_APPROVAL = "CertmondCanary", "certmond checks which CA the cluster signs with"
_SECONDS = 600  # the minimum of the API
_POLL_INTERVAL = 0.5  # seconds
_APPROVE = (
    f"permit certmond to approve requests to {API_CLIENT}; otherwise, inspect the request as in docs/cluster.md, then"
    f" run: kubectl certificate approve {REQUEST}"
)
_DENIED = (
    f"ask the user who denied the request for the reason; to file it again, run: kubectl delete csr {REQUEST}; the"
    " cluster deletes the request an hour after its creation"
)
_CONTROLLER = "check that a kube-controller-manager is the leader, and look for signing errors in the log of the leader"


@dataclass(slots=True)
class _PendingRequest:
    """A created CertificateSigningRequest, its public key, and the CA that must sign the certificate."""

    expected: Certificate
    key: PublicKey
    filed: Filed
    approved: bool = False


class SignerCheck:
    """Check of the cluster's signer. This object stores an undecided request until the next check."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._pending: _PendingRequest | None = None

    def check(self, expected: Certificate, now: datetime, limit: timedelta = LIMIT) -> CheckResult:
        """Check that the cluster issues a certificate that verifies with the CA `expected` at `now`.

        The check takes at most `limit`, plus one call that deletes the request. If certmond has no permission to
        approve an undecided request, the check fails immediately.
        """
        seconds = limit.total_seconds()

        async def work(connection: Connection) -> CheckResult:
            api = Requests(connection)
            try:
                async with asyncio.timeout(seconds):
                    pending = await self._request(api, expected)
                    forbidden = await self._approve(api, pending)
                    if forbidden and not pending.filed.conditions:
                        return CheckResult(
                            NAME, False, f"the request {REQUEST} waits for approval: {forbidden}", _APPROVE
                        )
                    await self._wait_for_decision(api, pending)
            except TimeoutError:
                if self._pending and self._pending.approved:
                    fact = f"the request {REQUEST} is approved, but the signer has not signed it within {seconds:g} s"
                    return CheckResult(NAME, False, fact, _CONTROLLER)
                raise UnreachableError(f"the API server did not answer completely within {seconds:g} s") from None
            if "Denied" in pending.filed.conditions:
                return CheckResult(NAME, False, _condition_fact(pending.filed, "is denied", "Denied"), _DENIED)
            self._pending = None
            with suppress(SigningError):  # a later check deletes the request, or the cluster does within a day
                await api.delete(REQUEST)
            return _verdict(pending.filed, pending.key, expected, now)

        return run_check(self._access, NAME, work, limit=None)

    def withdraw(self) -> None:
        """Delete the pending request of this process, if any. Never raises CertmondError."""
        if self._pending is not None:
            self._pending = None
            with suppress(CertmondError):
                self._access.run(lambda connection: Requests(connection).delete(REQUEST))

    async def _request(self, api: Requests, expected: Certificate) -> _PendingRequest:
        """Return the request of an earlier check with the same expected CA, or file a new request.

        If another process filed a request that waits for an operator or was denied, return that request instead of a
        new request. Raises UnreachableError if another process files a request at the same time.
        """
        if self._pending and self._pending.expected == expected:
            await self._refresh(api, self._pending)
            return self._pending
        before, self._pending = self._pending, None
        if before is None and (found := await self._awaiting_operator(api, expected)):
            self._pending = found
            return found
        await api.delete(REQUEST)  # the request of a killed process
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(_SUBJECT).sign(key, hashes.SHA256())
        filed = await api.create(REQUEST, request.public_bytes(Encoding.PEM), API_CLIENT, _USAGES, _SECONDS)
        if filed is None:
            raise UnreachableError(f"another process has filed the request {REQUEST}; certmond files it again later")
        self._pending = _PendingRequest(expected, public_key_of(key), filed)
        return self._pending

    async def _awaiting_operator(self, api: Requests, expected: Certificate) -> _PendingRequest | None:
        """Return the request of another process if the request waits for an operator or was denied. Otherwise return
        None.

        certmond does not delete this request, because the operator would have to decide again.
        """
        filed = await api.read(REQUEST)
        key = _key_of(filed) if filed and not filed.certificate else None
        if filed is None or key is None:
            return None
        if filed.conditions:
            return _PendingRequest(expected, key, filed) if "Denied" in filed.conditions else None
        try:
            await api.approve(filed, *_APPROVAL, dry_run=True)
        except RefusedError:
            return _PendingRequest(expected, key, filed)
        return None

    async def _approve(self, api: Requests, pending: _PendingRequest) -> str | None:
        """Approve the request, unless the request is already decided.

        If the API server forbids the approval, return the reason. Otherwise return None.
        """
        try:
            found = await api.approve(pending.filed, *_APPROVAL)
        except RefusedError as error:
            return str(error)
        self._store(pending, found)
        return None

    async def _wait_for_decision(self, api: Requests, pending: _PendingRequest) -> None:
        """Wait until the request has a certificate, was denied, or has failed. Raises the errors of `_store`."""
        while not (pending.filed.certificate or {"Denied", "Failed"} & pending.filed.conditions.keys()):
            pending.approved = "Approved" in pending.filed.conditions
            await asyncio.sleep(_POLL_INTERVAL)
            await self._refresh(api, pending)

    async def _refresh(self, api: Requests, pending: _PendingRequest) -> None:
        self._store(pending, await api.read(REQUEST))

    def _store(self, pending: _PendingRequest, found: Filed | None) -> None:
        """Store `found`, the current state of the request in the API server.

        Raises UnreachableError if another client has deleted or replaced the request.
        """
        if found is None or found.uid != pending.filed.uid:
            self._pending = None
            raise UnreachableError(f"another client has deleted the request {REQUEST}; certmond files it again")
        pending.filed = found


def _key_of(filed: Filed) -> PublicKey | None:
    """Return the public key of the request `filed`, or None if `filed` is not a request of this check."""
    try:
        request = load_request(filed.request)
        with guarded("is not a request that certmond can use"):
            key, plain = request.public_key(), request.subject == _SUBJECT and not len(request.extensions)
            same = plain and filed.signer_name == API_CLIENT and filed.usages == {*_USAGES}
            return describe_key(key) if same and isinstance(key, ec.EllipticCurvePublicKey) else None
    except MalformedError:
        return None


def _verdict(filed: Filed, key: PublicKey, expected: Certificate, now: datetime) -> CheckResult:
    if "Failed" in filed.conditions:
        return CheckResult(NAME, False, _condition_fact(filed, "has failed", "Failed"), _CONTROLLER)
    issued = decode(filed.certificate, filed.name).certificates
    if not issued or issued[0].key != key:
        fact = f"the signer has issued a certificate with another public key for the request {filed.name}"
        return CheckResult(NAME, False, fact, f"check the program that signs for {API_CLIENT}")
    search = find_paths(issued[0], [expected], issued[1:], ["client auth"])
    if search.valid_at(now) is None:
        by = printable(issued[0].issuer)
        fact = (
            f"the cluster signs with the CA {by}, which either is not the CA {expected.sha256[:12]} or is not valid now"
        )
        remedy = "check --cluster-signing-cert-file of each kube-controller-manager, then restart these processes"
        return CheckResult(NAME, False, fact, remedy)
    return CheckResult(NAME, True, f"the cluster signs with {expected.sha256[:12]}")


def _condition_fact(filed: Filed, what: str, condition: str) -> str:
    return f"the request {filed.name} {what} ({printable(filed.conditions[condition])[:300]})"
