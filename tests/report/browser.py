"""A real Chromium that tests drive: it clicks, types, reads back, and prints. No driver and no package is needed: a
browser takes commands of its DevTools protocol, JSON ended by a zero byte, through a pipe.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHOUT = "no Chromium on this machine (apt-get install chromium)"
WORDS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
    "--remote-debugging-pipe",
]  # fmt: skip
KEYS = {"ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Enter": 13, "Tab": 9}
PATIENCE_S = 120.0


class Browser:
    """One page of one browser."""

    def __init__(self, scratch: Path, size: tuple[int, int] = (1200, 1000)) -> None:
        assert CHROMIUM is not None
        to_browser, self.out = os.pipe()
        self.into, from_browser = os.pipe()
        # The browser reads at 3 and writes at 4, and a pipe of ours may have either number: a shell puts them there.
        high = [os.dup2(fd, 100 + i, inheritable=True) for i, fd in enumerate((to_browser, from_browser))]
        command = 'exec "$@" 3<&100 4>&101 100<&- 101>&-'
        words = [CHROMIUM, *WORDS, f"--user-data-dir={scratch / 'profile'}"]
        # Bash: dash takes no number of two digits.
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", *words],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (to_browser, from_browser, *high):
            os.close(fd)
        self.number, self.rest, self.session = 0, b"", None
        self.console: list[str] = []  # what the page complained of
        self.loaded, self.scripts = False, True
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Security"):
            self.call(f"{domain}.enable")
        self.size(*size)

    def close(self) -> None:
        try:
            self.session = None
            self.call("Browser.close")
        except EOFError:
            pass
        self.process.wait(30)
        os.close(self.out)
        os.close(self.into)

    # --- the protocol
    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        number = self.number
        while True:
            answer = self.read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.into], [], [], PATIENCE_S)
            assert ready, f"the browser said nothing for {PATIENCE_S:g} s"
            piece = os.read(self.into, 2**20)
            if not piece:
                raise EOFError
            self.rest += piece
        one, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled":
            self.console.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded":
            self.console.append(str(params["entry"].get("text")))
        return message

    # --- what a person does
    def open(self, page: Path) -> float:
        """Open a page; the seconds until it was loaded and drawn."""
        self.loaded = False
        begun = time.perf_counter()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self.loaded:
            self.read()
        if self.scripts:
            self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        return time.perf_counter() - begun

    def js(self, expression: str) -> Any:
        """The value of an expression on the page; as the developer's tools do it, whatever the page's policy."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        found = self.js(f"document.querySelector({json.dumps(selector)})?.textContent")
        assert found is not None, f"nothing is {selector}"
        return found

    def texts(self, selector: str) -> list[str]:
        return self.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")

    def middle(self, selector: str, share: tuple[float, float] = (0.5, 0.5)) -> tuple[float, float]:
        """A point of an element, scrolled to."""
        x, y = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center', "
            "behavior: 'instant'}); const b = e.getBoundingClientRect(); return [b.left + "
            f"{share[0]} * b.width, b.top + {share[1]} * b.height]; }})()"
        )
        return x, y

    def mouse(self, kind: str, x: float, y: float, clicks: int = 1) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=clicks)

    def click(self, selector: str, share: tuple[float, float] = (0.5, 0.5)) -> None:
        x, y = self.middle(selector, share)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def drag(self, selector: str, start: tuple[float, float], stop: tuple[float, float]) -> None:
        """With the mouse, between two points of an element."""
        (x0, y0), (x1, y1) = self.middle(selector, start), self.middle(selector, stop)
        self.mouse("mousePressed", x0, y0)
        self.mouse("mouseMoved", (x0 + x1) / 2, (y0 + y1) / 2)
        self.mouse("mouseMoved", x1, y1)
        self.mouse("mouseReleased", x1, y1)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, *keys: str) -> None:
        for key in keys:
            told: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0]))}
            if len(key) == 1:
                told["text"] = key
            self.call("Input.dispatchKeyEvent", type="keyDown", **told)
            self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    # --- how a person looks
    def script(self, on: bool) -> None:
        self.call("Emulation.setScriptExecutionDisabled", value=not on)
        self.scripts = on

    def media(self, kind: str = "screen", scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def print(self, path: Path) -> Path:
        found = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(found["data"]))
        return path
