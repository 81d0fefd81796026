"""`python -m fuzz.looks`: damaged files through the whole of a look and of a plan, and through a daemon that runs.

Owns the running and the measure: what is raised, and which file takes how long. Everything is done again from its seed:
`--seed S --first N --count 1` is the file number N of the run with the seed S.
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
from certmond.config.model import Config, Source, parse
from certmond.daemon.enforcer import policy_of
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
"""Files of one look; the share of the files that are a kubeconfig."""
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
    """An input that broke the promise, and how."""

    number: int
    name: str
    said: str


def file_number(seed: int, number: int) -> tuple[str, bytes]:
    """The name and the content of one file; the same for the same numbers, but for the keys in it."""
    random = Random(f"{seed}/{number}")  # noqa: S311 - it has to be the same again
    data = damaged(random)
    if random.random() < KUBECONFIGS:
        return f"{number}.conf", kubeconfig(data, random)
    return f"{number}.{random.choice(_SUFFIXES)}", data


@contextmanager
def node() -> Iterator[Path]:
    """The root of a node with a CA and an empty directory to put files into."""
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
    """What `check`, `plan` and `metrics` do between their options and their output."""
    options = Globals(root=str(root))
    enforcer = enforcer_for(options, config)
    assessment, around = assess_profile(options, config, enforcer)
    json.dumps(plan_document(enforcer.plan(assessment, around=around), assessment.taken_at))
    json.dumps(status_document(assessment, config.mode, next_event(assessment, policy_of(config))))
    Renderer().metrics(assessment, Compatible().text(assessment))
    return assessment


def look_at(root: Path, config: Config, files: dict[str, bytes]) -> float:
    """The seconds of processor time that a look at these files takes, alone in their directory."""
    for old in (root / "etc/app").iterdir():
        old.unlink()
    for name, data in files.items():
        (root / "etc/app" / name).write_bytes(data)
    start = _seconds()
    whole_look(root, config)
    return _seconds() - start


def _seconds() -> float:
    """Of processor time, of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def run_looks(seed: int, first: int, count: int) -> tuple[list[Broken], list[tuple[float, str]]]:
    """What broke, and the slowest files with their seconds beyond those of a look at nothing.

    Files that together take little are not looked at one by one.
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
            except BaseException:  # noqa: BLE001 - found again below, with its file
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
    """The largest files of their kind, each with the seconds that a look at it takes."""
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
    """The files through `certmond run`, which looks at a hundred of them at a time, as they replace each other."""
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
        told = [line for line in log.splitlines() if "please report it" in line or "Traceback" in line]
        return [Broken(first, "", line) for line in told] + ([Broken(first, "", f"status {ended}")] if ended else [])


def _has_passed(daemon: Running, before: float) -> bool:
    return daemon.passes() > before


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz.looks", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first file (0)")
    parser.add_argument("--count", type=int, default=30_000, help="files (30000)")
    parser.add_argument("--daemon", type=int, default=0, metavar="N", help="of these, N through `certmond run` (none)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave what broke there")
    parser.add_argument(
        "--worst", action="store_true", help="look at the largest files of their kind, and at no others"
    )
    options = parser.parse_args()
    if options.worst:
        return 1 if run_worst() else 0
    started = datetime.now(UTC)
    broken, slow = run_looks(options.seed, options.first, options.count)
    broken += run_daemon(options.seed, options.first, options.daemon) if options.daemon else []
    took = (datetime.now(UTC) - started).total_seconds()
    print(
        f"{options.count} files looked at, {options.daemon} of them by a daemon, in {took:.0f} s: {len(broken)} broken"
    )
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
