"""The commands of the archive: list replaced files, and restore them.

Owns their options, output and exit codes. `renewal.restoration` judges and restores a generation. `acting_process`
waits for other writers.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from certmond.cli.completion import certificate_names
from certmond.cli.options import COULD_NOT_TELL, Globals, global_options, globals_of
from certmond.cli.plan import FAILED, enforcer_for

if TYPE_CHECKING:
    from certmond.config.model import Config
    from certmond.daemon.enforcer import Enforcer
    from certmond.renewal.archived_pair import Verdict
    from certmond.renewal.restoration import Restoration


@click.group()
@global_options
def archive() -> None:
    """What was replaced, and how to put it back."""


@archive.command("list")
@global_options
@click.argument("names", nargs=-1, metavar="[NAME…]", shell_complete=certificate_names)
@click.pass_context
def list_archive(context: click.Context, names: tuple[str, ...]) -> None:
    """The generations that are kept, oldest first, and what each is worth now. Exit: 0 all well, 2 one is damaged, 3
    nothing is kept of a NAME, or a later certmond has written it.
    """
    from certmond.errors import ConfigError, MalformedError, StateError, WriteError
    from certmond.pki.findings import printable
    from certmond.state.archive import Archive

    options = globals_of(context)
    kept, damaged, unread, restoration = Archive(options.state_dir), False, False, None
    try:
        config = options.load()
        restoration = _restoration(options, config, enforcer_for(options, config))
    except ConfigError as error:  # the archive is readable without it
        click.echo(f"certmond: {error}", err=True)
    known = kept.names()
    for name, number in [(each, number) for each in names or known for number in kept.ids(each)]:
        try:
            generation = kept.generation(name, number)
            verdict = _verdict(restoration, name, number)
        except (MalformedError, WriteError) as error:
            click.echo(f"certmond: {error}", err=True)
            unread = unread or isinstance(error, StateError)  # another user can change it, or a later version wrote it
            damaged = damaged or not isinstance(error, StateError)
            continue
        worth, why = (verdict.worth, verdict.why) if verdict else ("-", "")
        told = "; ".join(filter(None, (generation.description.get("detail", ""), why)))
        click.echo(printable(f"{name}  {generation.id}  {worth}  {', '.join(generation.paths)}  {told}".rstrip()))
    unknown = [name for name in names if name not in known]
    there = f"the archive has {', '.join(known)}" if known else "nothing was replaced yet"
    for name in unknown:
        click.echo(f"certmond: nothing is kept of {name}; {there}", err=True)
    sys.exit(FAILED if damaged else COULD_NOT_TELL if unknown or unread else 0)


def _verdict(restoration: Restoration | None, name: str, generation: str) -> Verdict | None:
    """Return the verdict on a generation; None where certmond never restores it, or cannot read the node's files."""
    from certmond.errors import StateError, WriteError

    try:
        return restoration.verdict(name, generation) if restoration else None
    except StateError:
        raise
    except WriteError:
        return None


@archive.command()
@global_options
@click.argument("name", shell_complete=certificate_names)
@click.argument("generation", required=False)
@click.option("--dry-run", is_flag=True, help="Only show what would be done")
@click.pass_context
def restore(context: click.Context, name: str, generation: str | None, dry_run: bool) -> None:
    """Put a generation back, by default the newest good one that is not there now; what it replaces is kept as a new
    one. Exit: 0 done, 2 no generation is good, or GENERATION is not, 3 could not tell.
    """
    from certmond.cli.acting_process import Handover
    from certmond.cli.progress import Progress
    from certmond.errors import RefusedError

    options = globals_of(context)
    config = options.load(acting=not dry_run)
    enforcer = enforcer_for(options, config)
    restoration = _restoration(options, config, enforcer)
    handover = Handover(options.state_dir, Progress(), enforcer.restarting.terms)
    context.call_on_close(handover.close)
    try:
        for line in handover.patiently(partial(restoration.restore, name, generation, dry_run=dry_run)):
            click.echo(line)
    except RefusedError as error:
        click.echo(f"certmond: {error}", err=True)
        sys.exit(FAILED)


def _restoration(options: Globals, config: Config, enforcer: Enforcer) -> Restoration:
    from certmond.renewal.restoration import Restoration

    return Restoration(
        config, root=options.root, state_dir=options.state_dir, audit=enforcer.audit, clock=lambda: datetime.now(UTC),
        writing=enforcer.executor.writing,
    )  # fmt: skip
