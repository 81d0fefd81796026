"""The page in a real Chromium, from the real server, with the state that a real daemon publishes."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from certmond.expose.http import heartbeat_check
from certmond.expose.http.server import Server, make_server
from certmond.expose.page.html import identity
from tests.chromium import Browser, Page, chromium
from tests.conftest import real_part
from tests.daemon_harness import Running, running
from tests.free_ports import free_port
from tests.node import PKI, Node

AXE = Path(__file__).parents[1] / "data" / "axe" / "axe.min.js"
HOSTILE = "<script>harmed=1</script>\"'><img src=/x onerror=harmed=2>"
HOSTILE_FILE = "\"'><script>harmed=3<!--<img src=x onerror=harmed=4>.crt"
TREE = {
    "ca": {
        "apiserver", "apiserver-kubelet-client", "admin.conf", "controller-manager.conf", "scheduler.conf",
        "kubelet-client",
    },
    "front-proxy-ca": {"front-proxy-client"},
    "etcd-ca": {"etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client"},
}  # fmt: skip
"""What kubeadm signed with what."""

STOP = """(() => {
    const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
    const width = parseFloat(style.outlineWidth), out = width + parseFloat(style.outlineOffset);
    const cuts = (each) => ["auto", "hidden"].includes(getComputedStyle(each).contentVisibility);
    let clip = at.parentElement;
    while (clip && !cuts(clip)) clip = clip.parentElement;
    const room = clip ? clip.getBoundingClientRect() : new DOMRect(0, 0, innerWidth, innerHeight);
    const whole = box.top - out >= room.top && box.bottom + out <= room.bottom && box.left - out >= room.left
        && box.right + out <= room.right && box.top >= 0 && box.bottom <= innerHeight;
    const ring = style.outlineStyle === "solid" && width >= 2 && whole;
    return [[...document.querySelectorAll("a, summary")].indexOf(at), ring];
})()"""
"""The stop of the keyboard that has the focus, and whether all of its ring is visible."""

pytestmark = pytest.mark.real("chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(real_part("chromium"), tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@dataclass
class Shown:
    """A node under a daemon, and where its page is."""

    node: Node
    daemon: Running
    url: str

    def entry(self, name: str) -> dict[str, Any]:
        entry = self.daemon.entry(name)
        assert entry
        return entry

    def row(self, name: str) -> str:
        """The expression that is a certificate's row."""
        return f"document.getElementById({json.dumps(identity(self.entry(name)))})"


@contextmanager
def listening(runtime: Path, port: int = 0) -> Iterator[Server]:
    """A server whose patience no client exhausts, and for which a heartbeat of this test is recent."""
    with (
        pytest.MonkeyPatch.context() as patch,
        make_server(runtime, f"127.0.0.1:{port}") as server,
    ):
        patch.setattr(heartbeat_check, "ALIVE_SECONDS", 900)
        server.patience = 1000
        loop = threading.Thread(target=server.serve_forever)
        loop.start()
        try:
            yield server
        finally:
            server.stop()
            loop.join()


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.address[1]}/"


@contextmanager
def showing(node: Node, work: Path, *options: str) -> Iterator[Shown]:
    with running(node.root, work, *options) as daemon, listening(daemon.runtime) as server:
        yield Shown(node, daemon, url_of(server))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A node with a key of another, and a subject and a file name that try to be markup; no test changes it."""
    node, work = Node(tmp_path_factory.mktemp("node")), tmp_path_factory.mktemp("work")
    node.write(f"{PKI}/apiserver-etcd-client.key", node.read(f"{PKI}/etcd/peer.key"))
    node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca", subject=f"CN={escaped(HOSTILE)}")
    node.path("more").mkdir()
    node.write(f"more/{HOSTILE_FILE}", node.read(f"{PKI}/apiserver.crt"))
    config = work / "config.yaml"
    config.write_text("certificates: [{name: more, path: '/more/*.crt', ca: ca, key_optional: true}]\n")
    with showing(node, work, "--config", str(config)) as shown:
        # A pair that is torn is waited for before it is judged.
        shown.daemon.until(lambda: "key_mismatch" in shown.daemon.reasons("apiserver-etcd-client"), "tells of the key")
        yield shown


def escaped(value: str) -> str:
    """As an attribute value of a distinguished name is written (RFC 4514, section 2.4)."""
    return "".join(f"\\{each}" if each in ',+"\\<>;' else each for each in value)


def axe(page: Page) -> list[str]:
    """Return the violations of axe-core on the present page, for all rules except experimental ones."""
    page.run(AXE.read_text() + ";0")
    result = page.run("axe.run(document).then((found) => JSON.stringify(found.violations))")
    return [f"{each['id']}: {each['help']}: {[at['html'] for at in each['nodes']]}" for each in json.loads(result)]


@pytest.mark.long
def test_the_tree(browser: Browser, shown: Shown) -> None:
    """Below each trust anchor stand the certificates that chain to it, the Root CA's first."""
    with browser.page() as page:
        page.open(shown.url)
        branches = page.run("""[...document.querySelectorAll(".tree > li")].map((branch) => [
            branch.querySelector("h3").textContent,
            [...branch.querySelectorAll(".leaves .name")].map((each) => each.textContent)])""")
        assert {name: set(leaves) - {"more"} for name, leaves in branches if name in TREE} == TREE
        assert [name for name, _ in branches][: len(TREE)] == list(TREE)


