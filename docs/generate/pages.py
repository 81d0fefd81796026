"""`python -m docs.generate.pages`: screenshots of the page at `/` in Chromium, docs/img/page-*.png.

The certificates and findings are those of `certmond check` on the node of the demonstration. This module adds services,
a plan, a rotation and events. The images have the dates of the day of their creation, so `make reference` does not
write them.
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


VIEWS = {
    "page-light": View(1280, 1100),
    "page-dark": View(1280, 1100, dark=True),
    "page-phone": View(390, 1200),
}


def with_services(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with running services, one of which serves an older certificate than the file has."""
    since = written(before(document, days=100))
    certificates = [
        {**entry, "used_by": [{**used, "running": True, "started_at": since} for used in entry["used_by"]]}
        for entry in document["certificates"]
    ]
    served = next(entry for entry in certificates if entry["name"] == "etcd-server")
    path, endpoint = served["path"], "192.0.2.10:2379"
    at = {"service": "etcd", "endpoint": endpoint, "sha256": "0" * 64, "matches": False, "reason": None}
    message = f"{path} is not what etcd serves at {endpoint}, which is an older certificate; restart etcd"
    served["served"] = [at]
    served["findings"] = [{"reason": "served_differs", "severity": "critical", "message": message}]
    return {**document, "certificates": certificates}


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


def before(document: dict[str, Any], **ago: float) -> datetime:
    return datetime.fromisoformat(document["taken_at"]) - timedelta(**ago)


def written(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


@contextmanager
def shown(work: Path) -> Iterator[str]:
    """Serve the page during the block, and yield its URL."""
    node, runtime = work / "node", work / "run"
    node.mkdir()
    runtime.mkdir()
    status = with_services(check_document(node))
    render(runtime)
    put(runtime / "status.json", json.dumps(status).encode())
    put(runtime / "activity.json", json.dumps(activity(status)).encode())
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
    with tempfile.TemporaryDirectory() as place, shown(Path(place)) as url, chromium(command, Path(place)) as browser:
        for name, view in VIEWS.items():
            draw(browser, url, view, ROOT / f"docs/img/{name}.png")
