"""Options of the `root-ca` commands for the CAs that a distribution keeps in its datastore."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from certmond.config.model import Config

_PORT = re.compile("[0-9]{1,5}")


def _server(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    host, _separator, port = (value or "").rpartition(":")
    if value is not None and not (host and _PORT.fullmatch(port) and int(port) < 1 << 16):
        raise click.BadParameter("must be HOST:PORT, such as 192.0.2.11:6443")
    return value


server_option = click.option(
    "--server",
    callback=_server,
    metavar="HOST:PORT",
    help="On k3s or RKE2: the server whose CA this node must have (default: from the configuration of k3s or RKE2)",
)


def refuse_options(context: click.Context, config: Config, *names: str) -> None:
    """Raise UsageError if the operator has set one of the options `names`, or the option `family`.

    The distribution replaces all CAs together, and has no phases.
    """
    given = [name for name in ("family", *names) if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"Omit {options}: {config.ca_replacement.program} replaces all of its CAs together.")