def test_the_bars(browser: Browser, shown: Shown) -> None:
    """Each certificate has a bar for its remaining lifetime, with a tick at its renewal point, and a label
    with both.
    """
    with browser.page() as page:
        page.open(shown.url)
        for name in ("ca", *TREE["ca"]):
            left, tick, label, whole = page.run(f"""(() => {{ const bar = {shown.row(name)}.querySelector("svg");
                const rest = bar.querySelector(".rest").getBoundingClientRect(), tick = bar.querySelector(".tick");
                return [rest.width, tick.getBBox().x, bar.getAttribute("aria-label"),
                    bar.getBoundingClientRect().width]; }})()""")
            assert whole > 100
            said = re.fullmatch(r"(\S+): (\d+) % of its lifetime remains, renewal at (\d+) %", label)
            assert said, label
            assert (said[1], int(said[3])) == (name, round(tick))
            # The bar has the lifetime rounded to a tenth of a percent, and the label has it rounded to one percent.
            assert abs(int(said[2]) - 100 * left / whole) < 0.56
        assert page.texts("#chains [role=img]") == [""] * (len(TREE) + sum(map(len, TREE.values())) + 1)


def test_a_click_selects_the_whole_value(browser: Browser, shown: Shown) -> None:
    """One click selects the complete path, serial number or digest, so that a reader can copy the value."""
    entry = shown.entry("apiserver")
    with browser.page() as page:
        page.open(shown.url)
        page.run(f"{shown.row('apiserver')}.open = true")
        for value in (entry["path"], entry["serial_hex"], entry["sha256"], entry["subject"]):
            x, y = page.run(f"""(() => {{
                const at = [...{shown.row("apiserver")}.querySelectorAll(".whole")].find(
                    (each) => each.textContent === {json.dumps(value)});
                at.scrollIntoView({{block: "center"}});
                const box = at.getBoundingClientRect();
                return [box.x + 4, box.y + box.height / 2]; }})()""")
            for kind in ("mousePressed", "mouseReleased"):
                page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
            page.until(f"getSelection().toString() === {json.dumps(value)}")


@pytest.mark.long
def test_a_removed_certificate_stays_below_its_ca(browser: Browser, node: Node, tmp_path: Path) -> None:
    """If the file of a certificate is removed, its row moves to no other CA, and its bar is empty."""
    with showing(node, tmp_path) as shown, browser.page() as page:
        page.open(shown.url)
        branch = f"{shown.row('etcd-peer')}.closest('.tree > li').querySelector('h3').textContent"
        assert page.run(branch) == "etcd-ca"
        row = shown.row("etcd-peer")
        shown.node.path(f"{PKI}/etcd/peer.crt").unlink()
        page.until(f"!{row}.querySelector('svg .rest')")
        assert page.run(branch) == "etcd-ca"
        assert page.run(f"{row}.querySelector('svg').getAttribute('aria-label')") == "etcd-peer: no certificate"
        assert axe(page) == []


def test_findings(browser: Browser, shown: Shown) -> None:
    """Findings stand worst first, each with its remedy and a link that opens the certificate's facts."""
    with browser.page() as page:
        page.open(shown.url)
        severities = page.texts("#findings .severity")
        assert severities == sorted(severities, key=["critical", "warning", "info"].index)
        assert "critical apiserver-etcd-client key_mismatch" in page.text("#findings")
        assert "issue the certificate again: certmond renew apiserver-etcd-client" in page.texts("#findings .remedy")
        assert not page.run(f"{shown.row('apiserver-etcd-client')}.open")
        page.run("""[...document.querySelectorAll("#findings a")].find(
            (each) => each.textContent === "apiserver-etcd-client").click()""")
        page.until(f"{shown.row('apiserver-etcd-client')}.open")
        assert "the private key DIFFERS" in page.run(f"{shown.row('apiserver-etcd-client')}.textContent")


