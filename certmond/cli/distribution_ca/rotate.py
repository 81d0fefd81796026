"""The command `root-ca rotate` for the CAs that a distribution keeps in its datastore.

On the server with the staged CAs, the command stores the CAs, restarts the service and verifies the result. On another
node, the command compares the CA of the node with the CA that a server publishes, restarts the service if they differ,
and verifies the result. The state comes from the files of the node and from the servers, so that the command can
continue after an interruption.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from certmond.cli.distribution_ca.stage import delete_staged, refuse_changed, remove
from certmond.cli.messages import print_message, refuse
from certmond.cli.options import display
from certmond.cli.plan import FAILED
from certmond.cli.service_restarts import restart_services
from certmond.cli.step_handover import Handover
from certmond.cli.wait_progress import Progress
from certmond.discovery.join_settings import JoinSettings, join_settings, known_servers
from certmond.errors import CertmondError
from certmond.immutable_class import immutable
from certmond.notify.event_log import Event
from certmond.pki.rotation.distribution_ca.join_token import hash_of_bundle
from certmond.pki.rotation.distribution_ca.new_ca_installation import is_older, old_parts
from certmond.pki.x509.certificate import Certificate, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.rotation.distribution_ca_files import PUBLISHED, DistributionCAFiles
from certmond.services.published_ca_reader import read_published_ca
from certmond.subprocesses import first_line, run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from certmond.cli.options import Globals
    from certmond.config.model import Config
    from certmond.daemon.enforcer import Enforcer
    from certmond.pki.rotation.distribution_ca.new_ca_validation import NewCA

_POLL = 5.0
"""Seconds between two checks of served certificates, whose change causes no file event."""
_AGAIN = "certmond root-ca rotate"

Authorities = Mapping[str, tuple[Certificate, ...]]


@immutable
class _Node:
    """The CA files of this node, and the objects that restart and observe its service."""

    files: DistributionCAFiles
    enforcer: Enforcer
    handover: Handover
    progress: Progress


@immutable
class _Change:
    """The necessary steps on this node.

    `staged` contains the CAs that the command must store, or () on another node. `lacking` returns the CA files that do
    not contain the new CAs. `done` is a sentence about the result.
    """

    staged: tuple[NewCA, ...]
    lacking: Callable[[Authorities], list[str]]
    done: str


def rotate_distribution_cas(
    context: click.Context, options: Globals, config: Config, enforcer: Enforcer, *, dry_run: bool, server: str | None,
    output: str,
) -> None:  # fmt: skip
    """Execute the steps on this node, or print the steps. Exit with 2 if a step is refused or fails."""
    files, progress = DistributionCAFiles(config, options.root, options.state_dir), Progress()
    node = _Node(files, enforcer, Handover(options.state_dir, progress, enforcer.restarting.terms), progress)
    if not dry_run:
        context.with_resource(node.handover)
        node.handover.retry_while_busy(enforcer.executor.recover)
    staged = files.staged()
    change = _of_staged(files, staged) if staged else _of_published(files, options, server)
    service = _service(files, config, enforcer)
    lacking = change.lacking(files.authorities())
    if dry_run:
        display(_plan(files, change, service, lacking), output, _plan_table)
        return
    if lacking and staged and not files.is_stored(staged):
        node.handover.retry_while_busy(partial(_receive, files, staged, enforcer))
        _store(files, staged, enforcer)
    if lacking or service in enforcer.restarting.restarted_now():
        _restart(node, service, by_hand=bool(lacking))
    _verify(node, change, config.restart.ready_within)
    print_message(change.done)
    if staged:
        remove(node.handover.retry_while_busy(partial(delete_staged, enforcer, files, datetime.now(UTC))), files)
        for line in _further_steps(files):
            print_message(line)


def _of_staged(files: DistributionCAFiles, staged: tuple[NewCA, ...]) -> _Change:
    """Return the steps on the server with the staged CAs. Exit with 2 if the staged CAs have problems."""
    if unsafe := (*files.links(), *files.replaceable()):
        refuse(f"{each}, then run: {_AGAIN}" for each in unsafe)
    if not all(each.is_installed for each in staged) and (problems := files.problems(staged, datetime.now(UTC))):
        refuse([*problems, "to replace the staged CAs, run: certmond root-ca stage --force"])
    new = {each.name: each for each in staged}

    def lacking(authorities: Authorities) -> list[str]:
        old = [each.present_path for name, each in new.items() if authorities.get(name) != each.new]
        return [*old, *files.outdated_copies(authorities)]

    return _Change(staged, lacking, f"this server uses the new CAs: {', '.join(new)}")


def _of_published(files: DistributionCAFiles, options: Globals, server: str | None) -> _Change:
    """Return the steps on a node without staged CAs. Exit with 2 if the node must not restart now."""
    program, authorities = files.spec.program, files.authorities()
    settings = join_settings(options.root, program)
    of_agent = () if files.entries else known_servers(options.root, files.spec.servers)
    addresses = (server,) if server else of_agent or tuple(filter(None, (settings.server,)))
    if not addresses:
        fact = f"no CA is staged in {files.spec.staged}, and the configuration of {program} names no server to join"
        refuse([f"{fact}; to create new CAs, run: certmond root-ca stage; else give --server HOST:PORT"])
    own = {*files.published(authorities).values()}
    if not own:
        refuse([f"this node has no {PUBLISHED} that could verify a server; restart {program}, then run: {_AGAIN}"])
    anchors = b"".join(to_pem(each) for found in own for each in found).decode("ascii")
    published = {address: read_published_ca(address, anchors) for address in addresses}
    documents = {address: decode(content, f"{address}/cacerts") for address, content in published.items()}
    bundles = {address: document.certificates for address, document in documents.items()}
    if faults := [fault.detail for document in documents.values() for fault in document.faults]:
        refuse(f"{fault}; check the server, then run: {_AGAIN}" for fault in faults)
    if empty := [address for address, bundle in bundles.items() if not bundle]:
        refuse(f"the server {address} publishes no CA certificate; check the server" for address in empty)
    behind = [address for address, bundle in bundles.items() if any(is_older(bundle, each) for each in own)]
    new = {address: bundle for address, bundle in bundles.items() if own != {bundle} and address not in behind}
    _refuse_old_servers([*behind, *(address for address in addresses if new and address not in {*new, *behind})])
    if new:
        if len(set(new.values())) > 1:
            refuse([f"the servers {', '.join(new)} publish different CAs; run on each server: {_AGAIN}"])
        _refuse_tokens(program, settings, published[next(iter(new))])
    bundle = bundles[addresses[0]] if not new else next(iter(new.values()))

    def lacking(authorities: Authorities) -> list[str]:
        old = [path for path, found in files.published(authorities).items() if found != bundle]
        return [*old, *files.outdated_copies(authorities)]

    return _Change((), lacking, f"this node uses the CA that {', '.join(addresses)} publishes")


def _refuse_old_servers(addresses: Sequence[str]) -> None:
    if addresses:
        refuse(
            f"the server {address} still publishes the old CA, and agents restart after the servers; run on this "
            f"server: {_AGAIN}"
            for address in addresses
        )


def _refuse_tokens(program: str, settings: JoinSettings, content: bytes) -> None:
    """Exit with 2 if a token contains the hash of another CA, because the next start would fail."""
    right = hash_of_bundle(content, decode(content, "").certificates)
    refused = [each.named_by for each in settings.tokens if each.ca_hash != right]
    if refused:
        fact = "contains the hash of another CA, so the next start would fail"
        remedy = f"in the token, replace the part between K10 and :: with {right}"
        refuse(f"the token of {program} ({place}) {fact}; {remedy}, then run: {_AGAIN}" for place in refused)


def _service(files: DistributionCAFiles, config: Config, enforcer: Enforcer) -> str:
    """Return the running service that writes the CA files at its start. Raises CertmondError without such a service."""
    _, around = enforcer.see()
    if around.live is None:
        raise CertmondError("certmond restarts only services of this host; run the command on the node, without --root")
    specs = files.entries or tuple(each for each in config.certificates if each.authority)
    names = {name for each in specs for name in each.consumers}
    services = [each.name for each in around.services if each.name in names]
    running = [name for name in services if getattr(around.live.services.get(name), "running", None) is not False]
    if not running:
        raise CertmondError(f"{' and '.join(sorted(names))} does not run on this node; start the service first")
    return running[0]


def _receive(files: DistributionCAFiles, staged: tuple[NewCA, ...], enforcer: Enforcer) -> None:
    """Record that the command receives the CAs. From then on, `stage` and `abort` do not change these CAs.

    Exit with 2 if another command has changed the CAs. Raises BusyError while another process writes.
    """
    with enforcer.executor.writing():
        refuse_changed(files, staged, _AGAIN)
        files.record(staged, datetime.now(UTC), stored=False)


def _store(files: DistributionCAFiles, staged: tuple[NewCA, ...], enforcer: Enforcer) -> None:
    """Run the command of the distribution. Exit with 2 if the command fails."""
    command, now = files.spec.command, datetime.now(UTC)
    text, fields = " ".join(command), {"step": "store_cas", "path": files.spec.staged}
    enforcer.audit.note(Event.STEP_BEGUN, now, f"`{text}` stores the new CAs", fields=fields)
    try:
        ended = run(command, {}, files.spec.time_limit, lambda: None)
    except CertmondError as error:
        failed = {**fields, "result": "failed"}
        enforcer.audit.conclude(Event.STEP_FAILED, now, str(error), "error", fields=failed)
        raise
    if ended.status:
        said = first_line(ended.said) or first_line(ended.output)
        fact = f"`{text}` ended with status {ended.status}" + (f" ({said})" if said else "")
        failed = {**fields, "result": "failed"}
        enforcer.audit.conclude(Event.STEP_FAILED, now, fact, "error", fields=failed)
        remedy = f"read the log of {files.spec.program}, then run: {_AGAIN}"
        print_message(f"failed: {fact}; {remedy}", err=True)
        sys.exit(FAILED)
    enforcer.audit.conclude(
        Event.STEP_DONE, now, f"`{text}` has stored the new CAs", fields={**fields, "result": "done"}
    )
    files.record(staged, now, stored=True)
    print_message(f"`{text}` has stored the new CAs; no file of this node has changed")


def _restart(node: _Node, service: str, *, by_hand: bool) -> None:
    """Restart the service. Exit with 2 unless the restart is proven."""
    results, held = restart_services(node.enforcer, node.handover, node.progress, frozenset({service}), by_hand=by_hand)
    for each in held:
        print_message(f"not restarted: {each.target}: {each.because}; then run: {_AGAIN}", err=True)
    if held or results.get(service, "proven") != "proven":
        print_message(f"failed: {service} has no proof of its restart; read its log, then run: {_AGAIN}", err=True)
        sys.exit(FAILED)


def _verify(node: _Node, change: _Change, patience: timedelta) -> None:
    """Wait until the node uses the new CAs. After `patience`, exit with 2, and name each old part."""
    files, begun = node.files, datetime.now(UTC)
    end = begun + patience
    while True:
        node.handover.discard_events()
        assessment, _ = node.enforcer.see()
        authorities = files.authorities()
        problems = [f"{path} does not contain the new CA" for path in change.lacking(authorities)]
        problems += old_parts(assessment.certificates, authorities)
        if not problems:
            return
        if datetime.now(UTC) >= end:
            break
        node.progress.wait(problems[0], until=end, since=begun)
        node.handover.pause(end, node.enforcer.interest, at_most=_POLL)
    if change.staged and change.lacking(files.authorities()):
        files.record(change.staged, begun, stored=False)  # the start has not installed these CAs: store them again
    print_message("\n".join(f"failed: {problem}" for problem in problems), err=True)
    print_message(
        f"read the log of {files.spec.program}, then run: {_AGAIN}; no other node may follow before", err=True
    )
    sys.exit(FAILED)


def _further_steps(files: DistributionCAFiles) -> tuple[str, ...]:
    """Return the steps on other nodes, which certmond on this node cannot execute."""
    program, token = files.spec.program, (files.spec.present or "").removesuffix("tls") + "token"
    tokens = f"the tokens that you keep elsewhere and that begin with K10 (new token: {token})"
    return (
        f"next, on each other server, one after the other: {_AGAIN}",
        f"then, on each agent: {_AGAIN}",
        f"last, replace copies of {program}.yaml, and {tokens}",
    )


def _plan(files: DistributionCAFiles, change: _Change, service: str, lacking: Sequence[str]) -> dict[str, Any]:
    """Return the preview document of the steps on this node."""
    steps: list[dict[str, str]] = []
    if lacking and change.staged and not files.is_stored(change.staged):
        detail = f"`{' '.join(files.spec.command)}` stores the new CAs of {len(change.staged)} files in the datastore"
        steps.append({"step": "store", "target": files.spec.staged or "", "detail": detail})
    if lacking:
        detail = f"{service} writes the new CAs, and issues its certificates again"
        steps.append({"step": "restart", "target": service, "detail": detail})
    steps.append({"step": "verify", "target": service, "detail": "CA files, leaves and served certificates are new"})
    if change.staged:
        detail = "the new keys are removed from this directory"
        steps.append({"step": "unstage", "target": files.spec.staged or "", "detail": detail})
    return {"schema": 1, "steps": steps, "then": [*_further_steps(files)] if change.staged else []}


def _plan_table(document: dict[str, Any], _wide: bool) -> RenderableType:
    from rich.text import Text

    lines = [f"{n}. {each['step']} {each['target']}: {each['detail']}" for n, each in enumerate(document["steps"], 1)]
    return Text("\n".join([*lines, *document["then"]]))
