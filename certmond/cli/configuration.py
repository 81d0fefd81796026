"""The commands `config validate`, `config show` and `config schema`."""

from __future__ import annotations

import json

import click

from certmond.cli.help import ExplainedCommands
from certmond.cli.options import global_options, globals_of
from certmond.errors import ConfigError


@click.group(cls=ExplainedCommands)
@global_options
def config() -> None:
    """Validate, print or describe the configuration."""


@config.command()
@global_options
@click.pass_context
def validate(context: click.Context) -> None:
    """Print every problem of the configuration. Exit: 0 no problem; 3 a problem."""
    from certmond.daemon.enforce_rights import UNIT, unfit_unit
    from certmond.pki.rotation.pod_trust_gates import short_overlap
    from certmond.services.systemd_client import user_of
    from certmond.subprocesses import exposures

    found = globals_of(context).load()
    if globals_of(context).root == "/":
        problems = [*exposures(found.commands)]
        if found.mode == "enforce" and (problem := unfit_unit(found, user_of(UNIT))):
            problems.append(problem)
        if problems:
            raise ConfigError(tuple(problems))
    if warning := short_overlap(found.root_ca, found.cluster):
        click.echo(f"warning: {warning}", err=True)
    click.echo(
        f"the configuration is valid: profile {found.profile}, {len(found.certificates)} entries, mode {found.mode}"
    )


@config.command()
@global_options
@click.pass_context
def show(context: click.Context) -> None:
    """Print the effective configuration, merged from profile, files and options."""
    from certmond.config.parser import dump

    click.echo(dump(globals_of(context).load_tree()), nl=False)


@config.command()
@global_options
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    from certmond.config.parser import schema as describe

    click.echo(json.dumps(describe(), indent=2))
