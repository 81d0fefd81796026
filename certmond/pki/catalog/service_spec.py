"""Entries of services: how certmond restarts a service of the node, and which certificates the service uses.

This module defines the model and the rules for a single entry. `config` merges the entries of the profile with the
entries of the operator's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.field_types import (
    AbsolutePath,
    Duration,
    EndpointText,
    HealthAddress,
    Many,
    Model,
    Name,
    words,
)

T = TypeVar("T")


class ServiceSpec(Model):
    """A service on this node: how certmond restarts the service, and which certificates the service uses."""

    name: Name = Field(description="the name of the service in reports and references")
    kind: Literal["systemd", "static-pod", "command"] = Field(description="how certmond restarts the service")
    unit: str | None = Field(default=None, description="for kind `systemd`: the unit, such as `kubelet.service`")
    pod: str | None = Field(
        default=None, description="for kind `static-pod`: the name of the container, such as `kube-apiserver`"
    )
    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        default=(),
        description="for kind `command`: a list of the program and its arguments, executed without a shell. For kind "
        "`systemd`: the program that restarts the unit in place of systemd, such as a process monitor.",
    )
    pid_file: AbsolutePath | None = Field(
        default=None,
        description="for kind `command`: the file that contains the PID of the service. With this file, certmond "
        "determines when the process started, verifies that the command replaced the process, and restarts a service "
        "that started before the last change to its files. Without the file, the service does not run on this node.",
    )
    environment: Mapping[str, str] = Field(default={}, description="for kind `command`: environment variables, by name")
    time_limit: Duration = Field(
        default=timedelta(minutes=2), description="the time limit for the command, or for the systemd job of the unit"
    )
    grace: Duration = Field(
        default=timedelta(seconds=30),
        description="for kind `static-pod`: the time between SIGTERM and SIGKILL. certmond adds the component's "
        "`--shutdown-delay-duration` to this time.",
    )
    drain: Duration | None = Field(
        default=None,
        description="for kind `static-pod`: the time for which a process may run after it has closed its listeners. "
        "After this time, certmond sends SIGKILL, even before the end of `grace`. By default, only `grace` applies.",
    )
    restart_takes: Duration | None = Field(
        default=None,
        description="the measured time from the end of a process until the next process serves. `certmond root-ca "
        "rotate --dry-run` uses this time to report the downtime of the service in a cluster with one "
        "control-plane node.",
    )
    means: Literal["restart", "reload"] = Field(
        default="restart",
        description="for kind `systemd`: the systemd job after which the service uses new files. Choose `reload` only "
        "if the unit supports this job.",
    )
    reloads: Many[str] = Field(default=(), description="the certificates that the service reloads without a restart")
    serves: Mapping[str, Many[EndpointText]] = Field(
        default={},
        description="the certificates that the service serves: names of entries, each with one or more endpoints. An "
        "endpoint is `ADDRESS:PORT`, or `NAME@ADDRESS:PORT` with a server name (SNI). certmond makes a TLS handshake "
        "with each endpoint, and compares the served certificate with the file. By default, certmond reads the "
        "endpoints from the component's flags.",
    )
    listens: Many[EndpointText] = Field(
        default=(),
        description="the endpoints at which the service serves a certificate that is in no certificate file, in the "
        "format of `serves`. certmond makes a TLS handshake with each endpoint, and reports the served certificate as "
        "an entry of kind `served`.",
    )
    health: Many[HealthAddress] = Field(
        default=(),
        description="the health endpoints, as `http://ADDRESS:PORT/PATH`, `https://ADDRESS:PORT/PATH` or "
        "`tcp://ADDRESS:PORT`. An HTTP endpoint is healthy if its status code is 200 to 399, 401 or 403. A TCP "
        "endpoint is healthy if it accepts a connection. By default, certmond uses the readiness or liveness probe "
        "of a static Pod, and the kubelet's `healthzPort`.",
    )
    after: Many[str] = Field(
        default=(),
        description="the services that certmond restarts before this service. certmond rejects dependency cycles.",
    )
    belongs_with: Many[AbsolutePath] = Field(
        default=(), description="the service belongs to this node only if one of these files exists"
    )
    not_with: Many[AbsolutePath] = Field(
        default=(), description="the service does not belong to this node if one of these files exists"
    )

    @property
    def changes_instance(self) -> bool:
        """Whether certmond can observe that a restart replaces the process of the service. False for a reload."""
        return self.is_observable and self.means == "restart"

    @property
    def is_observable(self) -> bool:
        """Whether certmond can observe the process of the service. False for kind `command` without a PID file."""
        return self.kind != "command" or self.pid_file is not None

    @field_validator("means")
    @classmethod
    def _reloads_a_unit(cls, means: str, info: ValidationInfo) -> str:
        if means == "reload" and info.data.get("kind") != "systemd":
            raise ValueError("must be restart unless the kind is systemd")
        return means

    @field_validator("pid_file")
    @classmethod
    def _of_a_command(cls, pid_file: str | None, info: ValidationInfo) -> str | None:
        if pid_file and info.data.get("kind") != "command":
            raise ValueError("must be absent unless the kind is command")
        return pid_file

    @field_validator("unit", "pod", "command")
    @classmethod
    def _belongs_to_kind(cls, value: T, info: ValidationInfo) -> T:
        kind = {"unit": "systemd", "pod": "static-pod", "command": "command"}[info.field_name or ""]
        if not value and info.data.get("kind") == kind:
            raise ValueError(f"must be given for kind {kind}")
        return value


class OutageSpec(CertificateSpec):
    """An entry for a service that does not run. `path` is its manifest, unit or PID file."""


class ClusterObjectSpec(CertificateSpec):
    """An entry for objects of the Kubernetes API with findings. Each observation has the path of its object."""


class ConfigurationSpec(CertificateSpec):
    """An entry for the configuration of certmond. certmond reports its problems, and does not assess a certificate."""
