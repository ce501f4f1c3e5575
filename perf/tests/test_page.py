"""The HTML page: what stands on it, that it is self-contained, and that nothing in it is markup by accident."""
from __future__ import annotations

import re
from dataclasses import replace

import pytest

from attention.registry import functions
from perf.__main__ import main
from perf.measure.evidence import Writer
from perf.report.table import latest
from perf.tests.html_page import Page
from perf.tests.page_rows import GPU, ROWS, STATE, TREATED, row
from perf.web.page import page, write
from perf.web.page.charts import decades
from perf.web.page.header import header, state_ranges
from perf.web.page.markup import Markup, digest, tag

HOSTILE = '</script><script>alert(1)</script>"\'><img src=x onerror=alert(1)> & http://evil.example/'


@pytest.fixture(scope="module")
def shown() -> Page:
    return Page(page(ROWS, {"gpu": GPU}, command="pytest perf/"))


def test_every_row_and_every_reason_is_on_it(shown):
    ids = [attributes["id"] for attributes in shown.named("tr") if "id" in attributes]
    assert len(ids) == len(set(ids)) == sum(r.outcome != "skipped" for r in ROWS)
    for r in ROWS:
        assert r.reason is None or r.reason in shown.text
        assert r.outcome == "ok" or r.workload.id in shown.text
    fa2 = next(cells for cells in shown.rows if cells[0] == "fa2" and "2048" in cells)
    assert {"4.000 ms", "0.4%", "4.00", "25%", "FLOPs", "3", "10.0 MB", "1.0e-03", "0.50"} <= set(fa2)


def test_nothing_on_it_comes_from_elsewhere():
    text = page(ROWS, {"gpu": GPU})
    for name, attributes in Page(text).elements:
        assert name not in ("link", "img", "iframe", "object", "embed", "base", "image")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [key for key in attributes if key.startswith("on") or key in ("style", "srcset", "xlink:href")]
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon", text)


