"""The page as text: its content, its omissions, and the escaping of all foreign names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.config.loader import load
from certmond.expose.documents.activity import activity_document
from certmond.expose.documents.remaining_lifetime import Lifetime, residual
from certmond.expose.documents.status import status_document
from certmond.expose.http.heartbeat_check import halted
from certmond.expose.page import model as digest
from certmond.expose.page import render as page
from certmond.expose.page.html import count, identity, text
from certmond.expose.page.model import Digest
from certmond.expose.page.render import empty, policy
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.planning.steps import Held, Plan
from certmond.pki.rotation.phases import Mode, Phase, Rotation, sequence
from certmond.pki.rotation.worker_batches import Workers
from tests import builders
from tests.node import NOW, PKI, Node

HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(2)>; &amp;\x00\u202e\udcff"
NOTHING: dict[str, Any] = {"plan": {"steps": [], "held": [], "changes_at": None}, "rotation": None, "events": []}


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in {"style", "script"}:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]


def document(node: Node) -> dict[str, Any]:
    """Return the document that the daemon would render of a node."""
    return status_document(assess(Store(load().certificates, str(node.root)).observe(), NOW), "observe", None)


def shown(status: dict[str, Any], activity: dict[str, Any] | None = None, halted: str | None = None) -> Parsed:
    doing = None if activity is None else json.dumps(activity).encode()
    return Parsed(page.page(json.dumps(status).encode(), doing, halted, "tag"))


def entry(name: str, **fields: Any) -> dict[str, Any]:
    """Return a certificate without findings, with the changes."""
    return {
        "name": name, "path": f"/{name}.crt", "kind": "file", "subject": f"CN={name}", "issuer": "CN=r", "serial": "7",
        "serial_hex": "07",        "sha256": hashlib.sha256(name.encode()).hexdigest(), "key": "ECDSA P-256",
        "not_before": "2026-01-01T00:00:00Z", "not_after": "2027-01-01T00:00:00Z", "renew_at": "2026-12-02T00:00:00Z",
        "authority": None, "trust_anchor": None, "chain_valid": True, "key_matches": True, "stale": False,
        "consumers": [], "used_by": [], "served": [], "findings": [], **fields,
    }  # fmt: skip


def status(*certificates: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "schema": 1, "taken_at": "2026-11-24T12:00:00Z", "node": "node-1", "mode": "observe",
        "next_event": {"at": "2026-12-01T00:00:00Z", "what": "renew", "target": "a"},
        "certificates": list(certificates), "trust_anchors": [], "findings": [], **fields,
    }  # fmt: skip


def finding(severity: str, reason: str = "expired", message: str = "it is so; do that") -> dict[str, str]:
    return {"reason": reason, "severity": severity, "message": message}


def every_text(value: Any, put: str) -> Any:
    """A document in which every name, subject, path and message is hostile; times and enumerations stay."""
    kept = {"not_before", "not_after", "renew_at", "taken_at", "severity", "sha256", "trust_anchor", "started_at", "at",
            "since", "until", "changes_at", "phase"}  # fmt: skip
    if isinstance(value, dict):
        return {key: each if key in kept else every_text(each, put) for key, each in value.items()}
    if isinstance(value, list):
        return [every_text(each, put) for each in value]
    return put if isinstance(value, str) else value


def busy() -> dict[str, Any]:
    """A document of all that is done."""
    old, new = (builders.make_ca().facts for _ in range(2))
    rotation = Rotation("r1", "ca", Mode.OVERLAP, (old,), new, Phase.TRUST, NOW)
    plan = Plan((), (Held("b", "/b.crt", "an upgrade runs", NOW),), NOW)
    events = [{"at": "2026-11-24T12:00:00Z", "event": "started", "level": "error", "message": "it has begun"}]
    made = activity_document(plan, rotation, ("node-2",), NOW, events, workers=Workers(12, 4, 3))
    step = {"step": "issue", "target": "apiserver", "path": "/a.crt", "reason": "nearing_expiry", "detail": "is due"}
    made["plan"]["steps"].append({**step, "restarts": ["kube-apiserver"]})
    return made


class TestHostileText:
    def test_names_stay_text(self, node: Node) -> None:
        """No name of a subject, file, service, message or node makes an element or attribute."""
        used = {"service": "s", "reloads": True, "running": True, "started_at": None}
        served = {"endpoint": "e", "service": "s", "sha256": None, "matches": False, "reason": "r"}
        reported = [finding("critical"), finding("info", message="no remedy")]
        plain = status(
            entry("a", used_by=[used], served=[served], findings=reported), entry("b", authority="c"), node="n"
        )
        good, bad = (shown(every_text(plain, put), every_text(busy(), put), put) for put in ("harmless; text", HOSTILE))
        named = [(tag, sorted(attributes)) for tag, attributes in good.elements]
        assert [(tag, sorted(attributes)) for tag, attributes in bad.elements] == named
        assert "<script>alert(1)</script>" in bad.text
        assert "\\x00\\u202e\\udcff" in bad.text

    @given(st.text())
    def test_text_is_inert(self, value: str) -> None:
        """Nothing that is written as text can end an attribute or begin an element, and all of it can be read back."""
        written = text(value)
        assert not set(written) & set("<>\"'")
        assert Parsed(f'<p title="{written}">').elements[0][1]["title"] == (
            value if value.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
        )
        written.encode()

    @given(st.text(), st.text())
    def test_fragments(self, name: str, path: str) -> None:
        """A certificate's fragment is fit for an attribute and a URL."""
        assert re.fullmatch(r"c-[A-Za-z0-9_./-]+", identity({"name": name, "path": path}))


