"""Go as the authority of the differential tests: tests/pki/oracle, built once and queried over its standard input."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SOURCE = Path(__file__).parent / "pki" / "oracle"
OLDEST = (1, 24)
"""The version of Go whose rules the tests check."""


def version_of(go: str) -> str:
    """Return the version of the Go toolchain, as in go1.24.4."""
    return subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()


def is_old(version: str) -> bool:
    """Return whether this version of Go is older than the one whose rules the tests check."""
    return tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST


def build(go: str, place: Path) -> Path:
    """Return the program, built in `place` with the standard library only."""
    settings = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}
    environment = {"GOCACHE": str(place / "cache")} if "HOME" not in os.environ else {}
    program = place / "oracle"
    subprocess.run(
        [go, "build", "-o", program, "."], cwd=SOURCE, env=environment | dict(os.environ) | settings, check=True
    )
    return program


class Batch:
    """One process that answers a sequence of questions."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def verify(
        self, leaf: bytes, anchors: Iterable[bytes], intermediates: Iterable[bytes], usage: str, at: datetime
    ) -> dict[str, Any]:
        """Return Verify's verdict on a chain: `ok`, `error` and `parse`."""
        return self._ask(
            "chain",
            {
                "leaf": encoded(leaf),
                "anchors": [*map(encoded, anchors)],
                "intermediates": [*map(encoded, intermediates)],
                "usage": usage,
                "at": int(at.timestamp()),
            },
        )

    def shake(self, certificate: bytes, key: bytes, anchors: bytes, at: datetime) -> dict[str, str]:
        """Return the errors of tls.X509KeyPair (`load`) and of a handshake (`handshake`) with these PEM files."""
        files = {"certificate": encoded(certificate), "key": encoded(key), "anchors": encoded(anchors)}
        return self._ask("pair", files | {"at": int(at.timestamp())})

    def _ask(self, kind: str, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({kind: question}).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def encoded(data: bytes) -> str:
    """Bytes as JSON has them for Go."""
    return base64.b64encode(data).decode("ascii")


def lines(counts: dict[str, int]) -> Iterator[str]:
    """The figures of a comparison, one a line, the largest first."""
    for name, count in sorted(counts.items(), key=lambda each: -each[1]):
        yield f"{count:8} {name}"
