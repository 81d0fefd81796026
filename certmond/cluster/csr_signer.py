"""Signing by the cluster: a CertificateSigningRequest of certificates.k8s.io/v1, polled until it is decided.

Owns the choice of Kubernetes' signer, the content and name of the request, and the rule by which certmond approves a
request itself. Does not wait for a decision: the caller asks again for a pending request with its cookie. A request
that this process or an earlier one has filed is used again. The private key never leaves this node: the API receives
only the request.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID

from certmond.errors import MalformedError, RefusedError, UnreachableError, WaitingError
from certmond.pki.findings import printable
from certmond.pki.signing.template import BACKDATE, Template
from certmond.pki.x509.certificate import load_request, to_pem
from certmond.pki.x509.parsing import decode
from certmond.pki.x509.public_key import public_key_of
from certmond.signers.protocol import Issued, Request

if TYPE_CHECKING:
    from certmond.cluster.csr_objects import Filed, Requests

KUBELET_CLIENT, KUBELET_SERVING, API_CLIENT = (
    "kubernetes.io/kube-apiserver-client-kubelet",
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/kube-apiserver-client",
)

_PERMITTED = ("digital signature", "key encipherment")  # pkg/apis/certificates/helpers.go, for all three signers
_SHORTEST, _LONGEST = 600, (1 << 31) - 1  # expirationSeconds: the API's minimum, and the maximum of its type
_MOST_PATIENT = 300.0  # seconds between two checks of an undecided request


class CsrSigner:
    """Signs through the Kubernetes API, with the rights of a kubeconfig's current user.

    With `approve`, also approves its own request if that is only for this node's identity.
    """

    def __init__(self, kubeconfig: str, *, time_limit: timedelta, approve: bool = False) -> None:
        self._kubeconfig = kubeconfig
        self._time_limit = time_limit
        self._approve = approve

    def sign(self, request: Request) -> Issued:
        """Return the certificate.

        Raises RefusedError, UnreachableError, or WaitingError while the request is undecided.
        """
        try:
            from certmond.cluster.client import attended  # noqa: PLC0415 - needs the extra
        except ImportError:
            remedy = "pip install certmond[kubernetes], or choose another signer"
            raise RefusedError(
                f"the package lightkube, which speaks to the Kubernetes API, is missing; {remedy}"
            ) from None
        return attended(self._sign(request, _Wanted.of(request)), request.alive)

    async def _sign(self, request: Request, wanted: _Wanted) -> Issued:
        from certmond.cluster.client import connected  # noqa: PLC0415 - as above
        from certmond.cluster.csr_objects import Requests  # noqa: PLC0415 - as above

        asked_for = _Cookie.parse(request.cookie)
        async with connected(self._kubeconfig, self._time_limit) as connection:
            api = Requests(connection)
            filed = await self._find(api, wanted, asked_for)
            unapproved = None
            if self._approve and not filed.conditions:
                unapproved = await _objection(api, request, wanted)
                if unapproved is None:
                    filed = await api.approve(filed, "CertmondApproved", _approval(request)) or filed
        if filed.certificate:
            return Issued(_of_key(filed, request))
        for verdict in ("Denied", "Failed"):
            if verdict in filed.conditions:
                said = printable(filed.conditions[verdict])[:300]
                detail = f"the request {filed.name} was {verdict.lower()} ({said})"
                raise RefusedError(f"{detail}; delete it to have {request.name} asked for again")
        raise self._waiting(filed, asked_for, unapproved)

    async def _find(self, api: Requests, wanted: _Wanted, asked_for: _Cookie | None) -> Filed:
        """Return this request in the API: the one of the cookie, a new one, or an existing one."""
        filed = await api.read(asked_for.name) if asked_for else None
        if filed and wanted.is_same(filed):
            return filed
        filed = await api.create(wanted.name, wanted.pem, wanted.signer_name, wanted.usages, wanted.seconds)
        if filed is None:
            filed = await api.read(wanted.name)
        if filed is None:
            raise UnreachableError(
                f"the request {wanted.name} was there, and was gone a moment later; it is filed anew"
            )
        if not wanted.is_same(filed):
            raise RefusedError(
                f"the request {wanted.name} is there with another content; find out whose it is, delete it"
            )
        return filed

    def _waiting(self, filed: Filed, asked_for: _Cookie | None, unapproved: str | None) -> WaitingError:
        turns = asked_for.turns + 1 if asked_for and asked_for.uid == filed.uid else 1
        if "Approved" in filed.conditions:
            detail = f"is approved and waits for {filed.signer_name}"
        elif unapproved:
            detail = f"waits for approval, which certmond does not give, for {unapproved}"
        else:
            detail = "waits for approval"
        cookie = str(_Cookie(filed.name, filed.uid, turns))
        asks = f"the request {filed.name} (signer {filed.signer_name}, usages {', '.join(sorted(filed.usages))})"
        remedy = "" if "Approved" in filed.conditions else f"; kubectl certificate approve {filed.name}"
        return WaitingError(f"{asks} {detail}{remedy}", min(2.0 ** min(turns, 16), _MOST_PATIENT), cookie)


@dataclass(frozen=True, slots=True)
class _Cookie:
    """The filed object, and the number of checks since."""

    name: str
    uid: str
    turns: int

    @classmethod
    def parse(cls, text: str | None) -> _Cookie | None:
        """Return the cookie in `text`, or None where certmond did not write it."""
        match (text or "").split(" "):
            case [name, uid, turns] if turns.isdecimal():
                return cls(name, uid, int(turns))
            case _:
                return None

    def __str__(self) -> str:
        return f"{self.name} {self.uid} {self.turns}"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The request to file. Only its signature does not follow from the caller's request."""

    name: str
    pem: bytes
    content: bytes
    signer_name: str
    usages: tuple[str, ...]
    seconds: int

    @classmethod
    def of(cls, request: Request) -> _Wanted:
        template, pem = request.template, request.pem()
        content = load_request(pem).tbs_certrequest_bytes
        lifetime = template.not_after - template.not_before - BACKDATE
        return cls(
            name=_object_name(request, content),
            pem=pem,
            content=content,
            signer_name=_signer_name(request.name, template),
            usages=(*(usage for usage in _PERMITTED if usage in template.usages), *template.extended_usages),
            seconds=min(max(int(lifetime.total_seconds()), _SHORTEST), _LONGEST),
        )

    def is_same(self, filed: Filed) -> bool:
        """Return whether the API's object has this content. The signature may differ, as each of ECDSA's does."""
        try:
            content = load_request(filed.request).tbs_certrequest_bytes
        except MalformedError:
            return False
        return (content, filed.signer_name, filed.usages) == (self.content, self.signer_name, frozenset(self.usages))


