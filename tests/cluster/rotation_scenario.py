"""A rotation that makes every possible write in a cluster, and the invariants whatever happens to each write.

It has a control-plane node with its files, and a worker that only reports. No pass waits: the clocks advance by the
time that it would have waited.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.cluster.node_api import ANNOTATION
from certmond.cluster.record_rules import rotation_of
from certmond.pki.rotation.phases import Phase, Rotation, abort, desired, following
from certmond.pki.rotation.worker_batches import held_back
from certmond.pki.x509.certificate import Anchor
from certmond.pki.x509.certificate_file_parser import decode
from tests.builders import SECOND
from tests.cluster.coordinator_world import POLL, World
from tests.cluster.lease_store import Json
from tests.cluster.test_canaries import info
from tests.cluster.test_rotation_coordinator import daemon_set, fit, pod
from tests.controllers.test_rotation import Watched
from tests.rotation_node import RotatingNode, root_ca

NODE, WORKER = "node-1", "worker-1"


class _Hasty(RotatingNode):
    """On its clock each wait has passed."""

    waited = timedelta(0)

    def clock(self) -> datetime:
        return super().clock() + self.waited


class Scenario:
    """The rotation of the node `node` and of a worker in `world`. `problems` has the observed violations."""

    def __init__(self, world: World, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, api = world, world.api
        monkeypatch.setattr(
            "certmond.controllers.coordinator_factory.KUBELET_CONF", api.user(f"system:node:{NODE}", "system:nodes")
        )
        rights: Any = {"kubeconfig": api.user("certmond", "certmond"), "workloads": "restart"}
        self.node = _Hasty(place, hurried=False, cluster=rights)
        world.old, world.new = self.node.old, root_ca()
        self.node.stage(world.new)
        api.store.add("nodes", NODE, metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}})
        self._worker = world.node(WORKER, worker=True)
        assert api.rbac
        api.rbac.bind("certmond-rotation-ca-bundles", "certmond")
        api.store.add("serviceaccounts", "certmond", "kube-system")
        info(api, world.old.pem)
        hook = {"name": "a.b.c", "clientConfig": {"caBundle": base64.b64encode(world.old.pem).decode()}}
        mark = {"annotations": {"certmond.io/ca-bundle": "ca"}}
        api.store.add("validatingwebhookconfigurations", "own-hook", webhooks=[hook], metadata=mark)
        daemon_set(world, "web")
        api.store.controllers[:] = [self._control]
        self.problems, self.restarts, self._started = list[str](), 0, list[Callable[[], None]]()
        self._answer = api.answer
        monkeypatch.setattr(api, "answer", self._watched)

    def _control(self, resource: str, _: Json) -> None:
        """Act like a slow controller: the Pod is replaced two passes later."""
        if resource == "daemonsets":
            self.restarts += 1
            self._started = [lambda: None, partial(pod, self.world, "web-1", self.node.clock() + SECOND, "web")]

    def command(self, verb: str) -> None:
        """Repeat the command of an operator until it succeeds, or has succeeded before."""
        for _ in range(10):
            said = self.node.hurry("root-ca", verb, "--no-wait")
            if said.code == 0 or "is an abort already" in said.err:
                return
            self.problems += [f"{verb}: {said}"] * ("certmond: " not in said.err or "Traceback" in said.err)
        raise AssertionError(f"{verb} is never done")

    def passes(self) -> Iterator[Phase | None]:
        """Pass after pass of both nodes, in which phase the first one is, until it has ended the rotation."""
        node, enforcer = self.node, self.node.enforcer()
        watched = Watched(node, self.world.new)
        for _ in range(200):
            if self.world.recorded:
                fit(self.world, rotation_of(self.world.recorded))
            if self._started:
                self._started.pop(0)()
            assessment, around = enforcer.see()
            made = enforcer.plan(assessment, around=around)
            if made.writes:
                results = (each.result for each in enforcer.executor.execute(made))
                self.problems += [f"a step is {each}" for each in results if each != "done"]
                watched.look("exit")
            elif enforcer.rotate(assessment, around, made) is None:
                node.waited += SECOND
                self.world.passes(POLL)
            self._follow()
            if node.record is None and self.world.phase is Phase.DONE:
                self.problems += watched.problems
                return
            yield node.phase
        raise AssertionError(f"{node.record}: {enforcer.rotating.waits}")

    def _follow(self) -> None:
        """Let the worker make the steps of its batch as soon as it reads the record."""
        self._worker.conductor.ask()
        rotation = self._worker.conductor.follow(None, ())
        if rotation and not rotation.over and not held_back(rotation, WORKER):
            self._worker.gate(rotation)

    # The state of the cluster

    def _watched(self, method: str, path: str, body: bytes, **more: Any) -> Any:
        """Check each call that takes effect: the phases follow each other, and each ends when its requirements are
        met.
        """
        before = self.world.recorded
        answer = self._answer(method, path, body, **more)
        after = self.world.recorded
        if method != "GET" and before and after != before:
            if after is None:
                self.problems.append("the record does not exist")
            elif after.phase != before.phase or after.id != before.id:
                self.problems += self._wrong(rotation_of(before), rotation_of(after))
        return answer

    def _wrong(self, left: Rotation, begun: Rotation) -> Iterator[str]:
        if begun.id == f"{left.id}-back":
            if begun.phase is not abort(left, begun.since).phase:
                yield f"back from {left.phase} in {begun.phase}"
            return
        if (begun.id, begun.phase) != (left.id, following(left, begun.since).phase):
            yield f"from {left.phase} to {begun.phase}"
        for name in (NODE, WORKER):
            said = self.world.api.store.get("nodes", name)["metadata"].get("annotations", {}).get(ANNOTATION, "")
            if not said.startswith(f"{left.id}/{left.phase}/"):
                yield f"{name} has said {said}, and {left.phase} was left"
        if left.phase is Phase.TRUST and not left.aborted and self.restarts != 1:
            yield f"the workload was restarted {self.restarts} times, and trust was left"
        if left.phase in {Phase.TRUST, Phase.ISSUE, Phase.DISTRUST} and (wanted := desired(left)):
            yield from (f"{each}, and {left.phase} was left" for each in self._untrusting({*wanted.trust}))

    def _untrusting(self, wanted: set[Anchor]) -> Iterator[str]:
        """Yield the objects of the cluster that do not trust exactly these CAs."""
        store = self.world.api.store
        known = yaml.safe_load(store.get("configmaps", "cluster-info", "kube-public")["data"]["kubeconfig"])
        hook = store.get("validatingwebhookconfigurations", "own-hook")["webhooks"][0]["clientConfig"]
        places = {"cluster-info": known["clusters"][0]["cluster"]["certificate-authority-data"],
                  "the webhook": hook["caBundle"]}  # fmt: skip
        for where, data in places.items():
            if {*decode(base64.b64decode(data), where).certificates} != wanted:
                yield f"{where} trusts others"

    def unwell(self, ca: Any) -> list[str]:
        """Return all violations on the way or at the end, where `ca` must be the only CA."""
        left = [f"{name} is left" for name in self.world.api.objects if name != "certmond-canary"]
        over = [f"the record is in {self.world.phase}"] * (self.world.phase is not Phase.DONE)
        often = [f"the workload was restarted {self.restarts} times"] * (self.restarts > 1)
        return [*self.problems, *self.node.unwell(ca), *self._untrusting({ca.facts}), *left, *over, *often]
