"""The hook for StarlingX, run against a stand-in that stores alarms like its fault manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault_manager import FaultManager

ENTITY = "system.certificate.apiserver.host=controller-0.path=/etc/kubernetes/pki/apiserver.crt"


@pytest.fixture
def manager(tmp_path: Path) -> FaultManager:
    return FaultManager(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("reason", "alarm", "severity", "text"),
    [("nearing_expiry", "500.200", "major", "is expiring soon on"), ("expired", "500.210", "critical", "expired on")],
)
def test_an_alarm_is_raised_once_and_cleared(
    manager: FaultManager, reason: str, alarm: str, severity: str, text: str
) -> None:
    """The alarm is 500.200 for a certificate that ends soon, and 500.210 for an expired one. It is raised once for
    repeated events, then cleared.
    """
    for _ in range(2):
        assert manager.tell("raised", reason).returncode == 0
    ((key, fields),) = manager.alarms.items()
    assert key == f"{alarm} {ENTITY}"
    assert (fields[6], fields[9]) == (severity, "certificate-expiration")
    assert f"{text} 2026-12-20T08:30:00Z" in fields[7]
    assert manager.calls == ["-g", "-c", "-g"]
    for _ in range(2):
        assert manager.tell("cleared", reason).returncode == 0
    assert not manager.alarms
    assert manager.calls[3:] == ["-g", "-d", "-g"]


@pytest.mark.long
def test_an_expired_certificate_has_one_alarm(manager: FaultManager) -> None:
    """If `expired` replaces `nearing_expiry`, only 500.210 remains, in each order of the events."""
    manager.tell("raised", "nearing_expiry")
    manager.tell("raised", "expired")
    manager.tell("cleared", "nearing_expiry")
    assert list(manager.alarms) == [f"500.210 {ENTITY}"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("reason", "alarm", "entity", "text"),
    [
        ("still_due", "250.003", ".reason=still_due", "renewal failed. Reason: …"),
        ("restart_failed", "250.003", ".reason=restart_failed", "not all services have been updated. Reason: …"),
        ("served_differs", "250.003", ".reason=served_differs", "not all services have been updated. Reason: …"),
        ("rotation_frozen", "250.003", ".reason=rotation_frozen", "rotation failed. Reason: …"),
        ("rotation_under_way", "900.008", "", "Kubernetes rootca update in progress"),
    ],
)
def test_a_failure_and_a_rotation_are_alarms_of_the_host(
    manager: FaultManager, reason: str, alarm: str, entity: str, text: str
) -> None:
    """A failed renewal, restart or rotation is 250.003, and a rotation that runs is 900.008, each of the host and the
    certificate. Another finding of the same certificate neither raises nor clears it.
    """
    assert manager.tell("raised", reason).returncode == 0
    ((key, fields),) = manager.alarms.items()
    assert key == f"{alarm} host=controller-0.certificate=apiserver{entity}"
    assert (fields[3], fields[9]) == ("host", "unspecified-reason")
    assert fields[6] == {"250.003": "major", "900.008": "minor"}[alarm]
    assert fields[7].endswith(text)
    manager.tell("raised", "expired")
    manager.tell("cleared", "expired")
    assert list(manager.alarms) == [key]
    assert manager.tell("cleared", reason).returncode == 0
    assert not manager.alarms


@pytest.mark.parametrize(
    ("certificate", "name"),
    [("restapi-gui", "restapi-gui"), ("registry", "registry-local"), ("openldap", "openldap-local")],
)
def test_a_certificate_of_cert_manager_has_the_entity_of_cert_alarm(
    manager: FaultManager, certificate: str, name: str
) -> None:
    """certmond and cert-alarm raise the same alarm for a certificate that cert-manager renews."""
    manager.tell("raised", "expired", certificate=certificate)
    assert list(manager.alarms) == [f"500.210 namespace=deployment.certificate=system-{name}-certificate"]


@pytest.mark.parametrize("fields", [{"reason": "too_open"}, {"certificate": "ca"}, {"certificate": "etcd-ca"}])
def test_other_reasons_are_ignored(manager: FaultManager, fields: dict[str, str]) -> None:
    """Other reasons have no alarm, and StarlingX itself watches the Root CAs: the hook makes no call."""
    reason = fields.pop("reason", "expired")
    assert manager.tell("raised", reason, **fields).returncode == 0
    assert not manager.calls


@pytest.mark.parametrize("event", ["raised", "cleared"])
def test_a_fault_manager_that_does_not_answer_is_a_failure(manager: FaultManager, event: str) -> None:
    """If the fault manager does not answer, the hook exits with 1 and prints one line on standard error."""
    (manager.work / "down").touch()
    done = manager.tell(event, "expired")
    assert (done.returncode, done.stderr) == (1, f"{manager.client} -g: FM_ERR_NOCONNECT\n")
    manager.client.unlink()
    assert manager.tell(event, "expired").returncode == 1


@pytest.mark.long
def test_a_field_has_no_separator_and_is_not_too_long(manager: FaultManager) -> None:
    """A path that contains ###, or that has 4,000 bytes, becomes one field of valid length, the same in each call."""
    for path in ("/etc/a###b.crt", "/é" * 1000):
        assert manager.tell("raised", "expired", path=path).returncode == 0
        assert len(manager.alarms) == 1
        assert manager.tell("cleared", "expired", path=path).returncode == 0
        assert not manager.alarms
