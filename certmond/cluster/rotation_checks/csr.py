"""What a check of the cluster found before a rotation goes on: a value, and the frame in which every check is made.

Owns the time limit of a check, and that a cluster which does not answer, or refuses, is a check that is not passed,
never one that is. What is checked is its own module's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from certmond.cluster.connection import Access
from certmond.errors import RefusedError, UnreachableError
from certmond.pki.findings import printable
from certmond.pki.rotation.ca_publication import Answer
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.parsing import decode

if TYPE_CHECKING:
    from certmond.cluster.client import Connection

LIMIT = timedelta(seconds=60)
_NAMED = 10  # things that a sentence names; the others are counted


@dataclass(frozen=True, slots=True)
class Canary:
    """`ok`: nothing here stands in the way of the next phase. What was not looked at is ok, and `fact` says so. Where
    nothing could be looked at, `failure` says whether asking later may help.
    """

    name: str
    ok: bool
    fact: str
    remedy: str = ""
    failure: Answer | None = None


def checked(
    access: Access, name: str, work: Callable[[Connection], Awaitable[Canary]], limit: timedelta | None
) -> Canary:
    """What `work` finds; where the API forbids or does not answer within `limit` (None: `work` has its own), that."""
    seconds = None if limit is None else limit.total_seconds()

    async def call(connection: Connection) -> Canary:
        async with asyncio.timeout(seconds):
            return await work(connection)

    try:
        return access.run(call)
    except RefusedError as error:
        remedy = "docs/cluster.md says which right each check needs, and why"
        return Canary(name, False, str(error), remedy, Answer.REFUSED)
    except (TimeoutError, UnreachableError) as error:
        fact = str(error) or f"the Kubernetes API gave no whole answer within {seconds or 0:g} s"
        remedy = "see that the API server answers; it is asked again by itself"
        return Canary(name, False, fact, remedy, Answer.SILENT)


def differs(pem: bytes, wanted: Iterable[Certificate], where: str, *, at_least: bool = False) -> str | None:
    """How the bundle `pem` differs, as a set, from `wanted`, in words that follow its name; None where it does not.
    With `at_least` it may have more.
    """
    found = decode(pem, where)
    if found.faults:
        return f"cannot be read ({printable(found.faults[0].detail)})"
    has, needs = {each.sha256 for each in found.certificates}, {each.sha256 for each in wanted}
    lacks = ", ".join(sha256[:12] for sha256 in sorted(needs - has))
    surplus = ", ".join(sha256[:12] for sha256 in sorted(set() if at_least else has - needs))
    words = (f"lacks {lacks}" if lacks else "", f"still has {surplus}" if surplus else "")
    return " and ".join(filter(None, words)) or None


def named(names: Iterable[str]) -> str:
    """The names in their order, the first ten of them, and how many there are more."""
    known = [printable(name) for name in names]
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more
