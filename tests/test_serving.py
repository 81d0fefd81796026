"""`certmond serve` as a process: where it listens, and what it holds."""

from __future__ import annotations

import re
import socket
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.daemon_harness import DEADLINE
from tests.guarded import HASH
from tests.serving import free_ports, serving


def answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def status(port: int) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as client:
        client.request("GET", "/metrics")
        return client.getresponse().status


def test_it_listens_where_the_configuration_says(tmp_path: Path) -> None:
    """Without --listen the configuration says where; what reads it is gone, with all that it takes to do so."""
    (port,) = free_ports(1)
    with serving(tmp_path, f"listen: 127.0.0.1:{port}\n") as server:
        server.until(lambda: answers(port), "listens")
        held = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert not re.search("pydantic|cryptography|yaml", held)


def test_options_come_first(tmp_path: Path) -> None:
    """With --listen and --web-config both are obeyed whatever the configuration has, and however broken that is."""
    (port,) = free_ports(1)
    (tmp_path / "web.yaml").write_text(f"basic_auth_users: {{alice: {HASH}}}\n")
    options = ("--listen", f"127.0.0.1:{port}", "--web-config", str(tmp_path / "web.yaml"))
    with serving(tmp_path, "listen: [\n", *options) as server:
        server.until(lambda: status(port) == 401, "asks for a password")


def test_the_configuration_says_who_comes_in(tmp_path: Path) -> None:
    """`web_config` is obeyed as --web-config is, also where --listen is given."""
    (port,) = free_ports(1)
    (tmp_path / "web.yaml").write_text(f"basic_auth_users: {{alice: {HASH}}}\n")
    with serving(tmp_path, f"web_config: {tmp_path}/web.yaml\n", "--listen", f"127.0.0.1:{port}") as server:
        server.until(lambda: status(port) == 401, "asks for a password")


def test_a_guard_that_cannot_be_had_lets_nobody_in(tmp_path: Path) -> None:
    """With a `web_config` that is not there, nothing is served: the exit code is 3, and the file is named."""
    with serving(tmp_path, f"web_config: {tmp_path}/web.yaml\n", "--listen", "127.0.0.1:0") as server:
        assert server.process.wait(DEADLINE) == 3
    assert f"{tmp_path}/web.yaml: cannot be read (No such file or directory)" in server.log.read_text()


@pytest.mark.parametrize("options", [(), ("--listen", "127.0.0.1:0"), ("--web-config", "web.yaml")])
def test_a_broken_configuration_is_told(tmp_path: Path, options: tuple[str, ...]) -> None:
    """It does not guess where to listen, or whether all may come in: problems are told, and the exit code is 3."""
    with serving(tmp_path, "listen: nowhere\nmode: sometimes\n", *options) as server:
        assert server.process.wait(DEADLINE) == 3
    said = server.log.read_text()
    assert "config.yaml:1: listen" in said, said
    assert "config.yaml:2: mode" in said, said
    assert "Traceback" not in said


def test_what_it_does_not_need_keeps_it_from_nothing(tmp_path: Path) -> None:
    """What is wrong elsewhere in the configuration is told, each with its line, and where it listens and who comes in
    is obeyed: a mistake in an entry does not take the metrics away that tell of it.
    """
    (port,) = free_ports(1)
    (tmp_path / "web.yaml").write_text(f"basic_auth_users: {{alice: {HASH}}}\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/10-node.yaml").write_text(
        "mode: sometimes\ncertificates: [{name: odd, kye: /odd.key}]\nhold: 1\n"
    )
    configuration = f"listen: 127.0.0.1:{port}\nweb_config: {tmp_path}/web.yaml\nservices: none\n"
    with serving(tmp_path, configuration) as server:
        server.until(lambda: status(port) == 401, "asks for a password")
        said = server.log.read_text().splitlines()
    places = (
        "config.yaml:3: services",
        "10-node.yaml:1: mode",
        "10-node.yaml:2: certificates[",
        "10-node.yaml:3: hold",
    )
    for place in places:
        assert [line for line in said if place in line and "serve uses only `listen` and `web_config`" in line], said


@pytest.mark.parametrize(
    ("configuration", "problem"),
    [
        ("web_confg: /etc/certmond/web/web.yaml\n", "did you mean web_config?"),
        ("listen: 127.0.0.1:0\n", "listen: must be ADDRESS:PORT"),
        ("listen: [\n", "is not YAML"),
        ("hold: 1\nhold: 2\n", "hold: is a duplicate"),
    ],
)
def test_what_it_might_need_is_not_guessed(tmp_path: Path, configuration: str, problem: str) -> None:
    """A key that is not known, one given twice, or a text that is no YAML might be what says who comes in: nothing is
    served, and all problems are told.
    """
    with serving(tmp_path, f"{configuration}mode: sometimes\n") as server:
        assert server.process.wait(DEADLINE) == 3
    said = server.log.read_text()
    assert problem in said
    assert ("mode: must be" in said) is ("YAML" not in problem)
    assert "Traceback" not in said


def test_what_others_can_write_is_not_half_obeyed(tmp_path: Path) -> None:
    """Where others can write a configuration that has mistakes, nothing is served: both are told."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/10-open.yaml").write_text("poll: never\n")
    (tmp_path / "conf.d/10-open.yaml").chmod(0o666)
    with serving(tmp_path, "mode: observe\n", "--listen", "127.0.0.1:0") as server:
        assert server.process.wait(DEADLINE) == 3
    assert "10-open.yaml:1: poll" in server.log.read_text()
    assert "10-open.yaml: can be written by others" in server.log.read_text()
