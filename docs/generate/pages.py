"""`python -m docs.generate.pages`: screenshots of the page at `/` in Chromium, docs/img/page-*.

The certificates and findings are those of `certmond check` on the node of the demonstration. This module adds services,
a plan, a rotation and events, except to the page of a new node. The images have the dates of the day of their
creation, so `make reference` does not write them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from docs.generate import ROOT
from docs.generate.terminal import check_document
from tests.chromium import Browser, chromium
from tests.http_server import put, render, running

PHASES = ("prepare", "detach", "trust", "issue", "distrust", "attach", "done")


class View(NamedTuple):
    width: int
    height: int
    dark: bool = False
    new: bool = False
    """The node is new: it has no finding, no rotation and no plan. This image is in WebP, which is smaller."""

    @property
    def suffix(self) -> str:
        return "webp" if self.new else "png"


VIEWS = {
    "page-light": View(1280, 1100),
    "page-dark": View(1280, 1100, dark=True),
    "page-phone": View(390, 1200),
    "page-new": View(1180, 640, new=True),
}


def with_services(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with running services."""
    since = written(before(document, days=100))
    certificates = [
        {**entry, "used_by": [{**used, "running": True, "started_at": since} for used in entry["used_by"]]}
        for entry in document["certificates"]
    ]
    return {**document, "certificates": certificates}


def with_old_certificate(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with a service that serves an older certificate than its file has."""
    document = with_services(document)
    served = next(entry for entry in document["certificates"] if entry["name"] == "etcd-server")
    path, endpoint = served["path"], "192.0.2.10:2379"
    at = {"service": "etcd", "endpoint": endpoint, "sha256": "0" * 64, "matches": False, "reason": None}
    message = f"{path} is not what etcd serves at {endpoint}, which is an older certificate; restart etcd"
    served["served"] = [at]
    served["findings"] = [{"reason": "served_differs", "severity": "critical", "message": message}]
    return document


def activity(document: dict[str, Any]) -> dict[str, Any]:
    """Return the activity of such a node: a plan, a rotation, and the events of its findings."""
    found = [(entry, item) for entry in document["certificates"] for item in entry["findings"]]
    levels = {"critical": "critical", "warning": "warning"}
    events = [
        {"at": written(before(document, seconds=7 + 3 * number)), "event": "finding_raised",
         "level": levels.get(item["severity"], "info"), "message": item["message"]}
        for number, (_, item) in enumerate(found)
    ]  # fmt: skip
    count = len(document["certificates"])
    started = {"at": written(before(document, minutes=2)), "event": "started", "level": "info",
               "message": f"certmond watches this node: {count} certificates"}  # fmt: skip
    step = {"step": "issue", "target": "front-proxy-client", "detail": "is due; signer local", "restarts": []}
    return {
        "schema": 1,
        "plan": {"steps": [step], "held": [], "changes_at": None},
        "rotation": {
            "id": "r1", "family": "ca", "mode": "overlap", "phase": "trust", "phases": PHASES, "aborted": False,
            "since": written(before(document, minutes=40)), "old": [], "new": "", "until": None,
            "waits": ["node-2 has not said that it has reached trust"],
            "workers": {"all": 12, "released": 4, "acknowledged": 3},
        },
        "events": [*events, started],
    }  # fmt: skip


def new_activity(document: dict[str, Any]) -> dict[str, Any]:
    """Return the activity of a node on which certmond has just started."""
    started = activity(document)["events"][-1]
    return {"schema": 1, "plan": {"steps": [], "held": [], "changes_at": None}, "rotation": None, "events": [started]}


def before(document: dict[str, Any], **ago: float) -> datetime:
    return datetime.fromisoformat(document["taken_at"]) - timedelta(**ago)


def written(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


@contextmanager
def shown(work: Path, *, new: bool = False) -> Iterator[str]:
    """Serve the page of a node with findings, or of a new node, during the block, and yield its URL."""
    place = work / ("new" if new else "old")
    node, runtime = place / "node", place / "run"
    node.mkdir(parents=True)
    runtime.mkdir()
    document = check_document(node, with_faults=not new)
    status = with_services(document) if new else with_old_certificate(document)
    render(runtime)
    put(runtime / "status.json", json.dumps(status).encode())
    put(runtime / "activity.json", json.dumps(new_activity(status) if new else activity(status)).encode())
    with running(runtime) as server:
        yield f"http://127.0.0.1:{server.address[1]}/"


def draw(browser: Browser, url: str, view: View, path: Path) -> None:
    with browser.page(dark=view.dark, width=view.width, height=view.height) as page:
        page.open(url)
        page.screenshot(path)


if __name__ == "__main__":
    command = shutil.which("chromium")
    if command is None:
        raise SystemExit("the screenshots need Chromium, which is not installed")
    with tempfile.TemporaryDirectory() as place, chromium(command, Path(place)) as browser:
        for new in (False, True):
            with shown(Path(place), new=new) as url:
                for name, view in VIEWS.items():
                    if view.new == new:
                        draw(browser, url, view, ROOT / f"docs/img/{name}.{view.suffix}")
