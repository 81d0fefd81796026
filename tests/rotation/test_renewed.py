"""All leaves of the only control plane of a cluster are renewed while every component connects to its peers."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.control_plane import ELECTING
from tests.rotation.bed import Bed
from tests.rotation.cluster import QUICK, WITHIN

pytestmark = [pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")]


@pytest.mark.long
def test_no_request_fails(programs: Path, tmp_path: Path) -> None:
    """`renew --all` breaks no connection to the API server or to etcd. The controller-manager and the scheduler restart
    once, and so does the kubelet, whose own certificate is among them.
    """
    with Bed(tmp_path, programs, control_planes=1, interval=50.0, settings=QUICK) as bed:
        bed.start()
        (node,) = bed.nodes
        node.configure()
        mark, began = bed.settled(), datetime.now(UTC).timestamp()
        command = node.started("renew", "--all")
        said = command.communicate(timeout=WITHIN)[0]
        assert command.returncode == 0, said
        bed.settled()
        assert bed.failures(mark) == []
        down = {each.to: tally.down for each, tally in bed.tallies(mark).items() if tally.down}
        assert not {"node-1/kube-apiserver", "node-1/etcd"} & {*down}, down
        lines = map(json.loads, bed.record.path.read_text().splitlines())
        started = Counter(each["by"] for each in lines if each.get("event") == "ready" and each["at"] > began)
        assert started == Counter(f"node-1/{name}" for name in (*ELECTING, "kubelet"))
