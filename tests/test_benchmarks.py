"""The command of the benchmarks, the pages that it writes, and its parser of metrics."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from string import Template
from unittest import mock

import pytest

from benchmarks.__main__ import parse_options
from benchmarks.exporters.compare import OWN, ROWS, Extent, section, table
from benchmarks.exporters.peers import USAGES, Peer, parse_peer
from benchmarks.measuring import number
from benchmarks.processes import Exporter
from benchmarks.report import pages
from benchmarks.report.pages import TEMPLATES, filled, write_pages
from benchmarks.report.progress import Progress
from tests.deadline import DEADLINE

ROOT = Path(__file__).parents[1]
EXTENT = Extent(count=10, turns=3, seconds=1, replacements=1)


class Said(Exporter):
    """An exporter that serves one text."""

    def __init__(self, text: bytes, series: str) -> None:
        self.path, self.series, self.scraped = "/metrics", series, bytearray(text + b"left of a longer one\n" + text)
        self._size = len(text)

    def scrape(self, *, gzip: bool = False) -> int:
        return self._size


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], check=False, cwd=ROOT, capture_output=True, text=True
    )


def program(path: Path, content: str) -> str:
    """Write an executable program, and return its path."""
    path.write_text(content)
    path.chmod(0o755)
    return str(path)


def test_an_end_is_read_in_whatever_form_it_is_written() -> None:
    """A certificate is shown when the peer's own series names its file with just this end, as any number is written."""
    text = b'x 1\nend{file="/a/0.crt"} 1.735689600e+09\nother{file="/a/1.crt"} 1735689600\nend{file="/a/1.crt"} 7\n'
    said = Said(text, "end")
    assert said.shows("0.crt", 1735689600)
    assert not said.shows("1.crt", 1735689600)
    assert not said.shows("2.crt", 1735689600)
    assert said.expiries() == 2


def test_a_value_is_read_from_the_present_metrics() -> None:
    """A series without labels has one value. A longer name that begins in the same way is another series."""
    said = Said(b"# HELP\nsum_all 1\nsum 2.5e-1\n", "end")
    assert said.value("sum") == 0.25
    with pytest.raises(ValueError, match="not found"):
        said.value("all")


def test_a_number_has_three_significant_digits() -> None:
    """A large number has no exponent."""
    assert [number(value) for value in (0, 0.012345, 1.5, 97.25, 999.4)] == ["0", "0.0123", "1.5", "97.2", "999"]
    assert [number(value) for value in (999.5, 1210.4, 41234567.0)] == ["1,000", "1,210", "41,234,567"]


# The peers


def test_the_table_contains_the_median_and_the_spread() -> None:
    """Each cell contains the median, the minimum and the maximum of the turns. The best value of a row is bold."""
    turns = [[[own] * len(ROWS), [theirs] * len(ROWS)] for own, theirs in ((1.0, 2.0), (2.0, 6.0), (4.0, 20.0))]
    head, _, first, *_ = table([OWN, "peer"], turns)
    assert head == "| | certmond | peer |"
    assert first == f"| {ROWS[0]} | **2** (1 … 4) | 6 (2 … 20) |"
    *_, equal = table([OWN, "peer"], [[[0.0] * len(ROWS)] * 2])
    assert equal == f"| {ROWS[-1]} | 0 (0 … 0) | 0 (0 … 0) |"


