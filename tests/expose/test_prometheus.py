"""All the real parts: the daemon, the HTTP server and a Prometheus that scrapes it, on a real kubeadm node's tree."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest
import yaml
from cryptography import x509

from tests.conftest import real_part
from tests.daemon_harness import Running, running
from tests.deadline import DEADLINE
from tests.free_ports import free_port
from tests.http_server import running as listening
from tests.node import KUBELET_PEM, PKI, Node, pem
from tests.web_config_files import USERS, VERIFY, WebFiles, client_pair, server_pair

pytestmark = pytest.mark.real("prometheus")

CONFIG = Path(__file__).parents[2] / "config"
API = f"{PKI}/apiserver"
NOT_BEFORE = "certmond_certificate_not_before_timestamp_seconds"
NOT_AFTER = "certmond_certificate_not_after_timestamp_seconds"
CHAIN_VALID = "certmond_certificate_chain_valid"


def get(port: int, path: str) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as client:
        client.request("GET", path)
        response = client.getresponse()
        return response.status, response.read()


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends. `log` has its output."""
    with log.open("ab") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def until(what: str, holds: Callable[[], Any], expected: object, *logs: Path) -> None:
    """Ask until the answer is what is expected; after the deadline, fail with what it was instead."""
    end, answer = time.monotonic() + DEADLINE, None
    while time.monotonic() < end:
        try:
            answer = holds()
        except (OSError, ValueError) as error:  # not yet listening
            answer = error
        if answer == expected:
            return
        time.sleep(0.05)
    printed = "\n".join(log.read_text() for log in logs)
    raise AssertionError(f"{what}: {answer!r} in place of {expected!r}\n{printed}")


class Stack:
    """A node's daemon, its HTTP server, and the Prometheus that scrapes it every second."""

    def __init__(self, node: Node, work: Path) -> None:
        self.node = node
        self.port, self.prometheus_port = free_port(), free_port()
        self._work = work
        self._parts = ExitStack()
        self.daemon: Running
        self.server: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        prometheus = real_part("prometheus")
        self.daemon = self._parts.enter_context(running(self.node.root, self._work))
        self.serve()
        settings = [f"--config.file={self._configuration()}", f"--storage.tsdb.path={self._work / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self.prometheus_port}", "--log.level=warn"]  # fmt: skip
        self._parts.enter_context(process([prometheus, *settings], self._work / "prometheus.log"))
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def serve(self) -> None:
        """Start the HTTP server, and wait until it answers."""
        log = self._work / "serve.log"
        listen = f"127.0.0.1:{self.port}"
        runtime = str(self.daemon.runtime)
        command = [sys.executable, "-m", "certmond", "serve", "--runtime-dir", runtime, "--listen", listen]
        self.server = self._parts.enter_context(process(command, log))
        until("ready", lambda: get(self.port, "/readyz")[0], 200, log)

    def query(self, expression: str) -> dict[str, float]:
        """certificate -> value, for an expression whose result has one series for each."""
        status, body = get(self.prometheus_port, f"/api/v1/query?query={quote(expression)}")
        answer = json.loads(body)
        assert status == 200, answer
        found = answer["data"]["result"]
        values = {sample["metric"].get("certificate", ""): float(sample["value"][1]) for sample in found}
        assert len(values) == len(found)
        return values

    def firing(self, **labels: str) -> set[tuple[str, str]]:
        """(alert, severity) of what fires, with these labels."""
        _, body = get(self.prometheus_port, "/api/v1/alerts")
        alerts = [alert["labels"] for alert in json.loads(body)["data"]["alerts"] if alert["state"] == "firing"]
        return {(each["alertname"], each["severity"]) for each in alerts if labels.items() <= each.items()}

    def until_fires(self, *expected: tuple[str, str], **labels: str) -> None:
        """Wait until exactly these fire."""
        until(f"alerts with {labels}", lambda: self.firing(**labels), set(expected), self._work / "prometheus.log")

    def until_value(self, expression: str, expected: dict[str, float]) -> None:
        until(expression, lambda: self.query(expression), expected, self._work / "prometheus.log")

    def _configuration(self) -> Path:
        """Our rules as they are, but without waiting, evaluated and scraped every second."""
        rules = yaml.safe_load((CONFIG / "alerts.yaml").read_text())
        for rule in rules["groups"][0]["rules"]:
            rule.pop("for", None)
        (self._work / "rules.yaml").write_text(yaml.safe_dump(rules))
        document = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml", str(CONFIG / "recording.yaml")],
            "scrape_configs": [
                {"job_name": "certmond", "static_configs": [{"targets": [f"127.0.0.1:{self.port}"]}]},
            ],
        }
        path = self._work / "prometheus.yaml"
        path.write_text(yaml.safe_dump(document))
        return path


