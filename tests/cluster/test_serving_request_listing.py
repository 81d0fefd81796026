"""The requests of a kubelet for its serving certificate, as the API lists them."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.cluster.api_access import Access
from certmond.cluster.serving_request_listing import serving_requests
from certmond.config.loader import load
from certmond.controllers.cluster_objects.serving_request_check import ServingRequestCheck
from certmond.daemon.enforcer import Enforcer
from certmond.errors import RefusedError, UnreachableError
from certmond.files.catalog_observer import Store
from certmond.notify.audit import DAEMON, Audit
from certmond.notify.event_log import Journal
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.services.staleness import ServedAt, Surroundings
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.serving_request_objects import add_request
from tests.daemon_harness import running
from tests.deadline import DEADLINE

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def own(access_of: Callable[..., Access]) -> Access:
    return access_of("system:node:node-1", "system:nodes")


def test_a_kubelet_may_list_its_own_requests(cluster: ApiServer, own: Access) -> None:
    """certmond finds each request of this node to the signer of serving certificates, with its decisions."""
    add_request(cluster, "csr-a", NOW - timedelta(hours=3))
    add_request(cluster, "csr-b", NOW, Denied="not now", Failed="")
    add_request(cluster, "csr-other", NOW, node="node-11")
    add_request(cluster, "csr-client", NOW, signer="kubernetes.io/kube-apiserver-client-kubelet")
    add_request(cluster, "csr-c", NOW, Approved="by hand")["status"]["certificate"] = base64.b64encode(b"x").decode()
    found = {each.name: each for each in serving_requests(own, "node-1")}
    assert set(found) == {"csr-a", "csr-b", "csr-c"}
    assert (found["csr-a"].created_at, found["csr-a"].conditions) == (NOW - timedelta(hours=3), {})
    assert found["csr-b"].conditions == {"Denied": "not now", "Failed": "Decided"}
    assert [each.name for each in found.values() if each.issued] == ["csr-c"]


def test_a_user_without_the_right_is_told_the_rule(access_of: Callable[..., Access]) -> None:
    """A user without the role of the reader may not list requests. The error has the credentials and the rule to
    use.
    """
    with pytest.raises(RefusedError, match=r"may not list .*use the credentials of the kubelet .*verbs \[list\]"):
        serving_requests(access_of("other"), "node-1")


def test_an_answer_without_a_time_is_no_answer(cluster: ApiServer, own: Access) -> None:
    """A request without a creation time is not from a Kubernetes API."""
    del add_request(cluster, "csr-a", NOW)["metadata"]["creationTimestamp"]
    with pytest.raises(UnreachableError, match="does not answer like a Kubernetes API server"):
        serving_requests(own, "node-1")
    cluster.faults.append(Fault(500))
    with pytest.raises(UnreachableError, match="cannot list the CertificateSigningRequests now"):
        serving_requests(own, "node-1")


@pytest.mark.parametrize("created", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_outside_the_range_of_a_date_is_no_answer(cluster: ApiServer, own: Access, created: str) -> None:
    """A creation time that has no representation in UTC is not from a Kubernetes API."""
    add_request(cluster, "csr-a", NOW)["metadata"]["creationTimestamp"] = created
    with pytest.raises(UnreachableError, match="does not answer like a Kubernetes API server"):
        serving_requests(own, "node-1")


@pytest.mark.parametrize("name", [None, "", "csr\x1b[2J\n"])
def test_a_request_without_a_printable_name_is_no_answer(cluster: ApiServer, own: Access, name: str | None) -> None:
    """A Kubernetes API gives each request a name of printable characters."""
    add_request(cluster, "csr-a", NOW)["metadata"]["name"] = name
    with pytest.raises(UnreachableError, match="does not answer like a Kubernetes API server"):
        serving_requests(own, "node-1")


def test_a_read_that_the_api_server_postpones_is_not_repeated(cluster: ApiServer, own: Access) -> None:
    """certmond does not wait for the time in Retry-After, because the read delays the plan of the daemon."""
    cluster.faults.append(Fault(429, headers={"Retry-After": "1"}))
    with pytest.raises(UnreachableError, match=r"cannot list the CertificateSigningRequests now \(429"):
        serving_requests(own, "node-1")
    assert cluster.calls == ["GET /"]


def test_the_time_limit_of_an_answer_is_that_of_the_whole_list(
    cluster: ApiServer, own: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pages together take at most the time limit of one call."""
    limits, real = list[float | None](), asyncio.timeout

    def timeout(seconds: float | None) -> asyncio.Timeout:
        limits.append(seconds)
        return real(None)

    monkeypatch.setattr("asyncio.timeout", timeout)
    serving_requests(own, "node-1")
    assert limits == [DEADLINE]


