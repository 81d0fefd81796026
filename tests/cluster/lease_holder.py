"""A process that acquires a Lease repeatedly: `KUBECONFIG IDENTITY JOURNAL SECONDS EVENTS`; EVENTS is a descriptor for
output.

The process writes each act to the journal and to EVENTS, with its time by CLOCK_MONOTONIC. It reads the time before it
checks the fence, and writes only after the check. So this process held the Lease at that time, however late the line
arrives.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import suppress
from datetime import timedelta

from certmond.cluster.lease_lock import RESTART, ClusterLease
from certmond.errors import LostError, UnreachableError

DICE = random.SystemRandom()


class Process:
    def __init__(self, kubeconfig: str, identity: str, journal: str, seconds: str, events: str) -> None:
        duration = timedelta(seconds=float(seconds))
        self.lease = ClusterLease(
            lambda: kubeconfig, identity=identity, name=RESTART, duration=duration, alive=lambda: None
        )
        self.identity = identity
        self.outputs = (os.open(journal, os.O_WRONLY | os.O_APPEND), int(events))

    def does(self, what: str) -> bool:
        """Write an act under the Lease. Return False and write nothing if the fence has passed."""
        at = time.clock_gettime(time.CLOCK_MONOTONIC)
        if not self.lease.held:
            return False
        for output in self.outputs:
            os.write(output, f"{what} {self.identity} {os.getpid()} {at!r}\n".encode())
        return True

    def turn(self) -> None:
        if not self.does("begin"):
            return
        for _ in range(DICE.randrange(1, 4)):
            pause(0.004)
            if DICE.random() < 0.5:
                self.lease.keep()
            if not self.does("act"):
                return
        self.does("end")
        self.lease.give_back()

    def run(self) -> None:
        while True:
            with suppress(UnreachableError, LostError):
                if self.lease.take() is None:
                    self.turn()
            pause(0.08)


def pause(most: float) -> None:
    time.sleep(DICE.uniform(0, most))


if __name__ == "__main__":
    Process(*sys.argv[1:]).run()
