"""The commands `root-ca show`, `verify` and `export`, and functions for the other `root-ca` commands.

This module defines the options, output and exit codes. `pki.rotation.ca_validation` defines the requirements for a new
CA.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from certmond.cli.help import ExplainedCommands
from certmond.cli.messages import REFUSED
from certmond.cli.options import (
    Globals,
    display,
    global_options,
    globals_of,
    output_file_option,
    output_option,
    refuse_unread_files,
)
from certmond.errors import CertmondError

if TYPE_CHECKING:
    from certmond.config.model import Config
    from certmond.pki.assessment.assess import Assessment
    from certmond.pki.rotation.ca_family import Family
    from certmond.pki.rotation.ca_validation import Verdict
    from certmond.pki.rotation.service_account_key_validation import TokenKeys
    from certmond.pki.x509.certificate import Anchor
    from certmond.renewal.operator_ca_reader import CAFiles

TOKEN_KEYS = "sa"  # noqa: S105 - a name
"""Name of the entry for the key pair of service-account tokens, which has no certificate."""
FAMILIES = ("ca", "etcd-ca", "front-proxy-ca", TOKEN_KEYS)
"""Names of the entries whose CA or key pair certmond can rotate."""
WARNED = 1

FILE = click.Path(path_type=Path)
family_option = click.option(
    "--family", type=click.Choice(FAMILIES), default="ca", show_default=True,
    help="Root CA of the node, or sa for the keys that sign and verify service-account tokens",
)  # fmt: skip


@click.group(
    "root-ca",
    cls=ExplainedCommands,
    deferred={
        "abort": "certmond.cli.root_ca.rotate:abort",
        "rotate": "certmond.cli.root_ca.rotate:rotate",
        "stage": "certmond.cli.root_ca.stage:stage",
    },
)
@global_options
def root_ca() -> None:
    """Inspect, stage and rotate the Root CAs of this node."""


@root_ca.command()
@global_options
@family_option
@output_option
@click.pass_context
def show(context: click.Context, family: str, output: str) -> None:
    """Print the current CA with its pin, the certificates on this node that chain to the CA, the staged CA, and the
    rotation phase. With --family sa, print the public keys that verify tokens. On k3s and RKE2, print the CAs of the
    node, the staged CAs, and the next step.
    """
    from dataclasses import asdict

    from certmond.expose.documents.root_ca import StagedFacts, show_document, show_table
    from certmond.rotation.staged_ca import Part, Staging

    options = globals_of(context)
    config = options.load()
    if config.ca_replacement.command:
        from certmond.cli.distribution_ca.command_options import refuse_options
        from certmond.cli.distribution_ca.show import distribution_document, distribution_table

        refuse_options(context, config)
        display(distribution_document(options, config), output, distribution_table)
        return
    found, now = (node_token_keys if family == TOKEN_KEYS else node_family)(options, config, family)
    staging = Staging(options.state_dir)
    staged = [
        StagedFacts(each.part.value, each.family, each.anchor, each.key is not None, each.fault)
        for each in map(staging.read, Part)
        if each
    ]
    recorded = staging.recorded()
    rotation = None
    if recorded:
        rotation = asdict(recorded) | {"released": _released(options)}
    display(show_document(found, staged, rotation, now), output, show_table)


@root_ca.command()
@global_options
@family_option
@output_option
@click.argument("certificate", type=FILE, metavar="CERT")
@click.argument("key", type=FILE, metavar="[KEY]", required=False)
@click.pass_context
def verify(context: click.Context, family: str, output: str, certificate: Path, key: Path | None) -> None:
    """Check whether CERT can be the next Root CA of this node. Exit: 0 yes; 1 yes with warnings; 2 no; 3 unknown."""
    from certmond.expose.documents.root_ca import verify_document, verify_table

    require_certificate(family, "verify", "`certmond root-ca stage KEY --family sa` checks and stages a key")
    options = globals_of(context)
    config = options.load()
    found, now = node_family(options, config, family)
    files = read_ca_files(certificate, key)
    verdict = verdict_on(files, found, config, now, where=str(certificate), key_where=str(key) if key else None)
    display(verify_document(str(certificate), found, files.certificate, verdict, now), output, verify_table)
    sys.exit(REFUSED if verdict.problems else WARNED if verdict.warnings else 0)


@root_ca.command()
@global_options
@family_option
@output_file_option
@click.pass_context
def export(context: click.Context, family: str, output_file: Path | None) -> None:
    """Print the Root CA certificates of this node as PEM, for clients. This command never prints a private key."""
    from certmond.cli.output_file import replace_file

    require_certificate(family, "export", "The API server publishes the public keys at /openid/v1/jwks")
    options = globals_of(context)
    found, _ = node_family(options, options.load(), family)
    content = _trust_bundle(options.root, found.spec.path)
    if output_file is None:
        click.echo(content.decode("ascii"), nl=False)
    else:
        replace_file(output_file, content)


def _trust_bundle(root: str, path: str) -> bytes:
    """Return the certificates in the file `path`, without duplicates, in the order of the file.

    Raises MalformedError if the file is missing, or if a part of the file is malformed, because a trust bundle must be
    complete. Raises WriteError if certmond cannot read the file.
    """
    from certmond.errors import MalformedError
    from certmond.pki.x509.certificate import to_pem
    from certmond.pki.x509.certificate_file_parser import decode
    from certmond.transaction.node_file_reader import NodeFiles

    document = decode(NodeFiles(root).read(path) or b"", path)
    if document.faults:
        raise MalformedError(
            "\n".join(f"{fault.detail}; repair the file, then run the command again" for fault in document.faults)
        )
    return b"".join(map(to_pem, dict.fromkeys(document.certificates)))


def _released(options: Globals) -> float | None:
    """Return the place (`worker_batches.place`) below which workers may act.

    Return None if the record is unreadable, if no rotation is in progress, or if the phase has no batches.
    """
    from certmond.errors import MalformedError, RotationError
    from certmond.pki.rotation.worker_batches import in_batches
    from certmond.state.rotation_record import RotationRecord

    try:
        rotation = RotationRecord(options.state_dir).load()
    except (MalformedError, RotationError):
        return None  # the document reports the problem elsewhere
    return rotation.released if rotation and in_batches(rotation) else None


def node_family(options: Globals, config: Config, name: str) -> tuple[Family, datetime]:
    """Return the CA `name` of this node with its leaves, and the time of the assessment.

    Raises CertmondError if the node has no such CA, or if the certificate of the CA is damaged.
    """
    from certmond.pki.assessment.missing_ca_certificate import missing_ca_of
    from certmond.pki.rotation.ca_family import family_of

    assessment = _assessed(options, config)
    found = family_of(assessment, name)
    if found is None:
        refuse_unread_files(assessment, options.root)
        if missing := missing_ca_of(name, (each.seen for each in assessment.statuses)):
            raise CertmondError(missing)
        raise CertmondError(
            f"there is no certificate of {name} below {options.root}; check --profile and --config, or create the "
            "PKI: certmond init"
        )
    return found, assessment.taken_at


def require_own_rotation(config: Config, name: str) -> None:
    """Raise CertmondError if certmond does not rotate the trust anchor `name`."""
    for spec in config.certificates:
        if spec.name == name and spec.renewed_by:
            raise CertmondError(f"certmond does not rotate {name}, which is renewed by {spec.renewed_by}")
    authorities = [spec for spec in config.certificates if spec.authority]
    renewers = [spec.renewed_by for spec in authorities if spec.renewed_by]
    if name not in {spec.name for spec in config.certificates} and authorities and len(renewers) == len(authorities):
        by = " or ".join(dict.fromkeys(renewers))
        raise CertmondError(f"certmond does not rotate {name}, because each CA in the configuration is renewed by {by}")


def node_token_keys(options: Globals, config: Config, name: str) -> tuple[TokenKeys, datetime]:
    """Return the keys that sign and verify service-account tokens on this node, and the time of the assessment.

    Raises CertmondError if the node has no public key for these tokens.
    """
    from certmond.pki.rotation.service_account_key_validation import keys_of

    assessment = _assessed(options, config)
    if (found := keys_of(assessment, name)) is None:
        raise CertmondError(
            f"there is no public key of {name} below {options.root}; check --profile and --config, or create the "
            "PKI: certmond init"
        )
    return found, assessment.taken_at


def _assessed(options: Globals, config: Config) -> Assessment:
    from certmond.files.catalog_observer import Store
    from certmond.pki.assessment.assess import assess

    inventory = Store(config.certificates, options.root, config.given_facts).observe()
    return assess(inventory, datetime.now(UTC), renew_before=config.renew_before)


def node_anchors(options: Globals, config: Config) -> dict[str, set[Anchor]]:
    """Return the trust anchors in the files of this node, by the name of their entry."""
    found: dict[str, set[Anchor]] = {}
    for status in _assessed(options, config).statuses:
        if status.seen.spec.is_trust:
            found.setdefault(status.seen.spec.name, set()).update(status.seen.certificates)
    return found


def require_certificate(family: str, what: str, remedy: str) -> None:
    """Raise UsageError if `family` is the key pair of tokens, which has no certificate."""
    if family == TOKEN_KEYS:
        raise click.UsageError(
            f"{what} applies only to Root CAs, but {family} is a key pair without a certificate. {remedy}."
        )


def read_ca_files(certificate: Path, key: Path | None) -> CAFiles:
    """Return the CA in the files `certificate` and `key`. Raises CertmondError if a file is unreadable."""
    from certmond.renewal.operator_ca_reader import read_ca_files

    return readable(read_ca_files(str(certificate), str(key) if key else None))


def readable(found: CAFiles) -> CAFiles:
    """Return `found`. Raises CertmondError if a file was unreadable."""
    if found.unread:
        raise CertmondError("\n".join(found.unread))
    return found


def verdict_on(
    files: CAFiles, family: Family, config: Config, now: datetime, *, where: str, key_where: str | None
) -> Verdict:
    """Return the verdict on the CA in `files` as the next CA of `family`.

    If `files` contains no CA certificate, the verdict contains only the problems and warnings of `files`. `where` and
    `key_where` name the CA and its key in messages.
    """
    from certmond.pki.rotation.ca_validation import Verdict, judge
    from certmond.pki.x509.public_key import describe_key

    if files.certificate is None:
        return Verdict("overlap", files.problems, files.warnings)
    verdict = judge(
        files.certificate,
        describe_key(files.key.public_key()) if files.key else None,
        family.present,
        family.leaves_end(now, config.validity),
        now,
        where=where,
        key_where=key_where if files.key else None,
        leaves=family.leaves,
    )
    return Verdict(verdict.mode, (*files.problems, *verdict.problems), (*files.warnings, *verdict.warnings))
