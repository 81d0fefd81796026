"""Lines on stderr that name the measurement in progress."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

INTERVAL = 4.0
"""Seconds between two lines about the same measurement."""


class Progress:
    """Writer of the name of each measurement, at its start and then every `every` seconds."""

    def __init__(self, every: float = INTERVAL, stream: TextIO = sys.stderr) -> None:
        self._every, self._stream = every, stream
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._name, self._started = "", time.monotonic()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def begin(self, name: str) -> None:
        """Write that the measurement `name` begins."""
        with self._lock:
            self._name, self._started = name, time.monotonic()
        self._write()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(self._every):
            self._write()

    def _write(self) -> None:
        with self._lock:
            print(f"{self._name}: {time.monotonic() - self._started:.0f} s", file=self._stream, flush=True)
