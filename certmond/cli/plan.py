"""The commands `plan` and `forecast`, and functions for the commands that change the node.

This module defines the options, output and exit codes. `daemon.enforcer` makes the plan.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from certmond.cli.options import (
    Globals,
    at_option,
    display,
    global_options,
    globals_of,
    output_option,
    refuse_unread_files,
)
from certmond.errors import CertmondError

if TYPE_CHECKING:
    from certmond.config.model import Config
    from certmond.daemon.enforcer import Enforcer
    from certmond.pki.assessment.assess import Assessment
    from certmond.pki.services.staleness import Surroundings

WAITING, FAILED = 1, 2


@click.command()
@global_options
@at_option
@output_option
@click.pass_context
def plan(context: click.Context, at: datetime | None, output: str) -> None:
    """Print the steps that certmond would execute now in enforce mode, and what these steps do not solve.

    Exit: 0 nothing to do; 1 steps, or a due certificate without a step; 2 a critical finding that no step clears; 3
    unknown.
    """
    from certmond.cli.fitted_tables import plan_table
    from certmond.config.renewal_policy import policy_of
    from certmond.expose.documents.plan import plan_document
    from certmond.pki.planning.forecast import next_event
    from certmond.pki.planning.remaining_work import remaining_work

    options = globals_of(context)
    config = _at(options.load(), at)
    enforcer = enforcer_for(options, config, at)
    assessment, around = assess_profile(options, config, enforcer, at)
    with _within_the_calendar():
        made = enforcer.plan(assessment, around=around)
        rest = remaining_work(assessment, made, policy_of(config))
        following = next_event(assessment, policy_of(config))
    display(plan_document(made, assessment.taken_at, rest, following), output, plan_table, options.root)
    waits = any(each.until is None for each in rest.waiting)
    sys.exit(2 if rest.unresolved else 1 if made.steps or waits else 0)


def length(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    """Return the value of an option as a positive duration of at most 100 years. Raises BadParameter for any other
    value.
    """
    from certmond.pki.catalog.duration import parse_duration

    try:
        found: timedelta = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if found > timedelta(days=100 * 365):
        raise click.BadParameter("must be at most 100 years")
    return found


@click.command()
@global_options
@click.option(
    "--for", "length", callback=length, default="2y", show_default=True, help="Length of the forecast, such as 90d"
)
@at_option
@output_option
@click.pass_context
def forecast(context: click.Context, length: timedelta, at: datetime | None, output: str) -> None:
    """Run the planner for future instants. Print the future renewals and restarts, and the problems that an operator
    must solve.
    """
    from certmond.cli.fitted_tables import forecast_table
    from certmond.config.renewal_policy import policy_of
    from certmond.expose.documents.plan import forecast_document
    from certmond.pki.planning.forecast import forecast as foresee
    from certmond.pki.planning.forecast import next_event

    options = globals_of(context)
    config = _at(options.load(), at)
    enforcer = enforcer_for(options, config, at)
    assessment, _ = assess_profile(options, config, enforcer, at)
    with _within_the_calendar():
        policy = policy_of(config)
        found = foresee(assessment, policy, assessment.taken_at + length, enforcer.planner.circumstances())
        following = next_event(assessment, policy)
    display(forecast_document(found, config.mode, following), output, forecast_table, options.root)


@contextmanager
def _within_the_calendar() -> Iterator[None]:
    try:
        yield
    except OverflowError as error:
        fact = "certmond supports only the years 1 to 9999"
        raise click.UsageError(
            f"{fact}; give another time with --at, or run `certmond forecast` with a shorter --for."
        ) from error


def _at(config: Config, at: datetime | None) -> Config:
    """Return `config`. If `at` is set, omit the hold for an unsynchronized clock."""
    if at is None:
        return config
    return replace(config, hold=replace(config.hold, unsynchronised_clock=False))


def enforcer_for(options: Globals, config: Config, at: datetime | None = None, *, acting: bool = False) -> Enforcer:
    """Return the Enforcer, which plans and, with `acting`, executes the steps of a command.

    Raises StateError if the state directory is unusable.
    """
    from certmond.daemon.enforcer import Enforcer
    from certmond.notify.audit import Audit, caller
    from certmond.notify.event_log import Journal
    from certmond.notify.library_log import log_to
    from certmond.transaction.state_directory import refuse_unfit

    refuse_unfit(options.state_dir)
    log_to(Journal("message"))
    journal = Journal("command" if options.root == "/" else "none")
    audit = Audit(journal, options.state_dir, caller())
    return Enforcer(
        config, root=options.root, state_dir=options.state_dir, audit=audit, clock=lambda: at or datetime.now(UTC),
        acting=acting, keeps=acting,
    )  # fmt: skip


def assess_profile(
    options: Globals, config: Config, enforcer: Enforcer, at: datetime | None = None
) -> tuple[Assessment, Surroundings]:
    """Return the assessment of the node and the state of its services.

    Raises CertmondError if certmond is not permitted to read a file of the node, or if the node has no certificate of
    the profile.
    """
    from certmond.discovery.distribution import advice

    assessment, around = enforcer.see(at)
    refuse_unread_files(assessment, options.root)
    if not assessment.catalogued:
        raise CertmondError(
            f"no certificate of the profile {config.profile!r} exists below {options.root}; "
            f"{advice(options.root, config.profile)}"
        )
    return assessment, around
