"""The one API behind all API servers of a bed, which authenticate and forward the paths below /api and /apis to it.

It has the socket, and lets the controller-manager of a node sign with its CA.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.cluster.node_api import ANNOTATION, Acknowledgement
from tests.cluster.api_server import ApiServer, _Handler
from tests.cluster.lease_store import Json, status


class SigningError(Exception):
    """The error of the controller-manager."""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _Behind(_Handler):
    """A server behind an API server that has authenticated the client (authenticating proxy, k8s.io/apiserver,
    headerrequest).
    """

    def _identity(self) -> tuple[str, list[str]]:
        return self.headers["X-Remote-User"] or "", self.headers.get_all("X-Remote-Group") or []


class Backend(ApiServer):
    """`signers` tells the sockets of the controller-managers."""

    def __init__(self, directory: Path, nodes: Sequence[str], signers: Callable[[], list[Path]]) -> None:
        super().__init__(directory)
        self.socket = directory / "api.sock"
        self._signers = signers
        self.unreported: dict[str, Collection[str]] = {}
        """Phases by node: the API refuses the report of the node that it has reached one of them, so that the cluster
        stays in this phase.
        """
        self.nodes = {node: {"addresses": []} for node in nodes}
        handler = type("Handler", (_Behind,), {"api": self, "disable_nagle_algorithm": False})
        self._unix = _Server(str(self.socket), handler)

    def __enter__(self) -> Self:
        super().__enter__()
        threading.Thread(target=self._unix.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._unix.shutdown()
        self._unix.server_close()
        super().__exit__(*exception)

    def answer(self, method: str, path: str, body: bytes, **more: Any) -> tuple[int, Json]:
        node = path.removeprefix("/api/v1/nodes/")
        if method == "PATCH" and node in self.unreported:
            said = json.loads(body)["metadata"].get("annotations", {}).get(ANNOTATION, "")
            if (report := Acknowledgement.parse(said)) and report.phase in self.unreported[node]:
                return status(503, f"the test holds the phase {report.phase}")
        return super().answer(method, path, body, **more)

    def sign(self, csr: x509.CertificateSigningRequest, spec: Json) -> bytes:
        return signed(self._signers(), csr.public_bytes(Encoding.PEM), spec["usages"])


def signed(signers: Sequence[Path], csr: bytes, usages: Sequence[str]) -> bytes:
    """Return a certificate (PEM) of the first running controller-manager. Raise SigningError with its error."""
    for path in signers:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                continue
            connection.sendall(json.dumps({"csr": csr.decode(), "usages": list(usages)}).encode())
            with connection.makefile() as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
            if "error" in answer:
                raise SigningError(answer["error"])
            return str(answer["certificate"]).encode()
    raise SigningError("no controller-manager runs")
