"""Tables of the plan and the forecast, and a chart of the forecast, for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certmond.expose.documents.stacked_rows import Row, stacked
from certmond.expose.documents.status_table import next_line
from certmond.pki.findings import printable

WIDTH = 80
"""Columns of the output if stdout is no terminal."""
_CHART_WIDTH, _LEAST_WIDTH = 72, 24
_MARKS = {"renew": ("●", "green"), "due": ("!", "yellow"), "expire": ("✗", "bold red")}
_STYLES = {
    "renew": "green",
    "restart": "cyan",
    "clamp": "yellow",
    "due": "yellow",
    "hold": "yellow",
    "expire": "bold red",
}


def plan_table(document: dict[str, Any], wide: bool = False, width: int | None = None) -> RenderableType:
    """Return a table of the steps, or a line if there is no step.

    Then follow a line for each held step, each due certificate that no step renews, and each critical finding that no
    step clears. If the table is wider than `width`, one row contains consecutive steps that differ only in the target.
    """
    left = [*_left(document)]
    if not document["steps"]:
        return Group(
            Text(f"{'no step' if left else 'nothing to do'} now{_next(document)}"), *left, *next_line(document)
        )
    headings = ("STEP", "TARGET", "REASON", "DETAIL", "RESTARTS", *(("PATH",) if wide else ()))
    rows = [_step_cells(entry, wide) for entry in document["steps"]]
    return Group(
        _table(headings, rows) if wide or _fits(headings, rows, width) else _stacked_steps(document, width or WIDTH),
        *left,
        *next_line(document),
    )


def _step_cells(entry: dict[str, Any], wide: bool) -> tuple[str, ...]:
    cells = (entry["step"], entry["target"], entry["reason"], entry["detail"], ", ".join(entry["restarts"]) or "-")
    return tuple(map(printable, (*cells, *((entry["path"],) if wide else ()))))


def _stacked_steps(document: dict[str, Any], width: int) -> Text:
    """Return the steps as rows of at most `width` columns."""

    def kind(entry: dict[str, Any]) -> tuple[str, ...]:
        restarts = f"restarts {', '.join(entry['restarts'])}" if entry["restarts"] else ""
        return entry["step"], entry["reason"], entry["detail"], restarts

    rows = []
    for (step, reason, *texts), entries in groupby(document["steps"], kind):
        targets = ", ".join(entry["target"] for entry in entries)
        rows.append(Row((step, reason), tuple(map(printable, filter(None, (targets, *texts))))))
    return stacked(("STEP", "REASON", "TARGET, DETAIL"), rows, width)


def _fits(headings: Sequence[str], rows: Iterable[Sequence[str]], width: int | None) -> bool:
    columns = zip(headings, *rows, strict=True)
    return width is None or sum(max(map(len, column)) for column in columns) + 2 * (len(headings) - 1) <= width


def _table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "DETAIL")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _left(document: dict[str, Any]) -> Iterator[Text]:
    """Yield a line for each held step, each due certificate without a step, and each critical finding."""
    # Only the document of `plan` contains further work. A held step that concerns the same certificate has one line.
    waiting, unresolved = document.get("waiting", []), document.get("unresolved", [])
    known = {(each["target"], each["path"]) for each in waiting}
    critical = {(each["certificate"], each["path"]): each["message"] for each in unresolved}
    held = [each for each in document["held"] if (each["target"], each["path"]) not in known]
    paths = defaultdict[str, set[str]](set)
    for each in (*document["steps"], *held, *waiting):
        paths[each["target"]].add(each["path"])
    for each in (*held, *waiting):
        if each["because"] in critical.get((each["target"], each["path"]), ""):
            continue
        renewer = each.get("renewed_by")
        fact = each["because"]
        if renewer and renewer not in fact:
            fact = f"{renewer} renews this certificate; certmond does not: {fact}"
        until = f" (until {_minute(each['until'])})" if each["until"] else ""
        label = ("waits   ", "cyan") if renewer else ("held    ", "yellow")
        # An entry with a pattern has several files.
        target = each["target"] if len(paths[each["target"]]) == 1 else f"{each['target']} ({each['path']})"
        yield Text.assemble(label, f" {printable(target)}: {printable(fact)}{until}")
    for each in unresolved:
        name = f"{each['certificate']}: " if each["certificate"] else ""
        text = printable(f"{name}{each['message']} [{each['reason']}]")
        yield Text.assemble(("critical", _STYLES["expire"]), f" {text}")


def _next(document: dict[str, Any]) -> str:
    return f"; the plan changes on {_minute(document['changes_at'])}" if document["changes_at"] else ""


def _minute(at: str) -> str:
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M} UTC"


def forecast_table(document: dict[str, Any], wide: bool = False, width: int | None = None) -> RenderableType:
    """Return a chart with a line for each certificate, then a table of the events.

    Unless `wide` is true, one row contains all certificates with the same event and detail on the same day, and neither
    the chart nor the table is wider than `width`. Without events, return a line instead.
    """
    if not document["events"]:
        return Group(Text("The forecast contains no events."), *next_line(document))
    cut = () if document["complete"] else (Text("The forecast is incomplete: set a shorter --for.", style="yellow"),)
    observes = document["mode"] != "enforce"
    note = "Enforce mode would execute these steps.\ncertmond is in observe mode and executes none of them."
    return Group(
        *((Text(note, style="yellow"), Text()) if observes else ()),
        _chart(document, None if wide else width),
        *next_line(document),
        Text(),
        _events(document, wide, width),
        *cut,
    )


def _events(document: dict[str, Any], wide: bool, width: int | None) -> RenderableType:
    found: dict[tuple[str, ...], list[str]] = {}
    for event in document["events"]:
        day = f"{datetime.fromisoformat(event['at']):%Y-%m-%d}"
        key = (day, event["what"], event["detail"], *((event["target"],) if wide else ()))
        found.setdefault(key, []).append(event["target"])
    headings = ("WHEN", "WHAT", "TARGET", "DETAIL")
    rows = [(*key[:2], printable(", ".join(targets)), printable(key[2])) for key, targets in found.items()]
    if wide or _fits(headings, rows, width):
        return _table(headings, [(row[0], Text(row[1], style=_STYLES.get(row[1], "yellow")), *row[2:]) for row in rows])
    lines = [Row((day, what), (targets, detail), _STYLES.get(what, "yellow")) for day, what, targets, detail in rows]
    return stacked(("WHEN", "WHAT", "TARGET, DETAIL"), lines, width or WIDTH)


def _chart(document: dict[str, Any], width: int | None) -> RenderableType:
    since, until = (datetime.fromisoformat(document[name]) for name in ("since", "until"))
    lines: dict[str, list[tuple[float, str]]] = {}
    for event in document["events"]:
        if event["what"] in _MARKS:
            share = (datetime.fromisoformat(event["at"]) - since) / (until - since)
            lines.setdefault(printable(event["target"]), []).append((share, event["what"]))
    longest = max(map(len, lines), default=0)
    # A long name has a separate line, so that the chart keeps a readable width.
    above = width is not None and longest + 2 + _LEAST_WIDTH > width
    indent = 2 if above else longest + 2
    columns = _CHART_WIDTH if width is None else min(_CHART_WIDTH, max(_LEAST_WIDTH, width - indent))
    made = [Text(f"{' ' * indent}{since:%Y-%m-%d}".ljust(indent + columns - 10) + f"{until:%Y-%m-%d}")]
    for target, marks in lines.items():
        line = Text(f"{target}\n{' ' * indent}" if above else target.ljust(indent))
        by_column = {min(int(share * columns), columns - 1): what for share, what in marks}
        ended = False
        for column in range(columns):
            mark, style = _MARKS.get(by_column.get(column, ""), (" " if ended else "─", ""))
            ended = ended or by_column.get(column) == "expire"
            line.append(mark, style=style)
        made.append(line)
    legend = "  ".join(f"{mark} {what}" for what, (mark, _) in _MARKS.items())
    return Group(*made, Text(f"{' ' * indent}{legend}", style="dim"))
