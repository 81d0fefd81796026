"""A real Chromium, controlled over a pipe in the DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/).

The protocol needs two descriptors and JSON with a NUL at its end. It needs no driver of the browser's version and no
library. Each page has its own context, and the pages share only the process.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deadline import DEADLINE

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-pipe", "--host-resolver-rules=MAP rebound.example 127.0.0.1",
)  # fmt: skip
PATIENCE = 2 * DEADLINE
"""Seconds until an awaited event must arrive. No test asserts how soon it does."""

Message = dict[str, Any]


class Browser:
    """The browser process, and its unsolicited messages."""

    def __init__(self, process: subprocess.Popen[bytes], out: int, into: int) -> None:
        self.process, self._out, self._into = process, out, into
        self._rest = b""
        self._number = 0
        self.events: list[Message] = []

    def call(self, method: str, session: str | None = None, **parameters: object) -> Message:
        """Run one command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        answer = self._until(lambda message: message.get("id") == self._number, method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: Message = answer["result"]
        return result

    def await_event(self, method: str, session: str) -> Message:
        """Return the first event of this kind that was not returned before."""

        def wanted(message: Message) -> bool:
            return message.get("method") == method and message.get("sessionId") == session

        for event in filter(wanted, self.events):
            self.events.remove(event)
            return event
        return self._until(wanted, method)

    def _until(self, wanted: Callable[[Message], bool], what: str) -> Message:
        deadline = time.monotonic() + PATIENCE
        while True:
            head, end, rest = self._rest.partition(b"\0")
            if end:
                self._rest = rest
                message: Message = json.loads(head)
                if wanted(message):
                    return message
                self.events.append(message)
                continue
            if not select.select([self._into], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"Chromium says nothing to {what}")
            data = os.read(self._into, 1 << 20)
            assert data, f"Chromium ended at {what}"
            self._rest += data

    @contextmanager
    def page(self, *, script: bool = True, dark: bool = False, width: int = 1440, height: int = 900) -> Iterator[Page]:
        """Return an empty tab in a new context."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setScriptExecutionDisabled", value=not script)
        page.call("Emulation.setEmulatedMedia", features=[scheme(dark)])
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


def scheme(dark: bool) -> dict[str, str]:
    return {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}


class Page:
    """A tab with all its errors and requests."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **parameters: object) -> Message:
        return self.browser.call(method, self.session, **parameters)

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        assert "errorText" not in self.call("Page.navigate", url=url)
        self.browser.await_event("Page.loadEventFired", self.session)

    def run(self, expression: str) -> Any:
        """Return the value of an expression, or the result of a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        look = f"const look = () => ({condition}) ? yes(true) : Date.now() > end ? yes(false) : setTimeout(look, 20)"
        end = f"const end = Date.now() + {int(1000 * PATIENCE / 2)}"
        assert self.run(f"new Promise((yes) => {{ {end}; {look}; look(); }})"), f"never so: {condition}"

    def text(self, selector: str) -> str:
        """Return the text of the element, whether or not it is in view."""
        said: str = self.run(f"document.querySelector({json.dumps(selector)}).textContent")
        return " ".join(said.split())

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.run(
            f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.textContent)"
        )
        return [" ".join(each.split()) for each in found]

    def press(self, key: str) -> None:
        number, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=number, text=text)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        form = path.suffix.removeprefix(".")  # png or webp
        shot = self.call("Page.captureScreenshot", format=form, captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, refusals of the policy and exceptions, up to now."""
        self.call("Browser.getVersion")  # wait for all messages before this answer
        kinds = {
            "Runtime.exceptionThrown": "exceptionDetails",
            "Runtime.consoleAPICalled": "args",
            "Log.entryAdded": "entry",
        }
        return [str(event[part]) for method, part in kinds.items() for event in self._own(method)]

    def requests(self) -> list[str]:
        """Return the URLs of all requests, except data URLs of the page itself."""
        self.call("Browser.getVersion")
        asked = [event["request"]["url"] for event in self._own("Network.requestWillBeSent")]
        return [url for url in asked if not url.startswith("data:")]

    def _own(self, method: str) -> list[Message]:
        return [
            event["params"]
            for event in self.browser.events
            if event.get("method") == method and event.get("sessionId") == self.session
        ]


@contextmanager
def chromium(command: str, work: Path) -> Iterator[Browser]:
    """A browser with an empty profile below `work`, until the block ends."""
    read_command, write_command = os.pipe()
    read_answer, write_answer = os.pipe()
    flags = (*FLAGS, f"--user-data-dir={work / 'profile'}")
    # The protocol's descriptors are 3 and 4. A shell can redirect any descriptor to them.
    line = ["bash", "-c", f'exec "$@" 3<&{read_command} 4>&{write_answer}', "chromium", command, *flags]
    with (work / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            pass_fds=(read_command, write_answer), env={**os.environ, "HOME": str(work), "XDG_CONFIG_HOME": str(work)},
        )  # fmt: skip
    os.close(read_command)
    os.close(write_answer)
    try:
        yield Browser(process, write_command, read_answer)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # a separate session: the browser and its helpers only
        process.wait()
        os.close(write_command)
        os.close(read_answer)
