"""The whole of it: real daemons carry a rotation through on a bed where everybody connects to everybody all the time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.builders import HOUR, YEAR, make_ca
from tests.control_plane import PKI
from tests.daemon_harness import Running, running
from tests.rotation.bed import Bed
from tests.rotation.making import built
from tests.rotation.node import BedNode, like
from tests.rotation.record import summary

pytestmark = [pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")]

QUICK: dict[str, Any] = {
    "restart": {"reload_within": "3s", "ready_within": "20s", "stable": "1s", "spacing": "1s"},
    "root_ca": {"overlap": "1s"},
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("programs"))


def daemon(node: BedNode) -> Any:
    options = ("--state-dir", str(node.state))
    bus = f"unix:path={node.bus}"
    return running(Path("/"), node.work, *options, before=node.inside, DBUS_SYSTEM_BUS_ADDRESS=bus)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_node(programs: Path, tmp_path: Path) -> None:
    """Found."""
    with Bed(tmp_path, programs, control_planes=1, interval=50.0, settings=QUICK) as bed:
        bed.start()
        (node,) = bed.nodes
        old = node.authority()
        now = datetime.now(UTC)
        new = make_ca("kubernetes", not_before=now - HOUR, not_after=now + 10 * YEAR)
        with daemon(node) as running_daemon:
            running_daemon.until(lambda: (node.state / "anchors.json").exists(), "knows its anchors")
            mark = bed.settled()
            node.replace(f"{PKI}/ca.key", new.key_pem)
            node.replace(f"{PKI}/ca.crt", new.pem)
            try:
                running_daemon.until(lambda: (node.state / "rotation/last.json").exists(), "ends", within=200)
            finally:
                print(summary(bed.failures(mark)))
                print({str(d): (t.good, t.down, len(t.failures), round(t.rate)) for d, t in bed.tallies(mark).items()})
                for line in (node.work / "log").read_text().splitlines():
                    entry = json.loads(line)
                    if entry.get("kind") in {"rotation", "step_failed"}:
                        print(entry["timestamp"], entry["kind"], entry["event"][:230])
