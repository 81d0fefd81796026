"""The command `init`, which creates the PKI of a control-plane node.

This module defines the options, output and exit codes. `pki.planning.bootstrap` plans the files, and
`renewal.bootstrap` creates the files.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from certmond.cli.messages import print_message
from certmond.cli.options import STATE_DIR, Globals, display, global_options, globals_of, output_option
from certmond.errors import CertmondError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from certmond.config.model import Config
    from certmond.pki.catalog.entries import CertificateSpec
    from certmond.pki.planning.bootstrap import Bootstrap, Ground
    from certmond.pki.planning.bootstrap_steps import InitStep
    from certmond.renewal.bootstrap import Bootstrapper
    from certmond.renewal.operator_ca_reader import RootCAKeyPair

PATIENCE = 30.0
"""Maximum number of seconds that the command waits while another certmond process writes on this node."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@global_options
@click.option(
    "--kubeadm-config",
    type=_FILE,
    help="Read the kubeadm configuration of this node from FILE (API version v1beta3 or v1beta4)",
)
@click.option("--root-ca-cert", type=_FILE, help="Use the Root CA in FILE instead of a new Root CA")
@click.option("--root-ca-key", type=_FILE, help="Private key of the Root CA in --root-ca-cert")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing")
@output_option
@click.pass_context
def init(
    context: click.Context,
    *,
    kubeadm_config: Path | None,
    root_ca_cert: Path | None,
    root_ca_key: Path | None,
    dry_run: bool,
    output: str,
) -> None:
    """Create the complete PKI of a control-plane node. Check existing files, and never overwrite them."""
    from certmond.cli.fitted_tables import plan_table
    from certmond.config.renewal_policy import policy_of
    from certmond.pki.planning.bootstrap import bootstrap
    from certmond.pki.planning.bootstrap_steps import relocated

    if (root_ca_cert is None) != (root_ca_key is None):
        raise click.UsageError("Give --root-ca-cert and --root-ca-key together.")
    options = globals_of(context)
    config, joins = _config(options, kubeadm_config, acting=not dry_run)
    facts = _facts(options, config)
    now = datetime.now(UTC)
    given = _given_ca(root_ca_cert, root_ca_key, now)
    specs = relocated(config.certificates, config.init)
    maker = _maker(options, facts["node_name"], given)
    if not dry_run:
        maker.recover(PATIENCE)
    elif maker.unfinished():
        raise CertmondError("an earlier run of `certmond init` is incomplete; to continue it, run: certmond init")
    ground = replace(
        _existing_state(options, config, specs, facts, now), given=given.certificate if given else None, joins=joins
    )
    result = bootstrap(specs, ground, config.init, policy_of(config))
    if problems := result.problems or tuple(maker.objections(result.steps)):
        raise CertmondError("\n".join(problems))
    if not result.steps and not ground.present.statuses:
        raise CertmondError(
            f"`certmond init` creates no file of the profile {config.profile!r}, and no such file exists below "
            f"{options.root}; choose another profile with --profile"
        )
    if dry_run:
        display(_document(result, ground), output, plan_table, options.root)
        return
    if result.steps and options.given_state_dir is None:
        maker.make_directory(str(STATE_DIR.parent))
    _execute(maker, result, quiet=output in {"json", "yaml"})
    if output in {"json", "yaml"}:
        display(_document(result, ground), output, plan_table, options.root)


def _config(options: Globals, kubeadm_config: Path | None, *, acting: bool) -> tuple[Config, bool]:
    """Return the configuration with the values of `kubeadm_config`, and whether this node joins a cluster.

    Raises CertmondError if the configuration or `kubeadm_config` is unreadable or invalid. With `acting`, also raises
    CertmondError if the mode of `kubeadm_config` permits the group or other users to write this file.
    """
    from certmond.formats.kubeadm_config import parse_kubeadm_config
    from certmond.signers.local_ca import read_file

    config = options.load(acting=acting)
    if kubeadm_config is None:
        return config, False
    try:
        kubeadm = parse_kubeadm_config(read_file(str(kubeadm_config)), str(kubeadm_config))
        mode = kubeadm_config.stat().st_mode & 0o777
    except OSError as error:
        raise CertmondError(
            f"certmond cannot read {kubeadm_config} ({error.strerror}); correct the path or the permissions"
        ) from error
    if acting and mode & 0o022:  # any owner is accepted: the operator names this file
        fact = f"determines the names in the certificates, and other users can write this file (mode {mode:04o})"
        raise CertmondError(f"{kubeadm_config} {fact}; run: chmod go-w {quote(str(kubeadm_config))}")
    given = {"node_name": kubeadm.node_name, "validity": kubeadm.validity, "key_algorithm": kubeadm.key_algorithm}
    update: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    update["init"] = replace(config.init, **{name: getattr(kubeadm.init, name) for name in kubeadm.given})
    return replace(config, **update), kubeadm.joins


