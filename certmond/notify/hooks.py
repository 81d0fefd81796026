"""Programs of the operator that certmond runs when a finding is raised or cleared.

This module starts and stops the hooks of a configuration. `hook_worker` runs one hook in a separate thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from certmond.notify.event_log import Journal
from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.settings import HookSpec

if TYPE_CHECKING:
    from certmond.notify.hook_worker import Count, Hook

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

    @staticmethod
    def prepare(specs: Collection[HookSpec]) -> None:
        """Import the modules that `configure` needs for these hooks. Raises ImportError or OSError."""
        if specs:
            import certmond.notify.hook_worker  # noqa: F401, PLC0415 - most configurations have no hook

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
                self._hooks[name] = self._new(spec, after=self._leaving.pop(name, None))

    def _new(self, spec: HookSpec, after: Hook | None) -> Hook:
        from certmond.notify.hook_worker import Hook  # noqa: PLC0415 - see `prepare`

        return Hook(spec, self._state_dir, self._journal, self._count, after=after, monotonic=self._monotonic)

    def deliver(self, assessment: Assessment, *, settled: bool) -> None:
        """Give each hook the open findings of at least the minimum severity of the hook."""
        for hook in self._hooks.values():
            hook.deliver_findings_of(assessment, settled=settled)

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
