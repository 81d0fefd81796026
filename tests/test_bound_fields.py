"""Each log entry names the object of the work, without an explicit argument."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from certmond.daemon.reconciler import Reconciler
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.event_log import Event, Journal
from tests import rotation_node, test_renewal
from tests.controllers import test_restart
from tests.node import Node
from tests.notify.test_library_log import records
from tests.rotation_node import RotatingNode, root_ca
from tests.test_renewal import Host, now


def reported(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the entries that were written."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


def in_json(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """The log of the processes that this test module makes is JSON lines."""
    monkeypatch.setattr(module, "Journal", lambda _style: Journal("json"))


def test_a_step_names_its_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry of a step that changes files has the certificate and its path, and no entry has them afterwards."""
    in_json(monkeypatch, test_renewal)
    host = Host(tmp_path / "host", now=now())
    assert {outcome.result for outcome in host.start()} == {"done"}
    Journal("json").tell(Event.STOPPED, "the end")
    *steps, end = reported(capsys)
    assert {(each["certificate"], each["path"]) for each in steps} == {
        (name, entry["path"]) for name, entry in host.entries.items()
    }
    assert not {"certificate", "path"} & set(end)


def test_a_restart_names_its_service(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry of a restart has the service, from the act to the end."""
    in_json(monkeypatch, test_restart)
    place = tmp_path / "bench"
    place.mkdir()
    bench = test_restart.Bench(node, place)
    for seconds in (0, 2, 4, 6, 40):
        bench.step(seconds)
    entries = reported(capsys)
    assert [each["kind"] for each in entries] == ["step_begun", "step_done"]
    assert {each["service"] for each in entries} == {"hook"}


@pytest.mark.long
def test_all_that_a_rotation_does_names_it(
    quick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a rotation runs, each entry of a pass has its id: steps, phases, and the records of libraries."""
    in_json(monkeypatch, rotation_node)
    node = RotatingNode(quick / "place")
    rotation = node.begin(root_ca())
    enforcer = node.enforcer()
    real = enforcer.executor.execute

    def execute(*arguments: Any, **more: Any) -> Any:
        logging.getLogger("a library").warning("slow")
        return real(*arguments, **more)

    monkeypatch.setattr(enforcer.executor, "execute", execute)
    with records("json") as journal:
        acting = Reconciler(enforcer, journal, Telemetry("enforce"), enforcing=True, stopping=lambda: False)
        for _ in range(3):
            acting.make_plan(*enforcer.see())
            acting.execute()
    entries = reported(capsys)
    assert {"step_begun", "step_done", "library"} <= {each["kind"] for each in entries}
    assert {each["rotation"] for each in entries} == {rotation.id}
