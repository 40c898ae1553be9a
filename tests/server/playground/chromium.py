"""A real browser for tests: headless Chromium over the DevTools protocol, on two pipes, without a library.

Chromium reads commands from file descriptor 3 and writes answers and events to 4, each a JSON text that a zero byte
ends (`--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60.0
"""Seconds after which something that should have happened has not. Nothing is measured by it."""

_SWITCHES = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # containers rarely let it make one, and it sees only pages of these tests
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--force-prefers-reduced-motion",
    "--hide-scrollbars",
)
_ON_PIPES = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'
_KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), " ": (32, " ")}
_SHIFT = 8


def find() -> str | None:
    """Where a Chromium is, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A running browser. `close` ends it."""

    def __init__(self, program: str, profile: Path) -> None:
        self._process = subprocess.Popen(
            # The pipes must have these very numbers, and only a shell can say so.
            ["/bin/sh", "-c", _ON_PIPES, program, *_SWITCHES, f"--user-data-dir={profile}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        assert self._process.stdin
        assert self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._output, selectors.EVENT_READ)
        self._buffer = b""
        self._num_sent = 0
        self._pages: dict[str, Page] = {}

    def new_page(self, url: str, *, width: int = 1280, height: int = 800, scheme: str = "light") -> Page:
        """Open an address in a window of its own, with no cookies or storage of another. scheme: "light" or "dark"."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Log"):
            page.send(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        page.send("Emulation.setDeviceMetricsOverride", **size)
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.send("Page.navigate", url=url)
        page.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page

    def send(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """One command and its answer; events that come between go to their pages."""
        self._num_sent += 1
        number = self._num_sent
        command = {"id": number, "method": method, "params": parameters}
        self._input.write(json.dumps(command | ({"sessionId": session} if session else {})).encode() + b"\0")
        self._input.flush()
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self._receive(deadline)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result
            if page := self._pages.get(message.get("sessionId", "")):
                page.saw(message)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not self._ready.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._output.fileno(), 1 << 16)
            if not data:
                raise ConnectionError(f"Chromium has gone: exit code {self._process.wait()}")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def close(self) -> None:
        """End the browser."""
        self.send("Browser.close")
        self._input.close()
        self._output.close()
        self._ready.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Page:
    """One window. complaints: what its console, its policy and its scripts complained about; dialogs: what it asked."""

    def __init__(self, browser: Chromium, session: str, context: str) -> None:
        self._browser, self._session, self._context = browser, session, context
        self.complaints: list[str] = []
        self.dialogs: list[str] = []

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        """A command to this window."""
        return self._browser.send(method, self._session, **parameters)

    def saw(self, event: Mapping[str, Any]) -> None:
        """Take note of an event."""
        details = event.get("params", {})
        match event.get("method"):
            case "Log.entryAdded" if details["entry"]["level"] in ("warning", "error"):
                self.complaints.append(details["entry"]["text"])
            case "Runtime.exceptionThrown":
                thrown = details["exceptionDetails"]
                self.complaints.append(thrown.get("exception", {}).get("description", thrown["text"]))
            case "Page.javascriptDialogOpening":
                self.dialogs.append(details["message"])

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in done:
            thrown = done["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", {}).get("description", thrown["text"]))
        return done["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Return once an expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never came true: {condition}; the page says: {self.text('body')}")
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """What a person reads in all elements that match, a line for each."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.innerText)"
        return "\n".join(self.evaluate(found))

    def click(self, selector: str) -> None:
        """A mouse click on the middle of the first element that matches, which must be in view."""
        box = self.evaluate(
            f"""(() => {{
              const node = document.querySelector({json.dumps(selector)});
              node.scrollIntoView({{block: "nearest"}});
              const box = node.getBoundingClientRect();
              return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Text into the element that has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key down and up."""
        code, text = _KEYS[key]
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": _SHIFT if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path: Path) -> None:
        """What the window shows, as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def allow(self, *permissions: str) -> None:
        """Grant what a person would be asked for."""
        self._browser.send("Browser.grantPermissions", browserContextId=self._context, permissions=permissions)

    def close(self) -> None:
        """Close the window and forget its storage."""
        self._browser.send("Target.disposeBrowserContext", browserContextId=self._context)


def started(profile: Path) -> Iterator[Chromium]:
    """A browser for a fixture to yield, closed afterwards; where there is none, what asks for it is skipped."""
    program = find()
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is on the path")
    browser = Chromium(program, profile)
    yield browser
    browser.close()
