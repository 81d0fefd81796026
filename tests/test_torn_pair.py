"""What the clients of a real etcd observe while certmond renews its pairs."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from benchmarks.handshakes import Tally, client_context, clients, handshake
from benchmarks.torn_pair import Node, etcd_on
from tests.conftest import real_part


@dataclass(frozen=True)
class Live:
    """An etcd that answers, with the node that it lives on, and another of the same CA."""

    node: Node
    spare: Node
    ports: dict[str, int]

    @property
    def context(self) -> ssl.SSLContext:
        return client_context(self.node.credentials)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    program = real_part("etcd")
    place = tmp_path_factory.mktemp("etcd")
    node = Node.make(place / "node")
    spare = node.copy(place / "spare")
    with etcd_on(node, program) as ports:
        yield Live(node, spare, ports)


@pytest.mark.long
@pytest.mark.real("etcd")
@pytest.mark.parametrize(("name", "times"), [("etcd-server", 60), ("etcd-peer", 20)])
def test_a_renewal_costs_no_handshake(live: Live, name: str, times: int) -> None:
    """While certmond renews etcd's pair with the default `keep_key`, no handshake fails, and each later connection gets
    the new certificate. The file of the key is not written.
    """
    renew, port = live.node.renewing(name), live.ports[name]
    key, _ = live.node.pair(name)
    before = key.stat()
    with clients(port, live.node.credentials) as tally:
        for _ in range(times):
            leaf = renew()
            assert handshake(port, live.context) == leaf
    assert tally.failed == {}
    assert tally.answered > len(tally.leaves) > 1
    assert (key.stat().st_ino, key.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.long
@pytest.mark.real("etcd")
@pytest.mark.parametrize("name", ["etcd-server", "etcd-peer"])
def test_the_same_client_sees_a_torn_pair(live: Live, name: str) -> None:
    """A process that writes a new key in place makes every handshake fail until the certificate follows."""
    leaf = live.spare.renewing(name, keep_key=False)()
    (new_key, new_certificate), (key, certificate) = live.spare.pair(name), live.node.pair(name)
    torn, whole = Tally(), Tally()
    key.write_bytes(new_key.read_bytes())
    for _ in range(10):
        torn.attempt(live.ports[name], live.context)
    certificate.write_bytes(new_certificate.read_bytes())
    whole.attempt(live.ports[name], live.context)
    assert (torn.answered, dict(torn.failed)) == (0, {"TLSV1_ALERT_INTERNAL_ERROR": 10})
    assert (whole.failed, whole.leaves) == ({}, {leaf})
