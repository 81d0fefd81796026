"""Subjects of an observation of services: units, Pods, PID files, endpoints and health addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from certmond.immutable_class import immutable
from certmond.pki.catalog.endpoint import Endpoint

if TYPE_CHECKING:
    from certmond.services.health_probe import Anchors


@immutable(kw_only=True)
class Pod:
    """A container of a static Pod. `container` is the name of the container in the manifest.

    `name` is the name of the mirror Pod, which ends with the name of the node. `executable` is the base name of the
    first word of the container's command.
    """

    container: str
    name: str
    namespace: str = "kube-system"
    executable: str


@immutable
class Question:
    """Subjects of an observation: endpoints, health addresses, and the other subjects by the name of their service."""

    units: Mapping[str, str] = field(default_factory=dict)
    pid_files: Mapping[str, str] = field(default_factory=dict)
    pods: Mapping[str, Pod] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    health: Mapping[str, Anchors] = field(default_factory=dict)
