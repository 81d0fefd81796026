"""Faulty answers of the API to a write: refusals, silence, garbage, with and without effect."""

from __future__ import annotations

from collections.abc import Callable

from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.conftest import Limits

HANGS = Fault(-1)
FAULTS = {
    "reset": Fault(0),
    "done, and reset": Fault(0, late=True),
    "403": Fault(403),
    "409": Fault(409),
    "422": Fault(422),
    "500": Fault(500),
    "done, and 504": Fault(504, late=True),
    "no JSON": Fault(200, body=b"<html>"),
    "done, and no JSON": Fault(200, body=b"<html>", late=True),
    "hangs": HANGS,
}


class Failing:
    """In each `stage`, each write has an index: that of its first attempt. The first attempt gets the fault of its
    index. `failed` are the writes with a fault, `most` are the writes of the stage that has most.
    """

    def __init__(
        self, api: ApiServer, limits: Limits, fault_of: Callable[[int], Fault | None], stage: Callable[[], object]
    ) -> None:
        self._api, self._limits, self._fault_of, self._stage = api, limits, fault_of, stage
        self._now: object = None
        self._seen, self.failed, self.most = list[str](), list[str](), list[str]()
        api.before = self._before

    def _before(self, method: str, path: str) -> None:
        if method == "GET":
            return
        if (stage := self._stage()) != self._now:
            self._now, self._seen = stage, []
        write = f"{method} {path}"
        if write in self._seen:
            return
        self._seen.append(write)
        self.most = max(self.most, [*self._seen], key=len)
        if fault := self._fault_of(len(self._seen) - 1):
            self.failed.append(write)
        if fault is HANGS:
            self._limits.end()
            self._api.closing.wait()
            raise ConnectionAbortedError  # so that it has no effect
        if fault:
            self._api.faults = [fault]
