"""Renderer of the HTML page at `/` from the status document and the activity document of the daemon.

The page works without JavaScript. The script of the page only replaces the content with a newer version.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections import Counter
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from certmond.expose.page.certificate_tree import services, tree
from certmond.expose.page.html import count, identity, items, mark, moment, section, text
from certmond.expose.page.model import RANKS, Digest, Found

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
STEPS = 50
"""Maximum number of steps, and of held steps, that the page shows."""
LINKS = {
    "metrics": "metrics", "status": "api/v1/status", "activity": "api/v1/activity", "health": "healthz",
    "readiness": "readyz",
}  # fmt: skip
_FAVICON = {
    "critical": "%3cpath fill='%23b3261e' d='M8 0l8 8-8 8-8-8z'/%3e",
    "warning": "%3cpath fill='%23b06a00' d='M8 1l8 14H0z'/%3e",
    "ok": "%3ccircle fill='%232f6f4f' cx='8' cy='8' r='7'/%3e",
    "none": "%3ccircle fill='%2359636e' cx='8' cy='8' r='7'/%3e",
}
_NOUNS = {"critical": ("critical finding",), "warning": ("warning",), "info": ("note",)}
_MARKS = {"error": "critical"}
_OF_SERVICES = {
    "critical": ("serves another certificate", "serve another certificate"),
    "warning": ("is not running", "are not running"),
    "none": ("is not checked", "are not checked"),
}
_PHASES = {
    "prepare": "no file changes yet",
    "detach": "the signer gets separate files",
    "trust": "all components trust both CAs",
    "issue": "the new CA signs, and certmond issues every leaf again",
    "distrust": "no component trusts the old CA",
    "attach": "the signer uses the common files again",
    "done": "the rotation is complete",
}


VERSION = f"{zlib.crc32(f'{STYLE}{SCRIPT}'.encode()):08x}"


@cache
def policy() -> str:
    """Return the Content-Security-Policy, which permits only the script, the style and the origin of the page."""
    # Import late: where hashlib needs OpenSSL, its library takes five megabytes, which only the page requires.
    from hashlib import sha256  # noqa: PLC0415

    script, style = (b64encode(sha256(each.encode()).digest()).decode() for each in (SCRIPT, STYLE))
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(status: bytes, activity: bytes | None, halted: str | None, tag: str) -> str:
    """Return the whole page as HTML.

    `halted` is the reason why the page might be outdated, or None if the page is current. `tag` identifies this version
    of the page. Raises ValueError, LookupError or TypeError for an invalid document.
    """
    digest = Digest(status)
    doing: dict[str, Any] = json.loads(activity) if activity else {"plan": None, "rotation": None, "events": []}
    node = digest.node or "this node"
    state = _state(digest)
    verdict = _verdict(digest)
    body = (
        _header(digest, node, state, verdict),
        _halted(halted, digest),
        '<main id="main">\n<div class="wide">',
        _findings(digest),
        tree(digest),
        services(digest),
        '</div>\n<div class="side">',
        _rotation(doing["rotation"]),
        _plan(doing["plan"], digest.mode),
        _events(doing["events"]),
        "</div>\n</main>",
    )
    return _shell(f"{verdict} - {text(node)} - certmond", state, tag, "\n".join(body))


def empty(reason: str) -> str:
    """Return a page without data. The page shows the sentence `reason` instead."""
    header = '<header><p class="brand">certmond</p><h1>No data yet</h1></header>'
    body = f'{header}\n<main id="main"><p>{text(reason)}</p></main>'
    return _shell("certmond", "warning", "", body)


def _shell(title: str, state: str, tag: str, body: str) -> str:
    icon = f"%3csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3e{_FAVICON[state]}%3c/svg%3e"
    links = "".join(f'<li><a href="{path}">{name}</a></li>' for name, path in LINKS.items())
    return f"""<!doctype html>
