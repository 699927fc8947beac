"""Headless Chromium over its pipe: open a page at a width and a scheme of colours, ask it, take a picture.

    with Browser() as browser:
        view = browser.open(path, width=390, dark=True)
        view.ask("document.title")
        view.picture(Path("page.png"))

The DevTools protocol, as JSON with a zero byte behind each message on two pipes: no port, no library.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Browser", "View", "chromium"]

SECONDS = 90
"""Until the browser has answered; the machine may be busy."""
DRAWN = "document.body && document.body.dataset.drawn === 'yes'"


def chromium() -> str | None:
    """The browser of this machine."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class View:
    """One page, open."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session
        self.requests: list[str] = []
        """What the page asked for, itself included."""
        self.complaints: list[str] = []
        """Errors and warnings of its console, and what it threw."""

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript; what it throws is an error."""
        told = self.browser.call(
            "Runtime.evaluate",
            {"expression": expression, "returnByValue": True, "awaitPromise": True},
            self.session,
        )
        if "exceptionDetails" in told:
            raise AssertionError(json.dumps(told["exceptionDetails"])[:2000])
        return told["result"].get("value")

    def wait(self, expression: str = DRAWN) -> None:
        """Until an expression holds."""
        end = time.monotonic() + SECONDS
        while not self.ask(expression):
            assert time.monotonic() < end, f"never true: {expression}; {self.complaints}"
            time.sleep(0.1)

    def picture(self, path: Path, tall: int = 20_000) -> None:
        """Write the whole page as PNG."""
        width, height = self.ask("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, tall), "scale": 1}
        options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        told = self.browser.call("Page.captureScreenshot", options, self.session)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        self.browser.call("Page.close", {}, self.session)


class Browser:
    """One Chromium process with a profile of its own."""

    def __enter__(self) -> Browser:
        program = chromium()
        assert program is not None, "no chromium here: apt-get install chromium"
        self._profile = tempfile.TemporaryDirectory(prefix="memexp-look-", ignore_cleanup_errors=True)
        read_by_it, self._to = os.pipe()
        self._from, written_by_it = os.pipe()
        options = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-extensions", "--mute-audio"),
            *("--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "about:blank"),
        ]
        # It reads from descriptor 3 and writes to 4.
        shell = f'exec "$0" "$@" 3<&{read_by_it} 4>&{written_by_it}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, program, *options],
            pass_fds=(read_by_it, written_by_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_by_it)
        os.close(written_by_it)
        self._buffer, self._number = b"", 0
        self._views: dict[str, View] = {}
        self.call("Browser.getVersion", {})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, drawn: str = DRAWN) -> View:
        """Open a file and wait until its charts are drawn."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        view = self._views[session] = View(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable", {}, session)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", metrics, session)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"features": [scheme]}, session)
        self.call("Page.navigate", {"url": path.absolute().as_uri()}, session)
        view.wait(drawn)
        return view

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """One command and its answer; what happens meanwhile is kept with its page."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                found: dict[str, Any] = told["result"]
                return found
            self._happened(told)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], SECONDS)
            assert ready, "the browser does not answer"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has gone"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _happened(self, event: dict[str, Any]) -> None:
        view = self._views.get(event.get("sessionId", ""))
        if view is None:
            return
        method, params = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            view.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            view.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            view.complaints.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            view.complaints.append(params["entry"]["text"])
