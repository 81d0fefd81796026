"""Ports of 127.0.0.1 that no connection and no other test takes between their choice and their use.

A port of the ephemeral range can become the source port of any connection of this host, and another worker can choose
the same port. Therefore, a port is below this range (`ip_local_port_range` in ip(7)), and the process reserves the port
with a name in the abstract namespace (unix(7)). Each user can bind such a name, and it ends with the process.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LOWEST = 10_000


def free_ports(count: int) -> list[int]:
    """Return ports on which no process listens, and which no other call returns while this process runs."""
    found = _reserved()
    return [next(found) for _ in range(count)]


def free_port() -> int:
    """Return one port of `free_ports`."""
    return free_ports(1)[0]


def _reserved() -> Iterator[int]:
    highest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(_LOWEST, highest), highest - _LOWEST):
        name = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            name.bind(f"\0certmond-test-port-{port}")
            socket.create_server(("127.0.0.1", port)).close()
            name.detach()  # until this process ends
            yield port
            continue
        name.close()
