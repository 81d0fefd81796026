"""A cluster for tests of a rotation of several nodes: each node with its real coordinator client and its rights.

The nodes' files are not part of it: the test sets the report of a node. Time advances only in the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from certmond.cluster.api_access import Access
from certmond.cluster.lease_lock import ROTATION, ClusterLease
from certmond.cluster.node_api import ANNOTATION
from certmond.cluster.record import ClusterRecord, parse
from certmond.cluster.record_rules import record_of, rotation_of
from certmond.cluster.rotation_coordinator import ClusterConductor
from certmond.config.parser import parse as configuration
from certmond.config.source_merger import Source
from certmond.pki.catalog.duration import format_duration
from certmond.pki.rotation.gates import Gate, Report
from certmond.pki.rotation.phases import Mode, Phase, Rotation, desired
from certmond.pki.services.trust_set_digest import digest_of
from certmond.pki.x509.certificate import Certificate, to_pem
from tests.builders import DAY, HOUR, make_ca
from tests.cluster.api_server import ApiServer

POLL, OVERLAP = timedelta(seconds=10), timedelta(minutes=10)
SPACES = ("default", "kube-public", "kube-system")


class Place:
    """One node, and its report."""

    def __init__(self, world: World, name: str, worker: bool, boot: str, settings: dict[str, Any]) -> None:
        self.world, self.name, self.worker = world, name, worker
        own = world.access_of(f"system:node:{name}", "system:nodes")
        self.access = own if worker else world.access_of(f"certmond-{name}", "certmond")
        self.lease = ClusterLease(
            self.access.kubeconfig, identity=name, name=ROTATION, alive=world.alive, monotonic=lambda: world.seconds
        )
        overlap = settings.pop("overlap", format_duration(OVERLAP))
        access, own = (Access(each.kubeconfig, each.time_limit, world.alive) for each in (self.access, own))
        document = {
            "mode": "enforce", "profile": "none", "root_ca": {"overlap": overlap},
            "cluster": {"workloads": "ignore"} | settings,
        }  # fmt: skip
        self.conductor = ClusterConductor(
            access, self.lease, configuration([Source("test", yaml.safe_dump(document))]), node=name, own=own,
            boot=boot, clock=lambda: world.now, monotonic=lambda: world.seconds,
        )  # fmt: skip
        labels = {} if worker else {"node-role.kubernetes.io/control-plane": ""}
        if not world.has("nodes", name):
            world.api.store.add("nodes", name, metadata={"labels": labels})

    def report(self, rotation: Rotation, /, **changes: Any) -> Report:
        """Return the report of a node that has reached the phase, with the changes."""
        wanted = desired(rotation)
        issuer = wanted.leaves.sha256 if wanted and wanted.leaves else ""
        trust = digest_of(wanted.trust if wanted else rotation.old)
        made = Report(rotation.id, rotation.phase, trust, issuer, signs=not self.worker, ready=not self.worker)
        return replace(made, **changes)

    def gate(self, rotation: Rotation, /, **changes: Any) -> Gate:
        return self.conductor.gate(rotation, self.report(rotation, **changes), self.world.now)

    @property
    def says(self) -> str | None:
        """Return its annotation."""
        found = self.world.api.store.get("nodes", self.name)["metadata"].get("annotations", {}).get(ANNOTATION)
        assert found is None or isinstance(found, str)
        return found


class World:
    """`old` is the CA with which the cluster signs, `new` the one that will follow."""

    def __init__(self, api: ApiServer, access_of: Callable[..., Access]) -> None:
        self.api, self.access_of = api, access_of
        self.now, self.seconds = datetime.now(UTC), 1000.0
        self.old, self.new = api.ca, make_ca(not_before=self.now - DAY, not_after=self.now + 100 * DAY)
        self.lives = 0

    def alive(self) -> None:
        self.lives += 1

    def node(self, name: str, *, worker: bool = False, boot: str = "", **settings: Any) -> Place:
        return Place(self, name, worker, boot, settings)

    def passes(self, span: timedelta) -> None:
        self.now += span
        self.seconds += span.total_seconds()

    def rotation(self, phase: Phase = Phase.PREPARE, /, **changes: Any) -> Rotation:
        made = Rotation("r-1", "ca", Mode.OVERLAP, (self.old.facts,), self.new.facts, phase, self.now - HOUR)
        return replace(made, **changes)

    # The objects of the API

    @property
    def recorded(self) -> ClusterRecord | None:
        if not self.has("configmaps", "certmond-rotation", "kube-system"):
            return None
        found = self.api.store.get("configmaps", "certmond-rotation", "kube-system")
        return parse(found["data"]["record"], "it")

    @property
    def phase(self) -> Phase | None:
        return rotation_of(self.recorded).phase if self.recorded else None

    def record(self, rotation: Rotation, /, **changes: Any) -> None:
        """Write a record like another node, node-9."""
        made = replace(record_of(rotation, "node-9"), **changes)
        self.put("configmaps", "certmond-rotation", "kube-system", data={"record": made.text()})

    def put(self, resource: str, name: str, namespace: str = "", **content: Any) -> None:
        if not self.has(resource, name, namespace):
            self.api.store.add(resource, name, namespace, **content)
            return
        found = self.api.store.get(resource, name, namespace)
        found |= content | {"metadata": found["metadata"] | content.get("metadata", {})}
        self.api.store.change(found)

    def has(self, resource: str, name: str, namespace: str = "") -> bool:
        try:
            self.api.store.get(resource, name, namespace)
        except ValueError:
            return False
        return True

    def publish(self, *trust: Certificate) -> None:
        """Publish like kube-controller-manager, in every namespace."""
        pem = b"".join(map(to_pem, trust)).decode()
        for space in SPACES:
            self.put("configmaps", "kube-root-ca.crt", space, data={"ca.crt": pem})

    def calls(self, *methods: str) -> list[str]:
        return [call for call in self.api.calls if call.split()[0] in methods]
