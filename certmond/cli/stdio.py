"""Standard streams: replacement of streams that the parent process has closed, and detection of failed output."""

from __future__ import annotations

import io
import os
import sys
import warnings


def prepare() -> None:
    """Open the closed standard streams on /dev/null. Escape characters that stdout or stderr cannot encode, and ignore
    UserWarning.

    Call this function before the process opens a file. Otherwise, the file would get the descriptor of a closed stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # otherwise the next file, perhaps a key, would become a standard stream
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        if isinstance(sys.stdout.buffer, io.RawIOBase):  # PYTHONUNBUFFERED: `output_fails` needs the failed output
            raw = io.FileIO(sys.stdout.fileno(), "w", closefd=False)
            sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), sys.stdout.encoding, line_buffering=True)
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file might not be valid UTF-8
    if isinstance(sys.stderr, io.TextIOWrapper):  # unbuffered: a failed write must not fail again at exit
        raw = io.FileIO(sys.stderr.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, "backslashreplace", write_through=True)
    if not sys.warnoptions:
        # cryptography warns about names of more than 64 characters and other faults. Certificates on the node can have
        # these faults.
        warnings.simplefilter("ignore", UserWarning)


def _stream(descriptor: int, mode: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(descriptor, mode, closefd=False), "utf-8")


def output_fails() -> bool:
    """Flush stdout, and return whether the flush fails."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def discard_output() -> None:
    """Redirect stdout to /dev/null, including the output in its buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
