"""Access to the Kubernetes API: credentials, time limit, and a callback during a call.

`client` manages the connection, and the caller makes the requests. If the package lightkube is missing, calls fail, but
the import of this module succeeds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from certmond.errors import RefusedError, UnreachableError
from certmond.immutable_class import immutable

if TYPE_CHECKING:
    from certmond.cluster.client import Connection

T = TypeVar("T")


@immutable
class Access:
    """Credentials and time limit for calls to the API server.

    `kubeconfig` returns the path of a kubeconfig, or raises RefusedError. A call, or the request for one page of a
    list, takes at most `time_limit`. During a call, certmond calls `alive` at least every second.
    """

    kubeconfig: Callable[[], str]
    time_limit: timedelta
    alive: Callable[[], None]

    def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Call `work` with a connection to the API server, and return the result.

        Raises RefusedError if lightkube is missing or the kubeconfig is unusable. Raises UnreachableError for a
        conflict or a missing object that `work` does not handle.
        """
        try:
            # These imports need the extra `kubernetes`.
            from certmond.cluster.client import (  # noqa: PLC0415
                ConflictError,
                NotFoundError,
                connected,
                run_with_keepalive,
            )
        except ImportError:
            remedy = "remove `cluster:` from the configuration, or run: pip install lightkube lightkube-models"
            raise RefusedError(f"the package lightkube, which calls the Kubernetes API, is missing; {remedy}") from None

        async def call() -> T:
            async with connected(self.kubeconfig(), self.time_limit) as connection:
                return await work(connection)

        try:
            return run_with_keepalive(call(), self.alive)
        except (NotFoundError, ConflictError) as error:
            raise UnreachableError(f"{error}; certmond retries") from None
