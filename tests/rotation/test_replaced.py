"""ca.crt and ca.key are replaced on a control-plane node while every component connects to its API server over TLS."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from certmond.errors import SigningError
from tests.builders import DAY, SECOND, Issued, make_ca
from tests.control_plane import PKI
from tests.rotation.bed import Bed, Make
from tests.rotation.cluster import HELD, QUICK, WITHIN, Daemon, cluster, publish, successor
from tests.rotation.node import BedNode

pytestmark = [pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")]


def replace(bed: Bed, new: Issued) -> None:
    """Replace the pair like an operator, one file after the other."""
    (node,) = bed.control_planes
    node.replace(f"{PKI}/ca.crt", new.pem, 0o644)
    node.replace(f"{PKI}/ca.key", new.key_pem)


def trusted(bed: Bed) -> list[x509.Certificate]:
    (node,) = bed.control_planes
    return x509.load_pem_x509_certificates(node.read(f"{PKI}/ca.crt"))


@pytest.mark.long
@pytest.mark.sampled("node")
@pytest.mark.parametrize("terms", [{"key": "ec"}, {"key": "rsa"}, {"key": "ec", "later": 10}], ids=str)
def test_the_api_server_answers_again_without_waiting(make: Make, terms: dict[str, Any]) -> None:
    """A CA that is valid for one day, made this second or valid in ten seconds, replaces the old one. The API server
    accepts admin.conf and every component again long before the next full scan of the daemon. The rotation completes,
    and no connection is refused afterwards.
    """
    bed = make(settings={**HELD, "resync": "1h"})
    (node,) = bed.control_planes
    later, key = terms.get("later", 0), terms["key"]
    with Daemon(node) as daemon:
        daemon.running.until((node.state / "anchors.json").exists, "knows its anchor")
        start = datetime.now(UTC).replace(microsecond=0) + later * SECOND
        new = make_ca("kubernetes", key=key, not_before=start, not_after=start + DAY)
        publish(bed, (node.authority(), new))
        replace(bed, new)
        daemon.running.until(lambda: len(trusted(bed)) == 2, "both are trusted")
        assert trusted(bed)[0] == new.cert
        bed.until(lambda: recovers(bed), "all clients are answered")
        daemon.reconfigure(**QUICK)
        daemon.running.until(lambda: daemon.over, "the rotation is over", WITHIN)
        assert trusted(bed) == [new.cert]
        mark = bed.settled()
        assert bed.failures(mark) == []
        daemon.running.until(lambda: not daemon.reasons(), "no finding remains")
        phases = [entry["phase"] for entry in node.trail() if entry["event"] == "rotation"]
        assert list(dict.fromkeys(phases)) == ["trust", "issue", "distrust", "attach", "done"]


@pytest.mark.long
@pytest.mark.sampled("cluster")
def test_one_of_several_control_planes_accepts_clients_again(programs: Path, tmp_path: Path) -> None:
    """On one of two control planes the CA is replaced: its API server accepts both generations of clients again, its
    controller-manager runs and signs, no rotation begins, and the finding stays. When the old pair is back, the other
    CA is trusted nowhere, and after that a rotation completes on all nodes, as the finding describes.
    """
    with cluster(programs, tmp_path) as made:
        bed, daemon = made.bed, made.daemons[0]
        node, other = daemon.node, successor()
        daemon.running.until((node.state / "anchors.json").exists, "knows its anchor")
        node.put_pair("ca", other)
        daemon.running.until(lambda: node.read(f"{PKI}/ca.crt") == other.pem + made.old.pem, "both are trusted")
        bed.until(lambda: recovers(bed), "all clients are answered")
        daemon.running.until(lambda: signs(node, other), "its controller-manager signs")
        assert (daemon.reasons(), daemon.phase, daemon.over) == ({"root_ca_changed"}, "", False)
        node.put_pair("ca", made.old)
        own = [node.at(f"{PKI}/signing-ca.{kind}") for kind in ("crt", "key")]
        daemon.running.until(lambda: not any(each.exists() for each in own), "the other CA does not exist", WITHIN)
        assert node.read(f"{PKI}/ca.crt") == made.old.pem
        daemon.running.until(lambda: not daemon.reasons(), "no finding remains")
        bed.until(lambda: recovers(bed), "all clients are answered")
        mark = bed.settled()
        made.begin()
        made.ends()
        made.check(mark)


def signs(node: BedNode, ca: Issued) -> bool:
    """Return whether its controller-manager signs with that CA."""
    with suppress(SigningError, InvalidSignature):
        node.canary().verify_directly_issued_by(ca.cert)
        return True
    return False


def recovers(bed: Bed) -> bool:
    """Return whether no connection was refused while each was tried."""
    mark = bed.settled()
    return not bed.failures(mark)
