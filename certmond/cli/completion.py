"""Shell completion of commands, certificates, services, and sections of the runbook.

If the configuration has an error, certmond completes the names of the default profile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import click
from click.shell_completion import CompletionItem, get_completion_class

from certmond.cli.options import globals_of
from certmond.errors import CertmondError

SHELLS = ("bash", "zsh", "fish")

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for bash, zsh or fish."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(
            f"The installed version of click, a library of certmond, has no completion for {shell}; upgrade click."
        )
    click.echo(found(context.find_root().command, {}, "certmond", "_CERTMOND_COMPLETE").source())


def _names_of(section: Literal["certificates", "services"]) -> Completer:
    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from certmond.config.model import parse

        try:
            config = globals_of(context).load()
        except CertmondError:
            config = parse([])
        return _fitting((entry.name for entry in getattr(config, section)), incomplete)

    return complete


certificate_names = _names_of("certificates")
service_names = _names_of("services")


def explained_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the reasons and alerts of the runbook that start with `incomplete`."""
    from certmond.cli.runbook_search import sections

    return _fitting(sections(), incomplete)


def _fitting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.casefold().startswith(incomplete.casefold())]
