"""Static Pods for a test: a running stand-in for the kubelet, its manifests, its events, and its client."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests import crictl_stand_in, kubelet_stand_in
from tests.conftest import real_part
from tests.control_group import control_group
from tests.deadline import DEADLINE
from tests.kubelet_stand_in import Settings, stored

PROGRAM = r"""
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int listener = -1;

static void close_listener(int signal) {
    close(listener);
}

static int listening(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int yes = 1;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    return bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64);
}

static void drain(int signal) {
    const char *seconds = getenv("STAND_IN_DRAIN");
    usleep(seconds ? (useconds_t)(atof(seconds) * 1e6) : 0);
    _exit(0);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--fork") && fork() == 0) for (;;) pause();
        if (!strcmp(argv[i], "--drop-root") && setuid(65534)) return 1;
        if (!strncmp(argv[i], "--listening=", 12) && listening(atoi(argv[i] + 12))) return 1;
    }
    signal(SIGTERM, listener >= 0 ? close_listener : argc > 1 && !strcmp(argv[1], "--deaf") ? SIG_IGN : drain);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
"""


def compiled(directory: Path) -> Path:
    """Compile a program that waits, and after SIGTERM drains for the given time.

    With --deaf (first) it ignores SIGTERM, with --fork it has a child, with --drop-root it drops root. With
    --listening=PORT it acts like an API server with open watches: after SIGTERM it closes its listener and continues.
    To run it under a name, copy it to that name: its command line and its file must have the same name.
    """
    program = directory / "waiting"
    command = [real_part("gcc"), "-x", "c", "-o", str(program), "-"]
    subprocess.run(command, input=PROGRAM, text=True, check=True)
    return program


def interpreter(path: Path) -> dict[str, str]:
    """Create a Python with the name `path` in its command line and its file. Return the environment that it needs."""
    shutil.copy2(os.path.realpath(sys.executable), path)
    return {"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"}


class Pods:
    """A kubelet that runs, with `node-1` for its node."""

    def __init__(self, settings: Settings, work: Path, process: subprocess.Popen[bytes]) -> None:
        self.settings = settings
        self.logs = settings.logs
        self.process = process
        self.endpoint = f"unix://{settings.socket}"
        self._work = work

    def apply(
        self, name: str, containers: Mapping[str, Sequence[str]], environment: Mapping[str, str] | None = None
    ) -> None:
        """Write the manifest of a pod of the name: its containers, and the command of each."""
        variables = [{"name": key, "value": value} for key, value in (environment or {}).items()]
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {
                "containers": [
                    {"name": container, "command": list(command), "env": variables}
                    for container, command in containers.items()
                ]
            },
        }
        temporary = self._work / "manifest"
        temporary.write_text(yaml.safe_dump(manifest))
        temporary.rename(Path(self.settings.manifests, f"{name}.yaml"))

    def remove(self, name: str) -> None:
        Path(self.settings.manifests, f"{name}.yaml").unlink()

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        """Return its events with all of these fields, in order."""
        path = Path(self.settings.events)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if fields.items() <= event.items()]

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait until `holds`; fail after a deadline."""
        end = time.monotonic() + DEADLINE
        while not (found := holds()):
            said = (self._work / "kubelet.log").read_text()
            assert self.process.poll() is None, f"the kubelet has ended\n{said}"
            assert time.monotonic() < end, f"{what}: never so\n{self.events()}\n{said}"
            select.select([], [], [], 0.02)
        return found

    def event(self, event: str, **fields: Any) -> dict[str, Any]:
        """Return the first such event, and wait for it."""
        found: dict[str, Any] = self.until(lambda: self.events(event=event, **fields), f"{event} {fields}")[0]
        return found

    def ready(self, container: str, **fields: Any) -> dict[str, Any]:
        """Return the start event of a container, after it has reported that it is ready."""
        started = self.event("started", container=container, **fields)
        pod = f"kube-system_{started['pod']}_{started['uid']}"
        log = Path(self.logs, pod, container, f"{started['attempt']}.log")
        self.until(lambda: "ready" in log.read_text(), f"{container} is ready")
        return started


@contextmanager
def kubelet(
    work: Path,
    factor: float,
    apiservers: tuple[str, ...] = (),
    electing: tuple[str, ...] = (),
    *,
    before: Sequence[str] = (),
    node: str = "node-1",
    mounts: bool = False,
    **elsewhere: str,
) -> Iterator[Pods]:
    """Run a kubelet until the block ends, and with it all of its containers. `before` is the prefix of the command, and
    must keep it in its own process. With `mounts`, containers see their mounts; `elsewhere` are directories outside
    `work`.
    """
    with control_group(f"kubelet-{node}") as group:
        paths = {name: elsewhere.get(name, str(work / name)) for name in ("manifests", "logs", "tasks")}
        for path in paths.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        files = {"group": str(group), "socket": str(work / "cri.sock"), "events": str(work / "events")}
        settings = Settings(
            **paths, **files, factor=factor, node=node, mounts=mounts, apiservers=apiservers, electing=electing
        )
        command = [*before, sys.executable, kubelet_stand_in.__file__, str(stored(settings, work / "settings.json"))]
        with (work / "kubelet.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        pods = Pods(settings, work, process)
        try:
            pods.until(lambda: Path(settings.socket).exists(), "the kubelet listens")
            yield pods
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE)


def installed_crictl(directory: Path) -> Path:
    """Install the stand-in for crictl as an executable of that name, in a directory for PATH."""
    path = directory / "crictl"
    script = f"""\
        #!/bin/sh
        exec {sys.executable} {crictl_stand_in.__file__} "$@"
    """
    path.write_text(textwrap.dedent(script))
    path.chmod(0o755)
    return path
