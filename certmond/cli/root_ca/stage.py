"""The command `root-ca stage`, which stores a new Root CA, or a new key that signs tokens.

This module defines the options, output and exit codes. The command changes no file that the node uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from certmond.cli.distribution_ca.command_options import refuse_options
from certmond.cli.messages import print_message, refuse
from certmond.cli.options import Globals, global_options, globals_of
from certmond.cli.plan import enforcer_for
from certmond.cli.root_ca.inspection import (
    FILE,
    TOKEN_KEYS,
    family_option,
    node_anchors,
    node_family,
    node_token_keys,
    read_ca_files,
    readable,
    require_certificate,
    require_own_rotation,
    verdict_on,
)
from certmond.errors import CertmondError

if TYPE_CHECKING:
    from certmond.cli.step_handover import Handover
    from certmond.config.model import Config
    from certmond.formats.private_key import PrivateKey
    from certmond.pki.rotation.ca_family import Family
    from certmond.pki.rotation.ca_validation import Verdict
    from certmond.pki.x509.certificate import Anchor, Certificate
    from certmond.renewal.operator_ca_reader import CAFiles


def _validity(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    from certmond.pki.catalog.duration import parse_duration

    try:
        length: timedelta | None = None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return length


def _algorithm(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from certmond.pki.catalog.entries import KeyAlgorithm

    if value is not None and value not in {each.value for each in KeyAlgorithm}:
        raise click.BadParameter(f"must be one of {', '.join(each.value for each in KeyAlgorithm)}")
    return value


@click.command()
@global_options
@family_option
@click.argument("certificate", type=FILE, metavar="[CERT", required=False)
@click.argument("key", type=FILE, metavar="KEY]", required=False)
@click.option("--generate", is_flag=True, help="Create a CA with a new key and the subject of the current CA")
@click.option("--reuse-key", is_flag=True, help="Reissue the current CA with the same key and new dates")
@click.option(
    "--key-algorithm",
    callback=_algorithm,
    help="Algorithm for --generate, such as RSA-2048 (default: the algorithm of the current key)",
)
@click.option(
    "--validity",
    callback=_validity,
    help="Validity of the created CA, such as 10y (default: the validity in the entry)",
)
@click.option("--force", is_flag=True, help="Replace the staged CA or key, unless a rotation is in progress")
@click.option("--dry-run", is_flag=True, help="On k3s or RKE2: print the files to create, and change nothing")
@click.pass_context
def stage(
    context: click.Context,
    *,
    family: str,
    certificate: Path | None,
    key: Path | None,
    generate: bool,
    reuse_key: bool,
    key_algorithm: str | None,
    validity: timedelta | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Store CERT and KEY, or a created CA, for a rotation. Exit: 0 done; 2 refused; 3 unknown.

    With --family sa, give either --generate or only KEY, the private key that will sign service-account tokens. On k3s
    and RKE2, give no CERT: certmond creates a new CA for each CA of the server, and the present CA cross-signs it.
    """
    options = globals_of(context)
    if (
        certificate is None
        and not reuse_key
        and _stages_distribution(
            context, options, validity=validity, algorithm=key_algorithm, force=force, dry_run=dry_run
        )
    ):
        return
    if dry_run or (certificate is not None) + generate + reuse_key != 1:
        raise click.UsageError(
            "Give CERT and KEY, or --generate, or --reuse-key. Only on k3s or RKE2: give none, or --dry-run."
        )
    if key_algorithm and not generate:
        raise click.UsageError("Give --key-algorithm only with --generate: any other CA already has a key.")
    if validity and certificate is not None:
        raise click.UsageError("Give --validity only without CERT: CERT already contains the dates of the CA.")
    if family == TOKEN_KEYS:
        if reuse_key or validity:
            asked = "--reuse-key" if reuse_key else "--validity"
            require_certificate(family, asked, f"Give KEY or --generate, without {asked}")
        if key is not None:
            raise click.UsageError(f"Give only KEY: {family} has no certificate.")
        _stage_keys(context, family, certificate, key_algorithm, force=force)
        return
    config = options.load(acting=True)
    require_own_rotation(config, family)
    found, now = node_family(options, config, family)
    if certificate is None:
        made = _generated_ca(
            options, config, found, now, reuse_key=reuse_key, algorithm=key_algorithm, validity=validity
        )
        verdict = verdict_on(made, found, config, now, where="the new CA", key_where="its key")
    else:
        made = read_ca_files(certificate, key)
        verdict = verdict_on(made, found, config, now, where=str(certificate), key_where=str(key) if key else None)
    for warning in verdict.warnings:
        print_message(f"warning: {warning}", err=True)
    problems = [*_misplaced_key(found, certificate, key), *verdict.problems]
    problems += [*_other_families(options, config, family, made.certificate)] if certificate else []
    if made.certificate is None or problems:
        refuse(problems)
    keep = partial(_stage_anchor, options, family, made.certificate, made.key, now, force=force)
    _handover(context, config).retry_while_busy(keep)
    print_message(_summary(made.certificate, verdict, found))
    if message := _keyless_message(config, found):
        print_message(message)


