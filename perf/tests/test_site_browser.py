"""The site in a real browser, served under a sub-path by a plain static server."""
from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from perf.tests import front_page, published
from perf.tests.browser import chromium
from perf.web.site import build

pytestmark = pytest.mark.slow

SERIES = "attention.SoftmaxForwardH16D128Bf16.time_call"
WIDTHS = (1400, 390)
PAGES = ("index.html", "asv/index.html", f"asv/index.html#{SERIES}", "asv/index.html#/regressions",
         "asv/index.html#/summarylist")
# Dark pixels or coloured ones: an empty canvas has none.
DRAWN = """
    const canvas = document.querySelector('#main-graph canvas.flot-base');
    if (!canvas || !canvas.width) return 0;
    const copy = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height });
    const drawn = copy.getContext('2d', { willReadFrequently: true });
    drawn.drawImage(canvas, 0, 0);
    const pixels = drawn.getImageData(0, 0, copy.width, copy.height).data;
    let coloured = 0;
    for (let i = 0; i < pixels.length; i += 4) {
      const [r, g, b, a] = pixels.slice(i, i + 4);
      if (a && Math.max(r, g, b) - Math.min(r, g, b) > 60) coloured++;
    }
    return coloured;
"""
LEGEND = "return [...document.querySelectorAll('#main-graph .legendLabel')].map(cell => cell.textContent)"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


tree = front_page.tree


