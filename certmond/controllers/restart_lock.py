"""Whose turn it is among control-plane nodes to restart something, and what that means for a restart.

Owns when the turn is asked for, kept and given back, and what follows where nobody can be asked. Who has it is decided
by the Lease (`cluster.lease`); a node by itself is always in turn, and a worker when its moment has come. Restarts
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from certmond.config.model import Config
from certmond.errors import CertmondError, LostError, UnreachableError
from certmond.pki.rotation.worker_batches import place


class Turn(Protocol):
    """Whose turn it is among control-plane nodes to restart something."""

    def take(self) -> str | None:
        """None where it is ours; else the sentence why not. Raises UnreachableError, RefusedError."""
        ...

    def keep(self) -> None:
        """It is still ours. Raises LostError where it is another's, UnreachableError, RefusedError."""
        ...

    @property
    def held(self) -> bool:
        """It is ours by our own clock, at this moment."""
        ...

    def give_back(self) -> None:
        """We have done. Never raises."""
        ...


class Alone:
    """There are no others: it is always our turn."""

    held = True

    def take(self) -> str | None:
        return None

    def keep(self) -> None:
        pass

    def give_back(self) -> None:
        pass


class Scattered:
    """A worker asks nobody, and lets its own moment come: among a thousand, not all begin at once.

    The moment lies within `spread` of when it first asks, at a place that its name decides. It is now where the worker
    is `called`, as one of few. `monotonic` is a clock, in seconds, that nobody sets.
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

    def take(self) -> str | None:
        if self._called():
            return None
        now = self._monotonic()
        self._since = now if self._since is None else self._since
        left = self._since + self._wait - now
        return f"the moment of this node among the workers comes in {left:.0f} s" if left > 0 else None

    def keep(self) -> None:
        pass

    def give_back(self) -> None:
        self._since = None


class TurnTaking:
    """The turn, as a restart needs it: taken before the first act, kept to the end, given back."""

    def __init__(self, turn: Turn, config: Config) -> None:
        self._turn, self._config = turn, config
        self._fenced = True
        self._asked_again_at = 0.0
        self._lost: str | None = None

    def wait_for_others(self, *, asked: bool = False) -> str | None:
        """Return why it is not this node's turn; None where it is. A worker that is `asked` waits for none."""
        if asked and isinstance(self._turn, Scattered):
            return None
        self._fenced = True
        try:
            return self._turn.take()
        except UnreachableError as error:
            if self._config.cluster.without_api == "go_on":
                self._fenced = False
                return None
            return f"{error}; it is waited for (`without_api: go_on` would not)"
        except CertmondError as error:
            return str(error)

    def may_begin(self) -> bool:
        """It is still our turn, by our own clock: asked right before the first act."""
        return self._turn.held or not self._fenced

    def keep(self) -> str | None:
        """Stay in turn as long as a restart takes; a sentence where it was lost, once.

        What has begun is brought to its end all the same: half-way is worse for all. And the API server may be what is
        being restarted.
        """
        asked = time.monotonic()
        if not self._turn.held and asked < self._asked_again_at:
            return None
        self._asked_again_at = asked + self._config.poll.total_seconds()
        lost = None
        try:
            if self._turn.held:
                self._turn.keep()
            else:
                lost = self._turn.take()
        except LostError as error:
            lost = str(error)
        except CertmondError:
            return None
        news, self._lost = lost != self._lost, lost
        return lost if news else None

    def give_back(self) -> None:
        """We have done. Never raises."""
        self._turn.give_back()
