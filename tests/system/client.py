"""Connects to a TLS server every 20 ms until its input ends, and prints a line for each time: when, and how it went.

It runs in the machine of the tests, with the standard library only.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
import time

EVERY = 0.02


def main(port: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    due = time.time()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.time()))[0]:
        begun = time.time()
        try:
            with socket.create_connection(("127.0.0.1", int(port)), 1) as plain, context.wrap_socket(plain):
                outcome = "served"
        except OSError as error:
            outcome = type(error).__name__
        sys.stdout.write(f"{begun:.4f} {outcome}\n")
        sys.stdout.flush()
        due = max(due + EVERY, time.time())


if __name__ == "__main__":
    main(*sys.argv[1:])