@pytest.fixture(scope="module")
def address(tree, tmp_path_factory):
    """Serves the site two folders below the root, and gives its address."""
    root = tmp_path_factory.mktemp("root")
    (root / "team").mkdir()
    problems, whole = build(published.CONFIG, tree[0], tree[0] / "results", tree[0] / "nights", root / "team" / "perf")
    assert (problems, whole) == ([], True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/team/perf/"
    server.shutdown()


@pytest.fixture
def calm(browser):
    """Forgets what is logged before the test."""
    browser.errors()
    browser.requests()
    return browser


def fresh(browser, url, width=1400, theme="light"):
    """Opens a page anew, also where only what stands after the # differs."""
    browser.open("about:blank", width, theme)
    browser.open(url, width, theme)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_no_error_no_request_elsewhere_no_sideways_scroll(calm, address, page, width, theme):
    fresh(calm, address + page, width, theme)
    if "asv" in page:
        calm.wait("return window.jQuery && jQuery.active === 0 && jQuery.asv && jQuery.asv.main_json.benchmarks")
    calm.run("window.dispatchEvent(new Event('resize'))")
    assert calm.run("return document.documentElement.scrollWidth") <= width
    asked = calm.requests()
    assert any(url.startswith(address) for url in asked)
    assert [url for url in asked if not url.startswith((address, "about:", "data:"))] == []
    assert calm.errors() == []


def test_policy_of_asvs_page_stops_what_asks_elsewhere(calm, address):
    fresh(calm, address + "asv/index.html")
    calm.run("new Image().src = 'http://127.0.0.1:9/x.png'; fetch('http://127.0.0.1:9/x').catch(() => 0)")
    assert len([text for text in calm.errors() if "Content Security Policy" in text]) >= 2


def test_graph_draws_and_switches_its_parameters(calm, address):
    fresh(calm, f"{address}asv/index.html#{SERIES}?p-backend='fa2'&p-n=2048&p-batch=8&machine={published.H200}")
    calm.wait(DRAWN)
    assert all("flex" not in label for label in calm.run(LEGEND))
    calm.run("[...document.querySelectorAll('#graphdisplay-navigation-params a[role=button]')]"
             ".find(button => button.textContent === 'flex').click()")
    calm.wait(f"return ({{run() {{ {LEGEND} }}}}).run().length >= 2")
    assert "p-backend='flex'" in calm.run("return decodeURIComponent(location.hash)")
    assert any("flex" in label for label in calm.run(LEGEND))
    calm.wait(DRAWN)
    assert calm.errors() == []


def test_a_graph_that_is_not_seen_is_drawn_when_it_is(calm, address):
    fresh(calm, address + "asv/index.html")
    calm.wait("return document.querySelectorAll('.benchmark-plot canvas').length > 0")
    calm.run("location.hash = arguments[0]", f"#{SERIES}")
    calm.wait(DRAWN)
    calm.run("location.hash = '#/'")
    calm.wait("return document.querySelector('#graph-display').style.display === 'none'")
    calm.run("window.dispatchEvent(new Event('resize'))")
    calm.run("""
        $('body').append('<div id="hidden" style="display: none"><div style="height: 50px"></div></div>');
        $.plot($('#hidden div'), [[[0, 1], [1, 2]]], {});
    """)
    assert not calm.run("return $('#hidden canvas').length")
    calm.run("$('#hidden').show()")
    calm.wait("return $('#hidden canvas').length")
    assert calm.errors() == []


def test_length_is_an_axis_of_asvs_graph(calm, address):
    fresh(calm, f"{address}index.html")
    calm.run("document.querySelector('#sweeps details').open = true")
    calm.click("#sweeps details a")
    calm.wait(DRAWN)
    assert "x-axis=n&y-axis-scale=log" in calm.run("return location.hash")
    calm.wait("return document.querySelector('#log-scale').classList.contains('active')")
    assert calm.errors() == []


def test_regressions_lead_to_their_graph_and_commit(calm, address, tree):
    fresh(calm, f"{address}asv/index.html#/regressions")
    row = calm.wait("return document.querySelector('#regressions-body tbody tr')?.innerText")
    assert "'fa2'" in row
    assert "1.40x" in row
    calm.click("#regressions-body thead th:nth-child(2)")  # sorts: stupidtable
    calm.wait("return location.hash.includes('sort=1')")
    calm.click("#regressions-body tbody td:first-child a")
    calm.wait(DRAWN)
    fresh(calm, f"{address}asv/index.html#/regressions")
    calm.wait("return document.querySelector('#regressions-body tbody td:nth-child(3) a')")
    calm.click("#regressions-body tbody td:nth-child(3) a")
    slow = tree[1][published.SLOW_FROM][:8]
    calm.wait("return location.hash === arguments[0]", f"#commit-{slow}")
    assert calm.run("return document.querySelector(':target').cells[0].innerText") == slow
    assert calm.errors() == []


def test_verdict_leads_to_its_graph_with_the_commit_marked(calm, address, tree):
    fresh(calm, address + "index.html")
    calm.click("#night tr.bad:nth-child(2) th a")
    calm.wait(DRAWN)
    result = calm.run("return decodeURIComponent(location.hash)")
    assert result.startswith(f"#{SERIES}?")
    assert f"commits={tree[1][published.SLOW_FROM]}" in result
    assert calm.run("return document.title") == "airspeed velocity of an unladen attention-perf"
    calm.click("#nav a[href='../index.html']")
    calm.wait("return document.querySelector('#night') !== null")
    assert calm.errors() == []


def test_machine_and_versions_are_picked(calm, address):
    fresh(calm, address + "index.html")
    count = "return document.querySelector('#count').textContent"
    figures = "return [...document.querySelectorAll('#sweeps figure')].filter(f => f.checkVisibility()).length"
    many = len(published.SOFTMAX) + len(published.OTHERS)
    assert (calm.run(count), calm.run(figures)) == (f"{many} rows", 1)
    choose = """const select = document.querySelector(`select[name=${arguments[0]}]`);
                select.value = arguments[1]; select.dispatchEvent(new Event('change'))"""
    calm.run(choose, "hardware", "AMD EPYC")
    assert (calm.run(count), calm.run(figures)) == (f"{len(published.ON_CPU)} rows", 1)
    calm.run(choose, "versions", "")
    assert (calm.run(count), calm.run(figures)) == (f"{2 * len(published.ON_CPU)} rows", 2)
    calm.run("const f = document.querySelector('#filter'); f.value = 'sdpa'; f.dispatchEvent(new Event('input'))")
    assert calm.run(count) == f"{len(published.ON_CPU)} of {2 * len(published.ON_CPU)} rows"
    assert calm.run("return [...document.querySelectorAll('#table tbody tr')].filter(r => r.checkVisibility())"
                    ".every(r => r.dataset.hardware === 'AMD EPYC')")
    assert calm.errors() == []


def test_how_long_ago_is_told_and_old_is_marked(calm, address):
    fresh(calm, address + "index.html")
    assert calm.run("return document.querySelector('.tile time').textContent").endswith(("ago", "in the future"))
    assert calm.run("return document.querySelector('.tile:has(time)').classList.contains('stale')")
    assert "ago)" in calm.run("return document.querySelector('#night time').textContent")


@pytest.mark.parametrize("width", WIDTHS)
def test_keyboard_reaches_the_front_page(calm, address, width):
    fresh(calm, address + "index.html", width)
    reached = tab_through(calm)
    for name in ("#theme", "nav.ways a", "a.tile", "select[name=hardware]", "select[name=versions]", "button.chip",
                 "svg.chart", "#filter", "#table thead button", "#table tbody a", "#night tbody a", "#steps tbody a"):
        assert any(calm.run("return arguments[0].matches(arguments[1])", each, name) for each in reached), name
    calm.run("document.querySelector('svg.chart').focus()")
    calm.keys("ArrowRight", "ArrowRight")
    assert "TFLOP/s" in calm.run("return document.querySelector('#tip').innerText")
    calm.keys("Enter")
    assert calm.run("return document.querySelector('tr.found') !== null")


@pytest.mark.parametrize("width", WIDTHS)
def test_keyboard_reaches_and_presses_asvs_buttons(calm, address, width):
    fresh(calm, f"{address}asv/index.html#{SERIES}", width)
    calm.wait(DRAWN)
    reached = tab_through(calm)
    for name in ("#nav a", "#log-scale", "#graphdisplay-navigation-params a[role=button]", "label.nav-header"):
        assert any(calm.run("return arguments[0].matches(arguments[1])", each, name) for each in reached), name
    calm.run("document.querySelector('#log-scale').focus()")
    calm.keys("Enter")
    calm.wait("return location.hash.includes('y-axis-scale=log')")
    assert calm.run("return document.querySelector('#log-scale').getAttribute('aria-pressed')") == "true"
    assert calm.errors() == []


def tab_through(browser, most=400):
    """Returns the elements that Tab leads to, until it comes round."""
    results = []
    browser.run("document.activeElement.blur()")
    for _ in range(most):
        browser.devtools("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        browser.devtools("Input.dispatchKeyEvent", type="keyUp", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        now = browser.run("return document.activeElement === document.body ? null : document.activeElement")
        if now is None or now in results:
            break
        results.append(now)
    return results


def test_front_page_works_from_a_file(calm, tree, tmp_path):
    build(published.CONFIG, tree[0], tree[0] / "results", tree[0] / "nights", tmp_path / "site")
    fresh(calm, (tmp_path / "site" / "index.html").as_uri())
    assert calm.run("return document.querySelectorAll('#sweeps figure').length") == 4
    assert calm.errors() == []


def test_an_empty_site_is_calm(calm, tree, tmp_path):
    build(published.CONFIG, tree[0], tmp_path / "nothing", tmp_path / "nothing", tmp_path / "site")
    fresh(calm, (tmp_path / "site" / "index.html").as_uri())
    assert "no history yet" in calm.run("return document.querySelector('#problems').innerText")
    assert calm.errors() == []
