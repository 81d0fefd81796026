"""The kernel's boot ID (random(4)), which changes at each boot.

The kubelet reports this ID as `status.nodeInfo.bootID` (google/cadvisor, machine/info.go).
"""

from __future__ import annotations

import re
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def boot_id() -> str:
    """Return the boot ID, a UUID in lower case, or "" if the ID is unknown."""
    try:
        found = _BOOT_ID.read_text().strip()
    except (OSError, ValueError):
        return ""
    return found if _UUID.fullmatch(found) else ""
