"""The soak test: it runs, and detects disagreement and growth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.opinion import Journal, Opinions
from benchmarks.soak import Sample, Slope, growth, soak
from tests.conftest import real_part

LEAF, BAD = "/leaves/1.pem", "/leaves/2.pem"
FINDING = ("leaf", BAD, "malformed", "warning")
METRICS = f"""\
certmond_certificate_not_after_timestamp_seconds{{certificate="leaf",path="{LEAF}"}} 1764000000
certmond_finding{{certificate="leaf",path="{BAD}",reason="malformed",severity="warning"}} 1
certmond_certificate_served_matches{{certificate="served",path="/served.pem",endpoint="127.0.0.1:1"}} 1
certmond_renewals_total{{certificate="leaf",result="done"}} 1.0
certmond_renewals_total{{certificate="served",result="done"}} 1.0
certmond_restarts_total{{result="proven",service="server"}} 1.0
"""


def opinions() -> Opinions:
    """Return equal opinions of a node with a leaf, a malformed file, and a service that was restarted once."""
    shown = [{"name": "leaf", "path": BAD, "findings": [{"reason": "malformed", "severity": "warning"}]}]
    trail = ({"step": "issue", "result": "done"}, {"step": "issue", "result": "done"},
             {"step": "restart", "result": "proven"}, {"step": "issue", "event": "step_begun"})  # fmt: skip
    ends = {LEAF: 1764000000.0, BAD: None}
    return Opinions(ends, "ab", "ab", 2, METRICS, {"certificates": shown}, frozenset({FINDING}), trail)


PLANTED: list[tuple[str, Callable[[Opinions], dict[str, Any]]]] = [
    ("expires at", lambda o: {"disk": {**o.disk, LEAF: 1764000001.0}}),
    ("does not exist", lambda o: {"disk": {BAD: None}}),
    ("on the disk", lambda o: {"disk": {**o.disk, "/leaves/3.pem": None}}),
    ("only in the status document", lambda o: {"status": {"certificates": []}}),
    ("only in the journal", lambda o: {"standing": frozenset()}),
    ("only in the journal", lambda o: {"standing": o.standing | {("leaf", LEAF, "expired", "critical")}}),
    ("serves", lambda o: {"shown": "cd"}),
    ("serves nothing", lambda o: {"shown": "", "file": ""}),
    ("the served certificate", lambda o: {"metrics": METRICS.replace(':1"} 1', ':1"} 0')}),
    ("the served certificate", lambda o: {"metrics": METRICS.replace("served_matches", "x")}),
    ("renewals in the audit log", lambda o: {"trail": o.trail[1:]}),
    ("restarts in the audit log, but 1 in", lambda o: {"trail": o.trail[:2], "starts": 1}),
    ("has started 3 times", lambda o: {"starts": 3}),
]


def test_what_agrees_is_no_disagreement() -> None:
    """Equal opinions give no disagreement."""
    assert opinions().disagreements() == []


@pytest.mark.parametrize(("words", "planted"), PLANTED)
def test_each_source_that_differs_is_reported(words: str, planted: Callable[[Opinions], dict[str, Any]]) -> None:
    """Each of disk, metrics, status, journal, audit log and service may be wrong. One sentence reports it."""
    (said,) = replace(opinions(), **planted(opinions())).disagreements()
    assert words in said


def test_the_journal_is_followed_from_line_to_line(tmp_path: Path) -> None:
    """A raised finding is open until it is cleared. An incomplete line waits for the next read."""
    finding = '"certificate": "leaf", "path": "/leaves/2.pem", "reason": "malformed", "severity": "warning"'
    raised, cleared = (f'{{"kind": "finding_{kind}", {finding}}}\n' for kind in ("raised", "cleared"))
    (log := tmp_path / "log").write_text('{"kind": "started"}\n' + raised + cleared[:20])
    journal = Journal(log)
    assert journal.standing() == {FINDING}
    with log.open("a") as file:
        file.write(cleared[20:])
    assert journal.standing() == set()


def held(*memory: float, watches: int = 1) -> list[Sample]:
    """A sample every minute."""
    return [Sample(60.0 * number, int(each), 9, 4, watches) for number, each in enumerate(memory)]


@pytest.mark.parametrize(
    ("samples", "grown"),
    [
        (held(*range(0, 60_000, 1000)), ["memory has grown by 39000, but only 1000 are allowed"]),
        (held(*range(80_000, 82_460, 41)), ["memory has grown by 1599, but only 1000 are allowed"]),
        (held(*[9000 * number for number in range(20)], *[180_000] * 40), []),
        (held(*[1000, 9000] * 30), []),
        (held(*[1000] * 40) + held(*[1000] * 20, watches=9), ["watches has grown by 8, but only 2 are allowed"]),
    ],
)
def test_growth_is_reported_but_not_a_cache_or_a_fluctuation(samples: list[Sample], grown: list[str]) -> None:
    """The first third is for one-time work. After it memory is measured by its slope and counts by their median,
    regardless of single samples. 2.5 MB in an hour are growth, which a fragmented heap also shows.
    """
    in_order = [sample._replace(at=60.0 * number) for number, sample in enumerate(samples)]
    assert list(growth(in_order)) == grown


def test_a_slope_is_in_kilobytes_an_hour() -> None:
    """10 kB a minute are 600 in an hour, and one sample that is far off changes nothing."""
    memory = [10.0 * number for number in range(20)]
    memory[7] = 100_000
    assert Slope.of(held(*memory)).median == 600


SOAK = """
from functools import partial
import benchmarks.__main__ as benchmarks
benchmarks.soak = partial(benchmarks.soak, filling=0, every=1)
benchmarks.main()
"""


def programs_of(pid: int) -> Iterator[tuple[Path, list[str]]]:
    """Return the Python programs that a process has started, each with its command: openssl processes are
    short-lived.
    """
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            if words[1:2] == ["-m"]:
                yield Path(f"/proc/{child}"), words


@pytest.mark.long
@pytest.mark.real("openssl")
def test_a_soak_that_is_ended_leaves_nothing() -> None:
    """SIGTERM ends its processes as well, and removes their directory."""
    real_part("openssl")
    with subprocess.Popen([sys.executable, "-c", SOAK, "soak"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        begun = dict(programs_of(process.pid))
        try:
            process.terminate()
            assert process.wait() == 128 + signal.SIGTERM
            assert {words[2] for words in begun.values()} == {"benchmarks.served", "certmond"}
            used = {Path(word).parent for words in begun.values() for word in words if word.endswith(".yaml")}
            assert not [path for path in (*begun, *used) if path.exists()]
        finally:
            for each in begun:
                with suppress(ProcessLookupError):
                    os.kill(int(each.name), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.real("openssl")
def test_it_renews_restarts_and_agrees(tmp_path: Path) -> None:
    """In each round leaves are renewed or the service is restarted, and then all sources agree."""
    real_part("openssl")
    with closing(soak(tmp_path, 60, 0, filling=0, every=2)) as lines:
        renewals, restarts = ([*islice(lines, 2)][-1].split()[number] for number in (1, 3))
    assert int(renewals) > 0
    assert int(restarts) > 0
