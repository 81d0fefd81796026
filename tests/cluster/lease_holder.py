"""A process that takes turns: `KUBECONFIG IDENTITY JOURNAL SECONDS EVENTS`, where EVENTS is a descriptor to write to.

Into the journal and to EVENTS goes each moment of a turn, and when that was by CLOCK_MONOTONIC. The time is read before
the fence is asked, and what is written passed the fence: so at that time this process held the turn, however late the
line arrives.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import suppress
from datetime import timedelta

from certmond.cluster.lease import RESTART, ClusterLease
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
        """An act of a turn; False, and nothing done, where the fence stands in the way."""
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
