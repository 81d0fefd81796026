"""Lock that permits only one control-plane node at a time to restart services.

This module decides when a restart takes, renews and releases the lock. The Lease (`cluster.lease_lock`) decides which
node holds the lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from certmond.config.model import Config
from certmond.errors import CertmondError, LostError, UnreachableError
from certmond.pki.rotation.worker_batches import place

_MARK_INTERVAL = 30.0
"""Minimum number of seconds between two attempts to write a mark."""


class RestartLock(Protocol):
    """Lock for restarts, which only one control-plane node holds at a time."""

    def take(self, *, renews: bool = False) -> str | None:
        """Take the lock. Return None if this node now holds the lock, otherwise the reason for the wait.

        Raises UnreachableError or RefusedError if a request fails. `renews` means that the service issues its
        certificates again in the restart. In this case, this node also waits until another server's restart of this
        kind is proven to be successful. All other nodes wait until `give_back` removes the mark of this node.
        """
        ...

    def keep(self) -> None:
        """Renew the lock.

        Raises LostError if this node no longer holds the lock, and UnreachableError or RefusedError if a request fails.
        """
        ...

    @property
    def held(self) -> bool:
        """Whether this node holds the lock, according to the clock of this node."""
        ...

    def give_back(self, mark: str | None = None) -> None:
        """Release the lock. Never raises an error.

        `mark` is the reason why the restart is not proven to be successful. "" removes the mark of this node, and None
        leaves the mark unchanged.
        """
        ...

    def settle(self) -> None:
        """Write the mark that `give_back` could not write. Never raises an error."""
        ...

    def node_problem(self) -> str | None:
        """Return why the Node of this node is not ready, or None if no such problem is known.

        Raises UnreachableError or RefusedError if the request fails.
        """
        ...


class SingleNodeLock:
    """Lock for a single node, which always holds this lock."""

    held = True

    def take(self, *, renews: bool = False) -> str | None:  # noqa: ARG002 - the protocol's
        return None

    def keep(self) -> None:
        pass

    def give_back(self, mark: str | None = None) -> None:
        pass

    def settle(self) -> None:
        pass

    def node_problem(self) -> str | None:
        return None


class WorkerDelay:
    """Delay that spreads the restarts of many workers. A worker has this delay instead of a lock.

    The delay begins with the first `take`. The length of the delay is a part of `spread` that depends on the name of
    the node. A worker whose batch is released (`called`) does not wait.
    """

    held = True

    def __init__(
        self,
        identity: str,
        spread: timedelta,
        *,
        called: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._called = called
        self._wait, self._monotonic = spread.total_seconds() * place(identity), monotonic
        self._since: float | None = None

    def take(self, *, renews: bool = False) -> str | None:  # noqa: ARG002 - the protocol's
        if self._called():
            return None
        now = self._monotonic()
        self._since = now if self._since is None else self._since
        left = self._since + self._wait - now
        return f"the delay of this worker ends in {left:.0f} s" if left > 0 else None

    def keep(self) -> None:
        pass

    def give_back(self, mark: str | None = None) -> None:  # noqa: ARG002 - the protocol's
        self._since = None

    def settle(self) -> None:
        pass

    def node_problem(self) -> str | None:
        return None


class AgentDelay(WorkerDelay):
    """Delay of an agent of k3s or RKE2. A server of the cluster signs the new certificates of the agent.

    `servers` returns why the agent must wait, or None. The agent waits for each server that restarts, or whose last
    restart is not proven to be successful. `node` returns why the Node of this agent is not ready, or None.
    """

    def __init__(
        self,
        identity: str,
        spread: timedelta,
        *,
        servers: Callable[[], str | None],
        node: Callable[[], str | None] = lambda: None,
        called: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(identity, spread, called=called, monotonic=monotonic)
        self._servers, self._node = servers, node

    def take(self, *, renews: bool = False) -> str | None:
        """Return why the agent must wait, or None if the restart may begin.

        The reason is the rest of the delay or, with `renews`, a server for which the agent waits. Raises
        UnreachableError or RefusedError if the request for the state of the servers fails.
        """
        return super().take() or (self._servers() if renews else None)

    def node_problem(self) -> str | None:
        return self._node()


class RestartLockSession:
    """Use of the lock for a restart: taken before the restart, renewed during the restart, and released at the end."""

    def __init__(self, lock: RestartLock, config: Config) -> None:
        self._lock, self._config = lock, config
        self._fenced = True
        self._next_request_at = self._next_mark_at = 0.0
        self._lost: str | None = None

    def wait_for_others(self, *, asked: bool = False, renews: bool = False) -> str | None:
        """Take the lock. Return why this node must wait, or None if the restart may begin.

        If the API server is unreachable, `without_api: go_on` permits a restart without the lock. If the operator
        `asked` for the restart, a worker does not wait. With `renews` and without `asked`, this node also waits while
        the restart of another server is not proven to be successful.
        """
        if asked and isinstance(self._lock, WorkerDelay):
            return None
        self._fenced = True
        try:
            return self._lock.take(renews=renews and not asked)
        except UnreachableError as error:
            if self._config.cluster.without_api == "go_on":
                self._fenced = False
                return None
            remedy = "to restart without the lock, set `cluster.without_api: go_on`"
            return f"{error}; certmond waits for the API server ({remedy})"
        except CertmondError as error:
            return str(error)

    def may_begin(self) -> bool:
        """Return whether the restart may begin, either with the lock or because of `without_api: go_on`."""
        return self._lock.held or not self._fenced

    def keep(self) -> str | None:
        """Renew the lock during a restart, or take a lost lock again.

        After a loss of the lock, return the reason once. Otherwise return None. The restart continues without the lock,
        because an incomplete restart is worse for all nodes. A restart of the API server also prevents the renewal of
        the lock.
        """
        now = time.monotonic()
        if not self._lock.held and now < self._next_request_at:
            return None
        self._next_request_at = now + self._config.poll.total_seconds()
        lost = None
        try:
            if self._lock.held:
                self._lock.keep()
            else:
                lost = self._lock.take()
        except LostError as error:
            lost = str(error)
        except CertmondError:
            return None
        news, self._lost = lost != self._lost, lost
        return lost if news else None

    def give_back(self, mark: str | None = None) -> None:
        """Release the lock. `RestartLock.give_back` describes `mark`. Never raises an error."""
        self._lock.give_back(mark)

    def node_problem(self) -> str | None:
        """Return why the Node of this node is not ready after a restart, or None. Never raises CertmondError.

        If the API server does not answer, return the error, or None with `without_api: go_on`. If the API server
        refuses the request, return None.
        """
        try:
            return self._lock.node_problem()
        except UnreachableError as error:
            return None if self._config.cluster.without_api == "go_on" else str(error)
        except CertmondError:
            return None

    def settle(self) -> None:
        """Write the mark that `give_back` could not write, at most once in `_MARK_INTERVAL`. Never raises an error."""
        if (now := time.monotonic()) >= self._next_mark_at:
            self._next_mark_at = now + _MARK_INTERVAL
            self._lock.settle()
