"""Since which start this machine runs.

Owns the one question: the kernel's boot ID (random(4)), which is another after each start, be it of other disks. It is
what a kubelet tells of its machine as `status.nodeInfo.bootID` (google/cadvisor, machine/info.go).
"""

from __future__ import annotations

import re
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def boot_id() -> str:
    """The boot ID, a UUID in small letters; empty where the kernel, or what a container shows of it, tells no such."""
    try:
        found = _BOOT_ID.read_text().strip()
    except (OSError, ValueError):
        return ""
    return found if _UUID.fullmatch(found) else ""
