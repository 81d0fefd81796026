"""The services that the manifests of a node demand. tests/test_distributions.py has the other facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml

from certmond.config.loader import load
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.findings import Reason
from certmond.pki.services.service_observation import Live, Outage, ServiceSeen
from certmond.pki.services.staleness import Surroundings
from certmond.services.content_times import Changes
from certmond.services.service_state_collector import SurroundingsObserver
from tests.node import Node

MANIFESTS = "etc/kubernetes/manifests"
COMPONENTS = {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}


def looked_at(node: Node) -> tuple[Store, Surroundings]:
    config = load(None)
    store = Store(config.certificates, str(node.root))
    changes = Changes(node.root / "state", keeps=False)
    observer = SurroundingsObserver(config, str(node.root), changes, acting=False)
    return store, observer.view(store, store.observe(), {})


def test_the_manifests_demand_the_components_of_a_control_plane(node: Node) -> None:
    """Each static Pod of a service has its manifest, and the time of the last change of the manifest."""
    _, found = looked_at(node)
    assert found.demands.keys() == COMPONENTS
    path = node.path(f"{MANIFESTS}/etcd.yaml")
    assert found.demands["etcd"].manifest == f"/{MANIFESTS}/etcd.yaml"
    assert abs(found.demands["etcd"].since.timestamp() - path.stat().st_ctime) < 0.001


def test_an_edit_during_an_outage_does_not_change_the_demand(node: Node) -> None:
    """The daemon keeps the time of the manifest while the service does not run."""
    config, now = load(None), datetime.now(UTC)
    observer = SurroundingsObserver(config, str(node.root), Changes(node.root / "state", keeps=False), acting=False)
    store = Store(config.certificates, str(node.root))
    times = []
    for outage in (Outage(now, now), Outage(now, now), None):
        observer._observer.seen = Live(now, {"etcd": ServiceSeen(running=False, outage=outage)})
        times.append(observer.around(store, store.observe(), {}).demands["etcd"].since)
        node.replace(f"{MANIFESTS}/etcd.yaml", node.read(f"{MANIFESTS}/etcd.yaml"))
    assert times[0] == times[1] < times[2]


def test_a_worker_has_no_demands(node: Node) -> None:
    """Without a manifest, no static Pod should run."""
    for path in node.path(MANIFESTS).iterdir():
        path.unlink()
    assert looked_at(node)[1].demands == {}


@pytest.mark.parametrize("command", [["sh", "-c", "exec etcd"], ["/opt/wrapper"]])
def test_a_program_behind_another_program_is_not_demanded(node: Node, command: list[str]) -> None:
    """If the command is a shell or a wrapper, the name of the process is unknown, and certmond states no outage."""
    manifest = yaml.safe_load(node.read(f"{MANIFESTS}/etcd.yaml"))
    manifest["spec"]["containers"][0]["command"] = command
    node.replace(f"{MANIFESTS}/etcd.yaml", yaml.safe_dump(manifest))
    assert looked_at(node)[1].demands.keys() == COMPONENTS - {"etcd"}


def test_another_instance_of_a_service_is_another_process(node: Node) -> None:
    """After a restart, the daemon reads the command lines again. A served certificate alone needs no such reading."""
    config, now = load(None), datetime.now(UTC)
    observer = SurroundingsObserver(config, str(node.root), Changes(node.root / "state", keeps=False), acting=False)
    store = Store(config.certificates, str(node.root))
    inventory = store.observe()
    found = []
    first, second, third = (Live(now, {"kubelet": ServiceSeen(True, instance)}) for instance in ("a", "a", "b"))
    for seen in (None, Live(now), first, second, third):
        observer._observer.seen = seen
        found.append(observer.sees_other_processes)
        observer.around(store, inventory, {})
        assert not observer.sees_other_processes
    assert found == [False, False, True, False, True]


@pytest.mark.parametrize(("acting", "kept"), [(False, {"etcd"}), (True, set())], ids=["observe", "enforce"])
def test_a_reload_keeps_the_observation_of_unchanged_services(node: Node, acting: bool, kept: set[str]) -> None:
    """The findings about the services stay until the next observation. The state of a service with another
    configuration, and a change of the mode, need a new observation first.
    """
    before, after = load(None), load(None)
    names = [each.name for each in after.services]
    changed = [*after.services]
    changed[names.index("kubelet")] = replace(changed[names.index("kubelet")], unit="other.service")
    after = replace(after, services=tuple(changed))
    changes, now = Changes(node.root / "state", keeps=False), datetime.now(UTC)
    former = SurroundingsObserver(before, str(node.root), changes, acting=False)
    observer = SurroundingsObserver(after, str(node.root), changes, acting=acting)
    store = Store(before.certificates, str(node.root))
    observer.continue_from(former)
    assert observer.around(store, store.observe(), {}).live is None
    outage = ServiceSeen(running=False, outage=Outage(now, now))
    former._observer.seen = Live(now, {"etcd": outage, "kubelet": ServiceSeen(True)})
    first = former.around(store, store.observe(), {}).demands["etcd"]
    node.replace(f"{MANIFESTS}/etcd.yaml", node.read(f"{MANIFESTS}/etcd.yaml"))
    observer.continue_from(former)
    found = observer.around(store, store.observe(), {})
    assert (set(found.live.services) if found.live else set()) == kept
    assert (found.demands["etcd"] == first) is bool(kept)
    assert not observer.sees_other_processes


def test_below_another_root_no_service_is_missing(node: Node) -> None:
    """With `--root`, certmond cannot see the processes of the node, and reports no outage."""
    store, found = looked_at(node)
    assessment = assess(store.observe(), datetime.now(UTC), around=found)
    reasons = {item.reason for status in assessment.statuses for item in status.findings}
    assert found.live is None
    assert Reason.NOT_RUNNING not in reasons
