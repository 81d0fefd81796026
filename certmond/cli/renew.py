"""The commands `renew` and `restart`.

This module defines the options, output and exit codes. `daemon.enforcer` plans and executes the steps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from certmond.cli.completion import certificate_names, service_names
from certmond.cli.messages import below_root, print_message
from certmond.cli.options import display, global_options, globals_of, output_option
from certmond.cli.plan import FAILED, WAITING, assess_profile, enforcer_for, length
from certmond.errors import CertmondError
from certmond.pki.findings import printable

if TYPE_CHECKING:
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress
    from certmond.controllers.executor import Outcome
    from certmond.daemon.enforcer import Enforcer
    from certmond.pki.assessment.assess import Assessment
    from certmond.pki.planning.steps import Held, Identity, Plan, Step, Write
    from certmond.pki.services.staleness import Surroundings

_PLANS_AGAIN = 3
"""Maximum number of further plans for a step whose files another process has changed."""
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=1), timedelta(seconds=8)
"""First and longest pause between two requests to a signer, unless the signer sets the pause."""


def _patience(context: click.Context, parameter: click.Parameter, value: str) -> timedelta:
    """Return the value of an option as a duration of zero to 100 years. Raises BadParameter for any other value."""
    return timedelta() if value == "0s" else length(context, parameter, value)


@click.command()
@global_options
@click.argument("names", nargs=-1, metavar="NAME…", shell_complete=certificate_names)
@click.option("--all", "everything", is_flag=True, help="Renew all certificates that certmond can renew")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing")
@click.option(
    "--no-restart", is_flag=True, help="Do not restart services; list each service that uses an old certificate"
)
@click.option(
    "--timeout",
    callback=_patience,
    default="30s",
    show_default=True,
    help="Maximum time to wait for the decision of a signer; with 0s, certmond does not wait",
)
@output_option
@click.pass_context
def renew(
    context: click.Context,
    names: tuple[str, ...],
    *,
    everything: bool,
    dry_run: bool,
    no_restart: bool,
    timeout: timedelta,
    output: str,
) -> None:
    """Renew certificates now, and restart the services that use these certificates.

    Exit: 0 done; 1 a renewal, restart or reload waits, or, with --all, certmond cannot renew a certificate that has a
    warning or critical finding; 2 a step failed, or an endpoint no longer serves a certificate; 3 unknown, or certmond
    cannot renew NAME. If a daemon in enforce mode runs on this node, the daemon restarts and verifies the services. In
    this case, this command shows the progress of the daemon.
    """
    from certmond.cli.fitted_tables import plan_table
    from certmond.cli.service_restarts import print_old_users, restart_services, wait_for_reloads
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress
    from certmond.expose.documents.plan import held_entries, plan_document

    if everything == bool(names):
        raise click.UsageError("Select the certificates: NAME…, or --all.")
    options = globals_of(context)
    config = options.load(acting=not dry_run)
    enforcer = enforcer_for(options, config, acting=not dry_run)
    quiet = output in {"json", "yaml"}
    progress = Progress(quiet=quiet)
    handover = Handover(options.state_dir, progress, enforcer.restarting.terms)
    if not dry_run:
        context.with_resource(handover)
        handover.retry_while_busy(enforcer.executor.recover)  # an interrupted transaction is no basis for a plan
    assessment, around = assess_profile(options, config, enforcer)
    requested = _all_of(assessment) if everything else _existing(names, assessment)
    name_of = partial(_name_of, assessment)
    made = enforcer.plan(assessment, requested, around)
    unable = [held for held in made.held if held.target in requested]
    if dry_run and not quiet:
        _show_denied(assessment, {(each.target, each.path) for each in unable})
    if unable and not everything:
        raise CertmondError("\n".join(f"certmond cannot renew {name_of(each)}: {each.because}" for each in unable))
    if dry_run:
        display(plan_document(made, assessment.taken_at), output, plan_table, options.root)
        return
    begun, outcomes = datetime.now(UTC), _execute(enforcer, handover, progress, made, name_of)
    outcomes = _poll_signers(enforcer, handover, progress, outcomes, timeout)
    _print_outcomes(outcomes, name_of, quiet=quiet)
    wanted = {service for each in outcomes if each.result == "done" for service in getattr(each.step, "restarts", ())}
    if no_restart:
        results: dict[str, str] = {}
        held: tuple[Held, ...] = ()
    else:
        results, held = restart_services(enforcer, handover, progress, frozenset(wanted), by_hand=False, begun=begun)
    renewed = [each.step.target for each in outcomes if each.result == "done"]
    silent, stale = wait_for_reloads(enforcer, progress, assessment, frozenset(renewed), only_silent=no_restart)
    if quiet:
        document = {"schema": 1, "outcomes": [_entry(each) for each in outcomes], "restarts": results}
        display({**document, "held": held_entries((*made.held, *held))}, output, plan_table, options.root)
    else:
        for left in made.held:
            print_message(f"not renewed: {name_of(left)}: {left.because}")
        for left in held:
            print_message(f"not restarted: {left.target}: {left.because}")
        print_old_users(enforcer, [each.step for each in outcomes if each.result == "done"], results.keys())
    failed = "failed" in {each.result for each in outcomes} or any(each != "proven" for each in results.values())
    ill = {status.seen.name for status in assessment.statuses if status.severity and status.severity.rank}
    waits = {each.result for each in outcomes} & {"waiting"} or held or stale or ill & {each.target for each in unable}
    sys.exit(FAILED if failed or silent else WAITING if waits else 0)


@click.command()
@global_options
@click.argument("names", nargs=-1, metavar="SERVICE…", shell_complete=service_names)
@click.option(
    "--stale",
    is_flag=True,
    help="Restart each service that uses an old version of a file, such as a replaced certificate",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing")
@output_option
@click.pass_context
def restart(context: click.Context, names: tuple[str, ...], *, stale: bool, dry_run: bool, output: str) -> None:
    """Restart services one by one, and verify each restart. Exit: 0 done; 1 a restart waits; 2 a restart failed; 3
    unknown.
    """
    from certmond.cli.fitted_tables import plan_table
    from certmond.cli.service_restarts import planned, refuse_stopped, restart_services
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress
    from certmond.expose.documents.plan import held_entries, plan_document

    if stale == bool(names):
        raise click.UsageError("Select the services: SERVICE…, or --stale.")
    options = globals_of(context)
    config = options.load(acting=not dry_run)
    enforcer = enforcer_for(options, config, acting=not dry_run)
    assessment, around = assess_profile(options, config, enforcer)
    known = [service.name for service in config.services]
    if unknown := [name for name in names if name not in known]:
        raise CertmondError(
            "\n".join(f"there is no service {name}; the services are: {', '.join(known)}" for name in unknown)
        )
    refuse_stopped(names, config, around)
    wanted = frozenset(names or known)
    if dry_run:
        made = planned(enforcer, assessment, around, wanted, by_hand=not stale)
        display(plan_document(made, assessment.taken_at), output, plan_table, options.root)
        return
    quiet = output in {"json", "yaml"}
    progress = Progress(quiet=quiet)
    handover = context.with_resource(Handover(options.state_dir, progress, enforcer.restarting.terms))
    results, held = restart_services(enforcer, handover, progress, wanted, by_hand=not stale)
    if quiet:
        display({"schema": 1, "restarts": results, "held": held_entries(held)}, output, plan_table, options.root)
    else:
        for left in held:
            print_message(f"not restarted: {left.target}: {left.because}")
        click.echo("" if results or held else "nothing to restart", nl=not (results or held))
    sys.exit(FAILED if any(each != "proven" for each in results.values()) else WAITING if held else 0)


def _name_of(assessment: Assessment, step: Step | Held) -> str:
    """Return the name of the entry of a step, and the path of the file if the entry has a pattern."""
    status = assessment.status(step.target, step.path)
    return f"{step.target} ({printable(step.path)})" if status and status.seen.spec.is_glob else step.target


def _show_denied(assessment: Assessment, held: Collection[Identity]) -> None:
    """Print configuration entries that would permit certmond to sign the certificates `held`. For a file of a pattern,
    print only the values, because an entry permits one certificate.
    """
    import yaml

    from certmond.pki.signing.policy import entry_that_fixes

    denied = [status for status in assessment.certificates if status.seen.identity in held and status.basis]
    made = [(each.seen, entry_that_fixes(each.seen.spec, each.certificate)) for each in denied if each.certificate]
    if entries := [entry for seen, entry in made if not seen.spec.is_glob]:
        click.echo("# The certificates have these values. Check each value before you copy it into the configuration:")
        click.echo(yaml.safe_dump({"certificates": entries}, sort_keys=False, default_flow_style=None), nl=False)
    if len(entries) < len(made):
        click.echo("# For a file of a pattern, add an entry with another name, with the path and the key of the file,")
        click.echo("# with the `owner` and the `ca` of the pattern, and with these values. Check each value before:")
    for seen, entry in made:
        if seen.spec.is_glob:  # a line of JSON is YAML, as the escapes of `printable` are
            values = printable(json.dumps(entry, ensure_ascii=False))
            click.echo(f"# {below_root(printable(seen.path))}: {values}")


def _all_of(assessment: Assessment) -> frozenset[str]:
    return frozenset(
        status.seen.name
        for status in assessment.certificates
        if not status.seen.spec.authority and status.seen.name == status.seen.spec.name and not status.seen.endpoint
    )


def _existing(names: Sequence[str], assessment: Assessment) -> frozenset[str]:
    from difflib import get_close_matches

    known = {status.seen.name for status in assessment.certificates}
    problems = []
    for name in dict.fromkeys(names):
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "to list the certificates, run: certmond check"
            problems.append(f"there is no certificate {name} on this node; {hint}")
    if problems:
        raise CertmondError("\n".join(problems))
    return frozenset(names)


def _execute(
    enforcer: Enforcer, handover: Handover, progress: Progress, made: Plan, name_of: Callable[[Step], str]
) -> tuple[Outcome, ...]:
    """Execute the steps that change files, print each step, and return the outcomes.

    If another process has changed a file since the plan, for example the daemon with a renewal, plan this step again.
    """
    outcomes = _execute_once(enforcer, handover, progress, made, name_of)
    for _ in range(_PLANS_AGAIN):
        if not (outdated := {_identity(each) for each in outcomes if each.outdated}):
            break
        left = _plan_again(enforcer, outdated, *enforcer.see())
        later = {_identity(each): each for each in _execute_once(enforcer, handover, progress, left, name_of)}
        outcomes = tuple(later.get(_identity(each), each) for each in outcomes)
    return outcomes


def _execute_once(
    enforcer: Enforcer, handover: Handover, progress: Progress, made: Plan, name_of: Callable[[Step], str]
) -> tuple[Outcome, ...]:
    total, number = len(made.writes), 0

    def tell(step: Write) -> None:
        nonlocal number
        number += 1
        progress.tell(f"[{number}/{total}] {name_of(step)}: {step.detail}")

    return handover.retry_while_busy(lambda: enforcer.executor.execute(made, tell=tell))


def _plan_again(enforcer: Enforcer, places: Collection[Identity], assessment: Assessment, around: Surroundings) -> Plan:
    """Return the plan of only the steps for these entries and paths."""
    made = enforcer.plan(assessment, frozenset(name for name, _ in places), around)
    return replace(made, steps=tuple(step for step in made.writes if (step.target, step.path) in places))


def _poll_signers(
    enforcer: Enforcer, handover: Handover, progress: Progress, outcomes: tuple[Outcome, ...], timeout: timedelta
) -> tuple[Outcome, ...]:
    """Repeat the requests that wait for the decision of a signer, for at most `timeout`.

    Return the outcomes of all steps.
    """
    begun = datetime.now(UTC)
    end, pause = begun + timeout, _FIRST_PAUSE
    handover.discard_events(enforcer.interest)
    again = _next_requests(enforcer, outcomes, pause)
    while waiting := {_identity(each): each for each in outcomes if each.result == "waiting"}:
        for each in waiting.values():
            reason, _, remedy = each.message.partition("; ")
            command = remedy.removeprefix("run: ")
            progress.wait(f"{each.step.target}: {reason}", command, until=end, since=begun)
        if datetime.now(UTC) >= end:
            break
        handover.pause(min(end, *again.values()), enforcer.interest)
        handover.discard_events(enforcer.interest)
        assessment, around = enforcer.see()
        later = {
            place: outcome for place, each in waiting.items() if (outcome := _replaced_elsewhere(each, assessment))
        }
        now = datetime.now(UTC)
        if due := {place for place in waiting.keys() - later.keys() if again[place] <= now}:
            left = _plan_again(enforcer, due, assessment, around)
            requested = handover.retry_while_busy(partial(enforcer.executor.execute, left))
            later |= {_identity(each): each for each in requested}
            pause = min(2 * pause, _LONGEST_PAUSE)
            again |= _next_requests(enforcer, requested, pause)
        outcomes = tuple(later.get(_identity(each), each) for each in outcomes)
    return outcomes


def _identity(outcome: Outcome) -> Identity:
    return outcome.step.target, outcome.step.path


def _next_requests(enforcer: Enforcer, outcomes: Iterable[Outcome], pause: timedelta) -> dict[Identity, datetime]:
    """Return the time of the next request for each certificate that waits for the decision of a signer."""
    soon = datetime.now(UTC) + pause
    return {
        _identity(each): enforcer.next_request_at(each.step) or soon for each in outcomes if each.result == "waiting"
    }


def _replaced_elsewhere(waiting: Outcome, assessment: Assessment) -> Outcome | None:
    """Return the outcome "done" if another process has replaced the certificate, otherwise None."""
    from certmond.pki.planning.steps import Issue

    step, status = waiting.step, assessment.status(*_identity(waiting))
    if not (isinstance(step, Issue) and step.old and status and status.certificate and status.key_matches):
        return None
    if status.stale or status.certificate.sha256 == step.old.sha256:
        return None
    return replace(
        waiting, result="done", message=f"another process has replaced {step.path}", issued=status.certificate
    )


def _print_outcomes(outcomes: tuple[Outcome, ...], name_of: Callable[[Step], str], *, quiet: bool) -> None:
    """Print the steps that failed or wait, and the number of completed steps. With `quiet`, print nothing."""
    if quiet:
        return
    for outcome in outcomes:
        if outcome.result != "done":
            print_message(f"{outcome.result}: {name_of(outcome.step)}: {outcome.message}", err=True)
    done = sum(outcome.result == "done" for outcome in outcomes)
    click.echo(f"{done} of {len(outcomes)} done" if outcomes else "nothing to do")


def _entry(outcome: Outcome) -> dict[str, Any]:
    from certmond.expose.documents.plan import step_entry

    new = outcome.issued
    serial = {"serial": str(new.serial) if new else None, "serial_hex": new.serial_hex if new else None}
    return {**step_entry(outcome.step), "result": outcome.result, "message": outcome.message, **serial}
