"""A stand-in for the kubelet and its container runtime: run as `kubelet_stand_in.py SETTINGS.json`, until stdin ends.

It runs the static Pods of a directory of manifests as real processes in real control groups, and restarts each
container that ends. Its behavior and delays were measured with kubelet v1.24 and containerd 1.7. The first restart
comes at once, and the next ones are backed off, whatever ended the container. When an API server ends, the holder of a
leader's lease ends a moment later. Another text in a manifest is another Pod. `factor` scales the delays. It has no
images, no namespaces and no probes: a container uses the files of this machine. With `mounts`, a container sees
of /etc/kubernetes only what its manifest mounts, and the inode that a separately mounted file had at the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

BACK_OFF = (0.7, 20.0, 20.0, 45.0, 80.0, 160.0, 300.0)
"""Seconds from the end of a container to its next start, by how often it was started again before."""

FORGIVEN = 600.0  # seconds without an end, after which the first delay counts again; not scaled, as no test awaits it
DRAIN = 60.0
"""Seconds that an API server runs at most after SIGTERM while a watch is open: the timeout of its requests
(staging/src/k8s.io/apiserver/pkg/server/config.go, ShutdownTimeout); measured 12 in v1.24 and v1.33, more than 30 in
v1.27. The stand-in gets them as STAND_IN_DRAIN, unless the manifest sets it.
"""
LEASE_LOST = 1.0  # seconds from the end of an API server to that of the holder of a lease
GRACE = 600.0  # seconds for the containers of a pod that is removed; not scaled, as no test awaits it
LOOK = 0.05  # seconds between two scans of the manifests, which are not scaled

MOUNTED = "/etc/kubernetes"
_MOUNT = """
set -e
mkdir -p /run/rootfs
mount -t tmpfs tmpfs /run/rootfs
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "/run/rootfs$2"; else mkdir -p "/run/rootfs${2%/*}"; : >"/run/rootfs$2"; fi
    mount --bind "$1" "/run/rootfs$2"
    shift 2
