"""`check`, `metrics`, `plan` and the daemon all use the record of certmond's own renewals."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import preloaded_certmond
from tests.deadline import DEADLINE
from tests.test_commands_beside_the_daemon import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    with made.health:
        yield made


def certmond(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    return preloaded_certmond.run([*home.options, *words], DEADLINE)


@pytest.mark.long
def test_every_verb_reports_a_service_with_a_replaced_certificate(home: Home) -> None:
    """After `renew --no-restart`, `check` and `metrics` report the service that still uses the old certificate, and
    `plan` has its restart. Only the record of the renewal shows that.
    """
    assert certmond(home, "check").returncode == 0
    assert certmond(home, "renew", "web", "--no-restart").returncode == 0
    checked = certmond(home, "check", "-o", "json")
    web = next(each for each in json.loads(checked.stdout)["certificates"] if each["name"] == "web")
    assert (checked.returncode, [each["reason"] for each in web["findings"]]) == (1, ["restart_pending"])
    assert 'certmond_finding{certificate="web",' in certmond(home, "metrics").stdout
    planned = certmond(home, "plan", "-o", "json")
    assert [(each["step"], each["target"]) for each in json.loads(planned.stdout)["steps"]] == [("restart", "web")]
