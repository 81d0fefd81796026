"""The server that a node joins, and the tokens with the hash of a CA: their places, and never the secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from certmond.discovery.join_settings import JoinSettings, JoinToken, join_settings, known_servers
from tests.distributions import MAKERS, Tree

HASH = "0123456789abcdef" * 4
TOKEN = f"K10{HASH}::server:secret"


@pytest.fixture(params=["k3s", "rke2"])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tree(tmp_path: Path, program: str) -> Tree:
    return MAKERS[program](tmp_path)


def service(tree: Tree, program: str, content: str) -> None:
    tree.at("/etc/systemd/system/multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    tree.service(f"{program}-agent", content)


def test_the_configuration_file(tree: Tree, program: str) -> None:
    """The port is that of the URL, or 443."""
    tree.write(f"/etc/rancher/{program}/config.yaml", f"server: https://192.0.2.1:9345\ntoken: {TOKEN}\n")
    found = join_settings(str(tree.root), program)
    assert found.server == "192.0.2.1:9345"
    (token,) = found.tokens
    assert token.ca_hash == HASH
    assert f"/etc/rancher/{program}/config.yaml" in token.named_by
    assert "secret" not in str(found)
    tree.write(f"/etc/rancher/{program}/config.yaml", "server: https://lb.example.com\ntoken: plain\n")
    assert join_settings(str(tree.root), program) == JoinSettings("lb.example.com:443", ())


def test_the_environment_of_the_service(tree: Tree, program: str) -> None:
    """The installer writes the URL and the token to an environment file."""
    file, name = f"/etc/systemd/system/{program}-agent.service.env", program.upper()
    tree.write(file, f"{name}_TOKEN={TOKEN}\n{name}_URL=https://[2001:db8::1]:6443\n", 0o600)
    service(tree, program, f"EnvironmentFile=-{file}\nExecStart=/usr/local/bin/{program} agent")
    found = join_settings(str(tree.root), program)
    assert found == JoinSettings("[2001:db8::1]:6443", (JoinToken(f"{name}_TOKEN in {file}", HASH),))


def test_the_command_line_of_the_service(tree: Tree, program: str) -> None:
    tree.write("/root/token", f"{TOKEN}\n", 0o600)
    flags = "--server https://192.0.2.2:6443 --token-file /root/token"
    service(tree, program, f"ExecStart=/usr/local/bin/{program} agent {flags}")
    assert join_settings(str(tree.root), program) == JoinSettings("192.0.2.2:6443", (JoinToken("/root/token", HASH),))


@pytest.mark.parametrize("url", ["http://192.0.2.1:6443", "https://", "https://x:port", "192.0.2.1"])
def test_another_url_names_no_server(tree: Tree, program: str, url: str) -> None:
    tree.write(f"/etc/rancher/{program}/config.yaml", json.dumps({"server": url, "token-file": "/missing"}))
    assert join_settings(str(tree.root), program) == JoinSettings(None, ())


def test_the_servers_of_an_agent(tmp_path: Path) -> None:
    """The file of the load balancer contains them. A missing or damaged file names none."""
    file = tmp_path / "lb.json"
    for content, found in (
        ({"ServerURL": "https://a:1", "ServerAddresses": ["a:1", "b:1", 7, "c\n"]}, ("a:1", "b:1")),
        ({"ServerAddresses": None}, ()),
        ({}, ()),
        ([], ()),
    ):
        file.write_text(json.dumps(content))
        assert known_servers(str(tmp_path), "/lb.json") == found
    file.write_text("{")
    assert known_servers(str(tmp_path), "/lb.json") == known_servers("/", None) == known_servers("/", "/missing") == ()
