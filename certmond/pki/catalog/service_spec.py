"""Entries of services: how certmond restarts a service of the node, and which certificates the service uses.

This module defines the model and the rules for a single entry. `config` merges the entries of the profile with the
entries of the operator's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from certmond.pki.catalog.annotations import Beside
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.field_types import (
    AbsolutePath,
    Duration,
    EndpointText,
    HealthAddress,
    Many,
    Name,
    Words,
)
from certmond.pki.catalog.model_class import model, setting


def _reloads_a_unit(means: str, others: Mapping[str, Any]) -> None:
    if means == "reload" and others.get("kind") != "systemd":
        raise ValueError("must be restart unless the kind is systemd")


def _of_a_command(pid_file: str | None, others: Mapping[str, Any]) -> None:
    if pid_file and others.get("kind") != "command":
        raise ValueError("must be absent unless the kind is command")


def _required_for(kind: str) -> Beside:
    def check(value: object, others: Mapping[str, Any]) -> None:
        if not value and others.get("kind") == kind:
            raise ValueError(f"must be given for kind {kind}")

    return Beside(check)


@model
class ServiceSpec:
    """A service on this node: how certmond restarts the service, and which certificates the service uses."""

    name: Name = setting(
        "the name of the service in reports and references",
    )
    kind: Literal["systemd", "static-pod", "command"] = setting(
        "how certmond restarts the service",
    )
    unit: Annotated[str | None, _required_for("systemd")] = setting(
        "for kind `systemd`: the unit, such as `kubelet.service`",
        default=None,
    )
    pod: Annotated[str | None, _required_for("static-pod")] = setting(
        "for kind `static-pod`: the name of the container, such as `kube-apiserver`",
        default=None,
    )
    command: Annotated[Words, _required_for("command")] = setting(
        "for kind `command`: a list of the program and its arguments, executed without a shell. For kind "
        "`systemd`: the program that restarts the unit in place of systemd, such as a process monitor.",
        default=(),
    )
    pid_file: Annotated[AbsolutePath | None, Beside(_of_a_command)] = setting(
        "for kind `command`: the file that contains the PID of the service. With this file, certmond "
        "determines when the process started, verifies that the command replaced the process, and restarts a service "
        "that started before the last change to its files. Without the file, the service does not run on this node.",
        default=None,
    )
    environment: Mapping[str, str] = setting(
        "for kind `command`: environment variables, by name",
        default_factory=dict,
    )
    time_limit: Duration = setting(
        "the time limit for the command, or for the systemd job of the unit",
        default=timedelta(minutes=2),
    )
    grace: Duration = setting(
        "for kind `static-pod`: the time between SIGTERM and SIGKILL. certmond adds the component's "
        "`--shutdown-delay-duration` to this time.",
        default=timedelta(seconds=30),
    )
    drain: Duration | None = setting(
        "for kind `static-pod`: the time for which a process may run after it has closed its listeners. "
        "After this time, certmond sends SIGKILL, even before the end of `grace`. By default, only `grace` applies.",
        default=None,
    )
    restart_takes: Duration | None = setting(
        "the measured time from the end of a process until the next process serves. `certmond root-ca "
        "rotate --dry-run` uses this time to report the downtime of the service in a cluster with one "
        "control-plane node.",
        default=None,
    )
    means: Annotated[Literal["restart", "reload"], Beside(_reloads_a_unit)] = setting(
        "for kind `systemd`: the systemd job after which the service uses new files. Choose `reload` only "
        "if the unit supports this job.",
        default="restart",
    )
    reloads: Many[str] = setting(
        "the certificates that the service reloads without a restart",
        default=(),
    )
    serves: Mapping[str, Many[EndpointText]] = setting(
        "the certificates that the service serves: names of entries, each with one or more endpoints. An "
        "endpoint is `ADDRESS:PORT`, or `NAME@ADDRESS:PORT` with a server name (SNI). certmond makes a TLS handshake "
        "with each endpoint, and compares the served certificate with the file. By default, certmond reads the "
        "endpoints from the component's flags.",
        default_factory=dict,
    )
    listens: Many[EndpointText] = setting(
        "the endpoints at which the service serves a certificate that is in no certificate file, in the "
        "format of `serves`. certmond makes a TLS handshake with each endpoint, and reports the served certificate as "
        "an entry of kind `served`.",
        default=(),
    )
    health: Many[HealthAddress] = setting(
        "the health endpoints, as `http://ADDRESS:PORT/PATH`, `https://ADDRESS:PORT/PATH` or "
        "`tcp://ADDRESS:PORT`. An HTTP endpoint is healthy if its status code is 200 to 399, 401 or 403. A TCP "
        "endpoint is healthy if it accepts a connection. By default, certmond uses the readiness or liveness probe "
        "of a static Pod, and the kubelet's `healthzPort`.",
        default=(),
    )
    after: Many[str] = setting(
        "the services that certmond restarts before this service. certmond rejects dependency cycles.",
        default=(),
    )
    belongs_with: Many[AbsolutePath] = setting(
        "the service belongs to this node only if one of these files exists",
        default=(),
    )
    not_with: Many[AbsolutePath] = setting(
        "the service does not belong to this node if one of these files exists",
        default=(),
    )

    @property
    def changes_instance(self) -> bool:
        """Whether certmond can observe that a restart replaces the process of the service. False for a reload."""
        return self.is_observable and self.means == "restart"

    @property
    def is_observable(self) -> bool:
        """Whether certmond can observe the process of the service. False for kind `command` without a PID file."""
        return self.kind != "command" or self.pid_file is not None


class OutageSpec(CertificateSpec):
    """An entry for a service that does not run. `path` is its manifest, unit or PID file."""


class ClusterObjectSpec(CertificateSpec):
    """An entry for objects of the Kubernetes API with findings. Each observation has the path of its object."""


class ConfigurationSpec(CertificateSpec):
    """An entry for the configuration of certmond. certmond reports its problems, and does not assess a certificate."""
