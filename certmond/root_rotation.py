"""The verbs that carry a rotation out: `root-ca rotate` and `root-ca abort`, with their progress on the terminal.

Owns their options, what they print and their exit codes. They go the way that the daemon goes, under the same lock, and
may run beside it: each does what the other has left. A command that is interrupted loses nothing.
"""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from certmond.errors import BusyError, CertmondError, RotationError
from certmond.options import Globals, display, global_options, globals_of, output_option
from certmond.rooting import FAMILIES, REFUSED
from certmond.writing import FAILED, PATIENCE, enforcer_for, seen

if TYPE_CHECKING:
    from certmond.config import Config
    from certmond.enforce import Enforcer
    from certmond.pki.assess import Assessment
    from certmond.pki.holding import Surroundings
    from certmond.pki.rotation import Rotation

_POLL = 2.0
"""Seconds between two looks where nothing says when to look again."""


@click.command()
@global_options
@click.option("--family", type=click.Choice(FAMILIES), default="ca", show_default=True, help="Which of the Root CAs")
@click.option("--plan", "dry_run", is_flag=True, help="Only print what would be done in each phase")
@click.option("--at-once", is_flag=True, help="Without an overlap: whatever trusts the former CA fails until restarted")
@click.option("--exclude", multiple=True, metavar="NODE", help="Do not wait for this node; again for another")
@click.option("--no-wait", is_flag=True, help="Only begin it, and leave the rest to the daemons")
@output_option
@click.pass_context
def rotate(
    context: click.Context, *, family: str, dry_run: bool, at_once: bool, exclude: tuple[str, ...], no_wait: bool,
    output: str,
) -> None:  # fmt: skip
    """Let the staged CA follow the present one, or go on with that. Exit: 0 done, 2 refused or failed."""
    options = globals_of(context)
    config = options.load(acting=not dry_run)
    enforcer = enforcer_for(options, config, acting=not dry_run)
    if not dry_run:
        enforcer.executor.recover(PATIENCE)
    assessment, around = seen(options, config, enforcer)
    rotation = enforcer.rotating.rotation
    begins = rotation is None
    if rotation is None:
        rotation = enforcer.rotating.found(assessment.taken_at, at_once=at_once)
        if rotation is None or rotation.family != family:
            rotation = _new(options, config, assessment, family, exclude, at_once=at_once)
        else:
            _warn(enforcer.rotating.warnings)
            rotation = replace(rotation, excluded=exclude)
    else:
        _see_that_it_is_meant(rotation, family, at_once=at_once)
        rotation = replace(rotation, excluded=tuple(dict.fromkeys((*rotation.excluded, *exclude))))
    why = enforcer.rotating.refusal(rotation) if begins else None
    if why:
        click.echo(f"refused: {why}", err=True)
        if not dry_run:
            sys.exit(REFUSED)
    _tell_of_workloads(config, rotation, beside=dry_run)
    if dry_run:
        _show_plan(enforcer, rotation, assessment, around, output)
        return
    if begins:
        enforcer.rotating.start(rotation)
    elif exclude:
        enforcer.rotating.change(rotation)
    if no_wait:
        click.echo(f"{rotation.name} is in the phase {rotation.phase}; the daemons go on with it")
        return
    sys.exit(_carry_on(enforcer))


@click.command()
@global_options
@click.option("--no-wait", is_flag=True, help="Only turn it round, and leave the rest to the daemons")
@click.pass_context
def abort(context: click.Context, *, no_wait: bool) -> None:
    """Lead the rotation that is under way back to the former CA. Exit: 0 done, 2 refused or failed."""
    from certmond.pki.rotation import abort as turned_round

    options = globals_of(context)
    config = options.load(acting=True)
    enforcer = enforcer_for(options, config, acting=True)
    enforcer.executor.recover(PATIENCE)
    seen(options, config, enforcer)
    rotation = enforcer.rotating.rotation
    if rotation is None:
        raise CertmondError("no rotation is under way; there is nothing to abort")
    try:
        back = turned_round(rotation, datetime.now(UTC))
    except RotationError as error:
        click.echo(f"certmond: {error}", err=True)
        sys.exit(REFUSED)
    enforcer.rotating.change(back)
    click.echo(f"{rotation.name} was in the phase {rotation.phase}, and goes back through {back.phase}")
    if not no_wait:
        sys.exit(_carry_on(enforcer))


def _see_that_it_is_meant(rotation: Rotation, family: str, *, at_once: bool) -> None:
    """Exits with 2 where the rotation under way is not the one that is asked for."""
    if rotation.family != family or (at_once and rotation.mode != "replace"):
        how = f"{rotation.name} is under way, by {rotation.mode}, in the phase {rotation.phase}"
        remedy = f"let it go on by `certmond root-ca rotate --family {rotation.family}`, or `certmond root-ca abort` it"
        click.echo(f"refused: {how}, and not what is asked for; {remedy}", err=True)
        sys.exit(REFUSED)


