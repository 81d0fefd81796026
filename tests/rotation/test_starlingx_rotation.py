"""The external API of a StarlingX controller during a rotation of the Root CA, through a real HAProxy."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane import PKI
from tests.rotation.bed import Bed
from tests.rotation.cluster import QUICK, publish, reported
from tests.rotation.node import BedNode
from tests.rotation.record import summary
from tests.rotation.starlingx import BUNDLE, Controller
from tests.rotation.test_plan import rotate, stage, starts

pytestmark = [pytest.mark.real(part) for part in ("cgroup", "go", "haproxy", "openssl", "unshare")]

PHASES = ("trust", "issue", "distrust")
"""The phases that change the Root CA in ca.crt, or the client certificate of HAProxy."""
REFUSED = "trust remote error: tls: unknown certificate authority"


@pytest.mark.long
def test_no_request_through_haproxy_fails(programs: Path, tmp_path: Path) -> None:
    """HAProxy restarts in each phase that changes the Root CA, and no request through HAProxy fails: neither with the
    present client certificate in any phase, nor with one of the old CA before `distrust`. At the end, the frontend
    refuses a client certificate of the old CA.
    """
    with Bed(tmp_path, programs, control_planes=1, interval=200.0, settings=QUICK) as bed:
        bed.start()
        (node,) = bed.nodes
        controller = Controller(bed, node)
        former = controller.administrator()
        (node.work / "former.pem").write_bytes(former.pem + former.key_pem)
        with (
            controller.haproxy(),
            controller.user("administrator", BUNDLE),
            controller.user("former", str(node.work / "former.pem")),
        ):
            old, new = node.authority(), stage(node, "ca")
            publish(bed, (old, new))
            document = node.json("root-ca", "rotate", "--plan")
            planned = {each["phase"] for each in document["phases"] if "haproxy" in each["restarts"]}
            assert planned == {*PHASES}
            began = datetime.now(UTC).timestamp()
            rotate(node, "ca")
            bed.settled()
            restarted = {phase: names["haproxy"] for phase, names in starts(bed, node, began).items()}
            assert {phase: count for phase, count in restarted.items() if count} == dict.fromkeys(PHASES, 1)
            failures = bed.failures(by="/administrator")
            assert not failures, summary(failures)
            refused = bed.failures(by="/former")
            assert not [each for each in refused if each.at < begin(node, "distrust")], reported(bed, 0.0)
            assert controller.asked(former) == REFUSED
            assert controller.asked(controller.administrator()) == ""
            assert controller.asked() == ""
        assert node.read(f"{PKI}/ca.crt") == new.pem


@pytest.mark.long
def test_a_renewal_restarts_haproxy(programs: Path, tmp_path: Path) -> None:
    """A renewal of admin.conf writes the bundle of HAProxy again and restarts HAProxy once. No request through HAProxy
    fails.
    """
    with Bed(tmp_path, programs, control_planes=1, interval=200.0, settings=QUICK) as bed:
        bed.start()
        (node,) = bed.nodes
        controller = Controller(bed, node)
        with controller.haproxy(), controller.user("administrator", BUNDLE):
            former, began = node.read(BUNDLE), datetime.now(UTC).timestamp()
            renewed = node.certmond("renew", "admin.conf")
            assert renewed.returncode == 0, renewed.stdout + renewed.stderr
            assert controller.starts(began) == 1
            assert node.read(BUNDLE) != former
            assert controller.asked(controller.administrator()) == ""
            failures = bed.failures(by="/administrator")
            assert not failures, summary(failures)


def begin(node: BedNode, phase: str) -> float:
    """Return the time at which a phase began."""
    entries: list[dict[str, Any]] = [each for each in node.trail() if each["event"] == "rotation"]
    return next(datetime.fromisoformat(each["at"]).timestamp() for each in entries if each["phase"] == phase)
