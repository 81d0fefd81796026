"""Restart of a service: a systemd unit, the container of a static Pod, or a service with a restart command.

This module never edits a manifest, and never signals a process by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

from certmond.errors import IdleError, RestartError, SigningError, TriedError, UntrustedError
from certmond.immutable_class import immutable
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.restart import static_pod_stop
from certmond.services import crictl, pid_file
from certmond.services import systemd_client as units
from certmond.services.listener_shutdown_probe import Draining
from certmond.services.observed_subjects import Pod
from certmond.subprocesses import run


@immutable
class Restarter:
    """Executor of restarts on this host. A restart calls `alive` at least every second.

    `runtime` is the endpoint of the kubelet's container runtime.
    """

    alive: Callable[[], None] = lambda: None
    runtime: str | None = None

    def act(
        self, service: ServiceSpec, instance: str, pod: Pod | None, *,
        revive: bool, listens: Collection[Endpoint] = (), delay: timedelta = timedelta(),
    ) -> str:  # fmt: skip
        """Restart the service, and return a sentence about the result.

        With `revive`, also start a stopped unit. `instance` is the container to stop if the service is a static Pod.
        Raises RestartError if no restart began, or if a container does not end. Raises IdleError if a unit does not run
        and `revive` is False, or if a service with a PID file does not run, and TriedError if a command failed.
        """
        match service.kind:
            case "systemd":
                return self._command(service) if service.command else self._unit(service, revive=revive)
            case "static-pod":
                if pod is None:
                    raise RestartError(
                        f"no static Pod on this node has a container {service.pod}; correct `pod` of the service "
                        f"{service.name}"
                    )
                client = crictl.client(self.runtime)
                draining = Draining(listens, service.drain.total_seconds()) if service.drain else None
                grace = (service.grace + delay).total_seconds()
                return static_pod_stop.stop(
                    pod, instance, crictl=client, alive=self.alive, grace=grace, draining=draining
                )  # fmt: skip
            case "command":
                seen = pid_file.service_state(service.pid_file) if service.pid_file and not revive else None
                if seen and seen.running is False:
                    raise IdleError(seen.problem or f"{service.pid_file} does not exist, so the service does not run")
                return self._command(service)

    def _unit(self, service: ServiceSpec, *, revive: bool) -> str:
        done = units.restart(
            service.unit or "", reload=service.means == "reload", revive=revive, alive=self.alive,
            limit=service.time_limit.total_seconds(),
        )  # fmt: skip
        if done.result == "not running" and not revive:
            raise IdleError(done.message)
        return done.message

    def _command(self, service: ServiceSpec) -> str:
        try:
            ended = run(service.command, service.environment, service.time_limit, self.alive)
        except UntrustedError as error:  # the program was not started
            raise RestartError(str(error)) from error
        except SigningError as error:
            raise TriedError(f"{service.command[0]} did not complete ({error})") from error
        program = service.command[0]
        if ended.status:
            raise TriedError(f"{program} exited with status {ended.status}; run this program to see the cause")
        return f"{program} has run"
