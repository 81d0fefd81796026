"""Programs of the operator that certmond runs when a finding is raised and when it is cleared.

Owns the set of hooks of a configuration, with one thread for each hook, so that no pass waits. `hook_worker` runs one
hook.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from certmond.notify.hook_worker import Count, Hook, PassResult
from certmond.notify.journal import Journal
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.hook_delivery import open_findings
from certmond.pki.catalog.settings import HookSpec

GRACE = 5.0
"""Seconds for a running program when certmond stops. Then certmond kills it, and repeats the run at the next start."""


class Hooks:
    """All hooks of a configuration, which `configure` can replace. Only `close` waits for a program."""

    def __init__(
        self, state_dir: Path, journal: Journal, count: Count, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._state_dir, self._journal, self._count, self._monotonic = state_dir, journal, count, monotonic
        self._hooks: dict[str, Hook] = {}
        self._leaving: dict[str, Hook] = {}

    def configure(self, specs: Iterable[HookSpec]) -> None:
        """Replace the hooks by those of `specs`. Unchanged hooks continue."""
        by_name = {spec.name: spec for spec in specs}
        for name, hook in list(self._hooks.items()):
            if by_name.get(name) != hook.spec:
                hook.stop()
                self._leaving[name] = self._hooks.pop(name)
        for name, spec in by_name.items():
            if name not in self._hooks:
                # A record has one writer, so the new thread starts after the old one has ended.
                self._hooks[name] = Hook(
                    spec, self._state_dir, self._journal, self._count, after=self._leaving.pop(name, None),
                    monotonic=self._monotonic,
                )  # fmt: skip

    def deliver(self, assessment: Assessment, *, settled: bool) -> None:
        """Pass the open findings of a pass to each hook."""
        result = PassResult(assessment.facts.get("node_name", ""), assessment.taken_at, settled)
        for hook in self._hooks.values():
            hook.deliver(open_findings(assessment, hook.spec.at_least), result)

    @property
    def waiting(self) -> Mapping[str, int]:
        """Return the number of waiting events of each hook."""
        return {name: hook.waiting for name, hook in self._hooks.items()}

    def close(self) -> None:
        """Stop all hooks. Running programs have GRACE seconds to end."""
        every = [*self._hooks.values(), *self._leaving.values()]
        for hook in every:
            hook.stop()
        deadline = time.monotonic() + GRACE
        for hook in every:
            hook.join(max(0.0, deadline - time.monotonic()))
