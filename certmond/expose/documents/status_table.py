"""Table for the output of `certmond check` and `certmond status`, similar to `kubeadm certs check-expiration`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certmond.expose.documents.remaining_lifetime import residual
from certmond.pki.findings import Reason, printable
from certmond.pki.x509.serial_number import hexadecimal

_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan", "ok": "green"}
_RANKS = ("critical", "warning", "info")
_EVENTS = {"due": " (certmond does not renew it)", "expire": " (it expires)"}
_KEYS = {True: "matches", None: "-"}
_MINUTE, _DAY = "%b %d, %Y %H:%M UTC", "%Y-%m-%d"
FULL_WIDTH = 110
"""Columns from which the table has its full width."""


def status_table(document: dict[str, Any], wide: bool = False, width: int = FULL_WIDTH) -> RenderableType:
    """Return a table of the certificates, followed by the next event, the findings and the coverage.

    The most severe finding comes first. If `wide` is true, one line also names the certificates whose serial number is
    not positive. These certificates need no action. In less than `FULL_WIDTH` columns, dates have no time of day.
    """
    now = datetime.fromisoformat(document["taken_at"])
    compact = width < FULL_WIDTH and not wide
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0) if compact else (0, 1))
    for heading in ("CERTIFICATE", "EXPIRES", "RESIDUAL TIME", "CERTIFICATE AUTHORITY", "CHAIN", "KEY", "STATE"):
        table.add_column(heading.replace(" ", "\n") if compact else heading, no_wrap=True)
    for heading in ("SERVED", "USED BY", "SERIAL", "SUBJECT", "PATH") if wide else ():
        table.add_column(heading, overflow="fold")
    anchors = {entry["sha256"]: entry["name"] for entry in reversed(document["trust_anchors"])}  # the first copy counts
    for entry in document["certificates"]:
        details = _details(entry) if wide else ()
        table.add_row(*_cells(entry, anchors, now, _DAY if compact else _MINUTE), *details)
    return Group(table, *next_line(document), *_explanations(document, wide), *_coverage(document, wide))


def next_line(document: dict[str, Any]) -> Iterator[Text]:
    """Yield a line about the next event, if the status or forecast document contains a next event."""
    if event := document.get("next_event"):  # a document of an older daemon contains no next_event
        yield Text()
        at = datetime.fromisoformat(event["at"])
        kind = _EVENTS.get(event["what"], "")
        yield Text(f"next due: {printable(event['target'])} on {at:%Y-%m-%d %H:%M} UTC{kind}")


def _coverage(document: dict[str, Any], wide: bool) -> Iterator[Text]:
    """Yield a line with the number of certificates by source. If `wide` is true, also name the files without a row."""
    if wide and (paths := document.get("ca_only")):
        yield Text()
        yield Text(printable(f"only the CA of the cluster, compared with its entry: {', '.join(paths)}"))
    if count := document.get("coverage"):  # a document of an older daemon contains no coverage
        yield Text()
        named = f"{count['references']} only in references"
        served = f", {count['served']} only at listeners" if count.get("served") else ""
        unwatched = f"files not watched: {count['unwatched']}"
        yield Text(f"certificates: {count['entries']} of the catalogue, {named}{served}; {unwatched}")


def _cells(entry: dict[str, Any], anchors: dict[str, str], now: datetime, form: str) -> Iterator[str | Text]:
    state = _worst(entry)
    reasons = _serious(entry)
    yield Text(printable(entry["name"]))
    yield f"{datetime.fromisoformat(entry['not_after']):{form}}" if entry["not_after"] else "-"
    yield residual(entry["not_after"], now)
    itself = entry["sha256"] and entry["trust_anchor"] == entry["sha256"]
    yield Text("(itself)" if itself else printable(_authority(entry, anchors)))
    path = "valid" if entry["trust_anchor"] else "unverified"  # the entry names no CA
    no_path = Text("-") if Reason.NOT_PERMITTED in reasons else Text("no", style=_STYLES["critical"])
    yield Text(path) if entry["chain_valid"] else no_path
    yield Text("differs", style=_STYLES["critical"]) if entry["key_matches"] is False else _KEYS[entry["key_matches"]]
    yield Text(", ".join(reasons) or "ok", style=_STYLES[state if reasons else "ok"])


def _details(entry: dict[str, Any]) -> Iterator[Text]:
    """Yield the further cells of a wide row."""
    yield from _presence(entry)
    serial = hexadecimal(int(entry["serial"])) if entry["serial"] else ""
    yield from (Text(printable(each or "")) for each in (serial, entry["subject"], entry["path"]))


def _presence(entry: dict[str, Any]) -> Iterator[Text]:
    """Yield the cells SERVED and USED BY of a certificate."""
    words = {True: "matches", False: "DIFFERS", None: "no answer"}
    served = [f"{at['endpoint']} {words[at['matches']]}" for at in entry["served"]]
    differs = any(at["matches"] is False for at in entry["served"])
    yield Text(printable(", ".join(served)) or "-", style=_STYLES["critical"] if differs else "")
    used = [f"{each['service']}{_since(each)}" for each in entry["used_by"]]
    yield Text(printable(", ".join(used or entry["consumers"])) or "-")


def _since(used: dict[str, Any]) -> str:
    if used["running"] is False:
        return " (not running)"
    how = "reloads" if used["reloads"] else "restart"
    since = f", since {datetime.fromisoformat(used['started_at']):%b %d %H:%M}" if used["started_at"] else ""
    return f" ({how}{since})"


def _authority(entry: dict[str, Any], anchors: dict[str, str]) -> str:
    """Return the name of the entry of the trust anchor.

    If the trust anchor has no entry, return its subject. If there is no trust anchor, return "".
    """
    return anchors.get(entry["trust_anchor"]) or entry["authority"] or ""


def _explanations(document: dict[str, Any], wide: bool) -> Iterator[RenderableType]:
    found = [item for entry in document["certificates"] for item in entry["findings"]] + document["findings"]
    found = [item for item in found if item["reason"] != Reason.NONPOSITIVE_SERIAL or item["severity"] != "info"]
    found.sort(key=lambda item: _RANKS.index(item["severity"]))
    found += _zero_serials(document) if wide else []
    if found:
        yield Text()
    for item in found:
        yield Text.assemble(
            (f"{item['severity']:<8}", _STYLES[item["severity"]]), " ", item["message"], f" [{item['reason']}]"
        )


def _worst(entry: dict[str, Any]) -> str:
    severities = {item["severity"] for item in entry["findings"]}
    return next((rank for rank in _RANKS if rank in severities), "ok")


def _zero_serials(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a list with one finding about all certificates whose serial number is not positive, or an empty list."""
    reason, found = Reason.NONPOSITIVE_SERIAL, document["certificates"]
    names = [entry["name"] for entry in found if any(item["reason"] == reason for item in entry["findings"])]
    message = (
        f"{', '.join(names)}: the serial number is not positive; no action is necessary (see: certmond explain "
        f"{reason})"
    )
    return [{"severity": "info", "reason": reason, "message": printable(message)}] if names else []


def _serious(entry: dict[str, Any]) -> list[str]:
    """Return the reasons of the warnings and of the critical findings of a certificate, and `not_permitted`."""
    found = entry["findings"]
    shown = (item for item in found if item["severity"] != "info" or item["reason"] == Reason.NOT_PERMITTED)
    return list(dict.fromkeys(item["reason"] for item in shown))
