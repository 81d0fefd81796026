"""The verbs that bring new certificates into use: renew and restart, with their progress on the terminal.

Owns their options, what they print and their exit codes. They go the way that the daemon goes: the same plan, the same
steps, the same proof, under the same lock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from certmond.completing import certificate_names, service_names
from certmond.errors import CertmondError
from certmond.options import display, global_options, globals_of, output_option
from certmond.writing import FAILED, PATIENCE, WAITING, enforcer_for, seen

if TYPE_CHECKING:
    from certmond.config import Config
    from certmond.enforce import Enforcer
    from certmond.host.execute import Outcome
    from certmond.pki.assess import Assessment
    from certmond.pki.holding import Surroundings
    from certmond.pki.restart import Past
    from certmond.pki.steps import Held, Plan, Write
    from certmond.restarting import Progress

_PATIENT = 30.0
"""Seconds after which it is looked again, whatever the clock says."""
_RELOADED_WITHIN = 15.0
"""Seconds in which those that read a certificate again by themselves are waited for."""


@click.command()
@global_options
@click.argument("names", nargs=-1, metavar="NAME…", shell_complete=certificate_names)
@click.option("--all", "everything", is_flag=True, help="Everything that certmond can renew here")
@click.option("--dry-run", is_flag=True, help="Only show what would be done")
@click.option("--no-restart", is_flag=True, help="Restart nothing afterwards, only say what still uses the old ones")
@output_option
@click.pass_context
def renew(
    context: click.Context, names: tuple[str, ...], *, everything: bool, dry_run: bool, no_restart: bool, output: str
) -> None:
    """Reissue certificates now, and have them used. Exit: 0 done, 1 something is waited for, 2 something failed."""
    from certmond.expose.plan_document import plan_document
    from certmond.expose.timeline import plan_table

    if everything == bool(names):
        raise click.UsageError("Say which certificates: NAME…, or --all.")
    options = globals_of(context)
    config = options.load(acting=not dry_run)
    enforcer = enforcer_for(options, config, acting=not dry_run)
    if not dry_run:
        enforcer.executor.recover(PATIENCE)  # what is half done is no ground to plan on
    assessment, around = seen(options, config, enforcer)
    asked = _all_of(assessment) if everything else _known(names, assessment)
    made = enforcer.plan(assessment, asked, around)
    unable = [held for held in made.held if held.target in asked]
    if dry_run:
        _show_denied(assessment, frozenset(held.target for held in unable), output)
    if unable and not everything:
        raise CertmondError("\n".join(f"{held.target} cannot be renewed: {held.because}" for held in unable))
    if dry_run:
        display(plan_document(made, assessment.taken_at), output, plan_table)
        return
    quiet = output in {"json", "yaml"}
    outcomes = _carry_out(enforcer, made, quiet=quiet)
    wanted = {service for each in outcomes if each.result == "done" for service in getattr(each.step, "restarts", ())}
    if no_restart:
        results: dict[str, str] = {}
        held: tuple[Held, ...] = ()
    else:
        results, held = bring_into_use(enforcer, frozenset(wanted), by_hand=False, quiet=quiet)
    renewed = [each.step.target for each in outcomes if each.result == "done"]
    silent, stale = _taken_up(enforcer, assessment, frozenset(renewed), only_silent=no_restart, quiet=quiet)
    if quiet:
        document = {"schema": 1, "outcomes": [_entry(each) for each in outcomes], "restarts": results}
        display(document, output, plan_table)
    else:
        for left in made.held:
            click.echo(f"left alone: {left.target}: {left.because}")
        for left in held:
            click.echo(f"not restarted: {left.target}: {left.because}")
        _tell_holders(outcomes, {*results, *_up_to_date(enforcer)})
    failed = "failed" in {each.result for each in outcomes} or any(each != "proven" for each in results.values())
    waits = {each.result for each in outcomes} & {"waiting"} or held or stale
    sys.exit(FAILED if failed or silent else WAITING if waits else 0)


@click.command()
@global_options
@click.argument("names", nargs=-1, metavar="SERVICE…", shell_complete=service_names)
@click.option("--stale", is_flag=True, help="All that hold an older certificate than is on disk")
@click.option("--dry-run", is_flag=True, help="Only show what would be done")
@output_option
@click.pass_context
def restart(context: click.Context, names: tuple[str, ...], *, stale: bool, dry_run: bool, output: str) -> None:
    """Restart services, each proven before the next. Exit: 0 done, 1 something is waited for, 2 something failed."""
    from certmond.expose.plan_document import plan_document
    from certmond.expose.timeline import plan_table

    if stale == bool(names):
        raise click.UsageError("Say which services: SERVICE…, or --stale.")
    options = globals_of(context)
    config = options.load(acting=not dry_run)
    enforcer = enforcer_for(options, config, acting=not dry_run)
    assessment, around = seen(options, config, enforcer)
    known = [service.name for service in config.services]
    if unknown := [name for name in names if name not in known]:
        raise CertmondError("\n".join(f"there is no service {name}; there are: {', '.join(known)}" for name in unknown))
    _refuse_what_does_not_run(names, config, around)
    wanted = frozenset(names or known)
    if dry_run:
        display(plan_document(_planned(enforcer, assessment, around, wanted, by_hand=not stale), assessment.taken_at),
                output, plan_table)  # fmt: skip
        return
    quiet = output in {"json", "yaml"}
    results, held = bring_into_use(enforcer, wanted, by_hand=not stale, quiet=quiet)
    if quiet:
        display({"schema": 1, "restarts": results}, output, plan_table)
    else:
        for left in held:
            click.echo(f"not restarted: {left.target}: {left.because}")
        click.echo("" if results or held else "nothing to restart", nl=not (results or held))
    sys.exit(FAILED if any(each != "proven" for each in results.values()) else WAITING if held else 0)


def bring_into_use(
    enforcer: Enforcer, wanted: frozenset[str], *, by_hand: bool, quiet: bool
) -> tuple[dict[str, str], tuple[Held, ...]]:
    """Restart those of the `wanted` services that hold something old, or all of them `by_hand`: what became of each,
    and what is held.
    """
    from certmond.pki.restart import Result

    results, told = dict[str, str](), ""
    first: dict[str, str] | None = None
    since = datetime.now(UTC)
    while True:
        assessment, around = enforcer.see()
        for past in _ended_meanwhile(enforcer, wanted - results.keys(), since):
            results[past.service] = str(past.result)
            if not quiet:
                click.echo(f"{past.service}: {past.message}")
        running = {name: each.instance for name, each in around.live.services.items()} if around.live else {}
        first = running if first is None else first
        along = {name for name in wanted if by_hand and running.get(name) and running[name] != first.get(name)}
        made = _planned(enforcer, assessment, around, wanted - along - results.keys(), by_hand=by_hand)
        progress = enforcer.restart(made, assessment, around, PATIENCE)
        if progress is None:
            return results, tuple(held for held in made.held if held.target in wanted)
        if (said := f"{progress.service}: {progress.message}") != told and not quiet:
            click.echo(said)
        told = said
        if progress.result not in {None, Result.SUPERSEDED}:
            results[progress.service] = str(progress.result)
        _wait_for(progress)


def _ended_meanwhile(enforcer: Enforcer, wanted: Container[str], since: datetime) -> list[Past]:
    """The restarts that were over after `since` without us: the daemon may be who brings one to its end."""
    from certmond.pki.restart import Result

    return [
        past
        for name, past in enforcer.restarting.past().items()
        if name in wanted and past.result not in {None, Result.SEEN, Result.SUPERSEDED}
        and past.episode is None and past.ended_at and past.ended_at >= since
    ]  # fmt: skip


def _planned(
    enforcer: Enforcer, assessment: Assessment, around: Surroundings, wanted: frozenset[str], *, by_hand: bool
) -> Plan:
    from certmond.pki.steps import Restart

    if by_hand:
        return enforcer.restarts(assessment, around, wanted)
    made = enforcer.plan(assessment, frozenset(), around)
    steps = tuple(step for step in made.steps if isinstance(step, Restart) and step.target in wanted)
    return replace(made, steps=steps)


def _wait_for(progress: Progress) -> None:
    if progress.until is not None:
        time.sleep(min(max(0.1, (progress.until - datetime.now(UTC)).total_seconds()), _PATIENT))


def _refuse_what_does_not_run(names: Iterable[str], config: Config, around: Surroundings) -> None:
    if around.live is None:
        raise CertmondError("what runs is that of this host alone: restart it there, without --root")
    seen_now, problems = around.live.services, []
    for service in (each for each in config.services if each.name in names):
        if service.kind == "static-pod" and service.name not in seen_now:
            problems.append(f"{service.name} is no static pod of this node: no manifest has a container {service.pod}")
        elif service.name in seen_now and seen_now[service.name].running is False:
            problems.append(f"{service.name} does not run, and is left so; start it by its own means")
    if problems:
        raise CertmondError("\n".join(problems))


def _taken_up(
    enforcer: Enforcer, before: Assessment, renewed: frozenset[str], *, only_silent: bool, quiet: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wait a while for those that read a new certificate by themselves: the sentences about endpoints that served a
    certificate `before` and serve none now, and about those that do not serve the new one yet, unless `only_silent`.
    """
    from certmond.pki.service_checks import no_longer_served

    if not renewed:
        return (), ()
    deadline = time.monotonic() + _RELOADED_WITHIN
    answered = [status.presence for status in before.statuses]
    while True:
        assessment, _ = enforcer.see()
        mine = [status for status in assessment.certificates if status.seen.name in renewed and not only_silent]
        served = [(status.seen.name, at) for status in mine for at in status.presence.served if at.matches is not None]
        behind = tuple(f"{name} is not served at {at.endpoint} yet" for name, at in served if not at.matches)
        silent = tuple(no_longer_served(answered, (status.presence for status in assessment.statuses)))
        if not (behind or silent) or time.monotonic() >= deadline:
            break
        time.sleep(0.5)
    for line in behind or [f"{name} is served at {at.endpoint}" for name, at in served]:
        if not quiet:
            click.echo(line)
    for line in silent:
        click.echo(f"failed: {line}", err=True)
    return silent, behind