def _facts(options: Globals, config: Config) -> dict[str, str]:
    """Return the facts of the new cluster and of this node. Raises CertmondError if the name or the address of this
    node is unknown.
    """
    from certmond.pki.planning.bootstrap_steps import facts_of, is_usable_address

    given = config.init.advertise_address
    address = given if given and is_usable_address(given) else _address()
    return facts_of(config.init, config.node_name or _host_name(options.root), address)


def _given_ca(certificate: Path | None, key: Path | None, now: datetime) -> RootCAKeyPair | None:
    from certmond.renewal.operator_ca_reader import read_authority

    return read_authority(str(certificate), str(key), now) if certificate and key else None


def _maker(options: Globals, node_name: str, given: RootCAKeyPair | None) -> Bootstrapper:
    from certmond.notify.audit import Audit, caller
    from certmond.notify.event_log import Journal
    from certmond.renewal.bootstrap import Bootstrapper

    return Bootstrapper(
        root=options.root,
        state_dir=options.state_dir,
        audit=Audit(Journal("command" if options.root == "/" else "none"), options.state_dir, caller()),
        clock=lambda: datetime.now(UTC),
        given=given.key if given else None,
        node_name=node_name,
    )


def _existing_state(
    options: Globals, config: Config, specs: Sequence[CertificateSpec], facts: dict[str, str], now: datetime
) -> Ground:
    """Return the assessment of the node, and the paths of the catalogue at which a file exists."""
    from certmond.files.catalog_observer import Store
    from certmond.pki.assessment.assess import assess
    from certmond.pki.planning.bootstrap import Ground
    from certmond.transaction.node_file_reader import NodeFiles

    inventory = Store(specs, options.root, facts).observe()
    present = assess(replace(inventory, facts=facts), now, renew_before=config.renew_before)
    files = NodeFiles(options.root)
    wanted = {path for spec in specs for path in (spec.path, spec.key, spec.kubeconfig) if path}
    return Ground(present, frozenset(path for path in wanted if files.exists(path)))


def _host_name(root: str) -> str:
    """Return the name in /etc/hostname below `root`, or else the name of the running host, in lower case as in kubeadm.

    Raises CertmondError if this name is not a valid node name.
    """
    import socket

    from certmond.formats.kubeadm_config import is_node_name
    from certmond.transaction.node_file_reader import NodeFiles

    written = (NodeFiles(root).read("/etc/hostname") or b"").decode("ascii", "replace").splitlines()
    lines = (line.strip() for line in written)  # hostname(5): comments, and one name
    name = next((line for line in lines if line and not line.startswith("#")), "") or socket.gethostname()
    if not is_node_name(name.lower()):
        raise CertmondError(
            f"{name!r}, the name of this host, is not a valid node name; set `node_name` in the configuration"
        )
    return name.lower()


def _address() -> str:
    """Return the address of the interface with the default route, preferably IPv4. This function sends no packet.

    Raises CertmondError if the host has no default route.
    """
    import socket

    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    raise CertmondError(
        "this host has no default route, so certmond cannot determine the advertise address; set "
        "`init: {advertise_address: …}` in the configuration, or give a file that contains `advertiseAddress` with "
        "--kubeadm-config"
    )


def _execute(maker: Bootstrapper, result: Bootstrap, *, quiet: bool) -> None:
    from certmond.renewal.bootstrap import path_of

    total, number = len(result.steps), 0

    def tell(step: InitStep) -> None:
        nonlocal number
        number += 1
        if not quiet:
            print_message(f"[{number}/{total}] {path_of(step)}: {step.detail}")

    if result.steps:
        maker.execute(result.steps, PATIENCE, tell)
    if not quiet:
        existing = f"; unchanged: {', '.join(result.kept)}" if result.kept else ""
        click.echo(f"{total} created{existing}" if total else "nothing to do: all files exist")


def _document(result: Bootstrap, ground: Ground) -> dict[str, Any]:
    """Return the steps of `init` in the format of `certmond plan`."""
    from certmond.pki.planning.steps import Cause
    from certmond.renewal.bootstrap import path_of

    steps = [
        {
            "step": "init", "target": step.spec.name, "path": path_of(step), "reason": Cause.MISSING.value,
            "detail": step.detail, "restarts": [],
        }
        for step in result.steps
    ]  # fmt: skip
    taken_at = ground.present.taken_at.isoformat().replace("+00:00", "Z")
    return {
        "schema": 1,
        "taken_at": taken_at,
        "steps": steps,
        "held": [],
        "kept": list(result.kept),
        "changes_at": None,
    }
