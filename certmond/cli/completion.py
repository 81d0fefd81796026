"""Shell completion of commands, certificates, services, and sections of the runbook.

The names of certificates and services are those of the profile and of the configuration files, even if these files have
errors. Completion does not validate the files: Python takes longer to load the models than a user wants to wait.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import click

from certmond.cli.options import globals_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(
            f"The installed version of click, a library of certmond, has no completion for {shell}; upgrade click."
        )
    click.echo(found(context.find_root().command, {}, "certmond", "_CERTMOND_COMPLETE").source())


def _names_of(section: Literal["certificates", "services"]) -> Completer:
    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from certmond.config.source_files import read_files
        from certmond.config.source_merger import entry_names

        given = globals_of(context)
        return _fitting(entry_names(read_files(given.config).sources, section, given.profile), incomplete)

    return complete


certificate_names = _names_of("certificates")
service_names = _names_of("services")


def explained_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the reasons and alerts of the runbook that start with `incomplete`."""
    from certmond.cli.runbook_search import sections

    return _fitting(sections(), incomplete)


def _fitting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the names that start with `incomplete`, except names that a shell would not read as one word.

    A shell inserts a name without quotes, and an invalid configuration can contain a name such as `$(reboot)`.
    """
    from click.shell_completion import CompletionItem

    fitting = (name for name in names if name.casefold().startswith(incomplete.casefold()))
    return [CompletionItem(name) for name in fitting if shlex.quote(name) == name]
