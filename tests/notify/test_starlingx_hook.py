"""The hook for StarlingX, run against a stand-in that stores alarms like its fault manager."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HOOK = Path(__file__).parents[2] / "config/hooks/starlingx-fm"
ENTITY = "system.certificate.apiserver.host=controller-0.path=/etc/kubernetes/pki/apiserver.crt"
CLIENT = f"""#!{sys.executable} -IS
# fmClientCli as fm-common (fm_cli.cpp, fmAlarmUtils.cpp) has it: fields between ###, then Ok or the name of an error.
import json, pathlib, sys
option, text = sys.argv[1:]
store, calls = (pathlib.Path(__file__).with_name(name) for name in ("alarms", "calls"))
alarms = json.loads(store.read_text()) if store.exists() else {{}}
assert text.startswith("###") and text.endswith("###")
fields = text.split("###")[1:-1]
with calls.open("a") as log:
    print(option, file=log)
if pathlib.Path(__file__).with_name("down").exists():
    print("FM_ERR_NOCONNECT")
    sys.exit(255)
if option == "-c":
    assert len(fields) == 15 and max(map(len, fields)) < 255, fields
    assert fields[2] == "set" and fields[3] == "certificate" and fields[11:] == ["False"] * 4
    alarms[fields[1] + " " + fields[4]] = fields
elif fields[0] + " " + fields[1] not in alarms:
    print("FM_ERR_ENTITY_NOT_FOUND")
    sys.exit(255)
elif option == "-d":
    del alarms[fields[0] + " " + fields[1]]
store.write_text(json.dumps(alarms))
print("Ok")
"""


class FaultManager:
    """The stand-in, with the calls that it received."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.client = work / "fmClientCli"
        self.client.write_text(CLIENT)
        self.client.chmod(0o755)

    def tell(self, event: str, reason: str, **fields: Any) -> subprocess.CompletedProcess[str]:
        finding = {"reason": reason, "severity": "warning", "message": "…"}
        document = {
            "schema": 1, "event": event, "node": "controller-0", "finding": finding, "certificate": "apiserver",
            "path": "/etc/kubernetes/pki/apiserver.crt", "at": "2026-11-24T12:00:00Z",
            "not_after": "2026-12-20T08:30:00Z",
        } | fields  # fmt: skip
        return subprocess.run(
            [HOOK], input=json.dumps(document), env={"PATH": os.environ["PATH"], "FM_CLIENT": str(self.client)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def alarms(self) -> dict[str, list[str]]:
        path = self.work / "alarms"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def calls(self) -> list[str]:
        path = self.work / "calls"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def manager(tmp_path: Path) -> FaultManager:
    return FaultManager(tmp_path)


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


def test_one_that_was_about_to_end_and_has_ended_is_one_alarm(manager: FaultManager) -> None:
    """The former finding is cleared and the new one raised, in whatever order: 500.210 is what stands."""
    manager.tell("raised", "nearing_expiry")
    manager.tell("raised", "expired")
    manager.tell("cleared", "nearing_expiry")
    assert list(manager.alarms) == [f"500.210 {ENTITY}"]


@pytest.mark.parametrize("fields", [{"reason": "too_open"}, {"certificate": "ca"}, {"certificate": "etcd-ca"}])
def test_other_reasons_are_ignored(manager: FaultManager, fields: dict[str, str]) -> None:
    """Other reasons have no alarm, and StarlingX itself watches the Root CAs: the hook makes no call."""
    reason = fields.pop("reason", "expired")
    assert manager.tell("raised", reason, **fields).returncode == 0
    assert not manager.calls


@pytest.mark.parametrize("event", ["raised", "cleared"])
def test_a_fault_manager_that_cannot_be_asked_is_a_failure(manager: FaultManager, event: str) -> None:
    """The hook then ends with 1 and one line on standard error, so that certmond runs it again."""
    (manager.work / "down").touch()
    done = manager.tell(event, "expired")
    assert (done.returncode, done.stderr) == (1, f"{manager.client} -g: FM_ERR_NOCONNECT\n")
    manager.client.unlink()
    assert manager.tell(event, "expired").returncode == 1


def test_what_separates_fields_is_in_none_and_none_is_too_long(manager: FaultManager) -> None:
    """A path with ### in it, or one of 4,000 bytes, is one field that fits, and the same in each call."""
    for path in ("/etc/a###b.crt", "/é" * 1000):
        assert manager.tell("raised", "expired", path=path).returncode == 0
        assert len(manager.alarms) == 1
        assert manager.tell("cleared", "expired", path=path).returncode == 0
        assert not manager.alarms