def test_its_policy_allows_its_own_script_and_no_other(shown):
    (policy,) = (meta["content"] for meta in shown.named("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    text = page(ROWS, {})
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.S)
        assert f"{directive} '{digest(content)}'" in text.replace("&#x27;", "'")


def test_hostile_text_stays_text():
    rows = [row(backend=HOSTILE, n=n, function="softmax", dtype=HOSTILE, clock=HOSTILE, revision=HOSTILE,
                kernels={HOSTILE: 1}, kernel_shares={HOSTILE: 0.9}, counters={HOSTILE: 2},
                state={HOSTILE: HOSTILE}, ended=HOSTILE, limit=HOSTILE,
                no_graph=HOSTILE, compiled={"cold": 1.0}) for n in (512, 1024)]
    rows += [row(backend=HOSTILE, n=n, outcome=outcome, reason=f"{n}{HOSTILE}")
             for n, outcome in ((1, "wrong"), (2, "skipped"), (3, "failed"), (4, "invalid"))]
    hostile = Page(page(rows, {"gpu": {"gpus": [HOSTILE], HOSTILE: HOSTILE}}, title=HOSTILE, command=HOSTILE))
    harmless = Page(page(ROWS, {"gpu": GPU}))
    assert len(hostile.named("script")) == len(hostile.named("style")) == 1
    assert not hostile.named("img")
    assert {name for name, _ in hostile.elements} <= {name for name, _ in harmless.elements}
    assert hostile.text.count(HOSTILE) > 20
    assert not [key for _, attributes in hostile.elements for key in attributes if key.startswith("on")]


def test_a_chart_has_a_line_a_backend_and_the_limit_above(shown):
    charts = [attributes for attributes in shown.named("svg") if attributes.get("class") == "chart"]
    assert [chart["aria-label"].split(".")[0] for chart in charts] == [
        "TFLOP/s over n: softmax forward, causal, 8 heads x 64, bf16"]
    points = [attributes["aria-label"] for attributes in shown.named("use") if attributes.get("class") == "pt"]
    assert points == [f"{name}: n {n}, {rate} TFLOP/s, {time}" for name, rate, times in (
        ("eager", "12.8", ("4.000 ms", "8.000 ms", "16.00 ms")),
        ("fa2", "51.2", ("1.000 ms", "2.000 ms", "4.000 ms")), ("flex", "51.2", ("1.000 ms",)))
        for n, time in zip((512, 1024, 2048), times, strict=False)]
    assert len([a for a in shown.named("polyline") if a.get("class") == "limit"]) == 2  # the line and its key
    assert "fa2 leads at 2K: 51.2 TFLOP/s, 25% of the limit" in shown.text


def test_the_datasheets_share_has_a_column_where_it_is_known(shown):
    text = Page(page(ROWS, {}, datasheet=lambda r: 1e-4))
    header = next(cells for cells in text.rows if cells[0] == "backend")
    eager = next(cells for cells in text.rows if cells[0] == "eager" and len(cells) == len(header))
    assert eager[header.index("peak")] == "2.5%"
    assert not [cells for cells in shown.rows if "peak" in cells]


def test_a_point_leads_to_its_row(shown):
    numbers = {attributes["id"]: cells for attributes, cells in zip(shown.named("tr"), shown.rows, strict=True)
               if "id" in attributes}
    for use in (attributes for attributes in shown.named("use") if attributes.get("class") == "pt"):
        backend, n = re.findall(r"(\S+): n (\d+),", use["aria-label"])[0]
        assert numbers[f"r{use['data-r']}"][0] == backend
        assert n in numbers[f"r{use['data-r']}"]


def test_only_the_same_workload_is_compared():
    others = [row("sdpa", median=1e-9, **change) for change in (
        {"phase": "backward"}, {"dtype": "fp32"}, {"batch": 2}, {"heads": 4, "kv_heads": 4}, {"function": "alibi"})]
    text = Page(page([row("eager", median=4e-3), row("fa2", median=2e-3), *others], {}))
    header = next(cells for cells in text.rows if cells[0] == "backend")
    at = header.index("speed-up")
    assert {cells[at] for cells in text.rows if cells[0] == "sdpa" and len(cells) == len(header)} == {"1.00"}
    assert {cells[at] for cells in text.rows if cells[0] == "fa2" and len(cells) == len(header)} == {"2.00"}


def test_the_summary_speaks_of_the_longest_sequence(shown):
    (line,) = (cells for cells in shown.rows if cells[0] == "forward" and len(cells) == 5)
    assert line == ["forward", "fa2", "51.2", "25%", "4.0x eager"]
    assert "n = 2K, batch 1, 8 heads x 64, causal, bf16" in shown.text


def test_the_header_says_where_when_and_in_what_state():
    rows = [row(), row("fa2", state={**STATE, "sm_mhz": 1600, "sm_mhz_min": 1500, "throttle": "sw_power_cap"})]
    text = header(rows, GPU, 3, "title", "pytest perf/ --benchmark-only")
    facts = {"GPU": "2 x NVIDIA H200", "driver": "580.1", "SM clock": "1500 to 1980, median 1700 MHz",
             "clocks held down by": "1 x none, 1 x sw_power_cap", "measured": "2001-09-09 01:46 to 01:46 UTC",
             "command": "pytest perf/ --benchmark-only", "SM clock drift": "-1 %",
             "clocks": "not locked, as far as NVML tells",
             "left out": "3 rows of other machines, or measured again later"}
    for label, value in facts.items():
        assert f"<dt>{label}</dt><dd>{value}</dd>" in text
    assert "governor" not in text
    assert state_ranges([row(state={"locked": False}), row(state={"locked": True})]) == {"locked": "1 x no, 1 x yes"}


def test_the_last_machine_and_the_last_time_count():
    old, other = row(median=9.0), replace(row(), machine="cpu")
    again = row(median=1.0)
    assert latest([old, other, row("fa2"), again]) == [again, row("fa2")]
    assert "2 rows of other machines, or measured again later" in Page(page([old, other, again], {})).text


def test_speed_against_error_is_for_functions_that_approximate(monkeypatch, shown):
    assert "Speed against error" not in shown.text
    approximate = {name: replace(function, kind="approximate") for name, function in functions().items()}
    monkeypatch.setattr("perf.web.page.sweeps.functions", lambda: approximate)
    text = Page(page([row(error=1e-3), row("fa2", error=1e-2, median=1e-4)], {}))
    assert "Speed against error" in text.text
    assert [use["aria-label"] for use in text.named("use") if use.get("class") == "pt"] == [
        "eager: error 1.0e-03, 1.000 ms", "fa2: error 1.0e-02, 100.0 us"]


def test_what_is_not_there_has_no_section():
    text = Page(page([row(), row("fa2")], {}))
    ids = {attributes.get("id") for attributes in text.named("section")}
    assert ids == {None, "summary", "rows", "kernels"}
    skipped = Page(page([row(outcome="skipped", reason="no GPU")], {}))
    assert {attributes.get("id") for attributes in skipped.named("section")} == {None, "summary", "skipped"}


def test_ticks_are_round_numbers():
    assert [text for _, text in decades([3.0, 4000.0], "").ticks] == ["10", "100", "1000"]
    assert [text for _, text in decades([30.0, 80.0], "").ticks] == ["50", "100"]
    assert next(text for _, text in decades([1e-6, 1e-3], "").ticks) == "1e-06"


def test_markup_is_escaped_once():
    assert tag("p", "<b>", tag("i", "&"), None, class_='"', hidden=True, title=None) == (
        '<p class="&quot;" hidden>&lt;b&gt;<i>&amp;</i></p>')
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert isinstance(tag("p"), Markup)


def test_the_command_writes_beside_the_evidence(tmp_path, capsys):
    path = tmp_path / "evidence.jsonl"
    for r in ROWS:
        Writer(path).append(r)
    assert main(["report", str(path), "--title", "Mine"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'evidence.html'}\n"
    assert "<title>Mine</title>" in (tmp_path / "evidence.html").read_text(encoding="utf-8")
    assert main(["report", str(path), "-o", str(tmp_path / "new" / "x.html")]) == 0
    assert (tmp_path / "new" / "x.html").exists()


def test_what_cannot_be_written_is_one_line(tmp_path, capsys):
    with pytest.raises(ValueError, match="nothing to report: no evidence"):
        page([], {})
    with pytest.raises(ValueError, match="Is a directory; name a file"):
        write(tmp_path, ROWS, {})
    (tmp_path / "x.html").write_text("")
    assert main(["report", str(tmp_path / "x.html")]) == 2
    assert "x.html: is the evidence itself" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none.jsonl")]) == 2
    assert "No such file or directory; give an evidence file" in capsys.readouterr().err


def test_speed_stands_against_size_for_treated_models():
    text = page([*ROWS, *TREATED], {"gpu": GPU})
    section = text.partition('id="treated"')[0].rpartition("<section>")[2] + text.partition('id="treated"')[2]
    assert "Speed against size" in text
    assert text.count("vit-l16, forward, batch 32") >= 2  # its caption, and its chart's label
    for name in ("bf16 compiled", "bnb-nf4", "ao-fp8-dynamic compiled"):
        assert f'aria-label="{name}: ' in text
    assert "2.0x smaller, 1.4x faster, compile 41.0/3.1 s" in section
    assert "the model as it is" in section
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_without_treated_models_there_is_no_such_chart():
    assert "Speed against size" not in page(ROWS, {"gpu": GPU})
    assert "Speed against size" not in page(TREATED[:1], {"gpu": GPU})


def test_where_the_time_goes_is_in_the_table_and_beside_the_kernels():
    interpolation = "void at::native::upsample_linear1d_out_frame<float>(int)"
    shown = Page(page([row(model="tft-160", kernels={interpolation: 2}, kernel_shares={interpolation: 0.96},
                           attention_share=0.031),
                       row("sdpa", model="tft-160", kernels={"nvjet": 1}, kernel_shares={"nvjet": 0.97})], {}))
    cells = {cell for cells in shown.rows for cell in cells}
    assert {"3.1%", "upsample_linear1d_out_frame 96%^", "nvjet 97%"} <= cells
    assert f"{interpolation}  2 a call, at most 96% of the time, in 1 rows" in shown.text
    assert "matrix product" in shown.text
    old = Page(page([row(kernel_shares={})], {}))  # evidence from before there were shares
    assert "largest kernel" not in {cell for cells in old.rows for cell in cells}
