"""One acting process per node: a command acts itself, or hands over to the process that does, and follows that one.

Owns the question who acts, and what a command shows of the daemon's work: its events, its restarts, its rotation, from
the records that the daemon writes. What a person's decision needs is written by the command itself, under the lock of
every writer; restarts, phases, proofs and what all nodes wait for are the acting process's. Where that one ends, the
command goes on by itself. Waits for files to change, and looks at nothing meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from certmond.errors import BusyError, MalformedError
from certmond.expose.render import ACTIVITY, HEARTBEAT
from certmond.host.history import History
from certmond.host.node_lock import ACTING, COMMAND, WRITING, Holder, NodeLock, holder_of, is_held, writer_of
from certmond.host.rotation_record import RotationRecord
from certmond.host.shared_records import records_of
from certmond.host.watch import Interest
from certmond.pki.restart import Episode, Past, Stage, Terms
from certmond.pki.rotation import Rotation, may_be_aborted
from certmond.restarting import state_of
from certmond.wait import Events, Progress

PATIENCE = timedelta(seconds=30)
"""How long a command waits for another command that is writing."""

T = TypeVar("T")

_UNTAKEN = 60.0
"""Seconds after which a restart that the daemon neither begins nor plans nor holds is no longer waited for."""
_HEARD = 30.0
"""Seconds after which a lock is looked at again in any case: whoever held it may have been killed."""
_SILENT, _HUNG = 30.0, 120.0
"""Seconds without a sign of life of the daemon, which gives one every ten seconds: a command says so, and gives up."""
_TOLD = frozenset({"step_begun", "step_done", "step_failed", "recovered", "rotation"})
"""The daemon's events that a command shows."""
_STEPS = frozenset({"step_begun", "step_done", "step_failed"})
"""Those of a step that is made."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the acting process has written of itself: its documents, empty where it writes none; and for how many
    seconds it has been `silent`.
    """

    holder: Holder | None
    activity: Mapping[str, Any] = field(default_factory=dict)
    passed_at: float = 0.0
    silent: float = 0.0

    @property
    def planned(self) -> frozenset[str]:
        """The services whose restart it plans."""
        return frozenset(each["target"] for each in self._plan("steps") if each.get("step") == "restart")

    @property
    def held(self) -> Mapping[str, str]:
        """What it leaves alone, by name with the reason."""
        return {each["target"]: each["because"] for each in self._plan("held")}

    @property
    def obstacle(self) -> str:
        """What keeps a restart that it plans from its beginning, where it has made no step since it noted that."""
        for each in self.activity.get("events", ()):
            if each["event"] in _STEPS:
                break
            message = str(each["message"])
            if each["event"] == "step_held" and any(message.startswith(f"{name} waits for ") for name in self.planned):
                return message
        return ""

    def rotation(self, under_way: Rotation) -> Mapping[str, Any]:
        """What it says of this phase of this rotation."""
        said = self.activity.get("rotation") or {}
        same = (said.get("id"), said.get("phase")) == (under_way.id, under_way.phase.value)
        return said if same else {}

    def _plan(self, name: str) -> list[Any]:
        return list((self.activity.get("plan") or {}).get(name, ()))


