"""A stand-in for a component of the control plane: run as `component_stand_in.py FLAGS…` by a Python that is called
kube-apiserver, kube-controller-manager, kube-scheduler or etcd.

The stand-in reports what it has loaded. The API server and etcd load their serving pair for each handshake, and the API
server its pair for etcd for each connection (etcd, client/pkg/transport/listener.go, baseConfig). All of them read the
files of the flags in READ_ONCE at their start and print: `holds PATH SHA-256` on stdout, `ready` when they listen,
`draining` at a signal to end. An API server is then not ready for the seconds of --shutdown-delay-duration, closes its
listener (`closed`), and continues for the seconds in STAND_IN_DRAIN, like the real one with open watches
(staging/src/k8s.io/apiserver/pkg/server/genericapiserver.go, RunWithContext). With STAND_IN_KEEPS they keep the pair,
too. It imports only the standard library.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

READ_ONCE = {
    "kubeconfig", "etcd-cafile", "root-ca-file", "service-account-key-file",
    "service-account-signing-key-file", "service-account-private-key-file", "trusted-ca-file", "peer-trusted-ca-file",
}  # fmt: skip
PORTS = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
UNUSABLE = b"# of another version"
"""A kubeconfig with this in it ends its reader soon after its start, and is valid for every other program."""
FAILING = 1.0
"""Seconds until then, in which certmond can observe the process: it counts those that it has observed."""

draining = threading.Event()


def place(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition("://")[2].rpartition(":")
    return host, int(port)


def loaded(pair: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


def answer(connection: socket.socket, load: Callable[[], ssl.SSLContext] | None) -> None:
    """Answer one request, over TLS with `load` for the handshake. A client may take as long as it likes."""
    with suppress(OSError, ssl.SSLError), connection:
        if load:
            connection = load().wrap_socket(connection, server_side=True)
        with connection:
            if b" " in (line := connection.recv(1 << 12)):
                ill = draining.is_set() and line.split()[1] == b"/readyz"
                said = b"503 Service Unavailable" if ill else b"200 OK"
                connection.sendall(b"HTTP/1.1 " + said + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def listen(address: tuple[str, int], pair: tuple[str, str] | None) -> socket.socket:
    listener = socket.create_server(address)
    load: Callable[[], ssl.SSLContext] | None = partial(loaded, pair) if pair else None
    if load and "STAND_IN_KEEPS" in os.environ:
        context = load()
        load = lambda: context  # noqa: E731 - a component that does not do what it should

    def serve() -> None:
        with suppress(OSError):  # the server is shut down
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0], load), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    name = os.path.basename(os.readlink("/proc/self/exe"))
    flags = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
    for flag in sorted(flags.keys() & READ_ONCE):
        with open(flags[flag], "rb") as file:
            content = file.read()
        sys.stdout.write(f"holds {flags[flag]} {hashlib.sha256(content).hexdigest()}\n")
        if UNUSABLE in content:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it fails, also if certmond stops it before
            time.sleep(FAILING)
            sys.exit("this file is of another version")
    closing: socket.socket | None = None
    match name:
        case "etcd":
            for urls, kind in (("listen-client-urls", ""), ("listen-peer-urls", "peer-")):
                for url in flags[urls].split(","):
                    listen(place(url), (flags[f"{kind}cert-file"], flags[f"{kind}key-file"]))
            listen(place(flags["listen-metrics-urls"]), None)
        case "kube-apiserver":
            pair = flags["tls-cert-file"], flags["tls-private-key-file"]
            closing = listen(("", int(flags["secure-port"])), pair)
        case _:
            own = f"{os.environ['STAND_IN_PAIR']}/own.pem"  # it would otherwise make one in memory
            listen((flags["bind-address"], PORTS[name]), (own, own))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM})
    draining.set()
    sys.stdout.write("draining\n")
    sys.stdout.flush()
    if closing:
        time.sleep(float(flags.get("shutdown-delay-duration", "0").rstrip("s")))
        closing.shutdown(socket.SHUT_RDWR)
        sys.stdout.write("closed\n")
        sys.stdout.flush()
        time.sleep(float(os.environ.get("STAND_IN_DRAIN", "0")))
    os._exit(0)


if __name__ == "__main__":
    main()
