"""Health probes of services: an HTTP request or a TCP connection to each address.

The status codes 200 to 399 count as healthy, as for the kubelet (pkg/probe/http). The status codes 401 and 403 also
count as healthy, because they show that the server runs.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

LIMIT = 3.0
"""Time limit in seconds for all addresses together. For comparison: the probes of kubeadm permit 15 seconds."""
_MAX_LINE = 1 << 12  # maximum number of bytes of the status line

Anchors = str | None
"""CA certificates in PEM, or None to skip the verification."""


async def health_problems(addresses: Mapping[str, Anchors], limit: float = LIMIT) -> dict[str, str | None]:
    """Return the problem of each address as a sentence, or None for a healthy address. Never raises an exception."""
    deadline = asyncio.get_running_loop().time() + limit
    probes = [_health_problem(address, anchors, deadline) for address, anchors in addresses.items()]
    return dict(zip(addresses, await asyncio.gather(*probes), strict=True))


async def _health_problem(address: str, anchors: Anchors, deadline: float) -> str | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await _response_problem(address, anchors)
    except TimeoutError:
        return f"{address} does not answer in time"
    except ssl.SSLCertVerificationError as error:
        return f"{address} serves a certificate that does not verify against its CA ({error.verify_message})"
    except ssl.SSLError as error:
        return f"{address}: the handshake failed ({error.reason})"
    except (OSError, ValueError) as error:
        return f"{address} does not answer ({getattr(error, 'strerror', None) or error})"


async def _response_problem(address: str, anchors: Anchors) -> str | None:
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=_context(anchors) if parts.scheme == "https" else None
    )
    try:
        if parts.scheme == "tcp":
            return None
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        line = await reader.readuntil(b"\n")
        return _status_problem(address, line[:_MAX_LINE])
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return f"{address} does not answer with HTTP"
    finally:
        writer.transport.abort()  # a TLS shutdown would wait for the peer beyond the limit


def _status_problem(address: str, line: bytes) -> str | None:
    words = line.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"{address} does not answer with HTTP"
    status = int(words[1])
    return None if 200 <= status < 400 or status in {401, 403} else f"{address} answers {status}"


def _context(anchors: Anchors) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the address belongs to this node
    if anchors:
        context.load_verify_locations(cadata=anchors)
    else:
        context.verify_mode = ssl.CERT_NONE
    return context
