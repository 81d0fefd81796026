"""A rotation on a node where another user owns a kubeconfig: that user holds up neither it nor any renewal."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from certmond.pki.findings import Reason
from certmond.pki.rotation.phases import Phase
from tests.builders import DAY, YEAR, make_leaf, make_server
from tests.owned_tree import THEIRS
from tests.rotation_node import RotatingNode, kubeconfig, root_ca

pytestmark = [
    pytest.mark.real("openssl"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
]


class SharedNode(RotatingNode):
    """A node with a kubeconfig in a directory of another user, who has replaced it with a symlink."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, hurried=False)
        self.theirs = self.files / "theirs"
        self.theirs.mkdir()
        now = datetime.now(UTC)
        user = make_leaf(self.old, "mallory", not_before=now - DAY, not_after=now + YEAR)
        (self.theirs / "real").write_bytes(kubeconfig(self.old, user))
        (self.theirs / "real").chmod(0o600)
        (self.theirs / "config").symlink_to("real")
        for path in (self.theirs, self.theirs / "real", self.theirs / "config"):
            os.chown(path, THEIRS, THEIRS, follow_symlinks=False)
        path = place / "config.yaml"
        document = yaml.safe_load(path.read_text())
        entry = {"name": "theirs", "kind": "kubeconfig", "path": str(self.theirs / "config"), "owner": str(THEIRS)}
        document["certificates"].append({**entry, "ca": "ca", "embedded_ca": "ca"})
        path.write_text(yaml.safe_dump(document))

    def expire(self) -> bytes:
        """Install a server certificate that is due, and return it."""
        now = datetime.now(UTC)
        web = make_server(self.old, "web", names=["DNS:web"], not_before=now - YEAR, not_after=now + DAY)
        self.put("web.crt", web.pem)
        self.put("web.key", web.key_pem)
        return web.pem


def test_a_symlink_of_another_user_blocks_no_renewal(tmp_path: Path) -> None:
    """While a kubeconfig cannot get the new CA, because its owner has put a symlink there, due certificates are
    renewed.
    """
    node = SharedNode(tmp_path / "place")
    node.begin(root_ca())
    node.walk(lambda: node.phase is Phase.TRUST, passes=5000)
    due = node.expire()
    for _ in range(4):
        node.step()
        if node.read("web.crt") != due:
            break
    assert node.read("web.crt") != due


@pytest.mark.long
def test_a_symlink_of_another_user_blocks_no_rotation(tmp_path: Path) -> None:
    """A rotation completes although a kubeconfig cannot get the CAs, because its owner has put a symlink there. A
    finding reports that this kubeconfig trusts another CA.
    """
    node, new = SharedNode(tmp_path / "place"), root_ca()
    before = (node.theirs / "real").read_bytes()
    node.begin(new)
    node.walk(passes=5000)
    assert node.unwell(new) == []
    assert (node.theirs / "real").read_bytes() == before
    assert Reason.EMBEDDED_CA_DIFFERS in node.findings()
