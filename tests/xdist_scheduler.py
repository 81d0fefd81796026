"""The order of all tests, and the groups of tests that pytest-xdist gives to one worker.

It has the scheduler of pytest-xdist. A module stays together because its tests share a CA, a server or a machine.
(`--dist loadgroup` would suffice, but with pytest 9.2 the names that xdist 3.8 gives the groups have no effect, and
each test is separate.)
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "tests/system/": "the one machine that can be booted at a time",
    "tests/packaging/": "the one machine that can be booted at a time",
    **{
        f"tests/rotation/test_{name}.py": "a cluster of several nodes: two at once would have a core each"
        for name in ("batches", "daemons", "families", "lost_node")
    },
    **{
        f"tests/rotation/test_{name}.py": "a cluster of mostly one node: two at once would delay the large one"
        for name in ("bed", "plan", "renewed", "replaced", "stand_ins", "starlingx_rotation")
    },
}
"""The resource of the tests in a module, or below a directory. One worker runs all tests with the same resource, and
begins with them.
"""

FIRST = (
    "tests/controllers/test_restart_lock.py",
    "tests/cluster/test_lease_holders.py",
    "tests/daemon/test_enforcer.py",
    "tests/cli/test_main.py",
    "tests/cli/test_pki_init.py",
    "tests/test_restarts_of_pods.py",
    "tests/controllers/test_rotation.py",
    "tests/test_rotation_end.py",
    "tests/test_failing_calls.py",
    "tests/test_start_renewals.py",
    "tests/cluster/test_failing_writes.py",
)
"""Modules that wait or take long: other modules run meanwhile."""

LAST = "tests/test_renewal.py"
"""The module for workers without other work."""

SPREAD = (
    "tests/test_restarts_of_pods.py",
    "tests/controllers/test_rotation.py",
    "tests/test_rotation_end.py",
    "tests/cluster/test_failing_writes.py",
    LAST,
)
"""Modules of long tests that share little: each test is done wherever there is room."""


def turn(test: str) -> int:
    """Return the position of a test among all: a smaller one begins earlier."""
    module = test.partition("::")[0]
    return (module.startswith(tuple(TOGETHER)), module.endswith(FIRST), not module.endswith(LAST), True).index(True)


def company(test: str) -> str:
    """Return the group of tests that one worker must run together."""
    module = test.partition("::")[0]
    wanted = next((what for directory, what in TOGETHER.items() if module.startswith(directory)), None)
    return wanted or (test if module.endswith(SPREAD) else module)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist carries no type information
    """In the order of the tests, company by company."""

    def _split_scope(self, nodeid: str) -> str:
        return company(nodeid)
