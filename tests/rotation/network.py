"""The network of a bed: a bridge, and a cable from each node to it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.conftest import real_part, unavailable
from tests.deadline import DEADLINE


@contextmanager
def switch() -> Iterator[int]:
    """A network namespace with a bridge, for the nodes to be linked to: its process."""
    script = "ip link add bridge0 type bridge && ip link set bridge0 up && echo ready && exec cat"
    command = [real_part("unshare"), "--net", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        assert holder.stdout
        try:
            if holder.stdout.readline() != b"ready\n":
                unavailable(f"no bridge can be had here: {holder.communicate()[1].decode()}")
            yield holder.pid
        finally:
            holder.communicate(timeout=DEADLINE)


def link(hub: int, inside: Sequence[str], number: int) -> None:
    """A cable from a node to the bridge. Its address is on its loopback, which answers for it on every interface."""
    there = f"ip link add port{number} type veth peer name eth0 netns $1 && ip link set port{number} master bridge0 up"
    script = "ip link set eth0 up && ip route add 192.0.2.0/24 dev eth0"
    net = next(word for word in inside if word.startswith("--net="))
    holder = net.split("/")[2]
    subprocess.run([real_part("nsenter"), f"--net=/proc/{hub}/ns/net", "sh", "-c", there, "sh", holder], check=True)
    subprocess.run([*inside, "sh", "-c", script], check=True)
