"""The commands that read Root CAs: `root-ca show`, `verify` and `export`, and the assessment of a CA for this node.

They include the keys of service-account tokens, which rotate in the same way.

Owns the group, its options, output and exit codes. `pki.rotation.ca_validation` has the requirements for a CA. Nothing
here writes on the node, and no key is ever printed.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from certmond.cli.options import Globals, display, global_options, globals_of, output_option
from certmond.errors import CertmondError

if TYPE_CHECKING:
    from certmond.config.model import Config
    from certmond.pki.assessment.assess import Assessment
    from certmond.pki.rotation.ca_hierarchy import Family
    from certmond.pki.rotation.ca_validation import Verdict
    from certmond.pki.rotation.service_account_keys import TokenKeys
    from certmond.renewal.bootstrap_ca import CAFiles

TOKEN_KEYS = "sa"  # noqa: S105 - a name
"""The entry of the profile for the keys of service-account tokens, which has no certificate."""
FAMILIES = ("ca", "etcd-ca", "front-proxy-ca", TOKEN_KEYS)
"""The entries of the profile on which all nodes and clients must agree."""
WARNED, REFUSED = 1, 2

FILE = click.Path(path_type=Path)
family_option = click.option(
    "--family", type=click.Choice(FAMILIES), default="ca", show_default=True,
    help="Which of the node's Root CAs, or sa: the keys of service-account tokens",
)  # fmt: skip


@click.group("root-ca")
@global_options
def root_ca() -> None:
    """The Root CAs that this node trusts, and the one that is to follow."""


@root_ca.command()
@global_options
@family_option
@output_option
@click.pass_context
def show(context: click.Context, family: str, output: str) -> None:
    """The present CA with its pin and what it signed here, what is staged, and the phase of a rotation. With --family
    sa, the public keys by which tokens are accepted.
    """
    from dataclasses import asdict

    from certmond.expose.documents.root_ca import StagedFacts, show_document, show_table
    from certmond.rotation.staged_ca import Part, Staging

    options = globals_of(context)
    config = options.load()
    found, now = (keys_here if family == TOKEN_KEYS else family_here)(options, config, family)
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
    """Judge CERT as the next Root CA of this node. Exit: 0 it is fit, 1 with warnings, 2 not, 3 could not tell."""
    from certmond.expose.documents.root_ca import verify_document, verify_table

    no_certificate(family, "verify", "`certmond root-ca stage KEY --family sa` judges a key")
    options = globals_of(context)
    config = options.load()
    found, now = family_here(options, config, family)
    brought = read_pair(certificate, key)
    verdict = judged(brought, found, config, now, where=str(certificate), key_where=str(key) if key else None)
    display(verify_document(str(certificate), found, brought.certificate, verdict, now), output, verify_table)
    sys.exit(REFUSED if verdict.problems else WARNED if verdict.warnings else 0)


@root_ca.command()
@global_options
@family_option
@click.option("-o", "--output", type=FILE, help="Replace this FILE of this host in place of printing")
@click.pass_context
def export(context: click.Context, family: str, output: Path | None) -> None:
    """The certificates that this node trusts, as PEM: what others need to trust it. Never a key."""
    from certmond.cli.export import trust_bundle
    from certmond.cli.output_file import replace_file

    no_certificate(family, "export", "sa.pub is public, and the API serves it at /openid/v1/jwks")
    options = globals_of(context)
    found, _ = family_here(options, options.load(), family)
    content = trust_bundle(options.root, found.spec.path)
    if output is None:
        click.echo(content.decode("ascii"), nl=False)
    else:
        replace_file(output, content)


def _released(options: Globals) -> float | None:
    """Return the place up to which workers may act in the phase; None without batches."""
    from certmond.errors import MalformedError, RotationError
    from certmond.pki.rotation.worker_batches import in_batches
    from certmond.state.rotation_record import RotationRecord

    try:
        rotation = RotationRecord(options.state_dir).load()
    except (MalformedError, RotationError):
        return None  # the document reports the problem elsewhere
    return rotation.released if rotation and in_batches(rotation) else None


def family_here(options: Globals, config: Config, name: str) -> tuple[Family, datetime]:
    """Return the family as it is on this node now. Raises CertmondError where the node has none."""
    from certmond.pki.rotation.ca_hierarchy import family_of

    assessment = _assessed(options, config)
    found = family_of(assessment, name)
    if found is None:
        raise CertmondError(
            f"there is no certificate of {name} below {options.root}, which another could follow; "
            "`certmond init` makes the first one, --profile and --config say where it is"
        )
    return found, assessment.taken_at


def ours_to_rotate(config: Config, name: str) -> None:
    """Raise CertmondError where another program renews the trust anchor."""
    for spec in config.certificates:
        if spec.name == name and spec.renewed_by:
            raise CertmondError(f"{name} is not rotated by certmond: it is renewed by {spec.renewed_by}")


def keys_here(options: Globals, config: Config, name: str) -> tuple[TokenKeys, datetime]:
    """Return the keys of service-account tokens on this node. Raises CertmondError where it has none."""
    from certmond.pki.rotation.service_account_keys import keys_of

    assessment = _assessed(options, config)
    if (found := keys_of(assessment, name)) is None:
        raise CertmondError(
            f"there is no public key of {name} below {options.root}, which another could follow; `certmond init` makes "
            "the first one, --profile and --config say where it is"
        )
    return found, assessment.taken_at


def _assessed(options: Globals, config: Config) -> Assessment:
    from certmond.files.catalog_observer import Store
    from certmond.pki.assessment.assess import assess

    inventory = Store(config.certificates, options.root, config.given_facts).observe()
    return assess(inventory, datetime.now(UTC), renew_before=config.renew_before)


def no_certificate(family: str, what: str, remedy: str) -> None:
    """Refuse a request that needs a certificate."""
    if family == TOKEN_KEYS:
        raise click.UsageError(f"{what} is for Root CAs: {family} is a pair of keys without a certificate. {remedy}.")


def read_pair(certificate: Path, key: Path | None) -> CAFiles:
    """Return the content of the operator's files. Raises CertmondError where one cannot be read."""
    from certmond.renewal.bootstrap_ca import read_ca_files

    return readable(read_ca_files(str(certificate), str(key) if key else None))


def readable(found: CAFiles) -> CAFiles:
    """Return `found`. Raises CertmondError where one of its files could not be read."""
    if found.unread:
        raise CertmondError("\n".join(found.unread))
    return found


def judged(
    brought: CAFiles, family: Family, config: Config, now: datetime, *, where: str, key_where: str | None
) -> Verdict:
    """Return the verdict on the CA, including the problems of its files."""
    from certmond.pki.rotation.ca_validation import Verdict, judge
    from certmond.pki.x509.certificate import describe_key

    if brought.certificate is None:
        return Verdict("overlap", brought.problems, brought.warnings)
    verdict = judge(
        brought.certificate,
        describe_key(brought.key.public_key()) if brought.key else None,
        family.present,
        family.leaves_end(now, config.validity),
        now,
        where=where,
        key_where=key_where if brought.key else None,
        leaves=family.leaves,
    )
    return Verdict(verdict.mode, (*brought.problems, *verdict.problems), (*brought.warnings, *verdict.warnings))
