"""The example of a Prometheus configuration for a fleet: Prometheus accepts it, and it finds certmond's endpoints."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import real_part

CONFIG = Path(__file__).parents[2] / "config"
TEXT = (CONFIG / "scrape.yaml").read_text()
JOBS: dict[str, dict[str, Any]] = {job["job_name"]: job for job in yaml.safe_load(TEXT)["scrape_configs"]}


@pytest.mark.real("promtool")
def test_prometheus_accepts_the_shipped_file() -> None:
    """`promtool check config` accepts the file as it is, in its directory, with the rules and nodes beside it."""
    done = subprocess.run(
        [real_part("promtool"), "check", "config", "--lint=all", "--lint-fatal", "config/scrape.yaml"],
        cwd=CONFIG.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, "WARNING" in done.stdout + done.stderr) == (0, False), done.stdout + done.stderr
    assert "2 rule files found" in done.stdout


def test_the_example_of_nodes_is_one_that_the_fleet_reads() -> None:
    """The pattern of the fleet's job matches the example, whose targets have the port of certmond."""
    (found,) = JOBS["certmond-fleet"]["file_sd_configs"]
    (pattern,) = found["files"]
    (example,) = CONFIG.glob(pattern)
    groups = yaml.safe_load(example.read_text())
    assert {group["labels"]["role"] for group in groups} == {"control-plane", "worker"}
    assert all(target.endswith(":9964") for group in groups for target in group["targets"])


def test_every_job_is_one_that_the_alerts_know() -> None:
    """A job's name has certmond in it, by which CertmondDown finds it; each has limits for an accident."""
    assert len(JOBS) == 3
    assert all("certmond" in name for name in JOBS)
    assert all({"sample_limit", "body_size_limit"} <= job.keys() for job in JOBS.values())


@pytest.mark.parametrize(
    ("address", "scraped"),
    [("192.0.2.11:10250", "192.0.2.11:9964"), ("[2001:db8::1]:10250", "[2001:db8::1]:9964"), ("node:1", "node:9964")],
)
def test_the_kubelet_s_address_becomes_certmond_s(address: str, scraped: str) -> None:
    """Of what the Kubernetes API tells, the host stays and the port is certmond's."""
    rule = next(
        rule for rule in JOBS["certmond-kubernetes"]["relabel_configs"] if rule["target_label"] == "__address__"
    )
    assert re.sub(f"^(?:{rule['regex']})$", rule["replacement"].replace("$", "\\"), address) == scraped


def test_only_the_local_job_has_no_tls_and_no_authentication() -> None:
    """A job across a network is encrypted, and authenticates with a password or a certificate."""
    for name, job in JOBS.items():
        if name != "certmond":
            assert job["scheme"] == "https"
            assert "basic_auth" in job or "cert_file" in job["tls_config"]
            assert "insecure_skip_verify" not in job["tls_config"]
