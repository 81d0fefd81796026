"""Restarts that an operator requests, and the check that services use the new certificates.

This module selects the services and collects the results. `controllers.restart` restarts a service.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Container, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from certmond.cli.messages import print_message
from certmond.cli.step_handover import Handover
from certmond.cli.wait_progress import Progress
from certmond.config.model import Config
from certmond.controllers.restart import Progress as Step
from certmond.daemon.enforcer import Enforcer
from certmond.errors import CertmondError
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.service_rules import no_longer_served
from certmond.pki.planning.steps import Derive, Held, Issue, Plan, Restart, Write
from certmond.pki.services.restart_episode import Past, Result
from certmond.pki.services.restart_state_machine import state_of
from certmond.pki.services.staleness import Surroundings

_RELOADED_WITHIN = timedelta(seconds=15)
"""Maximum time for services to reload a certificate without a restart."""


def restart_services(
    enforcer: Enforcer, handover: Handover, progress: Progress, wanted: frozenset[str], *, by_hand: bool,
    begun: datetime | None = None,
) -> tuple[dict[str, str], tuple[Held, ...]]:  # fmt: skip
    """Restart the `wanted` services that use an old file. With `by_hand`, restart all `wanted` services.

    A restart by another process counts if it has ended since `begun`, when the command began to replace files, or since
    the call of this function. Return the result of each restart, by the name of the service, and the held restarts.
    Raises the errors of `Handover.retry_while_busy`.
    """
    results, since = dict[str, str](), datetime.now(UTC)
    first_running: dict[str, str] | None = None
    while True:
        handover.discard_events()
        assessment, around = enforcer.see()
        for past in _ended_elsewhere(enforcer, wanted - results.keys(), begun or since):
            results[past.service] = str(past.result)
            progress.tell(f"{past.service}: {past.message}")
        running = {name: each.instance for name, each in around.live.services.items()} if around.live else {}
        first_running = running if first_running is None else first_running
        under_way = enforcer.restarting.restarted_now()
        restarted = {
            name for name in wanted if by_hand and running.get(name) and running[name] != first_running.get(name)
        }
        made = planned(enforcer, assessment, around, wanted - restarted - results.keys(), by_hand=by_hand)
        with handover.acting_lock() as acts:
            step = handover.retry_while_busy(partial(enforcer.restart, made, assessment, around)) if acts else None
        if not acts:
            left = {each.target for each in made.steps} | (wanted & under_way)
            if left and by_hand and not under_way:
                ask = partial(enforcer.restart, made, assessment, around, hands_over=True)
                step = handover.retry_while_busy(ask)
                if step and step.until and step.message != "is handed over":
                    _tell(handover, progress, enforcer, step)
                    handover.pause(step.until, {})
                    continue
            if left and (obstacle := handover.watch_restarts(left, since)):
                return results, (*_held(made, wanted), Held(obstacle[0], "", obstacle[1]))
            if left:
                continue
        if step is None:
            return results, _held(made, wanted)
        _tell(handover, progress, enforcer, step)
        if step.result not in {None, Result.SUPERSEDED}:
            results[step.service] = str(step.result)
        if step.until is not None:
            handover.pause(step.until, enforcer.interest)


def _held(made: Plan, wanted: Container[str]) -> tuple[Held, ...]:
    return tuple(held for held in made.held if held.target in wanted)


def _tell(handover: Handover, progress: Progress, enforcer: Enforcer, step: Step) -> None:
    """Print the result of a step, or the details of a wait."""
    episode = enforcer.restarting.under_way()
    if episode and step.until and step.message == state_of(episode):
        handover.show_restart(episode)
    elif step.message.startswith("waits for"):
        progress.wait(f"{step.service}: {step.message}")
    else:
        progress.tell(f"{step.service}: {step.message}")


def _ended_elsewhere(enforcer: Enforcer, wanted: Container[str], since: datetime) -> list[Past]:
    """Return the records of the `wanted` services whose restart ended at `since` or later. Omit superseded restarts."""
    return [
        past
        for name, past in enforcer.restarting.past().items()
        if name in wanted and past.result not in {None, Result.SEEN, Result.SUPERSEDED}
        and past.episode is None and past.ended_at and past.ended_at >= since
    ]  # fmt: skip


def planned(
    enforcer: Enforcer, assessment: Assessment, around: Surroundings, wanted: frozenset[str], *, by_hand: bool
) -> Plan:
    """Return the plan that restarts those of the `wanted` services that use an old file.

    With `by_hand`, the plan restarts all `wanted` services.
    """
    if by_hand:
        return enforcer.restarts(assessment, around, wanted)
    made = enforcer.plan(assessment, frozenset(), around)
    steps = tuple(step for step in made.steps if isinstance(step, Restart) and step.target in wanted)
    return replace(made, steps=steps)


def refuse_stopped(names: Iterable[str], config: Config, around: Surroundings) -> None:
    """Raise CertmondError if one of the services `names` does not run, or is not a service of this host."""
    if around.live is None:
        raise CertmondError("certmond restarts only services of this host; run the command on the node, without --root")
    services_now, problems = around.live.services, []
    for service in (each for each in config.services if each.name in names):
        if service.kind == "static-pod" and service.name not in services_now:
            problems.append(
                f"{service.name} is not a static Pod of this node: no manifest contains a container {service.pod}"
            )
        elif service.name in services_now and services_now[service.name].running is False:
            problems.append(
                f"{service.name} does not run, and certmond does not start stopped services; start {service.name} first"
            )
    if problems:
        raise CertmondError("\n".join(problems))


def wait_for_reloads(
    enforcer: Enforcer, progress: Progress, before: Assessment, renewed: frozenset[str], *, only_silent: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wait at most `_RELOADED_WITHIN` until services have reloaded the `renewed` certificates.

    Return two tuples of sentences: about endpoints that no longer serve any certificate, and about endpoints that do
    not serve the new certificate yet. With `only_silent`, the second tuple is empty.
    """
    if not renewed:
        return (), ()
    begun, pause = datetime.now(UTC), 0.5
    answered = [status.presence for status in before.statuses if not status.seen.endpoint]
    while True:
        assessment, _ = enforcer.see()
        mine = [status for status in assessment.certificates if status.seen.name in renewed and not only_silent]
        served = [(status.seen.name, at) for status in mine for at in status.presence.served if at.matches is not None]
        behind = tuple(f"{at.endpoint} does not serve the new {name} yet" for name, at in served if not at.matches)
        silent = tuple(no_longer_served(answered, (status.presence for status in assessment.statuses)))
        left = (begun + _RELOADED_WITHIN - datetime.now(UTC)).total_seconds()
        if not (behind or silent) or left <= 0:
            break
        progress.wait((behind or silent)[0], "certmond restart --stale", until=begun + _RELOADED_WITHIN, since=begun)
        time.sleep(min(pause, left))  # an endpoint that serves another certificate causes no file event
        pause *= 2
    for line in behind or [f"{name} is served at {at.endpoint}" for name, at in served]:
        progress.tell(line)
    for line in silent:
        print_message(f"failed: {line}", err=True)
    return silent, behind


def print_old_users(enforcer: Enforcer, done: Iterable[Write], restarted: Collection[str]) -> None:
    """Print the services that still use a certificate that the steps `done` have replaced, except `restarted`."""
    users, up_to_date = dict[str, list[str]](), _up_to_date(enforcer)
    for step in done:
        for service in step.restarts if isinstance(step, Issue | Derive) else ():
            if service not in restarted and service not in up_to_date:
                users.setdefault(service, []).append(step.target)
    for service, targets in users.items():
        print_message(f"{service} uses the old {', '.join(targets)} until a restart; run: certmond restart {service}")


def _up_to_date(enforcer: Enforcer) -> frozenset[str]:
    """Return the services with a known state that use no replaced certificate."""
    assessment, around = enforcer.see()
    services_now = around.live.services if around.live else {}
    behind = {stale.service for status in assessment.statuses for stale in status.presence.stale}
    return frozenset(name for name, each in services_now.items() if each.running is not None) - behind
