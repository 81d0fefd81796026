"""The arithmetic of the comparison with other exporters, and the parser of their metrics."""

from __future__ import annotations

import pytest

from benchmarks.compare import ROWS, parse_peers, table
from benchmarks.processes import Exporter


class Said(Exporter):
    """An exporter that serves one text."""

    def __init__(self, text: bytes, series: str) -> None:
        self.path, self.series, self.scraped = "/metrics", series, bytearray(text + b"left of a longer one\n" + text)
        self._size = len(text)

    def scrape(self, *, gzip: bool = False) -> int:
        return self._size


def test_a_ratio_is_of_one_turn() -> None:
    """A peer's ratio is its figure by certmond's of the same turn; its spread is that of the turns."""
    figures = [[[float(own)] * len(ROWS), [float(theirs)] * len(ROWS)] for own, theirs in ((1, 2), (2, 6), (4, 20))]
    row = table(["peer"], figures).splitlines()[2]
    assert row == "| cold start to complete metrics (s) | 2 (1 … 4) | 6 (2 … 20) | 3 (2 … 5) |"


def test_an_end_is_read_in_whatever_form_it_is_written() -> None:
    """A certificate is shown when the peer's own series names its file with just this end, as any number is written."""
    text = b'x 1\nend{file="/a/0.crt"} 1.735689600e+09\nother{file="/a/1.crt"} 1735689600\nend{file="/a/1.crt"} 7\n'
    said = Said(text, "end")
    assert said.shows("0.crt", 1735689600)
    assert not said.shows("1.crt", 1735689600)
    assert not said.shows("2.crt", 1735689600)
    assert said.expiries() == 2


def test_each_peer_has_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """A peer without its port or series is refused with a sentence, before anything is started."""
    with pytest.raises(SystemExit):
        parse_peers(["--peer", "x509: exporter {directory}", "--port", "9793"])
    assert "needs a --port and a --series" in capsys.readouterr().err
    _, (peer,) = parse_peers(["--peer", "x509: exporter {directory}", "--port", "9793", "--series", "end"])
    assert (peer.name, peer.command, peer.path) == ("x509", "exporter {directory}", "/metrics")
