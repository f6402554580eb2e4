"""A headless Chromium for tests of pages, driven over WebDriver's plain HTTP (https://www.w3.org/TR/webdriver2/)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
LACKING = "no chromium and chromedriver here (on Debian apt-get install chromium chromium-driver)"
_ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
              "--no-first-run", "--disable-background-networking", "--disable-component-update")  # fmt: skip


class Browser:
    """One window. :ivar events: what the DevTools protocol has told of the page, as ``(method, params)``."""

    def __init__(self, address: str, session: str):
        self._base = f"{address}/session/{session}"
        self.events: list[tuple[str, dict[str, Any]]] = []

    def open(self, url: str) -> None:
        self._send("/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns in the page."""
        return self._send("/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._send("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, width: int, height: int, is_phone: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )

    def prefer(self, scheme: str) -> None:
        """:param scheme: ``light`` or ``dark``."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path, is_whole: bool = True) -> None:
        found = self.devtools("Page.captureScreenshot", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def press(self, key: str) -> None:
        """:param key: as WebDriver has it: a letter, or a code such as ``\\ue004`` for Tab."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._send("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def console(self) -> list[str]:
        """Errors and warnings so far: of the page's scripts, and of what it was kept from doing."""
        return [entry["message"] for entry in self._send("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Every address that was asked for since the last call."""
        told = [json.loads(entry["message"])["message"] for entry in self._send("/se/log", {"type": "performance"})]
        return [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]

    def _send(self, path: str, body: dict[str, Any]) -> Any:
        return _ask(self._base + path, body)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """:param folder: of what the browser keeps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address)
        options = {
            "binary": CHROMIUM, "args": [*_ARGUMENTS, f"--user-data-dir={folder / 'profile'}"],
            "perfLoggingPrefs": {"enableNetwork": True, "enablePage": False},
        }  # fmt: skip
        asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = _ask(f"{address}/session", {"capabilities": {"alwaysMatch": asked}})["sessionId"]
        try:
            yield Browser(address, session)
        finally:
            _ask(f"{address}/session/{session}", None, "DELETE")
    finally:
        process.terminate()
        process.wait()


def _wait(address: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if _ask(f"{address}/status", None, "GET")["ready"]:
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _ask(url: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # none to this machine itself
    try:
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None
