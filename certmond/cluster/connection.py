"""The way to the Kubernetes API for who asks it something: with whose rights, how long, and what goes on meanwhile.

Owns nothing but that: what is asked is the caller's, and the connection is `client`'s. It can be imported without
lightkube; a call then says what is missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from certmond.errors import RefusedError, UnreachableError

if TYPE_CHECKING:
    from certmond.cluster.client import Connection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Access:
    """`kubeconfig` tells the path of one, at each use and not before; it may raise RefusedError.

    One call of the API, or one page of a listing, takes `time_limit` at most. `alive` is called every second at least
    meanwhile; what it raises passes through.
    """

    kubeconfig: Callable[[], str]
    time_limit: timedelta
    alive: Callable[[], None]

    def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """The result of `work`, over one connection.

        Raises RefusedError where the kubeconfig or lightkube is not there, and what `work` raises; UnreachableError for
        a conflict, or something missing, that `work` did not expect.
        """
        try:
            from certmond.cluster.client import GoneError, TakenError, attended, connected  # noqa: PLC0415 - the extra
        except ImportError:
            remedy = "pip install certmond[kubernetes], or configure no cluster"
            raise RefusedError(
                f"the package lightkube, which speaks to the Kubernetes API, is missing; {remedy}"
            ) from None

        async def call() -> T:
            async with connected(self.kubeconfig(), self.time_limit) as connection:
                return await work(connection)

        try:
            return attended(call(), self.alive)
        except (GoneError, TakenError) as error:
            raise UnreachableError(f"{error}; see what answers there, if that stays so") from None
