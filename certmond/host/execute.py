"""The plan carried out: each step begun, done or failed, noted in the audit trail, and independent of the others.

Owns the order of one step: key, signer, proof, archive, replacement, memory. What is decided is the plan's, what a
signer does is the signer's, and how files are replaced is the transaction's. A failed step leaves the old files in
place and does not stop the next one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_never

from certmond.config import Config
from certmond.errors import CertmondError, RefusedError, UnreachableError, WaitingError, WriteError, defect
from certmond.host.archive import Archive, Generation
from certmond.host.arrangement import Arrangement
from certmond.host.audit import Audit
from certmond.host.damaged import DamagedFiles, kept_as
from certmond.host.derivation import Derivations
from certmond.host.destination import Destinations
from certmond.host.grants import Grants
from certmond.host.journal import Event
from certmond.host.key_pair import KeyPairs, as_written
from certmond.host.keys import PrivateKey, make_key
from certmond.host.ledger import Ledger
from certmond.host.node_files import NodeFiles
from certmond.host.pending import Pending
from certmond.host.renewal import (
    Renewal,
    archive_name,
    archived,
    certificates_in,
    certified_key,
    overtaken,
    present_key,
)
from certmond.host.restoration import Restoration
from certmond.host.retention import Retention
from certmond.host.signers.signer import Request, Signer
from certmond.host.staged import Staging
from certmond.host.transaction import Recovery, Transactions, Writer
from certmond.pki.attempt import Attempt
from certmond.pki.certificate import Certificate
from certmond.pki.steps import Cause, Derive, Identity, Issue, Plan, Restore, Rotate, Write
from certmond.pki.succession import holder_of
from certmond.pki.waiting import REPAIRS

_NOTHING = ""
"""What a request is for that replaces no certificate."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step: "done", "failed" or "waiting". `issued` is the certificate that is in place now."""

    step: Write
    result: str
    message: str
    issued: Certificate | None = None


