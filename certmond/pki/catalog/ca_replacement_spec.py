"""Settings of the command with which a distribution replaces the CAs in its datastore."""

from __future__ import annotations

import posixpath
from datetime import timedelta

from certmond.pki.catalog.field_types import AbsolutePath, Duration, Words
from certmond.pki.catalog.model_class import model, setting


@model
class CAReplacementSpec:
    """The command with which a distribution replaces the CAs in its datastore, such as `k3s certificate rotate-ca`.

    The profiles `k3s` and `rke2` set this section. `certmond root-ca` uses the section, and the daemon does not.
    """

    command: Words = setting(
        "the program and its arguments, executed without a shell. The program stores the CAs in `staged` "
        "in the datastore, and changes no file of the node. The next start of the service writes these CAs.",
        default=(),
    )
    present: AbsolutePath | None = setting(
        "the directory of the present CAs. certmond never writes into this directory.",
        default=None,
    )
    staged: AbsolutePath | None = setting(
        "the directory into which certmond writes the new CAs with their keys",
        default=None,
    )
    servers: AbsolutePath | None = setting(
        "a JSON file on an agent, whose field `ServerAddresses` contains the addresses of the servers",
        default=None,
    )
    time_limit: Duration = setting(
        "the time limit of the command",
        default=timedelta(minutes=2),
    )

    @property
    def program(self) -> str:
        """The base name of the program, such as `k3s`, or "" without a command."""
        return posixpath.basename(self.command[0]) if self.command else ""

    def staged_path(self, path: str) -> str:
        """Return the path of the new file for the present file `path`."""
        return posixpath.join(self.staged or "/", posixpath.relpath(path, self.present or "/"))

    def replaces(self, path: str) -> bool:
        """Return whether the command replaces the file `path`."""
        return bool(self.present) and path.startswith(f"{self.present}/")


def complete(replacement: CAReplacementSpec) -> CAReplacementSpec:
    """Return `replacement`. Raises ValueError if it has a command, and lacks a directory."""
    if replacement.command and not (replacement.present and replacement.staged):
        raise ValueError("must contain `present` and `staged` for `command`")
    return replacement