def test_hostile_names(browser: Browser, shown: Shown) -> None:
    """A subject and a file name that are markup are shown as they are written, and nothing of them is carried out."""
    with browser.page() as page:
        page.open(shown.url)
        assert escaped(HOSTILE) in page.run(f"{shown.row('front-proxy-client')}.textContent")
        assert HOSTILE_FILE in page.run(f"{shown.row('more')}.textContent")
        assert page.run("typeof window.harmed") == "undefined"
        assert page.run("document.images.length + document.scripts.length") == 1
        assert page.complaints() == []


@pytest.mark.long
def test_nothing_else_is_loaded(browser: Browser, shown: Shown) -> None:
    """The page repeatedly loads only its own address, and the console stays empty."""
    with browser.page() as page:
        page.open(shown.url)
        page.until("performance.getEntriesByType('resource').length > 1")
        assert set(page.requests()) == {shown.url}
        assert page.complaints() == []


@pytest.mark.long
def test_a_replaced_certificate(browser: Browser, node: Node, tmp_path: Path) -> None:
    """When a certificate is replaced the page updates without a scroll. Open entries stay open, and the focus stays."""
    with showing(node, tmp_path) as shown, browser.page(height=400) as page:
        page.open(shown.url)
        row = shown.row("apiserver")
        page.run(f"{row}.open = true; {row}.querySelector('summary').focus(); {row}.same = true; scrollTo(0, 300)")
        before = shown.entry("apiserver")["serial_hex"]
        assert before in page.run(f"{row}.textContent")
        shown.node.reissue(f"{PKI}/apiserver")
        serial = shown.daemon.until(
            lambda: (now := shown.entry("apiserver")["serial_hex"]) != before and now, "the daemon sees it"
        )
        page.until(f"{row}.textContent.includes('{serial}')")
        page.until("document.querySelector('#events').textContent.includes('certificate_changed')")
        assert page.run(f"{row}.same && {row}.open && document.activeElement === {row}.querySelector('summary')")
        assert page.run("scrollY") == 300
        assert page.complaints() == []


@pytest.mark.long
def test_a_finding_that_comes_and_goes(browser: Browser, node: Node, tmp_path: Path) -> None:
    """A finding is shown and taken away by itself, with the verdict, the title and the icon."""
    with showing(node, tmp_path) as shown, browser.page() as page:
        page.open(shown.url)
        good = page.run("document.title")
        icon = page.run("document.querySelector('link[rel=icon]').href")
        key = shown.node.read(f"{PKI}/apiserver.key")
        shown.node.replace(f"{PKI}/apiserver.key", shown.node.read(f"{PKI}/etcd/peer.key"))
        page.until("document.querySelector('#findings').textContent.includes('key_mismatch')")
        assert page.text("[role=status]").startswith("1 critical finding")
        assert page.run("document.title").startswith("1 critical finding")
        assert page.run("document.querySelector('link[rel=icon]').href") != icon
        shown.node.replace(f"{PKI}/apiserver.key", key)
        page.until(f"document.title === {json.dumps(good)}")
        assert "key_mismatch" not in page.text("#findings")


def test_without_javascript(browser: Browser, shown: Shown) -> None:
    """Without JavaScript the page has all that it has with it, and a certificate's facts can be opened."""
    with browser.page() as with_script, browser.page(script=False) as without:
        contents = list[str]()
        for page in (with_script, without):
            page.open(shown.url)
            text = page.run("document.querySelector('#live').textContent")
            contents.append(re.sub(r"\d\d:\d\d:\d\d UTC", "TIME", text))  # the daemon can publish between both
        assert contents[0] == contents[1]
        assert without.text("#how") == "Reload the page to update it."
        assert without.run("document.querySelectorAll('.tree summary').length") > 10
        place = without.run("""(() => { const at = document.querySelector(".tree summary").getBoundingClientRect();
            return [at.x + 50, at.y + at.height / 2]; })()""")
        for kind in ("mousePressed", "mouseReleased"):
            without.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
        without.until("document.querySelector('.tree details').open")
        assert without.complaints() == []


