"""The dated files behind kubelet-client-current.pem: their names are those of the kubelet, and never an existing
one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import WriteError
from certmond.formats.kubelet.pem import content, dated, successor
from certmond.pki.x509.certificate_file_parser import decode
from tests.builders import bundle, make_ca, make_leaf
from tests.node import KUBELET_PEM, Node

CURRENT = "/var/lib/kubelet/pki/kubelet-client-current.pem"
WHEN = datetime(2026, 11, 24, 14, 15, 30, 999_999, tzinfo=UTC)


@pytest.fixture
def berlin() -> Iterator[None]:
    """A host whose local time is not UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def test_the_name_is_the_one_that_a_kubelet_chose() -> None:
    """Beside the symlink, with the second of its making."""
    assert dated(CURRENT, WHEN) == f"/{KUBELET_PEM}"
    server = dated("/k/kubelet-server-current.pem", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert server == "/k/kubelet-server-2026-01-02-03-04-05.pem"


@pytest.mark.usefixtures("berlin")
def test_the_name_tells_the_local_time() -> None:
    """As Go's time.Now() does, in whatever zone the instant is given."""
    assert dated(CURRENT, WHEN).endswith("-client-2026-11-24-15-15-30.pem")
    assert dated(CURRENT, WHEN.astimezone()).endswith("-client-2026-11-24-15-15-30.pem")


@pytest.mark.usefixtures("berlin")
def test_an_hour_that_comes_twice_gives_no_name_twice() -> None:
    """When clocks are set back, the names of that hour may be taken already."""
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    taken = {os.path.basename(dated(CURRENT, first))}
    found = successor(CURRENT, first + timedelta(hours=1), taken)
    assert found.endswith("2026-10-25-02-30-01.pem")


@given(st.integers(0, 7 * 10**9), st.sets(st.integers(-2, 8)))
def test_a_successor_is_never_a_file_that_exists(instant: int, seconds: set[int]) -> None:
    """It is the first free name from the instant on."""
    when = datetime.fromtimestamp(instant, UTC)
    names = [os.path.basename(dated(CURRENT, when + timedelta(seconds=second))) for second in range(10)]
    taken = {os.path.basename(dated(CURRENT, when + timedelta(seconds=second))) for second in seconds}
    found = successor(CURRENT, when, taken)
    assert re.fullmatch(r"/var/lib/kubelet/pki/kubelet-client-\d{4}(-\d\d){5}\.pem", found)
    assert os.path.basename(found) == next(name for name in names if name not in taken)


@pytest.mark.parametrize("path", ["/k/kubelet.pem", "/k/kubelet-client-current.pem/", "/k/current.pem", ""])
def test_a_path_that_is_no_rotating_pem_is_refused(path: str) -> None:
    """There is no telling what the kubelet would call the next one."""
    with pytest.raises(WriteError, match=r"-current\.pem.*; correct `path` in the entry"):
        dated(path, WHEN)


def test_the_file_holds_the_certificate_and_then_the_key(node: Node) -> None:
    """Each has separate lines, whatever its line ends. A kubelet's file that is composed again is unchanged."""
    ca = make_ca()
    leaf = make_leaf(ca)
    found = content(bundle(leaf, ca).rstrip(b"\n"), leaf.key_pem + b"\n\n")
    assert found == leaf.pem + ca.pem + leaf.key_pem
    assert decode(found, "").certificates == (leaf.facts, ca.facts)
    original = node.read(KUBELET_PEM)
    certificate, mark, key = original.partition(b"-----BEGIN RSA PRIVATE KEY-----")
    assert content(certificate, mark + key) == original