def test_a_peer_that_is_not_given_is_not_measured(tmp_path: Path) -> None:
    """The page names these exporters, and contains no column for them. A measured peer has its recorded version."""
    built = program(tmp_path / "built", "path\tx\nmod\texample.com/x\tv2.4.3\th1:\n")
    devel = program(tmp_path / "devel", "\nmod\tx\t(devel)\t\nbuild\tvcs.revision=0123456789abcdef\n")
    peers = [Peer("ssl_exporter", built), Peer("cert-exporter", devel), Peer("node-cert-exporter", "/bin/sh")]
    text = section(peers, [[[1.0] * len(ROWS)] * 4], EXTENT, "2 CPUs.", "python -m benchmarks compare")
    assert "Not measured: x509-certificate-exporter." in text
    measured = (
        "ssl_exporter (v2.4.3), cert-exporter (commit 0123456789ab), node-cert-exporter (without a recorded version)"
    )
    assert f"Measured: {measured}." in text
    assert "| | certmond | ssl_exporter | cert-exporter | node-cert-exporter |" in text
    alone = section([], [[[1.0] * len(ROWS)]], EXTENT, "2 CPUs.", "python -m benchmarks compare")
    assert f"Not measured: {', '.join(USAGES)}." in alone
    assert "Measured:" not in alone
    assert "| | certmond |\n" in alone


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("x509-certificate-exporter", "'x509-certificate-exporter' is not NAME=PROGRAM"),
        ("x509=/bin/sh", f"'x509' is not one of the compared exporters: {', '.join(USAGES)}"),
        ("ssl_exporter=/none/ssl_exporter", "'/none/ssl_exporter' of ssl_exporter is not an executable program"),
        ("ssl_exporter=", "'' of ssl_exporter is not an executable program"),
    ],
)  # fmt: skip
def test_a_wrong_peer_is_refused(argument: str, message: str) -> None:
    """The message names the mistake, and the exit code is 2, as for every wrong option of this command."""
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_peer(argument)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the message with which the command refuses its arguments."""
    with pytest.raises(SystemExit) as end:
        parse_options(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No measurement starts if a peer, a part or a program is wrong, because a measurement can take minutes."""
    assert "--peer: 'x509' is not one of the compared exporters" in refused(capsys, "compare", "--peer", "x509=/bin/sh")
    twice = ["--peer", "ssl_exporter=/bin/sh"] * 2
    assert "each --peer needs a different name" in refused(capsys, "compare", *twice)
    assert "none is not a directory" in refused(capsys, "compare", "--pages", str(tmp_path / "none"))
    assert "unknown part 'other'; which: due, growth" in refused(capsys, "compare", "--turns", "1", "other")
    with mock.patch("shutil.which", return_value=None):
        assert "the part torn-pair needs etcd; install it (Debian: etcd-server)" in refused(capsys, "torn-pair")


def test_an_exporter_that_exports_nothing_is_refused_before_the_measurements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that ends, or that cannot start, is no exporter. The message contains the end of its log."""
    wrong = program(tmp_path / "wrong", "#!/bin/sh\necho unknown flag >&2\n")
    message = refused(capsys, "compare", "--peer", f"ssl_exporter={wrong}")
    assert "ssl_exporter does not export ssl_file_cert_not_after: a process has ended" in message
    assert "unknown flag" in message
    text = program(tmp_path / "text", "no program")
    assert "cannot start ssl_exporter: " in refused(capsys, "compare", "--peer", f"ssl_exporter={text}")


def test_the_arguments_of_each_peer_contain_the_directory_and_the_port(tmp_path: Path) -> None:
    """Each exporter gets the directory, a free port, and a configuration with both if it has no flags for them."""
    shown = program(
        tmp_path / "shown", '#!/bin/sh\nfor each; do echo "$each"; done\ncat "${1#--config=}" 2>/dev/null\n'
    )
    leaves = mock.Mock(directory=Path("/d"))
    for name, usage in USAGES.items():
        with (
            Peer(name, shown).start(tmp_path / name, leaves) as running,
            pytest.raises(TimeoutError, match="a process has ended"),
        ):
            running.until(lambda: False, at_most=DEADLINE)
        log = (tmp_path / name / "log").read_text()
        assert re.search(r"127\.0\.0\.1:\d{4,5}\b", log)
        assert "/d" in log + running.path
        assert "{directory}" not in log + running.path
        assert running.series == usage.series


# The pages


@pytest.mark.parametrize("name", ["benchmarks.md", "comparison.md"])
def test_a_page_is_its_template_with_the_results(name: str) -> None:
    """The text of a page changes only in its template, so that the next benchmark does not remove a change."""
    text = (TEMPLATES / name).read_text()
    pieces = [re.escape(piece) for piece in re.split(r"\$\w+", text)]
    assert re.fullmatch(".+".join(pieces), (ROOT / "docs" / name).read_text(), re.DOTALL), f"differs from {name}"
    assert set(Template(text).get_identifiers()) <= {"machine", "command", "rows", "measurements"}


def test_both_pages_are_written_or_none(tmp_path: Path) -> None:
    """If one text cannot be written, both files keep their content, and no other file remains."""
    (tmp_path / "a.md").write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_pages(tmp_path, {"a.md": "after", "b.md": "\udc80"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.md": "before"}
    write_pages(tmp_path, {"a.md": "after", "b.md": "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.md": "after", "b.md": "new"}


def test_a_template_without_a_value_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page never contains the name of a placeholder instead of a result."""
    (tmp_path / "a.md").write_text("$rows and $other")
    monkeypatch.setattr(pages, "TEMPLATES", tmp_path)
    with pytest.raises(KeyError, match="other"):
        filled("a.md", {"rows": "1"})
    assert filled("a.md", {"rows": "1", "other": "2"}) == "1 and 2"


