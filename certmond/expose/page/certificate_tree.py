"""Two sections of the HTML page: the certificates, and the services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from certmond.expose.documents.remaining_lifetime import Lifetime, residual
from certmond.expose.page.html import count, identity, items, mark, moment, section, text
from certmond.expose.page.model import RANKS, Branch, Digest, Service

_LATE = {"expired", "nearing_expiry"}
_KEYS = {True: "matches", False: "DIFFERS: it belongs to another certificate", None: "is not compared"}
_SERVED = {True: ("ok", "matches"), False: ("critical", "DIFFERS from"), None: ("none", "has no file to compare")}


def tree(digest: Digest) -> str:
    """Return the section of the page that shows each trust anchor with its leaves."""
    if not digest.total:
        return section("chains", "Certificates", '<p class="empty">No certificates.</p>')
    legend = (
        f'<p class="legend">{_bar(Lifetime(70.0, 20.0), "ok", "")} The bar shows the remaining lifetime.'
        " The tick marks the renewal time.</p>"
    )
    branches = (_branch(branch, digest) for branch in digest.branches)
    return section("chains", "Certificates", legend, items("ul", branches, "tree"))


def _branch(branch: Branch, digest: Digest) -> str:
    if branch.head:
        head = _row(branch.head, digest, "h3")
    elif not branch.title:
        head = '<h3 class="alone">without a trust anchor</h3>'
    else:
        why = "without a separate file" if branch.sha256 else "no certificate"
        head = f'<h3 class="alone">{text(branch.title)} <small>{why}</small></h3>'
    leaves = [_row(entry, digest) for entry in branch.leaves]
    if branch.hidden:
        rest = count(branch.hidden, "more certificate")
        leaves.append(f'<p class="rest">and {rest} with a later expiry; <code>certmond status</code> lists them</p>')
    return head + (items("ul", leaves, "leaves") if leaves else "")


def _row(entry: dict[str, Any], digest: Digest, heading: str = "span") -> str:
    """Return the line of one certificate. A click on this line opens the facts about the certificate."""
    state, words = _state(entry)
    life = Lifetime.of(entry, digest.taken_at)
    left = residual(entry["not_after"], digest.taken_at)
    name = text(entry["name"])
    if digest.names[entry["name"]] > 1:
        name += f" <small>{text(entry['path'].rpartition('/')[2])}</small>"
    cells = (
        mark(state),
        f'<{heading} class="name">{name}</{heading}>',
        _bar(life, _tone(entry, life), f"{entry['name']}: {life}")
        if life and not entry["stale"]
        else _empty_bar(f"{entry['name']}: no certificate"),
        f'<span class="left">{left or "-"}</span>',
        f'<span class="end">{moment(entry["not_after"], "day") if left else ""}</span>',
        f'<span class="state {state}">{text(words)}</span>',
    )
    return f'<details id="{identity(entry)}"><summary>{"".join(cells)}</summary>{_facts(entry)}</details>'


def _state(entry: dict[str, Any]) -> tuple[str, str]:
    """Return the highest severity of the findings of a certificate, and the reasons of these findings.

    If at least one finding is a warning or critical, omit the reasons of the severity info. Without findings, both
    values are "ok".
    """
    found = entry["findings"]
    severities = {item["severity"] for item in found}
    serious = [item["reason"] for item in found if item["severity"] != "info"]
    reasons = dict.fromkeys(serious or [item["reason"] for item in found])
    return next((rank for rank in RANKS if rank in severities), "ok"), ", ".join(reasons) or "ok"


def _tone(entry: dict[str, Any], life: Lifetime) -> str:
    """Return the CSS class of a lifetime bar: `critical`, `due` or `ok`."""
    late = any(item["severity"] == "critical" and item["reason"] in _LATE for item in entry["findings"])
    return "critical" if late else "due" if life.due else "ok"


def _bar(life: Lifetime, tone: str, label: str) -> str:
    aria = f'role="img" aria-label="{text(label)}"' if label else 'aria-hidden="true"'
    tick = "" if life.renewal is None else f'<path class="tick" d="M{life.renewal:.1f} 0V8"/>'
    return (
        f'<svg class="bar {tone}" {aria} viewBox="0 0 100 8" preserveAspectRatio="none">'
        '<rect class="life" width="100" height="8"/>'
        f'<rect class="rest" width="{life.left:.1f}" height="8"/>{tick}</svg>'
    )


def _empty_bar(label: str) -> str:
    """Return the bar of a file that contains no certificate now."""
    return (
        f'<svg class="bar" role="img" aria-label="{text(label)}" viewBox="0 0 100 8" preserveAspectRatio="none">'
        '<rect class="life" width="100" height="8"/></svg>'
    )


def _whole(value: str) -> str:
    """Return a value that a reader copies. A click selects the whole value."""
    return f'<span class="whole">{text(value)}</span>'


def _facts(entry: dict[str, Any]) -> str:
    is_served = entry["kind"] == "served"
    facts = {
        "Listener" if is_served else "File": _whole(entry["path"])
        + (" (unusable now; these facts are from the certificate that certmond last read)" if entry["stale"] else ""),
        "Subject": entry["subject"] and _whole(entry["subject"]),
        "Issuer": entry["issuer"] and text(entry["issuer"]),
        "Valid": entry["not_after"] and f"{moment(entry['not_before'])} to {moment(entry['not_after'])}",
        "Renewal": entry["renew_at"] and f"from {moment(entry['renew_at'])} on",
        "Path": _path(entry),
        "Key": f"{text(entry['key'] or 'unknown')}; the private key {_KEYS[entry['key_matches']]}",
        "Used by": ", ".join(map(_used, entry["used_by"])) or text(", ".join(entry["consumers"])),
        "Served": ", ".join(_served(at, "this certificate" if is_served else "the file") for at in entry["served"]),
        "Serial": entry.get("serial_hex") and _whole(entry["serial_hex"]),
        "SHA-256": entry["sha256"] and _whole(entry["sha256"]),
    }
    lines = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
    messages = [f"{mark(item['severity'])} {text(item['message'])}" for item in entry["findings"]]
    return f"<dl>{lines}</dl>" + (items("ul", messages, "messages") if messages else "")


def _path(entry: dict[str, Any]) -> str:
    if not entry["chain_valid"]:
        return "NOT valid"
    return "valid" if entry["trust_anchor"] else "unverified, because the entry names no trust anchor"


def _used(used: dict[str, Any]) -> str:
    return f"{text(used['service'])} ({_runs(used['running'], used['started_at'])})"


def _runs(running: bool | None, started_at: str | None) -> str:
    if running is False:
        return "not running"
    return f"running since {moment(started_at)}" if started_at else "running" if running else "state unknown"


def _served(at: dict[str, Any], own: str) -> str:
    """Return the result of a TLS probe as HTML. `own` describes the certificate of the entry, such as "the file"."""
    state, words = _SERVED[at["matches"]]
    seen = f"no certificate: {text(at['reason'])}" if at["reason"] else f"{words} {own}" if at["sha256"] else words
    return f"{mark(state)} {text(at['endpoint'])} {seen}"


def services(digest: Digest) -> str:
    """Return the section of the page about services: the state of each service, and the certificates of the service."""
    if not digest.services:
        return section("services", "Services", '<p class="empty">No service uses a certificate.</p>')
    lines = ("".join(_service(each)) for each in digest.services.values())
    return section("services", "Services", items("ul", lines))


def _service(service: Service) -> Iterator[str]:
    takes = {frozenset({True}): "reloads its files", frozenset({False}): "needs a restart for a new certificate"}
    how = takes.get(
        frozenset(service.reloads), "reloads some files, and needs a restart for other files" if service.reloads else ""
    )
    yield f"<p>{mark(service.state)} <b>{text(service.name) or 'unknown service'}</b> "
    yield f"{_runs(service.running, service.started_at)}{'; ' if how else ''}{how}</p>"
    if service.served:
        seen = (f"{_served_by_service(name, at)}" for name, at in service.served)
        yield f'<p class="sub">serves {", ".join(seen)}</p>'
    if service.uses:
        more = f" and {service.count - len(service.uses):,} more" if service.count > len(service.uses) else ""
        yield f'<p class="sub">uses {text(", ".join(service.uses))}{more}</p>'


def _served_by_service(name: str, at: dict[str, Any]) -> str:
    state, words = _SERVED[at["matches"]]
    seen = f"(no certificate: {text(at['reason'])})" if at["reason"] else f"{words} {text(name)}"
    return f"{mark(state)} {text(at['endpoint'])} {seen}"
