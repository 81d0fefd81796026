"""The daemon on real files: what caught others does not catch it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from cryptography import x509

from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers.cluster_objects.node_condition import NodeConditionReport
from certmond.controllers.cluster_objects.serving_request_check import ServingRequestCheck
from certmond.controllers.coordinator_factory import ClusterObjects
from certmond.daemon.loop import Daemon
from certmond.daemon.pass_schedule import Cause
from certmond.daemon.reconciler import Reconciler
from certmond.daemon.wakeup import Wake
from certmond.files.catalog_observer import Store
from certmond.files.directory_watch import Changes
from certmond.notify.event_log import Journal
from certmond.pki.catalog.observation import Inventory
from certmond.pki.services.service_observation import Live, ServiceSeen
from certmond.services.service_state_collector import SurroundingsObserver
from tests import preloaded_certmond
from tests.conftest import real_part
from tests.daemon.test_enforcer import in_process
from tests.daemon_harness import Running, running
from tests.deadline import DEADLINE
from tests.node import KUBELET_PEM, PKI, Node, key_pem, pem
from tests.reference_node import ReferenceNode

API = f"{PKI}/apiserver"
NOT_AFTER = "certmond_certificate_not_after_timestamp_seconds"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def config(work: Path, certificates: list[dict[str, object]], **more: object) -> list[str]:
    """Return the options for a separate configuration without a profile."""
    path = work / "config.yaml"
    path.write_text(yaml.safe_dump({"profile": "none", "certificates": certificates, **more}))
    return ["--config", str(path)]


def fill(path: Path) -> None:
    """Write until the file system is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def healthy(daemon: Running, name: str) -> bool:
    entry = daemon.entry(name)
    return bool(entry and entry["chain_valid"] and not entry["findings"])


def shows(daemon: Running, name: str, certificate: x509.Certificate) -> None:
    """Wait until the daemon shows this certificate under this name."""
    serial = str(certificate.serial_number)
    daemon.until(lambda: (daemon.entry(name) or {})["serial"] == serial, f"{name} with serial {serial}")


@pytest.mark.long
def test_a_replaced_leaf_is_detected(node: Node, work: Path) -> None:
    """A leaf that is replaced by a rename has its new serial number and end."""
    with running(node.root, work) as daemon:
        before = daemon.entry("apiserver")
        certificate, key = node.mint(node.certificate(f"{API}.crt"), end=datetime(2027, 12, 24, tzinfo=UTC))
        node.replace(f"{API}.key", key_pem(key))
        node.replace(f"{API}.crt", pem(certificate))
        shows(daemon, "apiserver", certificate)
        assert before is not None
        assert daemon.series(NOT_AFTER, "apiserver") == [certificate.not_valid_after_utc.timestamp()]
        daemon.until(lambda: healthy(daemon, "apiserver"), "healthy")


@pytest.mark.long
def test_a_flag_that_a_manifest_gains_is_followed(node: Node, work: Path) -> None:
    """The daemon follows a new flag of a manifest, and a new user of a kubeconfig, without a restart."""
    world = ReferenceNode(node, datetime(2036, 1, 1, tzinfo=UTC))
    with running(node.root, work) as daemon:
        path = world.kubeconfig("/etc/kubernetes/extra/webhook-new")
        world.add_flags("kube-apiserver", f"--audit-webhook-config-file={path}")
        name = "kube-apiserver.audit-webhook-config-file"
        daemon.until(lambda: (daemon.entry(name) or {}).get("path") == path, "the new file")
        world.kubeconfig("/etc/kubernetes/extra/webhook-new", "client", "second")
        daemon.until(lambda: daemon.entry(f"{name}#second"), "the new user")


@pytest.mark.long
def test_a_file_that_goes_bad_keeps_its_last_expiry(node: Node, work: Path) -> None:
    """A file that breaks or vanishes raises a finding, and its last good expiry series stays beside it."""
    with running(node.root, work) as daemon:
        good = node.read(f"{API}.crt")
        end = daemon.series(NOT_AFTER, "apiserver")
        node.write(f"{API}.crt", good[:300])
        daemon.until(lambda: daemon.reasons("apiserver") == {"malformed"}, "malformed")
        assert daemon.series(NOT_AFTER, "apiserver") == end
        node.path(f"{API}.crt").unlink()
        daemon.until(lambda: daemon.reasons("apiserver") == {"missing"}, "missing")
        assert daemon.series(NOT_AFTER, "apiserver") == end
        node.write(f"{API}.crt", good)
        daemon.until(lambda: healthy(daemon, "apiserver"), "healthy again")


