"""`certmond serve` as a process, and a port for it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon_harness import Running


@contextmanager
def serving(work: Path, configuration: str, *options: str) -> Iterator[Running]:
    """Run the process until the block ends. It serves the files in `work`, unless an option names another directory."""
    config, log = work / "config.yaml", work / "log"
    config.write_text(configuration)
    command = [sys.executable, "-m", "certmond", "--config", str(config), "serve", "--runtime-dir", str(work), *options]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, text=True) as process:
        try:
            yield Running(process, work, log)
        finally:
            process.kill()


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 on which no process listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
