"""The commands `root-ca stage` and `root-ca abort` for the CAs that a distribution keeps in its datastore.

This module defines the output and exit codes. Both commands change only the directory of the staged CAs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import click

from certmond.cli.messages import print_message, refuse
from certmond.errors import CertmondError

if TYPE_CHECKING:
    from certmond.cli.options import Globals
    from certmond.config.model import Config
    from certmond.daemon.enforcer import Enforcer
    from certmond.pki.rotation.distribution_ca.new_ca_validation import NewCA
    from certmond.pki.x509.certificate import Certificate
    from certmond.rotation.distribution_ca_files import DistributionCAFiles

VALIDITY = timedelta(days=3650)
"""Validity of a new CA, as of the CAs that k3s creates (rancher/dynamiclistener, cert/cert.go)."""


def stage_distribution_cas(
    context: click.Context,
    options: Globals,
    config: Config,
    enforcer: Enforcer,
    *,
    validity: timedelta | None,
    algorithm: str | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Create new CAs in the directory `ca_replacement.staged`. Exit with 2 if this node cannot create the CAs."""
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress
    from certmond.errors import KeyUnusableError
    from certmond.pki.catalog.entries import KeyAlgorithm
    from certmond.rotation.distribution_ca_files import DistributionCAFiles, require_server
    from certmond.rotation.distribution_ca_generation import contents, generate_distribution_ca, signing_root

    files, now = DistributionCAFiles(config, options.root, options.state_dir), datetime.now(UTC)
    require_server(files)
    if links := files.links():
        refuse(f"{link}, then run: certmond root-ca stage" for link in links)
    staged = files.staged()
    if staged and not force:
        if problems := files.problems(staged, now):
            refuse([*problems, "to replace the staged CAs, give --force"])
        print_message(f"already staged in {files.spec.staged}; to continue, run: certmond root-ca rotate")
        return
    if staged:
        _refuse_received(files, staged)
    present, problems_found = files.present(), list[str]()
    for each in present:
        try:
            old, _ = signing_root(each)
        except KeyUnusableError as error:
            problems_found.append(str(error))
            continue
        problems_found += _expiring(old, each.path, now)
    problems_found += [why] if (why := files.exposed()) and not dry_run else []
    if problems_found:
        refuse(problems_found)
    for each in present:
        print_message(f"{files.spec.staged_path(each.path)}: a new CA for {each.path}, and its key")
    if dry_run:
        return
    kind = KeyAlgorithm(algorithm) if algorithm else None
    made = [(each, generate_distribution_ca(each, now, validity or VALIDITY, kind)) for each in present]
    handover = Handover(options.state_dir, Progress(), enforcer.restarting.terms)
    context.call_on_close(handover.close)
    handover.retry_while_busy(partial(_write, enforcer, files, contents(made), staged, now))
    if problems := files.problems(files.staged(), now):
        refuse(problems)
    print_message(f"staged in {files.spec.staged}; no file that a service uses has changed")
    print_message("next: certmond root-ca rotate --dry-run, then: certmond root-ca rotate")


def remove_staged_cas(context: click.Context, options: Globals, config: Config, enforcer: Enforcer) -> None:
    """Remove the staged CAs. Exit with 2 if the command of the distribution has received these CAs."""
    from certmond.cli.step_handover import Handover
    from certmond.cli.wait_progress import Progress
    from certmond.rotation.distribution_ca_files import DistributionCAFiles

    files = DistributionCAFiles(config, options.root, options.state_dir)
    staged = files.staged()
    if not staged:
        raise CertmondError(f"no CA is staged in {files.spec.staged}; there is nothing to abort")
    if links := files.links():
        refuse(f"{link}, then run: certmond root-ca abort" for link in links)
    _refuse_received(files, staged)
    handover = Handover(options.state_dir, Progress(), enforcer.restarting.terms)
    context.call_on_close(handover.close)
    delete = partial(delete_staged, enforcer, files, datetime.now(UTC), unless_received=True)
    remove(handover.retry_while_busy(delete), files)


def remove(left: Iterable[str], files: DistributionCAFiles) -> None:
    """Print the result of a removal. `left` contains the files that certmond has not created."""
    print_message(f"removed the new CAs from {files.spec.staged}")
    for path in left:
        print_message(f"note: {path} remains, because certmond has not created this file", err=True)


def delete_staged(
    enforcer: Enforcer, files: DistributionCAFiles, now: datetime, *, unless_received: bool = False
) -> tuple[str, ...]:
    """Delete the staged CAs. Return the other files in the directory. Raises BusyError while another process writes.

    With `unless_received`, exit with 2 if the command of the distribution has received the CAs.
    """
    with enforcer.executor.writing() as writer:
        if unless_received:
            _refuse_received(files, files.staged())
        with _recorded_step(enforcer, files, "unstage", f"the CAs in {files.spec.staged} are removed", now):
            return files.remove(writer)


def refuse_changed(files: DistributionCAFiles, staged: tuple[NewCA, ...], again: str) -> None:
    """Exit with 2 if another command has changed the staged CAs. Call this function with the lock of all writers."""
    if files.staged() != staged:
        refuse([f"another process has changed the CAs in {files.spec.staged}; run again: {again}"])


def _write(
    enforcer: Enforcer, files: DistributionCAFiles, contents: dict[str, bytes], staged: tuple[NewCA, ...], now: datetime
) -> None:
    with enforcer.executor.writing() as writer:
        refuse_changed(files, staged, "certmond root-ca stage")
        _refuse_received(files, staged)
        with _recorded_step(enforcer, files, "stage", f"new CAs are staged in {files.spec.staged}", now):
            files.write(contents, writer)


@contextmanager
def _recorded_step(
    enforcer: Enforcer, files: DistributionCAFiles, step: str, text: str, now: datetime
) -> Iterator[None]:
    """Write audit records before and after a change to the staged CAs. `text` is a sentence about the change."""
    from certmond.notify.event_log import Event

    fields = {"step": step, "path": files.spec.staged}
    enforcer.audit.note(Event.STEP_BEGUN, now, text, fields=fields)
    try:
        yield
    except CertmondError as error:
        failed = {**fields, "result": "failed"}
        enforcer.audit.conclude(Event.STEP_FAILED, now, str(error), "error", fields=failed)
        raise
    enforcer.audit.conclude(Event.STEP_DONE, now, text, fields={**fields, "result": "done"})


def _refuse_received(files: DistributionCAFiles, staged: tuple[NewCA, ...]) -> None:
    if at := files.received_at(staged):
        command = " ".join(files.spec.command)
        fact = f"`{command}` received these CAs at {at}, and the next start of {files.spec.program} installs them"
        refuse([f"{fact}; continue: certmond root-ca rotate"])


def _expiring(old: Certificate, path: str, now: datetime) -> list[str]:
    if old.not_before <= now < old.not_after:
        return []
    remedy = "see docs/profiles.md#replace-the-cas-of-k3s-or-rke2"
    return [f"{old.called} in {path} is not valid now, so it cannot sign the new CA; {remedy}"]
