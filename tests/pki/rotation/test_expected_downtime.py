"""The downtime of a service in a rotation, reported before the rotation begins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from certmond.expose.documents.rotation_preview import preview_document, unavoidable
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.rotation.expected_downtime import Absence, absences
from certmond.pki.rotation.phases import Phase
from certmond.pki.rotation.preview import Preview
from tests.pki.rotation.test_preview import node, shown
from tests.pki.rotation_node import ANCHOR, MANAGER, OLD, PLANNED, conf, ground, leaf, signer

SECOND = timedelta(seconds=1)


def service(name: str, **fields: Any) -> ServiceSpec:
    return ServiceSpec(name=name, kind="static-pod", pod=name, **fields)


API = service("api", drain=2 * SECOND, restart_takes=4 * SECOND)
STORE = service("store", restart_takes=2 * SECOND)
OTHER = service("other", drain=2 * SECOND)
FOUND = (
    Preview(Phase.PREPARE, (), ()),
    Preview(Phase.TRUST, (), ("store", "api", "other"), dict.fromkeys(("store", "api", "other"), ANCHOR)),
    Preview(Phase.DISTRUST, (), ("api",), {"api": ANCHOR}),
)


def test_a_service_is_away_while_it_drains_and_until_it_serves_again() -> None:
    """The estimate covers each planned restart. A service whose entry has no duration has no estimate."""
    assert list(absences(FOUND, [STORE, API, OTHER])) == [
        Absence(Phase.TRUST, "store", 2 * SECOND, ANCHOR),
        Absence(Phase.TRUST, "api", 6 * SECOND, ANCHOR),
        Absence(Phase.DISTRUST, "api", 6 * SECOND, ANCHOR),
    ]


def test_the_downtime_has_the_file_that_causes_it() -> None:
    """The document has it by phase, and the text combines the phases of one service and file. It is empty without a
    restart. For several restarts, the text has the additional time of a restart that follows soon.
    """
    document = preview_document(PLANNED, FOUND, absences(FOUND, [STORE, API]), None)
    reported = {each["phase"]: each["away"] for each in document["phases"]}
    assert reported == {
        "prepare": [],
        "trust": [
            {"service": "store", "seconds": 2, "because": ANCHOR}, {"service": "api", "seconds": 6, "because": ANCHOR},
        ],
        "distrust": [{"service": "api", "seconds": 6, "because": ANCHOR}],
    }  # fmt: skip
    assert list(unavoidable(document)) == [
        "if this is the only control-plane node, these services are unavailable during their restart:",
        f"  store, about 2 s in trust: a restart is necessary for {ANCHOR}",
        f"  api, about 6 s in trust, distrust: a restart is necessary for {ANCHOR}",
        "  because of kubelet back-off, a second restart in ten minutes takes about 20 s more, a third about 45 s",
    ]
    once = preview_document(PLANNED, FOUND, absences(FOUND, [STORE]), None)
    assert not [line for line in unavoidable(once) if "back-off" in line]
    assert list(unavoidable(preview_document(PLANNED, FOUND[:1], (), None))) == []


def test_why_a_service_is_restarted_is_a_file_that_it_does_not_read_again() -> None:
    """The signer's is its manifest."""
    manager = signer()
    found = {each.phase: each for each in shown(PLANNED, ground(OLD, signer=manager), node(conf(OLD), leaf(OLD)))}
    assert found[Phase.DETACH].because == {MANAGER: manager.manifest}
    assert found[Phase.TRUST].because == {"kubelet": ANCHOR, "reader": "/admin.conf"}
    assert found[Phase.ISSUE].because == {"reader": "/pki/leaf.crt"}