def _stages_distribution(
    context: click.Context, options: Globals, *, validity: timedelta | None, algorithm: str | None, force: bool,
    dry_run: bool,
) -> bool:  # fmt: skip
    """Stage new CAs of the distribution, and return True. Return False if no distribution replaces the CAs itself."""
    config = options.load(acting=not dry_run)
    if not config.ca_replacement.command:
        return False
    from certmond.cli.distribution_ca.stage import stage_distribution_cas

    refuse_options(context, config)
    enforcer = enforcer_for(options, config, acting=not dry_run)
    stage_distribution_cas(
        context, options, config, enforcer, validity=validity, algorithm=algorithm, force=force, dry_run=dry_run
    )
    return True


def _stage_keys(context: click.Context, family: str, given: Path | None, algorithm: str | None, *, force: bool) -> None:
    """Stage the private key in the file `given`, or a new key. Exit with 2 if the key has a problem, or if this node
    does not sign tokens.
    """
    from certmond.formats.private_key import make_key
    from certmond.pki.catalog.entries import KeyAlgorithm
    from certmond.pki.rotation.service_account_key_validation import objections
    from certmond.pki.signing.template import algorithm_of
    from certmond.pki.x509.public_key import describe_key
    from certmond.renewal.operator_ca_reader import CAFiles, read_key

    options = globals_of(context)
    config = options.load(acting=True)
    require_own_rotation(config, family)
    found, now = node_token_keys(options, config, family)
    if not found.holds_key:
        fact = f"this node has no {found.spec.key}, and only nodes that sign tokens may have this key"
        refuse([f"{fact}; stage the new key on the control-plane nodes"])
    if given is None:
        like = KeyAlgorithm(algorithm) if algorithm else algorithm_of(found.trusted[0])
        brought = CAFiles(None, make_key(like or KeyAlgorithm.RSA_2048))
    else:
        brought = readable(read_key(str(given)))
    for warning in brought.warnings:
        print_message(f"warning: {warning}", err=True)
    public = describe_key(brought.key.public_key()) if brought.key else None
    where = str(given) if given else "the new key"
    problems = [*brought.problems, *(objections(public, found.trusted, where) if public else ())]
    if public is None or problems:
        refuse(problems)
    keep = partial(_stage_anchor, options, family, public, brought.key, now, force=force)
    _handover(context, config).retry_while_busy(keep)
    print_message(f"staged for {family}: {public}, mode overlap\nsha256 {public.sha256}")


def _misplaced_key(family: Family, certificate: Path | None, key: Path | None) -> Iterator[str]:
    """Yield a problem if the key of the new CA is missing, or if this node must not have this key."""
    if family.holds_key and certificate and key is None:
        yield f"this node signs with {family.spec.key}; give the private key of {certificate}, too"
    elif not family.holds_key and key is not None:
        fact = f"this node has no {family.spec.key or 'key of its CA'}, and only nodes that sign may have a CA key"
        yield f"{fact}; omit {key}"


def _other_families(options: Globals, config: Config, family: str, staged: Certificate | None) -> Iterator[str]:
    """Yield a problem for each CA entry on this node that already has the CA `staged`, but no CA of `family`."""
    from certmond.state.rotation_record import RotationRecord

    record = RotationRecord(options.state_dir)
    known = node_anchors(options, config)
    for name, interim in record.interims().items():
        known[name] = {*known.get(name, ()), interim.new}
    for other, anchors in known.items():
        if staged in anchors and anchors.isdisjoint(known.get(family, ())):
            yield f"this is the CA of {other} on this node; stage another CA, or stage this CA with --family {other}"


def _generated_ca(
    options: Globals,
    config: Config,
    family: Family,
    now: datetime,
    *,
    reuse_key: bool,
    algorithm: str | None,
    validity: timedelta | None,
) -> CAFiles:
    from certmond.pki.catalog.entries import KeyAlgorithm
    from certmond.pki.signing.template import Terms
    from certmond.renewal.operator_ca_reader import CAFiles
    from certmond.rotation.ca_generation import generate, present_key, reissue
    from certmond.transaction.commit import Transactions

    if not family.holds_key:
        fact = f"this node has no {family.spec.key or 'key of its CA'}, and only a node that signs can create a CA key"
        refuse([f"{fact}; create the CA on a node that signs, and stage its certificate here"])
    given: dict[str, Any] = {"key_algorithm": KeyAlgorithm(algorithm) if algorithm else None, "validity": validity}
    spec = replace(family.spec, **{name: value for name, value in given.items() if value is not None})
    terms = Terms(now, None, {}, config.validity, config.key_algorithm)
    present = family.present[0]
    if reuse_key:
        made = reissue(present, present_key(spec, Transactions(options.root, options.state_dir)), spec, terms)
    else:
        made = generate(present, spec, terms)
    return CAFiles(made.certificate, made.key)


