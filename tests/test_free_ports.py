"""Ports for the servers of the tests."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import pytest

from tests.free_ports import free_port, free_ports

OTHER = pytest.param(65534, marks=pytest.mark.skipif(os.geteuid() != 0, reason="changes the user"))


@pytest.mark.parametrize("user", [os.geteuid(), OTHER], ids=["the same user", "another user"])
def test_no_two_calls_return_one_port(user: int) -> None:
    """Neither in this process nor in another one, of this user or of another, and although nothing listens on the ports
    yet.
    """
    first = free_ports(50)
    receiving, sending = os.pipe()
    if child := os.fork():
        os.close(sending)
        with os.fdopen(receiving) as pipe:
            second = [int(line) for line in pipe]
        os.waitpid(child, 0)
    else:
        with suppress(Exception):  # the parent then gets no port, and fails
            os.setuid(user)
            os.write(sending, "\n".join(map(str, free_ports(50))).encode())
        os._exit(0)
    assert len({*first, *second}) == 100
    assert not {*first} & {*free_ports(50)}


def test_no_connection_takes_a_port() -> None:
    """The kernel chooses no port of these as the source of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as ephemeral:
        assert max(free_ports(50)) < ephemeral.getsockname()[1]


def test_a_port_can_be_used() -> None:
    """A server can listen on it."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[0] == "127.0.0.1"