<html lang="en" data-version="{VERSION}" data-tag="{tag}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:image/svg+xml,{icon}">
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the findings</a>
<p id="connection" role="alert" hidden></p>
<div id="live">
{body}
</div>
<footer><nav aria-label="For programs"><ul>{links}</ul></nav><p id="how">Reload the page to update it.</p></footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _verdict(digest: Digest) -> str:
    stand = [count(digest.severities[rank], *_NOUNS[rank]) for rank in RANKS if digest.severities[rank]]
    stand += _of_services(digest)
    if digest.worst in {"critical", "warning"}:
        return ", ".join(stand)
    well = "No warnings" if _of_services(digest) else "All well"
    return ", ".join([well if digest.total else "No certificates", *stand])


def _of_services(digest: Digest) -> list[str]:
    """Return the number of services in each state other than `ok`."""
    found = Counter(service.state for service in digest.services.values())
    return [
        f"{count(found[state], 'service')} {words[found[state] > 1]}"
        for state, words in _OF_SERVICES.items()
        if found[state]
    ]


def _state(digest: Digest) -> str:
    """Return the worst state of the findings and of the services: `critical`, `warning`, `none` or `ok`."""
    states = {digest.worst, *(service.state for service in digest.services.values())}
    states |= set() if digest.total else {"warning"}
    return next((state for state in ("critical", "warning", "none") if state in states), "ok")


def _header(digest: Digest, node: str, state: str, verdict: str) -> str:
    due = digest.next_event
    passed = due and datetime.fromisoformat(due["at"]) <= digest.taken_at
    event = f"{text(due['target'])}, {moment(due['at'], 'day')}{_event_words(due, digest)}" if due else "none"
    facts = {
        "Mode": text(digest.mode),
        "Certificates": f"{digest.total:,}",
        "Due now" if passed else "Next due": event,
        "As of": moment(digest.taken_at.isoformat(), "second") + " UTC",
    }
    lines = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return (
        f'<header>\n<p class="brand">certmond</p>\n<h1>{text(node)}</h1>\n'
        f'<p class="verdict {state}" role="status">{mark(state)} {verdict}</p>\n<dl>{lines}</dl>\n</header>'
    )


def _event_words(event: dict[str, Any], digest: Digest) -> str:
    """Return the kind of the next event."""
    by_mode = "certmond renews it" if digest.mode == "enforce" else "enforce mode would renew it"
    words = {"renew": by_mode, "due": "certmond does not renew it", "expire": "it expires"}.get(event["what"])
    return f" <small>({words})</small>" if words else ""


def _halted(why: str | None, digest: Digest) -> str:
    if why is None:
        return ""
    since = moment(digest.taken_at.isoformat(), "second")
    state = f"The page shows the state at {since} UTC."
    return f'<p id="halted" role="alert">{mark("critical")} <b>{text(why)}.</b> {state}</p>'


def _findings(digest: Digest) -> str:
    total = digest.severities.total()
    if not total:
        return section("findings", "Findings", '<p class="empty">No findings.</p>')
    lines = [_finding(found, digest) for found in digest.findings]
    more = total - len(lines)
    rest = (
        f'<p class="rest">and {more:,} more, of equal or lower severity; see <code>certmond status</code></p>'
        if more
        else ""
    )
    hint = '<p class="rest"><code>certmond explain REASON</code> describes a reason and its remedy.</p>'
    return section("findings", "Findings", items("ol", lines), rest, hint)


def _finding(found: Found, digest: Digest) -> str:
    fact, remedy = found.message, ""
    if "; " in fact:
        fact, _, remedy = fact.rpartition("; ")
    about = ""
    if found.entry:
        name = text(found.entry["name"])
        about = f'<a href="#{identity(found.entry)}">{name}</a> ' if digest.shows(found.entry) else f"{name} "
    cure = f'; <b class="remedy">{text(remedy)}</b>' if remedy else ""
    severity = f'<span class="severity {text(found.severity)}">{mark(found.severity)} {text(found.severity)}</span>'
    return f"<p>{severity} {about}<code>{text(found.reason)}</code></p><p>{text(fact)}{cure}</p>"


