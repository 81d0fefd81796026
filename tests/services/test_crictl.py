"""crictl: its discovery on the host, its calls, and its faulty answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import RestartError
from certmond.services import crictl
from certmond.services.crictl import Crictl, client
from certmond.services.observed_subjects import Pod
from tests.static_pods import compiled, installed_crictl, kubelet

SCHEDULER = Pod(container="kube-scheduler", name="kube-scheduler-node-1", executable="kube-scheduler")
ID, OTHER = "ab" * 32, "cd" * 32
LABELS = {
    "io.kubernetes.container.name": "kube-scheduler",
    "io.kubernetes.pod.namespace": "kube-system",
    "io.kubernetes.pod.name": "kube-scheduler-node-1",
}


NO_LABELS = '{"containers": [{"id": "1", "state": "CONTAINER_RUNNING", "labels": null}]}'


def quiet() -> None:
    """Do nothing."""


def answer(*containers: dict[str, Any]) -> str:
    return json.dumps({"containers": containers})


def container(identifier: str = ID, state: str = "CONTAINER_RUNNING", **labels: str) -> dict[str, Any]:
    return {"id": identifier, "state": state, "labels": {**LABELS, "io.kubernetes.pod.uid": "1", **labels}}


# --- where it is ------------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes files of a host, those in a bin directory executable, and nothing on PATH. Answers the host's root."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))

    def make(*paths: str) -> str:
        for path in paths:
            file = tmp_path / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(0o755 if "bin" in file.parts or file.parent.name == "path" else 0o644)
        return str(tmp_path)

    return make


Host = Callable[..., str]


def command(root: str, endpoint: str | None = None) -> list[str] | None:
    """The command line up to the verb, the host's root left out."""
    found = client(endpoint, root)
    return None if found is None else [word.replace(root, "") for word in found.command]


def test_a_host_without_it_has_no_client(host: Host) -> None:
    """Neither a configuration nor a runtime is a client."""
    root = host("/etc/crictl.yaml", "/run/containerd/containerd.sock", "/usr/share/crictl")
    assert client(root=root) is None


@pytest.mark.parametrize(
    ("files", "program"),
    [
        (("/path/crictl", "/usr/local/bin/crictl"), ["/path/crictl"]),
        (("/usr/local/bin/crictl", "/usr/bin/crictl"), ["/usr/local/bin/crictl"]),
        (("/usr/bin/crictl",), ["/usr/bin/crictl"]),
        (("/var/lib/rancher/rke2/bin/crictl", "/path/k3s"), ["/var/lib/rancher/rke2/bin/crictl"]),
        (("/path/k3s",), ["/path/k3s", "crictl"]),
        (("/usr/local/bin/k3s",), ["/usr/local/bin/k3s", "crictl"]),
    ],
)
def test_it_is_found_where_distributions_put_it(host: Host, files: tuple[str, ...], program: list[str]) -> None:
    """On PATH first, then where packages, RKE2 and k3s have it."""
    assert command(host(*files)) == program


@pytest.mark.parametrize(
    ("files", "endpoint", "options"),
    [
        (("/etc/crictl.yaml", "/run/crio/crio.sock"), "unix:///given", ["--config", "/etc/crictl.yaml"]),
        (
            ("/var/lib/rancher/rke2/agent/etc/crictl.yaml",),
            None,
            ["--config", "/var/lib/rancher/rke2/agent/etc/crictl.yaml"],
        ),
        (
            ("/var/lib/rancher/k3s/agent/etc/crictl.yaml",),
            None,
            ["--config", "/var/lib/rancher/k3s/agent/etc/crictl.yaml"],
        ),
        (("/run/crio/crio.sock",), "unix:///given", ["--runtime-endpoint", "unix:///given"]),
        ((), "/given.sock", ["--runtime-endpoint", "unix:///given.sock"]),
        (
            ("/run/crio/crio.sock", "/run/containerd/containerd.sock"),
            None,
            ["--runtime-endpoint", "unix:///run/containerd/containerd.sock"],
        ),
        (("/run/crio/crio.sock",), None, ["--runtime-endpoint", "unix:///run/crio/crio.sock"]),
        (
            ("/run/k3s/containerd/containerd.sock",),
            None,
            ["--runtime-endpoint", "unix:///run/k3s/containerd/containerd.sock"],
        ),
        (("/run/cri-dockerd.sock",), None, ["--runtime-endpoint", "unix:///run/cri-dockerd.sock"]),
        ((), None, []),
    ],
)
def test_the_runtime_is_set_once(host: Host, files: tuple[str, ...], endpoint: str | None, options: list[str]) -> None:
    """It is set by crictl's configuration alone, by the kubelet's endpoint, or by the first existing socket."""
    assert command(host("/path/crictl", *files), endpoint) == ["/path/crictl", *options]


# --- the calls --------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Crictl]:
    """Makes a crictl of a line of shell. It writes its arguments down, one a line."""

    def make(line: str, seconds: float = 20) -> Crictl:
        path = tmp_path / "fake-crictl"
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/arguments\n{line}\n')
        path.chmod(0o755)
        return Crictl((str(path), "--config", "/c.yaml"), timedelta(seconds=seconds))

    return make


def asked(directory: Path) -> list[str]:
    return (directory / "arguments").read_text().splitlines()


def test_containers_are_asked_for_by_their_labels(script: Callable[..., Crictl], tmp_path: Path) -> None:
    """Every word as cri-tools has it: name, namespace and pod, running ones, as JSON."""
    assert script(f"echo '{answer(container())}'").running(SCHEDULER, quiet) == [ID]
    labels = [word for name, value in LABELS.items() for word in ("--label", f"{name}={value}")]
    options = ["--config", "/c.yaml", "--timeout", "10s"]
    assert asked(tmp_path) == [*options, "ps", "--state", "Running", *labels, "-o", "json"]