class TestPolicy:
    def test_only_its_own(self, node: Node) -> None:
        """The policy names the one script and the one style of the page by their hashes, and allows no other."""
        markup = page.page(json.dumps(document(node)).encode(), None, None, "")
        for kind, directive in (("script", "script-src"), ("style", "style-src")):
            (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", markup, re.DOTALL)
            hashed = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"; {directive} 'sha256-{hashed}';" in policy()
        assert "unsafe" not in policy()
        assert not [each for _, attributes in Parsed(markup).elements for each in attributes if each.startswith("on")]
        assert "style" not in {each for _, attributes in Parsed(markup).elements for each in attributes}


class TestTree:
    def test_every_certificate_once(self, node: Node) -> None:
        """Each certificate has one row with a unique identity, and links from findings lead to rows."""
        parsed = shown(document(node))
        rows = [attributes["id"] for tag, attributes in parsed.elements if tag == "details"]
        assert sorted(filter(None, rows)) == sorted(map(identity, document(node)["certificates"]))
        assert not [name for name, times in Counter(parsed.ids()).items() if times > 1]

    def test_served_only(self) -> None:
        """A certificate that only a listener has shows its endpoint instead of a file."""
        at = {
            "endpoint": "127.0.0.1:10259",
            "service": "kube-scheduler",
            "sha256": "0",
            "matches": True,
            "reason": None,
        }
        text = shown(status(entry("s", kind="served", path="127.0.0.1:10259", served=[at]))).text
        assert "Listener 127.0.0.1:10259" in text
        assert "127.0.0.1:10259 matches this certificate" in text
        assert "the file" not in text

    def test_path(self) -> None:
        """A path is valid only up to a trust anchor. Without one, the page does not call the path valid."""
        words = {("ab", True): "Path valid Key", (None, True): "Path unverified, because", (None, False): "Path NOT"}
        for (anchor, valid), expected in words.items():
            assert expected in shown(status(entry("leaf", trust_anchor=anchor, chain_valid=valid))).text

    def test_no_path(self) -> None:
        """A certificate without a path to a trust anchor is last, under that heading."""
        ca = entry("ca")
        ca["trust_anchor"] = ca["sha256"]
        leaf = entry("leaf", trust_anchor=ca["sha256"])
        given_ = status(entry("lost"), ca, leaf, trust_anchors=[ca])
        assert re.search(r" ca .* leaf .*without a trust anchor.* lost ", shown(given_).text)
        branches = Digest(json.dumps(given_).encode()).branches
        assert [[each["name"] for each in branch.leaves] for branch in branches] == [["leaf"], ["lost"]]

    def test_a_broken_certificate_is_below_its_ca(self) -> None:
        """A certificate that is missing, or without a valid path, stays below the CA of its entry, also if the file of
        this CA is missing too. A certificate whose entry names no CA is last.
        """
        ca = entry("ca")
        ca["trust_anchor"] = ca["sha256"]
        gone = {"sha256": None, "not_after": None, "not_before": None, "chain_valid": False}
        given_ = status(
            entry("lost"), entry("missing", ca=["ca"], **gone), ca, entry("leaf", trust_anchor=ca["sha256"], ca=["ca"]),
            entry("front", ca=["front-ca"], chain_valid=False), entry("front-ca", **gone),
            entry("orphan", ca=["no-entry"]),
            trust_anchors=[ca],
        )  # fmt: skip
        branches = Digest(json.dumps(given_).encode()).branches
        assert [(branch.head or {}).get("name") for branch in branches] == ["ca", "front-ca", None, None]
        leaves = [[each["name"] for each in branch.leaves] for branch in branches]
        assert leaves == [["missing", "leaf"], ["front"], ["orphan"], ["lost"]]
        assert [branch.hidden for branch in branches] == [0, 0, 0, 0]
        assert re.search(r" no-entry no certificate .* without a trust anchor lost ", shown(given_).text)

    def test_an_anchor_in_no_file(self) -> None:
        """A leaf whose trust anchor is in no separate file is below the anchor's subject."""
        leaf = entry("leaf", trust_anchor="ab", authority="CN=its own CA")
        assert "CN=its own CA without a separate file" in shown(status(leaf)).text

    def test_more_than_a_page_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of more certificates than a page holds, those with findings and those that end first are shown; the rest is
        counted.
        """
        monkeypatch.setattr(digest, "ROWS", 4)
        ca = entry("ca")
        ca["trust_anchor"] = ca["sha256"]
        ends = {"late": 2030, "later": 2031, "soon": 2027, "sooner": 2026, "bad": 2032}
        leaves = [
            entry(
                name, trust_anchor=ca["sha256"], not_after=f"{end}-12-01T00:00:00Z",
                findings=[finding("warning")] if name == "bad" else [],
            )
            for name, end in ends.items()
        ]  # fmt: skip
        read = Digest(json.dumps(status(*leaves, ca, trust_anchors=[ca])).encode())
        (branch,) = read.branches
        assert branch.head == ca
        assert [each["name"] for each in branch.leaves] == ["soon", "sooner", "bad"]
        assert (branch.hidden, read.total) == (2, 6)
        assert "and 2 more certificates with a later expiry" in shown(status(*leaves, ca, trust_anchors=[ca])).text

    def test_certificates_of_one_name_show_their_files(self) -> None:
        """Certificates of one entry of the catalogue show their files."""
        parsed = shown(status(entry("leaf", path="/a/one.crt"), entry("leaf", path="/a/two.crt"), entry("other")))
        assert {"one.crt", "two.crt"} <= set(parsed.said)
        assert "other.crt" not in parsed.said

    @pytest.mark.parametrize("indent", [None, 1])
    def test_any_layout(self, node: Node, indent: int | None) -> None:
        """The status document is read as JSON, whatever its layout and the order of its fields."""
        given_ = document(node)
        turned = dict(reversed(given_.items()))
        for each in (given_, turned, {**given_, "new": [1]}):
            read = Digest(json.dumps(each, indent=indent).encode())
            kept = [leaf for branch in read.branches for leaf in (branch.head, *branch.leaves) if leaf]
            assert sorted(map(identity, kept)) == sorted(map(identity, given_["certificates"]))

    @pytest.mark.parametrize(
        "broken", [b"", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1}', b'{"certificates": [{}]}']
    )
    def test_no_status(self, broken: bytes) -> None:
        """What is no status document is refused with an exception that the server knows."""
        with pytest.raises((AttributeError, LookupError, TypeError, ValueError)):
            page.page(broken, None, None, "")


class TestLife:
    def test_shares(self) -> None:
        """A bar is what is left of a life, with the renewal point where it will be."""
        of = entry(
            "a", not_before="2026-01-01T00:00:00Z", not_after="2026-01-11T00:00:00Z", renew_at="2026-01-09T00:00:00Z"
        )
        start = NOW.replace(year=2026, month=1, day=1)
        for days, left, due in ((0, 100, False), (4, 60, False), (8, 20, True), (12, 0, True), (-1, 100, False)):
            life = Lifetime.of(of, start + timedelta(days=days))
            assert life is not None
            assert (round(life.left), life.renewal, life.due) == (left, 20.0, due)

    def test_words(self) -> None:
        """A bar says the same in words."""
        assert str(Lifetime(62.4, 20.0)) == "62 % of its lifetime remains, renewal at 20 %"
        assert str(Lifetime(12.0, 20.0)) == "12 % of its lifetime remains, due since 20 %"
        assert str(Lifetime(12.0, None)) == "12 % of its lifetime remains"
        assert str(Lifetime(0.0, 20.0)) == "0 % of its lifetime remains"

    def test_unknown(self) -> None:
        """Without dates there is no bar, and a life of no length has ended."""
        assert Lifetime.of(entry("a", not_after=None), NOW) is None
        none = entry("a", not_before="2026-01-01T00:00:00Z", not_after="2026-01-01T00:00:00Z")
        assert Lifetime.of(none, NOW) == Lifetime(0.0, 0.0)
        assert (residual(None, NOW), residual("2026-11-30T00:00:00Z", NOW)) == ("", "-1d")
        for broken in (entry("a", not_before=None, not_after=None), entry("a", stale=True)):
            parsed = shown(status(broken))
            assert "a: no certificate" in [attributes.get("aria-label") for _, attributes in parsed.elements]
            assert [attributes.get("class") for tag, attributes in parsed.elements if tag == "rect"][-1] == "life"

    @pytest.mark.parametrize(
        ("reason", "severity", "tone"),
        [("key_mismatch", "critical", "ok"), ("expired", "critical", "critical"), ("nearing_expiry", "warning", "ok")],
    )
    def test_colour_of_time(self, reason: str, severity: str, tone: str) -> None:
        """The colour of a bar tells of time alone."""
        parsed = shown(status(entry("a", findings=[finding(severity, reason)])))
        bars = [attributes["class"] for tag, attributes in parsed.elements if tag == "svg" and "role" in attributes]
        assert bars == [f"bar {tone}"]


class TestFindings:
    def test_worst_first(self) -> None:
        """Findings are in the order of their severity, each with its remedy, including those without a certificate."""
        given_ = status(
            entry("a", findings=[finding("info", message="one; cure one")]),
            entry("b", findings=[finding("warning", message="two; cure two"), finding("critical", message="three")]),
            findings=[finding("critical", message="four; not this; cure four")],
        )
        parsed = shown(given_)
        places = [parsed.text.index(each) for each in ("three", "four; not this", "two", "one")]
        assert all(a < b for a, b in pairwise(places))
        assert {"cure one", "cure two", "cure four"} <= set(parsed.said)
        assert "2 critical findings, 1 warning, 1 note" in parsed.text

    def test_more_than_a_page_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of very many findings the worst are shown, and all are counted."""
        monkeypatch.setattr(digest, "FINDINGS", 2)
        many = [entry(f"w{number}", findings=[finding("warning", message=f"w{number}")]) for number in range(40)]
        parsed = shown(status(*many, entry("bad", findings=[finding("critical", message="worst")])))
        assert "1 critical finding, 40 warnings" in parsed.text
        assert "and 39 more, of equal or lower severity" in parsed.text
        assert re.search(r" Findings .* worst .* w0 .* and 39 more", parsed.text)

    def test_none(self) -> None:
        """Without findings, services, steps and events, the page reports each absence."""
        said = shown(status(), NOTHING).text
        for sentence in (
            "No findings.", "No certificates.",
            "No service uses a certificate.", "No rotation is in progress.", "No steps now.",
            "No events yet.",
        ):  # fmt: skip
            assert sentence in said

    def test_nothing_is_watched(self) -> None:
        """A page without a single certificate does not say that all is well, and one with a good one does."""
        said = shown(status()).text
        assert ("No certificates" in said, "All well" in said) == (True, False)
        assert "All well" in shown(status(entry("good"))).text

    def test_counts(self) -> None:
        """Numbers are written with their nouns."""
        assert [count(each, "warning") for each in (0, 1, 2, 12345)] == [
            "no warnings", "1 warning", "2 warnings", "12,345 warnings",
        ]  # fmt: skip


class TestVerdict:
    @pytest.mark.parametrize(
        ("running", "matches", "state", "said"),
        [
            (True, True, "ok", "All well"),
            (True, None, "ok", "All well"),
            (False, True, "warning", "No warnings, 1 service is not running"),
            (None, True, "none", "No warnings, 1 service is not checked"),
            (True, False, "critical", "No warnings, 1 service serves another certificate"),
        ],
    )
    def test_it_agrees_with_the_services(
        self, running: bool | None, matches: bool | None, state: str, said: str
    ) -> None:
        """The page states that all is well only if each service runs, is checked, and serves the certificate in the
        file. The symbol of the verdict is that of the worst service.
        """
        used = {"service": "etcd", "reloads": True, "running": running, "started_at": None}
        at = {"endpoint": "e", "service": "etcd", "sha256": "ab", "matches": matches, "reason": None}
        parsed = shown(status(entry("server", used_by=[used], served=[at])))
        assert f"{said} Mode observe" in parsed.text
        assert ("All well" in parsed.text) is (state == "ok")
        assert f"verdict {state}" in [attributes.get("class") for _, attributes in parsed.elements]

    def test_findings_come_first(self) -> None:
        """The numbers of findings precede the numbers of services."""
        parsed = shown(status(entry("a", consumers=["x", "y"], findings=[finding("warning")])))
        assert "1 warning, 2 services are not checked Mode" in parsed.text

    @pytest.mark.parametrize(
        ("what", "mode", "words"),
        [
            ("renew", "observe", "(enforce mode would renew it)"), ("renew", "enforce", "(certmond renews it)"),
            ("due", "enforce", "(certmond does not renew it)"), ("expire", "enforce", "(it expires)"),
        ],
    )  # fmt: skip
    def test_the_next_event_has_a_kind(self, what: str, mode: str, words: str) -> None:
        """The head of the page names the certificate, the day, and what happens."""
        event = {"at": "2026-12-01T00:00:00Z", "what": what, "target": "a"}
        assert f"Next due a, 2026-12-01 {words}" in shown(status(entry("a"), mode=mode, next_event=event)).text


class TestServices:
    def test_what_they_serve(self) -> None:
        """A service shows since when it runs, how it takes a new certificate, what it uses, and what it serves."""
        used = {"service": "etcd", "reloads": False, "running": True, "started_at": "2026-11-20T10:00:00Z"}
        at = {"endpoint": "127.0.0.1:2379", "service": "etcd", "sha256": "ab", "matches": False, "reason": None}
        silent = {**at, "endpoint": "[::1]:1", "sha256": None, "matches": None, "reason": "refused"}
        good = {**at, "endpoint": "127.0.0.1:2380", "matches": True}
        stopped = {**used, "service": "haproxy", "running": False, "reloads": True, "started_at": None}
        said = shown(
            status(entry("server", used_by=[used, stopped], served=[at, good, silent]), entry("x", consumers=["y"]))
        )
        assert "etcd running since 2026-11-20 10:00 UTC ; needs a restart for a new certificate" in said.text
        assert "serves 127.0.0.1:2379 DIFFERS from server" in said.text
        assert "127.0.0.1:2380 matches server" in said.text
        assert "[::1]:1 (no certificate: refused)" in said.text
        assert "haproxy not running; reloads its files" in said.text
        assert "y state unknown" in said.text


class TestActivity:
    def test_everything(self) -> None:
        """Plan, what is held, the rotation with its phase, and events are shown; in observe mode as what would be."""
        said = shown(status(), busy()).text
        for sentence in (
            "issue apiserver: is due; restarts kube-apiserver", "held b until 2026-12-01 00:00 UTC : an upgrade runs",
            "Observe mode executes none of them",
            "ca , overlap: trust since 2026-12-01 00:00 UTC",
            "detach the signer gets separate files reached",
            "trust all components trust both CAs now", "done the rotation is complete pending",
            "node-2", "Of 12 workers 4 may act, 3 have acknowledged the phase.", "started", "error it has begun",
        ):  # fmt: skip
            assert sentence in said
        assert "certmond executes these steps now, in this order." in shown(status(mode="enforce"), busy()).text

    def test_the_current_phase(self) -> None:
        """Exactly the phase that is under way is marked as current, of every rotation in every phase."""
        old, new = (builders.make_ca().facts for _ in range(2))
        for mode in Mode:
            first = Rotation("r1", "ca", mode, (old,), new, Phase.PREPARE, NOW)
            for place, phase in enumerate(sequence(first)):
                doing = activity_document(Plan(), replace(first, phase=phase), (), None, [])
                parsed = shown(status(), doing)
                assert sum("aria-current" in attributes for _, attributes in parsed.elements) == 1
                assert parsed.text.count(" reached ") == place

    def test_a_long_plan(self) -> None:
        """Of a plan with very many steps the first are shown, and the rest is counted."""
        doing = busy()
        doing["plan"]["steps"] *= page.STEPS + 7
        assert "and 7 more; certmond plan lists them" in shown(status(), doing).text

    def test_not_known(self) -> None:
        """If the daemon published no activity, the page is shown without it."""
        assert "The plan is unknown." in shown(status()).text


class TestHalted:
    def test_since_when(self) -> None:
        """A daemon that is dead or makes no pass is reported in a sentence that stays the same meanwhile."""
        beat = {"alive_at": 1000.0, "pass_at": 900.0, "resync": 300, "ready": True}

        def said(now: float, **fields: object) -> str | None:
            return halted(json.dumps({**beat, **fields}).encode(), now)

        assert said(1001) is None
        assert said(1100) == said(9999) == "The daemon has written no heartbeat since 1970-01-01 00:16:40 UTC"
        assert said(5000, alive_at=5000.0) == "The daemon's last pass was at 1970-01-01 00:15:00 UTC"
        assert said(1001, pass_at=None) == "The daemon has not completed its first pass"
        assert halted(None, 1.0) == "The daemon is not running"
        beyond = [json.dumps({**beat, "alive_at": instant}).encode() for instant in (1e17, 1e300)]  # of any calendar
        for broken in (b"", b"[]", b'{"alive_at": "x"}', b"[" * 100_000, *beyond):
            assert halted(broken, 1.0) == "certmond cannot read the daemon's heartbeat"

    def test_on_the_page(self) -> None:
        """The sentence is above everything, with the time of the last pass."""
        said = shown(status(), NOTHING, "The daemon is not running").text
        assert "The daemon is not running. The page shows the state at 2026-11-24 12:00:00 UTC." in said
        assert said.index("not running") < said.index("Findings")

    def test_nothing_rendered(self) -> None:
        """Where there is nothing to show, the page says why."""
        parsed = Parsed(empty("/run/<x> cannot be read"))
        assert "No data yet" in parsed.text
        assert "/run/<x> cannot be read" in parsed.text


def test_the_styles_and_the_script_are_packaged() -> None:
    """What the page needs beside its code is named as data of the package."""
    root = Path(__file__).parents[3]
    declared = (root / "pyproject.toml").read_text()
    for name in ("page.css", "page.js"):
        assert (root / "certmond" / "expose" / "page" / name).is_file()
        assert f'"expose/page/{name}"' in declared


def test_a_broken_file_keeps_its_bar(node: Node) -> None:
    """A certificate whose file broke is shown with its last good facts, and said to be old."""
    store = Store(load().certificates, str(node.root))
    before = assess(store.observe(), NOW)
    node.write(f"{PKI}/apiserver.crt", b"")
    after = status_document(assess(Store(load().certificates, str(node.root)).observe(), NOW, before), "observe", None)
    assert "unusable now; these facts are from the certificate that certmond last read" in shown(after).text
