"""The restarts in `rotate --plan` equal those of a rotation, on the only control plane of a cluster."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Issued
from tests.control_plane import ELECTING
from tests.rotation.bed import Bed
from tests.rotation.cluster import FILES, QUICK, WITHIN, publish, successor
from tests.rotation.node import BedNode

pytestmark = [pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")]

API, MANAGER = "kube-apiserver", "kube-controller-manager"
EXPECTED: Mapping[str, dict[str, set[str]]] = {
    "ca": {
        "detach": {MANAGER},
        "trust": {*ELECTING, "kubelet"},
        "issue": {*ELECTING, "kubelet"},
        "distrust": {*ELECTING, "kubelet"},
        "attach": {MANAGER},
    },
    "etcd-ca": {"trust": {"etcd", API}, "distrust": {"etcd", API}},
    "front-proxy-ca": {},
    "sa": {"trust": {API}, "issue": {API, MANAGER}, "distrust": {API}},
}
"""Family, phase -> restarts. etcd reads its CA once, and so does the API server, which reads no token key again.
Kubeconfigs embed the Root CA. Everything else is reloaded.
"""
AWAY = {"etcd": 2, API: 6, MANAGER: 20, "kube-scheduler": 2}
"""About so many seconds, as docs/rotation.md has them."""


@pytest.mark.long
@pytest.mark.sampled("node")
@pytest.mark.parametrize("family", list(EXPECTED))
def test_what_is_planned_is_what_happens(programs: Path, tmp_path: Path, family: str) -> None:
    """In each phase exactly the planned services restart, each of them once. A service that ends with an API server
    because its lease is lost returns once. The plan has the length of each outage and the time of the rotation.
    """
    settings = {**QUICK, "root_ca": {"overlap": "1s", "token_overlap": "1s"}}
    with Bed(tmp_path, programs, control_planes=1, interval=200.0, settings=settings) as bed:
        bed.start()
        (node,) = bed.nodes
        node.configure()
        former, new = node.authority(), stage(node, family)
        if family == "ca":
            publish(bed, (former, new))
        document = node.json("root-ca", "rotate", "--plan", "--family", family)
        plan = {each["phase"]: set(each["restarts"]) for each in document["phases"] if each["restarts"]}
        assert plan == EXPECTED[family]
        for each in document["phases"]:
            away = {one["service"]: one["seconds"] for one in each["away"]}
            assert away == {name: AWAY[name] for name in each["restarts"] if name in AWAY}
        began = datetime.now(UTC).timestamp()
        said = rotate(node, family)
        assert ("if this is the only control-plane node" in said) == bool(plan)
        found = starts(bed, node, began)
        assert {each: set(names.values()) for each, names in found.items()} == {phase: {1} for phase in found}
        along = {phase: {*ELECTING} for phase, names in plan.items() if API in names}
        assert {each: {*names} for each, names in found.items()} == {
            phase: names | along.get(phase, set()) for phase, names in plan.items()
        }


def stage(node: BedNode, family: str) -> Issued:
    """Stage another CA of the same name with a new key."""
    name = "" if family == "sa" else node.authority(FILES[family]).cert.subject.rfc4514_string()
    new = successor(name.removeprefix("CN=") or "sa")
    content = {"new.key": new.key_pem, **({} if family == "sa" else {"new.crt": new.pem})}
    for path, text in ((node.work / name, text) for name, text in content.items()):
        path.touch(0o600)
        path.write_bytes(text)
    paths = (str(node.work / name) for name in sorted(content))
    staged = node.certmond("root-ca", "stage", *paths, "--family", family)
    assert staged.returncode == 0, staged.stderr
    return new


def rotate(node: BedNode, family: str) -> str:
    """Run it to its end and return the output of the first command. The hour in which verifiers get both token keys is
    skipped.
    """
    command = node.started("root-ca", "rotate", "--family", family)
    said = ""
    if family == "sa":
        node.pods.until(lambda: is_waiting(node), "trusts both keys, and waits")
        command.terminate()
        said = command.communicate(timeout=WITHIN)[0]
        path = node.state / "rotation/record.json"
        record = json.loads(path.read_text())
        record["published"] = (datetime.fromisoformat(record["published"]) - timedelta(hours=2)).isoformat()
        path.write_text(json.dumps(record))
        command = node.started("root-ca", "rotate", "--family", family)
    more = command.communicate(timeout=WITHIN)[0]
    assert command.returncode == 0, more
    return said or more


def is_waiting(node: BedNode) -> bool:
    with suppress(FileNotFoundError):
        record: dict[str, Any] = json.loads((node.state / "rotation/record.json").read_text())
        return record["phase"] == "trust" and record["published"] is not None
    return False


def starts(bed: Bed, node: BedNode, began: float) -> dict[str, Counter[str]]:
    """Return the number of starts of each component in each phase, by the components' record."""
    phases = [
        (datetime.fromisoformat(each["at"]).timestamp(), each["phase"])
        for each in node.trail() if each["event"] == "rotation"
    ]  # fmt: skip
    found = defaultdict[str, Counter[str]](Counter)
    for line in map(json.loads, bed.record.path.read_text().splitlines()):
        if line.get("event") == "ready" and line["at"] > began:
            phase = max((at, name) for at, name in phases if at <= line["at"])[1]
            found[phase][line["by"].partition("/")[2]] += 1
    return dict(found)
