"""The measured processes, which are the two processes of certmond or the processes of a peer."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

EXPIRY = "certmond_certificate_not_after_timestamp_seconds"
PATIENCE = 600.0
_LOG_END = 500  # characters


def free_port() -> int:
    """Return an unused port on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Exporter:
    """Processes that serve metrics on a port of the loopback address.

    `series` is the metric with the expiry of each certificate.
    """

    def __init__(
        self, commands: Sequence[Sequence[str]], log: Path, port: int, path: str = "/metrics", series: str = EXPIRY
    ) -> None:
        self.path, self.series = path, series
        self._port, self._log = port, log
        self.scraped = bytearray(1 << 20)
        # Use bytecode files, as an installation does.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._started = time.perf_counter()
        with log.open("w") as file:
            self._processes = [
                subprocess.Popen(command, stdout=file, stderr=file, env=environment) for command in commands
            ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()

    def get(self, path: str, *, gzip: bool = False) -> bytes:
        """Return the body of a response with status 200, or an empty body without such a response."""
        with self._answer(path, gzip=gzip) as response, suppress(OSError):
            return response.read() if response else b""
        return b""

    def scrape(self, *, gzip: bool = False) -> int:
        """Read the metrics into the buffer of the previous metrics, as a scraper does. Return the size in bytes.

        To allocate a new buffer would take longer than the response. Return 0 without a response.
        """
        size = 0
        with self._answer(self.path, gzip=gzip) as response, suppress(OSError):
            while response and (read := response.readinto(memoryview(self.scraped)[size:])):
                size += read
                if size == len(self.scraped):
                    self.scraped += bytes(size)
        return size

    @contextmanager
    def _answer(self, path: str, *, gzip: bool) -> Iterator[http.client.HTTPResponse | None]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        with closing(connection):
            response = None
            with suppress(OSError):
                connection.request("GET", path, headers={"Accept-Encoding": "gzip" if gzip else "identity"})
                response = connection.getresponse()
            yield response if response and response.status == http.HTTPStatus.OK else None

    def expiries(self) -> int:
        """Return the number of certificates whose expiry is in the metrics."""
        return self.count(f"\n{self.series}{{".encode())

    def count(self, what: bytes) -> int:
        """Return the number of occurrences of `what` in the metrics."""
        return self.scraped.count(what, 0, self.scrape())

    def value(self, series: str) -> float:
        """Return the value of a series without labels. Raises ValueError if the metrics do not contain the series."""
        begin = self.scraped.index(f"\n{series} ".encode(), 0, self.scrape()) + len(series) + 2
        return float(self.scraped[begin : self.scraped.index(b"\n", begin)])

    def shows(self, name: str, end: int) -> bool:
        """Return whether the metrics contain `end`, or the seconds until `end`, for the certificate file `name`."""
        start, size, text = 0, self.scrape(), self.scraped
        while (at := text.find(name.encode(), start, size)) >= 0:
            start = text.find(b"\n", at, size) + 1 or size
            line = text[text.rfind(b"\n", 0, at) + 1 : start]
            if line.startswith(f"{self.series}{{".encode()):
                value = float(line.rpartition(b" ")[2])
                if value == end or abs(value - (end - time.time())) < 2:
                    return True
        return False

    def until(self, holds: Callable[[], bool], every: float = 0.002, at_most: float = PATIENCE) -> float:
        """Return the seconds from the start of the processes until `holds` is true. Check it each `every` seconds.

        Raises TimeoutError after `at_most` seconds, or if a process has ended.
        """
        asked = time.perf_counter()
        while not holds():
            ended = any(process.poll() is not None for process in self._processes)
            if ended or time.perf_counter() - asked > at_most:
                fact = "a process has ended" if ended else f"the state was not reached within {at_most:g} s"
                raise TimeoutError(f"{fact}; the end of the log: {self._log.read_text(errors='replace')[-_LOG_END:]!r}")
            time.sleep(every)
        return time.perf_counter() - self._started

    def resident(self) -> float:
        """Return the resident memory of all processes, in MB."""
        pages = [int(Path(f"/proc/{p.pid}/statm").read_text().split()[1]) for p in self._processes]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def spent(self) -> float:
        """Return the CPU time of all processes, in seconds."""
        return self._usage(self._processes)[0]

    def spent_by_first(self) -> float:
        """Return the CPU time of the first process, in seconds."""
        return self._usage(self._processes[:1])[0]

    def idle(self, seconds: float) -> tuple[float, float]:
        """Return the share of a core and the voluntary wake-ups per second of all processes, during `seconds` idle."""
        time.sleep(2)  # wait for the end of the last request
        before, start = self._usage(self._processes), time.perf_counter()
        time.sleep(seconds)
        after, elapsed = self._usage(self._processes), time.perf_counter() - start
        return (after[0] - before[0]) / elapsed, (after[1] - before[1]) / elapsed

    @staticmethod
    def _usage(processes: Iterable[subprocess.Popen[bytes]]) -> tuple[float, int]:
        ticks = switches = 0
        for process in processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # this includes child processes that have ended
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # the thread of a response has ended
                    line = next(x for x in (task / "status").read_text().splitlines() if x.startswith("voluntary"))
                    switches += int(line.split()[1])
        return ticks / os.sysconf("SC_CLK_TCK"), switches


class Pair(Exporter):
    """The processes `certmond run` and `certmond serve` of one node."""

    def __init__(self, work: Path, root: Path, config: Path | None, port: int) -> None:
        work.mkdir()
        runtime, options = work / "run", ["--config", str(config)] if config else []
        runtime.mkdir()
        common = [sys.executable, "-m", "certmond"]
        serve = [*common, "serve", "--runtime-dir", str(runtime), "--listen", f"127.0.0.1:{port}"]
        run = [*common, "run", "--root", str(root), "--runtime-dir", str(runtime), "--log", "journal", *options]
        super().__init__((run, serve), work / "log", port)
