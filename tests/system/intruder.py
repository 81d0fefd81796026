"""Takes a port as soon as it is free, and releases it when a file has so many lines or the input ends: PORT FILE LINES.

Each client is disconnected at once. The program runs in the machine of the tests, with the standard library only.
"""

from __future__ import annotations

import select
import socket
import sys
from contextlib import suppress
from pathlib import Path


def take(port: int) -> socket.socket | None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        listener.setblocking(False)
    except OSError:
        listener.close()
        return None
    return listener


def main(port: str, file: str, lines: str) -> None:
    taken = None
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        taken = taken or take(int(port))
        with suppress(OSError):
            if taken:
                taken.accept()[0].close()
        if Path(file).exists() and len(Path(file).read_text().splitlines()) >= int(lines):
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
