"""The option --version: the version of certmond, and the commit of a package."""

from __future__ import annotations

import re

import click

from certmond import __version__


def version_text() -> str:
    """Return the name and the version, with the commit if certmond was built from the output of `git archive`.

    `git archive` writes the commit into commit.txt (.gitattributes), and packaging/build builds from this output.
    """
    from importlib import resources

    known = re.match(r"[0-9a-f]{12}", resources.files("certmond").joinpath("commit.txt").read_text())
    return f"certmond {__version__}" + (f" (commit {known[0]})" if known else "")


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version and exit, if the option is given."""
    if wanted and not context.resilient_parsing:
        click.echo(version_text())
        context.exit()


version_option = click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version"
)
