"""`certmond serve` as a process: where it listens, and what it holds."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon_harness import DEADLINE, Running


@contextmanager
def serving(work: Path, configuration: str, *options: str) -> Iterator[Running]:
    """The process, which nothing has been rendered for."""
    config, log = work / "config.yaml", work / "log"
    config.write_text(configuration)
    command = [sys.executable, "-m", "certmond", "--config", str(config), "serve", "--runtime-dir", str(work), *options]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, text=True) as process:
        try:
            yield Running(process, work, log)
        finally:
            process.kill()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def test_it_listens_where_the_configuration_says(tmp_path: Path) -> None:
    """Without --listen the configuration says where; what reads it is gone, with all that it takes to do so."""
    (port,) = free_ports(1)
    with serving(tmp_path, f"listen: 127.0.0.1:{port}\n") as server:
        server.until(lambda: answers(port), "listens")
        held = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert not re.search("pydantic|cryptography|yaml", held)


def test_an_option_comes_first(tmp_path: Path) -> None:
    """--listen is obeyed whatever the configuration has, and however broken that is."""
    (port,) = free_ports(1)
    with serving(tmp_path, "listen: [\n", "--listen", f"127.0.0.1:{port}") as server:
        server.until(lambda: answers(port), "listens")


def test_a_broken_configuration_is_told(tmp_path: Path) -> None:
    """Without --listen it does not guess: the problem is told with its place, and the exit code is 3."""
    with serving(tmp_path, "listen: nowhere\nmode: sometimes\n") as server:
        assert server.process.wait(DEADLINE) == 3
    said = server.log.read_text()
    assert "config.yaml:1: listen" in said, said
    assert "config.yaml:2: mode" in said, said
    assert "Traceback" not in said
