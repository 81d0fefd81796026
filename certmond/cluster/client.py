"""The parts of the Kubernetes API that certmond uses, through lightkube: CertificateSigningRequests, and this Node.

Owns the connection, the time limit of a call, the translation of the API's refusals into ours, and the bookkeeping of
its objects (resource versions, conflicts). What is asked for, and what an answer means, is the caller's. No message
quotes a kubeconfig. Imported only where a configuration asks for it: lightkube is an extra.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx2
import yaml
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.core.exceptions import ConfigError
from lightkube.models.certificates_v1 import (
    CertificateSigningRequestCondition,
    CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.certificates_v1 import CertificateSigningRequest
from lightkube.resources.core_v1 import Node

from certmond.errors import RefusedError, UnreachableError
from certmond.pki.reason import printable

FIELD_MANAGER = "certmond"

_TURN = 0.5  # seconds; `alive` is due every second
_CONFLICTS = 5  # as many times as client-go's retry.DefaultRetry tries
_RULES = {
    "create": "resources [certificatesigningrequests], verbs [create]",
    "read": "resources [certificatesigningrequests], verbs [get]",
    "approve": "resources [certificatesigningrequests/approval], verbs [update], and for resources [signers] with the"
    " signer's name, verbs [approve]",
    "read the Node": "resources [nodes], verbs [get], in apiGroups ['']",
}
"""What a cluster role has to permit for each of the calls, in apiGroups [certificates.k8s.io] where not said."""

# What lightkube raises where a kubeconfig, or the other end, is not what it takes for granted.
_LAX = (ConfigError, ValueError, LookupError, TypeError, AttributeError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Filed:
    """A CertificateSigningRequest as the API has it: PEM, and its conditions with their messages."""

    name: str
    uid: str
    signer_name: str
    usages: frozenset[str]
    request: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    conditions: dict[str, str]


@asynccontextmanager
async def connected(kubeconfig: str, time_limit: timedelta) -> AsyncIterator[Api]:
    """The API that the current context of `kubeconfig` leads to, with the rights of its user."""
    seconds = time_limit.total_seconds()
    client = _client(kubeconfig, seconds)
    if client is None:
        detail = f"{kubeconfig} is no kubeconfig that can be used"
        remedy = "see that it is there, and that its server, CA and credentials can be read"
        raise RefusedError(f"{detail}; {remedy}")
    try:
        yield Api(client, kubeconfig, seconds)
    finally:
        await client.close()


def _client(kubeconfig: str, seconds: float) -> AsyncClient | None:
    """None where the file is not good for one. Why is not said: the reason may quote a private key."""
    try:
        config = KubeConfig.from_file(kubeconfig).get()
        # What the environment says of proxies and trust is not asked: the kubeconfig alone says whom to talk to.
        return AsyncClient(config, timeout=httpx2.Timeout(seconds), trust_env=False, field_manager=FIELD_MANAGER)
    except (*_LAX, OSError, AssertionError, yaml.YAMLError):
        return None


def attended(work: Coroutine[Any, Any, T], alive: Callable[[], None]) -> T:
    """The result of `work`, with `alive` called every second at least until it is there."""

    async def attend() -> T:
        task = asyncio.create_task(work)
        while not task.done():
            await asyncio.wait({task}, timeout=_TURN)
            alive()
        return task.result()

    return asyncio.run(attend())


class Api:
    """The API server, spoken to with the rights of one kubeconfig. Every call takes `seconds` at most.

    Each raises RefusedError where the API server forbids it, UnreachableError where asking later may help.
    """

    def __init__(self, client: AsyncClient, kubeconfig: str, seconds: float) -> None:
        self._client = client
        self._kubeconfig = kubeconfig
        self._seconds = seconds

    async def create(
        self, name: str, request: bytes, signer_name: str, usages: tuple[str, ...], expiration_seconds: int
    ) -> Filed | None:
        """File a request; None where the name is taken."""
        spec = CertificateSigningRequestSpec(
            request=base64.b64encode(request).decode("ascii"),
            signerName=signer_name,
            usages=list(usages),
            expirationSeconds=expiration_seconds,
        )
        made = CertificateSigningRequest(metadata=ObjectMeta(name=name), spec=spec)
        try:
            return await self._call("create", lambda: self._filed(self._client.create(made)))
        except _TakenError:
            return None

    async def read(self, name: str) -> Filed | None:
        """The request of this name; None where there is none."""
        try:
            return await self._call("read", lambda: self._filed(self._client.get(CertificateSigningRequest, name)))
        except _GoneError:
            return None

    async def approve(self, filed: Filed, reason: str, message: str) -> Filed | None:
        """Approve exactly this request, unless it is decided already; None where it is not there any more."""
        for _ in range(_CONFLICTS):
            try:
                return await self._call("approve", lambda: self._filed(self._approved(filed, reason, message)))
            except _TakenError:  # somebody changed it since it was read: it is read again
                continue
            except _GoneError:
                return None
        raise UnreachableError(f"{filed.name} is being changed all the time; certmond approves it later")

    async def addresses(self, node_name: str) -> frozenset[str]:
        """The IP addresses that the cluster knows this Node by."""
        try:
            node = await self._call("read the Node", lambda: self._client.get(Node, node_name))
        except _GoneError:
            return frozenset()
        known = (node.status.addresses if node.status else None) or ()
        return frozenset(address.address for address in known if address.type in {"InternalIP", "ExternalIP"})

    async def _approved(self, filed: Filed, reason: str, message: str) -> Any:
        found = await self._client.get(CertificateSigningRequest, filed.name)
        if found.metadata is None or found.metadata.uid != filed.uid:
            raise _GoneError
        status = found.status or CertificateSigningRequestStatus()
        if status.conditions:  # approved, denied or failed: none of these is ever taken back
            return found
        now = datetime.now(UTC)
        condition = CertificateSigningRequestCondition(
            type="Approved", status="True", reason=reason, message=message, lastUpdateTime=now
        )
        approval = CertificateSigningRequest.Approval(
            metadata=found.metadata, spec=found.spec, status=CertificateSigningRequestStatus(conditions=[condition])
        )
        # The resource version in its metadata makes this a change of what was just read, and of nothing else.
        return await self._client.replace(approval, filed.name)

    @staticmethod
    async def _filed(answer: Awaitable[Any]) -> Filed:
        found = await answer
        status = found.status or CertificateSigningRequestStatus()
        return Filed(
            name=found.metadata.name,
            uid=found.metadata.uid,
            signer_name=found.spec.signerName,
            usages=frozenset(found.spec.usages or ()),
            request=base64.b64decode(found.spec.request),
            certificate=base64.b64decode(status.certificate or ""),
            # The API takes no other status than True for the conditions that it knows.
            conditions={each.type: each.message or each.reason or "" for each in status.conditions or ()},
        )

    async def _call(self, doing: str, call: Callable[[], Awaitable[T]]) -> T:
        """One call, again after as long as the API server says where it says so, until the time is up."""
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    try:
                        return await call()
                    except httpx2.HTTPStatusError as error:
                        wait = error.response.headers.get("Retry-After", "")
                        if not wait.isdecimal() or int(wait) >= self._seconds:
                            raise self._translated(doing, error) from None
                        await asyncio.sleep(max(int(wait), 1))
        except (TimeoutError, httpx2.HTTPError, OSError) as error:
            detail = printable(str(error)) or f"no answer within {self._seconds:g} s"
            raise UnreachableError(f"the Kubernetes API of {self._kubeconfig} cannot be reached ({detail})") from None
        except _LAX:
            detail = f"what answers at the server of {self._kubeconfig} is no Kubernetes API"
            raise UnreachableError(f"{detail}; see what listens there") from None

    def _translated(self, doing: str, error: httpx2.HTTPStatusError) -> Exception:
        said = error.status.message if isinstance(error, ApiError) else error.response.reason_phrase
        message = printable(said or "no reason given")[:300]
        match error.response.status_code:
            case 401:
                remedy = "renew the credentials in that file"
                return RefusedError(f"the Kubernetes API does not know the user of {self._kubeconfig}; {remedy}")
            case 403:
                rule = f"a cluster role of its user has to have {_RULES[doing]}"
                return RefusedError(f"the user of {self._kubeconfig} may not {doing} ({message}); {rule}")
            case 404:
                return _GoneError()
            case 409:
                return _TakenError()
            case 400 | 405 | 422 as status:
                return RefusedError(f"the Kubernetes API does not take the request ({status}: {message})")
            case status:
                return UnreachableError(
                    f"the Kubernetes API of {self._kubeconfig} is not able to ({status}: {message})"
                )


class _TakenError(Exception):
    """409: the name is taken, or the object was changed meanwhile."""


class _GoneError(Exception):
    """404: it is not there."""