def test_a_list_without_an_end_is_refused(cluster: ApiServer, own: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """certmond stops at the maximum number of requests, although the API server has further pages."""
    monkeypatch.setattr("certmond.cluster.serving_request_listing._MAX_REQUESTS", 2)
    page = {"metadata": {"continue": "x"}, "items": [add_request(cluster, "csr-a", NOW)]}
    cluster.faults.append(Fault(200, body=json.dumps(page).encode()))
    assert len(serving_requests(own, "node-1")) == 2
    cluster.faults += [Fault(200, body=json.dumps(page).encode()) for _ in range(9)]
    with pytest.raises(RefusedError, match="has more than 2 CertificateSigningRequests"):
        serving_requests(own, "node-1")


class Tree:
    """A node whose kubelet requests its serving certificate, and has none. Its kubelet.conf is that of `cluster`."""

    def __init__(self, root: Path, cluster: ApiServer) -> None:
        self.root, self.cluster = root, cluster
        conf = Path(cluster.user("system:node:node-1", "system:nodes")).read_text()
        self.write("etc/kubernetes/kubelet.conf", conf)
        self.write("etc/kubernetes/certmond.conf", Path(cluster.user("other")).read_text())
        self.write("var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\nserverTLSBootstrap: true\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)

    def config(self, **more: Any) -> dict[str, Any]:
        entry = {"name": "kubelet-server", "path": f"/{PEM}", "kind": "kubelet", "optional": True}
        cluster = {"kubeconfig": "/etc/kubernetes/certmond.conf"}
        return {"profile": "none", "node_name": "node-1", "certificates": [entry], "cluster": cluster, **more}


PEM = "var/lib/kubelet/pki/kubelet-server-current.pem"


@pytest.fixture
def tree(tmp_path: Path, cluster: ApiServer) -> Tree:
    return Tree(tmp_path / "node", cluster)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time limit pass on a busy machine."""
    monkeypatch.setattr("certmond.controllers.cluster_objects.serving_request_check._ANSWER", timedelta(minutes=1))


class Passes:
    """An enforcer in observe mode on the tree, with clocks that the test sets."""

    def __init__(self, tree: Tree, work: Path, **more: Any) -> None:
        work.mkdir()
        path = work / "config.yaml"
        path.write_text(yaml.safe_dump(tree.config(**more)))
        self.config, self.root = load(path), str(tree.root)
        self.now, self.elapsed = NOW, 1000.0
        self.store = Store(self.config.certificates, self.root, self.config.given_facts, references=False)
        journal = Journal("none")
        self.enforcer = Enforcer(
            self.config, root=self.root, state_dir=work, audit=Audit(journal, work, DAEMON),
            clock=lambda: self.now, monotonic=lambda: self.elapsed,
        )  # fmt: skip
        self.checks = [*filter(None, [self.enforcer.cluster_objects.serving_request])]

    @property
    def check(self) -> ServingRequestCheck:
        (check,) = self.checks
        return check

    def message(self) -> str:
        """Make one pass as the daemon does, and return the message of its only finding."""
        inventory = self.store.observe()
        assessment = self.enforcer.assess(inventory, self.now, self.enforcer.surroundings(self.store, inventory))
        for check in self.checks:
            check.ask(assessment)
        return "".join(item.message for status in assessment.statuses for item in status.findings)

    def wait(self, span: timedelta) -> None:
        self.now, self.elapsed = self.now + span, self.elapsed + span.total_seconds()


MISSING = (
    f"/{PEM} does not exist, but the kubelet requests this certificate, and rejects all clients until "
    "this certificate exists"
)
FIND = "find the request of this node with `kubectl get csr`, then run: kubectl certificate approve NAME"


def test_the_finding_names_the_request_that_an_operator_approves(tree: Tree, tmp_path: Path) -> None:
    """With `cluster`, the pass after the answer of the API has the pending request, its age and the command. certmond
    reads the requests again after a minute, not in each pass, and drops them when the certificate exists.
    """
    add_request(tree.cluster, "csr-a", NOW - timedelta(hours=3, minutes=12))
    passes = Passes(tree, tmp_path / "work")
    check = passes.check
    assert passes.message() == f"{MISSING}; {FIND}"
    assert check.until == passes.now  # the next pass is due at once
    waits = "and the CertificateSigningRequest csr-a has waited for approval for"
    run = "run: kubectl certificate approve csr-a"
    assert passes.message() == f"{MISSING}, {waits} 3h12m; {run}"
    assert check.until == passes.now + timedelta(minutes=1)
    passes.wait(timedelta(seconds=59))
    assert passes.message().endswith(f"{waits} 3h12m; {run}")
    assert tree.cluster.calls == ["GET /"]
    passes.wait(timedelta(seconds=1))
    passes.message()
    assert passes.message().endswith(f"{waits} 3h13m; {run}")
    assert tree.cluster.calls == ["GET /"] * 2
    tree.write(PEM, "no certificate")
    assert "csr-a" not in passes.message()
    assert passes.check.state is None
    assert passes.check.until is None
    (tree.root / PEM).unlink()
    assert "csr-a" not in passes.message()  # not the state of another time


def test_a_kubelet_that_serves_until_its_restart_has_no_request_yet(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """certmond reads the requests only after the restart. Otherwise, the finding would have the state before the
    restart for up to a minute.
    """
    add_request(tree.cluster, "csr-old", NOW - timedelta(hours=3), Approved="by hand")
    passes = Passes(tree, tmp_path / "work")
    at = ServedAt(Endpoint.parse("127.0.0.1:10250"), "kubelet", "ab", None)
    real = Surroundings.presence
    with monkeypatch.context() as patch:
        patch.setattr(Surroundings, "presence", lambda around, *seen: replace(real(around, *seen), served=(at,)))
        assert "only after a restart" in passes.message()
    assert (tree.cluster.calls, passes.check.until) == ([], None)
    tree.cluster.objects.clear()
    add_request(tree.cluster, "csr-new", NOW)
    passes.message()
    assert passes.message().endswith("run: kubectl certificate approve csr-new")


def test_a_request_that_does_not_exist_yet_is_read_again_soon(tree: Tree, tmp_path: Path) -> None:
    """The kubelet needs some seconds after its start to create the request, so certmond reads again after `poll`."""
    passes = Passes(tree, tmp_path / "work")
    passes.message()
    assert "the cluster has no CertificateSigningRequest of this node" in passes.message()
    assert passes.check.until == passes.now + timedelta(seconds=10)
    add_request(tree.cluster, "csr-a", NOW)
    passes.wait(timedelta(seconds=10))
    passes.message()
    assert passes.message().endswith("run: kubectl certificate approve csr-a")
    assert passes.check.until == passes.now + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("conf", "fault", "said"),
    [
        (False, None, "may not list the CertificateSigningRequests"),
        (True, Fault(0), "certmond cannot reach"),
        (True, Fault(200, body=b"[]"), "does not answer like a Kubernetes API server"),
    ],
    ids=["forbidden", "unreachable", "malformed"],
)  # fmt: skip
def test_a_failed_read_is_a_part_of_the_finding(
    tree: Tree, tmp_path: Path, conf: bool, fault: Fault | None, said: str
) -> None:
    """If the API refuses the request or does not answer, the finding has the cause, and still the operator's command.
    Without kubelet.conf, certmond uses the kubeconfig of `cluster`, whose user lacks the right.
    """
    if not conf:
        (tree.root / "etc/kubernetes/kubelet.conf").unlink()
    tree.cluster.faults += [fault] if fault else []
    passes = Passes(tree, tmp_path / "work")
    passes.message()
    found = passes.message()
    assert found.startswith(f"{MISSING}, and certmond cannot read the CertificateSigningRequest: ")
    assert said in found
    assert f"; {FIND}" in found
    assert ("verbs [list]" in found) == (not conf)


def test_a_missing_package_is_a_part_of_the_finding(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without lightkube, the finding names the package to install."""
    monkeypatch.setitem(sys.modules, "certmond.cluster.serving_request_listing", None)
    passes = Passes(tree, tmp_path / "work")
    passes.message()
    assert "pip install lightkube lightkube-models" in passes.message()


def test_without_cluster_no_request_is_sent(tree: Tree, tmp_path: Path) -> None:
    """Without `cluster` in the configuration, certmond sends no request, and the finding stays as it is."""
    passes = Passes(tree, tmp_path / "work", cluster={})
    passes.message()
    assert passes.message() == f"{MISSING}; {FIND}"
    assert tree.cluster.calls == []


@pytest.mark.long
def test_the_daemon_reports_the_request_without_an_event(tree: Tree, tmp_path: Path) -> None:
    """A daemon in observe mode reports the pending request, although no file of the node changes."""
    add_request(tree.cluster, "csr-a", NOW - timedelta(hours=3))
    work = tmp_path / "work"
    work.mkdir()
    path = work / "config.yaml"
    path.write_text(yaml.safe_dump(tree.config(poll="1s")))  # a read that a busy machine delays is repeated soon
    with running(tree.root, work, "--config", str(path)) as daemon:
        daemon.until(lambda: "kubectl certificate approve csr-a" in str(daemon.entry("kubelet-server")), "the request")
