"""Complete scans and plans of damaged files, and a daemon that runs on these files: `python -m fuzz.looks`.

The result contains the exceptions and the time for each file. A seed repeats a run: `--seed S --first N --count 1`
scans only the file with the number N of the run with the seed S.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from certmond.cli.options import Globals
from certmond.cli.plan import assess_profile, enforcer_for
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.renewal_policy import policy_of
from certmond.config.source_merger import Source
from certmond.expose.documents.plan import plan_document
from certmond.expose.documents.status import status_document
from certmond.expose.metrics.exposition import Renderer
from certmond.expose.metrics.x509_exporter_names import Compatible
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.forecast import next_event
from fuzz.mutation import damaged, kubeconfig
from fuzz.worst import files
from tests.builders import make_ca
from tests.daemon_harness import Running, running

TOGETHER, KUBECONFIGS = 20, 0.1
"""Number of files in one scan, and the share of kubeconfigs among the files."""
MOST_SECONDS = 1.0
CONFIGURATION = """
profile: none
certificates:
- {name: ca, path: /etc/pki/ca.crt, key: /etc/pki/ca.key, authority: true}
- {name: app, path: /etc/app/*.pem, key: /etc/app/*.pem, ca: [ca], usages: [client auth]}
- {name: stores, path: /etc/app/*.p12, password_file: /etc/pki/password}
- {name: bundles, path: /etc/app/*.crt, kind: bundle}
- {name: configs, path: /etc/app/*.conf, kind: kubeconfig}
"""
_SUFFIXES = ("pem", "p12", "crt")


class Broken(NamedTuple):
    """An input that caused a failure, and the failure."""

    number: int
    name: str
    said: str


def file_number(seed: int, number: int) -> tuple[str, bytes]:
    """Return the name and the content of one file. For the same arguments, only the keys in the file differ."""
    random = Random(f"{seed}/{number}")  # noqa: S311 - a repeatable sequence
    data = damaged(random)
    if random.random() < KUBECONFIGS:
        return f"{number}.conf", kubeconfig(data, random)
    return f"{number}.{random.choice(_SUFFIXES)}", data


@contextmanager
def node() -> Iterator[Path]:
    """Yield the root directory of a node with a CA, and with an empty directory for files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        root = Path(directory)
        (root / "etc/app").mkdir(parents=True)
        (root / "etc/pki").mkdir()
        ca = make_ca()
        (root / "etc/pki/ca.crt").write_bytes(ca.pem)
        (root / "etc/pki/ca.key").write_bytes(ca.key_pem)
        (root / "etc/pki/password").write_bytes(b"secret\n")
        (root / "config.yaml").write_text(CONFIGURATION)
        yield root


def whole_look(root: Path, config: Config) -> Assessment:
    """Execute the code of `check`, `plan` and `metrics`, without their options and their output."""
    options = Globals(root=str(root))
    enforcer = enforcer_for(options, config)
    assessment, around = assess_profile(options, config, enforcer)
    json.dumps(plan_document(enforcer.plan(assessment, around=around), assessment.taken_at))
    json.dumps(status_document(assessment, config.mode, next_event(assessment, policy_of(config))))
    Renderer().metrics(assessment, Compatible().text(assessment))
    return assessment


def look_at(root: Path, config: Config, files: dict[str, bytes]) -> float:
    """Return the CPU time, in seconds, of a scan of only `files`."""
    for old in (root / "etc/app").iterdir():
        old.unlink()
    for name, data in files.items():
        (root / "etc/app" / name).write_bytes(data)
    start = _seconds()
    whole_look(root, config)
    return _seconds() - start


def _seconds() -> float:
    """Return the CPU time of this process and of its child processes that have ended, in seconds."""
    return sum(os.times()[:4])


def run_looks(seed: int, first: int, count: int) -> tuple[list[Broken], list[tuple[float, str]]]:
    """Return the failures, and the slowest files with the additional seconds compared to an empty scan.

    If a scan of several files takes little time, these files are not scanned one by one.
    """
    broken, slow = list[Broken](), list[tuple[float, str]]()
    with node() as root:
        config = parse([Source("config.yaml", CONFIGURATION.encode())])
        look_at(root, config, {})
        nothing = min(look_at(root, config, {}) for _ in range(5))
        for start in range(first, first + count, TOGETHER):
            numbers = range(start, min(start + TOGETHER, first + count))
            some = {number: file_number(seed, number) for number in numbers}
            try:
                taken = look_at(root, config, dict(some.values()))
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001 - the loop below finds its file
                taken = float("inf")
            least = slow[-1][0] if len(slow) == _SLOWEST else 0.0
            if taken - nothing < max(least, _UNREMARKABLE):
                continue
            for number, (name, data) in some.items():
                try:
                    seconds = look_at(root, config, {name: data}) - nothing
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001 - a panic of pyo3 as well
                    broken.append(Broken(number, name, f"{type(error).__name__}: {str(error)[:200]}"))
                    continue
                slow = sorted([*slow, (seconds, name)], reverse=True)[:_SLOWEST]
                if seconds > MOST_SECONDS:
                    broken.append(Broken(number, name, f"{seconds:.2f} s"))
    return broken, slow


_SLOWEST, _UNREMARKABLE = 5, 0.4


def run_worst() -> list[Broken]:
    """Scan the largest file of each type, print the duration of each scan, and return the failures."""
    broken = list[Broken]()
    with node() as root:
        config = parse([Source("config.yaml", CONFIGURATION.encode())])
        look_at(root, config, {})
        nothing = look_at(root, config, {})
        for number, (name, data) in enumerate(files()):
            seconds = look_at(root, config, {name: data}) - nothing
            print(f"{name:24} {len(data):>9} bytes {seconds:5.2f} s", flush=True)
            if seconds > MOST_SECONDS:
                broken.append(Broken(number, name, f"{seconds:.2f} s"))
    return broken


def run_daemon(seed: int, first: int, count: int) -> list[Broken]:
    """Run `certmond run` on the files, a hundred at a time. Each file replaces a previous file."""
    with node() as root, tempfile.TemporaryDirectory() as work:
        options = ("--config", str(root / "config.yaml"))
        with running(root, Path(work), *options) as daemon:
            number = first
            while number < first + count:
                some = [file_number(seed, each) for each in range(number, min(number + 100, first + count))]
                for place, (name, data) in enumerate(some):
                    (root / "etc/app" / f"{place}.{name.rpartition('.')[2]}").write_bytes(data)
                try:
                    daemon.until(partial(_has_passed, daemon, daemon.passes()), "a pass", 30)
                except AssertionError as error:
                    return [Broken(number, some[0][0], str(error)[-2000:])]
                number += 100
            log, ended = daemon.log.read_text(), daemon.stop()
        found = [line for line in log.splitlines() if "please report it" in line or "Traceback" in line]
        return [Broken(first, "", line) for line in found] + ([Broken(first, "", f"status {ended}")] if ended else [])


def _has_passed(daemon: Running, before: float) -> bool:
    return daemon.passes() > before


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz.looks", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first file (0)")
    parser.add_argument("--count", type=int, default=30_000, help="files (30000)")
    parser.add_argument("--daemon", type=int, default=0, metavar="N", help="run `certmond run` on N of them (none)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the files that failed to DIR")
    parser.add_argument("--worst", action="store_true", help="scan only the largest file of each type")
    options = parser.parse_args()
    if options.worst:
        return 1 if run_worst() else 0
    started = datetime.now(UTC)
    broken, slow = run_looks(options.seed, options.first, options.count)
    broken += run_daemon(options.seed, options.first, options.daemon) if options.daemon else []
    took = (datetime.now(UTC) - started).total_seconds()
    print(f"{options.count} files scanned, {options.daemon} of them by a daemon, in {took:.0f} s: {len(broken)} broken")
    print("slowest: " + ", ".join(f"{name} {seconds:.2f} s" for seconds, name in slow))
    print("kinds: " + ", ".join(f"{n} {kind}" for kind, n in Counter(each.said for each in broken).most_common(20)))
    for each in broken[:50]:
        print(*each)
        if options.keep and each.name:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / each.name).write_bytes(file_number(options.seed, each.number)[1])
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