@pytest.mark.long
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_accessibility(browser: Browser, shown: Shown, dark: bool, width: int) -> None:
    """axe-core finds nothing against the page, in light and in dark, on a desktop and on a phone, closed and opened."""
    with browser.page(dark=dark, width=width) as page:
        page.open(shown.url)
        assert page.run("getComputedStyle(document.body).backgroundColor") == (
            "rgb(18, 21, 24)" if dark else "rgb(251, 251, 250)"
        )
        assert axe(page) == []
        page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert axe(page) == []


def test_by_keyboard(browser: Browser, shown: Shown) -> None:
    """The first stop of the keyboard leads past the head of the page."""
    with browser.page() as page:
        page.open(shown.url)
        page.press("Tab")
        assert page.run("document.activeElement.getAttribute('href')") == "#main"
        assert page.run("document.activeElement.getBoundingClientRect().x") >= 0


def test_each_stop_of_the_keyboard(browser: Browser, shown: Shown) -> None:
    """Each link and each certificate is a stop, in the order of the page, with a complete focus ring (WCAG 2.4.7). A
    stop below the window scrolls into it. Enter opens and closes a certificate.
    """
    with browser.page(height=400) as page:
        page.open(shown.url)
        count = page.run("document.querySelectorAll('a, summary').length")
        stops, cut = [], []
        for _ in range(count):
            page.press("Tab")
            at, ring = page.run(STOP)
            stops.append(at)
            cut += [] if ring else [page.run("document.activeElement.outerHTML")]
        assert stops == list(range(count))
        assert cut == []
        page.run("document.querySelector('.leaves summary').focus()")
        for is_open in (True, False):
            page.press("Enter")
            assert page.run("document.activeElement.parentElement.open") is is_open


@pytest.mark.parametrize("width", [320, *(pytest.param(width, marks=pytest.mark.long) for width in (360, 640))])
def test_on_a_phone(browser: Browser, shown: Shown, width: int) -> None:
    """On a phone, also one of 320 px, and at 200 % in a window of 1,280 px, the page is one column, and no wider than
    the screen (WCAG 1.4.10), with everything opened.
    """
    with browser.page(width=width, height=640) as page:
        page.open(shown.url)
        page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.run("document.documentElement.scrollWidth") == width
        lefts = page.run("[...document.querySelectorAll('section')].map((each) => each.getBoundingClientRect().x)")
        assert len(set(lefts)) == 1


@pytest.mark.long
def test_a_dead_daemon(browser: Browser, node: Node, tmp_path: Path) -> None:
    """When the daemon has died, the page shows the time of its last heartbeat."""
    with showing(node, tmp_path) as shown, browser.page() as page:
        page.open(shown.url)
        assert not page.run("document.querySelector('#halted') !== null")
        shown.daemon.stop(signal.SIGKILL)
        path = shown.daemon.runtime / "heartbeat.json"
        beat = json.loads(path.read_text())
        path.with_suffix(".new").write_text(json.dumps({**beat, "alive_at": 1_700_000_000.0}))
        os.replace(path.with_suffix(".new"), path)
        page.until("document.querySelector('#halted')")
        assert "no heartbeat since 2023-11-14 22:13:20 UTC" in page.text("#halted")
        assert axe(page) == []


@pytest.mark.long
def test_a_server_that_goes_away(browser: Browser, shown: Shown) -> None:
    """While the server does not answer, the page shows the time of its state. It continues when an answer arrives."""
    port = free_port()
    with browser.page() as page, listening(shown.daemon.runtime, port) as server:
        page.open(url_of(server))
        server.stop()
        page.until("!document.querySelector('#connection').hidden")
        assert "This page shows the state at 20" in page.text("#connection")
        assert axe(page) == []
        with listening(shown.daemon.runtime, port):
            page.until("document.querySelector('#connection').hidden")


@pytest.mark.long
def test_a_name_that_was_made_to_lead_here(browser: Browser, shown: Shown) -> None:
    """A page whose name leads to loopback reads nothing there, though to the browser it is its own."""
    with browser.page() as page:
        page.open(shown.url.replace("127.0.0.1", "rebound.example"))
        assert page.text("body").startswith("the request is for another host: ")
        for path in ("/", "/metrics", "/api/v1/status"):
            assert page.run(f"fetch('{path}').then((answer) => answer.status)") == 421


@pytest.mark.long
def test_on_paper(browser: Browser, shown: Shown) -> None:
    """On paper there is what can be read, and nothing to click on."""
    with browser.page() as page:
        page.open(shown.url)
        page.call("Emulation.setEmulatedMedia", media="print")
        assert page.run("getComputedStyle(document.querySelector('footer')).display") == "none"
        assert page.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
