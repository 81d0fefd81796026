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
    "tests/rotation/": "a whole cluster: two at once would have a core each",
}
"""What the tests below a directory want. One worker does all that want the same, and begins with it."""

FIRST = (
    "tests/controllers/test_restart_lock.py",
    "tests/cluster/test_lease_holders.py",
    "tests/daemon/test_enforcer.py",
    "tests/cli/test_main.py",
    "tests/cli/test_init.py",
    "tests/test_restarts_of_pods.py",
    "tests/controllers/test_rotation.py",
)
"""Modules that wait for much, or take long: others have to be there that work meanwhile."""

LAST = "tests/test_renewal.py"
"""What there is left to do where a worker has nothing else."""

SPREAD = ("tests/test_restarts_of_pods.py", "tests/controllers/test_rotation.py", LAST)
"""Modules of long tests that share little: each test is done wherever there is room."""


def turn(test: str) -> int:
    """When a test is to begin, among all: the less, the earlier."""
    module = test.partition("::")[0]
    return (module.startswith(tuple(TOGETHER)), module.endswith(FIRST), not module.endswith(LAST), True).index(True)


def company(test: str) -> str:
    """What a test has in common with those that the same worker has to do."""
    module = test.partition("::")[0]
    wanted = next((what for directory, what in TOGETHER.items() if module.startswith(directory)), None)
    return wanted or (test if module.endswith(SPREAD) else module)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist carries no type information
    """In the order of the tests, company by company."""

    def _split_scope(self, nodeid: str) -> str:
        return company(nodeid)
