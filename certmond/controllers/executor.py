"""Execution of a plan. The audit log records the beginning and the result of each step.

This module defines the order within a step: key, signer, verification, archive, replacement, ledger. A failed step
leaves the files of the node unchanged. After a failed step, certmond executes the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_never

from certmond.config.model import Config
from certmond.controllers.archive_retention import Retention
from certmond.errors import CertmondError, RefusedError, UnreachableError, WaitingError, WriteError, defect
from certmond.formats.kubeconfig_certificates import certificates_in
from certmond.formats.private_key import PrivateKey, make_key
from certmond.immutable_class import immutable
from certmond.notify.audit import Audit
from certmond.notify.event_log import Event, bound
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.planning.installed_successors import holder_of
from certmond.pki.planning.renewal_holds import REPAIRS
from certmond.pki.planning.steps import Cause, Derive, Identity, Issue, Plan, Restore, Rotate, Write
from certmond.pki.x509.certificate import Certificate
from certmond.renewal.damaged_file_archive import DamagedFiles, archive_clause
from certmond.renewal.derived_files import Derivations
from certmond.renewal.key_pair import KeyPairs, as_written
from certmond.renewal.renewal_file_builder import (
    Renewal,
    archived,
    certified_key,
    present_key,
    stale_reason,
)
from certmond.renewal.restoration import Restoration
from certmond.renewal.signing_permission import SigningPermissions
from certmond.renewal.symlink_target_check import SymlinkTargets
from certmond.rotation.staged_ca import Staging
from certmond.rotation.step_files import StepFiles
from certmond.signers.protocol import Request, Signer
from certmond.state.archive import Archive, Generation, archive_name
from certmond.state.pending_requests import Pending
from certmond.state.renewals import Ledger
from certmond.transaction.commit import Recovery, Transactions, Writer
from certmond.transaction.node_file_reader import NodeFiles

_NO_CERTIFICATE = ""
"""Placeholder for a SHA-256 if a pending request replaces no certificate."""


@immutable
class Outcome:
    """The result of a step: "done", "failed" or "waiting". `issued` is the certificate that the step has installed.

    `outdated` is True if another process has changed the files since the plan, so that a new plan can succeed.
    """

    step: Write
    result: str
    message: str
    issued: Certificate | None = None
    outdated: bool = False


class Executor:
    """Executor of plans on the node below `root`.

    `signer` returns the signer of a step. The executor calls `alive` often enough for the watchdog of systemd.
    """

    def __init__(
        self,
        config: Config,
        *,
        root: str,
        state_dir: Path,
        audit: Audit,
        signer: Callable[[Issue], Signer],
        clock: Callable[[], datetime],
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._audit, self._signer, self._clock, self._alive = audit, signer, clock, alive
        self._kinds = {spec.name: spec.kind for spec in config.certificates}
        self._files = NodeFiles(root)
        self._transactions = Transactions(root, state_dir)
        self._archive = Archive(state_dir, config.archive.keep)
        self._damaged = DamagedFiles(state_dir, config.archive.keep, config.certificates, self._files)
        self._retention = Retention(self._archive, config, audit, clock, self._files, alive=alive)
        self._ledger = Ledger(state_dir, self._files.exists)
        self._pairs = KeyPairs(config.certificates, self._files)
        self._symlink_targets = SymlinkTargets(config.certificates, self._files)
        self._pending = Pending(state_dir)
        self._grants = SigningPermissions(config, root, state_dir, self._files)
        self._derivations = Derivations(config.derived, config.certificates, self._files)
        self._restoration = Restoration(
            config, root=root, state_dir=state_dir, audit=audit, clock=clock, writing=self.writing
        )
        self._step_files = StepFiles(config.certificates, self._files, Staging(state_dir), self._archive)

    def recover(self, patience: float = 0) -> tuple[Recovery, ...]:
        """Complete or revert the transactions of a killed process. Record each recovery, and return all recoveries.

        Raises BusyError if another process still writes after `patience` seconds.
        """
        with self._transactions.lock(patience) as writer:
            return self._recover(writer)

    def tidy(self) -> None:
        """Remove expired generations of the archive, at most once an hour. Raises the errors of `writing`."""
        if self._retention.due():
            with self.writing():
                pass

    @contextmanager
    def writing(self, patience: float = 0) -> Iterator[Writer]:
        """Hold the lock of all writers during the `with` block, after the recovery of interrupted transactions.

        Raises BusyError if another process still writes after `patience` seconds, and WriteError if the state directory
        is unusable.
        """
        with self._transactions.lock(patience) as writer:
            self._recover(writer)
            yield writer

    def execute(
        self,
        plan: Plan,
        patience: float = 0,
        tell: Callable[[Write], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> tuple[Outcome, ...]:
        """Execute the steps of the plan, except restarts, in their order. Return the outcomes of these steps.

        `tell` receives each step before the step begins. Begin no step after `stopping` has returned True. Raises
        BusyError if another process still writes after `patience` seconds, and WriteError if the state directory is
        unusable.
        """
        with self._transactions.lock(patience) as writer, self._ledger.batch():
            self._recover(writer)
            self._grants.begin(self._ledger.attempts())
            outcomes = list[Outcome]()
            for step in plan.writes:  # not the restarts, which need a new scan of the node
                if stopping():
                    break
                tell(step)
                self._alive()
                with bound(certificate=step.target, path=step.path):
                    outcomes.append(self._execute(step, writer))
            return tuple(outcomes)

    def _recover(self, writer: Writer) -> tuple[Recovery, ...]:
        found = writer.recover()
        self._ledger.tidy()
        self._pending.tidy(list(self._waiting()))
        for recovery in found:
            self._audit.conclude(Event.RECOVERED, self._clock(), recovery.message, "warning")
        self._retention.apply()
        return found

    def _waiting(self) -> Iterator[Identity]:
        """Yield each certificate with a pending request, if the request still replaces the installed certificate.

        Remove the other requests from the ledger.
        """
        for identity, attempt in self._ledger.attempts().items():
            if attempt.cookie is not None:
                if self._pending.replaces(identity) in (self._installed(*identity) or {_NO_CERTIFICATE}):
                    yield identity
                else:
                    with suppress(WriteError):  # the next recovery retries
                        if attempt.sha256:  # keep the record of the earlier renewal
                            self._ledger.store(identity, Attempt(attempt.put_in_place_at).after(attempt))
                        else:
                            self._ledger.remove(identity)

    def _installed(self, name: str, path: str) -> frozenset[str]:
        """Return the SHA-256 of each certificate in the file `path`, or an empty set if the file is unreadable."""
        try:
            content = self._files.read(path)
            found = certificates_in(content or b"", path, self._kinds[name])
        except (KeyError, CertmondError):
            return frozenset()
        return frozenset(certificate.sha256 for certificate in found)

    def _execute(self, step: Write, writer: Writer) -> Outcome:
        fields = _fields(step)
        try:
            self._audit.note(Event.STEP_BEGUN, self._clock(), f"{step.path}: {step.detail}", fields=fields)
            match step:
                case Issue():
                    outcome = self._issue(step, writer)
                case Restore():
                    outcome = self._restore(step, writer)
                case Derive():
                    outcome = Outcome(step, "done", self._derivations.make(step.target, writer))
                    self._clear_failure(step)
                case Rotate():
                    done = self._step_files.replace(step, writer, self._clock(), self._transactions.real)
                    outcome = Outcome(step, "done", done)
                    self._clear_failure(step)
                case _:
                    assert_never(step)
        except WaitingError as error:
            outcome = Outcome(step, "waiting", str(error))
        except CertmondError as error:
            outcome = Outcome(step, "failed", str(error))
            self._record_failure(step, error)
        except Exception as error:  # noqa: BLE001 - a defect in one step must not block the others
            outcome = Outcome(step, "failed", f"{step.path}: {defect(error)}")
            self._record_failure(step, WriteError(outcome.message))
        self._record_outcome(outcome, fields)
        return outcome

    def _issue(self, step: Issue, writer: Writer) -> Outcome:
        if why := stale_reason(step, self._files):  # no failure to record: the file has changed since the plan
            return Outcome(step, "failed", why, outdated=True)
        written = (step.path,) if step.keep_key else archived(step.status.seen)
        if why := self._symlink_targets.objection(written, step.status.seen.spec):
            raise WriteError(why)
        granted = self._grants.granted(step)
        self._ledger.check()  # without a ledger, each pass would renew the certificate again
        attempt = self._ledger.attempt(step.identity)
        cookie, key, csr = self._pending.resume(step.identity, attempt.cookie if attempt else None)
        key = key or self._key(step)
        request = Request(
            name=step.target, grant=granted, key=key, node_name=step.node, old=step.old,
            authority=step.authority, cookie=cookie, csr=csr, alive=self._alive,
        )  # fmt: skip
        if csr is not None and not request.requests_the_same(csr):  # the entry or the old certificate has changed
            request = replace(request, cookie=None, csr=None)
        request = replace(request, csr=request.pem())  # sign only once, because each ECDSA signature differs
        try:
            given = self._signer(step).sign(request)
        except WaitingError as error:
            now = self._clock()
            self._pending.keep(step.identity, key, request.pem(), step.old.sha256 if step.old else _NO_CERTIFICATE)
            until = now + timedelta(seconds=error.seconds)
            waiting = Attempt(now, message=str(error), wait_until=until, cookie=error.cookie)
            self._ledger.store(step.identity, waiting.after(attempt))
            raise
        renewal = Renewal(step, certified_key(step, key, given.key), given.pem, self._clock())
        changes = renewal.changes(self._files)
        issued = renewal.issued()

        def verify(written: Mapping[str, bytes]) -> None:
            self._grants.check_authorities(step)
            read = as_written(changes, written, self._files)
            renewal.verify(read)
            if mismatches := list(self._pairs.mismatches(changes, read)):
                raise RefusedError("; ".join(mismatches))

        archived_files = list[Generation]()
        writer.commit(changes, verify=verify, before_rename=lambda: archived_files.extend(self._archive_old(step)))
        self._grants.installed(step, issued)
        done = Attempt(
            renewal.now, sha256=issued.sha256, ends_at=issued.not_after, common_name=holder_of(issued),
            subject=issued.subject,
        )  # fmt: skip
        if step.cause in REPAIRS:
            done = done.repaired(attempt)
        elif attempt:
            done = replace(done, repaired_at=attempt.repaired_at, repairs=attempt.repairs)
        with suppress(WriteError):  # the ledger is only a record, and the certificate is installed
            self._ledger.store(step.identity, done)
        self._pending.drop(step.identity)
        message = (
            f"{step.path} is renewed, and valid until {issued.not_after:%Y-%m-%d %H:%M} "
            f"UTC{archive_clause(archived_files)}"
        )
        return Outcome(step, "done", message, issued)

    def _restore(self, step: Restore, writer: Writer) -> Outcome:
        """Restore a certificate, or repair a kubeconfig. Return the outcome of the step."""
        now, leaf, before = self._clock(), step.certificate, self._ledger.attempt(step.identity)
        if step.generation is None:  # the step changes the kubeconfig in place and keeps the certificate
            done = self._restoration.repair(step, writer)
            repaired = replace(before or Attempt(now, restored=True), failures=0, message="", at=now).repaired(before)
            with suppress(WriteError):  # after a failed write, the count omits this repair
                self._ledger.store(step.identity, replace(repaired, at=before.at) if before else repaired)
            return Outcome(step, "done", done)
        restored = leaf.sha256, leaf.not_after, holder_of(leaf), leaf.subject, now
        self._ledger.store(step.identity, (before or Attempt(now)).restoring(*restored))
        done = self._restoration.repair(step, writer)
        with suppress(WriteError):  # after a failed write, the count omits this repair
            self._ledger.store(step.identity, Attempt(now).restoring(*restored).repaired(before))
        self._pending.drop(step.identity)
        return Outcome(step, "done", done)

    def _key(self, step: Issue) -> PrivateKey:
        return present_key(step, self._files) if step.keep_key else make_key(step.template.key)

    def _archive_old(self, step: Issue) -> Iterator[Generation]:
        """Archive the files that `step` will replace. If these files are damaged, yield the new generation."""
        files = {
            path: self._transactions.real(path)
            for path in archived(step.status.seen)
            if self._files.read(path) is not None
        }
        serial = {"serial": step.old.serial_hex} if step.old else {}
        description = {**serial, "cause": step.cause.value, "detail": step.detail}
        name = archive_name(step.status.seen.spec, step.path)
        if files and step.cause is Cause.DAMAGED:
            yield self._damaged.keep(name, files, self._clock(), description)
        elif files:
            self._archive.store(name, files, self._clock(), description)

    def _record_failure(self, step: Write, error: CertmondError) -> None:
        identity = (step.target, step.path)
        before = self._ledger.attempt(identity)
        failures = before.failures + 1 if before else 1
        # Keep the cookie of the signer if the signer was unreachable, or if certmond could not write the certificate.
        cookie = before.cookie if before and isinstance(error, UnreachableError | WriteError) else None
        failed = Attempt(self._clock(), failures, str(error), cookie=cookie)
        with suppress(WriteError):  # the disk might be the cause
            self._ledger.store(identity, failed.after(before))
        if cookie is None:
            self._pending.drop(identity)

    def _clear_failure(self, step: Derive | Rotate) -> None:
        if self._ledger.attempt((step.target, step.path)):
            with suppress(WriteError):
                self._ledger.remove((step.target, step.path))

    def _record_outcome(self, outcome: Outcome, fields: Mapping[str, str | None]) -> None:
        event = Event.STEP_FAILED if outcome.result == "failed" else Event.STEP_DONE
        level = {"failed": "error", "waiting": "info"}.get(outcome.result, "info")
        new = {"new_serial": outcome.issued.serial_hex} if outcome.issued else {}
        self._audit.conclude(event, self._clock(), outcome.message, level, {**fields, **new, "result": outcome.result})


def _fields(step: Write) -> dict[str, str | None]:
    match step:
        case Issue():
            return {"step": "issue", "target": step.target, "path": step.path, "cause": step.cause.value,
                    "old_serial": step.old.serial_hex if step.old else None, "signer": step.signer}  # fmt: skip
        case Restore():
            return {"step": "restore", "target": step.target, "path": step.path, "cause": step.cause.value,
                    "generation": step.generation}  # fmt: skip
        case Derive():
            return {"step": "derive", "target": step.target, "path": step.path, "cause": step.cause.value}
        case Rotate():
            return {"step": "rotate", "target": step.target, "path": step.path, "cause": step.cause.value}
        case _:
            assert_never(step)
