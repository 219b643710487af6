"""A headless Chromium, driven over chromedriver by plain requests of the WebDriver protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, by the standard
ENTER = "\ue007"


def missing():
    """Why no page can be opened here; None where one can."""
    if shutil.which("chromedriver") is None:
        return "no chromedriver: apt-get install chromium-driver"
    if not any(map(shutil.which, BROWSERS)):
        return "no Chromium: apt-get install chromium"
    return None


needs_browser = pytest.mark.skipif(missing() is not None, reason=missing() or "")


class Browser:
    """One window; a context, so that nothing is left running."""

    def __init__(self, home: Path) -> None:
        """Start both programs.

        Args:
            home: an empty folder for the profile.
        """
        driver = shutil.which("chromedriver")
        binary = next(path for path in map(shutil.which, BROWSERS) if path)
        self.process = subprocess.Popen(
            [str(driver), "--port=0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.address = f"http://127.0.0.1:{self._port()}"
        arguments = [
            "--headless=new",
            "--no-sandbox",  # Chromium refuses to run as root otherwise, as in containers
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--window-size=1280,900",
            f"--user-data-dir={home}",
        ]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": binary, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        try:
            made = self._request("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise
        self.session = f"/session/{made['sessionId']}"
        self.open("about:blank")  # the page that new windows show asks for much
        self.requested()

    def _port(self) -> int:
        """The port that chromedriver found for itself."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "started successfully on port" in line:
                return int(line.rstrip(" .\n").rpartition(" ")[2])
        msg = "chromedriver ended before it listened"
        raise RuntimeError(msg)

    def __enter__(self) -> Browser:
        """Give the window."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the window and end the driver."""
        try:
            self._request("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.communicate()

    def _request(self, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401
        """Make a request; return its value, or raise what the browser says went wrong."""
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(f"{self.address}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        """Go to a page and wait until it is loaded."""
        self._request("POST", f"{self.session}/url", {"url": address})

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401
        """Run the body of a function in the page; it may return JSON."""
        body = {"script": script, "args": list(arguments)}
        return self._request("POST", f"{self.session}/execute/sync", body)

    def texts(self, selector: str) -> list[str]:
        """The text of each visible element."""
        script = """return [...document.querySelectorAll(arguments[0])]
            .filter((each) => each.getClientRects().length).map((each) => each.textContent)"""
        return self.run(script, selector)

    def find(self, selector: str) -> str:
        """The id of the first element."""
        body = {"using": "css selector", "value": selector}
        return self._request("POST", f"{self.session}/element", body)[ELEMENT]

    def click(self, selector: str) -> None:
        """Click as a mouse does."""
        self._request("POST", f"{self.session}/element/{self.find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Press keys in an element."""
        body = {"text": text}
        self._request("POST", f"{self.session}/element/{self.find(selector)}/value", body)

    def drag(self, selector: str, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drag the mouse between two places, in pixels from an element's center."""
        origin = {ELEMENT: self.find(selector)}
        places = [
            {"type": "pointerMove", "origin": origin, "x": x, "y": y} for x, y in (start, end)
        ]
        down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
        moves = [places[0], down, places[1], up]
        mouse = {"type": "pointer", "id": "mouse", "actions": moves}
        self._request("POST", f"{self.session}/actions", {"actions": [mouse]})

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a list."""
        script = """const list = document.querySelector(arguments[0]);
            list.value = arguments[1];
            list.dispatchEvent(new Event("change", { bubbles: true }));
            return list.value"""
        assert self.run(script, selector, value) == value

    def scheme(self, name: str) -> None:
        """Prefer a `light` or `dark` page."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.tell("Emulation.setEmulatedMedia", {"features": features})

    def tell(self, command: str, parameters: dict[str, Any]) -> Any:  # noqa: ANN401
        """Send a command of the DevTools protocol."""
        body = {"cmd": command, "params": parameters}
        return self._request("POST", f"{self.session}/goog/cdp/execute", body)

    def picture(self, path: Path) -> None:
        """Save the whole page as PNG."""
        shot = {"format": "png", "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot", shot)["data"]))

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call: `browser` (the console) or `performance`."""
        return self._request("POST", f"{self.session}/se/log", {"type": kind})

    def requested(self) -> list[str]:
        """The addresses that the page asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def wait(self, script: str, *arguments: object, seconds: float = 60.0) -> None:
        """Wait until an expression of the page holds."""
        end = time.monotonic() + seconds
        while not self.run(f"return {script}", *arguments):
            if time.monotonic() > end:
                msg = f"still not: {script}"
                raise AssertionError(msg)
            time.sleep(0.02)
