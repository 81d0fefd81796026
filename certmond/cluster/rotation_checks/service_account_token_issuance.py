"""Check that the API server accepts a new service-account token, and that the expected key has signed the token.

certmond discards the token, and no message contains the token.
"""

from __future__ import annotations

import base64
import json
from datetime import timedelta

from lightkube.models.authentication_v1 import TokenRequestSpec, TokenReviewSpec, TokenReviewStatus
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.authentication_v1 import TokenReview
from lightkube.resources.core_v1 import ServiceAccount, ServiceAccountToken

from certmond.cluster.api_access import Access
from certmond.cluster.client import Connection, NotFoundError
from certmond.cluster.rotation_checks.check import LIMIT, CheckResult, run_check
from certmond.errors import RefusedError
from certmond.pki.findings import printable
from certmond.pki.x509.public_key import PublicKey

NAME = "tokens"

_SECONDS = 600  # the minimum of the API


def tokens(
    access: Access,
    *,
    namespace: str = "kube-system",
    service_account: str = "certmond",
    signed_by: PublicKey | None = None,
    limit: timedelta = LIMIT,
) -> CheckResult:
    """Check that the API server accepts a new token of the service account.

    If `signed_by` is not None, also check that this key has signed the token. Skip the check if the service account
    does not exist.
    """
    account = f"{namespace}/{service_account}"
    rule = f"grant this user a role in {namespace} with apiGroups [''], resourceNames [{service_account}],"

    async def work(connection: Connection) -> CheckResult:
        client = connection.client
        try:
            await connection.call(
                f"read the ServiceAccount {account}",
                f"{rule} resources [serviceaccounts], verbs [get]",
                lambda: client.get(ServiceAccount, service_account, namespace=namespace),
            )
            made = await connection.call(
                f"request a token of {account}",
                f"{rule} resources [serviceaccounts/token], verbs [create]",
                lambda: client.create(
                    ServiceAccountToken(
                        metadata=ObjectMeta(), spec=TokenRequestSpec(audiences=[], expirationSeconds=_SECONDS)
                    ),
                    service_account,
                    namespace=namespace,
                ),
            )
        except NotFoundError:
            fact = f"skipped: the cluster has no ServiceAccount {account}"
            return CheckResult(
                NAME, True, fact, "create it: kubectl apply -f config/rbac.yaml; the account needs no permissions"
            )
        if not (token := (made.status and made.status.token) or ""):
            return CheckResult(
                NAME, False, f"the API server returned no token for {account}", "check the log of the API server"
            )
        try:
            review = await connection.call(
                "review a token",
                "grant this user a cluster role with apiGroups [authentication.k8s.io], resources [tokenreviews],"
                " verbs [create]",
                lambda: client.create(TokenReview(spec=TokenReviewSpec(token=token))),
            )
        except NotFoundError:
            raise RefusedError(
                "the API server does not support TokenReview; check its version: kubectl version"
            ) from None
        return _verdict(token, review.status or TokenReviewStatus(), namespace, service_account, signed_by)

    return run_check(access, NAME, work, limit)


def _verdict(
    token: str, status: TokenReviewStatus, namespace: str, service_account: str, signed_by: PublicKey | None
) -> CheckResult:
    account = f"{namespace}/{service_account}"
    if not status.authenticated:
        reason = printable((status.error or "no reason given").replace(token, "it"))[:300]
        remedy = (
            "check --service-account-key-file of each API server, and restart each API server that started before "
            "the last change to this file"
        )
        return CheckResult(NAME, False, f"the API server rejects a new token of {account} ({reason})", remedy)
    user = status.user.username if status.user else None
    if user != f"system:serviceaccount:{namespace}:{service_account}":
        fact = f"a new token of {account} authenticates as {printable(user or 'no user')}"
        return CheckResult(NAME, False, fact, "check the authenticators of the API server")
    if signed_by and _key_id(token) != _kubernetes_id(signed_by):
        fact = f"a new token of {account} is not signed with the key {signed_by.sha256[:12]}"
        return CheckResult(
            NAME,
            False,
            fact,
            "check --service-account-signing-key-file of each API server, then restart the API servers",
        )
    return CheckResult(NAME, True, f"the API server accepts a new token of {account}")


def _key_id(token: str) -> str:
    """Return the key ID in a token's header (RFC 7515, 4.1.4), or "" if the header is unreadable."""
    head = token.partition(".")[0]
    try:
        return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])
    except (ValueError, LookupError, TypeError):
        return ""


def _kubernetes_id(key: PublicKey) -> str:
    """Return the key ID that Kubernetes writes to tokens for `key` (pkg/serviceaccount/jwt.go, keyIDFromPublicKey)."""
    return base64.urlsafe_b64encode(bytes.fromhex(key.sha256)).decode("ascii").rstrip("=")
