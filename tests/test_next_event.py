"""Each command names the same next event of a node."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import preloaded_certmond
from tests.builders import make_ca, make_leaf
from tests.daemon_harness import running
from tests.deadline import DEADLINE
from tests.node import NOW, PKI, Node

AT = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
DAY = timedelta(days=1)


def said(*arguments: str | Path) -> str:
    return preloaded_certmond.run([*map(str, arguments)], DEADLINE).stdout


def first_of(forecast: dict[str, Any]) -> dict[str, Any]:
    """The first renewal, or certificate that is due, among the events of a forecast."""
    event = next(each for each in forecast["events"] if each["what"] in {"renew", "due"})
    return {name: event[name] for name in ("at", "what", "target")}


@pytest.mark.long
def test_check_and_forecast_name_the_same_next_event(node: Node) -> None:
    """Both documents have the forecast's first renewal, at this node's own time and not at the latest one, and both
    tables name it.
    """
    at = ("--root", node.root, "--at", AT)
    checked = json.loads(said("check", *at, "-o", "json"))
    foreseen = json.loads(said("forecast", *at, "-o", "json"))
    event = checked["next_event"]
    assert event == foreseen["next_event"] == first_of(foreseen)
    assert (event["what"], event["target"]) == ("renew", "apiserver")
    latest = next(entry["renew_at"] for entry in checked["certificates"] if entry["name"] == "apiserver")
    assert datetime.fromisoformat(event["at"]) < datetime.fromisoformat(latest)
    line = f"next due: apiserver on {datetime.fromisoformat(event['at']):%Y-%m-%d %H:%M} UTC"
    for verb in ("check", "forecast"):
        assert line in said(verb, *at).splitlines()


@pytest.mark.long
def test_a_forecast_that_ends_before_it_names_it_too(node: Node) -> None:
    """If nothing happens in the requested time, `forecast` still names the next event."""
    at = ("--root", node.root, "--at", AT, "--for", "1d")
    document = json.loads(said("forecast", *at, "-o", "json"))
    assert document["events"] == []
    assert document["next_event"]["target"] == "apiserver"
    assert "next due: apiserver on 2027-" in said("forecast", *at)


@pytest.mark.long
def test_a_certificate_without_a_signer_is_due(node: Node) -> None:
    """A certificate whose CA has no key here has no renewal, but is due, in every document."""
    for name in ("ca", "etcd/ca", "front-proxy-ca"):
        node.path(f"{PKI}/{name}.key").unlink()
    at = ("--root", node.root, "--at", AT)
    checked, foreseen = (json.loads(said(verb, *at, "-o", "json")) for verb in ("check", "forecast"))
    assert checked["next_event"] == foreseen["next_event"] == first_of(foreseen)
    assert checked["next_event"]["what"] == "due"
    assert re.search(r"^next due: \S+ on \S+ \S+ UTC \(certmond does not renew it\)$", said("check", *at), re.MULTILINE)


@pytest.mark.long
def test_the_end_of_a_certificate_of_the_kubelet_is_an_event(node: Node) -> None:
    """Without the key of the CA, the kubelet rotates its certificate. If no other event comes first, the next event is
    the end of this certificate.
    """
    for path in node.path("etc/kubernetes").rglob("*"):
        if path.is_file() and path.name not in {"ca.crt", "kubelet.conf"}:
            path.unlink()
    event = json.loads(said("check", "--root", node.root, "--at", AT, "-o", "json"))["next_event"]
    assert (event["what"], event["target"]) == ("expire", "kubelet-client")
    assert said("check", "--root", node.root, "--at", AT).count("kubelet-client on ") == 1


def test_a_node_without_a_certificate_has_no_next_event(node: Node) -> None:
    """The field is null, and no table has the line."""
    node.path("etc").rename(node.path("gone"))
    node.path("var").rename(node.path("gone-too"))
    at = ("--root", node.root, "--at", AT)
    assert json.loads(said("check", *at, "-o", "json"))["next_event"] is None
    assert "next due" not in said("check", *at)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A node with two certificates, of which one ends soon."""
    now = datetime.now(UTC)
    ca = make_ca("ca", not_before=now - DAY, not_after=now + 3000 * DAY)
    entries: list[dict[str, Any]] = [{"name": "ca", "path": "/ca.crt", "key": "/ca.key", "authority": True}]
    (tmp_path / "node").mkdir()
    files = {"ca.crt": ca.pem, "ca.key": ca.key_pem}
    for name, days in (("later", 700), ("sooner", 400)):
        leaf = make_leaf(ca, name, not_before=now - DAY, not_after=now + days * DAY)
        files |= {f"{name}.crt": leaf.pem, f"{name}.key": leaf.key_pem}
        entries.append({"name": name, "path": f"/{name}.crt", "key": f"/{name}.key", "ca": "ca"})
    for name, content in files.items():
        (tmp_path / "node" / name).write_bytes(content)
        (tmp_path / "node" / name).chmod(0o600)
    settings = {"profile": "none", "node_name": "node-1", "spread": "20d", "certificates": entries}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.mark.long
def test_the_daemon_names_the_same_next_event(home: Path) -> None:
    """`status` of a running daemon, its page and its line for systemd have the same event as `forecast`: the first
    renewal of this node, by the configured `spread`.
    """
    from certmond.expose.page.render import page

    options = ("--config", str(home / "config.yaml"), "--state-dir", str(home / "state"))
    with running(home / "node", home, *options) as daemon:
        reported = json.loads(said("status", "--runtime-dir", daemon.runtime, "-o", "json"))
        table = said("status", "--runtime-dir", daemon.runtime)
        shown = page((daemon.runtime / "status.json").read_bytes(), None, None, "tag")
        log = daemon.log.read_text()
    foreseen = json.loads(said("forecast", *options, "--root", home / "node", "-o", "json"))
    event = first_of(foreseen)
    assert reported["next_event"] == foreseen["next_event"] == event
    assert event["target"] == "sooner"
    latest = next(entry["renew_at"] for entry in reported["certificates"] if entry["name"] == "sooner")
    at = datetime.fromisoformat(event["at"])
    assert at.date() < datetime.fromisoformat(latest).date()
    assert f"next due: sooner on {at:%Y-%m-%d %H:%M} UTC" in table.splitlines()
    written = f'<time datetime="{at:%Y-%m-%dT%H:%M:%SZ}">{at:%Y-%m-%d}</time>'
    assert f"<dt>Next due</dt><dd>sooner, {written} <small>(enforce mode would renew it)</small></dd>" in shown
    assert f"next due sooner on {at:%Y-%m-%d}" in log
