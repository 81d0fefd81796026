"""`certmond serve` as a process: its address and its memory."""

from __future__ import annotations

import re
import socket
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.deadline import DEADLINE
from tests.free_ports import free_port
from tests.serve_process import serving
from tests.web_config_files import HASH


def answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def status(port: int) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as client:
        client.request("GET", "/metrics")
        return client.getresponse().status


def test_it_listens_where_the_configuration_says(tmp_path: Path) -> None:
    """Without --listen the configuration gives the address. The process that reads the configuration has ended, with
    all its libraries.
    """
    port = free_port()
    with serving(tmp_path, f"listen: 127.0.0.1:{port}\n") as server:
        server.until(lambda: answers(port), "listens")
        held = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert not re.search("pydantic|cryptography|yaml", held)


def test_options_come_first(tmp_path: Path) -> None:
    """With --listen and --web-config both are obeyed whatever the configuration has, and however broken that is."""
    port = free_port()
    (tmp_path / "web.yaml").write_text(f"basic_auth_users: {{alice: {HASH}}}\n")
    options = ("--listen", f"127.0.0.1:{port}", "--web-config", str(tmp_path / "web.yaml"))
    with serving(tmp_path, "listen: [\n", *options) as server:
        server.until(lambda: status(port) == 401, "asks for a password")


@pytest.mark.long
def test_the_configuration_controls_access(tmp_path: Path) -> None:
    """`web_config` has the effect of --web-config, also with --listen."""
    port = free_port()
    (tmp_path / "web.yaml").write_text(f"basic_auth_users: {{alice: {HASH}}}\n")
    with serving(tmp_path, f"web_config: {tmp_path}/web.yaml\n", "--listen", f"127.0.0.1:{port}") as server:
        server.until(lambda: status(port) == 401, "asks for a password")


@pytest.mark.long
def test_a_missing_web_config_prevents_all_access(tmp_path: Path) -> None:
    """If the file of `web_config` is missing, nothing is served. The exit code is 3, and the message names the file."""
    with serving(tmp_path, f"web_config: {tmp_path}/web.yaml\n", "--listen", "127.0.0.1:0") as server:
        assert server.process.wait(DEADLINE) == 3
    assert f"{tmp_path}/web.yaml: is unreadable (No such file or directory)" in server.log.read_text()


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--listen", "127.0.0.1:0"), ("--web-config", "web.yaml")])
def test_a_broken_configuration_is_an_error(tmp_path: Path, options: tuple[str, ...]) -> None:
    """certmond does not guess the address or the access rules: it reports the problems and exits 3."""
    with serving(tmp_path, "listen: nowhere\nmode: sometimes\n", *options) as server:
        assert server.process.wait(DEADLINE) == 3
    said = server.log.read_text()
    assert "config.yaml:1: listen" in said, said
    assert "config.yaml:2: mode" in said, said
    assert "Traceback" not in said


@pytest.mark.long
def test_unrelated_mistakes_do_not_stop_the_server(tmp_path: Path) -> None:
    """certmond reports each unrelated mistake in the configuration with its line, and applies the address and the
    access rules. A mistake in an entry does not remove the metrics that report it.
    """
    port = free_port()
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
    scope = "; `certmond serve` ignores this problem, because it uses only `listen` and `web_config`"
    for place in places:
        assert [line for line in said if place in line and scope in line], said


@pytest.mark.long
@pytest.mark.parametrize(
    ("configuration", "problem"),
    [
        ("web_confg: /etc/certmond/web/web.yaml\n", "did you mean web_config?"),
        ("listen: 127.0.0.1:0\n", "listen: must be ADDRESS:PORT"),
        ("listen: [\n", "is not YAML"),
        ("hold: 1\nhold: 2\n", "hold: repeats the key of line 1"),
    ],
)
def test_a_possible_access_rule_is_not_guessed(tmp_path: Path, configuration: str, problem: str) -> None:
    """An unknown key, a repeated key, or a text that is no YAML might define the access. Nothing is served, and all
    problems are reported.
    """
    with serving(tmp_path, f"{configuration}mode: sometimes\n") as server:
        assert server.process.wait(DEADLINE) == 3
    said = server.log.read_text()
    assert problem in said
    assert ("mode: must be" in said) is ("YAML" not in problem)
    assert "Traceback" not in said


@pytest.mark.long
def test_a_configuration_that_others_can_write_is_not_applied(tmp_path: Path) -> None:
    """If others can write a configuration that has mistakes, nothing is served. Both problems are reported."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/10-open.yaml").write_text("poll: never\n")
    (tmp_path / "conf.d/10-open.yaml").chmod(0o666)
    with serving(tmp_path, "mode: observe\n", "--listen", "127.0.0.1:0") as server:
        assert server.process.wait(DEADLINE) == 3
    assert "10-open.yaml:1: poll" in server.log.read_text()
    assert "10-open.yaml: is writable by other users" in server.log.read_text()
