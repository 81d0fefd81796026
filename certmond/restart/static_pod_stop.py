"""Stop of one container of a static Pod. The kubelet then starts the container again with the present files.

certmond identifies the container by its ID or by a pidfd. certmond never changes a manifest, because the kubelet treats
an edited manifest as another Pod.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from certmond.errors import RestartError
from certmond.services.containers import RunningContainer, running_containers, still_runs
from certmond.services.crictl import Crictl
from certmond.services.listener_shutdown_probe import Draining
from certmond.services.observed_subjects import Pod

_AFTER_KILL = 10.0  # seconds in which a killed process ends, unless the kernel blocks it
_TURN = 0.5  # seconds between two checks; `stop` must call `alive` every second, and a wait after the drain is downtime


def stop(
    pod: Pod,
    instance: str,
    *,
    crictl: Crictl | None,
    alive: Callable[[], None],
    grace: float = 30.0,
    draining: Draining | None = None,
    proc: str = "/proc",
    logs: str = "/var/log/pods",
) -> str:
    """Stop the container `instance` with SIGTERM, and with SIGKILL after `grace` seconds or when `draining` is over.

    Return a sentence about the result. Raises RestartError, without a signal, if a different or additional container of
    the Pod runs, or if certmond cannot identify the process. Also raises RestartError if certmond may not signal the
    process, or if the process does not end after SIGKILL.
    """

    def observe() -> list[RunningContainer]:
        return running_containers((pod,), proc, logs)[pod]

    if crictl is None:
        return _by_signal(pod, observe(), instance, grace=grace, alive=alive, draining=draining, proc=proc)
    asked = False
    try:
        ids = crictl.running(pod, alive)
        if asked := ids == [instance]:
            with _kill_when_drained(pod, observe(), draining, alive, proc) as wait:
                crictl.stop(instance, math.ceil(grace), wait)
            return f"the container runtime stopped {_name(pod, instance)}"
    except RestartError as error:  # certmond stops the container even if the runtime does not answer
        failure = str(error)
    else:
        return _another(pod, ids, instance, observe())
    found = observe()
    if asked and instance not in _ids(found):
        return f"{_name(pod, instance)} has ended, but the container runtime reported an error: {failure}"
    done = _by_signal(pod, found, instance, grace=grace, alive=alive, draining=draining, proc=proc)
    return f"{done} (certmond could not use the container runtime: {failure})"


@contextmanager
def _kill_when_drained(
    pod: Pod, found: Sequence[RunningContainer], draining: Draining | None, alive: Callable[[], None], proc: str
) -> Iterator[Callable[[], None]]:
    """Yield a function that kills the process after its endpoints have drained.

    The caller calls this function repeatedly during the stop of the container.
    """
    if draining is None or len(found) != 1:
        yield alive
        return
    (only,) = found
    descriptor = -1  # without a pidfd, the runtime waits for the whole grace period
    with suppress(OSError):
        descriptor = os.pidfd_open(only.pid)
    if descriptor < 0:
        yield alive
        return

    def wait() -> None:
        alive()
        if identified and draining.over():
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    try:
        identified = _mismatch(pod, only, proc) is None
        yield wait
    finally:
        os.close(descriptor)


def _another(pod: Pod, ids: Sequence[str], instance: str, found: Sequence[RunningContainer]) -> str:
    """Return a sentence if no container of the Pod runs.

    Raises RestartError if crictl lists another container, or if a container runs that crictl does not list.
    """
    if ids:
        raise _not_alone(pod, ids, instance)
    if found:
        detail = f"{_name(pod, found[0].container_id)} runs as PID {found[0].pid}, but crictl does not list it"
        raise RestartError(f"{detail}; set the runtime endpoint of the kubelet in /etc/crictl.yaml")
    return _none(pod)


def _by_signal(
    pod: Pod, found: Sequence[RunningContainer], instance: str, *,
    grace: float, alive: Callable[[], None], draining: Draining | None, proc: str,
) -> str:  # fmt: skip
    if not found:
        return _none(pod)
    if _ids(found) != [instance]:
        raise _not_alone(pod, _ids(found), instance)
    (only,) = found
    name = f"{_name(pod, instance)}, PID {only.pid},"
    try:
        descriptor = os.pidfd_open(only.pid)
    except ProcessLookupError:
        return f"{name} ended before the stop"
    except OSError as error:
        raise RestartError(
            f"{name} has a process that certmond cannot open ({error.strerror}); raise LimitNOFILE= of the unit"
        ) from error
    try:
        # The descriptor always refers to the same process. From here on, the checks of the PID apply to this process.
        mismatch = _mismatch(pod, only, proc)
        if _ends(descriptor, 0, alive):
            return f"{name} ended before the stop"
        if mismatch:
            raise RestartError(f"certmond did not stop {name} {mismatch}")
        return _end(descriptor, name, grace, alive, draining)
    finally:
        os.close(descriptor)


def _mismatch(pod: Pod, found: RunningContainer, proc: str) -> str | None:
    """Return why certmond must not signal this PID, or None if certmond may signal it."""
    try:
        program = os.readlink(os.path.join(proc, str(found.pid), "exe"))
    except PermissionError:
        return "because certmond cannot read the program; grant certmond CAP_SYS_PTRACE, or install crictl on this host"
    except OSError:  # the process has ended, which `still_runs` reports
        program = ""
    if not still_runs(found, proc):
        return "because the PID belongs to another process now; repeat the restart"
    if os.path.basename(program.removesuffix(" (deleted)")) != pod.executable:
        return (
            f"because the container runs {program or 'no program'} instead of {pod.executable}; see the manifest of "
            "the Pod"
        )
    return None


def _end(
    descriptor: int, name: str, grace: float, alive: Callable[[], None], draining: Draining | None
) -> str:  # fmt: skip
    """End the process with SIGTERM, then with SIGKILL. Return a sentence about the result.

    Raises RestartError if certmond has no permission to send a signal, or if the process does not end.
    """
    for sent, seconds, until in ((signal.SIGTERM, grace, draining), (signal.SIGKILL, _AFTER_KILL, None)):
        try:
            signal.pidfd_send_signal(descriptor, sent)
        except ProcessLookupError:
            pass  # the process has ended meanwhile, which its descriptor shows
        except PermissionError as error:
            remedy = "grant certmond CAP_KILL, or install crictl on this host"
            raise RestartError(f"certmond has no permission to signal {name} on this node; {remedy}") from error
        if _ends(descriptor, seconds, alive, until):
            return f"{name} was ended by {sent.name}"
    raise RestartError(f"{name} does not end after SIGKILL; see /proc/PID/stack for the call in which the kernel waits")


def _ends(descriptor: int, seconds: float, alive: Callable[[], None], draining: Draining | None = None) -> bool:
    """Return whether the process ends within `seconds`. Return False early if `draining` is over first."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + seconds
    while not waiting.poll(1000 * max(0.0, min(deadline - time.monotonic(), _TURN))):
        alive()
        if time.monotonic() >= deadline or (draining and draining.over()):
            return False
    return True


def _not_alone(pod: Pod, ids: Sequence[str], instance: str) -> RestartError:
    runs = " and ID ".join(each[:13] for each in ids)
    fact = f"container {pod.container} of Pod {pod.name} now runs with the container ID {runs}"
    detail = f"{fact}, instead of only with the observed ID {instance[:13]}"
    return RestartError(f"{detail}; certmond stopped no container; repeat the restart")


def _none(pod: Pod) -> str:
    return f"no container {pod.container} of {pod.name} runs; the kubelet starts it"


def _name(pod: Pod, container_id: str) -> str:
    return f"the container {container_id[:13]} ({pod.container} of {pod.name})"


def _ids(found: Sequence[RunningContainer]) -> list[str]:
    return [each.container_id for each in found]
