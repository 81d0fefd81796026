"""Tables of the plan and the forecast, and a chart of the forecast, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certmond.expose.documents.status_table import next_line
from certmond.pki.findings import printable

_WIDTH = 72  # columns of the chart
_MARKS = {"renew": ("●", "green"), "due": ("!", "yellow"), "expire": ("✗", "bold red")}
_STYLES = {
    "renew": "green",
    "restart": "cyan",
    "clamp": "yellow",
    "due": "yellow",
    "hold": "yellow",
    "expire": "bold red",
}


def plan_table(document: dict[str, Any], wide: bool = False) -> RenderableType:
    """Return a table of the steps, or a line if there is no step.

    Then follow a line for each held step, each due certificate that no step renews, and each critical finding that no
    step clears.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("STEP", "TARGET", "REASON", "DETAIL", "RESTARTS", *(("PATH",) if wide else ())):
        table.add_column(heading, no_wrap=heading != "DETAIL")
    for entry in document["steps"]:
        cells = (entry["step"], entry["target"], entry["reason"], entry["detail"], ", ".join(entry["restarts"]) or "-")
        table.add_row(*map(Text, map(printable, (*cells, *((entry["path"],) if wide else ())))))
    left = [*_left(document)]
    nothing = () if document["steps"] else (Text(f"{'no step' if left else 'nothing to do'} now{_next(document)}"),)
    return Group(*(() if nothing else (table,)), *nothing, *left, *next_line(document))


def _left(document: dict[str, Any]) -> Iterator[Text]:
    """Yield a line for each held step, each due certificate without a step, and each critical finding."""
    # Only the document of `plan` contains further work. A held step that concerns the same certificate has one line.
    waiting, unresolved = document.get("waiting", []), document.get("unresolved", [])
    known = {(each["target"], each["path"]) for each in waiting}
    critical = {(each["certificate"], each["path"]): each["message"] for each in unresolved}
    held = [each for each in document["held"] if (each["target"], each["path"]) not in known]
    for each in (*held, *waiting):
        if each["because"] in critical.get((each["target"], each["path"]), ""):
            continue
        renewer = each.get("renewed_by")
        fact = each["because"]
        if renewer and renewer not in fact:
            fact = f"{renewer} renews this certificate; certmond does not: {fact}"
        until = f" (until {_minute(each['until'])})" if each["until"] else ""
        label = ("waits   ", "cyan") if renewer else ("held    ", "yellow")
        yield Text.assemble(label, f" {printable(each['target'])}: {printable(fact)}{until}")
    for each in unresolved:
        name = f"{each['certificate']}: " if each["certificate"] else ""
        text = printable(f"{name}{each['message']} [{each['reason']}]")
        yield Text.assemble(("critical", _STYLES["expire"]), f" {text}")


def _next(document: dict[str, Any]) -> str:
    return f"; the plan changes on {_minute(document['changes_at'])}" if document["changes_at"] else ""


def _minute(at: str) -> str:
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M} UTC"


def forecast_table(document: dict[str, Any], wide: bool = False) -> RenderableType:
    """Return a chart with a line for each certificate, then a table of the events.

    Unless `wide` is true, one row contains all certificates with the same event and detail on the same day. Without
    events, return a line instead.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("WHEN", "WHAT", "TARGET", "DETAIL"):
        table.add_column(heading, no_wrap=heading != "DETAIL")
    rows: dict[tuple[str, ...], list[str]] = {}
    for event in document["events"]:
        day = f"{datetime.fromisoformat(event['at']):%Y-%m-%d}"
        key = (day, event["what"], event["detail"], *((event["target"],) if wide else ()))
        rows.setdefault(key, []).append(event["target"])
    for (day, what, detail, *_), targets in rows.items():
        style = _STYLES.get(what, "yellow")
        table.add_row(day, Text(what, style=style), Text(printable(", ".join(targets))), Text(printable(detail)))
    cut = () if document["complete"] else (Text("The forecast is incomplete: set a shorter --for.", style="yellow"),)
    if not document["events"]:
        return Group(Text("The forecast contains no events."), *next_line(document))
    observes = document["mode"] != "enforce"
    note = "Enforce mode would execute these steps. certmond is in observe mode and executes none of them."
    return Group(
        *((Text(note, style="yellow"), Text()) if observes else ()),
        _chart(document),
        *next_line(document),
        Text(),
        table,
        *cut,
    )


def _chart(document: dict[str, Any]) -> RenderableType:
    since, until = (datetime.fromisoformat(document[name]) for name in ("since", "until"))
    lines: dict[str, list[tuple[int, str]]] = {}
    for event in document["events"]:
        if event["what"] in _MARKS:
            share = (datetime.fromisoformat(event["at"]) - since) / (until - since)
            lines.setdefault(event["target"], []).append((min(int(share * _WIDTH), _WIDTH - 1), event["what"]))
    name_width = max(map(len, lines), default=0)
    made = [Text.assemble(" " * name_width, f"  {since:%Y-%m-%d}".ljust(_WIDTH - 8), f"{until:%Y-%m-%d}")]
    for target, marks in lines.items():
        line = Text(f"{printable(target).ljust(name_width)}  ")
        by_column = dict(marks)
        ended = False
        for column in range(_WIDTH):
            mark, style = _MARKS.get(by_column.get(column, ""), (" " if ended else "─", ""))
            ended = ended or by_column.get(column) == "expire"
            line.append(mark, style=style)
        made.append(line)
    legend = "  ".join(f"{mark} {what}" for what, (mark, _) in _MARKS.items())
    return Group(*made, Text(f"{' ' * name_width}  {legend}", style="dim"))