class Executor:
    """Carries out plans on the node below `root`. `signer` finds what signs a step; `alive` is called often enough for
    any watchdog.
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
        self._records = state_dir / "transactions"
        self._files = NodeFiles(root)
        self._transactions = Transactions(root, state_dir)
        self._archive = Archive(state_dir, config.archive.keep)
        self._damaged = DamagedFiles(state_dir, config.archive.keep, config.certificates, self._files)
        self._retention = Retention(self._archive, config, audit, clock, self._files)
        self._ledger = Ledger(state_dir, self._files.exists)
        self._pairs = KeyPairs(config.certificates, self._files)
        self._destinations = Destinations(config.certificates, self._files)
        self._pending = Pending(state_dir)
        self._grants = Grants(config, root, state_dir, self._files)
        self._derivations = Derivations(config.derived, config.certificates, self._files)
        self._restoration = Restoration(
            config, root=root, state_dir=state_dir, audit=audit, clock=clock, writing=self.writing
        )
        self._arrangement = Arrangement(config.certificates, self._files, Staging(state_dir), self._archive)

    def interrupted(self) -> frozenset[str]:
        """The records of replacements that are under way, or were left half done."""
        with suppress(OSError):
            return frozenset(name for name in os.listdir(self._records) if name.endswith(".json"))
        return frozenset()

    def recover(self, patience: float = 0) -> tuple[Recovery, ...]:
        """Finish or undo what a killed process left, and note it. Raises BusyError while somebody else is writing."""
        with self._transactions.lock(patience) as writer:
            return self._recover(writer)

    def tidy(self) -> None:
        """Remove what is past its time, where that was not done in the last hour. Raises BusyError, WriteError."""
        if self._retention.due():
            with self.writing():
                pass

    @contextmanager
    def writing(self, patience: float = 0) -> Iterator[Writer]:
        """Keep others from writing, after what a killed process left is finished. Raises BusyError, WriteError."""
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
        """Carry out the steps in their order, but for restarts: those follow a new look at the node.

        `tell` is given each before it begins, and none begins when `stopping`.

        Raises BusyError while somebody else is writing, WriteError where the state directory cannot be used.
        """
        with self._transactions.lock(patience) as writer, self._ledger.held():
            self._recover(writer)
            outcomes = list[Outcome]()
            for step in plan.writes:
                if stopping():
                    break
                tell(step)
                self._alive()
                outcomes.append(self._carry_out(step, writer))
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
        """The certificates that a signer is still to be asked for again: in the place of those that it was asked for.

        The others were renewed meanwhile, by a process that was killed before it noted so, or by somebody else.
        """
        for identity, attempt in self._ledger.attempts().items():
            if attempt.cookie is not None:
                if self._pending.replaces(identity) in (self._in_place(*identity) or {_NOTHING}):
                    yield identity
                else:
                    with suppress(WriteError):  # then it is forgotten next time
                        if attempt.sha256:  # what it put in place before is remembered
                            self._ledger.remember(identity, Attempt(attempt.put_in_place_at).after(attempt))
                        else:
                            self._ledger.forget(identity)

    def _in_place(self, name: str, path: str) -> frozenset[str]:
        """The SHA-256 of each certificate in a file; none where it cannot be read, or has no entry any more."""
        try:
            content = self._files.read(path)
            found = certificates_in(content or b"", path, self._kinds[name])
        except (KeyError, CertmondError):
            return frozenset()
        return frozenset(certificate.sha256 for certificate in found)

    def _carry_out(self, step: Write, writer: Writer) -> Outcome:
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
                    self._forget_failure(step)
                case Rotate():
                    done = self._arrangement.make(step, writer, self._clock(), self._transactions.real)
                    outcome = Outcome(step, "done", done)
                    self._forget_failure(step)
                case _:
                    assert_never(step)
        except WaitingError as error:
            outcome = Outcome(step, "waiting", str(error))
        except CertmondError as error:
            outcome = Outcome(step, "failed", str(error))
            self._remember_failure(step, error)
        except Exception as error:  # noqa: BLE001 - a defect of ours in one step must not keep the others from their turn
            outcome = Outcome(step, "failed", f"{step.path}: {defect(error)}")
            self._remember_failure(step, WriteError(outcome.message))
        self._note(outcome, fields)
        return outcome

    def _issue(self, step: Issue, writer: Writer) -> Outcome:
        if why := overtaken(step, self._files):  # no failure to be remembered: what is there now is another matter
            return Outcome(step, "failed", why)
        written = (step.path,) if step.keep_key else archived(step.status.seen)
        if why := self._destinations.astray(written, step.status.seen.spec):
            raise WriteError(why)
        granted = self._grants.granted(step)
        self._ledger.check()  # without a memory of it, nothing would keep it from being renewed again and again
        attempt = self._ledger.attempts().get(step.identity)
        cookie, key, csr = self._pending.take_up(step.identity, attempt.cookie if attempt else None)
        key = key or self._key(step)
        request = Request(
            name=step.target, grant=granted, key=key, node_name=step.node, old=step.old,
            authority=step.authority, cookie=cookie, csr=csr, alive=self._alive,
        )  # fmt: skip
        if csr is not None and not request.is_asked_in(csr):  # entry or predecessor changed since it was sent
            request = replace(request, cookie=None, csr=None)
        request = replace(request, csr=request.pem())  # once: a signature by ECDSA is another each time
        try:
            given = self._signer(step).sign(request)
        except WaitingError as error:
            now = self._clock()
            self._pending.keep(step.identity, key, request.pem(), step.old.sha256 if step.old else _NOTHING)
            until = now + timedelta(seconds=error.seconds)
            waiting = Attempt(now, message=str(error), wait_until=until, cookie=error.cookie)
            self._ledger.remember(step.identity, waiting.after(attempt))
            raise
        renewal = Renewal(step, certified_key(step, key, given.key), given.pem, self._clock())
        changes = renewal.changes(self._files)
        issued = renewal.issued()

        def verify(written: Mapping[str, bytes]) -> None:
            self._grants.check_authorities(step)
            read = as_written(changes, written, self._files)
            renewal.verify(read)
            if torn := list(self._pairs.torn(changes, read)):
                raise RefusedError("; ".join(torn))

        kept = list[Generation]()
        writer.commit(changes, verify=verify, before_rename=lambda: kept.extend(self._keep_old(step)))
        done = Attempt(
            renewal.now, sha256=issued.sha256, ends_at=issued.not_after, common_name=holder_of(issued),
            subject=issued.subject,
        )  # fmt: skip
        if step.cause in REPAIRS:
            done = done.repaired(attempt)
        elif attempt:
            done = replace(done, repaired_at=attempt.repaired_at, repairs=attempt.repairs)
        with suppress(WriteError):  # it is a memory only, and the certificate is in place
            self._ledger.remember(step.identity, done)
        self._pending.drop(step.identity)
        said = f"{step.path} is renewed until {issued.not_after:%Y-%m-%d %H:%M} UTC{kept_as(kept)}"
        return Outcome(step, "done", said, issued)

    def _restore(self, step: Restore, writer: Writer) -> Outcome:
        """Note first what comes back: whoever is killed in between has put it in place all the same."""
        now, leaf, before = self._clock(), step.certificate, self._ledger.attempts().get(step.identity)
        if step.generation is None:  # nothing else is in place than before
            done = self._restoration.put_right(step, writer)
            repaired = replace(before or Attempt(now, restored=True), failures=0, message="", at=now).repaired(before)
            with suppress(WriteError):
                self._ledger.remember(step.identity, replace(repaired, at=before.at) if before else repaired)
            return Outcome(step, "done", done)
        put = leaf.sha256, leaf.not_after, holder_of(leaf), leaf.subject, now
        self._ledger.remember(step.identity, (before or Attempt(now)).restoring(*put))
        done = self._restoration.put_right(step, writer)
        with suppress(WriteError):  # then it is one repair more that is not counted
            self._ledger.remember(step.identity, Attempt(now).restoring(*put).repaired(before))
        self._pending.drop(step.identity)
        return Outcome(step, "done", done)

    def _key(self, step: Issue) -> PrivateKey:
        return present_key(step, self._files) if step.keep_key else make_key(step.template.key)

    def _keep_old(self, step: Issue) -> Iterator[Generation]:
        """Keep the files that are replaced, and yield where, if they were damaged."""
        files = {
            path: self._transactions.real(path)
            for path in archived(step.status.seen)
            if self._files.read(path) is not None
        }
        serial = {"serial": f"{step.old.serial:x}"} if step.old else {}
        description = {**serial, "cause": step.cause.value, "detail": step.detail}
        name = archive_name(step.status.seen.spec, step.path)
        if files and step.cause is Cause.DAMAGED:
            yield self._damaged.keep(name, files, self._clock(), description)
        elif files:
            self._archive.store(name, files, self._clock(), description)

    def _remember_failure(self, step: Write, error: CertmondError) -> None:
        identity = (step.target, step.path)
        before = self._ledger.attempts().get(identity)
        failures = before.failures + 1 if before else 1
        # What a signer has promised is still to be had from it where it could not be asked, or its answer could not be
        # written.
        promised = before.cookie if before and isinstance(error, UnreachableError | WriteError) else None
        failed = Attempt(self._clock(), failures, str(error), cookie=promised)
        with suppress(WriteError):  # the disk may be what failed
            self._ledger.remember(identity, failed.after(before))
        if promised is None:
            self._pending.drop(identity)

    def _forget_failure(self, step: Derive | Rotate) -> None:
        if (step.target, step.path) in self._ledger.attempts():
            with suppress(WriteError):
                self._ledger.forget((step.target, step.path))

    def _note(self, outcome: Outcome, fields: Mapping[str, str | None]) -> None:
        event = Event.STEP_FAILED if outcome.result == "failed" else Event.STEP_DONE
        level = {"failed": "error", "waiting": "info"}.get(outcome.result, "info")
        new = {"new_serial": f"{outcome.issued.serial:x}"} if outcome.issued else {}
        self._audit.conclude(event, self._clock(), outcome.message, level, {**fields, **new, "result": outcome.result})


def _fields(step: Write) -> dict[str, str | None]:
    match step:
        case Issue():
            return {"step": "issue", "target": step.target, "path": step.path, "cause": step.cause.value,
                    "old_serial": f"{step.old.serial:x}" if step.old else None, "signer": step.signer}  # fmt: skip
        case Restore():
            return {"step": "restore", "target": step.target, "path": step.path, "cause": step.cause.value,
                    "generation": step.generation}  # fmt: skip
        case Derive():
            return {"step": "derive", "target": step.target, "path": step.path, "cause": step.cause.value}
        case Rotate():
            return {"step": "rotate", "target": step.target, "path": step.path, "cause": step.cause.value}
        case _:
            assert_never(step)
