"""Signing by the cluster through a CertificateSigningRequest of certificates.k8s.io/v1.

This module chooses the Kubernetes signer (`spec.signerName`), defines the content of the request, and decides whether
certmond approves the request. The private key never leaves this node.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID

from certmond.errors import MalformedError, RefusedError, UnreachableError, WaitingError
from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.pki.signing.template import BACKDATE, Template
from certmond.pki.x509.certificate import load_request, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import public_key_of
from certmond.signers.protocol import Issued, Request

if TYPE_CHECKING:
    from certmond.cluster.csr_api import Filed, Requests

KUBELET_CLIENT, KUBELET_SERVING, API_CLIENT = (
    "kubernetes.io/kube-apiserver-client-kubelet",
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/kube-apiserver-client",
)

_PERMITTED = ("digital signature", "key encipherment")  # pkg/apis/certificates/helpers.go, for all three signers
_SHORTEST, _LONGEST = 600, (1 << 31) - 1  # expirationSeconds: the API's minimum, and the maximum of its type
_LONGEST_POLL = 300.0  # seconds between two checks of an undecided request


class CsrSigner:
    """Signer that uses the Kubernetes API with the permissions of the current user of a kubeconfig.

    With `approve`, the signer approves its own request if the request is only for this node's identity.
    """

    def __init__(self, kubeconfig: str, *, time_limit: timedelta, approve: bool = False) -> None:
        self._kubeconfig = kubeconfig
        self._time_limit = time_limit
        self._approve = approve

    def sign(self, request: Request) -> Issued:
        """Return the certificate for `request`.

        Raises WaitingError while the cluster has not issued the certificate, RefusedError if the request cannot
        succeed, and UnreachableError if a retry might succeed.
        """
        try:
            from certmond.cluster.client import run_with_keepalive  # noqa: PLC0415 - needs the extra
        except ImportError:
            remedy = "choose another signer, or run: pip install lightkube lightkube-models"
            raise RefusedError(f"the package lightkube, which calls the Kubernetes API, is missing; {remedy}") from None
        return run_with_keepalive(self._sign(request, _Wanted.of(request)), request.alive)

    async def _sign(self, request: Request, wanted: _Wanted) -> Issued:
        from certmond.cluster.client import connected  # noqa: PLC0415 - as above
        from certmond.cluster.csr_api import Requests  # noqa: PLC0415 - as above

        earlier = _Cookie.parse(request.cookie)
        async with connected(self._kubeconfig, self._time_limit) as connection:
            api = Requests(connection)
            filed = await self._find(api, wanted, earlier)
            objection = None
            if self._approve and not filed.conditions:
                objection = await _objection(api, request, wanted)
                if objection is None:
                    filed = await api.approve(filed, "CertmondApproved", _approval(request)) or filed
        if filed.certificate:
            return Issued(_of_key(filed, request))
        for verdict in ("Denied", "Failed"):
            if verdict in filed.conditions:
                reason = printable(filed.conditions[verdict])[:300]
                detail = f"the CertificateSigningRequest {filed.name} has the condition {verdict} ({reason})"
                raise RefusedError(f"{detail}; to request {request.name} again, run: kubectl delete csr {filed.name}")
        raise self._waiting(filed, earlier, objection)

    async def _find(self, api: Requests, wanted: _Wanted, earlier: _Cookie | None) -> Filed:
        """Return the API object for the request, and create it if necessary.

        Raises RefusedError if an object of this name has other content, and UnreachableError if another client deletes
        the object.
        """
        filed = await api.read(earlier.name) if earlier else None
        if filed and wanted.is_same(filed):
            return filed
        filed = await api.create(wanted.name, wanted.pem, wanted.signer_name, wanted.usages, wanted.seconds)
        if filed is None:
            filed = await api.read(wanted.name)
        if filed is None:
            raise UnreachableError(
                f"another client has deleted the CertificateSigningRequest {wanted.name}; certmond files it again"
            )
        if not wanted.is_same(filed):
            raise RefusedError(
                f"the CertificateSigningRequest {wanted.name} exists with other content; find the client that created "
                f"it, then run: kubectl delete csr {wanted.name}"
            )
        return filed

    def _waiting(self, filed: Filed, earlier: _Cookie | None, objection: str | None) -> WaitingError:
        polls = earlier.polls + 1 if earlier and earlier.uid == filed.uid else 1
        if "Approved" in filed.conditions:
            detail = f"is approved, but {filed.signer_name} has not signed it yet"
        elif objection:
            detail = f"waits for approval; certmond does not approve it, because {objection}"
        else:
            detail = "waits for approval"
        cookie = str(_Cookie(filed.name, filed.uid, polls))
        request = f"the request {filed.name} (signer {filed.signer_name}, usages {', '.join(sorted(filed.usages))})"
        remedy = "" if "Approved" in filed.conditions else f"; run: kubectl certificate approve {filed.name}"
        return WaitingError(f"{request} {detail}{remedy}", min(2.0 ** min(polls, 16), _LONGEST_POLL), cookie)


@immutable
class _Cookie:
    """Name and uid of a filed request, and the number of times that certmond has checked the request."""

    name: str
    uid: str
    polls: int

    @classmethod
    def parse(cls, text: str | None) -> _Cookie | None:
        """Return the cookie in `text`, or None if `text` is not a cookie."""
        match (text or "").split(" "):
            case [name, uid, polls] if polls.isdecimal():
                return cls(name, uid, int(polls))
            case _:
                return None

    def __str__(self) -> str:
        return f"{self.name} {self.uid} {self.polls}"


@immutable
class _Wanted:
    """The CertificateSigningRequest to create.

    `content` is the DER of the request without the signature. `seconds` is the requested lifetime.
    """

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
        """Return whether `filed` requests the same certificate from the same signer.

        Ignore the signature, because each ECDSA signature is different.
        """
        try:
            content = load_request(filed.request).tbs_certrequest_bytes
        except MalformedError:
            return False
        return (content, filed.signer_name, filed.usages) == (self.content, self.signer_name, frozenset(self.usages))


def _signer_name(name: str, template: Template) -> str:
    """Return the name of Kubernetes' signer for the template (pkg/controller/certificates/signer/signer.go).

    Raises RefusedError if Kubernetes has no such signer.
    """
    usage, organizations = template.extended_usages, _values(template.subject, NameOID.ORGANIZATION_NAME)
    common_name = "".join(_values(template.subject, NameOID.COMMON_NAME))
    of_node = common_name.startswith("system:node:") and organizations == ["system:nodes"]
    if usage == ("client auth",) and of_node and not template.names:
        return KUBELET_CLIENT
    if usage == ("server auth",) and of_node and template.names:
        return KUBELET_SERVING
    if usage == ("client auth",) and not of_node:
        return API_CLIENT
    detail = f"Kubernetes signs only client certificates and kubelet serving certificates, but {name} is neither"
    raise RefusedError(f"{detail} by its subject, usages and subject alternative names; choose another signer")


async def _objection(api: Requests, request: Request, wanted: _Wanted) -> str | None:
    """Return why certmond does not approve this request, or None if certmond approves it.

    certmond approves only a kubelet certificate whose subject and subject alternative names are those of this node.
    """
    if wanted.signer_name == API_CLIENT:
        return f"an operator must approve requests to {API_CLIENT}"
    template, node = request.template, request.node_name
    if sorted(each.rfc4514_string() for each in template.subject) != [f"CN=system:node:{node}", "O=system:nodes"]:
        return f"{template.subject.rfc4514_string()} is not the subject of this node"
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
                return f"{name.value} is not a name of this node in the cluster"
    return None


def _approval(request: Request) -> str:
    return f"certmond on {request.node_name} renews its own {request.name}"


def _of_key(filed: Filed, request: Request) -> bytes:
    """Return the PEM of the issued chain.

    Raises RefusedError if the certificate is not for the key of the request.
    """
    found = decode(filed.certificate, filed.name).certificates
    if not found or found[0].key != public_key_of(request.key):
        detail = f"the signer has issued a certificate with another public key for the request {filed.name}"
        raise RefusedError(f"{detail}; check the program that signs for {filed.signer_name}")
    return b"".join(map(to_pem, found))


def _object_name(request: Request, content: bytes) -> str:
    """Return the name of the API object (DNS-1123). Equal requests of a node have the same name."""
    parts = (request.node_name[:100], request.name, hashlib.sha256(content).hexdigest()[:10])
    plain = (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)
    return "-".join(("certmond", *filter(None, plain)))


def _values(subject: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in subject.get_attributes_for_oid(oid)]
