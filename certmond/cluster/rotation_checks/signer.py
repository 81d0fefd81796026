"""Whether the cluster signs, and with which CA: a certificate is asked for, looked at, and thrown away.

Owns the request of the check: for the signer kubernetes.io/kube-apiserver-client, with a key that is thrown away, for a
user who may do nothing, for the shortest time that the API takes. While a person is to approve it, or nobody has signed
it yet, it stays, and each further check looks at it again, be it of another process: a command beside the daemon, or
the one that follows on it. It stays as well where a person has denied it, until somebody takes it away: nobody is asked
again what was refused. Else it is deleted, whatever comes of it, by a later check, or by the cluster within a day.
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
from certmond.cluster.rotation_checks.csr import LIMIT, Canary, checked
from certmond.errors import CertmondError, MalformedError, RefusedError, SigningError, UnreachableError
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Certificate, PublicKey, describe_key, load_request, public_key_of
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.parsing import decode
from certmond.pki.x509.path_building import find_paths

NAME = "signing"
REQUEST = "certmond-canary"
"""The name of the request: always the same, so that a role can permit this one and no other."""
USER = "certmond:canary"
"""The common name that is asked for. It is in no group, and nothing is to be bound to it."""

_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, USER)])
_USAGES = ("digital signature", "client auth")
_SAID = "CertmondCanary", "certmond checks which CA the cluster signs with"
_SECONDS = 600  # the API's least
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
    """The request that is in the API, in whose answer nobody else could be meant."""

    expected: Certificate
    key: PublicKey
    filed: Filed
    approved: bool = False


class Signing:
    """The check, for one process: it knows a request that is still undecided."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._asked: _Asked | None = None

    def check(self, expected: Certificate, now: datetime, limit: timedelta = LIMIT) -> Canary:
        """A certificate that the cluster signs now verifies with the CA `expected` at `now`.

        Takes `limit` at most, and the time of one call of the API to clean up. Where certmond may not approve its
        request it waits for nobody: the next check looks at it again.
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
            with suppress(SigningError):  # what cannot be deleted now, the next check does, or the cluster within a day
                await api.delete(REQUEST)
            return _verdict(asked.filed, asked.key, expected, now)

        return checked(self._access, NAME, work, limit=None)

    def withdraw(self) -> None:
        """No request of this process is left. Never raises."""
        if self._asked is not None:
            self._asked = None
            with suppress(CertmondError):
                self._access.run(lambda connection: Requests(connection).delete(REQUEST))

    async def _ask(self, api: Requests, expected: Certificate) -> _Asked:
        """What was filed before, for the same CA, or a request that is filed now."""
        if self._asked and self._asked.expected == expected:
            await self._look(api, self._asked)
            return self._asked
        before, self._asked = self._asked, None
        if before is None and (found := await self._left_to_a_person(api, expected)):
            self._asked = found
            return found
        await api.delete(REQUEST)  # of a process that was killed
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(_SUBJECT).sign(key, hashes.SHA256())
        filed = await api.create(REQUEST, request.public_bytes(Encoding.PEM), API_CLIENT, _USAGES, _SECONDS)
        if filed is None:
            raise UnreachableError(f"the request {REQUEST} was filed by another, too; it is filed again later")
        self._asked = _Asked(expected, public_key_of(key), filed)
        return self._asked

    async def _left_to_a_person(self, api: Requests, expected: Certificate) -> _Asked | None:
        """What another process has filed, and a person is to approve, or has denied: who took it away would have them
        begin again.
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
        """Why certmond may not; None where it is decided, by whomever."""
        try:
            found = await api.approve(asked.filed, *_SAID)
        except RefusedError as error:
            return str(error)
        self._take(asked, found)
        return None

    async def _decide(self, api: Requests, asked: _Asked) -> None:
        """Until it has a certificate, or will never have one."""
        while not (asked.filed.certificate or {"Denied", "Failed"} & asked.filed.conditions.keys()):
            asked.approved = "Approved" in asked.filed.conditions
            await asyncio.sleep(_LOOK_AGAIN)
            await self._look(api, asked)

    async def _look(self, api: Requests, asked: _Asked) -> None:
        self._take(asked, await api.read(REQUEST))

    def _take(self, asked: _Asked, found: Filed | None) -> None:
        """What the API has of it now."""
        if found is None or found.uid != asked.filed.uid:
            self._asked = None
            raise UnreachableError(f"the request {REQUEST} was deleted by somebody else; it is filed again")
        asked.filed = found


def _key_of(filed: Filed) -> PublicKey | None:
    """The key of a request that asks for exactly what this check asks for, whoever has filed it; else None."""
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