def _plan(plan: dict[str, Any] | None, mode: str) -> str:
    if plan is None:
        return section("plan", "Plan", '<p class="empty">The plan is unknown.</p>')
    changes = f" The plan changes on {moment(plan['changes_at'])}." if plan["changes_at"] else ""
    if not (plan["steps"] or plan["held"]):
        return section("plan", "Plan", f'<p class="empty">No steps now.{changes}</p>')
    observes = "Enforce mode would execute these steps now. Observe mode executes none of them."
    note = (
        f'<p class="rest">{observes if mode == "observe" else "certmond executes these steps now, in this order."}</p>'
    )
    steps = [_step(step) for step in plan["steps"][:STEPS]]
    held = [
        f"<b>held</b> {text(each['target'])}{_until(each['until'])}: {text(each['because'])}"
        for each in plan["held"][:STEPS]
    ]
    more = len(plan["steps"]) + len(plan["held"]) - len(steps) - len(held)
    rest = f'<p class="rest">and {more:,} more; <code>certmond plan</code> lists them</p>' if more else ""
    lists = (items("ol", steps) if steps else "", items("ul", held) if held else "")
    return section("plan", "Plan", note, *lists, rest)


def _step(step: dict[str, Any]) -> str:
    restarts = f"; restarts {text(', '.join(step['restarts']))}" if step["restarts"] else ""
    return f"<b>{text(step['step'])}</b> {text(step['target'])}: {text(step['detail'])}{restarts}"


def _until(instant: str | None) -> str:
    return f" until {moment(instant)}" if instant else ""


def _rotation(rotation: dict[str, Any] | None) -> str:
    if rotation is None:
        return section("rotation", "Rotation", '<p class="empty">No rotation is in progress.</p>')
    back = ", aborted" if rotation["aborted"] else ""
    since = moment(rotation["since"])
    phase = text(rotation["phase"])
    head = f"<p><b>{text(rotation['family'])}</b>, {text(rotation['mode'])}{back}: {phase} since {since}</p>"
    phases, lines = rotation["phases"], []
    now = phases.index(rotation["phase"]) if rotation["phase"] in phases else 0
    for place, phase in enumerate(phases):
        meaning = f"<b>{text(phase)}</b> <span>{text(_PHASES.get(phase, ''))}</span>"
        if place == now:
            lines.append(f'<li aria-current="step">{mark("now")} {meaning} <em>now</em></li>')
        else:
            state, word = ("ok", "reached") if place < now else ("none", "pending")
            lines.append(f'<li class="{state}">{mark(state)} {meaning} <em>{word}</em></li>')
    waits = [text(each) for each in rotation["waits"]]
    waiting = f"<p>The rotation waits{_until(rotation['until'])} for:</p>{items('ul', waits)}" if waits else ""
    return section(
        "rotation", "Rotation", head, f'<ol class="phases">{"".join(lines)}</ol>', waiting, _workers(rotation)
    )


def _workers(rotation: dict[str, Any]) -> str:
    if not (count := rotation.get("workers")):
        return ""
    released, acknowledged = f"{count['released']} may act", f"{count['acknowledged']} have acknowledged the phase"
    return f"<p>Of {count['all']} workers {released}, {acknowledged}.</p>"


def _events(events: list[dict[str, str]]) -> str:
    if not events:
        return section("events", "Events", '<p class="empty">No events yet.</p>')
    lines = map(_event, events)
    return section(
        "events", "Events", '<p class="rest">The last fifty events, newest first, in UTC.</p>', items("ol", lines)
    )


def _event(event: dict[str, str]) -> str:
    level = event["level"]
    grave = f'<b class="{text(level)}">{mark(_MARKS.get(level, level))} {text(level)}</b> ' if level != "info" else ""
    head = f"{moment(event['at'], 'second')} <code>{text(event['event'])}</code>"
    return f"<p>{head}</p><p>{grave}{text(event['message'])}</p>"