def test_a_container_is_stopped_with_a_grace(script: Callable[..., Crictl], tmp_path: Path) -> None:
    """Its own timeout is the grace, before the id; the call to the runtime may take longer than that."""
    script(f"echo {ID}").stop(ID, 30, quiet)
    assert asked(tmp_path) == ["--config", "/c.yaml", "--timeout", "40s", "stop", "--timeout", "30", ID]


@pytest.mark.parametrize(
    "other",
    [
        container(OTHER, "CONTAINER_EXITED"),
        container(OTHER, **{"io.kubernetes.container.name": "kube-scheduler-2"}),
        container(OTHER, **{"io.kubernetes.pod.name": "kube-scheduler-node-10"}),
        container(OTHER, **{"io.kubernetes.pod.namespace": "default"}),
        {**container(OTHER), "labels": {}},
    ],
)
def test_the_answer_is_held_to_the_question(script: Callable[..., Crictl], other: dict[str, Any]) -> None:
    """A container with other labels, or one that does not run, is left out of an answer that should not have it."""
    assert script(f"echo '{answer(other, container())}'").running(SCHEDULER, quiet) == [ID]


def test_all_running_containers_are_listed(script: Callable[..., Crictl]) -> None:
    assert script(f"echo '{answer(container(), container(OTHER))}'").running(SCHEDULER, quiet) == [ID, OTHER]
    assert script(f"echo '{answer()}'").running(SCHEDULER, quiet) == []


# --- faulty answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", ["", "CONTAINER  IMAGE", "[]", "{}", '{"containers": [{}]}', NO_LABELS, '{"containers": 3}', "null"]
)
def test_garbage_is_no_answer(script: Callable[..., Crictl], said: str) -> None:
    """Something else than the JSON of containers tells nothing, and not that none runs."""
    with pytest.raises(RestartError, match="crictl ps did not return the JSON"):
        script(f"echo '{said}'").running(SCHEDULER, quiet)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.sampled_from(["CONTAINER_RUNNING", *LABELS])),
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(st.one_of(st.text(), st.sampled_from(["containers", "id", "state", "labels", *LABELS])), inner),
    ),
)


@pytest.mark.long
@settings(max_examples=50)
@given(st.one_of(st.binary(), _JSON.map(lambda value: json.dumps({"containers": value}).encode())))
def test_no_answer_breaks_it(said: bytes) -> None:
    """Whatever it writes, there are ids or there is a RestartError."""
    with suppress(RestartError):
        assert all(isinstance(each, str) for each in crictl._ids(said, SCHEDULER))


@pytest.mark.parametrize("verb", ["ps", "stop"])
def test_a_failure_is_reported_with_its_output(script: Callable[..., Crictl], verb: str) -> None:
    """The error has its exit status, the first line of its output, and the command to run."""
    failing = script("echo 'connection refused' >&2; exit 1")
    with pytest.raises(RestartError) as raised:
        failing.running(SCHEDULER, quiet) if verb == "ps" else failing.stop(ID, 1, quiet)
    assert f"crictl {verb} ended with status 1 (connection refused); run this command manually" in str(raised.value)
    assert str(raised.value).endswith("fake-crictl --config /c.yaml ps")


def test_a_call_has_a_time_limit(script: Callable[..., Crictl]) -> None:
    """A client that hangs is killed and reported. The message does not mention signers."""
    calls: list[None] = []
    with pytest.raises(RestartError, match=r"did not end within 0\.2 s; run ") as raised:
        script("sleep 60", 0.2).running(SCHEDULER, lambda: calls.append(None))
    assert "signer" not in str(raised.value)
    assert calls


def test_a_missing_client_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RestartError, match=r"certmond cannot run .*crictl"):
        Crictl((str(tmp_path / "crictl"),)).running(SCHEDULER, quiet)


def test_an_impossible_endpoint_is_reported() -> None:
    """The kubelet's configuration may have one with a NUL, which no argument can contain."""
    with pytest.raises(RestartError, match=r"certmond cannot run .*true"):
        Crictl(("true", "--runtime-endpoint", "a\0b")).running(SCHEDULER, quiet)


# --- with a runtime ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.real("cgroup")
def test_one_container_is_named_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two Pods with a container of the same name, the requested one is stopped."""
    program = compiled(tmp_path).rename(tmp_path / "kube-scheduler")
    monkeypatch.setenv("PATH", str(installed_crictl(tmp_path).parent), prepend=":")
    with kubelet(tmp_path, factor=100) as pods:
        for name in ("kube-scheduler", "another"):
            pods.apply(name, {"kube-scheduler": [str(program)]})
        other = pods.ready("kube-scheduler", pod="another-node-1")
        reported = pods.ready("kube-scheduler", pod="kube-scheduler-node-1")
        found = client(pods.endpoint, str(tmp_path))
        assert found is not None
        assert found.running(SCHEDULER, quiet) == [reported["id"]]
        found.stop(reported["id"], 20, quiet)
        (ended,) = pods.events(event="ended")
        assert (ended["id"], ended["why"]) == (reported["id"], "stopped through the runtime: exit status 0")
        assert found.running(SCHEDULER, quiet) == []
        assert found.running(replace(SCHEDULER, name="another-node-1"), quiet) == [other["id"]]
        found.stop(reported["id"], 20, quiet)  # what has ended is stopped
        with pytest.raises(RestartError, match="code = NotFound"):
            found.stop(OTHER, 20, quiet)