@pytest.mark.long
def test_the_status_of_a_directory_has_the_real_paths(node: Node, work: Path) -> None:
    """`status` of a daemon that watches a directory prints the paths and the commands for this directory."""
    node.path(f"{PKI}/apiserver.key").chmod(0o644)
    with running(node.root, work) as daemon:
        words = ["--root", str(node.root), "status", "--runtime-dir", str(daemon.runtime)]
        said = preloaded_certmond.run(words, DEADLINE).stdout
    assert f"chmod 0600 {node.root}/etc/kubernetes/pki/apiserver.key" in said, said


@pytest.mark.long
def test_a_certificate_that_goes_takes_its_series_along(node: Node, work: Path) -> None:
    """A certificate that nothing on the node expects leaves no series behind when its file is removed."""
    node.write("etc/kubernetes/super-admin.conf", node.read("etc/kubernetes/admin.conf"))
    with running(node.root, work) as daemon:
        assert daemon.series(NOT_AFTER, "super-admin.conf")
        node.path("etc/kubernetes/super-admin.conf").unlink()
        daemon.until(lambda: not daemon.series(NOT_AFTER, "super-admin.conf"), "series gone")
        daemon.until(lambda: daemon.entry("super-admin.conf") is None, "entry gone")


@pytest.mark.long
def test_a_fifo_does_not_hang(node: Node, work: Path) -> None:
    """A FIFO in place of a certificate is a finding, and all other work continues."""
    with running(node.root, work) as daemon:
        node.path(f"{API}.crt").unlink()
        os.mkfifo(node.path(f"{API}.crt"))
        daemon.until(lambda: daemon.reasons("apiserver") == {"unreadable"}, "unreadable")
        node.path(f"{PKI}/front-proxy-client.key").chmod(0o644)
        daemon.until(lambda: daemon.reasons("front-proxy-client") == {"too_open"}, "chmod seen")


