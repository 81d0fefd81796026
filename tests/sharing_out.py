"""Which tests one worker does together, and what is begun first, where several workers share them out.

Owns the order of all tests and the scheduler of pytest-xdist. A module stays together for the sake of what its tests
share: a CA, a server, a machine. (`--dist loadgroup` would do; but with pytest 9.2 the names that xdist 3.8 gives the
groups reach nobody, and each test is on its own.)
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

MACHINE = ("tests/system/", "tests/packaging/")
"""Below these all want the one machine that can be booted at a time: they stay together, and begin before all else."""

FIRST = (
    "tests/rotation/test_daemons.py",
    "tests/rotation/test_bed.py",
    "tests/rotation/test_stand_ins.py",
    "tests/rotation/test_families.py",
    "tests/rotation/test_lost_node.py",
    "tests/test_turns.py",
    "tests/cluster/test_lease_holders.py",
    "tests/test_enforce.py",
    "tests/test_cli.py",
    "tests/test_init.py",
    "tests/test_restarts_of_pods.py",
    "tests/test_rotating.py",
)
"""Modules that wait for much, or take long: others have to be there that work meanwhile."""

LAST = "tests/test_renewal.py"
"""What there is left to do where a worker has nothing else."""

SPREAD = ("tests/test_restarts_of_pods.py", "tests/test_rotating.py", LAST)
"""Modules of long tests that share little: each test is done wherever there is room."""


def turn(test: str) -> int:
    """When a test is to begin, among all: the less, the earlier."""
    module = test.partition("::")[0]
    return (module.startswith(MACHINE), module.endswith(FIRST), not module.endswith(LAST), True).index(True)


def company(test: str) -> str:
    """What a test has in common with those that the same worker has to do."""
    module = test.partition("::")[0]
    if module.startswith(MACHINE):
        return MACHINE[0]
    return test if module.endswith(SPREAD) else module


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist carries no type information
    """In the order of the tests, company by company."""

    def _split_scope(self, nodeid: str) -> str:
        return company(nodeid)