done
shift
mount --rbind "/run/rootfs$0" "$0"
exec "$@"
"""
"""The tree is separate, as in a container: a mount on the file itself would end when another file is renamed there."""
MOUNTING = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, MOUNTED)


@dataclass(frozen=True)
class Settings:
    """`apiservers` and `electing` are names of containers; all that have no default are paths."""

    manifests: str
    logs: str  # like /var/log/pods
    tasks: str  # like /run/containerd/io.containerd.runtime.v2.task/k8s.io
    group: str  # the control group to make kubepods in
    socket: str  # where tests/crictl_stand_in.py connects
    events: str  # a line of JSON for each start and end of a container
    node: str = "node-1"
    factor: float = 1.0
    apiservers: tuple[str, ...] = ()
    electing: tuple[str, ...] = ()
    mounts: bool = False


@dataclass
class Container:
    """One run of a container."""

    id: str
    attempt: int
    created: int
    process: subprocess.Popen[bytes]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""  # of an end that the stand-in has caused

    @property
    def runs(self) -> bool:
        return not self.ended.is_set()


@dataclass
class Place:
    """A container in a manifest, its mounts of this machine, and its runs."""

    spec: dict[str, Any]
    mounts: list[str] = field(default_factory=list)  # a path here, and where it is in the container; the next one
    runs: list[Container] = field(default_factory=list)
    restarts: int = 0
    last_end: float = float("-inf")

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def current(self) -> Container | None:
        return self.runs[-1] if self.runs and self.runs[-1].runs else None


@dataclass
class Pod:
    uid: str
    name: str
    namespace: str
    group: Path
    sandbox: str
    pause: subprocess.Popen[bytes]
    places: list[Place]
    leaving: bool = False


def mounts_of(container: dict[str, Any], pod: dict[str, Any]) -> list[str]:
    """Return the mounts below MOUNTED, path by path."""
    paths = {each["name"]: each["hostPath"]["path"] for each in pod.get("volumes", ()) if "hostPath" in each}
    mounted = {each["mountPath"]: paths.get(each["name"], "") for each in container.get("volumeMounts", ())}
    return [word for path, here in mounted.items() if path.startswith(f"{MOUNTED}/") for word in (here, path)]


class Kubelet:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pods: dict[str, Pod] = {}
        self.loop = asyncio.get_running_loop()
        self.jobs: set[asyncio.Task[None]] = set()
        self.parsed: dict[bytes, Any] = {}  # of the last scan: parsing takes most of its time

    def scaled(self, seconds: float) -> float:
        return seconds * self.settings.factor

    def tell(self, event: str, pod: Pod, place: Place, container: Container, why: str) -> None:
        line = {
            "event": event, "pod": pod.name, "uid": pod.uid, "container": place.name, "id": container.id,
            "attempt": container.attempt, "pid": container.process.pid, "time": time.time(), "why": why,
        }  # fmt: skip
        with open(self.settings.events, "a") as file:
            file.write(json.dumps(line) + "\n")

    # --- the kubelet: from manifests to pods --------------------------------------------------------------------------

    def look(self) -> None:
        wanted = self.manifests()
        for uid, pod in self.pods.items():
            if uid not in wanted and not pod.leaving:
                pod.leaving = True
                self.job(self.remove(pod))
        present = {(pod.namespace, pod.name) for pod in self.pods.values()}
        for uid, manifest in wanted.items():
            metadata = manifest["metadata"]
            name, namespace = f"{metadata['name']}-{self.settings.node}", metadata.get("namespace", "default")
            if uid not in self.pods and (namespace, name) not in present:
                self.add(uid, name, namespace, manifest["spec"])
        self.loop.call_later(LOOK, self.look)

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return the manifests by uid, which depends on the node, the path and the text."""
        found, before, self.parsed = {}, self.parsed, {}
        for path in Path(self.settings.manifests).iterdir():
            with suppress(OSError, yaml.YAMLError, TypeError):
                text = b"" if path.name.startswith(".") else path.read_bytes()
                manifest = self.parsed[text] = before[text] if text in before else yaml.safe_load(text)
                if manifest and manifest["kind"] == "Pod":
                    key = f"{self.settings.node}\0{path}\0".encode() + text
                    found[hashlib.md5(key, usedforsecurity=False).hexdigest()] = manifest
        return found

    def add(self, uid: str, name: str, namespace: str, spec: dict[str, Any]) -> None:
        group, sandbox = Path(self.settings.group, "kubepods/burstable", f"pod{uid}"), secrets.token_hex(32)
        sleep = shutil.which("sleep") or "/bin/sleep"
        pause = self.spawn(group / sandbox, ["/pause", "infinity"], None, executable=sleep)
        places = [Place(each, mounts_of(each, spec)) for each in spec["containers"]]
        pod = self.pods[uid] = Pod(uid, name, namespace, group, sandbox, pause, places)
        self.task(sandbox, pause.pid, ["/pause"], pod, None)
        for place in pod.places:
            self.start(pod, place, "the pod is new")

    async def remove(self, pod: Pod) -> None:
        running = [container for place in pod.places if (container := place.current)]
        for container in running:
            await self.end(container, GRACE, "the pod was removed")
        pod.pause.kill()
        pod.pause.wait()
        shutil.rmtree(Path(self.settings.tasks, pod.sandbox))
        await self.clear(pod.group / pod.sandbox)
        await self.clear(pod.group)
        del self.pods[pod.uid]

    def start(self, pod: Pod, place: Place, why: str) -> None:
        if pod.leaving or place.current:
            return
        identifier = secrets.token_hex(32)
        logs = Path(self.settings.logs, f"{pod.namespace}_{pod.name}_{pod.uid}", place.name)
        logs.mkdir(parents=True, exist_ok=True)
        attempt = len(list(logs.iterdir()))  # for a restored manifest, too: that is the same Pod again
        log = logs / f"{attempt}.log"
        words = [*place.spec["command"], *place.spec.get("args", ())]
        environment = {item["name"]: item["value"] for item in place.spec.get("env", ())}
        if place.name in self.settings.apiservers:
            environment.setdefault("STAND_IN_DRAIN", str(self.scaled(DRAIN)))
        mounting = [*MOUNTING, *place.mounts, "--"] if self.settings.mounts and place.mounts else []
        process = self.spawn(pod.group / identifier, [*mounting, *words], log, environment=environment)
        container = Container(identifier, attempt, time.time_ns(), process)
        place.runs.append(container)
        self.task(identifier, process.pid, words, pod, place)
        self.tell("started", pod, place, container, why)
        descriptor = os.pidfd_open(process.pid)
        self.loop.add_reader(descriptor, self.has_ended, descriptor, pod, place, container)

    def has_ended(self, descriptor: int, pod: Pod, place: Place, container: Container) -> None:
        self.loop.remove_reader(descriptor)
        os.close(descriptor)
        status = container.process.wait()
        container.ended.set()
        self.job(self.clear(pod.group / container.id))
        shutil.rmtree(Path(self.settings.tasks, container.id))
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        self.tell("ended", pod, place, container, f"{container.why}: {how}" if container.why else how)
        if place.name in self.settings.apiservers:
            self.loop.call_later(self.scaled(LEASE_LOST), self.leases_are_lost)
        if self.loop.time() - place.last_end > FORGIVEN:
            place.restarts = 0
        place.last_end = self.loop.time()
        delay = BACK_OFF[min(place.restarts, len(BACK_OFF) - 1)]
        place.restarts += 1
        self.loop.call_later(self.scaled(delay), self.start, pod, place, f"restart after {delay:g} s")

    def leases_are_lost(self) -> None:
        for pod in self.pods.values():
            for place in pod.places:
                if place.name in self.settings.electing and (container := place.current):
                    container.why = container.why or "leaderelection lost"
                    container.process.kill()

    # --- the runtime: from containers to processes --------------------------------------------------------------------

    def spawn(
        self,
        group: Path,
        words: list[str],
        log: Path | None,
        *,
        environment: dict[str, str] | None = None,
        executable: str | None = None,
    ) -> subprocess.Popen[bytes]:
        group.mkdir(parents=True)

        def enter() -> None:
            (group / "cgroup.procs").write_text("0")

        with open(log or os.devnull, "ab") as output:
            return subprocess.Popen(
                words, executable=executable, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                env={"PATH": os.defpath, **(environment or {})}, start_new_session=True,
                preexec_fn=enter,  # noqa: PLW1509 - this process has one thread
            )  # fmt: skip

    def task(self, identifier: str, pid: int, words: list[str], pod: Pod, place: Place | None) -> None:
        """Write what containerd's shim stores of a container, as far as any test reads it."""
        directory = Path(self.settings.tasks, identifier)
        directory.mkdir(parents=True)
        annotations = {
            "io.kubernetes.cri.container-type": "container" if place else "sandbox",
            "io.kubernetes.cri.sandbox-id": pod.sandbox,
            "io.kubernetes.cri.sandbox-name": pod.name,
            "io.kubernetes.cri.sandbox-namespace": pod.namespace,
            "io.kubernetes.cri.sandbox-uid": pod.uid,
            **({"io.kubernetes.cri.container-name": place.name} if place else {}),
        }
        (directory / "config.json").write_text(json.dumps({"process": {"args": words}, "annotations": annotations}))
        (directory / "init.pid").write_text(str(pid))

    async def end(self, container: Container, grace: float, why: str) -> None:
        """SIGTERM and, after the grace, SIGKILL; without a grace the second at once."""
        container.why = why
        if grace > 0:
            container.process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(container.ended.wait(), grace)
        if container.runs:
            container.process.kill()
        await container.ended.wait()

    async def clear(self, group: Path) -> None:
        """Kill the leftover processes of a container, and remove its group."""
        with suppress(FileNotFoundError):
            (group / "cgroup.kill").write_text("1")
            while True:
                try:
                    return group.rmdir()
                except FileNotFoundError:
                    return None
                except OSError:  # the last process is about to end
                    await asyncio.sleep(0.01)

    def job(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.jobs.add(task)
        task.add_done_callback(self.jobs.discard)
        task.add_done_callback(asyncio.Task.result)  # the loop prints errors on stderr

    # --- calls of the client ------------------------------------------------------------------------------------------

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        answer = self.containers() if asked["call"] == "list" else await self.stop(asked["id"], asked["timeout"])
        with suppress(ConnectionError):  # the client may have disconnected
            writer.write(json.dumps(answer).encode() + b"\n")
            writer.close()
            await writer.wait_closed()

    def containers(self) -> dict[str, Any]:
        """A ListContainersResponse, the newest first, those included that have ended."""
        found = [
            {
                "id": run.id,
                "podSandboxId": pod.sandbox,
                "metadata": {"name": place.name, "attempt": run.attempt},
                "image": {"image": "sha256:" + "0" * 64, "annotations": {}},
                "imageRef": "sha256:" + "0" * 64,
                "state": "CONTAINER_RUNNING" if run.runs else "CONTAINER_EXITED",
                "createdAt": str(run.created),
                "labels": {
                    "io.kubernetes.container.name": place.name,
                    "io.kubernetes.pod.name": pod.name,
                    "io.kubernetes.pod.namespace": pod.namespace,
                    "io.kubernetes.pod.uid": pod.uid,
                },
                "annotations": {"io.kubernetes.container.restartCount": str(run.attempt)},
            }
            for pod in self.pods.values()
            for place in pod.places
            for run in place.runs
        ]
        return {"containers": sorted(found, key=lambda each: str(each["createdAt"]), reverse=True)}

    async def stop(self, identifier: str, timeout: int) -> dict[str, Any]:
        for pod in self.pods.values():
            for run in (run for place in pod.places for run in place.runs if run.id == identifier):
                if run.runs:
                    await self.end(run, timeout, "stopped through the runtime")
                return {}
        message = f'an error occurred when try to find container "{identifier}": not found'
        return {"error": f"rpc error: code = NotFound desc = {message}"}


async def main(settings: Settings) -> None:
    kubelet = Kubelet(settings)
    over = asyncio.Event()
    kubelet.loop.add_reader(sys.stdin.fileno(), over.set)
    kubelet.loop.add_signal_handler(signal.SIGTERM, over.set)
    async with await asyncio.start_unix_server(kubelet.answer, settings.socket):
        kubelet.look()
        await over.wait()
    for pod in kubelet.pods.values():
        pod.leaving = True  # no container that ends now restarts
    Path(settings.group, "cgroup.kill").write_text("1")


def stored(settings: Settings, path: Path) -> Path:
    """The settings in a file, as they are read back below."""
    path.write_text(json.dumps(asdict(settings)))
    return path


if __name__ == "__main__":
    asyncio.run(main(Settings(**json.loads(Path(sys.argv[1]).read_text()))))