@pytest.mark.long
def test_2_gigabytes_are_not_read(node: Node, work: Path) -> None:
    """2 GB of junk are a finding; the daemon stays small."""
    with running(node.root, work) as daemon:
        with node.path(f"{API}.crt").open("r+b") as file:
            file.truncate(2 << 30)
        daemon.until(lambda: daemon.reasons("apiserver") == {"unreadable"}, "unreadable")
        peak = Path(f"/proc/{daemon.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        assert int(peak) < 150_000


@pytest.mark.long
def test_a_rewritten_target_of_a_symlink_is_detected(node: Node, work: Path) -> None:
    """The file behind the kubelet's symlink is rewritten in place, and the new certificate is shown."""
    with running(node.root, work) as daemon:
        certificate, key = node.mint(node.certificate(KUBELET_PEM))
        node.write(KUBELET_PEM, pem(certificate) + key_pem(key))
        shows(daemon, "kubelet-client", certificate)


@pytest.mark.long
def test_the_rotation_of_the_kubelet_is_detected(node: Node, work: Path) -> None:
    """The kubelet writes a new dated PEM and moves its symlink. The old PEM has no finding."""
    with running(node.root, work) as daemon:
        certificate, key = node.mint(node.certificate(KUBELET_PEM))
        dated = "var/lib/kubelet/pki/kubelet-client-2026-11-25-10-00-00.pem"
        node.write(dated, pem(certificate) + key_pem(key))
        node.path(dated).chmod(0o600)
        updated = node.path("var/lib/kubelet/pki/kubelet-client-updated.pem")
        updated.symlink_to(f"/{dated}")
        updated.rename(node.path("var/lib/kubelet/pki/kubelet-client-current.pem"))
        shows(daemon, "kubelet-client", certificate)
        assert healthy(daemon, "kubelet-client")
        assert daemon.number('certmond_findings{severity="critical"}') == 0


@pytest.mark.long
def test_a_projected_volume_swaps_its_data(node: Node, work: Path) -> None:
    """Files behind a `..data` symlink, as in a projected volume, are read when the symlink is swapped."""
    volume = node.path("volume")
    one, two = volume / "..one", volume / "..two"
    for place in (one, two):
        place.mkdir(parents=True)
    first, _ = node.mint(node.certificate(f"{API}.crt"))
    second, _ = node.mint(node.certificate(f"{API}.crt"))
    (one / "tls.crt").write_bytes(pem(first))
    (two / "tls.crt").write_bytes(pem(second))
    (volume / "..data").symlink_to("..one")
    (volume / "tls.crt").symlink_to("..data/tls.crt")
    options = config(work, [{"name": "projected", "path": "/volume/tls.crt"}])
    with running(node.root, work, *options) as daemon:
        assert (daemon.entry("projected") or {})["serial"] == str(first.serial_number)
        (volume / "..data_tmp").symlink_to("..two")
        (volume / "..data_tmp").rename(volume / "..data")
        daemon.until(lambda: (daemon.entry("projected") or {})["serial"] == str(second.serial_number), "swap seen")


@pytest.mark.long
def test_a_file_of_the_same_size_and_mtime_is_detected(node: Node, work: Path) -> None:
    """A file that is replaced by one of the same size and mtime is detected."""
    old = node.read(f"{API}.crt")
    status = node.path(f"{API}.crt").stat()
    with running(node.root, work) as daemon:
        node.write(f"{API}.crt", old[:400] + bytes([old[400] ^ 1]) + old[401:])
        os.utime(node.path(f"{API}.crt"), ns=(status.st_atime_ns, status.st_mtime_ns))
        assert node.path(f"{API}.crt").stat().st_size == status.st_size
        daemon.until(lambda: daemon.reasons("apiserver"), "seen")


@pytest.mark.long
def test_a_bad_block_hides_no_good_one(node: Node, work: Path) -> None:
    """In a bundle, the certificates around a bad block are shown, and the block is named by its number."""
    good = node.read(f"{PKI}/ca.crt")
    other = node.read(f"{PKI}/etcd/ca.crt")
    bundle = good + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + other + b"some text\n"
    node.write("bundle.pem", bundle)
    options = config(work, [{"name": "bundle", "path": "/bundle.pem", "kind": "bundle"}])
    with running(node.root, work, *options) as daemon:
        assert daemon.reasons("bundle") == {"malformed", "trailing_data", "nonpositive_serial"}
        assert (daemon.entry("bundle#2") or {})["subject"] == "CN=etcd-ca"
        assert "block 2" in json.dumps(daemon.entry("bundle"))


@pytest.mark.long
def test_a_token_user_hides_no_certificate(node: Node, work: Path) -> None:
    """In a kubeconfig, users with a token or an exec plugin hide no user with a certificate."""
    document = node.kubeconfig("etc/kubernetes/admin.conf")
    document["users"] = [
        {"name": "robot", "user": {"token": "abc"}},
        {"name": "plugin", "user": {"exec": {"command": "aws"}}},
        *document["users"],
        {"name": "second", "user": node.kubeconfig("etc/kubernetes/scheduler.conf")["users"][0]["user"]},
    ]
    node.write("etc/kubernetes/admin.conf", yaml.safe_dump(document))
    with running(node.root, work) as daemon:
        assert healthy(daemon, "admin.conf")
        assert (daemon.entry("admin.conf#second") or {})["subject"] == "CN=system:kube-scheduler"


@pytest.mark.long
def test_duplicates_have_separate_series(node: Node, work: Path) -> None:
    """Two entries for one file, and one certificate twice in a bundle, give no duplicate series."""
    node.write("bundle.pem", node.read(f"{PKI}/ca.crt") * 3)
    rows: list[dict[str, object]] = [
        {"name": "one", "path": "/bundle.pem", "kind": "bundle"},
        {"name": "two", "path": "/bundle.pem", "kind": "bundle"},
        {"name": "glob", "path": "/*.pem"},
    ]
    with running(node.root, work, *config(work, rows)) as daemon:
        series = [line.rsplit(" ", 1)[0] for line in daemon.metrics().splitlines() if not line.startswith("#")]
        assert len(series) == len(set(series))
        assert {entry["name"] for entry in daemon.status()["certificates"]} == {"one", "two", "glob"}


@pytest.mark.long
def test_a_directory_that_appears_later_is_detected(node: Node, work: Path) -> None:
    """A directory that does not exist yet, or is removed and created again, is watched when it appears."""
    options = config(work, [{"name": "later", "path": "/a/b/c/tls.crt"}])
    with running(node.root, work, *options) as daemon:
        assert daemon.reasons("later") == {"missing"}
        node.path("a/b/c").mkdir(parents=True)
        node.write("a/b/c/tls.crt", node.read(f"{API}.crt"))
        daemon.until(lambda: healthy(daemon, "later"), "picked up")
        node.path("a").rename(node.path("gone"))
        daemon.until(lambda: daemon.reasons("later") == {"missing"}, "missing again")
        node.path("gone").rename(node.path("a"))
        daemon.until(lambda: healthy(daemon, "later"), "picked up again")
        certificate, _ = node.mint(node.certificate(f"{API}.crt"))
        node.write("a/b/c/tls.crt", pem(certificate))
        shows(daemon, "later", certificate)


@pytest.mark.long
def test_permissions_are_watched(node: Node, work: Path) -> None:
    """A chmod alone, without a change of bytes, is a finding at once, and is cleared at once."""
    with running(node.root, work) as daemon:
        node.path(f"{API}.key").chmod(0o644)
        daemon.until(lambda: daemon.reasons("apiserver") == {"too_open"}, "too open")
        node.path(f"{API}.key").chmod(0o600)
        daemon.until(lambda: healthy(daemon, "apiserver"), "healthy")


@pytest.mark.long
def test_a_scrape_never_has_a_part_of_a_pass(node: Node, work: Path) -> None:
    """Each scrape during passes has every certificate."""
    with running(node.root, work) as daemon:
        counts: set[int] = set()
        stop = threading.Event()

        def scrape() -> None:
            while not stop.is_set():
                counts.add(sum(line.startswith(NOT_AFTER) for line in daemon.metrics().splitlines()))

        reader = threading.Thread(target=scrape)
        reader.start()
        before, content = daemon.passes(), node.read(f"{API}.crt")
        for turn in range(400):
            node.replace(f"{API}.crt", content if turn % 2 else content[:200])
        node.replace(f"{API}.crt", content)
        daemon.until(lambda: healthy(daemon, "apiserver") and daemon.passes() > before, "settled")
        stop.set()
        reader.join()
        assert counts == {14}


@pytest.mark.long
def test_a_storm_ends_in_the_truth(node: Node, work: Path) -> None:
    """After 10,000 renames the last state of the file is what shows."""
    with running(node.root, work) as daemon:
        content = node.read(f"{API}.crt")
        certificate, key = node.mint(node.certificate(f"{API}.crt"))
        for _ in range(10_000):
            node.path(f"{API}.new").write_bytes(content)
            node.path(f"{API}.new").rename(node.path(f"{API}.crt"))
        node.replace(f"{API}.crt", pem(certificate))
        node.replace(f"{API}.key", key_pem(key))
        shows(daemon, "apiserver", certificate)


@pytest.mark.long
def test_time_alone_moves_the_verdict(node: Node, work: Path) -> None:
    """A certificate's end comes without any event, and the finding with it: no resync is needed."""
    with running(node.root, work) as daemon:
        for life in (3, 9, 27, 81):  # on a busy machine the first may end before it is observed
            now = datetime.now(UTC).replace(microsecond=0)
            node.reissue(API, start=now - timedelta(minutes=5), end=now + timedelta(seconds=life))
            shows(daemon, "apiserver", node.certificate(f"{API}.crt"))
            if "expired" not in daemon.reasons("apiserver"):
                break
        else:
            raise AssertionError("it was never seen before its end")
        daemon.until(lambda: "expired" in daemon.reasons("apiserver"), "expired")
        assert daemon.number('certmond_passes_total{cause="deadline"}') >= 1
        assert daemon.number('certmond_passes_total{cause="resync"}') == 0


@pytest.mark.long
def test_a_mount_over_the_directory_is_detected(node: Node, work: Path) -> None:
    """A file system mounted over a watched directory shows its files, and after the unmount those below it."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    options = config(work, [{"name": "apiserver", "path": f"/{API}.crt"}], poll="1h")  # whatever file system this is
    with running(node.root, work, *options) as daemon:
        pki = node.path(PKI)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(pki)], check=True)
        try:
            daemon.until(lambda: "missing" in daemon.reasons("apiserver"), "an empty directory")
        finally:
            daemon.unmount(pki)
        daemon.until(lambda: healthy(daemon, "apiserver"), "the old directory")


@pytest.mark.long
def test_a_broken_configuration_is_refused_on_reload(node: Node, work: Path) -> None:
    """On SIGHUP a broken configuration is refused with its problems, the old one stays, and a good one is taken."""
    options = config(work, [{"name": "one", "path": f"/{API}.crt"}])
    with running(node.root, work, *options) as daemon:
        config(work, [{"name": "two", "path": "relative", "colour": "red"}])
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: daemon.log.read_text().count("reload_refused") == 2, "each problem is in the log")
        daemon.until(lambda: daemon.number("certmond_config_last_reload_successful") == 0, "the metric is 0")
        assert healthy(daemon, "one")
        refused = [each for each in daemon.status()["findings"] if each["reason"] == "configuration_refused"]
        assert [each["severity"] for each in refused] == ["warning"] * 2
        assert any("colour" in each["message"] for each in refused)
        config(work, [{"name": "two", "path": f"/{API}.crt"}])
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: healthy(daemon, "two") and daemon.entry("one") is None, "taken")
        assert daemon.number("certmond_config_last_reload_successful") == 1
        assert not [each for each in daemon.status()["findings"] if each["reason"] == "configuration_refused"]


@pytest.mark.long
@pytest.mark.real("strace")
def test_a_request_during_the_start_is_a_reload(node: Node, work: Path) -> None:
    """SIGHUP before the daemon has a handler does not end the process. The daemon reloads after its start."""
    # Until the fork of the parser, the process has no handler.
    before = (real_part("strace"), "-D", "-o", os.devnull, "-e", "inject=clone:signal=HUP:when=1")
    with running(node.root, work, before=before) as daemon:
        daemon.until(lambda: '"reloaded"' in daemon.log.read_text(), "the configuration is read again")


@pytest.mark.long
def test_it_stops_when_asked(node: Node, work: Path) -> None:
    """SIGTERM ends it with 0 and takes the heartbeat away; what it rendered last stays readable."""
    with running(node.root, work) as daemon:
        assert daemon.stop() == 0
        assert not (daemon.runtime / "heartbeat.json").exists()
        assert daemon.status()["certificates"]


def test_a_stop_ends_the_wait_of_the_loop(node: Node, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to stop wakes the loop, so the daemon does not wait for the next heartbeat."""
    woken, stopped = list[bool](), threading.Event()

    class Stopping(Wake):
        """A flag whose wait begins after a request to stop."""

        def wait(self, seconds: float) -> bool:
            super().wait(0)  # clear the flag
            daemon.stop()
            woken.append(super().wait(0))
            stopped.set()
            return woken[-1]

    monkeypatch.setattr("certmond.daemon.loop.Wake", Stopping)
    daemon = Daemon(
        lambda: parse(()), root=str(node.root), runtime_dir=work / "run", state_dir=work / "state",
        journal=Journal("none"),
    )  # fmt: skip
    with in_process(daemon, lambda: stopped.wait(DEADLINE)):
        assert woken == [True]


@pytest.mark.long
def test_only_one_for_a_runtime_directory(node: Node, work: Path) -> None:
    """A second daemon with the same runtime directory reports it and exits 3."""
    with running(node.root, work) as daemon:
        options = ["--root", str(node.root), "run", "--runtime-dir", str(daemon.runtime)]
        command = [sys.executable, "-m", "certmond", *options]
        second = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert second.returncode == 3
        assert f"another certmond daemon uses {daemon.runtime}; " in second.stderr
        assert second.stderr.endswith(": systemctl stop certmond\n")
        assert "Traceback" not in second.stderr


@pytest.mark.long
@pytest.mark.real("strace")
def test_an_unsupported_lock_is_not_another_daemon(node: Node, work: Path) -> None:
    """If the file system of the runtime directory supports no locks, the error reports that, and the exit code is 3."""
    without = (real_part("strace"), "-f", "-o", os.devnull, "-e", "inject=flock:error=ENOLCK")
    command = ("-m", "certmond", "--root", str(node.root), "run", "--runtime-dir", str(work / "run"))
    done = subprocess.run([*without, sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "run (No locks available); set another directory with --runtime-dir" in done.stderr


@pytest.mark.long
def test_a_full_runtime_directory_is_reported_once(node: Node, work: Path) -> None:
    """A full runtime directory is one journal entry and no crash. It ends when there is space again."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    (work / "run").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(work / "run")], check=True)
    try:
        with running(node.root, work) as daemon:
            ballast = daemon.runtime / "ballast"
            fill(ballast)
            node.path(f"{API}.key").chmod(0o644)
            daemon.until(lambda: "publish_failed" in daemon.log.read_text(), "reported")
            ballast.unlink()
            node.path(f"{API}.key").chmod(0o640)
            daemon.until(lambda: daemon.reasons("apiserver") == {"too_open"}, "rendered again")
            assert daemon.log.read_text().count("publish_failed") == 1
    finally:
        subprocess.run(["umount", str(work / "run")], check=True)


@pytest.mark.long
def test_no_key_leaves_the_files(node: Node, work: Path) -> None:
    """No line of a private key is in the log, the metrics or the status, whatever is broken."""
    secrets = [
        line for path in node.path(PKI).rglob("*.key") for line in path.read_text().splitlines() if len(line) == 64
    ]
    assert secrets
    with running(node.root, work, "-v") as daemon:
        node.write(f"{API}.crt", node.read(f"{API}.key"))
        node.write(f"{PKI}/front-proxy-client.key", node.read(f"{PKI}/front-proxy-client.key")[:900])
        node.write("etc/kubernetes/admin.conf", node.read("etc/kubernetes/admin.conf")[:-700] + b"\n  - {")
        daemon.until(lambda: "malformed" in daemon.reasons("admin.conf"), "malformed")
        daemon.until(lambda: "malformed" in daemon.reasons("apiserver"), "malformed")
        reported = daemon.log.read_text() + daemon.metrics() + json.dumps(daemon.status())
        assert not [line for line in secrets if line in reported]
        assert "PRIVATE" not in reported


@pytest.mark.long
def test_no_core_file_gets_a_key(node: Node, work: Path) -> None:
    """Whatever the limits are that it is started with, certmond leaves no core file when it is aborted."""
    with running(node.root, work) as daemon:
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text().splitlines()
        (core,) = (line for line in limits if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]


@pytest.mark.long
def test_a_hook_runs_once_for_a_finding_across_restarts(node: Node, work: Path) -> None:
    """It runs once for the raised finding, not again after a restart, and once for the cleared one. The metrics count
    it.
    """
    log, program = work / "events", work / "hook"
    program.write_text(f"#!/bin/sh\ncat >>{log}\n")
    program.chmod(0o755)
    spec: dict[str, object] = {"name": "apiserver", "path": f"/{API}.crt", "key": f"/{API}.key"}
    hook = {"name": "log", "command": [str(program)], "time_limit": f"{DEADLINE:g}s"}
    options = config(work, [spec], hooks=[hook])
    options += ["--state-dir", str(work / "state")]
    node.path(f"{API}.key").chmod(0o644)

    def reported() -> list[tuple[str, str]]:
        documents = [json.loads(line) for line in log.read_text().splitlines()]
        return [(each["event"], each["finding"]["reason"]) for each in documents]

    with running(node.root, work, *options) as daemon:
        daemon.until(lambda: reported() == [("raised", "too_open")], "raised")
        daemon.until(lambda: '"hook_told"' in daemon.log.read_text(), "the hook has ended")
        assert daemon.stop() == 0
    with running(node.root, work, *options) as daemon:
        daemon.until(lambda: 'certmond_hook_runs_total{hook="log",result="told"} 0.0' in daemon.metrics(), "counted")
        node.path(f"{API}.key").chmod(0o600)
        daemon.until(lambda: reported()[1:] == [("cleared", "too_open")], "cleared")
        daemon.until(lambda: '"hook_told"' in daemon.log.read_text(), "the hook has ended")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: 'certmond_hook_runs_total{hook="log",result="told"} 1.0' in daemon.metrics(), "counted")
        assert daemon.stop() == 0
    assert len(reported()) == 2


@pytest.mark.long
def test_a_configuration_with_a_hook_must_be_closed_to_others(work: Path) -> None:
    """A user who can write the configuration chooses the program: with a hook in it, a configuration that others can
    write is refused.
    """
    options = config(work, [], hooks=[{"name": "log", "command": ["/bin/true"]}])
    (work / "config.yaml").chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-m", "certmond", *options, "config", "validate"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "chmod go-w" in done.stderr


@pytest.fixture
def observing(node: Node, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon in observe mode that runs no loop."""
    with idle_daemon(node, tmp_path, lambda: parse([])) as daemon:
        yield daemon


@contextmanager
def idle_daemon(node: Node, work: Path, load: Callable[[], Config]) -> Iterator[Daemon]:
    """Make a daemon that runs no loop, until the block ends."""
    daemon = Daemon(
        load, root=str(node.root), runtime_dir=work / "run", state_dir=work / "state", journal=Journal("none")
    )
    yield daemon
    daemon._watcher.close()
    daemon._hooks.close()
    daemon._enforcer.surroundings_observer.close()


def use_cluster_objects(daemon: Daemon) -> None:
    """Give the daemon the check and the report of a configuration with `cluster.kubeconfig`."""
    terms: Any = {"node": "", "alive": lambda: None, "clock": lambda: datetime.now(UTC), "monotonic": lambda: 0.0}
    check = ServingRequestCheck(str, poll=timedelta(), **terms)
    daemon._enforcer.cluster_objects = ClusterObjects(check, NodeConditionReport(str, **terms))


@pytest.mark.parametrize("again", [True, False])
def test_the_plan_is_executed_before_the_request_of_the_kubelet_is_read(
    observing: Daemon, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """The API server can answer slowly. While steps remain, the daemon sends it no request."""
    done = list[str]()

    def execute(_: Reconciler) -> bool:
        done.append("execute")
        return again

    monkeypatch.setattr(Reconciler, "execute", execute)
    monkeypatch.setattr(ServingRequestCheck, "ask", lambda *_: done.append("ask"))
    use_cluster_objects(observing)
    observing._pass(Cause("look", frozenset()))
    observing._execute()
    assert done == (["execute"] if again else ["execute", "ask"])


def test_command_lines_are_read_again_after_a_restart(observing: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass reads the command lines of processes if the observation of the services has another process."""
    restarts, read = iter([False, True]), list[object]()
    monkeypatch.setattr(SurroundingsObserver, "sees_other_processes", property(lambda _: next(restarts)))
    monkeypatch.setattr(Store, "read_processes", lambda store: read.append(store))  # noqa: PLW0108 - to be a method
    for count in (0, 1):
        observing._pass(Cause("look", frozenset()))
        assert read == [observing._store] * count


def test_the_condition_of_the_node_follows_the_first_observation_of_the_services(
    observing: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, findings about services are unknown. A failure of the write is in the log."""
    written = list[object]()

    def report(_: NodeConditionReport, assessment: object) -> str:
        written.append(assessment)
        return "no answer"

    monkeypatch.setattr(NodeConditionReport, "report", report)
    use_cluster_objects(observing)
    observing._pass(Cause("look", frozenset()))
    observing._execute()
    assert written == []
    observing._surroundings = replace(observing._surroundings, live=Live(datetime.now(UTC)))
    observing._execute()
    assert written == [observing._assessment]
    assert ("condition_failed", "no answer") in [(e["event"], e["message"]) for e in observing._journal.recent]


@pytest.mark.parametrize(
    ("setting", "module"),
    [
        ("hooks: [{name: mine, command: [/bin/true]}]", "certmond.notify.hook_worker"),
        ("cluster: {kubeconfig: /etc/a.conf}", "certmond.controllers.cluster_objects.node_condition"),
        ("mode: enforce", "certmond.files.other_renewers"),
        ("mode: enforce", "certmond.daemon.enforce_planner"),
        ("mode: enforce", "certmond.controllers.executor"),
    ],
)
def test_a_reload_after_an_upgrade_keeps_the_old_configuration(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, module: str
) -> None:
    """If an upgrade has replaced a module that only the new configuration needs, a reload changes nothing: the daemon
    continues with its controllers, and reports the command that restarts certmond.
    """
    monkeypatch.setattr("certmond.daemon.loaded_configuration.missing_rights", lambda *_: None)
    sources = list[Source]()
    with idle_daemon(node, tmp_path, lambda: parse(sources)) as daemon:
        daemon._pass(Cause("look", frozenset()))
        before = daemon._enforcer, daemon._reconciler
        sources.append(Source("new.yaml", setting))
        for name in [name for name in sys.modules if name.startswith("certmond.") and name == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
        daemon._pass(daemon._read_configuration())
        assert (daemon._enforcer, daemon._reconciler) == before
        assert daemon._config == parse([])
        [problem] = daemon._configuration.problems
        assert problem.startswith("the running daemon cannot apply this configuration (ModuleNotFoundError")
        assert problem.endswith("restart certmond: systemctl restart certmond")


def test_the_first_scan_after_a_reload_is_complete(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long recovery during a reload notifies the watchdog, but scans nothing: the new observer of files has not read
    the node yet, so its result would lack certificates.
    """
    monkeypatch.setattr("certmond.daemon.loaded_configuration.missing_rights", lambda *_: None)
    scans = list[object]()
    with idle_daemon(node, tmp_path, lambda: parse([])) as daemon:
        daemon._pass(Cause("start", None))
        monkeypatch.setattr(daemon, "_published_at", -math.inf)
        monkeypatch.setattr(daemon._watcher, "take_changes", lambda: Changes(True, frozenset(), "overflow"))
        monkeypatch.setattr(Reconciler, "recover", lambda _: daemon._keep_alive())
        scan = daemon._scan

        def counted(touched: frozenset[str] | None) -> Inventory:
            scans.append(touched)
            return scan(touched)

        monkeypatch.setattr(daemon, "_scan", counted)
        daemon._keep_alive()
        assert len(scans) == 1, "outside of a reload, a long step scans the node"
        monkeypatch.setattr(daemon, "_published_at", -math.inf)
        cause = daemon._read_configuration()
        assert len(scans) == 1
        daemon._pass(cause)
        assert scans[1:] == [None]


def test_a_pass_and_a_scan_during_a_step_notify_the_watchdog(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon notifies systemd after each parsed file, path search and verdict, because hostile files can take
    seconds each. It begins no second scan meanwhile.
    """
    monkeypatch.setattr("certmond.daemon.paced_call.INTERVAL", 0)
    calls = Counter[str]()
    with idle_daemon(node, tmp_path, lambda: parse([])) as daemon:
        scan, taken = daemon._scan, Changes(True, frozenset(), "overflow")
        monkeypatch.setattr(daemon._watcher, "take_changes", lambda: taken)
        monkeypatch.setattr(daemon._notifier, "alive", lambda: calls.update(["alive"]))

        def counted(touched: frozenset[str] | None) -> Inventory:
            calls["scan"] += 1
            return scan(touched)

        monkeypatch.setattr(daemon, "_scan", counted)
        daemon._pass(Cause("start", None))
        assert daemon._assessment
        verdicts, found = len(daemon._assessment.statuses), [s for s in daemon._assessment.statuses if s.certificate]
        assert calls["scan"] == 1
        # Each certificate has one search. Most have two files, so the files alone are not enough.
        assert calls["alive"] >= verdicts + 3 * len(found) > 50
        calls.clear()
        daemon._pass(Cause("look", frozenset()))
        assert calls["alive"] == verdicts
        monkeypatch.setattr(daemon, "_published_at", -math.inf)
        node.write(f"{API}.crt", node.read(f"{PKI}/apiserver-kubelet-client.crt"))
        calls.clear()
        daemon._keep_alive()
        assert calls["scan"] == 1
        assert calls["alive"] >= verdicts + 3, "one more for the step, one for the file, and one for its paths"


def test_a_pass_notifies_the_watchdog_at_most_twice_a_second(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, the first pass over ten thousand files would send thirty thousand notifications."""
    monkeypatch.setattr("certmond.daemon.paced_call.INTERVAL", math.inf)
    calls = list[None]()
    with idle_daemon(node, tmp_path, lambda: parse([])) as daemon:
        monkeypatch.setattr(daemon._notifier, "alive", lambda: calls.append(None))
        daemon._pass(Cause("start", None))
        assert calls == []


def test_after_a_failed_scan_during_a_step_the_next_pass_scans(
    observing: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure of one scan must not fail the other steps. A full pass after the steps repeats the scan."""
    scans = list[object]()

    def failing(touched: object) -> Inventory:
        scans.append(touched)
        raise ZeroDivisionError

    observing._pass(Cause("look", None))
    monkeypatch.setattr(observing, "_scan", failing)
    monkeypatch.setattr(observing._watcher, "take_changes", lambda: Changes(True, frozenset(), "overflow"))
    monkeypatch.setattr(observing, "_published_at", -math.inf)
    with pytest.raises(ZeroDivisionError):
        observing._keep_alive()
    observing._keep_alive()
    assert len(scans) == 1
    observing._execute()
    cause = observing._next_cause()
    assert cause is not None
    assert (cause.name, cause.touched) == ("step", None)
    with pytest.raises(ZeroDivisionError):
        observing._pass(cause)
    assert scans[1:] == [None]


def test_a_stop_ends_the_extension_of_time_limits(observing: Daemon) -> None:
    """Otherwise a long first pass would extend TimeoutStopSec=, too."""
    assert not observing._notifier.stops
    observing.stop()
    assert observing._notifier.stops


class _Reader:
    """A reader of the cluster that records its calls."""

    until: datetime | None = None

    def __init__(self) -> None:
        self.calls = list[object]()

    def close(self) -> None:
        self.calls.append("close")

    def continue_from(self, former: object) -> None:
        self.calls.append(former)


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (True, True), (False, False)])
def test_a_reload_with_and_without_the_reader_of_the_cluster(
    observing: Daemon, monkeypatch: pytest.MonkeyPatch, *, before: bool, after: bool
) -> None:
    """A reload closes the former reader. The new reader, if any, continues from the former reader, if any."""
    old, new = _Reader(), _Reader()
    observing._enforcer.cluster_objects = ClusterObjects(reader=cast("Any", old if before else None))
    made = ClusterObjects(reader=cast("Any", new if after else None))
    monkeypatch.setattr("certmond.daemon.enforcer.cluster_objects_of", lambda *_, **__: made)
    observing._read_configuration()
    assert observing._enforcer.cluster_objects is made
    assert (old.calls, new.calls) == (["close"] if before else [], [old] if before and after else [])
    observing._enforcer.close()
    assert new.calls[-1:] == (["close"] if after else [])
    observing._enforcer.cluster_objects = ClusterObjects()


def test_the_next_pass_comes_when_an_object_of_the_cluster_is_due(observing: Daemon) -> None:
    """The daemon wakes at the time at which the check, the report or the reader can have another result."""
    reader = _Reader()
    reader.until = datetime.now(UTC) + timedelta(seconds=1)
    observing._pass(Cause("look", frozenset()))
    observing._enforcer.cluster_objects = ClusterObjects(reader=cast("Any", reader))
    assert min(observing._deadlines().instants) == reader.until
    observing._enforcer.cluster_objects = ClusterObjects()
    assert reader.until not in observing._deadlines().instants


def test_a_reload_keeps_the_observation_of_the_services(observing: Daemon) -> None:
    """Until the next observation, a reload does not clear the findings about services."""
    seen = Live(datetime.now(UTC), {"kubelet": ServiceSeen(True, "a")})
    observing._enforcer.surroundings_observer._observer.seen = seen
    observing._pass(observing._read_configuration())
    assert observing._surroundings.live == seen
