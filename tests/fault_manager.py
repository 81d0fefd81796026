"""A stand-in for StarlingX's fault manager, which stores alarms, and runs of the hook against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HOOK = Path(__file__).parents[1] / "config/hooks/starlingx-fm"
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
    assert fields[2] == "set" and fields[3] in ("certificate", "host") and fields[11:] == ["False"] * 4
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
        return self.run(json.dumps(document))

    def run(self, document: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HOOK], input=document, env={"PATH": os.environ["PATH"], "FM_CLIENT": str(self.client)},
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