def _handover(context: click.Context, config: Config) -> Handover:
    """Return a Handover, which waits while another process writes on this node."""
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress

    options = globals_of(context)
    handover = Handover(options.state_dir, Progress(), enforcer_for(options, config).restarting.terms)
    context.call_on_close(handover.close)
    return handover


def _stage_anchor(
    options: Globals, family: str, anchor: Anchor, key: PrivateKey | None, now: datetime, *, force: bool
) -> None:
    """Stage the CA or public key `anchor` with its private key.

    Exit with 2 if a rotation to another CA or key is in progress, or if other files are staged and `force` is False.
    Raises BusyError while another process writes on this node.
    """
    from certmond.notify.audit import Audit, caller
    from certmond.notify.event_log import Event, Journal
    from certmond.pki.x509.certificate import Certificate
    from certmond.rotation.staged_ca import Part, Staging
    from certmond.transaction.commit import Transactions

    staging = Staging(options.state_dir)
    audit = Audit(Journal("command" if options.root == "/" else "none"), options.state_dir, caller())
    where = str(staging.directory / f"{Part.NEW}.crt")
    fields = {"step": "stage", "target": family, "path": where}
    if isinstance(anchor, Certificate):
        fields["new_serial"] = anchor.serial_hex
    with Transactions(options.root, options.state_dir).lock():
        recorded, staged = staging.recorded(), staging.read(Part.NEW)
        if recorded and not _is_successor(options, family, anchor):
            place = f"family {recorded.family or 'unknown'}, phase {recorded.phase or 'unknown'}"
            needs = "and its end deletes" if recorded.phase == "done" else "and needs"
            remedy = f"complete it first: certmond root-ca rotate --family {recorded.family or family}"
            refuse([f"a rotation is in progress ({place}), {needs} the staged files; {remedy}"])
        if staged and not staged.fault and not force:
            already = staged.anchor == anchor and staged.family == family
            if already and (staged.key is None) == (key is None):
                return
            fact = f"{where} is already staged for {staged.family}"
            refuse([f"{fact}; to replace it and delete its key, give --force"])
        audit.note(Event.STEP_BEGUN, now, f"{where}: {anchor.called} is staged", fields=fields)
        try:
            staging.put(Part.NEW, family, anchor, key)
        except CertmondError as error:
            audit.conclude(Event.STEP_FAILED, now, str(error), "error", fields={**fields, "result": "failed"})
            raise
        audit.note(Event.STEP_DONE, now, f"{where} is staged", fields={**fields, "result": "done"})


def _is_successor(options: Globals, family: str, anchor: Anchor) -> bool:
    """Return whether `anchor` is the new CA or key of the recorded rotation.

    A node can receive the record before an operator stages the CA on this node.
    """
    from certmond.errors import MalformedError
    from certmond.state.rotation_record import RotationRecord

    try:
        rotation = RotationRecord(options.state_dir).load()
    except MalformedError:
        return False
    return rotation is not None and (rotation.family, rotation.new) == (family, anchor)


def _summary(certificate: Certificate, verdict: Verdict, family: Family) -> str:
    from certmond.expose.documents.root_ca import pin
    from certmond.pki.findings import printable

    until = f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
    name = f"staged for {family.spec.name}: {certificate.subject}, {certificate.key}, {until}, mode {verdict.mode}"
    return printable(name) + f"\nserial {certificate.serial_hex}\nsha256 {certificate.sha256}\npin {pin(certificate)}"


def _keyless_message(config: Config, family: Family) -> str | None:
    """Return the message that this node needs no key of the CA, or None if the message does not apply.

    The message applies if this node has no key of the CA, and external signers issue all leaves of the CA.
    """
    from certmond.pki.catalog.settings import is_external

    kinds = {spec.name: spec.kind for spec in config.signers}
    signers = sorted({leaf.signer for leaf in family.leaves})
    if family.holds_key or not signers or not all(is_external(each, kinds) for each in signers):
        return None
    return f"this node needs no key of the CA, because these signers issue all leaves of the CA: {', '.join(signers)}"
