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
def test_prometheus_takes_it(tmp_path: Path) -> None:
    """`promtool check config` accepts it as it stands, with the files that it names: rules, keys, password, nodes."""
    home = tmp_path / "certmond"
    (home / "nodes").mkdir(parents=True)
    for name in ("alerts.yaml", "recording.yaml"):
        (home / name).write_text((CONFIG / name).read_text())
    # The nodes as the comment has them.
    listed = re.findall(r"^  #   (- targets.*|  labels.*)$", TEXT, re.MULTILINE)
    (home / "nodes/berlin.yaml").write_text("\n".join(listed))
    made = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=x", "-days", "1",
            "-keyout", str(home / "client.key"), "-out", str(home / "client.crt")]  # fmt: skip
    subprocess.run([real_part(made[0]), *made[1:]], check=True, capture_output=True)
    (home / "ca.crt").write_bytes((home / "client.crt").read_bytes())
    (home / "password").write_text("secret")
    path = tmp_path / "scrape.yaml"
    path.write_text(TEXT.replace("/etc/prometheus/certmond", str(home)))
    done = subprocess.run(
        [real_part("promtool"), "check", "config", "--lint=all", "--lint-fatal", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(listed) == 2


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
