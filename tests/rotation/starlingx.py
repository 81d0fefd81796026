"""A control plane of a bed as a StarlingX controller: certmond's profile, HAProxy, and users of the external API.

HAProxy has the configuration of stx-puppet (011acaa5, puppet-manifests/debian/trixie/src/modules/platform/manifests/
kubernetes.pp, class platform::kubernetes::haproxy): its frontend verifies the certificate of a client that presents
one, both backends verify the API server, and the Root CA of all three is that of the last start. The files of etcd and
of its certificates are those of kubeadm, as in every bed.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certmond.config import model
from tests.builders import Issued, make_ca, make_server
from tests.conftest import real_part
from tests.control_plane import PKI
from tests.deadline import DEADLINE
from tests.rotation import service_manager_stand_in
from tests.rotation.bed import Bed
from tests.rotation.node import BedNode, issued

FRONTEND = "127.0.0.1:8443"
CA, BUNDLE = f"{PKI}/ca.crt", f"{PKI}/haproxy_client.pem"
CONFIGURATION = """
global
  maxconn 1000
defaults
  mode http
  timeout connect {limit:.0f}s
  timeout client {limit:.0f}s
  timeout server {limit:.0f}s
frontend k8s-frontend
  bind {frontend} ssl crt {serving} verify optional ca-file {ca}
  use_backend k8s-backend-client-crt if {{ ssl_fc_has_crt }}
  default_backend k8s-backend
backend k8s-backend
  server s-k8s {api} check-ssl ssl verify required ca-file {ca}
backend k8s-backend-client-crt
  server s-k8s {api} check-ssl ssl verify required crt {bundle} ca-file {ca}
"""
_PROFILES = Path(model.__file__).parents[1] / "profiles"


class Controller:
    """The node, its HAProxy, and the users of the frontend."""

    def __init__(self, bed: Bed, node: BedNode) -> None:
        self.bed, self.node, self.name = bed, node, f"{node.name}/haproxy"
        self._socket, self._config = node.work / "sm", node.work / "haproxy.cfg"
        self._pid_file = node.work / "haproxy.pid"
        self._platform = make_ca("starlingx")
        (node.work / "platform.crt").write_bytes(self._platform.pem)
        serving = make_server(self._platform, "oam", names=["IP:127.0.0.1"])
        (node.work / "server-cert.pem").write_bytes(serving.pem + serving.key_pem)
        self._config.write_text(
            CONFIGURATION.format(
                frontend=FRONTEND, serving=node.work / "server-cert.pem", ca=CA, bundle=BUNDLE,
                api=f"{node.address}:6443", limit=DEADLINE,
            )
        )  # fmt: skip
        administrator = self.administrator()
        node.replace(BUNDLE, administrator.pem + administrator.key_pem)
        program = node.work / "sm-restart-safe"
        program.write_text(service_manager_stand_in.PROGRAM.format(python=sys.executable, address=str(self._socket)))
        program.chmod(0o755)
        node.configure(profile="starlingx", services=self._services(), certificates=_certificates())

    def _services(self) -> list[dict[str, Any]]:
        """Return HAProxy with the program and the PID file of the stand-in for SM and with its health address, and etcd
        and the kubelet of the bed.
        """
        (haproxy,) = (each for each in _profile("starlingx")["services"] if each["name"] == "haproxy")
        (etcd,) = (each for each in _profile("kubeadm")["services"] if each["name"] == "etcd")
        program, *words = haproxy["command"]
        command = [str(self.node.work / Path(program).name), *words]
        pid_file, health = str(self._pid_file), f"https://{FRONTEND}/readyz"
        found = [{"name": "haproxy", "command": command, "pid_file": pid_file, "health": health}]
        return [
            *found,
            {**etcd, "command": [], "pid_file": None, "serves": {}, "health": []},
            {"name": "kubelet", "command": []},
        ]

    def administrator(self) -> Issued:
        """Return the present client certificate of admin.conf, with its key."""
        user = yaml.safe_load(self.node.read("/etc/kubernetes/admin.conf"))["users"][0]["user"]
        certificate = self.node.client_of("/etc/kubernetes/admin.conf")
        return issued(certificate, load_pem_private_key(base64.b64decode(user["client-key-data"]), None))

    def asked(self, client: Issued | None = None) -> str:
        """Return the result of a request to the frontend with this client certificate: "" or the error."""
        return self.node.asked(FRONTEND, client, self.node.work / "platform.crt")

    @contextmanager
    def haproxy(self) -> Iterator[None]:
        """Run SM with HAProxy."""
        node = self.node
        command = [sys.executable, "-m", service_manager_stand_in.__name__, str(self._socket)]
        haproxy = [real_part("haproxy"), "-Ws", "-f", str(self._config)]
        with (
            (node.work / "haproxy.log").open("wb") as log,
            subprocess.Popen(
                [*node.inside, *command, str(self.bed.record.path), str(self._pid_file), self.name, *haproxy],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            ) as process,
        ):  # fmt: skip
            assert process.stdout
            assert process.stdout.readline() == b"ready\n", (node.work / "haproxy.log").read_text()
            yield

    @contextmanager
    def user(self, name: str, pair: str) -> Iterator[None]:
        """A user who makes requests to the frontend all the time, with the certificate that the file `pair` contains
        at that moment. The block begins after the first requests.
        """
        node, trusted = self.node, self.node.work / "platform.crt"
        config = node.work / f"{name}.conf"
        config.write_text(
            f"server: https://{FRONTEND}\ncertificate-authority: {trusted}\n"
            f"client-certificate: {pair}\nclient-key: {pair}\n"
        )
        command = [*node.inside, str(self.bed.work / "bin/kubectl"), f"--kubeconfig={config}"]
        environment = os.environ | {
            "STAND_IN_NAME": f"{node.name}/{name}", "STAND_IN_SERVER": self.name,
            "STAND_IN_RECORD": str(self.bed.record.path), "STAND_IN_INTERVAL": "50",
        }  # fmt: skip
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            try:
                self.bed.until(lambda: self.good(name), f"{name} has an answer")
                yield
            finally:
                process.kill()

    def starts(self, since: float) -> int:
        """Return the number of starts of HAProxy since then."""
        lines = map(json.loads, self.bed.record.path.read_text().splitlines())
        return sum(each["by"] == self.name and each.get("event") == "ready" and each["at"] > since for each in lines)

    def good(self, name: str, since: float = 0.0) -> int:
        """Return the number of answers that a user got."""
        tallies = self.bed.tallies(since).items()
        return sum(tally.good for each, tally in tallies if each.by == f"{self.node.name}/{name}")


def _profile(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_PROFILES / f"{name}.yaml").read_text())
    return found


def _certificates() -> list[dict[str, Any]]:
    """Return the entries that differ from the profile: kubeadm's for the files of etcd, and no service of the platform
    beside HAProxy.
    """
    etcd = ("etcd-ca", "etcd-server", "apiserver-etcd-client")
    found = [each | {"belongs_with": []} for each in _profile("kubeadm")["certificates"] if each["name"] in etcd]
    return [*found, {"name": "admin.conf", "consumers": []}]
