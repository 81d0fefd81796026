"""A rotation of the files below another root: it ends, or it is refused, and is never waited for without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from certmond.daemon.enforcer import Enforcer
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.rotation.phases import Mode, Phase
from tests.rotation_node import RotatingNode, root_ca

UNSEEN = "no service runs below the directory in --root, so certmond cannot observe which files web use"
REFUSED = f"refused: {UNSEEN}, so no phase could end; "
pytestmark = pytest.mark.real("openssl")


class BelowRoot(RotatingNode):
    """The configuration has the paths of the node itself, and the files are below a directory of this host."""

    def configure(self, **more: Any) -> None:
        super().configure(**more)
        path = self.place / "config.yaml"
        path.write_text(path.read_text().replace(f"{self.files}/", "/"))

    @property
    def options(self) -> list[str]:
        return [*super().options, "--root", str(self.files)]

    def enforcer(self) -> Enforcer:
        audit = Audit(Journal("none"), self.state, "test")
        return Enforcer(
            self.config, root=str(self.files), state_dir=self.state, audit=audit, clock=self.clock, acting=True,
            keeps=True, monotonic=self.seconds,
        )  # fmt: skip


def test_with_services_it_is_refused(tmp_path: Path) -> None:
    """`rotate` exits 2 with the remedies, also with `--no-wait`, and begins nothing. A plan is shown."""
    node = BelowRoot(tmp_path / "place", served=True)
    node.stage(root_ca())
    before = node.tree()
    for more in ((), ("--no-wait",)):
        refused = node.hurry("root-ca", "rotate", *more)
        remedy = "rotate on the node itself without --root, or with a configuration without services"
        assert (refused.code, refused.err) == (2, f"{REFUSED}{remedy}, or give --at-once\n")
        assert (node.tree(), node.record) == (before, None)
    assert node.hurry("root-ca", "rotate", "--plan").code == 0


def test_at_once_it_ends(tmp_path: Path) -> None:
    """With `--at-once` certmond waits for no service: the services of that node start later with the new files."""
    node, new = BelowRoot(tmp_path / "place", served=True), root_ca()
    node.stage(new)
    done = node.hurry("root-ca", "rotate", "--at-once")
    assert (done.code, done.out.splitlines()[-1]) == (0, "done")
    assert node.unwell(new) == []
    assert node.restarts() == 0


@pytest.mark.long
def test_without_services_it_ends(tmp_path: Path) -> None:
    """Without services in the configuration, no process could use an older file."""
    node, new = BelowRoot(tmp_path / "place"), root_ca()
    node.stage(new)
    assert node.hurry("root-ca", "rotate").code == 0
    assert node.unwell(new) == []


@pytest.mark.long
def test_an_abort_is_refused_or_ends(tmp_path: Path) -> None:
    """With services, `abort` of a rotation that began without them is refused, and changes nothing. Without, the old CA
    is back.
    """
    node = BelowRoot(tmp_path / "place")
    node.begin(root_ca())
    node.walk(lambda: node.phase is Phase.ISSUE)
    node._served = True
    node.configure()
    before = node.tree(), node.record
    refused = node.hurry("root-ca", "abort")
    remedy = "abort the rotation on the node itself without --root, or with a configuration without services"
    assert (refused.code, refused.err) == (2, f"{REFUSED}{remedy}\n")
    assert node.hurry("root-ca", "rotate").code == 2
    assert (node.tree(), node.record) == before
    node._served = False
    node.configure()
    assert node.hurry("root-ca", "abort").code == 0
    assert node.unwell(node.old) == []


def test_an_abort_of_one_at_once_ends(tmp_path: Path) -> None:
    """Before it has signed, a rotation at once can be aborted below another root as well."""
    node = BelowRoot(tmp_path / "place", served=True)
    node.begin(root_ca(), Mode.REPLACE)
    assert node.hurry("root-ca", "abort").code == 0
    assert node.unwell(node.old) == []
