"""The behavior of the stand-ins of a bed, independent of a rotation, and certmond's run on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane import PKI, SCHEDULER_CONF
from tests.rotation.bed import DENSE, Make
from tests.rotation.node import like
from tests.rotation.phase_script import RootCA
from tests.rotation.record import LATE, Record

pytestmark = [
    *(pytest.mark.real(part) for part in ("cgroup", "go", "unshare")),
    pytest.mark.timeout(300),  # a machine that has much else to do makes few connections
]

API = "kube-apiserver"


@pytest.mark.long
def test_a_torn_pair(make: Make) -> None:
    """With a key that does not match, an API server continues with its last good pair, and each handshake of etcd
    fails.
    """
    bed = make()
    (node,) = bed.nodes
    for name in ("apiserver", "etcd/server"):
        key = node.read(f"{PKI}/{name}.key")
        node.replace(f"{PKI}/{name}.key", node.read(f"{PKI}/front-proxy-client.key"))
        mark = bed.settled()
        assert bed.failing(mark) == ({(API, "etcd")} if name == "etcd/server" else set())
        node.replace(f"{PKI}/{name}.key", key)
    assert bed.failing(bed.settled()) == set()


@pytest.mark.long
def test_a_bind_mounted_file(make: Make) -> None:
    """In a container a bind-mounted file stays the old one after a rename, until the container restarts. A mounted
    directory shows the renamed file.
    """
    bed = make()
    (node,) = bed.nodes

    def seen(component: str, path: str) -> bytes:
        root = f"/proc/{node.starts(component)[-1]['pid']}/root"
        return Path(root + path).read_bytes()

    former = node.read(SCHEDULER_CONF)
    node.replace(SCHEDULER_CONF, former + b"# another\n")
    node.replace(f"{PKI}/ca.crt", node.read(f"{PKI}/ca.crt") + b"# another\n")
    assert seen("kube-scheduler", SCHEDULER_CONF) == former
    assert seen(API, f"{PKI}/ca.crt") == node.read(f"{PKI}/ca.crt")
    node.restart("kube-scheduler")
    assert seen("kube-scheduler", SCHEDULER_CONF) == node.read(SCHEDULER_CONF)


def test_what_is_down(tmp_path: Path) -> None:
    """Only a connection that breaks after an attempt in which the server's process was away tells nothing: not one that
    breaks without that, and not a refusal, whenever it is. The lines may be in any order.
    """
    record = Record(tmp_path / "record")
    lines: list[dict[str, Any]] = [
        {"by": "n/server", "at": at, "event": event} for at, event in ((10, "ready"), (20, "ends"), (30, "ready"))
    ]
    for at in (5, 15, 25, 30 + LATE / 2, 35):
        ends = ("network", "trust")
        lines += [{"by": "n/it", "to": "n/server", "at": at, "began": at, "kind": kind, "reason": ""} for kind in ends]
    for began in (29, 19):  # the client, or its connection, stalls meanwhile
        lines.append({"by": "n/it", "to": "n/server", "at": 34, "began": began, "kind": "network", "reason": "late"})
    lines.append({"by": "n/it", "to": "n/server", "at": 36, "good": 7})
    lines.append({"by": "n/it", "to": "n/server", "at": 12, "good": 1})  # by a process that stalled before the write
    record.path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"half": a line')
    (tally,) = record.tallies().values()
    assert [each.at for each in record.failures() if each.kind == "network"] == [15, 35]
    assert [each.at for each in record.failures() if each.kind == "trust"] == [5, 15, 25, 30 + LATE / 2, 35]
    assert (tally.good, tally.down) == (8, 5)
    assert [each.at for each in record.failures(since=35)] == [35, 35]


@pytest.mark.long
def test_a_restart_is_no_failure(make: Make) -> None:
    """While the process of a server is down, connections to it are counted as down. The components that end with it are
    recorded.
    """
    bed = make(workers=1, interval=DENSE)  # at a longer interval, a server may be back before the next connection
    with bed.no_outage():
        for name in ("etcd", API, "kubelet"):
            bed.nodes[0].restart(name)
    down = {direction.to for direction, tally in bed.tallies().items() if tally.down}
    assert down >= {f"node-1/{name}" for name in ("etcd", API)}


@pytest.mark.long
def test_daemons(make: Make) -> None:
    """certmond runs on each node, finds its components and its kubelet's unit, and takes the restart lock from the
    cluster's API: the reader of a replaced kubeconfig is restarted without an outage.
    """
    settings = {"cluster": {"kubeconfig": "/etc/kubernetes/kubelet.conf"}}
    bed = make(control_planes=2, workers=1, settings=settings)
    script, node = RootCA(bed), bed.nodes[0]
    with bed.no_outage(), bed.daemons() as daemons:
        first = daemons[node.name]
        node.edit_kubeconfig(SCHEDULER_CONF, client=like(node.client_of(SCHEDULER_CONF), script.old))
        proven = 'certmond_restarts_total{result="proven",service="kube-scheduler"}'
        first.until(lambda: first.number(proven) == 1, "the scheduler is restarted")
        restarted = bed.nodes[-1].certmond("restart", "kubelet")
        assert (restarted.returncode, restarted.stderr) == (0, ""), restarted.stdout
        assert "kubelet: kubelet was restarted and is healthy" in restarted.stdout
    assert any("leases" in call for call in bed.backend.calls)
    assert node.attempts() == {name: int(name == "kube-scheduler") for name in node.components}
    assert (bed.nodes[-1].work / "kubelet-unit.log").read_text().count("ready\n") == 2
