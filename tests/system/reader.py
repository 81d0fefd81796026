"""A TLS server that reads its certificate once, at its start, like most servers: PORT CERTIFICATE KEY [NAME].

It runs in the machine of the tests, with the standard library only. It exits 1 if the certificate does not have NAME,
or if another process uses the port.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def serve(connection: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as wrapped:
        if wrapped.recv(1024):
            wrapped.sendall(ANSWER)


def ready() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.connect(os.environ["NOTIFY_SOCKET"])
        notifier.send(b"READY=1")


def main(port: str, certificate: str, key: str, name: str = "") -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if name.encode() not in ssl.PEM_cert_to_DER_cert(Path(certificate).read_text()):
        sys.exit(1)
    with socket.create_server(("127.0.0.1", int(port)), backlog=64) as listener:
        ready()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, context), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
