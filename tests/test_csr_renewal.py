"""`certmond renew` with a signer of kind `csr`: it shows the request, and waits for its decision."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import make_leaf
from tests.cluster.api_server import ApiServer
from tests.deadline import DEADLINE

DAY = timedelta(days=1)
SIGNER = "kubernetes.io/kube-apiserver-client"


class Asking:
    """A node with a client certificate that the cluster signs, once a person approves it."""

    def __init__(self, place: Path, api: ApiServer) -> None:
        self.place, self.api, now = place, api, datetime.now(UTC)
        leaf = make_leaf(api.ca, "app", not_before=now - DAY, not_after=now + 100 * DAY)
        for name, content in (("ca.crt", api.ca.pem), ("app.crt", leaf.pem), ("app.key", leaf.key_pem)):
            (place / name).write_bytes(content)
            (place / name).chmod(0o600)
        entries: list[dict[str, Any]] = [
            {"name": "ca", "path": f"{place}/ca.crt", "authority": True},
            {"name": "app", "path": f"{place}/app.crt", "key": f"{place}/app.key", "ca": "ca", "signer": "api",
             "subject": "CN=app", "usages": ["client auth"]},
        ]  # fmt: skip
        (place / "config.yaml").write_text(yaml.safe_dump({
            "mode": "enforce", "profile": "none", "node_name": "node-1", "certificates": entries,
            "signers": [{"name": "api", "kind": "csr", "kubeconfig": api.kubeconfig, "time_limit": "10m"}],
        }))  # fmt: skip

    @contextmanager
    def renew(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        words = ["--config", f"{self.place}/config.yaml", "--state-dir", f"{self.place}/state", "renew", "app"]
        command = [sys.executable, "-u", "-m", "certmond", *words, *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def waits(self, command: subprocess.Popen[str]) -> str:
        """The line about the request, once it is there."""
        assert command.stdout
        return next(line for line in iter(command.stdout.readline, "") if line.startswith("waiting: "))


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    (tmp_path / "node").mkdir()
    with ApiServer(tmp_path) as api:
        yield Asking(tmp_path / "node", api)


@pytest.mark.long
def test_the_request_is_shown_and_its_approval_is_waited_for(asking: Asking) -> None:
    """The line about the wait has the request, its signer and usages, the end of the wait, and the command that
    approves it. After an approval, the certificate is in place, and the command exits 0.
    """
    before = (asking.place / "app.crt").read_bytes()
    with asking.renew("--timeout", "10m") as command:
        line = asking.waits(command)
        name = asking.api.only["metadata"]["name"]
        asks = f"waiting: app: the request {name} (signer {SIGNER}, usages client auth, digital signature"
        assert line.startswith(asks), line
        assert " waits for approval (since " in line
        assert f" UTC, until {datetime.now(UTC):%Y}-" in line
        assert line.endswith(f"; to end the wait: kubectl certificate approve {name})\n")
        asking.api.decide("Approved")
        said, reported = command.communicate(timeout=DEADLINE)
    assert (command.returncode, reported) == (0, ""), said
    assert "1 of 1 done" in said
    assert (asking.place / "app.crt").read_bytes() != before


@pytest.mark.long
def test_a_request_that_is_denied_ends_the_wait(asking: Asking) -> None:
    """The command exits 2, and prints the request and the reason of the denial."""
    with asking.renew("--timeout", "10m") as command:
        asking.waits(command)
        asking.api.decide("Denied", "not now")
        said, reported = command.communicate(timeout=DEADLINE)
    assert command.returncode == 2, said
    assert (
        f"failed: app: the CertificateSigningRequest {asking.api.only['metadata']['name']} has the condition Denied ("
        in reported
    )


@pytest.mark.long
def test_an_undecided_request_is_waited_for_until_the_timeout(asking: Asking) -> None:
    """The command exits 1 at the end of `--timeout`. The request stays, and the next command uses it."""
    with asking.renew("--timeout", "1s") as command:
        _, reported = command.communicate(timeout=DEADLINE)
    assert command.returncode == 1
    assert reported.startswith("waiting: app: the request ")
    assert asking.api.calls.count("POST /") == 1
    asking.api.decide("Approved")
    with asking.renew() as command:
        assert command.wait(DEADLINE) == 0
    assert asking.api.calls.count("POST /") == 1


class Helped(Asking):
    """A node whose certificate is signed by a helper, which records each question and gives the answer in `says`."""

    def __init__(self, place: Path, api: ApiServer) -> None:
        super().__init__(place, api)
        self.helper = place / "helper"
        self.helper.write_text(f"#!/bin/sh\necho $CERTMONGER_OPERATION >>{place}/calls\n. {place}/says\n")
        self.helper.chmod(0o755)
        config = yaml.safe_load((place / "config.yaml").read_text())
        signer = {"name": "api", "kind": "command", "command": [str(self.helper)], "time_limit": "10m"}
        config["signers"] = [signer]
        (place / "config.yaml").write_text(yaml.safe_dump(config))

    def says(self, seconds: int) -> None:
        """Set the answer: undecided, with another question after so many seconds."""
        (self.place / "says").write_text(f"echo {seconds}\necho cookie\nexit 5\n")

    def calls(self) -> list[str]:
        return (self.place / "calls").read_text().split()


@pytest.fixture
def helped(tmp_path: Path) -> Iterator[Helped]:
    (tmp_path / "node").mkdir()
    with ApiServer(tmp_path) as api:
        yield Helped(tmp_path / "node", api)


@pytest.mark.long
def test_a_helper_is_asked_again_at_the_time_that_it_named(helped: Helped) -> None:
    """If a helper names an hour, certmond asks it once, however long `--timeout` is. A file that the command itself
    writes in its directory is no reason to ask again.
    """
    helped.says(3600)
    with helped.renew("--timeout", "3s") as command:
        _, reported = command.communicate(timeout=DEADLINE)
    assert command.returncode == 1
    assert reported.startswith("waiting: app: the helper ")
    assert helped.calls() == ["SUBMIT"]


@pytest.mark.long
def test_a_helper_is_asked_at_most_as_often_as_it_named(helped: Helped) -> None:
    """In twenty seconds a helper that names a second between two questions has at most twenty after the first."""
    helped.says(1)
    with helped.renew("--timeout", "20s") as command:
        assert command.wait(DEADLINE) == 1
    assert helped.calls()[:2] == ["SUBMIT", "POLL"]
    assert len(helped.calls()) <= 1 + 20


@pytest.mark.long
def test_a_certificate_of_another_process_ends_the_wait(helped: Helped) -> None:
    """While a command waits for a helper, another process such as the daemon installs a certificate. The command
    detects it at once, asks the helper no more, and exits 0.
    """
    helped.says(3600)
    with helped.renew("--timeout", "10m") as command:
        helped.waits(command)
        now = datetime.now(UTC)
        made = make_leaf(helped.api.ca, "app", not_before=now - DAY, not_after=now + 200 * DAY)
        for name, content in (("app.key", made.key_pem), ("app.crt", made.pem)):
            (helped.place / "staged").write_bytes(content)
            (helped.place / "staged").chmod(0o600)
            (helped.place / "staged").rename(helped.place / name)
        said, reported = command.communicate(timeout=DEADLINE)
    assert (command.returncode, reported) == (0, ""), said
    assert helped.calls() == ["SUBMIT"]
    assert (helped.place / "app.crt").read_bytes() == made.pem
