"""Access to the Kubernetes API: credentials, time limit, and a callback during a call.

`client` owns the connection, and the caller the requests. This module imports without lightkube. A call then raises an
error that names the missing package.
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
    """`kubeconfig` returns the path of a kubeconfig at each use, and may raise RefusedError.

    One call of the API, or one page of a listing, takes at most `time_limit`. Meanwhile `alive` is called at least
    every second. Its exceptions pass through.
    """

    kubeconfig: Callable[[], str]
    time_limit: timedelta
    alive: Callable[[], None]

    def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Return the result of `work`, over one connection.

        Raises RefusedError where the kubeconfig or lightkube is missing, and what `work` raises. Raises
        UnreachableError for a conflict, or a missing object, that `work` does not handle.
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
