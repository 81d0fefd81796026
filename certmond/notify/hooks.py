"""Programs of the operator that certmond runs when a finding is raised or cleared.

This module starts and stops the hooks of a configuration. `hook_worker` runs one hook in a separate thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from certmond.notify.event_log import Journal
from certmond.notify.hook_worker import Count, Hook, PassResult
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.hook_events import open_findings
from certmond.pki.catalog.settings import HookSpec

GRACE = 5.0
"""Seconds that a running program has to end when certmond stops. After this time, certmond kills the program."""


class Hooks:
    """All hooks of a configuration. Only `close` waits for a running program."""

    def __init__(
        self, state_dir: Path, journal: Journal, count: Count, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._state_dir, self._journal, self._count, self._monotonic = state_dir, journal, count, monotonic
        self._hooks: dict[str, Hook] = {}
        self._leaving: dict[str, Hook] = {}

    def configure(self, specs: Iterable[HookSpec]) -> None:
        """Replace the hooks with the hooks in `specs`. Hooks with an unchanged configuration continue."""
        by_name = {spec.name: spec for spec in specs}
        for name, hook in list(self._hooks.items()):
            if by_name.get(name) != hook.spec:
                hook.stop()
                self._leaving[name] = self._hooks.pop(name)
        for name, spec in by_name.items():
            if name not in self._hooks:
                # A record has one writer. Therefore, the new thread starts after the old thread has ended.
                self._hooks[name] = Hook(
                    spec, self._state_dir, self._journal, self._count, after=self._leaving.pop(name, None),
                    monotonic=self._monotonic,
                )  # fmt: skip

    def deliver(self, assessment: Assessment, *, settled: bool) -> None:
        """Give each hook the open findings of at least the minimum severity of the hook."""
        result = PassResult(assessment.facts.get("node_name", ""), assessment.taken_at, settled)
        for hook in self._hooks.values():
            hook.deliver(open_findings(assessment, hook.spec.at_least), result)

    @property
    def waiting(self) -> Mapping[str, int]:
        """The number of waiting events of each hook, by the name of the hook."""
        return {name: hook.waiting for name, hook in self._hooks.items()}

    def close(self) -> None:
        """Stop all hooks. Kill programs that still run after GRACE seconds."""
        every = [*self._hooks.values(), *self._leaving.values()]
        for hook in every:
            hook.stop()
        deadline = time.monotonic() + GRACE
        for hook in every:
            hook.join(max(0.0, deadline - time.monotonic()))  # certmond repeats a killed run after its next start