def _signer_name(name: str, template: Template) -> str:
    """Return Kubernetes' signer for such a certificate (pkg/controller/certificates/signer/signer.go)."""
    usage, organizations = template.extended_usages, _values(template.subject, NameOID.ORGANIZATION_NAME)
    common_name = "".join(_values(template.subject, NameOID.COMMON_NAME))
    of_node = common_name.startswith("system:node:") and organizations == ["system:nodes"]
    if usage == ("client auth",) and of_node and not template.names:
        return KUBELET_CLIENT
    if usage == ("server auth",) and of_node and template.names:
        return KUBELET_SERVING
    if usage == ("client auth",) and not of_node:
        return API_CLIENT
    detail = f"the Kubernetes API signs client certificates and those of kubelets, and {name} is neither"
    raise RefusedError(f"{detail} by its subject, usages and names; choose another signer")


async def _objection(api: Requests, request: Request, wanted: _Wanted) -> str | None:
    """Return why certmond does not approve this request, or None where it does.

    The rule: the request is for one of the kubelet's two signers. Its subject is exactly CN=system:node:<this
    node>,O=system:nodes. Each DNS name is this node's name, and each IP address is in the status of the Node. It has no
    names of another kind.
    """
    if wanted.signer_name == API_CLIENT:
        return f"{API_CLIENT} is approved by people"
    template, node = request.template, request.node_name
    if sorted(each.rfc4514_string() for each in template.subject) != [f"CN=system:node:{node}", "O=system:nodes"]:
        return f"{template.subject.rfc4514_string()} is not this node"
    addresses = frozenset[str]()
    if any(isinstance(name, x509.IPAddress) for name in template.names):
        addresses = await api.addresses(node)
    for name in template.names:
        match name:
            case x509.DNSName(value=value) if value == node:
                pass
            case x509.IPAddress(value=value) if str(value) in addresses:
                pass
            case _:
                return f"{name.value} is no name of this node to the cluster"
    return None


def _approval(request: Request) -> str:
    return f"certmond on {request.node_name} renews its own {request.name}"


def _of_key(filed: Filed, request: Request) -> bytes:
    """Return the PEM of the issued chain, without other text.

    Raises RefusedError where it is not for the request's key.
    """
    found = decode(filed.certificate, filed.name).certificates
    if not found or found[0].key != public_key_of(request.key):
        detail = f"what was issued for the request {filed.name} is no certificate of its key"
        raise RefusedError(f"{detail}; see what signs {filed.signer_name}")
    return b"".join(map(to_pem, found))


def _object_name(request: Request, content: bytes) -> str:
    """Return a DNS-1123 name that is the same for the same request on the same node."""
    parts = (request.node_name[:100], request.name, hashlib.sha256(content).hexdigest()[:10])
    plain = (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)
    return "-".join(("certmond", *filter(None, plain)))


def _values(subject: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in subject.get_attributes_for_oid(oid)]
