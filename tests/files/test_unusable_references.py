"""Flags and fields whose value no file can have as its path, in each source of references."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certmond.files.references.node_kubelet_reader import CONFIG, FLAGS
from certmond.pki.assessment.assess import assess
from certmond.pki.findings import Reason
from tests.files.references.test_other_kubelets import ARGS, K3S, KIND, Worker
from tests.node import NOW

KUBELET_FLAGS = (
    "config", "config-dir", "pod-manifest-path", "cert-dir", "tls-cert-file", "client-ca-file", "kubeconfig"
)  # fmt: skip
UNUSABLE = [
    "/etc/a\0b", "/etc/\x1b[31m", "/etc/\u202eb", "/" + "a" * 5000, "/a" * 3000, "a\0", "\udc80/x", "/etc/\x85", "\n/"
]  # fmt: skip

Way = Callable[[Worker, str], None]


def by_unit(*settings: str) -> Way:
    def write(worker: Worker, text: str) -> None:
        value = text.encode("utf-8", "replace").decode()
        worker.unit("kubelet.service", "\n".join(setting.replace("TEXT", value) for setting in settings), enabled=True)

    return write


def by_file(path: str, content: str, mode: int = 0o644) -> Way:
    def write(worker: Worker, text: str) -> None:
        quoted = json.dumps(text)[1:-1] if content.startswith("{") else text
        worker.tree.write(path, content.replace("TEXT", quoted).encode("utf-8", "surrogatepass"), mode)

    return write


def by_pod(worker: Worker, text: str) -> None:
    mounts = [{"name": "a", "mountPath": text}, {"name": "a", "mountPath": "/a"}]
    container = {"command": ["etcd", f"--trusted-ca-file={text}", f"--cert-file=/a{text}"], "volumeMounts": mounts}
    spec = {"containers": [container], "volumes": [{"name": "a", "hostPath": {"path": text}}]}
    worker.tree.write("/etc/kubernetes/manifests/a.yaml", json.dumps({"kind": "Pod", "spec": spec}))


def kubelet_file(path: str, *fields: str) -> Way:
    return by_file(path, json.dumps({**KIND, **dict.fromkeys(fields, "TEXT"), "authentication": {
        "x509": {"clientCAFile": "TEXT"}}}))  # fmt: skip


def rancher(**options: str) -> Way:
    return by_file(K3S, json.dumps({name.replace("_", "-"): value for name, value in options.items()}))


WAYS: dict[str, Way] = {
    **{f"kubeadm {flag}": by_file(FLAGS, f"KUBELET_KUBEADM_ARGS=--{flag}=TEXT") for flag in KUBELET_FLAGS},
    **{f"unit {flag}": by_unit(f'ExecStart=/usr/bin/kubelet "--{flag}=TEXT"') for flag in KUBELET_FLAGS},
    **{f"k3s {flag}": by_file(K3S, json.dumps({"kubelet-arg": [f"{flag}=TEXT"]})) for flag in KUBELET_FLAGS},
    **{f"MicroK8s {flag}": by_file(ARGS, f"--{flag}=TEXT\n") for flag in KUBELET_FLAGS},
    "fields": kubelet_file(CONFIG, "tlsCertFile", "tlsPrivateKeyFile", "staticPodPath"),
    "k3s data-dir": rancher(data_dir="TEXT", kubelet_arg="config=/etc/x", datastore_cafile="TEXT"),
    "k3s unit": by_unit("ExecStart=/usr/bin/k3s server --config=TEXT --kubelet-arg=config=TEXT"),
    "k3s variable": by_unit('Environment="K3S_CONFIG_FILE=TEXT"', "ExecStart=/usr/bin/k3s server"),
    "k3s variable of a file": by_unit("EnvironmentFile=/etc/TEXT", "ExecStart=/usr/bin/k3s server"),
    "mount": by_unit("BindPaths=/srv:TEXT TEXT:/etc/b", "ExecStart=/usr/bin/kubelet --config=/etc/b/TEXT"),
    "credential": by_unit("LoadCredential=a:TEXT", "ExecStart=/usr/bin/kubelet --config=%d/a --cert-dir=%d/TEXT"),
    "pod": by_pod,
}


def observe(worker: Worker) -> list[str]:
    """Return the messages of `not_watched` after two passes of the observer. Raise the error of the observer."""
    store = worker.store()
    before = store.observe()
    assert store.observe(frozenset()) == before
    findings = [*assess(before, NOW).loose_findings]
    assert all(each.message.isprintable() for each in findings)
    assert all(each.path.startswith("/") and each.path.isprintable() for each in before.observations)
    return [each.message for each in findings if each.reason is Reason.NOT_WATCHED]


@pytest.mark.long
@pytest.mark.parametrize("value", UNUSABLE, ids=ascii)
@pytest.mark.parametrize("way", WAYS)
def test_a_value_that_is_no_path_is_a_finding(tmp_path: Path, way: str, value: str) -> None:
    """The observer raises no error, and each of its paths is absolute and printable."""
    worker = Worker(tmp_path)
    WAYS[way](worker, value)
    observe(worker)


def test_an_unreadable_directory_of_files_with_flags_is_not_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certmond does not know whether files in the directory name certificates, so it does not omit them silently.

    The store that has read the directory reports the same as a new store, and reports nothing after the end of the
    error.
    """
    worker, listdir, broken, code = Worker(tmp_path), os.listdir, set[str](), 0
    by_pod(worker, "/etc/b")
    worker.unit("kubelet.service", "ExecStart=/usr/bin/kubelet", enabled=True)
    worker.tree.write("/etc/systemd/system/kubelet.service.d/10.conf", "[Service]")
    worker.tree.write("/usr/lib/systemd/system/a.service", "[Service]")
    (worker.tree.root / "lib").symlink_to("usr/lib")
    store = worker.store()

    def some(directory: Any) -> list[str]:
        if any(str(directory).endswith(each) for each in broken):
            raise OSError(code, os.strerror(code))
        return listdir(directory)

    monkeypatch.setattr(os, "listdir", some)
    intact = store.observe()
    for name, path in (
        ("static-pod", "/etc/kubernetes/manifests"), ("systemd-unit", "/etc/systemd/system"),
        ("systemd-unit", "/etc/systemd/system/kubelet.service.d"), ("systemd-unit", "/usr/lib/systemd/system"),
    ):  # fmt: skip
        broken.add(path)
        for code, remedy in ((errno.EIO, "the disk fails"), (errno.EMFILE, "raise LimitNOFILE=")):
            fact = f"any flag in the files of {path}: certmond cannot read {path} ({os.strerror(code)}); {remedy}"
            for each in (store, worker.store()):
                found = [seen for seen in each.observe().observations if seen.name.startswith(name) and seen.faults]
                ((seen, fault),) = ((seen, fault) for seen in found for fault in seen.faults)
                assert (seen.name, seen.path, fault.reason) == (name, path, Reason.NOT_WATCHED)
                assert fault.detail.startswith(f"certmond does not watch the file of {fact}")
        broken.clear()
        assert store.observe() == intact