@pytest.mark.long
def test_one_command_writes_both_pages(tmp_path: Path) -> None:
    """With few certificates: the rows of the named parts, the measured peer, and the peers that were not given.

    The rows about the growth end with the cost of one certificate more.
    """
    stand_in = program(
        tmp_path / "node-cert-exporter",
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "tests/exporter_stand_in.py"))} "$@"\n',
    )
    (docs := tmp_path / "docs").mkdir()
    options = ["--pages", str(docs), "--count", "20", "--sizes", "2,4", "--turns", "1", "--seconds", "0.1"]
    done = run("growth", "compare", *options, "--peer", f"node-cert-exporter={stand_in}")
    assert done.returncode == 0, done.stderr
    benchmarks, comparison = (docs / "benchmarks.md").read_text(), (docs / "comparison.md").read_text()
    assert sorted(os.listdir(docs)) == ["benchmarks.md", "comparison.md"]
    assert "| 4 files: time from the start until /metrics is complete | " in benchmarks
    assert "python -m benchmarks growth compare --pages" in benchmarks
    assert "Measured: node-cert-exporter (without a recorded version)." in comparison
    assert "Not measured: ssl_exporter, cert-exporter, x509-certificate-exporter." in comparison
    assert "| | certmond | node-cert-exporter |\n" in comparison
    assert "| | certmond | node-cert-exporter |\n" in done.stdout
    results = benchmarks.partition("|---|---|---|---|\n")[2].splitlines()
    assert set(results) < set(done.stdout.splitlines())
    each = ["time from the start until /metrics is complete", "CPU time of both processes in this time",
            "resident memory of both processes", "a pass of the daemon after the replacement of one file",
            "CPU time of the daemon for one replaced file"]  # fmt: skip
    added = ["CPU time of each certificate beyond 2", "resident memory of each certificate beyond 2"]
    assert [re.sub(r"^\| +(\d files: )?", "", row).split(" | ")[0] for row in results] == [*each, *each, *added]
    assert re.search(r"^growth: \d+ s$", done.stderr, re.MULTILINE)
    assert re.search(r"^compare: node-cert-exporter, turn 1 of 1: \d+ s$", done.stderr, re.MULTILINE)


# The progress


class Lines:
    """A stream that counts its lines."""

    def __init__(self, wanted: int) -> None:
        self.text, self._left, self.enough = "", wanted, threading.Event()

    def write(self, text: str) -> int:
        self.text += text
        self._left -= text.count("\n")
        if self._left <= 0:
            self.enough.set()
        return len(text)

    def flush(self) -> None:
        pass


def test_the_measurement_in_progress_is_named_again_and_again() -> None:
    """A measurement can take minutes without a result."""
    lines = Lines(4)
    with Progress(0.001, lines) as progress:  # type: ignore[arg-type]  # it has what Progress uses
        progress.begin("growth")
        assert lines.enough.wait(DEADLINE)
    assert set(re.findall(r"^(\w+): \d+ s$", lines.text, re.MULTILINE)) == {"growth"}