@pytest.fixture
def stack(node: Node, tmp_path: Path) -> Iterator[Stack]:
    """Start the whole stack. The API server's pair is issued again, so that it is valid on any day of the test."""
    now = datetime.now(UTC).replace(microsecond=0)
    node.reissue(API, start=now - timedelta(days=1), end=now + timedelta(days=365))
    work = tmp_path / "work"
    work.mkdir()
    with Stack(node, work) as stack:
        yield stack


def on_disk(node: Node) -> dict[str, x509.Certificate]:
    """name -> certificate, as cryptography reads them, with no help from certmond."""
    names = ("ca", "apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-ca")
    found = {name: node.certificate(f"{PKI}/{name}.crt") for name in (*names, "front-proxy-client")}
    etcd = ("ca", "server", "peer", "healthcheck-client")
    found |= {f"etcd-{name}": node.certificate(f"{PKI}/etcd/{name}.crt") for name in etcd}
    for name in ("admin.conf", "controller-manager.conf", "scheduler.conf"):
        embedded = node.kubeconfig(f"etc/kubernetes/{name}")["users"][0]["user"]["client-certificate-data"]
        found[name] = x509.load_pem_x509_certificate(base64.b64decode(embedded))
    return found | {"kubelet-client": node.certificate(KUBELET_PEM)}


@pytest.mark.long
def test_a_leaf_that_is_about_to_end_fires_until_it_is_restored(stack: Stack) -> None:
    """Prometheus has the dates that cryptography reads. A leaf is replaced by one that ends in an hour: its alert
    fires, and no other. The file breaks: the alert stays, beside the one for the file. The file is restored: no alert
    fires.
    """
    node, good = stack.node, stack.node.read(f"{API}.crt")
    certificates = on_disk(node)
    ends = {name: certificate.not_valid_after_utc.timestamp() for name, certificate in certificates.items()}
    begins = {name: certificate.not_valid_before_utc.timestamp() for name, certificate in certificates.items()}
    stack.until_value(NOT_AFTER, ends)
    stack.until_value(NOT_BEFORE, begins)
    proven = ("ca", "apiserver", "etcd-ca", "front-proxy-ca")
    stack.until_value(f'{CHAIN_VALID}{{certificate=~"{"|".join(proven)}"}}', dict.fromkeys(proven, 1.0))
    stack.until_fires(certificate="apiserver")

    now = datetime.now(UTC).replace(microsecond=0)
    end = now + timedelta(hours=1)
    key = node.key(f"{API}.key")
    dying, _ = node.mint(certificates["apiserver"], start=now - timedelta(days=300), end=end, key=key)
    node.replace(f"{API}.crt", pem(dying))
    stack.until_value(f'{NOT_AFTER}{{certificate="apiserver"}}', {"apiserver": end.timestamp()})
    stack.until_fires(("CertmondCertificateExpiresSoon", "critical"), certificate="apiserver")

    node.replace(f"{API}.crt", good[:200])
    stack.until_fires(
        ("CertmondCertificateExpiresSoon", "critical"),
        ("CertmondCertificateUnreadable", "critical"),
        certificate="apiserver",
    )
    stack.until_value(f'{NOT_AFTER}{{certificate="apiserver"}}', {"apiserver": end.timestamp()})

    node.replace(f"{API}.crt", good)
    stack.until_fires(certificate="apiserver")
    stack.until_value(f'{NOT_AFTER}{{certificate="apiserver"}}', {"apiserver": ends["apiserver"]})


@pytest.mark.long
def test_the_dashboard_has_something_to_show(stack: Stack) -> None:
    """Prometheus answers every question of the dashboard; nothing is empty but what did not happen on this node."""
    panels = json.loads((CONFIG / "grafana-dashboard.json").read_text())["panels"]
    given = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*", "$node": f"127.0.0.1:{stack.port}"}
    nothing = {
        ("Fleet", "Served differs"), ("Fleet", "Restarts"), ("Fleet", "Renewals"),
        ("History", "Renewals and restarts of a day"), ("History", "Broken chains and stale servers"),
        ("Node $node", "How long things take"), ("Node $node", "Hooks"),
    }  # fmt: skip

    def empty() -> set[tuple[str, str]]:
        found, row = set(), ""
        for panel in panels:
            row = panel["title"] if panel["type"] == "row" else row
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for name, value in given.items():
                    expression = expression.replace(name, value)
                status, body = get(stack.prometheus_port, f"/api/v1/query?query={quote(expression)}")
                assert status == 200, body
                if not json.loads(body)["data"]["result"]:
                    found.add((row, panel["title"]))
        return found

    stack.until_value(f'{CHAIN_VALID}{{certificate="apiserver"}}', {"apiserver": 1.0})
    until("panels that are empty and should not be", lambda: empty() - nothing, set())


