"""Result of a check of the cluster, and the function that runs a check.

If the API server rejects a call or does not respond in time, the check fails. Each check has its own module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from certmond.cluster.api_access import Access
from certmond.errors import RefusedError, UnreachableError
from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.pki.rotation.pod_trust_gates import Answer
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode

if TYPE_CHECKING:
    from certmond.cluster.client import Connection

LIMIT = timedelta(seconds=60)
_MOST_NAMES = 10  # maximum number of names in a message, which also contains the number of the remaining names


@immutable
class CheckResult:
    """Result of a check. A failed check (`ok` is False) blocks the next phase.

    If the API server rejected a call or did not respond, `failure` distinguishes these two cases. Otherwise `failure`
    is None.
    """

    name: str
    ok: bool
    fact: str
    remedy: str = ""
    failure: Answer | None = None


def run_check(
    access: Access, name: str, work: Callable[[Connection], Awaitable[CheckResult]], limit: timedelta | None
) -> CheckResult:
    """Return the result of `work`. Return a failed check if the API server rejects a call, or does not respond within
    `limit`. None means no limit.
    """
    seconds = None if limit is None else limit.total_seconds()

    async def call(connection: Connection) -> CheckResult:
        async with asyncio.timeout(seconds):
            return await work(connection)

    try:
        return access.run(call)
    except RefusedError as error:
        remedy = "docs/cluster.md lists the permission that each check needs"
        return CheckResult(name, False, str(error), remedy, Answer.REFUSED)
    except (TimeoutError, UnreachableError) as error:
        fact = str(error) or f"the API server did not answer completely within {seconds or 0:g} s"
        remedy = "check that the API server answers; certmond repeats the check"
        return CheckResult(name, False, fact, remedy, Answer.SILENT)


def differs(pem: bytes, wanted: Iterable[Certificate], where: str, *, at_least: bool = False) -> str | None:
    """Return the difference between the bundle `pem` and the certificates `wanted` as a phrase, or None if they agree.

    The order of the certificates does not matter. With `at_least`, the bundle may contain other certificates.
    """
    found = decode(pem, where)
    if found.faults:
        return f"is malformed ({printable(found.faults[0].detail)})"
    has, needs = {each.sha256 for each in found.certificates}, {each.sha256 for each in wanted}
    missing = ", ".join(sha256[:12] for sha256 in sorted(needs - has))
    surplus = ", ".join(sha256[:12] for sha256 in sorted(set() if at_least else has - needs))
    words = (f"lacks {missing}" if missing else "", f"still contains {surplus}" if surplus else "")
    return " and ".join(filter(None, words)) or None


def first_names(names: Iterable[str]) -> str:
    """Return a text with the first ten names, and the number of the remaining names."""
    known = [printable(name) for name in names]
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return ", ".join(known[:_MOST_NAMES]) + more
