"""One container of a static pod is stopped, so that the kubelet starts it again with the files that are there now.

Owns that it is exactly the container that was seen, and no other: by its id with the runtime's client, and without one
by a descriptor of its process that is checked after it was opened. Names are never enough to stop anything. Owns as
well how long it is waited for: until it has ended, has drained (`host.draining`), or its grace is over. Starts nothing,
which is the kubelet's, and never touches a manifest: an edited or moved one is another pod.
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
from certmond.services.containers import Found, Pod, find, is_still
from certmond.services.crictl import Crictl
from certmond.services.listener_probe import Draining

_AFTER_KILL = 10.0  # seconds in which a process ends that has been killed, unless the kernel holds it
_TURN = 0.5  # seconds; `alive` is due every second, and a process that has drained is pure outage


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
    """Stop the container `instance` of the pod: SIGTERM, and SIGKILL after `grace` seconds, or as soon as `draining` is
    over. What was done, in words.

    Where no container of the pod runs, nothing is done. Raises RestartError, before anything is done, where another one
    or more than one runs; and where this one cannot be stopped.
    """

    def look() -> list[Found]:
        return find((pod,), proc, logs)[pod]

    if crictl is None:
        return _by_signal(pod, look(), instance, grace=grace, alive=alive, draining=draining, proc=proc)
    asked = False
    try:
        ids = crictl.running(pod, alive)
        if asked := ids == [instance]:
            with _cut_short(pod, look(), draining, alive, proc) as turn:
                crictl.stop(instance, math.ceil(grace), turn)
            return f"{_name(pod, instance)} was stopped by the container runtime"
    except RestartError as error:  # a runtime that does not answer is no reason to leave the container as it is
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
    pod: Pod, found: Sequence[Found], draining: Draining | None, alive: Callable[[], None], proc: str
) -> Iterator[Callable[[], None]]:
    """What to call while the runtime waits for a container to end: the process is killed when it has drained.

    Where it cannot be opened or told for sure, the runtime's own grace is what counts.
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


def _another(pod: Pod, ids: Sequence[str], instance: str, found: Sequence[Found]) -> str:
    """What there is to say where the runtime does not run this one container and no other."""
    if ids:
        raise _not_alone(pod, ids, instance)
    if found:
        detail = f"{_name(pod, found[0].container_id)} runs as PID {found[0].pid}, but crictl does not know it"
        raise RestartError(f"{detail}; give crictl the endpoint of the kubelet's runtime in /etc/crictl.yaml")
    return _none(pod)


def _by_signal(
    pod: Pod, found: Sequence[Found], instance: str, *,
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
        # The descriptor is one process for good: what the PID is found to be now is what will be signalled.
        doubt = _doubt(pod, only, proc)
        if _ends(descriptor, 0, alive):
            return f"{name} has just ended by itself"
        if doubt:
            raise RestartError(f"{name} was left alone: {doubt}")
        return _end(descriptor, name, grace, alive, draining)
    finally:
        os.close(descriptor)


def _doubt(pod: Pod, found: Found, proc: str) -> str | None:
    """Why the PID may not be the process that was found, or not the pod's program; None where it is."""
    try:
        program = os.readlink(os.path.join(proc, str(found.pid), "exe"))
    except PermissionError:
        return "which program it runs may not be read; give certmond CAP_SYS_PTRACE, or the host crictl"
    except OSError:  # it has ended, which is no doubt of its own
        program = ""
    if not is_still(found, proc):
        return "it is not any more the process that was seen; look again"
    if os.path.basename(program.removesuffix(" (deleted)")) != pod.executable:
        return f"it runs {program or 'no program'}, and not {pod.executable}; see what its manifest starts"
    return None


def _end(
    descriptor: int, name: str, grace: float, alive: Callable[[], None], draining: Draining | None
) -> str:  # fmt: skip
    """SIGTERM, the grace or until it has drained, SIGKILL; until the process has ended."""
    for sent, seconds, until in ((signal.SIGTERM, grace, draining), (signal.SIGKILL, _AFTER_KILL, None)):
        try:
            signal.pidfd_send_signal(descriptor, sent)
        except ProcessLookupError:
            pass  # it has ended meanwhile, which its descriptor says as well
        except PermissionError as error:
            raise RestartError(f"{name} may not be signalled; give certmond CAP_KILL, or the host crictl") from error
        if _ends(descriptor, seconds, alive, until):
            return f"{name} was ended by {sent.name}"
    raise RestartError(f"{name} does not even end by SIGKILL; see in its /proc/PID/stack what the kernel waits for")


def _ends(descriptor: int, seconds: float, alive: Callable[[], None], draining: Draining | None = None) -> bool:
    """Whether the process ends within so many seconds, and before it has drained; or has ended."""
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


def _ids(found: Sequence[Found]) -> list[str]:
    return [each.container_id for each in found]
