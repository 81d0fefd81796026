"""The client of the container runtime, as operators have it: crictl, from cri-tools.

Owns its command line, where it and its configuration are found, and what its answers mean. Names containers by their
labels, never by a pattern, and stops one by its whole id. Decides nothing: which one that is, is the caller's.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta

from certmond.errors import RestartError, SigningError, UntrustedError
from certmond.services.containers import Pod
from certmond.subprocesses import Ended, first_line, run

_PROGRAMS = ("/usr/local/bin/crictl", "/usr/bin/crictl", "/var/lib/rancher/rke2/bin/crictl")
_K3S = ("/usr/local/bin/k3s", "/usr/bin/k3s", "/opt/bin/k3s")  # where its installer puts it
_CONFIGURATIONS = (
    "/etc/crictl.yaml",
    "/var/lib/rancher/rke2/agent/etc/crictl.yaml",
    "/var/lib/rancher/k3s/agent/etc/crictl.yaml",
)
_SOCKETS = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/cri-dockerd.sock",
)

_LIMIT = timedelta(seconds=20)  # for the program; a container's grace comes on top of it
_CALL = 10  # seconds for one call to the runtime, where crictl's own are 2


def client(endpoint: str | None = None, root: str = "/") -> Crictl | None:
    """The client of the host whose files are below `root`; None where it has none.

    `endpoint` is the runtime's as the kubelet is told it, and counts where crictl has no configuration of its own.
    """
    program = _program(root)
    if program is None:
        return None
    if configuration := _existing(_CONFIGURATIONS, root):
        return Crictl((*program, "--config", configuration))
    if socket := endpoint or _existing(_SOCKETS, root):
        return Crictl((*program, "--runtime-endpoint", f"unix://{socket}" if socket.startswith("/") else socket))
    return Crictl(program)


class Crictl:
    """`command` is the program with what it needs to reach the runtime. Every call takes `limit` at most."""

    def __init__(self, command: tuple[str, ...], limit: timedelta = _LIMIT) -> None:
        self.command = command
        self._limit = limit

    def running(self, pod: Pod, alive: Callable[[], None]) -> list[str]:
        """The ids of the pod's running containers of that name. Raises RestartError where the runtime cannot tell."""
        labels = [word for name, value in _labels(pod).items() for word in ("--label", f"{name}={value}")]
        ended = self._run(("ps", "--state", "Running", *labels, "-o", "json"), _CALL, self._limit, alive)
        return _ids(ended.output, pod)

    def stop(self, container_id: str, grace: int, alive: Callable[[], None]) -> None:
        """SIGTERM, and after `grace` seconds SIGKILL, to this container; returns when it has ended.

        Raises RestartError where the runtime cannot, or did not in time. It may have ended even so.
        """
        limit = self._limit + timedelta(seconds=grace)
        # Without its own --timeout, `stop` has no grace at all. The other one is for the call that waits for it.
        self._run(("stop", "--timeout", str(grace), container_id), grace + _CALL, limit, alive)

    def _run(self, verb: tuple[str, ...], call: int, limit: timedelta, alive: Callable[[], None]) -> Ended:
        remedy = f"run {' '.join(self.command)} ps by hand to see why"
        try:
            ended = run((*self.command, "--timeout", f"{call}s", *verb), {}, limit, alive)
        except UntrustedError as error:
            raise RestartError(str(error)) from error
        except SigningError as error:
            fact = str(error).partition("; ")[0]  # its remedy is for signers
            raise RestartError(f"{fact}; {remedy}") from error
        if ended.status != 0:
            said = first_line(ended.said) or first_line(ended.output)
            raise RestartError(f"{self.command[0]} {verb[0]} ended with status {ended.status} ({said}); {remedy}")
        return ended


def _ids(answer: bytes, pod: Pod) -> list[str]:
    """The ids in a ListContainersResponse of running containers with the pod's labels; the others are no answer."""
    try:
        containers = json.loads(answer)["containers"]
        return [
            str(container["id"])
            for container in containers
            if container["state"] == "CONTAINER_RUNNING" and _labels(pod).items() <= container["labels"].items()
        ]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RestartError("crictl ps did not answer with the JSON of its containers; see what crictl it is") from error


def _labels(pod: Pod) -> dict[str, str]:
    """What the kubelet has written on the container."""
    return {
        "io.kubernetes.container.name": pod.container,
        "io.kubernetes.pod.namespace": pod.namespace,
        "io.kubernetes.pod.name": pod.name,
    }


def _program(root: str) -> tuple[str, ...] | None:
    if program := shutil.which("crictl") or _existing(_PROGRAMS, root, os.X_OK):
        return (program,)
    k3s = shutil.which("k3s") or _existing(_K3S, root, os.X_OK)
    return (k3s, "crictl") if k3s else None


def _existing(paths: tuple[str, ...], root: str, mode: int = os.F_OK) -> str | None:
    """The first of the paths that is there, as it is to be called from here."""
    return next((path for path in (root.rstrip("/") + each for each in paths) if os.access(path, mode)), None)
