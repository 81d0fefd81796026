"""The modules of structlog that certmond loads."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    """Return the output of a process that runs this code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_only_its_core_is_loaded() -> None:
    """The log of a daemon loads the bound logger of structlog, and neither its other modules nor what these need."""
    code = "import sys, certmond.notify.event_log as j; j.Journal('journal'); print(*sys.modules)"
    found = set(run(code).split())
    assert "structlog._base" in found
    assert not found & {
        "asyncio",
        "attr",
        "rich",
        "pygments",
        "structlog.dev",
        "structlog.processors",
        "structlog.stdlib",
    }


def test_other_users_find_it_whole() -> None:
    """Code that asks for another name of structlog finds the whole package, with the modules that were loaded first."""
    code = (
        "from certmond.notify.structlog_subset import BoundLoggerBase\n"
        "import structlog\n"
        "structlog.get_logger\n"
        "from structlog import stdlib, wrap_logger\n"
        "print(structlog.BoundLoggerBase is BoundLoggerBase, structlog.stdlib is stdlib, structlog.__version__ > '26')"
    )
    assert run(code) == "True True True"


def test_a_package_that_is_there_already_is_used() -> None:
    """Where structlog was imported before, its modules are not loaded again."""
    code = (
        "import structlog, sys\n"
        "from certmond.notify.structlog_subset import BoundLoggerBase\n"
        "print(structlog.BoundLoggerBase is BoundLoggerBase, sys.modules['structlog'] is structlog)"
    )
    assert run(code) == "True True"
