"""Real daemons carry the rotations of the other anchors through: front proxies', etcd's, and the keys of tokens."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane import PKI
from tests.rotation.cluster import WITHIN, Cluster, cluster
from tests.rotation.node import BedNode
from tests.rotation.refusals import UNAUTHORIZED

pytestmark = [pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")]

LASTS = 10.0
"""Seconds that a token in a pod lasts."""
TOKENS: dict[str, Any] = {"overlap": "1s", "token_overlap": "15s"}


@pytest.mark.long
@pytest.mark.sampled("cluster")
@pytest.mark.parametrize("family", ["front-proxy-ca", "etcd-ca"])
def test_another_ca(programs: Path, tmp_path: Path, family: str) -> None:
    """The CA of etcd, and that of front proxies, is rotated without a refused connection. At the end certificates of
    the old one are refused. Workers have no part in it.
    """
    with cluster(programs, tmp_path, family=family) as made:
        mark = made.bed.settled()
        made.begin()
        made.ends()
        worker = made.daemons[-1]
        assert not worker.phase
        assert not worker.over
        made.check(mark)


@pytest.mark.long
@pytest.mark.sampled("cluster")
def test_the_keys_of_tokens(programs: Path, tmp_path: Path) -> None:
    """The keys are rotated while Pods connect to every API server: none of their tokens is refused before its end. At
    the end one of the old key is, although it would last longer.
    """
    with cluster(programs, tmp_path, family="sa", tokens=LASTS, root_ca=TOKENS) as made:
        bed, first = made.bed, made.bed.control_planes[0]
        old = token(first)
        mark = bed.settled()
        made.begin()
        made.daemons[0].running.until(lambda: an_hour_passes(made), "is trusted everywhere", WITHIN)
        made.ends()
        made.check(mark)
        for node in bed.control_planes:
            address = f"{node.address}:6443"
            assert first.asked(address, bearer=old) == UNAUTHORIZED
            assert first.asked(address, bearer=token(node)) == ""
            assert node.held("kube-controller-manager")[f"{PKI}/sa.key"] == node.sha256(f"{PKI}/sa.key")


def token(node: BedNode) -> str:
    """Return a new token of its API server, valid for a day."""
    made = node.asked(f"{node.address}:6443", node.current_pair(), token="true")
    assert made.count(".") == 2, made
    return made


def an_hour_passes(made: Cluster) -> bool:
    """Set the instant from which the rotation counts an hour in `trust` to an hour earlier. Return False while it does
    not count.
    """
    store = made.bed.backend.store
    with made.bed.backend.lock:
        found = store.get("configmaps", "certmond-rotation", "kube-system")
        record = json.loads(found["data"]["record"])
        if record["phase"] != "trust" or not record["published"]:
            return False
        record["published"] = (datetime.fromisoformat(record["published"]) - timedelta(hours=1)).isoformat()
        found["data"]["record"] = json.dumps(record)
        store.change(found)
    return True
