"""Check that the API server accepts a new service account token, and which key signed it.

Certmond requests a token, has the API server review it, and discards it. No message contains the token. The service
account needs no rights. Imports lightkube.
"""

from __future__ import annotations

import base64
import json
from datetime import timedelta

from lightkube.models.authentication_v1 import TokenRequestSpec, TokenReviewSpec, TokenReviewStatus
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.authentication_v1 import TokenReview
from lightkube.resources.core_v1 import ServiceAccount, ServiceAccountToken

from certmond.cluster.client import Connection, GoneError
from certmond.cluster.connection import Access
from certmond.cluster.rotation_checks.check import LIMIT, Canary, checked
from certmond.errors import RefusedError
from certmond.pki.findings import printable
from certmond.pki.x509.public_key import PublicKey

NAME = "tokens"

_SECONDS = 600  # the API's minimum


def tokens(
    access: Access,
    *,
    namespace: str = "kube-system",
    service_account: str = "certmond",
    signed_by: PublicKey | None = None,
    limit: timedelta = LIMIT,
) -> Canary:
    """Check that the API server accepts a new token of the service account, signed with the key `signed_by` if given.

    Without that service account the check is skipped, and is ok.
    """
    who = f"{namespace}/{service_account}"
    rule = f"a role of its user in {namespace} has to have apiGroups [''], resourceNames [{service_account}],"

    async def work(connection: Connection) -> Canary:
        client = connection.client
        try:
            await connection.call(
                f"read the ServiceAccount {who}",
                f"{rule} resources [serviceaccounts], verbs [get]",
                lambda: client.get(ServiceAccount, service_account, namespace=namespace),
            )
            made = await connection.call(
                f"ask for a token of {who}",
                f"{rule} resources [serviceaccounts/token], verbs [create]",
                lambda: client.create(
                    ServiceAccountToken(
                        metadata=ObjectMeta(), spec=TokenRequestSpec(audiences=[], expirationSeconds=_SECONDS)
                    ),
                    service_account,
                    namespace=namespace,
                ),
            )
        except GoneError:
            fact = f"not looked at: the cluster has no ServiceAccount {who}"
            return Canary(NAME, True, fact, "kubectl apply -f config/rbac.yaml makes it; it needs no rights")
        if not (token := (made.status and made.status.token) or ""):
            return Canary(NAME, False, f"the Kubernetes API gave no token for {who}", "see what its log says of it")
        try:
            review = await connection.call(
                "have a token reviewed",
                "a cluster role of its user has to have apiGroups [authentication.k8s.io], resources [tokenreviews],"
                " verbs [create]",
                lambda: client.create(TokenReview(spec=TokenReviewSpec(token=token))),
            )
        except GoneError:
            raise RefusedError("the Kubernetes API reviews no tokens; see its version") from None
        return _verdict(token, review.status or TokenReviewStatus(), namespace, service_account, signed_by)

    return checked(access, NAME, work, limit)


def _verdict(
    token: str, status: TokenReviewStatus, namespace: str, service_account: str, signed_by: PublicKey | None
) -> Canary:
    who = f"{namespace}/{service_account}"
    if not status.authenticated:
        said = printable((status.error or "no reason given").replace(token, "it"))[:300]
        remedy = "see that each API server has the public key in --service-account-key-file, and was restarted since"
        return Canary(NAME, False, f"a fresh token of {who} is not taken ({said})", remedy)
    user = status.user.username if status.user else None
    if user != f"system:serviceaccount:{namespace}:{service_account}":
        fact = f"a fresh token of {who} is taken for {printable(user or 'nobody')}"
        return Canary(NAME, False, fact, "see which authenticators the API server has")
    if signed_by and _key_id(token) != _kubernetes_id(signed_by):
        fact = f"a fresh token of {who} is not signed with the key {signed_by.sha256[:12]}"
        return Canary(NAME, False, fact, "see --service-account-signing-key-file of each API server, and restart it")
    return Canary(NAME, True, f"a fresh token of {who} is taken")


def _key_id(token: str) -> str:
    """Return the key ID in a token's header (RFC 7515, 4.1.4), or empty where it cannot be read."""
    head = token.partition(".")[0]
    try:
        return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])
    except (ValueError, LookupError, TypeError):
        return ""


def _kubernetes_id(key: PublicKey) -> str:
    """Return the ID of a key in Kubernetes' tokens (pkg/serviceaccount/jwt.go, keyIDFromPublicKey)."""
    return base64.urlsafe_b64encode(bytes.fromhex(key.sha256)).decode("ascii").rstrip("=")
