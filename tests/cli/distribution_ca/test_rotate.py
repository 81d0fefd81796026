"""`root-ca rotate` on nodes of k3s: the command of the distribution, the restarts and the checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rancher_cluster import RancherCluster, rancher_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RancherCluster]:
    with rancher_cluster(tmp_path) as made:
        yield made


def test_one_server(cluster: RancherCluster) -> None:
    server = cluster.first
    before = server.files()
    done = server.command("root-ca", "stage")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert server.files() == before
    done = server.command("root-ca", "rotate", "--plan")
    print(done.stdout, done.stderr)
    done = server.command("root-ca", "rotate")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    done = server.command("check")
    print(done.stdout, done.stderr)
    assert 0
