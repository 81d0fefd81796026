"""The verbs that carry a rotation out: `root-ca rotate` and `root-ca abort`, with their progress on the terminal.

Owns their options, what they print and their exit codes. Beside a daemon that enforces, they record what a person has
decided and follow it; else they go the way that it goes. A command that is interrupted loses nothing.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from certmond.errors import CertmondError, RotationError
from certmond.options import Globals, display, global_options, globals_of, output_option
from certmond.rooting import REFUSED, TOKEN_KEYS, family_option, ours_to_rotate
from certmond.writing import enforcer_for, seen

if TYPE_CHECKING:
    from certmond.config import Config
    from certmond.enforce import Enforcer
    from certmond.handover import Handover
    from certmond.pki.assess import Assessment
    from certmond.pki.certificate import Anchor, PublicKey
    from certmond.pki.holding import Surroundings
    from certmond.pki.rotation import Mode, Rotation
    from certmond.wait import Progress


@click.command()
@global_options
@family_option
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
    """Let the staged CA follow the present one, or go on with that. Exit: 0 done, 2 refused or failed.

    With --family sa, let the staged key follow the present one that signs service-account tokens.
    """
    options = globals_of(context)
    config = options.load(acting=not dry_run)
    ours_to_rotate(config, family)
    enforcer = enforcer_for(options, config, acting=not dry_run)
    handover, progress = _handover(options, enforcer)
    if not dry_run:
        context.with_resource(handover)
        handover.patiently(enforcer.executor.recover)
        enforcer.rotating.ask()  # what is decided here is decided of what the cluster has, not of what this node had
    assessment, around = seen(options, config, enforcer)
    rotation = enforcer.standing.rotation
    if enforcer.standing.broken and not dry_run:
        raise RotationError(enforcer.standing.broken)
    begins = rotation is None
    if rotation is None:
        rotation = enforcer.standing.replaced.found(assessment.taken_at, at_once=at_once)
        if rotation is None or rotation.family != family:
            _refuse(tuple(enforcer.standing.first_aid.obstacles(family)))
            new = _new_keys if family == TOKEN_KEYS else _new
            rotation = new(options, config, assessment, family, exclude, at_once=at_once)
        else:
            _warn(enforcer.standing.replaced.warnings)
            rotation = replace(rotation, excluded=exclude)
    else:
        _see_that_it_is_meant(rotation, family, at_once=at_once)
        rotation = replace(rotation, excluded=tuple(dict.fromkeys((*rotation.excluded, *exclude))))
    why = enforcer.standing.replaced.refusal(rotation) if begins else None
    if why:
        click.echo(f"refused: {why}", err=True)
        if not dry_run:
            sys.exit(REFUSED)
    _tell_of_workloads(config, rotation, beside=dry_run)
    batch = config.cluster.batch if config.cluster.kubeconfig else None
    if dry_run:
        _show_plan(enforcer, rotation, assessment, around, output, batch=batch)
        return
    _see_that_it_can_end(rotation, around, "rotate", or_else=", or give --at-once" if begins else "")
    if begins:
        _tell_of_absences(_plan(enforcer, rotation, assessment, around, batch))
        handover.patiently(partial(enforcer.rotating.start, rotation))
    elif exclude:
        handover.patiently(partial(enforcer.rotating.change, rotation))
    if no_wait:
        click.echo(f"{rotation.name} is in the phase {rotation.phase}; the daemons go on with it")
        return
    from certmond.rotation_progress import carry_on

    sys.exit(carry_on(enforcer, handover, progress, back=False))


@click.command()
@global_options
@click.option("--no-wait", is_flag=True, help="Only turn it round, and leave the rest to the daemons")
@click.pass_context
def abort(context: click.Context, *, no_wait: bool) -> None:
    """Lead the rotation that is under way back to the former CA or key. Exit: 0 done, 2 refused or failed."""
    from certmond.pki.rotation import abort as turned_round

    options = globals_of(context)
    config = options.load(acting=True)
    enforcer = enforcer_for(options, config, acting=True)
    handover, progress = _handover(options, enforcer)
    context.with_resource(handover)
    handover.patiently(enforcer.executor.recover)
    enforcer.rotating.ask()
    _, around = seen(options, config, enforcer)
    rotation = enforcer.standing.rotation
    if enforcer.standing.broken:
        raise RotationError(enforcer.standing.broken)
    if rotation is None:
        raise CertmondError("no rotation is under way; there is nothing to abort")
    _see_that_it_can_end(rotation, around, "abort it")
    try:
        back = turned_round(rotation, datetime.now(UTC))
    except RotationError as error:
        click.echo(f"certmond: {error}", err=True)
        sys.exit(REFUSED)
    handover.patiently(partial(enforcer.rotating.change, back))
    click.echo(f"{rotation.name} was in the phase {rotation.phase}, and goes back through {back.phase}")
    if not no_wait:
        from certmond.rotation_progress import carry_on

        sys.exit(carry_on(enforcer, handover, progress, back=True))


def _handover(options: Globals, enforcer: Enforcer) -> tuple[Handover, Progress]:
    from certmond.handover import Handover
    from certmond.wait import Progress

    progress = Progress()
    return Handover(options.state_dir, progress, enforcer.restarting.terms), progress


def _see_that_it_is_meant(rotation: Rotation, family: str, *, at_once: bool) -> None:
    """Exits with 2 where the rotation under way is not the one that is asked for."""
    if rotation.family != family or (at_once and rotation.mode != "replace"):
        how = f"{rotation.name} is under way, by {rotation.mode}, in the phase {rotation.phase}"
        remedy = f"let it go on by `certmond root-ca rotate --family {rotation.family}`{_or_abort(rotation)}"
        click.echo(f"refused: {how}, and not what is asked for; {remedy}", err=True)
        sys.exit(REFUSED)


def _or_abort(rotation: Rotation) -> str:
    """Return the other way out, where there is one."""
    from certmond.pki.rotation import may_be_aborted

    return ", or `certmond root-ca abort` it" if may_be_aborted(rotation) else ""


def _see_that_it_can_end(rotation: Rotation, around: Surroundings, verb: str, or_else: str = "") -> None:
    """Exits with 2 where a phase would be waited for without end, as below another root."""
    from certmond.pki.rotation_steps import unattainable

    if fact := unattainable(rotation, around):
        remedy = f"{verb} on the node itself, without --root{or_else}, or with a configuration that has no services"
        click.echo(f"refused: {fact}, and no phase would end; {remedy}", err=True)
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
    from certmond.pki.candidate import judge
    from certmond.pki.certificate import certificates_of
    from certmond.pki.family import family_of
    from certmond.pki.rotation import Mode

    found = family_of(assessment, family)
    if found is None:
        raise CertmondError(f"there is no certificate of {family} below {options.root}, which another could follow")
    anchor, key = _staged(options, family, "CA")
    (certificate,) = certificates_of((anchor,))
    if len(found.present) != 1:
        fact = f"{found.spec.path} holds {len(found.present)} CAs, so that a change of it is under way already"
        raise CertmondError(f"{fact}; let it hold one, whose key is {found.spec.key}")
    now = datetime.now(UTC)
    verdict = judge(
        certificate, key, found.present, found.leaves_end(now, config.validity), now,
        where="the staged CA", key_where="its key" if found.holds_key else None, leaves=found.leaves,
    )  # fmt: skip
    _warn(verdict.warnings)
    _refuse(verdict.problems)
    return _made(family, Mode.REPLACE if at_once else Mode(verdict.mode), found.present, certificate, exclude)


def _new_keys(
    options: Globals,
    config: Config,  # noqa: ARG001 - as of a CA
    assessment: Assessment,
    family: str,
    exclude: tuple[str, ...],
    *,
    at_once: bool,
) -> Rotation:
    """The rotation to the staged key of tokens. Raises CertmondError, or exits with 2 and what speaks against it."""
    from certmond.pki.rotation import Mode
    from certmond.pki.token_keys import keys_of, objections

    found = keys_of(assessment, family)
    if found is None:
        raise CertmondError(f"there is no public key of {family} below {options.root}, which another could follow")
    anchor, key = _staged(options, family, "key")
    if found.trusted != (found.key,):
        fact = f"{found.spec.path} does not hold the public key of {found.spec.key} alone"
        raise CertmondError(f"{fact}, so that another change of it is under way; let it hold that one")
    nobody = (
        () if key else (f"the private key is not staged; give it with `certmond root-ca stage KEY --family {family}`",)
    )
    _refuse((*nobody, *found.unread, *objections(anchor.key, found.trusted, "what is staged")))
    return _made(family, Mode.REPLACE if at_once else Mode.OVERLAP, found.trusted, anchor, exclude)


def _staged(options: Globals, family: str, what: str) -> tuple[Anchor, PublicKey | None]:
    """What is staged for `family`, and the public half of the key beside it. Raises CertmondError where nothing is."""
    from certmond.host.staged import Part, Staging

    staged = Staging(options.state_dir).read(Part.NEW)
    if staged is None or staged.anchor is None or staged.fault or staged.family != family:
        fact = staged.fault if staged and staged.fault else f"no {what} is staged that could follow {family}"
        raise CertmondError(f"{fact}; give one with `certmond root-ca stage`")
    return staged.anchor, staged.key


def _refuse(problems: tuple[str, ...]) -> None:
    """Tell them all, and end, where there are any."""
    if problems:
        click.echo("\n".join(f"refused: {problem}" for problem in problems), err=True)
        sys.exit(REFUSED)


def _made(family: str, mode: Mode, old: tuple[Anchor, ...], new: Anchor, exclude: tuple[str, ...]) -> Rotation:
    import secrets  # brings OpenSSL, which `serve` has no use for

    from certmond.pki.rotation import Phase, Rotation, begin

    now = datetime.now(UTC)
    identity = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    return begin(Rotation(identity, family, mode, old, new, Phase.PREPARE, now, excluded=exclude))


def _show_plan(
    enforcer: Enforcer, rotation: Rotation, assessment: Assessment, around: Surroundings, output: str,
    *, batch: str | None,
) -> None:  # fmt: skip
    from certmond.expose.rotation_document import preview_table

    display(_plan(enforcer, rotation, assessment, around, batch), output, preview_table)


def _tell_of_absences(document: dict[str, Any]) -> None:
    """What a single control plane cannot avoid, before anything is begun."""
    from certmond.expose.rotation_document import unavoidable

    for line in unavoidable(document):
        click.echo(line)


def _plan(
    enforcer: Enforcer, rotation: Rotation, assessment: Assessment, around: Surroundings, batch: str | None
) -> dict[str, Any]:
    """What the rotation would do on this node, as a document. Raises RotationError where it cannot begin."""
    from certmond.expose.rotation_document import preview_document
    from certmond.pki.absence import absences
    from certmond.pki.restarts import in_order

    services = in_order(around.services)
    found = enforcer.standing.preview(rotation, assessment, [service.name for service in services])
    stops = enforcer.stops(rotation, assessment, around)
    return preview_document(rotation, found, absences(found, services), batch, stops)