def _show_denied(assessment: Assessment, names: frozenset[str], output: str) -> None:
    """Print what would be signed in place of the certificates that the CA's key does not sign, as entries to copy."""
    import yaml

    from certmond.pki.signing_policy import entry_that_fixes

    denied = [status for status in assessment.certificates if status.seen.name in names and status.basis]
    entries = [entry_that_fixes(each.seen.spec, each.certificate) for each in denied if each.certificate]
    if entries and output in {"table", "wide"}:
        click.echo("# The certificates on disk say this. Check each value before you copy it to the configuration:")
        click.echo(yaml.safe_dump({"certificates": entries}, sort_keys=False, default_flow_style=None), nl=False)


def _all_of(assessment: Assessment) -> frozenset[str]:
    return frozenset(
        status.seen.name
        for status in assessment.certificates
        if not status.seen.spec.authority and status.seen.name == status.seen.spec.name
    )


def _known(names: Sequence[str], assessment: Assessment) -> frozenset[str]:
    from difflib import get_close_matches

    known = {status.seen.name for status in assessment.certificates}
    problems = []
    for name in dict.fromkeys(names):
        if name not in known:
            close = get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else "`certmond check` shows those that there are"
            problems.append(f"there is no certificate {name} on this node; {meant}")
    if problems:
        raise CertmondError("\n".join(problems))
    return frozenset(names)


