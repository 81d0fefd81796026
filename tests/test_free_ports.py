"""Ports for the servers of the tests."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import pytest

from tests.free_ports import free_port, free_ports


def test_no_two_calls_return_one_port() -> None:
    """Neither in this process nor in another one, and although nothing listens on the ports yet."""
    first = free_ports(50)
    receiving, sending = os.pipe()
    if child := os.fork():
        os.close(sending)
        with os.fdopen(receiving) as pipe:
            second = [int(line) for line in pipe]
        os.waitpid(child, 0)
    else:
        os.write(sending, "\n".join(map(str, free_ports(50))).encode())
        os._exit(0)
    assert len({*first, *second}) == 100
    assert not {*first} & {*free_ports(50)}


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")
def test_each_user_gets_ports() -> None:
    """Another user can choose ports after root, and none of the same."""
    first = free_ports(50)
    receiving, sending = os.pipe()
    if child := os.fork():
        os.close(sending)
        with os.fdopen(receiving) as pipe:
            second = [int(line) for line in pipe]
        os.waitpid(child, 0)
    else:
        with suppress(Exception):
            os.setuid(65534)
            os.write(sending, "\n".join(map(str, free_ports(50))).encode())
        os._exit(0)
    assert len({*first, *second}) == 100


def test_no_connection_takes_a_port() -> None:
    """The kernel chooses no port of these as the source of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as ephemeral:
        assert max(free_ports(50)) < ephemeral.getsockname()[1]


def test_a_port_can_be_used() -> None:
    """A server can listen on it."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[0] == "127.0.0.1"
