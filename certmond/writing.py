"""The verbs that write on the node, and those that show what would be written: plan, forecast, renew, archive.

Owns their options, what they print and their exit codes; the work is `enforce`'s.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from certmond.errors import CertmondError
from certmond.options import Globals, at_option, display, global_options, globals_of, look, output_option

if TYPE_CHECKING:
    from certmond.config import Config
    from certmond.enforce import Enforcer
    from certmond.host.execute import Outcome
    from certmond.pki.assess import Assessment
    from certmond.pki.steps import Plan, Step

PATIENCE = 30.0
"""Seconds that a command waits for another certmond that is writing."""
WAITING, FAILED = 1, 2


@click.command()
@global_options
@at_option
@output_option
@click.pass_context
def plan(context: click.Context, at: datetime | None, output: str) -> None:
    """The steps that enforce mode would carry out now, and why. Exit: 0 none, 1 some, 3 could not tell."""
    from certmond.expose.plan_document import plan_document
    from certmond.expose.timeline import plan_table

    options = globals_of(context)
    config = _at(options.load(), at)
    enforcer = _enforcer(options, config, at)
    assessment = _seen(options, config, enforcer, at)
    with _within_the_calendar():
        made = enforcer.plan(assessment)
    display(plan_document(made, assessment.taken_at), output, plan_table)
    sys.exit(1 if made.steps else 0)


def _length(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    from certmond.pki.fields import parse_duration

    try:
        length: timedelta = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if length > timedelta(days=100 * 365):
        raise click.BadParameter("must be 100 years at most")
    return length


@click.command()
@global_options
@click.option("--for", "length", callback=_length, default="2y", show_default=True, help="How far to look, as in 90d")
@at_option
@output_option
@click.pass_context
def forecast(context: click.Context, length: timedelta, at: datetime | None, output: str) -> None:
    """The same planner run forward in time: what renews and restarts when, and what goes wrong if nobody acts."""
    from certmond.enforce import policy_of
    from certmond.expose.plan_document import forecast_document
    from certmond.expose.timeline import forecast_table
    from certmond.pki.forecast import forecast as foresee

    options = globals_of(context)
    config = _at(options.load(), at)
    enforcer = _enforcer(options, config, at)
    assessment = _seen(options, config, enforcer, at)
    with _within_the_calendar():
        found = foresee(assessment, policy_of(config), assessment.taken_at + length, enforcer.circumstances())
    display(forecast_document(found, config.mode), output, forecast_table)


@click.command()
@global_options
@click.argument("names", nargs=-1, metavar="NAME…")
@click.option("--all", "everything", is_flag=True, help="Everything that certmond can renew here")
@click.option("--dry-run", is_flag=True, help="Only show what would be done")
@click.option("--no-restart", is_flag=True, help="Restart nothing afterwards (this version restarts nothing by itself)")
@output_option
@click.pass_context
def renew(
    context: click.Context, names: tuple[str, ...], *, everything: bool, dry_run: bool, no_restart: bool, output: str
) -> None:
    """Reissue certificates now, whatever their dates. Exit: 0 done, 1 a signer is waited for, 2 something failed."""
    from certmond.expose.plan_document import plan_document
    from certmond.expose.timeline import plan_table

    if everything == bool(names):
        raise click.UsageError("Say which certificates: NAME…, or --all.")
    options = globals_of(context)
    config = options.load(acting=not dry_run)
    enforcer = _enforcer(options, config)
    if not dry_run:
        enforcer.executor.recover(PATIENCE)  # what is half done is no ground to plan on
    assessment = _seen(options, config, enforcer)
    asked = _all_of(assessment) if everything else _known(names, assessment)
    made = enforcer.plan(assessment, asked)
    unable = [held for held in made.held if held.target in asked]
    if unable and not everything:
        raise CertmondError("\n".join(f"{held.target} cannot be renewed: {held.because}" for held in unable))
    if dry_run:
        display(plan_document(made, assessment.taken_at), output, plan_table)
        return
    outcomes = _carry_out(enforcer, made, quiet=output in {"json", "yaml"})
    if output in {"json", "yaml"}:
        display({"schema": 1, "outcomes": [_entry(outcome) for outcome in outcomes]}, output, plan_table)
    else:
        for held in made.held:
            click.echo(f"left alone: {held.target}: {held.because}")
        _tell_restarts(outcomes, no_restart)
    results = {outcome.result for outcome in outcomes}
    sys.exit(FAILED if "failed" in results else WAITING if "waiting" in results else 0)


@click.group()
@global_options
def archive() -> None:
    """What was replaced, and how to put it back."""


@archive.command("list")
@global_options
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.pass_context
def list_archive(context: click.Context, names: tuple[str, ...]) -> None:
    """The generations that are kept, oldest first. Exit: 0 all well, 2 one is damaged."""
    from certmond.errors import MalformedError
    from certmond.host.archive import Archive
    from certmond.pki.reason import printable

    kept, damaged = Archive(globals_of(context).state_dir), False
    for name, number in [(each, number) for each in names or kept.names() for number in kept.ids(each)]:
        try:
            generation = kept.generation(name, number)
        except MalformedError as error:
            click.echo(f"certmond: {error}", err=True)
            damaged = True
            continue
        why = generation.description.get("detail", "")
        click.echo(printable(f"{name}  {generation.id}  {', '.join(generation.paths)}  {why}".rstrip()))
    sys.exit(FAILED if damaged else 0)


@archive.command()
@global_options
@click.argument("name")
@click.argument("generation", required=False)
@click.option("--dry-run", is_flag=True, help="Only show what would be done")
@click.pass_context
def restore(context: click.Context, name: str, generation: str | None, dry_run: bool) -> None:
    """Put a generation back, by default the newest; what it replaces is kept as a new one."""
    options = globals_of(context)
    enforcer = _enforcer(options, options.load(acting=not dry_run))
    for line in enforcer.executor.restore(name, generation, PATIENCE, dry_run=dry_run):
        click.echo(line)


@contextmanager
def _within_the_calendar() -> Iterator[None]:
    try:
        yield
    except OverflowError as error:
        fact = "the calendar ends with the year 9999, and begins with the year 1"
        raise click.UsageError(f"{fact}: look less far, or give another time with --at.") from error


def _at(config: Config, at: datetime | None) -> Config:
    """A time that was given does not depend on this host's clock."""
    if at is None:
        return config
    return config.model_copy(update={"hold": config.hold.model_copy(update={"unsynchronised_clock": False})})