def _carry_out(enforcer: Enforcer, made: Plan, *, quiet: bool) -> tuple[Outcome, ...]:
    """Carry out what changes files, telling each step and what became of it."""
    total, number = len(made.writes), 0

    def tell(step: Write) -> None:
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


def _up_to_date(enforcer: Enforcer) -> frozenset[str]:
    """The services that are seen to hold nothing old: some have ended with another one, and come back by themselves."""
    assessment, around = enforcer.see()
    seen_now = around.live.services if around.live else {}
    behind = {stale.service for status in assessment.statuses for stale in status.presence.stale}
    return frozenset(name for name, each in seen_now.items() if each.running is not None) - behind


def _tell_holders(outcomes: Iterable[Outcome], restarted: set[str]) -> None:
    """The services that were not restarted, and still use what was replaced."""
    from certmond.pki.steps import Issue

    holding: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.result == "done" and isinstance(outcome.step, Issue):
            for service in outcome.step.restarts:
                if service not in restarted:
                    holding.setdefault(service, []).append(outcome.step.target)
    for service, targets in holding.items():
        click.echo(f"{service} uses the old {', '.join(targets)} for as long as it is not restarted")


def _entry(outcome: Outcome) -> dict[str, Any]:
    from certmond.expose.plan_document import step_entry

    serial = str(outcome.issued.serial) if outcome.issued else None
    return {**step_entry(outcome.step), "result": outcome.result, "message": outcome.message, "serial": serial}
