"""Settings of the command with which a distribution replaces the CAs in its datastore."""

from __future__ import annotations

import posixpath
from datetime import timedelta
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from certmond.pki.catalog.field_types import AbsolutePath, Duration, Model, words


class CAReplacementSpec(Model):
    """The command with which a distribution replaces the CAs in its datastore, such as `k3s certificate rotate-ca`.

    The profiles `k3s` and `rke2` set this section. `certmond root-ca` uses the section, and the daemon does not.
    """

    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        default=(),
        description="the program and its arguments, executed without a shell. The program stores the CAs in `staged` "
        "in the datastore, and changes no file of the node. The next start of the service writes these CAs.",
    )
    present: AbsolutePath | None = Field(
        default=None, description="the directory of the present CAs. certmond never writes into this directory."
    )
    staged: AbsolutePath | None = Field(
        default=None, description="the directory into which certmond writes the new CAs with their keys"
    )
    servers: AbsolutePath | None = Field(
        default=None,
        description="a JSON file on an agent, whose field `ServerAddresses` contains the addresses of the servers",
    )
    time_limit: Duration = Field(default=timedelta(minutes=2), description="the time limit of the command")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.command and not (self.present and self.staged):
            raise ValueError("must contain `present` and `staged` for `command`")
        return self

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
