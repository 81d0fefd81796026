"""A stand-in for journald that receives the messages of libsystemd, in a separate mount namespace.

    entries = received([("step_done", "renewed", {"path": "/a"})])     # the fields of each entry in journald

The code under test runs in a child process whose /run has only the socket of journald, which the child reads itself.
libsystemd, systemd-python and the kernel's socket are real.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import certmond
from tests.conftest import real_part, unavailable

Reported = tuple[str, str, Mapping[str, object]]
"""The kind of an event, its message and its fields."""

_CHILD = """
import json, os, socket, sys
os.makedirs("/run/systemd/journal")
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind("/run/systemd/journal/socket")
receiver.settimeout(60)
from certmond.notify.event_log import Event, Journal, bound
journal, (context, events) = Journal("command"), json.load(sys.stdin)
entries = []
with bound(**context):
    for kind, message, fields in events:
        level = fields.pop("level", "info")
        journal.tell(Event(kind), message, level, **fields)
        entries.append(receiver.recv(1 << 20).decode())
json.dump([entries, list(journal.recent)], sys.stdout)
"""


def received(reported: Iterable[Reported], **context: object) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the entries that journald receives for these events inside `bound(**context)`, and the events of the
    page.
    """
    script = 'mount -t tmpfs tmpfs /run && exec "$@"'
    alone = [real_part("unshare"), "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        unavailable("no user namespace can be made here, for example in a chroot")
    done = subprocess.run(
        [*alone, sys.executable, "-c", _CHILD],
        input=json.dumps([context, list(reported)]),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(certmond.__file__).parents[1],
    )
    assert (done.returncode, done.stderr) == (0, "")
    entries, recent = json.loads(done.stdout)
    return [dict(line.split("=", 1) for line in entry.splitlines()) for entry in entries], recent
