"""The findings and the restraint of a node that cannot determine the state of a rotation, on the files of a kubeadm
node.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon.enforcer import Enforcer
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.findings import Severity
from tests.node import Node


@pytest.fixture
def enforcer(node: Node, tmp_path: Path) -> Enforcer:
    config = parse([Source("test", "{profile: kubeadm, mode: enforce}")])
    state = tmp_path / "state"
    return Enforcer(
        config, root=str(node.root), state_dir=state, audit=Audit(Journal("none"), state, "test"),
        clock=lambda: datetime.now(UTC), acting=True,
    )  # fmt: skip


def frozen(enforcer: Enforcer) -> str:
    """Return the sentence of the finding. A pass of the daemon continues with it, and changes nothing."""
    assessment, around = enforcer.see()
    (found,) = [f for each in assessment.statuses for f in each.findings if f.reason.value == "rotation_frozen"]
    assert found.severity is Severity.CRITICAL
    made = enforcer.plan(assessment, around=around)
    assert not made.writes
    assert enforcer.rotate(assessment, around, made) is None
    assert enforcer.rotation_state.broken == found.message
    assert enforcer.rotating.until is not None  # no event may report that the state is known again
    assert enforcer.rotating.until - datetime.now(UTC) <= timedelta(seconds=10)
    return found.message


def test_an_unreadable_file_is_reported(node: Node, enforcer: Enforcer) -> None:
    """A directory at the path of a signer's separate file is reported. After it is removed, the node continues."""
    place = node.root / "etc/kubernetes/pki/signing-ca.crt"
    place.mkdir()
    assert "/etc/kubernetes/pki/signing-ca.crt" in frozen(enforcer)
    place.rmdir()
    enforcer.see()
    assert enforcer.rotation_state.broken is None


def test_other_anchors_are_renewed(node: Node, enforcer: Enforcer) -> None:
    """If one anchor cannot be read, leaves of the other, unchanged anchors are renewed."""
    assessment, around = enforcer.see()
    assert enforcer.rotate(assessment, around, enforcer.plan(assessment, around=around)) is None
    (node.root / "etc/kubernetes/pki/signing-ca.crt").mkdir()
    frozen(enforcer)
    assert list(enforcer.rotation_state.unsure) == ["ca"]


def test_an_unexpected_error_freezes_the_rotation(enforcer: Enforcer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of certmond freezes it, too. The finding has its place, and not its text."""

    def fail(*_: object) -> None:
        raise ValueError("secret")

    monkeypatch.setattr("certmond.controllers.rotation_state.ground_of", fail)
    reported = frozen(enforcer)
    assert "an unexpected ValueError in test_rotation_state.py:" in reported
    assert "secret" not in reported