_SINCE = re.compile(r" since (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
"""As the sentence of a hold has it (`pki.rotation_holds`)."""


class Handover:
    """For one command, with the state directory that it shares with the daemon of the node."""

    def __init__(self, state_dir: Path, progress: Progress, terms: Terms) -> None:
        self._state_dir, self._progress, self._terms = state_dir, progress, terms
        self._command, self._acting = NodeLock(state_dir, COMMAND), NodeLock(state_dir, ACTING)
        self._history, self._record = History(state_dir), RotationRecord(state_dir)
        self._events = Events()
        self._heard: set[tuple[str, str]] | None = None
        self._followed: int | None = None
        self._beat: tuple[float, float] = 0.0, time.monotonic()  # the last sign of life, and when it was seen first
        self._seen: object = None

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Whether this command is the one that acts, for the block: no daemon enforces here, and no other command acts.

        Raises WriteError, StateError.
        """
        ours = self._command.take() and self._acting.take()
        try:
            yield ours
        finally:
            self._acting.release()

    def patiently(self, act: Callable[[], T]) -> T:
        """Return what `act` returns, which raises BusyError at once where another process is writing: that is waited
        for, as long as it takes where that is the one that acts on this node, else for `PATIENCE`. Raises BusyError.
        """
        waited: Holder | None = None
        begun = end = datetime.now(UTC)
        while True:
            try:
                return act()
            except BusyError:
                self._follow({self._real(self._state_dir): frozenset({WRITING, ACTING})})
                writer = writer_of(self._state_dir) or Holder(0)
                acts = self._acts(writer)
                if writer != waited:
                    waited, begun = writer, datetime.now(UTC)
                    end = begun + PATIENCE
                elif not acts and datetime.now(UTC) >= end:
                    raise
                self._tell_events(self._report())
                until = None if acts else end
                self._progress.wait(f"{writer} is writing on this node", since=begun, until=until, shows=writer.shows)
                while is_held(self._state_dir, WRITING) and (acts or datetime.now(UTC) < end):
                    self._events.wait(until, at_most=_HEARD)
                    report = self._report()
                    if report.silent >= _SILENT:
                        self._tell_silence(report)

    def _acts(self, writer: Holder) -> bool:
        """Whether it is another process that acts on this node."""
        acting = holder_of(self._state_dir, ACTING)
        return acting is not None and acting.pid == writer.pid != os.getpid()

    def pause(self, until: datetime | None, interest: Interest, *, at_most: float = 300.0) -> None:
        """Wait until `until`, or until one of `interest` or a record changes. A command's own locks do not wake it."""
        self._follow({**interest, **records_of(self._state_dir)})
        self._events.wait(until, at_most=at_most)

    def look_begins(self, interest: Interest | None = None) -> None:
        """What has changed up to now is looked at now. What changes from now on, of `interest` too, ends a pause."""
        if interest is not None:
            self._follow({**interest, **records_of(self._state_dir)})
        self._events.forget()

    # What the acting process does

    def follow_restarts(self, left: Collection[str], since: datetime) -> tuple[str, str] | None:
        """Show what the acting process does about the services `left` until that changes, or it acts no more: None. A
        service and the reason where it leaves one alone although it has looked at the node `since` then.
        """
        before, end = self._ended(left), time.monotonic() + _UNTAKEN
        while True:
            report = self._report()
            if report.holder is None:
                return None
            past = self._history.all()
            if self._ended(left) != before:
                return None
            episode = next((each.episode for each in past.values() if each.episode), None)
            if episode is None and report.passed_at > since.timestamp():
                if (held := [name for name in left if name in report.held]) and not report.planned & {*left}:
                    return held[0], report.held[held[0]]
                if not report.planned & {*left} and time.monotonic() >= end:
                    return next(iter(left)), f"{report.holder} has not begun it; see: certmond status"
            if report.silent >= _SILENT:
                self._tell_silence(report)
            elif episode:
                self.tell_episode(episode)
            else:
                names = ", ".join(sorted(left))
                self._progress.wait(report.obstacle or f"{report.holder} restarts {names} next")
            if self._changed((episode and (episode.service, episode.stage), report.planned, report.held.keys())):
                return None
            self._events.wait(at_most=min(_SILENT, max(1.0, end - time.monotonic())))

    def follow_rotation(self, rotation: Rotation, noted: Rotation | None) -> None:
        """Show what the acting process does about the rotation until that changes, or it acts no more. `noted` is what
        the record of this node had of it at the last look.
        """
        while True:
            report = self._report()
            if report.holder is None or self._record_now() != noted:
                return
            said = report.rotation(rotation)
            waits = list(said.get("waits", ()))
            episode = next((each.episode for each in self._history.all().values() if each.episode), None)
            if report.silent >= _SILENT:
                self._tell_silence(report)
            elif episode:
                self.tell_episode(episode)
            elif waits:
                self.tell_rotation_wait(rotation, report.obstacle or waits[0], len(waits) - 1)
            if self._changed((rotation.phase, bool(said), waits[:1])):
                return
            self._events.wait(at_most=_SILENT)

    def tell_rotation_wait(self, rotation: Rotation, reason: str, more: int = 0) -> None:
        """Show what a phase waits for. Where time ends that, the reason has the instant; what a hold waits for has the
        command that ends it, and may have its own since.
        """
        others, since = f" (and {more} more)" if more > 0 else "", rotation.since
        fact, _, command = reason.partition("; run: ")
        if command and (found := _SINCE.search(fact)):
            since = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
            fact = fact.replace(found[0], "", 1)
        self._progress.wait(f"[{rotation.phase}] {fact}{others}", command or _way_back(rotation), since=since)

    def tell_episode(self, episode: Episode) -> None:
        """Show how far a restart is, and until when it is waited for."""
        until = episode.acted_at + self._terms.ready_within if episode.acted_at and not episode.good else None
        remedy = self._way_out(episode) if episode.trouble else ""
        said = "is being restarted" if episode.stage is Stage.ACT else state_of(episode)
        self._progress.wait(f"{episode.service}: {said}", remedy, until=until, since=episode.begun_at)

    def _way_out(self, episode: Episode) -> str:
        """The command that puts back what the service does not come up with; during a rotation its abort, because one
        file of the former CA among those of the new one would only stop it.
        """
        if rotation := self._record_now():
            return _way_back(rotation)
        names = " ".join(dict.fromkeys(target.name for target in episode.targets))
        return f"certmond archive restore {names}" if names else ""

    def _changed(self, seen: object) -> bool:
        """Whether this is another state than the one that was followed before."""
        before, self._seen = self._seen, seen
        return before != seen

    def _ended(self, names: Collection[str]) -> dict[str, datetime | None]:
        past: Mapping[str, Past] = self._history.all()
        return {name: past[name].ended_at for name in names if name in past and past[name].episode is None}

    def _record_now(self) -> Rotation | None:
        try:
            return self._record.load()
        except MalformedError:
            return None

    def _tell_silence(self, report: Report) -> None:
        """Show that the daemon hangs, and until when this command waits for it."""
        now = datetime.now(UTC)
        since, until = now - timedelta(seconds=report.silent), now + timedelta(seconds=_HUNG - report.silent)
        said = f"{report.holder} gives no sign of life"
        self._progress.wait(said, "systemctl restart certmond", since=since, until=until)

    def _silence(self, heartbeat: Mapping[str, Any]) -> float:
        """For how many seconds the daemon has given no sign of life, by this process's own clock."""
        beat, now = float(heartbeat.get("alive_at") or 0.0), time.monotonic()
        if beat != self._beat[0]:
            self._beat = beat, now
        return now - self._beat[1]

    def _report(self) -> Report:
        """Look at who acts, and at what that one says; before, follow what it writes, so that no change is lost. Raises
        BusyError where the daemon hangs.
        """
        holder = holder_of(self._state_dir, ACTING) or holder_of(self._state_dir, COMMAND)
        if self._command.is_ours and holder and holder.pid == os.getpid():
            holder = None
        if holder and holder.pid != self._followed:
            self._followed = holder.pid
            self._progress.tell(f"{holder} acts on this node; this command follows it")
        self._follow(self._records(holder.runtime_dir if holder else None))
        if holder is None or holder.runtime_dir is None:
            return Report(holder)
        heartbeat = _document(holder.runtime_dir / HEARTBEAT)
        silent = self._silence(heartbeat)
        if silent >= _HUNG:
            raise BusyError(f"{holder} has given no sign of life for {silent:.0f} s; run: systemctl restart certmond")
        passed_at = float(heartbeat.get("pass_at") or 0.0)
        report = Report(holder, _document(holder.runtime_dir / ACTIVITY), passed_at, silent)
        self._tell_events(report)
        return report

    def _tell_events(self, report: Report) -> None:
        """Show what the daemon has done since this command began to follow it."""
        found = [(each["at"], each["message"]) for each in report.activity.get("events", ()) if each["event"] in _TOLD]
        if self._heard is not None and report.activity:
            for at, message in reversed(found):
                if (at, message) not in self._heard:
                    self._progress.tell(f"daemon: {message}")
        if report.activity or self._heard is None:
            self._heard = {*found}

    # What is waited for

    def _follow(self, interest: Interest) -> None:
        self._events.follow(interest)

    def _records(self, runtime_dir: Path | None) -> Interest:
        found = records_of(self._state_dir)
        here = self._real(self._state_dir)
        found[here] = frozenset({*(found[here] or ()), ACTING, COMMAND})
        if runtime_dir:
            found[self._real(runtime_dir)] = frozenset({ACTIVITY, HEARTBEAT})
        return found

    @staticmethod
    def _real(directory: Path) -> str:
        return os.path.realpath(directory)

    def __enter__(self) -> Self:
        self._report()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End to wait, and give this command's turn back."""
        self._events.close()
        self._command.release()


def _way_back(rotation: Rotation) -> str:
    return "certmond root-ca abort" if may_be_aborted(rotation) else ""


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
