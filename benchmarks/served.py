"""Service that reads its certificate only at the start: `python -m benchmarks.served FILE PORT STARTS`.

SIGHUP restarts the service. Each start appends the SHA-256 of the certificate to the file STARTS, as one line. A client
receives the certificate and one line of HTTP.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path


def main(file: str, port: str, starts: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    der = ssl.PEM_cert_to_DER_cert(_first(Path(file).read_text()))
    listener = socket.create_server(("127.0.0.1", int(port)))
    signal.signal(signal.SIGHUP, _restart)
    with Path(starts).open("a") as log:
        log.write(f"{hashlib.sha256(der).hexdigest()}\n")
    while True:
        connection, _ = listener.accept()
        connection.settimeout(2)
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(4096)
            secured.sendall(b"HTTP/1.0 200 OK\r\n\r\n")


def _restart(*_: object) -> None:
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.served", *sys.argv[1:]])  # noqa: S606 - a restart


def _first(text: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return f"{begin}{text.partition(begin)[2].partition(end)[0]}{end}\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
