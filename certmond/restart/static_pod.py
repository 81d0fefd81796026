"""Stop of one container of a static Pod, which the kubelet then starts again with the present files.

Owns that exactly the observed container is stopped: by its id with the runtime's client, or without one by a pidfd that
is checked after it was opened. A name alone never suffices. Also owns the wait: until the container has ended, has
drained (`services.listener_probe`), or its grace is over. Starts nothing, because the kubelet does. Never touches a
manifest: an edited or moved one is another Pod.
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
from certmond.services.containers import Pod, RunningContainer, running_containers, still_runs
from certmond.services.crictl import Crictl
from certmond.services.listener_probe import Draining

_AFTER_KILL = 10.0  # seconds in which a killed process ends, unless the kernel blocks it
_TURN = 0.5  # seconds; `alive` is due every second, and waiting for a drained process is downtime


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
    """Stop the container `instance` of the Pod: SIGTERM, and SIGKILL after `grace` seconds or when `draining` is over.

    Return what was done, as a phrase. If no container of the Pod runs, nothing is done. Raises RestartError, before any
    act, if another one or several run; and if this one cannot be stopped.
    """

    def look() -> list[RunningContainer]:
        return running_containers((pod,), proc, logs)[pod]

    if crictl is None:
        return _by_signal(pod, look(), instance, grace=grace, alive=alive, draining=draining, proc=proc)
    asked = False
    try:
        ids = crictl.running(pod, alive)
        if asked := ids == [instance]:
            with _cut_short(pod, look(), draining, alive, proc) as turn:
                crictl.stop(instance, math.ceil(grace), turn)
            return f"{_name(pod, instance)} was stopped by the container runtime"
    except RestartError as error:  # even if the runtime does not answer, the container must be stopped
        excuse = str(error)
    else:
        return _another(pod, ids, instance, look())
    found = look()
    if asked and instance not in _ids(found):
        return f"{_name(pod, instance)} has ended, though the container runtime did not say so: {excuse}"
    done = _by_signal(pod, found, instance, grace=grace, alive=alive, draining=draining, proc=proc)
    return f"{done}, without the container runtime: {excuse}"


@contextmanager
def _cut_short(
    pod: Pod, found: Sequence[RunningContainer], draining: Draining | None, alive: Callable[[], None], proc: str
) -> Iterator[Callable[[], None]]:
    """Yield the function to call while the runtime waits for the container: it kills the process when that has drained.

    If the process cannot be opened or identified, only the grace of the runtime counts.
    """
    if draining is None or len(found) != 1:
        yield alive
        return
    (only,) = found
    descriptor = -1
    with suppress(OSError):
        descriptor = os.pidfd_open(only.pid)
    if descriptor < 0:
        yield alive
        return

    def turn() -> None:
        alive()
        if sure and draining.over():
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    try:
        sure = _doubt(pod, only, proc) is None
        yield turn
    finally:
        os.close(descriptor)


def _another(pod: Pod, ids: Sequence[str], instance: str, found: Sequence[RunningContainer]) -> str:
    """Return or raise the result if the runtime does not run exactly this container."""
    if ids:
        raise _not_alone(pod, ids, instance)
    if found:
        detail = f"{_name(pod, found[0].container_id)} runs as PID {found[0].pid}, but crictl does not know it"
        raise RestartError(f"{detail}; give crictl the endpoint of the kubelet's runtime in /etc/crictl.yaml")
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
        return f"{name} has just ended by itself"
    except OSError as error:
        raise RestartError(f"{name} cannot be opened ({error.strerror}); see the limits of certmond") from error
    try:
        # The descriptor always refers to one process: the checks of the PID now hold for the process that is signaled.
        doubt = _doubt(pod, only, proc)
        if _ends(descriptor, 0, alive):
            return f"{name} has just ended by itself"
        if doubt:
            raise RestartError(f"{name} was left alone: {doubt}")
        return _end(descriptor, name, grace, alive, draining)
    finally:
        os.close(descriptor)


def _doubt(pod: Pod, found: RunningContainer, proc: str) -> str | None:
    """Return why the PID may not be the observed process or the Pod's program, or None if it is."""
    try:
        program = os.readlink(os.path.join(proc, str(found.pid), "exe"))
    except PermissionError:
        return "which program it runs may not be read; give certmond CAP_SYS_PTRACE, or the host crictl"
    except OSError:  # it has ended, which `still_runs` reports
        program = ""
    if not still_runs(found, proc):
        return "it is not any more the process that was seen; look again"
    if os.path.basename(program.removesuffix(" (deleted)")) != pod.executable:
        return f"it runs {program or 'no program'}, and not {pod.executable}; see what its manifest starts"
    return None


def _end(
    descriptor: int, name: str, grace: float, alive: Callable[[], None], draining: Draining | None
) -> str:  # fmt: skip
    """Send SIGTERM, wait for the grace or until it has drained, send SIGKILL, and wait until it has ended."""
    for sent, seconds, until in ((signal.SIGTERM, grace, draining), (signal.SIGKILL, _AFTER_KILL, None)):
        try:
            signal.pidfd_send_signal(descriptor, sent)
        except ProcessLookupError:
            pass  # it has ended meanwhile, which its descriptor shows
        except PermissionError as error:
            raise RestartError(f"{name} may not be signalled; give certmond CAP_KILL, or the host crictl") from error
        if _ends(descriptor, seconds, alive, until):
            return f"{name} was ended by {sent.name}"
    raise RestartError(f"{name} does not even end by SIGKILL; see in its /proc/PID/stack what the kernel waits for")


def _ends(descriptor: int, seconds: float, alive: Callable[[], None], draining: Draining | None = None) -> bool:
    """Return whether the process has ended, or ends within `seconds` and before it has drained."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + seconds
    while not waiting.poll(1000 * max(0.0, min(deadline - time.monotonic(), _TURN))):
        alive()
        if time.monotonic() >= deadline or (draining and draining.over()):
            return False
    return True


def _not_alone(pod: Pod, ids: Sequence[str], instance: str) -> RestartError:
    runs = " and ".join(each[:13] for each in ids)
    detail = f"{pod.container} of {pod.name} runs as {runs} now, and not as {instance[:13]} alone, which was seen"
    return RestartError(f"{detail}; nothing was stopped, look again")


def _none(pod: Pod) -> str:
    return f"no container {pod.container} of {pod.name} runs: nothing was done, the kubelet is about to start it"


def _name(pod: Pod, container_id: str) -> str:
    return f"the container {container_id[:13]} ({pod.container} of {pod.name})"


def _ids(found: Sequence[RunningContainer]) -> list[str]:
    return [each.container_id for each in found]
