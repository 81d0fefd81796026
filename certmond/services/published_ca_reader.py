"""Reader of the CA file that a server of k3s or RKE2 publishes at /cacerts.

The supervisor serves this path without authentication (k3s-io/k3s, pkg/clientaccess/token.go, getCACerts). certmond
verifies the certificate of the server against the CA that the node already trusts.
"""

from __future__ import annotations

import http.client
import ssl
from http import HTTPStatus

from certmond.errors import RefusedError, UnreachableError
from certmond.pki.findings import printable

LIMIT = 10.0
"""Time limit in seconds for each network operation, as in k3s (defaultClientTimeout)."""
_MAX_SIZE = 1 << 20
_PATH = "/cacerts"


def read_published_ca(address: str, anchors: str, limit: float = LIMIT) -> bytes:
    """Return the CA file that the server at `address` publishes. `address` is HOST:PORT, and `anchors` is PEM.

    Raises RefusedError if the certificate of the server does not verify against `anchors`. Raises UnreachableError if
    the server does not answer, or does not publish a CA file.
    """
    host, _, port = address.rpartition(":")
    try:
        connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=limit, context=_trusting(anchors))
        try:
            connection.request("GET", _PATH)
            response = connection.getresponse()
            content = response.read(_MAX_SIZE + 1)
            if response.length and len(content) <= _MAX_SIZE:  # `read` with a size accepts a truncated response
                raise http.client.IncompleteRead(content, response.length)
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        fact = f"the server {address} serves a certificate that this node does not trust ({error.verify_message})"
        raise RefusedError(f"{fact}; check the address of the server") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        detail = printable(str(error))[:200] or type(error).__name__
        raise UnreachableError(f"the server {address} does not answer ({detail}); check the server") from None
    if response.status != HTTPStatus.OK or len(content) > _MAX_SIZE:
        raise UnreachableError(
            f"the server {address} does not publish its CA at {_PATH} (status {response.status}); check the address"
        )
    return content


def _trusting(anchors: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # like Go, accept an intermediate CA as a trust anchor
    context.load_verify_locations(cadata=anchors)
    return context
