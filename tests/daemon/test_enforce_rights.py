"""The check of the permissions for enforce mode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

from certmond.config.model import Config
from certmond.daemon.enforce_rights import missing_rights, unfit_unit
from certmond.pki.catalog.entries import CertificateSpec

ENFORCE = Config(profile="none", mode="enforce")
DROP_IN = "/etc/systemd/system/certmond.service.d"
REMEDY = (
    f"run: mkdir -p {DROP_IN} && ln -sf /usr/share/certmond/enforce.conf {DROP_IN}/enforce.conf; then run: "
    "systemctl daemon-reload && systemctl restart certmond"
)


def config(directory: Path, mode: Literal["observe", "enforce"] = "enforce") -> Config:
    spec = CertificateSpec(name="app", path=str(directory / "app.crt"))
    return Config(profile="none", mode=mode, certificates=(spec,))


def in_child(found: Config, root: str = "/") -> str:
    """Return the result of `missing_rights` for an ordinary user, in a child process."""
    receiving, sending = os.pipe()
    if child := os.fork():
        os.close(sending)
        with os.fdopen(receiving) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        return text
    try:
        if os.geteuid() == 0:
            os.setgid(33)
            os.setuid(33)
        os.write(sending, str(missing_rights(found, root)).encode())
    finally:
        os._exit(0)


def test_enforce_mode_needs_write_permission() -> None:
    """If an ordinary user cannot write to the directory of an entry, the problem names the directory, the user, and the
    two commands that install the drop-in of the unit.
    """
    problem = in_child(config(Path("/etc")))
    assert problem.startswith("`mode: enforce` needs write permission for /etc, but certmond runs as user ")
    assert problem.endswith(REMEDY)


@pytest.mark.parametrize("case", ["observe", "other root", "no directory"])
def test_other_processes_need_no_permission(case: str) -> None:
    """In observe mode, below another root, and without the directory of an entry, there is no problem."""
    found = config(
        Path("/nowhere" if case == "no directory" else "/etc"), "observe" if case == "observe" else "enforce"
    )
    assert in_child(found, "/srv" if case == "other root" else "/") == "None"


def test_a_user_can_enforce_in_its_own_directory() -> None:
    """If the user can write to the directory of each entry, there is no problem."""
    assert in_child(config(Path("/tmp"))) == "None"


@pytest.mark.parametrize(("user", "fits"), [("certmond", False), ("root", True), ("", True), ("0", True), (None, True)])
def test_the_unit_of_enforce_mode_runs_as_root(user: str | None, fits: bool) -> None:
    """Only a unit with another user than root lacks the drop-in. Without a unit, certmond decides nothing."""
    problem = unfit_unit(ENFORCE, user)
    assert (problem is None) == fits
    if problem:
        assert problem == f"`mode: enforce` needs root, but certmond.service runs as user certmond; {REMEDY}"
    assert unfit_unit(Config(profile="none"), user) is None
