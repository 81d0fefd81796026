"""The commands `root-ca rotate` and `root-ca abort`.

This module defines the options, output and exit codes. A daemon in enforce mode executes the steps. If no such daemon
runs, the commands execute the steps.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from certmond.cli.distribution_ca.command_options import refuse_options, server_option
from certmond.cli.messages import REFUSED, print_error, print_message, refuse
from certmond.cli.options import Globals, display, global_options, globals_of, output_option
from certmond.cli.plan import assess_profile, enforcer_for
from certmond.cli.root_ca.inspection import TOKEN_KEYS, family_option, require_own_rotation
from certmond.errors import CertmondError, RotationError

if TYPE_CHECKING:
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress
    from certmond.config.model import Config
    from certmond.daemon.enforcer import Enforcer
    from certmond.pki.assessment.assess import Assessment
    from certmond.pki.rotation.phases import Mode, Rotation
    from certmond.pki.services.staleness import Surroundings
    from certmond.pki.x509.certificate import Anchor
    from certmond.pki.x509.public_key import PublicKey


@click.command()
@global_options
@family_option
@click.option("--dry-run", "--plan", is_flag=True, help="Print the steps of each phase and change nothing")
@click.option(
    "--at-once", is_flag=True, help="Skip the overlap: clients that trust only the old CA fail until they restart"
)
@click.option("--exclude", multiple=True, metavar="NODE", help="Do not wait for this node (repeatable)")
@click.option("--no-wait", is_flag=True, help="Begin the rotation and exit; the daemons execute its phases")
@server_option
@output_option
@click.pass_context
def rotate(context: click.Context, /, *, dry_run: bool, server: str | None, output: str, **given: Any) -> None:
    """Replace the current Root CA with the staged CA, or continue the rotation. Exit: 0 done; 2 refused or failed; 3
    unknown.

    With --family sa, replace the key that signs service-account tokens. On k3s and RKE2, replace the CAs of this node
    with the command of the distribution, then restart and verify the service.
    """
    options = globals_of(context)
    config = options.load(acting=not dry_run)
    if config.ca_replacement.command:
        from certmond.cli.distribution_ca.rotate import rotate_distribution_cas

        refuse_options(context, config, "at_once", "exclude", "no_wait")
        enforcer = enforcer_for(options, config, acting=not dry_run)
        rotate_distribution_cas(context, options, config, enforcer, dry_run=dry_run, server=server, output=output)
    elif server:
        raise click.UsageError("Give --server only on a node of k3s or RKE2.")
    else:
        _rotate_family(context, options, config, dry_run=dry_run, output=output, **given)


def _rotate_family(
    context: click.Context, options: Globals, config: Config, *, family: str, dry_run: bool, at_once: bool,
    exclude: tuple[str, ...], no_wait: bool, output: str,
) -> None:  # fmt: skip
    """Begin or continue the rotation of `family`."""
    require_own_rotation(config, family)
    enforcer = enforcer_for(options, config, acting=not dry_run)
    handover, progress = _handover(options, enforcer)
    if not dry_run:
        context.with_resource(handover)
        handover.retry_while_busy(enforcer.executor.recover)
        enforcer.rotating.ask()  # decide by the record of the cluster, not by the copy on this node
    assessment, around = assess_profile(options, config, enforcer)
    rotation = enforcer.rotation_state.rotation
    if enforcer.rotation_state.broken and not dry_run:
        raise RotationError(enforcer.rotation_state.broken)
    begins = rotation is None
    if rotation is None:
        rotation = enforcer.rotation_state.replaced.rotation(assessment.taken_at, at_once=at_once)
        if rotation is None or rotation.family != family:
            _refuse_any(tuple(enforcer.rotation_state.interim_trust.obstacles(family)))
            new = _new_key_rotation if family == TOKEN_KEYS else _new_ca_rotation
            rotation = new(options, config, assessment, family, exclude, at_once=at_once)
        else:
            _warn(enforcer.rotation_state.replaced.warnings)
            rotation = replace(rotation, excluded=exclude)
    else:
        _refuse_other_rotation(rotation, family, at_once=at_once)
        rotation = replace(rotation, excluded=tuple(dict.fromkeys((*rotation.excluded, *exclude))))
    why = enforcer.rotation_state.replaced.refusal(rotation) if begins else None
    if why:
        if not dry_run:
            refuse([why])
        print_message(f"refused: {why}", err=True)
    _print_workload_note(config, rotation, beside=dry_run)
    batch = config.cluster.batch if config.cluster.kubeconfig else None
    if dry_run:
        _show_plan(enforcer, rotation, assessment, around, output, batch=batch, root=options.root)
        return
    _refuse_endless_rotation(rotation, around, "rotate", or_else=", or give --at-once" if begins else "")
    if begins:
        _print_downtime(_plan(enforcer, rotation, assessment, around, batch))
        handover.retry_while_busy(partial(enforcer.rotating.start, rotation))
    elif exclude:
        handover.retry_while_busy(partial(enforcer.rotating.change, rotation))
    if no_wait:
        print_message(f"{rotation.name} is in the phase {rotation.phase}; the daemons continue the rotation")
        return
    from certmond.cli.root_ca.rotation_run import run_rotation

    sys.exit(run_rotation(enforcer, handover, progress, aborting=False))


@click.command()
@global_options
@click.option("--no-wait", is_flag=True, help="Begin the abort and exit; the daemons execute its phases")
@click.pass_context
def abort(context: click.Context, *, no_wait: bool) -> None:
    """Abort the rotation in progress, and restore the old CA or key. Exit: 0 done; 2 refused or failed; 3 unknown."""
    from certmond.pki.rotation.phases import abort as abort_rotation

    options = globals_of(context)
    config = options.load(acting=True)
    enforcer = enforcer_for(options, config, acting=True)
    if config.ca_replacement.command:
        from certmond.cli.distribution_ca.stage import remove_staged_cas

        remove_staged_cas(context, options, config, enforcer)
        return
    handover, progress = _handover(options, enforcer)
    context.with_resource(handover)
    handover.retry_while_busy(enforcer.executor.recover)
    enforcer.rotating.ask()
    _, around = assess_profile(options, config, enforcer)
    rotation = enforcer.rotation_state.rotation
    if enforcer.rotation_state.broken:
        raise RotationError(enforcer.rotation_state.broken)
    if rotation is None:
        raise CertmondError("no rotation is in progress; there is nothing to abort")
    _refuse_endless_rotation(rotation, around, "abort the rotation")
    try:
        back = abort_rotation(rotation, datetime.now(UTC))
    except RotationError as error:
        print_error(error)
        sys.exit(REFUSED)
    handover.retry_while_busy(partial(enforcer.rotating.change, back))
    print_message(f"{rotation.name} was in the phase {rotation.phase}; its abort begins with {back.phase}")
    if not no_wait:
        from certmond.cli.root_ca.rotation_run import run_rotation

        sys.exit(run_rotation(enforcer, handover, progress, aborting=True))


def _handover(options: Globals, enforcer: Enforcer) -> tuple[Handover, Progress]:
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress

    progress = Progress()
    return Handover(options.state_dir, progress, enforcer.restarting.terms), progress


def _refuse_other_rotation(rotation: Rotation, family: str, *, at_once: bool) -> None:
    """Exit with 2 if the rotation in progress is not the requested rotation."""
    if rotation.family != family or (at_once and rotation.mode != "replace"):
        fact = f"{rotation.name} is in progress, in the mode {rotation.mode} and the phase {rotation.phase}"
        remedy = f"complete it first: certmond root-ca rotate --family {rotation.family}{_or_abort(rotation)}"
        refuse([f"{fact}; {remedy}"])


def _or_abort(rotation: Rotation) -> str:
    """Return a clause with the command that aborts the rotation, or "" if the phase permits no abort."""
    from certmond.pki.rotation.phases import may_be_aborted

    return ", or: certmond root-ca abort" if may_be_aborted(rotation) else ""


def _refuse_endless_rotation(rotation: Rotation, around: Surroundings, verb: str, or_else: str = "") -> None:
    """Exit with 2 if a phase of the rotation could never end, for example because `--root` selects another
    directory.
    """
    from certmond.pki.rotation.phase_conditions import unreachable_reason

    if fact := unreachable_reason(rotation, around):
        remedy = f"{verb} on the node itself without --root, or with a configuration without services{or_else}"
        refuse([f"{fact}, so no phase could end; {remedy}"])


def _print_workload_note(config: Config, rotation: Rotation, *, beside: bool) -> None:
    """If certmond does not check the workloads, print a note that the operator must restart the workloads.

    Only a rotation of `ca` in the mode overlap needs the note, until the end of the phase trust. If `beside` is True,
    print the note to stderr.
    """
    early = rotation.phase in {"prepare", "detach", "trust"} and not rotation.aborted
    if early and rotation.family == "ca" and rotation.mode == "overlap" and config.cluster.kubeconfig is None:
        fact = "note: without `cluster:` in the configuration, certmond does not check workloads"
        remedy = "before the phase trust ends, restart the Pods that use the API server; see `root_ca.overlap`"
        print_message(f"{fact}; {remedy}", err=beside)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print_message(f"warning: {warning}", err=True)


def _new_ca_rotation(
    options: Globals, config: Config, assessment: Assessment, family: str, exclude: tuple[str, ...], *, at_once: bool
) -> Rotation:
    """Return a new rotation from the present CA to the staged CA. Exit with 2 if the staged CA has problems.

    Raises CertmondError if no usable CA is staged, or if the node does not have exactly one CA of `family`.
    """
    from certmond.pki.assessment.missing_ca_certificate import missing_ca_of
    from certmond.pki.rotation.ca_family import family_of
    from certmond.pki.rotation.ca_validation import judge
    from certmond.pki.rotation.phases import Mode
    from certmond.pki.x509.certificate import certificates_of

    found = family_of(assessment, family)
    if found is None:
        if missing := missing_ca_of(family, (each.seen for each in assessment.statuses)):
            raise CertmondError(missing)
        raise CertmondError(f"there is no certificate of {family} below {options.root}; check --profile and --config")
    anchor, key = _staged(options, family, "CA")
    (certificate,) = certificates_of((anchor,))
    if len(found.present) != 1:
        fact = (
            f"{found.spec.path} contains {len(found.present)} CAs, so another change to this file might be in progress"
        )
        raise CertmondError(f"{fact}; leave only the CA of the key {found.spec.key} in the file")
    now = datetime.now(UTC)
    verdict = judge(
        certificate, key, found.present, found.leaves_end(now, config.validity), now,
        where="the staged CA", key_where="its key" if found.holds_key else None, leaves=found.leaves,
    )  # fmt: skip
    _warn(verdict.warnings)
    _refuse_any(verdict.problems)
    return _new_rotation(family, Mode.REPLACE if at_once else Mode(verdict.mode), found.present, certificate, exclude)


def _new_key_rotation(
    options: Globals,
    config: Config,  # noqa: ARG001 - the same signature as _new_ca_rotation
    assessment: Assessment,
    family: str,
    exclude: tuple[str, ...],
    *,
    at_once: bool,
) -> Rotation:
    """Return a new rotation to the staged key that signs tokens. Exit with 2 if the private key is not staged, or if
    the key has problems.

    Raises CertmondError if no usable key is staged. Also raises CertmondError if the file of trusted keys does not
    contain exactly the public key of the signing key.
    """
    from certmond.pki.rotation.phases import Mode
    from certmond.pki.rotation.service_account_key_validation import keys_of, objections

    found = keys_of(assessment, family)
    if found is None:
        raise CertmondError(f"there is no public key of {family} below {options.root}; check --profile and --config")
    anchor, key = _staged(options, family, "key")
    if found.trusted != (found.key,):
        fact = f"{found.spec.path} does not contain exactly the public key of {found.spec.key}"
        raise CertmondError(
            f"{fact}, so another change to this file might be in progress; leave only this public key in the file"
        )
    missing_key = () if key else (f"the private key is not staged; run: certmond root-ca stage KEY --family {family}",)
    _refuse_any((*missing_key, *found.unread, *objections(anchor.key, found.trusted, "the staged key")))
    return _new_rotation(family, Mode.REPLACE if at_once else Mode.OVERLAP, found.trusted, anchor, exclude)


def _staged(options: Globals, family: str, what: str) -> tuple[Anchor, PublicKey | None]:
    """Return the staged CA or public key, and the public key of the staged private key, or None without a private key.

    Raises CertmondError if the staged files are missing or damaged, or if they belong to a different family.
    """
    from certmond.rotation.staged_ca import Part, Staging

    staged = Staging(options.state_dir).read(Part.NEW)
    if staged is None or staged.anchor is None or staged.fault or staged.family != family:
        given = "CERT KEY" if what == "CA" else "KEY"
        missing = f"no new {what} is staged for {family}; run: certmond root-ca stage {given} --family {family}"
        raise CertmondError(staged.fault if staged and staged.fault else missing)
    return staged.anchor, staged.key


def _refuse_any(problems: tuple[str, ...]) -> None:
    """If there are problems, print the problems and exit with 2."""
    if problems:
        refuse(problems)


def _new_rotation(family: str, mode: Mode, old: tuple[Anchor, ...], new: Anchor, exclude: tuple[str, ...]) -> Rotation:
    from certmond.pki.rotation.phases import Phase, Rotation, begin

    now = datetime.now(UTC)
    identity = f"{now:%Y%m%dT%H%M%SZ}-{os.urandom(3).hex()}"
    return begin(Rotation(identity, family, mode, old, new, Phase.PREPARE, now, excluded=exclude))


def _show_plan(
    enforcer: Enforcer, rotation: Rotation, assessment: Assessment, around: Surroundings, output: str,
    *, batch: str | None, root: str,
) -> None:  # fmt: skip
    from certmond.expose.documents.rotation_preview import preview_table

    display(_plan(enforcer, rotation, assessment, around, batch), output, preview_table, root)


def _print_downtime(document: dict[str, Any]) -> None:
    """Print the downtime that the rotation causes on a cluster with one control-plane node."""
    from certmond.expose.documents.rotation_preview import unavoidable

    for line in unavoidable(document):
        print_message(line)


def _plan(
    enforcer: Enforcer, rotation: Rotation, assessment: Assessment, around: Surroundings, batch: str | None
) -> dict[str, Any]:
    """Return the preview of the rotation on this node. Raises RotationError if no rotation can begin."""
    from certmond.expose.documents.rotation_preview import preview_document
    from certmond.pki.planning.restarts import restart_order
    from certmond.pki.rotation.expected_downtime import absences

    services = restart_order(around.services)
    found = enforcer.rotation_state.preview(rotation, assessment, [service.name for service in services])
    stops = enforcer.planner.rotation_holds(rotation, assessment, around)
    return preview_document(rotation, found, absences(found, services), batch, stops)
