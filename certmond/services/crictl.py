"""Client of the container runtime. The client runs the program crictl of cri-tools.

The client selects containers by labels, and stops a container by its full ID.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta

from certmond.errors import RestartError, SigningError, UntrustedError
from certmond.services.observed_subjects import Pod
from certmond.subprocesses import Ended, first_line, run

_PROGRAMS = ("/usr/local/bin/crictl", "/usr/bin/crictl", "/var/lib/rancher/rke2/bin/crictl")
_K3S = ("/usr/local/bin/k3s", "/usr/bin/k3s", "/opt/bin/k3s")  # paths of the installer of k3s
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

_LIMIT = timedelta(seconds=20)  # for the program; the grace period of a container is added
_CALL = 10  # seconds for one call to the runtime; the default of crictl is 2 seconds


def client(endpoint: str | None = None, root: str = "/") -> Crictl | None:
    """Return the client for the host whose files are below `root`, or None if crictl is not installed.

    If crictl has no configuration file, the client uses `endpoint`, the container runtime endpoint of the kubelet.
    Without `endpoint`, the client uses the first known socket that exists on the host.
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
    """Client of the container runtime. `command` is the program and the arguments that select the runtime.

    The time limit of a call is `limit`. For `stop`, the grace period is added to this limit.
    """

    def __init__(self, command: tuple[str, ...], limit: timedelta = _LIMIT) -> None:
        self.command = command
        self._limit = limit

    def running(self, pod: Pod, alive: Callable[[], None]) -> list[str]:
        """Return the IDs of the running containers of the Pod. Raises RestartError if crictl fails."""
        labels = [word for name, value in _labels(pod).items() for word in ("--label", f"{name}={value}")]
        ended = self._run(("ps", "--state", "Running", *labels, "-o", "json"), _CALL, self._limit, alive)
        return _ids(ended.output, pod)

    def stop(self, container_id: str, grace: int, alive: Callable[[], None]) -> None:
        """Stop a container with SIGTERM, and with SIGKILL after `grace` seconds. Wait for the end of the container.

        Raises RestartError if the runtime fails or exceeds the time limit. Even then, the container might have ended.
        """
        limit = self._limit + timedelta(seconds=grace)
        # The --timeout after `stop` is the grace period. The --timeout before `stop` limits the call to the runtime.
        self._run(("stop", "--timeout", str(grace), container_id), grace + _CALL, limit, alive)

    def _run(self, verb: tuple[str, ...], call: int, limit: timedelta, alive: Callable[[], None]) -> Ended:
        remedy = f"run this command manually to see the cause: {' '.join(self.command)} ps"
        try:
            ended = run((*self.command, "--timeout", f"{call}s", *verb), {}, limit, alive)
        except UntrustedError as error:
            raise RestartError(str(error)) from error
        except SigningError as error:
            fact = str(error).partition("; ")[0]  # without the remedy, which is for signers
            raise RestartError(f"{fact}; {remedy}") from error
        if ended.status != 0:
            said = first_line(ended.said) or first_line(ended.output)
            raise RestartError(f"{self.command[0]} {verb[0]} ended with status {ended.status} ({said}); {remedy}")
        return ended


def _ids(answer: bytes, pod: Pod) -> list[str]:
    """Return the IDs of the running containers that have the labels of the Pod, from a ListContainersResponse.

    Raises RestartError if `answer` is malformed.
    """
    try:
        containers = json.loads(answer)["containers"]
        return [
            str(container["id"])
            for container in containers
            if container["state"] == "CONTAINER_RUNNING" and _labels(pod).items() <= container["labels"].items()
        ]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RestartError(
            "crictl ps did not return the JSON list of the containers; check the version: crictl --version"
        ) from error


def _labels(pod: Pod) -> dict[str, str]:
    """Return the labels that the kubelet sets on the container of the Pod."""
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
    """Return the first path that exists below `root` and permits the access `mode`, or None if no path does."""
    return next((path for path in (root.rstrip("/") + each for each in paths) if os.access(path, mode)), None)