def _tell_of_workloads(config: Config, rotation: Rotation, *, beside: bool) -> None:
    """What a node by itself does not see to, as long as somebody else still may; `beside` a document, if so."""
    early = rotation.phase in {"prepare", "detach", "trust"} and not rotation.aborted
    if early and rotation.family == "ca" and rotation.mode == "overlap" and config.cluster.kubeconfig is None:
        fact = "note: certmond looks at no workloads without `cluster:`"
        remedy = "restart pods that speak to the API server between trust and issue (`root_ca.overlap`)"
        click.echo(f"{fact}; {remedy}", err=beside)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def _new(
    options: Globals, config: Config, assessment: Assessment, family: str, exclude: tuple[str, ...], *, at_once: bool
) -> Rotation:
    """The rotation to the staged CA. Raises CertmondError, or exits with 2 and all that speaks against it."""
    from certmond.host.staged import Part, Staging
    from certmond.pki.candidate import judge
    from certmond.pki.family import family_of
    from certmond.pki.rotation import Mode, Phase, Rotation, begin

    found, staged = family_of(assessment, family), Staging(options.state_dir).read(Part.NEW)
    if found is None:
        raise CertmondError(f"there is no certificate of {family} below {options.root}, which another could follow")
    if staged is None or staged.certificate is None or staged.fault or staged.family != family:
        fact = staged.fault if staged and staged.fault else f"no CA is staged that could follow {family}"
        raise CertmondError(f"{fact}; give one with `certmond root-ca stage`")
    if len(found.present) != 1:
        fact = f"{found.spec.path} holds {len(found.present)} CAs, so that a change of it is under way already"
        raise CertmondError(f"{fact}; let it hold one, whose key is {found.spec.key}")
    now = datetime.now(UTC)
    verdict = judge(
        staged.certificate, staged.key, found.present, found.leaves_end(now, config.validity), now,
        where="the staged CA", key_where="its key" if found.holds_key else None, leaves=found.leaves,
    )  # fmt: skip
    _warn(verdict.warnings)
    if verdict.problems:
        click.echo("\n".join(f"refused: {problem}" for problem in verdict.problems), err=True)
        sys.exit(REFUSED)
    mode = Mode.REPLACE if at_once else Mode(verdict.mode)
    identity = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    made = Rotation(identity, family, mode, found.present, staged.certificate, Phase.PREPARE, now, excluded=exclude)
    return begin(made)


def _show_plan(
    enforcer: Enforcer, rotation: Rotation, assessment: Assessment, around: Surroundings, output: str
) -> None:
    from certmond.expose.rotation_document import preview_document, preview_table
    from certmond.pki.restarts import in_order

    order = [service.name for service in in_order(around.services)]
    found = enforcer.rotating.preview(rotation, assessment, order)
    display(preview_document(rotation, found), output, preview_table)


def _carry_on(enforcer: Enforcer) -> int:
    """Do what there is to do until it is done; the exit code."""
    told: Any = None
    while True:
        assessment, around = enforcer.see()
        rotation = enforcer.rotating.rotation
        if rotation is None:
            if enforcer.rotating.broken:
                raise RotationError(enforcer.rotating.broken)
            click.echo("done")
            return 0
        try:
            enforcer.keep_former(assessment, around)
            said, until, failed = _one_step(enforcer, assessment, around)
        except BusyError:
            said, until, failed = None, None, False
        if said and (rotation.phase, said) != told:
            click.echo(f"[{rotation.phase}] {said}")
            told = rotation.phase, said
        if failed:
            return FAILED
        if until is not None or said is None:
            wait = (until - datetime.now(UTC)).total_seconds() if until else _POLL
            time.sleep(min(max(0.1, wait), _POLL))


def _one_step(
    enforcer: Enforcer, assessment: Assessment, around: Surroundings
) -> tuple[str | None, datetime | None, bool]:
    """What was done, or is waited for; until when nothing is to be done; whether it cannot go on without a person."""
    made = enforcer.plan(assessment, around=around)
    if made.writes:
        outcomes = enforcer.executor.execute(made, PATIENCE, lambda step: click.echo(f"  {step.target}: {step.detail}"))
        failed = next((each for each in outcomes if each.result == "failed"), None)
        return (failed.message, datetime.now(UTC), False) if failed else (None, datetime.now(UTC), False)
    if progress := enforcer.restart(made, assessment, around, PATIENCE):
        return f"{progress.service}: {progress.message}", progress.until, False
    if said := enforcer.rotate(assessment, around, made):
        return said, datetime.now(UTC), False
    frozen = enforcer.rotating.lacks(assessment).frozen
    return (
        frozen or next(iter(enforcer.rotating.waits), None),
        enforcer.rotating.until or datetime.now(UTC),
        frozen is not None,
    )
