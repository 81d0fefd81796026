"""Report of the findings as a condition of this node's Node.

This module decides when certmond writes the condition. `pki.assessment.node_condition` defines the content of the
condition.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from certmond.cluster.api_access import Access
from certmond.errors import CertmondError
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.node_condition import NodeCondition, node_condition

_ANSWER = timedelta(seconds=2)
"""Time limit of each call, because the calls delay the next pass of the daemon."""
_PAUSE, _RETRIED_AFTER, _REPEATED_AFTER = 10.0, 60.0, 300.0
"""Seconds between two writes: of a changed condition, after a failed write, and of an unchanged condition."""


class NodeConditionReport:
    """Writer of the condition of this node's Node.

    `kubeconfig` returns the path of a kubeconfig, or raises RefusedError. `node` is the name to use if no file of the
    node contains the name of the node. `monotonic` returns the seconds of a monotonic clock.
    """

    def __init__(
        self,
        kubeconfig: Callable[[], str],
        *,
        node: str,
        alive: Callable[[], None],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._access = Access(kubeconfig, _ANSWER, alive)
        self._node, self._clock, self._monotonic = node, clock, monotonic
        self._written: NodeCondition | None = None
        self._written_at: float | None = None
        self._failure = ""
        self._event_due = False  # whether the last change of the condition still needs an event
        self.until: datetime | None = None
        """Time at which the next pass must write the condition, or None before the first report."""

    def report(self, assessment: Assessment) -> str | None:
        """Write the condition if a change, a repetition or a retry is due.

        Return a sentence about a failure that differs from the last failure, or None. Never raises CertmondError.
        """
        condition, before = node_condition(assessment), self._failure
        pause = _RETRIED_AFTER if before else _REPEATED_AFTER if condition == self._written else _PAUSE
        now = self._monotonic()
        if self._written_at is None or now >= self._written_at + pause:
            self._failure = self._write(assessment.facts.get("node_name") or self._node, condition)
            self._written, self._written_at = condition, self._monotonic()
            pause = _RETRIED_AFTER if self._failure else _REPEATED_AFTER
        left = self._written_at + pause - self._monotonic()
        self.until = self._clock() + timedelta(seconds=max(0.0, left))
        return self._failure if self._failure != before and self._failure else None

    def _write(self, node: str, condition: NodeCondition) -> str:
        """Write the condition and, if an event is due, the event. Return why a write failed, or "" for success."""
        try:
            from certmond.cluster.node_condition_writer import create_event, write_condition

            self._event_due |= write_condition(self._access, node, condition, self._clock())
            if self._event_due:  # after the condition, which is more important
                create_event(self._access, node, condition, self._clock())
                self._event_due = False
        except ImportError:
            return "the package lightkube is missing; run: pip install lightkube lightkube-models"
        except CertmondError as error:
            return str(error)
        return ""
