"""What the documentation promises is what the code does."""

from __future__ import annotations

from pathlib import Path

from certmond.expose.render import Renderer
from certmond.expose.telemetry import Telemetry
from certmond.host.journal import MESSAGE_IDS
from certmond.host.store import Store
from certmond.pki.assess import assess
from tests.node import NOW, Node

DOCS = Path(__file__).parents[1] / "docs"


def test_every_metric_is_documented(node: Node) -> None:
    """Each metric family that is exported stands in docs/monitoring.md."""
    from certmond.config import load

    assessment = assess(Store(load().certificates, str(node.root)).observe(), NOW)
    text = Renderer().metrics(assessment, Telemetry("observe").text())
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    documented = (DOCS / "monitoring.md").read_text()
    missing = [name for name in families if name not in documented and not name.startswith("certmond_process_")]
    assert not missing


def test_every_message_id_is_documented() -> None:
    """Each kind of journal entry stands in docs/monitoring.md with its MESSAGE_ID, and no two share one."""
    documented = (DOCS / "monitoring.md").read_text()
    assert not [kind for kind, identifier in MESSAGE_IDS.items() if identifier not in documented]
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