def _enforcer(options: Globals, config: Config, at: datetime | None = None) -> Enforcer:
    from certmond.enforce import Enforcer
    from certmond.host.audit import Audit, caller
    from certmond.host.journal import Journal

    journal = Journal("command" if options.root == "/" else "none")
    audit = Audit(journal, options.state_dir, caller())
    return Enforcer(
        config, root=options.root, state_dir=options.state_dir, audit=audit, clock=lambda: at or datetime.now(UTC)
    )


def _seen(options: Globals, config: Config, enforcer: Enforcer, at: datetime | None = None) -> Assessment:
    assessment = look(config, options.root, at, enforcer.renewed())
    if not assessment.statuses:
        raise CertmondError(
            f"there is no certificate of the profile {config.profile!r} below {options.root}; "
            "name another with --profile, or list certificates in the configuration (`certmond discover` helps)"
        )
    return assessment


def _all_of(assessment: Assessment) -> frozenset[str]:
    return frozenset(
        status.seen.name
        for status in assessment.certificates
        if not status.seen.spec.authority and status.seen.name == status.seen.spec.name
    )


def _known(names: Sequence[str], assessment: Assessment) -> frozenset[str]:
    known = {status.seen.name for status in assessment.certificates}
    problems = []
    for name in dict.fromkeys(names):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else "`certmond check` shows those that there are"
            problems.append(f"there is no certificate {name} on this node; {meant}")
    if problems:
        raise CertmondError("\n".join(problems))
    return frozenset(names)


def _carry_out(enforcer: Enforcer, made: Plan, *, quiet: bool) -> tuple[Outcome, ...]:
    """Carry out a plan, telling each step and what became of it."""
    total, number = len(made.steps), 0

    def tell(step: Step) -> None:
        nonlocal number
        number += 1
        if not quiet:
            click.echo(f"[{number}/{total}] {step.target}: {step.detail}")

    outcomes = enforcer.executor.execute(made, PATIENCE, tell)
    for outcome in outcomes if not quiet else ():
        if outcome.result != "done":
            click.echo(f"{outcome.result}: {outcome.step.target}: {outcome.message}", err=True)
    done = sum(outcome.result == "done" for outcome in outcomes)
    if not quiet:
        click.echo(f"{done} of {total} done" if total else "nothing to do")
    return outcomes


def _tell_restarts(outcomes: Iterable[Outcome], no_restart: bool) -> None:
    from certmond.pki.steps import Issue

    holding: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.result == "done" and isinstance(outcome.step, Issue):
            for service in outcome.step.restarts:
                holding.setdefault(service, []).append(outcome.step.target)
    for service, targets in holding.items():
        note = "" if no_restart else "; restart it"
        click.echo(f"{service} still uses the old {', '.join(targets)}{note}")


def _entry(outcome: Outcome) -> dict[str, Any]:
    from certmond.expose.plan_document import step_entry

    serial = str(outcome.issued.serial) if outcome.issued else None
    return {**step_entry(outcome.step), "result": outcome.result, "message": outcome.message, "serial": serial}
