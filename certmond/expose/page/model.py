"""Selection of the findings and certificates that the page shows, from the status document.

This module parses one certificate at a time, because a document can contain ten thousand certificates.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

ROWS, FINDINGS, NAMES = 2500, 200, 12
"""Maximum numbers of certificates and of findings on the page, and of certificate names for each service."""
RANKS = ("critical", "warning", "info")

_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,:]*")
_FACTS = ("taken_at", "node", "mode")
_LONG = {"certificates", "all_findings"}  # lists with an element for each certificate

Entry = dict[str, Any]
Place = tuple[str | None, str]
"""The SHA-256 digest of a trust anchor, or the name of the CA of an entry without a trust anchor."""


class Found(NamedTuple):
    """A finding. `entry` is the certificate to which the finding belongs, or None if there is no such certificate."""

    severity: str
    reason: str
    message: str
    entry: Entry | None


class Service:
    """The observed state of one service, with the certificates that the service uses and serves."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running: bool | None = None
        self.started_at: str | None = None
        self.reloads: set[bool] = set()
        self.uses: list[str] = []
        self.count = 0
        self.served: list[tuple[str, Entry]] = []

    @property
    def state(self) -> str:
        """The state of the service: `critical`, `warning`, `ok`, or `none` if certmond has not checked the service."""
        if any(at["matches"] is False for _, at in self.served):
            return "critical"
        return {True: "ok", False: "warning", None: "none"}[self.running]


class Branch:
    """A trust anchor and the leaves below it, as a branch of the certificate tree on the page.

    `sha256` is None if the file of the CA contains no certificate, and for certificates of no CA. In the second case,
    `title` is empty.
    """

    def __init__(self, sha256: str | None, title: str) -> None:
        self.sha256, self.title = sha256, title
        # The status entry of the trust anchor, or None without a separate file.
        self.head: Entry | None = None
        self.leaves: list[Entry] = []
        # Number of leaves that the page does not show.
        self.hidden = 0


