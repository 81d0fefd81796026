"""The verbs that look at Root CAs: `root-ca show`, `verify` and `export`; and how a CA is judged against this node.

The keys of service-account tokens are shown beside them, as they are followed by others in the same way.

Owns the group, their options, what they print and their exit codes. What a CA has to be is `pki.candidate`'s. Nothing
here writes on the node, and no key is ever printed.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from certmond.errors import CertmondError
from certmond.options import Globals, display, global_options, globals_of, output_option

if TYPE_CHECKING:
    from certmond.config import Config
    from certmond.host.given_authority import Brought
    from certmond.pki.assess import Assessment
    from certmond.pki.candidate import Verdict
    from certmond.pki.certificate import Anchor
    from certmond.pki.family import Family
    from certmond.pki.token_keys import TokenKeys

TOKEN_KEYS = "sa"  # noqa: S105 - a name
"""The entry of the profile that has the keys of service-account tokens, and no certificate."""
FAMILIES = ("ca", "etcd-ca", "front-proxy-ca", TOKEN_KEYS)
"""The entries of the profile that others have to agree on, by their names."""
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

    from certmond.expose.root_document import StagedFacts, show_document, show_table
    from certmond.host.staged import Part, Staging

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
    from certmond.expose.root_document import verify_document, verify_table

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
    from certmond.host.export import trust_bundle
    from certmond.host.output import replace_file

    no_certificate(family, "export", "sa.pub is public, and the API serves it at /openid/v1/jwks")
    options = globals_of(context)
    found, _ = family_here(options, options.load(), family)
    content = trust_bundle(options.root, found.spec.path)
    if output is None:
        click.echo(content.decode("ascii"), nl=False)
    else:
        replace_file(output, content)


def _released(options: Globals) -> float | None:
    """Up to which place workers may act in the phase; None where they do not go in batches."""
    from certmond.errors import MalformedError, RotationError
    from certmond.host.rotation_record import RotationRecord
    from certmond.pki.rotation_batches import in_batches

    try:
        rotation = RotationRecord(options.state_dir).load()
    except (MalformedError, RotationError):
        return None  # what is wrong with it is told beside this
    return rotation.released if rotation and in_batches(rotation) else None


def family_here(options: Globals, config: Config, name: str) -> tuple[Family, datetime]:
    """The family as this node has it now. Raises CertmondError where it has none."""
    from certmond.pki.family import family_of

    assessment = _assessed(options, config)
    found = family_of(assessment, name)
    if found is None:
        raise CertmondError(
            f"there is no certificate of {name} below {options.root}, which another could follow; "
            "`certmond init` makes the first one, --profile and --config say where it is"
        )
    return found, assessment.taken_at


def ours_to_rotate(config: Config, name: str) -> None:
    """Raises CertmondError where somebody else renews the trust anchor."""
    for spec in config.certificates:
        if spec.name == name and spec.renewed_by:
            raise CertmondError(f"{name} is not rotated by certmond: it is renewed by {spec.renewed_by}")


def keys_here(options: Globals, config: Config, name: str) -> tuple[TokenKeys, datetime]:
    """The keys of service-account tokens as this node has them now. Raises CertmondError where it has none."""
    from certmond.pki.token_keys import keys_of

    assessment = _assessed(options, config)
    if (found := keys_of(assessment, name)) is None:
        raise CertmondError(
            f"there is no public key of {name} below {options.root}, which another could follow; `certmond init` makes "
            "the first one, --profile and --config say where it is"
        )
    return found, assessment.taken_at


def _assessed(options: Globals, config: Config) -> Assessment:
    from certmond.host.store import Store
    from certmond.pki.assess import assess

    inventory = Store(config.certificates, options.root, config.given_facts).observe()
    return assess(inventory, datetime.now(UTC), renew_before=config.renew_before)


def anchors_here(options: Globals, config: Config) -> dict[str, set[Anchor]]:
    """Return the certificates of each trust anchor as this node has them now, by its name."""
    found: dict[str, set[Anchor]] = {}
    for status in _assessed(options, config).statuses:
        if status.seen.spec.is_trust:
            found.setdefault(status.seen.spec.name, set()).update(status.seen.certificates)
    return found


def no_certificate(family: str, what: str, remedy: str) -> None:
    """Refuse what can be asked of a certificate only."""
    if family == TOKEN_KEYS:
        raise click.UsageError(f"{what} is for Root CAs: {family} is a pair of keys without a certificate. {remedy}.")


def read_pair(certificate: Path, key: Path | None) -> Brought:
    """What the operator's files hold. Raises CertmondError where one cannot be read."""
    from certmond.host.given_authority import read_brought

    return readable(read_brought(str(certificate), str(key) if key else None))


def readable(found: Brought) -> Brought:
    """The same. Raises CertmondError where one of the files cannot be read."""
    if found.unread:
        raise CertmondError("\n".join(found.unread))
    return found


def judged(
    brought: Brought, family: Family, config: Config, now: datetime, *, where: str, key_where: str | None
) -> Verdict:
    """Everything that speaks against it, what is wrong with the files included."""
    from certmond.pki.candidate import Verdict, judge
    from certmond.pki.certificate import describe_key

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
