"""The commands `archive list` and `archive restore`.

This module defines the options, output and exit codes. `renewal.restoration` checks and restores the files.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from certmond.cli.completion import certificate_names
from certmond.cli.help import ExplainedCommands
from certmond.cli.messages import print_error, print_message
from certmond.cli.options import UNKNOWN, Globals, global_options, globals_of
from certmond.cli.plan import FAILED, enforcer_for

if TYPE_CHECKING:
    from certmond.config.model import Config
    from certmond.daemon.enforcer import Enforcer
    from certmond.renewal.archived_pair_check import Verdict
    from certmond.renewal.restoration import Restoration


@click.group(cls=ExplainedCommands)
@global_options
def archive() -> None:
    """List and restore the files that certmond has replaced."""


@archive.command("list")
@global_options
@click.argument("names", nargs=-1, metavar="[NAME…]", shell_complete=certificate_names)
@click.pass_context
def list_archive(context: click.Context, names: tuple[str, ...]) -> None:
    """List the generations in the archive, oldest first, with a verdict on each. Exit: 0 all generations are intact; 2
    a generation is damaged; 3 a NAME has no generation, or certmond refuses to read a generation.
    """
    from certmond.errors import ConfigError, MalformedError, StateError, WriteError
    from certmond.pki.findings import printable
    from certmond.state.archive import Archive

    options = globals_of(context)
    archived, damaged, unread, restoration = Archive(options.state_dir), False, False, None
    try:
        config = options.load()
        restoration = _restoration(options, config, enforcer_for(options, config))
    except ConfigError as error:  # the archive is readable without a configuration
        print_error(error)
    known = archived.names()
    for name, number in [(each, number) for each in names or known for number in archived.ids(each)]:
        try:
            generation = archived.generation(name, number)
            verdict = _verdict(restoration, name, number)
        except (MalformedError, WriteError) as error:
            print_error(error)
            unread = unread or isinstance(error, StateError)  # another user can change it, or a later version wrote it
            damaged = damaged or not isinstance(error, StateError)
            continue
        state, reason = (verdict.worth, verdict.why) if verdict else ("-", "")
        details = "; ".join(filter(None, (generation.description.get("detail", ""), reason)))
        paths = ", ".join(f"{options.root.rstrip('/')}{path}" for path in generation.paths)
        print_message(printable(f"{name}  {generation.id}  {state}  {paths}  {details}".rstrip()))
    unknown = [name for name in names if name not in known]
    contents = f"the archive has generations of {', '.join(known)}" if known else "the archive is empty"
    for name in unknown:
        print_message(f"certmond: the archive has no generation of {name}; {contents}", err=True)
    sys.exit(FAILED if damaged else UNKNOWN if unknown or unread else 0)


def _verdict(restoration: Restoration | None, name: str, generation: str) -> Verdict | None:
    """Return the verdict on a generation.

    Return None if certmond never restores this entry, or cannot read the configuration or a file of the node. Raises
    MalformedError if the generation is damaged, and StateError if certmond refuses to read the generation.
    """
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
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing")
@click.pass_context
def restore(context: click.Context, name: str, generation: str | None, dry_run: bool) -> None:
    """Restore a generation, by default the newest good generation that differs from the current files. The archive
    keeps the current files as a new generation. Exit: 0 done; 2 no generation is usable, or certmond refuses to restore
    GENERATION; 3 unknown.
    """
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress
    from certmond.errors import RefusedError

    options = globals_of(context)
    config = options.load(acting=not dry_run)
    enforcer = enforcer_for(options, config)
    restoration = _restoration(options, config, enforcer)
    handover = Handover(options.state_dir, Progress(), enforcer.restarting.terms)
    context.call_on_close(handover.close)
    try:
        for line in handover.retry_while_busy(partial(restoration.restore, name, generation, dry_run=dry_run)):
            print_message(line)
    except RefusedError as error:
        print_error(error)
        sys.exit(FAILED)


def _restoration(options: Globals, config: Config, enforcer: Enforcer) -> Restoration:
    from certmond.renewal.restoration import Restoration

    return Restoration(
        config, root=options.root, state_dir=options.state_dir, audit=enforcer.audit, clock=lambda: datetime.now(UTC),
        writing=enforcer.executor.writing,
    )  # fmt: skip