@pytest.mark.parametrize("flag", ["config", "config-dir"])
@pytest.mark.parametrize("source", ["kubeadm", "k3s", "MicroK8s"])
def test_a_kubelet_file_at_no_path_is_not_watched(tmp_path: Path, source: str, flag: str) -> None:
    """The finding names the flag and the file with this flag."""
    worker = Worker(tmp_path)
    WAYS[f"{source} {flag}"](worker, "/etc/a\0b")
    (message,) = observe(worker)
    file = {"kubeadm": FLAGS, "k3s": K3S, "MicroK8s": ARGS}[source]
    assert f"--{flag} in {file}" in message
    assert "/etc/a\\x00b is not the path of a file on this host" in message


@pytest.mark.long
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    way=st.sampled_from(sorted(WAYS)),
    value=st.text(max_size=40),
    prefix=st.sampled_from(["/", "/etc/", "", "a" * 9999]),
)
def test_no_value_of_a_flag_raises_an_error(tmp_path: Path, way: str, value: str, prefix: str) -> None:
    """A flag or a field with arbitrary text gives observations, and no error."""
    root = tmp_path / "node"
    root.mkdir()
    try:
        worker = Worker(root)
        WAYS[way](worker, f"{prefix}{value}")
        observe(worker)
    finally:
        shutil.rmtree(root)
