"""Runs certmond as an ordinary user, with the umask 0002 that many distributions set for ordinary users."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadline import DEADLINE

USER = "www-data"


def _is_possible() -> bool:
    """Return whether root can make a mount namespace: not in a chroot whose root is no mount point (unshare(1))."""
    return (
        os.geteuid() == 0
        and not subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode
    )


IS_POSSIBLE = _is_possible()
only_root = pytest.mark.skipif(
    not IS_POSSIBLE,
    reason="only root, outside of a chroot, can run a command as another user with the checkout at /mnt",
)
_CHECKOUT = Path(__file__).parents[1]
# The user may not be able to enter the checkout: a separate mount namespace mounts it at /mnt.
_SCRIPT = 'mount --bind "$1" /mnt && shift && exec setpriv "$@"'


def python() -> str:
    """Return the path of the interpreter of the tests as the user sees it."""
    here = Path(sys.executable)
    return str(Path("/mnt") / here.relative_to(_CHECKOUT)) if here.is_relative_to(_CHECKOUT) else str(here)


def give(directory: Path, user: str = USER) -> None:
    """Make the user the owner of a directory."""
    account = pwd.getpwnam(user)
    os.chown(directory, account.pw_uid, account.pw_gid)


def command_of(user: str, arguments: list[str]) -> list[str]:
    """Return a command that runs `arguments` as an ordinary user, with the checkout at /mnt."""
    account = pwd.getpwnam(user)
    ids = ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
    return ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", str(_CHECKOUT), *ids, *arguments]


def environment() -> dict[str, str]:
    """Return the environment of the user: without HOME, and with the checkout at /mnt."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": "/mnt"}


def as_user(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script as the user in a directory. In the script, `certmond` is the command of the checkout."""
    lines = f'umask 0002; certmond() {{ {shlex.quote(python())} -m certmond "$@"; }}; {script}'
    return subprocess.run(
        command_of(USER, ["sh", "-c", lines]), capture_output=True, text=True, env=environment(), cwd=directory,
        timeout=DEADLINE, check=False, umask=0o002,
    )  # fmt: skip
