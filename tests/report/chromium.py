"""Debian's Chromium without a screen, driven through the pipe of its DevTools: what the page says, asks for and draws."""

import json
import os
import select
import subprocess
import time
from base64 import b64decode
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps", "--no-first-run",
    "--disable-dev-shm-usage", "--disable-domain-reliability", "--remote-debugging-pipe",
)  # fmt: skip


class Chromium:
    """One page in a browser of its own; everything it complained about and asked for is kept."""

    def __init__(self, profile: Path, *flags: str) -> None:
        asked, ask = os.pipe()
        answer, answered = os.pipe()

        def pipes() -> None:  # DevTools reads from 3 and writes to 4
            spare = os.dup(asked), os.dup(answered)
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        words = ["chromium", *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            words, preexec_fn=pipes, close_fds=True, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(asked)
        os.close(answered)
        self.ask, self.answer, self.rest, self.number = ask, answer, b"", 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    session = ""

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
        except (OSError, TimeoutError):
            self.process.kill()
        os.close(self.ask)
        os.close(self.answer)
        self.process.wait(timeout=20)

    def call(self, method: str, **parameters: object) -> dict:
        """One command, and its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.ask, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 60
        while True:
            found = self._next(until)
            if found.get("id") == message["id"]:
                assert "error" not in found, f"{method}: {found['error']}"
                return found["result"]
            self._event(found)

    def _next(self, until: float) -> dict:
        while b"\0" not in self.rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.answer], [], [], left)[0]:
                raise TimeoutError("the browser does not answer")
            block = os.read(self.answer, 1 << 20)
            if not block:
                raise OSError("the browser has gone")
            self.rest += block
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def _event(self, event: dict) -> None:
        said = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in said["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"])[:1000])
            case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                self.complaints.append(said["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])

    def open(self, page: Path, *, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Go to a file and wait until it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        self.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(page.as_uri())}")

    def value(self, expression: str) -> object:
        """What an expression is in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 60) -> None:
        """Until it is true."""
        until = time.monotonic() + seconds
        while not self.value(condition):
            if time.monotonic() > until:
                raise TimeoutError(condition)
            time.sleep(0.05)

    def picture(self, *, whole: bool = False, box: tuple[float, float, float, float] | None = None) -> bytes:
        """PNG of the window, of the whole page, or of a box (x, y, width, height) of it."""
        more: dict[str, object] = {}
        if box is not None:
            more["clip"] = {"x": box[0], "y": box[1], "width": box[2], "height": box[3], "scale": 1}
        return b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole or box is not None, **more)["data"])
