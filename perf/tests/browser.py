"""Headless Chromium, driven by chromedriver's WebDriver protocol over plain HTTP."""
from __future__ import annotations

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

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
BROWSERS_OWN = ("chrome:", "chrome-untrusted:")  # addresses of its new tab and what stands in it
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # by which WebDriver names an element


class Browser:
    """Is one session. `ask(method, path, **body)` is a command of the session."""

    def __init__(self, port: int, folder: str) -> None:
        self._address = f"http://127.0.0.1:{port}/session"
        options = {"args": [*FLAGS, f"--user-data-dir={folder}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options,
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self._address += "/" + self.ask("POST", "", capabilities={"alwaysMatch": wanted})["sessionId"]

    def ask(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, kind, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=240) as answer:
            return json.loads(answer.read())["value"]

    def open(self, url: str, width: int, theme: str = "light") -> None:
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1,
                      mobile=width < 600)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.ask("POST", "/url", url=url)

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.ask("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.ask("POST", "/execute/sync", script=script, args=list(arguments))

    def click(self, selector: str) -> None:
        found = self.ask("POST", "/element", using="css selector", value=selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
        self.ask("POST", f"/element/{found[ELEMENT]}/click")

    def keys(self, *names: str) -> None:
        for name in names:
            self.devtools("Input.dispatchKeyEvent", type="keyDown", key=name)
            self.devtools("Input.dispatchKeyEvent", type="keyUp", key=name)

    def requests(self) -> list[str]:
        """Returns what was asked for since the last call, beside the browser's own pages."""
        logged = self.ask("POST", "/se/log", type="performance")
        events = [json.loads(entry["message"])["message"] for entry in logged]
        asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in asked if not each["documentURL"].startswith(BROWSERS_OWN)]

    def errors(self) -> list[str]:
        """Returns what the console said since the last call."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", type="browser")]

    def wait(self, script: str, *arguments: Any, seconds: float = 10) -> Any:
        """Returns what `script` does, once that is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return found


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Gives a browser with its profile in `folder`; skips the test where there is none."""
    driver = shutil.which("chromedriver")
    if driver is None or not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("Chromium and its chromedriver are not installed; apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end, "chromedriver does not answer"
                time.sleep(0.1)
        browser = Browser(port, str(folder))
        yield browser
        browser.ask("DELETE", "")
    finally:
        process.terminate()
        process.wait(30)
