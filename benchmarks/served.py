"""`python -m benchmarks.served FILE PORT STARTS`: a service that reads its certificate once, and serves that.

SIGHUP has it begin anew, as a restart does. Each start adds a line to STARTS: the SHA-256 of the certificate that was
read. Whoever connects gets the certificate, one line of HTTP, and nothing else.
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
    signal.signal(signal.SIGHUP, _begin_anew)
    with Path(starts).open("a") as log:
        log.write(f"{hashlib.sha256(der).hexdigest()}\n")
    while True:
        connection, _ = listener.accept()
        connection.settimeout(2)
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(4096)
            secured.sendall(b"HTTP/1.0 200 OK\r\n\r\n")


def _begin_anew(*_: object) -> None:
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.served", *sys.argv[1:]])  # noqa: S606 - as a restart does


def _first(text: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return f"{begin}{text.partition(begin)[2].partition(end)[0]}{end}\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
