"""The standard streams, made fit for use: whoever starts certmond may have closed them, and a name may be no text.

Owns that each is open before anything else is, that nothing which is to be told fails for a character in it, and that
nobody but certmond writes there. Says nothing itself.
"""

from __future__ import annotations

import io
import os
import sys
import warnings


def prepare() -> None:
    """To be called first: what is opened before would take the place of a stream that is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file, a key perhaps, is what somebody takes for the terminal
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text at all
    if isinstance(sys.stderr, io.TextIOWrapper):  # no buffer: what cannot be written must not fail again at the end
        raw = io.FileIO(sys.stderr.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, "backslashreplace", write_through=True)
    if not sys.warnoptions:
        # cryptography has one for a name of 65 letters, and for more that a stranger's certificate may have.
        warnings.simplefilter("ignore", UserWarning)


def _stream(descriptor: int, mode: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(descriptor, mode, closefd=False), "utf-8")


def output_fails() -> bool:
    """What could not be written is still in the buffer, and fails once more."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def discard_output() -> None:
    """Redirect standard output to /dev/null, with what is still in its buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
