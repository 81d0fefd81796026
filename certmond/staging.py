"""The verb `root-ca stage`: a new Root CA, or a new key for tokens, brought or made, is kept for a rotation.

Owns its options, what it prints and its exit codes, and that nothing takes the place of what a rotation needs. A CA is
judged as by `verify`, made by `host.new_root` and kept by `host.staged`; a key of tokens is judged by `pki.token_keys`.
What the node uses stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from certmond.errors import CertmondError
from certmond.options import Globals, global_options, globals_of
from certmond.rooting import (
    FILE,
    REFUSED,
    TOKEN_KEYS,
    anchors_here,
    family_here,
    family_option,
    judged,
    keys_here,
    no_certificate,
    ours_to_rotate,
    read_pair,
    readable,
)
from certmond.writing import enforcer_for

if TYPE_CHECKING:
    from certmond.config import Config
    from certmond.handover import Handover
    from certmond.host.given_authority import Brought
    from certmond.host.keys import PrivateKey
    from certmond.pki.candidate import Verdict
    from certmond.pki.certificate import Anchor, Certificate
    from certmond.pki.family import Family


def _validity(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    from certmond.pki.fields import parse_duration

    try:
        length: timedelta | None = None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return length


def _algorithm(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from certmond.pki.catalog import KeyAlgorithm

    if value is not None and value not in {each.value for each in KeyAlgorithm}:
        raise click.BadParameter(f"must be one of {', '.join(each.value for each in KeyAlgorithm)}")
    return value


@click.command()
@global_options
@family_option
@click.argument("certificate", type=FILE, metavar="[CERT", required=False)
@click.argument("key", type=FILE, metavar="KEY]", required=False)
@click.option("--generate", is_flag=True, help="Make one, with a new key and the name of the present one")
@click.option("--reuse-key", is_flag=True, help="Make the present one anew, with its key: only dates change")
@click.option(
    "--key-algorithm", callback=_algorithm, help="With --generate: RSA-2048, …, by default that of the present"
)
@click.option("--validity", callback=_validity, help="Of one that is made, as in 10y, by default the entry's")
@click.option("--force", is_flag=True, help="Replace what is staged; refused while a rotation is under way")
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
) -> None:
    """Keep CERT and KEY, or one that is made, for a rotation. Exit: 0 done, 2 refused, 3 could not tell.

    With --family sa there is no CERT: give KEY, the private key that is to sign service-account tokens.
    """
    if (certificate is not None) + generate + reuse_key != 1:
        raise click.UsageError("Give CERT and KEY, or --generate, or --reuse-key.")
    if key_algorithm and not generate:
        raise click.UsageError("--key-algorithm is for --generate: any other CA has its key already.")
    if validity and certificate is not None:
        raise click.UsageError("--validity is for a CA that is made: one that you bring has its dates already.")
    if family == TOKEN_KEYS:
        if reuse_key or validity:
            asked = "--reuse-key" if reuse_key else "--validity"
            no_certificate(family, asked, "Another key follows the present one, which has no end")
        if key is not None:
            raise click.UsageError(f"Give KEY alone: {family} has no certificate.")
        _stage_keys(context, family, certificate, key_algorithm, force=force)
        return
    options = globals_of(context)
    config = options.load(acting=True)
    ours_to_rotate(config, family)
    found, now = family_here(options, config, family)
    if certificate is None:
        made = _made(options, config, found, now, reuse_key=reuse_key, algorithm=key_algorithm, validity=validity)
        verdict = judged(made, found, config, now, where="the CA to be made", key_where="its key")
    else:
        made = read_pair(certificate, key)
        verdict = judged(made, found, config, now, where=str(certificate), key_where=str(key) if key else None)
    for warning in verdict.warnings:
        click.echo(f"warning: {warning}", err=True)
    problems = [*_misplaced_key(found, certificate, key), *verdict.problems]
    problems += [*_of_another_family(options, config, family, made.certificate)] if certificate else []
    if made.certificate is None or problems:
        _refuse(problems)
    keep = partial(_keep, options, family, made.certificate, made.key, now, force=force)
    _patient(context, config).patiently(keep)
    click.echo(_told(made.certificate, verdict, found))


def _stage_keys(context: click.Context, family: str, given: Path | None, algorithm: str | None, *, force: bool) -> None:
    """Keep the private key in the file `given`, or one that is made."""
    from certmond.host.given_authority import Brought, read_key
    from certmond.host.keys import make_key
    from certmond.pki.catalog import KeyAlgorithm
    from certmond.pki.certificate import describe_key
    from certmond.pki.issuance import algorithm_of
    from certmond.pki.token_keys import objections

    options = globals_of(context)
    config = options.load(acting=True)
    ours_to_rotate(config, family)
    found, now = keys_here(options, config, family)
    if not found.holds_key:
        fact = f"this node holds no {found.spec.key}, and such a key belongs where tokens are signed only"
        _refuse([f"{fact}; stage it on the control-plane nodes"])
    if given is None:
        like = KeyAlgorithm(algorithm) if algorithm else algorithm_of(found.trusted[0])
        brought = Brought(None, make_key(like or KeyAlgorithm.RSA_2048))
    else:
        brought = readable(read_key(str(given)))
    for warning in brought.warnings:
        click.echo(f"warning: {warning}", err=True)
    public = describe_key(brought.key.public_key()) if brought.key else None
    where = str(given) if given else "the key to be made"
    problems = [*brought.problems, *(objections(public, found.trusted, where) if public else ())]
    if public is None or problems:
        _refuse(problems)
    keep = partial(_keep, options, family, public, brought.key, now, force=force)
    _patient(context, config).patiently(keep)
    click.echo(f"staged for {family}: {public}, mode overlap\nsha256 {public.sha256}")


def _misplaced_key(family: Family, certificate: Path | None, key: Path | None) -> Iterator[str]:
    """A CA comes with its key exactly where the present one has its own."""
    if family.holds_key and certificate and key is None:
        yield f"this node signs with {family.spec.key}: give the private key of {certificate} as well"
    elif not family.holds_key and key is not None:
        fact = f"this node holds no {family.spec.key or 'key of its CA'}, and a CA's key belongs where it signs only"
        yield f"{fact}; leave {key} out"


def _of_another_family(options: Globals, config: Config, family: str, brought: Certificate | None) -> Iterator[str]:
    """Why the CA cannot follow: it is another trust anchor of this node, with which this one has nothing in common."""
    from certmond.host.rotation_record import RotationRecord

    record = RotationRecord(options.state_dir)
    known = anchors_here(options, config)
    for name, aid in record.aids().items():
        known[name] = {*known.get(name, ()), aid.new}
    for other, anchors in known.items():
        if brought in anchors and anchors.isdisjoint(known.get(family, ())):
            yield f"it is the CA of {other} on this node; give another one, or stage it with --family {other}"


def _made(
    options: Globals,
    config: Config,
    family: Family,
    now: datetime,
    *,
    reuse_key: bool,
    algorithm: str | None,
    validity: timedelta | None,
) -> Brought:
    from certmond.host.given_authority import Brought
    from certmond.host.new_root import generate, present_key, reissue
    from certmond.host.transaction import Transactions
    from certmond.pki.catalog import KeyAlgorithm
    from certmond.pki.issuance import Terms

    if not family.holds_key:
        fact = f"this node holds no {family.spec.key or 'key of its CA'}, and a CA's key is made where it signs only"
        _refuse([f"{fact}; make the CA there, and stage its certificate here"])
    given: dict[str, Any] = {"key_algorithm": KeyAlgorithm(algorithm) if algorithm else None, "validity": validity}
    spec = family.spec.model_copy(update={name: value for name, value in given.items() if value is not None})
    terms = Terms(now, None, {}, config.validity, config.key_algorithm)
    present = family.present[0]
    if reuse_key:
        made = reissue(present, present_key(spec, Transactions(options.root, options.state_dir)), spec, terms)
    else:
        made = generate(present, spec, terms)
    return Brought(made.certificate, made.key)


def _patient(context: click.Context, config: Config) -> Handover:
    """What waits for another process that is writing on this node."""
    from certmond.handover import Handover
    from certmond.wait import Progress

    options = globals_of(context)
    handover = Handover(options.state_dir, Progress(), enforcer_for(options, config).restarting.terms)
    context.call_on_close(handover.close)
    return handover


def _keep(options: Globals, family: str, anchor: Anchor, key: PrivateKey | None, now: datetime, *, force: bool) -> None:
    """Keep it, if nothing is in the way. Raises BusyError while somebody else is writing."""
    from certmond.host.audit import Audit, caller
    from certmond.host.journal import Event, Journal
    from certmond.host.staged import Part, Staging
    from certmond.host.transaction import Transactions
    from certmond.pki.certificate import Certificate

    staging = Staging(options.state_dir)
    audit = Audit(Journal("command" if options.root == "/" else "none"), options.state_dir, caller())
    where = str(staging.directory / f"{Part.NEW}.crt")
    fields = {"step": "stage", "target": family, "path": where}
    if isinstance(anchor, Certificate):
        fields["new_serial"] = f"{anchor.serial:x}"
    with Transactions(options.root, options.state_dir).lock():
        recorded, staged = staging.recorded(), staging.read(Part.NEW)
        if recorded and not _is_awaited(options, family, anchor):
            fact = f"a rotation is under way ({recorded.family or 'unknown'}, {recorded.phase or 'unknown phase'})"
            needs = "whose end destroys" if recorded.phase == "done" else "which needs"
            remedy = f"end it with `certmond root-ca rotate --family {recorded.family or family}`"
            _refuse([f"{fact}, {needs} what is staged; {remedy}"])
        if staged and not staged.fault and not force:
            already = staged.anchor == anchor and staged.family == family
            if already and (staged.key is None) == (key is None):
                return
            fact = f"{where} is staged already for {staged.family}"
            _refuse([f"{fact}; give --force to replace it, which destroys its key"])
        audit.note(Event.STEP_BEGUN, now, f"{where}: {anchor.called} is staged", fields=fields)
        try:
            staging.put(Part.NEW, family, anchor, key)
        except CertmondError as error:
            audit.conclude(Event.STEP_FAILED, now, str(error), "error", fields={**fields, "result": "failed"})
            raise
        audit.note(Event.STEP_DONE, now, f"{where} is staged", fields={**fields, "result": "done"})


def _is_awaited(options: Globals, family: str, anchor: Anchor) -> bool:
    """It is the very one that the rotation under way is for, which a node may have heard of before it was staged."""
    from certmond.errors import MalformedError
    from certmond.host.rotation_record import RotationRecord

    try:
        rotation = RotationRecord(options.state_dir).load()
    except MalformedError:
        return False
    return rotation is not None and (rotation.family, rotation.new) == (family, anchor)


def _told(certificate: Certificate, verdict: Verdict, family: Family) -> str:
    from certmond.expose.root_document import pin
    from certmond.pki.reason import printable

    until = f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
    name = f"staged for {family.spec.name}: {certificate.subject}, {certificate.key}, {until}, mode {verdict.mode}"
    return printable(name) + f"\nserial {certificate.serial}\nsha256 {certificate.sha256}\npin {pin(certificate)}"


def _refuse(problems: Iterable[str]) -> NoReturn:
    """Tell them all, and end."""
    click.echo("\n".join(f"refused: {problem}" for problem in problems), err=True)
    sys.exit(REFUSED)
