"""A service of the node as it was seen at one moment: a value, handed from `host` to whoever judges and plans.

Owns what counts as "the same process as before": the instance, which is another one after each start. Judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ServiceSeen:
    """Whether a service runs, since when, and as which instance.

    `running` is None where that could not be told, and `problem` then says why. `instance` is systemd's InvocationID
    or the id of a container: another one after each start, "" where it does not run or has none. `started_at` is by
    this host's clock (UTC). `failed` says that its manager has given up starting it. `command` is its command line.
    """

    running: bool | None
    instance: str = ""
    started_at: datetime | None = None
    failed: bool = False
    command: tuple[str, ...] = ()
    problem: str | None = None
