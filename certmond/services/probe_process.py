"""TLS probes in a new Python process.

OpenSSL and the event loop need 5 MB of memory, which a daemon in observe mode leaves to the new process.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from certmond.errors import UnreachableError
from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.subprocesses import run_python

_START = 5.0
"""Maximum number of seconds for the start of the process, in addition to the time limit of the handshakes."""
_PROGRAM = """
import sys
from certmond.services.probe_process import answer
print(answer(sys.stdin.read()))
"""


def served_certificates(
    endpoints: Sequence[Endpoint], at: datetime, limit: float | None, alive: Callable[[], None] = lambda: None
) -> dict[Endpoint, Seen]:
    """Return what `tls_probe.served_certificates` returns in a new process, as of `at`.

    `limit` is the time limit in seconds for the handshakes, or None for the default limit. An exception of `alive`,
    which the function calls every second, ends the process. Raises the errors of `subprocesses.run_python`, and
    UnreachableError for an unusable answer.
    """
    places = [(each.address, each.port, each.server_name) for each in endpoints]
    request = json.dumps({"endpoints": places, "limit": limit}).encode()
    ended = run_python(_PROGRAM, timedelta(seconds=_START + (limit or 0.0)), request, alive)
    try:
        found = [_seen(each, at) for each in json.loads(ended.output)]
        return dict(zip(endpoints, found, strict=True))
    except (ValueError, TypeError, LookupError, RecursionError):
        status = f"exit status {ended.status}" if ended.status >= 0 else f"signal {-ended.status}"
        raise UnreachableError(f"the process for the TLS probes sent no answer ({status})") from None


def answer(request: str) -> str:
    """Return the answer of the new process to `request`: for each endpoint, the fields of the result."""
    import asyncio

    from certmond.services import tls_probe as probe

    asked = json.loads(request)
    endpoints = [Endpoint(*each) for each in asked["endpoints"]]
    limit = probe.LIMIT if asked["limit"] is None else asked["limit"]
    found = asyncio.run(probe.served_certificates(endpoints, datetime.now(UTC), limit=limit))
    return json.dumps([_fields(found[each]) for each in endpoints])


def _fields(seen: Seen) -> list[str | bool]:
    if isinstance(seen, Served):
        return [b64encode(seen.der).decode(), seen.version]
    return [seen.reason, seen.spoke_tls, seen.refused]


def _seen(fields: list[str | bool], at: datetime) -> Seen:
    """Return the result with these fields. Raises ValueError or TypeError for other fields."""
    match fields:
        case [str(der), str(version)]:
            return Served(b64decode(der, validate=True), version, at)
        case [str(reason), bool(spoke_tls), bool(refused)]:
            return Unserved(reason, at, spoke_tls, refused)
        case _:
            raise ValueError("is no result of a probe")
