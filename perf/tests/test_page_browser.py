"""The page in a real browser."""
from __future__ import annotations

import pytest

from perf.tests.browser import Browser, chromium
from perf.tests.page_rows import GPU, ROWS
from perf.web.page import write


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


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
    """Returns the selector of the button that sorts by a column."""
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
    results = [entry["message"] for entry in browser.ask("POST", "/se/log", type="browser")]
    assert len([text for text in results if "Content Security Policy" in text]) == 2


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
    result = browser.run("return document.querySelector('#tip').innerText").split()
    assert result[0] == "fa2"
    assert {"1024", "2.000", "25%"} <= set(result)
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