@pytest.mark.long
def test_a_foreign_leaf_breaks_the_chain_until_it_is_reissued(stack: Stack) -> None:
    """A leaf of another CA of the same name raises the alert for the chain; signed by the tree's CA, it is resolved."""
    node = stack.node
    stack.until_value(f'{CHAIN_VALID}{{certificate="apiserver"}}', {"apiserver": 1.0})
    stack.until_fires(certificate="apiserver")
    good = node.read(f"{API}.crt")
    unrelated, _ = node.mint(
        node.certificate(f"{API}.crt"), key=node.key(f"{API}.key"), signer=node.key(f"{PKI}/etcd/ca.key")
    )
    node.replace(f"{API}.crt", pem(unrelated))
    stack.until_fires(("CertmondChainBroken", "critical"), certificate="apiserver")
    node.replace(f"{API}.crt", good)
    stack.until_fires(certificate="apiserver")


@pytest.mark.long
def test_a_stopped_server_fires_one_alert(stack: Stack) -> None:
    """While the server does not answer, one alert fires. It is resolved when the server is back, and so are the
    series.
    """
    stack.until_value(f'{CHAIN_VALID}{{certificate="ca"}}', {"ca": 1.0})
    stack.server.send_signal(signal.SIGTERM)
    stack.server.wait()
    stack.until_fires(("CertmondDown", "critical"), instance=f"127.0.0.1:{stack.port}")
    stack.until_fires(("CertmondDown", "critical"))
    stack.serve()
    stack.until_value(f'{CHAIN_VALID}{{certificate="ca"}}', {"ca": 1.0})
    until("down", lambda: "CertmondDown" in dict(stack.firing()), False)


@pytest.mark.long
@pytest.mark.real("promtool")
def test_promtool_has_no_objection_to_the_metrics(stack: Stack) -> None:
    """`promtool check metrics` reads what is served, prints nothing and exits with 0."""
    status, metrics = get(stack.port, "/metrics")
    assert status == 200
    command = [real_part("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=metrics, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_prometheus_scrapes_as_documented(tmp_path: Path) -> None:
    """With the scrape configuration of docs/web.md Prometheus authenticates by client certificate and password, also
    after the server's certificate is renewed. Without the password it does not.
    """
    web_files, port = WebFiles(tmp_path), free_port()
    names = f"{VERIFY}  client_allowed_sans: [prometheus.example.org]\n"
    own = client_pair(web_files.clients, "DNS:prometheus.example.org")
    files = {"certmond-ca.crt": web_files.ca.pem, "client.crt": own.pem, "client.key": own.key_pem}
    for name, content in {**files, "certmond.password": b"secret\n"}.items():
        (tmp_path / name).write_bytes(content)
    blocks = re.findall(r"```yaml\n(.*?)```", (CONFIG.parent / "docs/web.md").read_text(), re.DOTALL)
    [scrape] = [block for block in blocks if "scrape_configs" in block]
    with listening(web_files.runtime, gate=web_files.gate(names + USERS.replace("alice", "prometheus"))) as server:
        scrape = scrape.replace("/etc/prometheus", str(tmp_path)).replace(
            "192.0.2.10:9964", f"127.0.0.1:{server.address[1]}"
        )
        (tmp_path / "prometheus.yaml").write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n{scrape}")
        settings = [f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/tsdb",
                    f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
        with process([real_part("prometheus"), *settings], tmp_path / "prometheus.log"):

            def target() -> tuple[str, str]:
                [found] = json.loads(get(port, "/api/v1/targets")[1])["data"]["activeTargets"]
                return found["health"], found["lastError"]

            until("the target", target, ("up", ""), tmp_path / "prometheus.log")
            web_files.write(names + USERS.replace("alice", "another"))
            until("the target", target, ("down", "server returned HTTP status 401 Unauthorized"))
            web_files.put_pair(server_pair(web_files.ca, "rsa"))
            web_files.write(names + USERS.replace("alice", "prometheus"))
            until("the target", target, ("up", ""))