class Digest:
    """Content of the page, from a status document (schema 1).

    The constructor raises ValueError, LookupError or TypeError if `document` has another format.
    """

    def __init__(self, document: bytes) -> None:
        self.findings: list[Found] = []
        self.severities: Counter[str] = Counter()
        self.services: dict[str, Service] = {}
        self.names: Counter[str] = Counter()
        self._below: Counter[Place] = Counter()
        self._members: Entry = {}
        text = document.decode("utf-8", "surrogatepass")
        entries = heapq.nsmallest(ROWS, self._seen(_walk(text, self._members)), key=_urgency)
        if self._members["schema"] != 1:
            raise ValueError("the schema of the status document is not 1")
        taken_at, self.node, self.mode = (str(self._members[name]) for name in _FACTS)
        self.taken_at = datetime.fromisoformat(taken_at)
        self._note(self._members["findings"], None)
        self.findings = heapq.nsmallest(FINDINGS, self.findings, key=lambda found: RANKS.index(found.severity))
        self._shown = {id(entry) for _, entry in entries}
        self.branches = self._grown([entry for _, entry in sorted(entries, key=lambda each: each[0])])

    @property
    def next_event(self) -> Entry | None:
        """The next event in the status document, or None if there is no event."""
        # The document of an older daemon contains no next event.
        found: Entry | None = self._members.get("next_event")
        return found

    @property
    def total(self) -> int:
        """The number of certificates in the status document."""
        return self.names.total()

    @property
    def worst(self) -> str | None:
        """The highest severity of all findings, or None if there is no finding."""
        return next((rank for rank in RANKS if self.severities[rank]), None)

    def shows(self, entry: Entry) -> bool:
        """Return whether the page has a row for the certificate `entry`."""
        return id(entry) in self._shown

    def _seen(self, entries: Iterable[Entry]) -> Iterator[tuple[int, Entry]]:
        """Yield each certificate with its position in the document, and record its findings and services."""
        for place, entry in enumerate(entries):
            self.names[entry["name"]] += 1
            self._below[_place(entry)] += 1
            self._note(entry["findings"], entry)
            self._note_services(entry)
            yield place, entry

    def _note(self, findings: Iterable[Entry], entry: Entry | None) -> None:
        for item in findings:
            self.severities[item["severity"]] += 1
            self.findings.append(Found(item["severity"], item["reason"], item["message"], entry))
        if len(self.findings) > 10 * FINDINGS:  # drop findings that the page cannot show
            self.findings = heapq.nsmallest(FINDINGS, self.findings, key=lambda found: RANKS.index(found.severity))

    def _note_services(self, entry: Entry) -> None:
        for used in entry["used_by"] or [{"service": name} for name in entry["consumers"]]:
            service = self._service(used["service"])
            service.running = used.get("running", service.running)
            service.started_at = used.get("started_at") or service.started_at
            service.reloads |= {used["reloads"]} if "reloads" in used else set()
            service.count += 1
            if len(service.uses) < NAMES:
                service.uses.append(entry["name"])
        for at in entry["served"]:
            service = self._service(at["service"] or "")
            if len(service.served) < NAMES or at["matches"] is False:
                service.served.append((entry["name"], at))

    def _service(self, name: str) -> Service:
        return self.services.setdefault(name, Service(name))

    def _grown(self, entries: list[Entry]) -> list[Branch]:
        """Return a branch for each trust anchor, and a last branch for certificates of no CA.

        A certificate without a path to a trust anchor, such as a missing certificate, is below the CA of its entry.
        """
        branches: dict[Place, Branch] = {}
        files: dict[tuple[str, str], Branch] = {}
        named: dict[str, Place] = {}
        for anchor in self._members["trust_anchors"]:
            place = anchor["sha256"], ""
            branch = branches.setdefault(place, Branch(anchor["sha256"], anchor["name"]))
            files.setdefault((anchor["name"], anchor["path"]), branch)
            named.setdefault(anchor["name"], place)
        counts: Counter[Place] = Counter()
        for place, number in self._below.items():
            counts[named.get(place[1], place)] += number
        once = {(entry["name"], entry["path"]): entry for entry in entries}  # one row for each identity
        broken = {_place(entry)[1] for entry in once.values()} - {"", *named}  # CAs without a certificate
        for entry in once.values():
            place = _place(entry)
            own = files.get((entry["name"], entry["path"]))
            if own is None and entry["name"] in broken:
                own = branches.setdefault((None, entry["name"]), Branch(None, entry["name"]))
            if own and own.head is None:
                own.head = entry
                counts[named.get(place[1], place)] -= 1
                continue
            place = named.get(place[1], place)
            title = place[1] or (entry["authority"] or "a trust anchor" if place[0] else "")
            branches.setdefault(place, Branch(place[0], title)).leaves.append(entry)
        for place, branch in branches.items():
            branch.hidden = counts[place] - len(branch.leaves)
        return sorted(branches.values(), key=lambda branch: not branch.title)


def _place(entry: Entry) -> Place:
    """Return the place of a certificate in the tree: its trust anchor, or else the first CA of its entry, if any."""
    if entry["trust_anchor"]:
        return entry["trust_anchor"], ""
    return None, next(iter(entry.get("ca") or ()), "")


def _urgency(placed: tuple[int, Entry]) -> tuple[int, str]:
    """Return a sort key: trust anchors come first, then certificates by their highest severity and their expiry."""
    entry = placed[1]
    if entry["trust_anchor"] and entry["trust_anchor"] == entry["sha256"]:
        return -1, ""
    ranks = [RANKS.index(item["severity"]) for item in entry["findings"]]
    return min(ranks, default=len(RANKS)), entry["not_after"] or ""


def _walk(text: str, members: Entry) -> Iterator[Entry]:
    """Yield the elements of `certificates` in the JSON object `text`.

    Store all other members in `members`, except `all_findings`, which repeats the findings of the other members.
    """
    at = _between(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _between(text, at)
        if name in _LONG:
            at = _between(text, at + 1)
            while text[at] != "]":
                entry, at = _DECODER.raw_decode(text, at)
                if name == "certificates":
                    yield entry
                at = _between(text, at)
            at += 1
        else:
            members[name], at = _DECODER.raw_decode(text, at)
        at = _between(text, at)


def _between(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return match.end() if match else at
