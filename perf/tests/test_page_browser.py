"""The page in a real browser: headless Chromium, driven by chromedriver's WebDriver protocol over plain HTTP."""
from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from typing import Any

import pytest

from perf.report.page import write
from perf.tests.page_rows import GPU, ROWS

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # by which WebDriver names an element


class Browser:
    """One session. `ask(method, path, **body)` is a command of the session."""

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
        with opener.open(request, timeout=60) as answer:
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
        """What was asked for since the last call, beside the browser's own pages."""
        logged = self.ask("POST", "/se/log", type="performance")
        events = [json.loads(entry["message"])["message"] for entry in logged]
        asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in asked if not each["documentURL"].startswith("chrome:")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
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
        browser = Browser(port, str(tmp_path_factory.mktemp("chromium")))
        yield browser
        browser.ask("DELETE", "")
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(path, ROWS, {"gpu": GPU})
    return path.as_uri()


def column(browser: Browser, name: str) -> list[str]:
    return browser.run("""
        const at = [...document.querySelectorAll('#table thead th')].findIndex(th => th.textContent === arguments[0]);
        return [...document.querySelectorAll('#table tbody tr:not([hidden])')].map(tr => tr.cells[at].textContent);
    """, name)


def head(browser: Browser, name: str) -> str:
    """The selector of the button that sorts by a column."""
    index = browser.run("""
        return [...document.querySelectorAll('#table thead th')].findIndex(th => th.textContent === arguments[0]);
    """, name)
    return f"#table thead th:nth-child({index + 1}) button"


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_it_opens_without_an_error_a_request_or_a_sideways_scroll(browser, url, width, theme):
    browser.ask("POST", "/se/log", type="browser")
    browser.requests()
    browser.open(url, width, theme)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return matchMedia('(prefers-color-scheme: dark)').matches") == (theme == "dark")
    dark = browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 22)"
    assert dark == (theme == "dark")
    browser.click("#theme")
    assert (browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 22)") != dark
    assert browser.requests() == [url]
    assert browser.ask("POST", "/se/log", type="browser") == []


@pytest.mark.slow
def test_its_policy_stops_what_is_put_in(browser, url):
    browser.open(url, 1400)
    browser.run("""
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
        new Image().src = 'http://127.0.0.1:9/x.png';
    """)
    assert browser.run("return window.ran") is None
    said = [entry["message"] for entry in browser.ask("POST", "/se/log", type="browser")]
    assert len([text for text in said if "Content Security Policy" in text]) == 2


@pytest.mark.slow
def test_the_table_sorts_by_a_column_and_back(browser, url):
    browser.open(url, 1400)
    before = column(browser, "time")
    header = head(browser, "time")
    browser.click(header)
    assert column(browser, "time") == ["1.000 ms", "1.000 ms", "2.000 ms", "4.000 ms", "4.000 ms", "8.000 ms",
                                       "16.00 ms", "-", "-", "-"]
    browser.click(header)
    assert column(browser, "time")[:2] == ["16.00 ms", "8.000 ms"]
    assert column(browser, "time")[-1] == "-"
    browser.click(header)
    assert column(browser, "time") == before
    browser.click(head(browser, "n"))
    assert list(dict.fromkeys(column(browser, "n"))) == ["512", "1024", "2048"]


@pytest.mark.slow
def test_the_table_is_filtered_by_words(browser, url):
    browser.open(url, 1400)
    browser.run("""
        const filter = document.querySelector('#filter');
        filter.value = 'FA2 1024';
        filter.dispatchEvent(new Event('input'));
    """)
    assert column(browser, "backend") == ["fa2"]
    assert browser.run("return document.querySelector('#count').textContent") == "1 of 10 rows"


@pytest.mark.slow
def test_the_keyboard_reaches_the_points_and_their_rows(browser, url):
    browser.open(url, 390)
    browser.run("document.querySelector('svg.chart').focus()")
    browser.keys("ArrowRight", "ArrowRight", "ArrowUp")
    said = browser.run("return document.querySelector('#tip').innerText").split()
    assert said[0] == "fa2"
    assert {"1024", "2.000", "25%"} <= set(said)
    tip = browser.run("return document.querySelector('#tip').getBoundingClientRect().toJSON()")
    assert 0 <= tip["left"] <= tip["right"] <= 390
    browser.keys("Enter")
    assert browser.run("return document.querySelector('tr.found').cells[0].textContent") == "fa2"
    assert browser.run("return document.querySelector('#tip').hidden")


@pytest.mark.slow
def test_a_backend_is_hidden_and_shown(browser, url):
    browser.open(url, 1400)
    visible = """return [...document.querySelectorAll('.chart .series')].filter(
        line => getComputedStyle(line).display !== 'none').length"""
    assert browser.run(visible) == 3
    browser.click("button.chip")
    assert browser.run(visible) == 2
    browser.click("button.chip")
    assert browser.run(visible) == 3
