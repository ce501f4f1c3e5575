"""Gives everything that reads text from outside what an enemy or a broken disk may have made of a good file.

    python -m perf.tests.hostile --inputs 20000               # hypothesis draws them: a line a reader, of what became

A reader takes a good text that was changed: bytes of it, or a value, a key or a level of its JSON. It may refuse it by
ValueError, in one line, or as it says itself; what it reads must not lead to a file elsewhere, or to markup.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st

from models import checkpoints
from models.data import electricity, listops, news
from models.quantization import storage
from perf.alerts import exports, sets
from perf.alerts.text import body, comment
from perf.compare import record
from perf.history import merge, rows
from perf.measure import compiling, evidence, machine, roofline
from perf.nightly import memory, night, steps
from perf.policy import accepted, budgets, owners, thresholds
from perf.report import docs
from perf.system import files
from perf.system.files import seal
from perf.tests import published
from perf.tests.comparisons import bisected, comparison, finding, nobody
from perf.tests.html_page import Page
from perf.tests.markdown_tokens import tokens
from perf.tests.page_rows import GPU, ROWS
from perf.tests.test_alert_text import OUR_HTML
from perf.verdict.nights import Measurement
from perf.web.page import write
from perf.web.site import front, nights
from perf.workloads import ids

ELSEWHERE = Path(tempfile.gettempdir(), "perf-was-here")  # no reader may write it
WORDS = ["../../perf-was-here", str(ELSEWHERE), f"--output={ELSEWHERE}", f"$(touch {ELSEWHERE})",
         f"`touch {ELSEWHERE}`", f"; touch {ELSEWHERE}", "</script><script>alert(1)</script>", '"onload="alert(1)',
         "<img src=x onerror=alert(1)>", "--> @everyone [x](http://evil.example)", "::error::x", "\ud800", "\0",
         "\x1b[2J", "a\nb\r\u2028c", "\u202e", "", "x" * 5000, "((", "[" * 1000, "1e999", "-1", "nan"]
VALUES: st.SearchStrategy[Any] = st.sampled_from([
    *WORDS, 0, -1, 2 ** 63, 10 ** 400, 1e308, -1e-320, math.nan, math.inf, True, None, [], {}, [[]], [None], {"": None},
    ["a", 1], {"schema": 1}])
json_values = st.recursive(VALUES | st.text(max_size=8) | st.integers() | st.floats(),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                               st.text(max_size=4) | st.sampled_from(WORDS), inner, max_size=3), max_leaves=5)
FRAGMENTS = st.sampled_from([b"[" * 100_000, b'{"a":' * 20_000, b"\0", b"\xff", b"\n", b"{}", b"[]", b"null", b"NaN",
                             b"1" * 5000, b"\\ud800", b"\r", b'"', b"version https://git-lfs.github.com/spec/v1\n",
                             b"a = " + b"[" * 50_000]) | st.binary(max_size=8)
FORBIDDEN = {"img", "iframe", "object", "embed", "base", "link", "form", "image"}


@dataclass(frozen=True)
class Reader:
    """Reads a file of that name, in a folder that is its own. `text` is a good one; `refuses` are the errors that its
    docstring names."""

    file: str
    text: bytes
    read: Callable[[Path], Any]
    refuses: tuple[type[Exception], ...] = (ValueError,)


@st.composite
def changed(draw: st.DrawFn, text: bytes) -> bytes:
    """Draws a text with some changes."""
    lines = text.splitlines(keepends=True)
    number = draw(st.integers(0, len(lines) - 1))
    whole = draw(st.booleans())
    part = text if whole else lines[number]
    for _ in range(draw(st.integers(0, 3))):
        part = draw(_other_json(part))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        part = draw(_other_bytes(part))
    return part if whole else b"".join((*lines[:number], part, *lines[number + 1:]))


@st.composite
def _other_bytes(draw: st.DrawFn, text: bytes) -> bytes:
    start = draw(st.integers(0, len(text)))
    end = draw(st.just(start) | st.integers(start, len(text)))
    return text[:start] + draw(FRAGMENTS | st.sampled_from([word.encode("utf-8", "replace") for word in WORDS]
                                                          )) + text[end:]


@st.composite
def _other_json(draw: st.DrawFn, text: bytes) -> bytes:
    """Changes one node of a text that is JSON; of another one bytes."""
    try:
        node = whole = json.loads(text)
    except (ValueError, RecursionError):
        return draw(_other_bytes(text))
    if not isinstance(whole, dict | list) or not whole:
        return json.dumps(draw(json_values)).encode()
    while True:
        key = draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.integers(0, len(node) - 1))
        if not (isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 3))):
            break
        node = node[key]
    kind = draw(st.integers(0, 4))
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[draw(st.sampled_from(WORDS))] = node.pop(key)
    else:
        node[key] = draw(json_values)
    whole.pop("crc", None) if isinstance(whole, dict) else None
    return json.dumps(whole).encode() + (b"\n" if text.endswith(b"\n") else b"")


def outcome(reader: Reader, text: bytes) -> str:
    """Lets the reader read it. Returns "read" or "refused"; raises AssertionError, or the reader's own error, for what
    must not be."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(action="ignore"):
        folder = Path(name, "a", "b")
        path = folder / reader.file
        path.parent.mkdir(parents=True)
        path.write_bytes(text)
        try:
            reader.read(path)
            ended = "read"
        except reader.refuses as error:
            ended = str(error)
        assert [one.name for one in Path(name).iterdir()] == ["a"]
        assert [one.name for one in Path(name, "a").iterdir()] == ["b"]
        assert not ELSEWHERE.exists()
    assert "\n" not in ended.strip(), ended
    return ended if ended == "read" else "refused"


def harmless(html: str) -> None:
    """Asserts that a page has no element or attribute that a text from outside put there, and leads nowhere."""
    page = Page(html)
    assert not {element for element, _ in page.elements} & FORBIDDEN
    assert len(page.named("script")) <= 1
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on") or key == "src"]
    assert not [href for href in page.all("href") if not href.startswith("#")]


def _report(path: Path) -> None:
    """Reads evidence, and writes the page of it."""
    if read := evidence.load(path):
        write(path.with_suffix(".html"), read, evidence.machines(path))
        harmless(path.with_suffix(".html").read_text(encoding="utf-8"))


def _sent(path: Path) -> None:
    """Reads the record of a comparison, and writes what is sent of it and what the site shows."""
    made = record.load(path)
    json.dumps(exports.to_webhook(made, nobody))
    said = [comment(made, nobody), *(body(made, action.about, owners.Owners(), nobody)
                                     for action in sets.plan(made, {}, nobody) if action.about)]
    for text in said:
        for kind, content in tokens(text):
            assert "html" not in kind or OUR_HTML.fullmatch(content), content
            assert kind in ("code_inline", "fence", "html_block") or "@everyone" not in content
    harmless(str(nights.section([made], lambda night, one: (one.benchmark, None), ())))


def _history(path: Path) -> None:
    """Reads a folder of asv's results, merges it into another, and forgets what is old."""
    results = path.parent.parent
    rows.load(results)
    merge.merge_folders(results, results.parent / "b" / "other")
    harmless(front.page(front.gather({}, path.parent, results, results, path.parent, ())))
    merge.prune(results, days=100, sample_days=1)


def _plan(path: Path) -> None:
    thresholds.thresholds("softmax:eager", files.from_toml(path.read_text(encoding="utf-8")), "cpu")


def _evidence() -> bytes:
    head = {"kind": "machine", "schema": evidence.SCHEMA, "id": "gpu", **GPU}
    return "".join(f"{seal(one)}\n" for one in (head, *(row.record() for row in ROWS[:1] + ROWS[-4:]))).encode()


def _published(name: str) -> bytes:
    """Makes asv's results of a few commits, and gives the first file that matches."""
    with tempfile.TemporaryDirectory() as folder:
        results = published.history(Path(folder), [f"{n:040x}" for n in range(2)])
        return min(results.glob(name)).read_bytes()


def readers() -> dict[str, Reader]:
    """Makes all readers, by name."""
    commit = "a" * 40
    of_night = Measurement(commit, {"torch": "2.11"}, {"softmax:eager": (1.0, 1.1)}, {"softmax:eager": 0.1},
                           {"c": (1.0,)})
    night_file = json.dumps({"began": 1.0, "device": "cpu", "night": json.loads(of_night.to_json())})
    told: dict[str, Any] = {"id": "m", "clocks": [], "state": {}, "unfit": None, "gpus": ["A"]}
    series = b'"";"a";"b"\n"2011-01-01 00:15:00";1,0;2\n"2011-01-01 00:30:00";1;2,5\n'
    found = asdict(docs.Finding("softmax:eager", "forward", dict.fromkeys(docs.CHECKS, 0.0)))
    entry = b'[[accepted]]\nworkload = "a*"\ncommit = "any"\nreason = "b"\nuntil = 2027-01-01\n'
    owner = b'["softmax:*"]\nowner = "kernels"\nassignees = ["ada"]\nmention = ["@o/k"]\n'
    marker = str(sets.Marker("regressions", "H200", {"a time": 1.0, "b time": None}))
    workload = ROWS[0].workload.id

    def text(path: Path) -> str:
        return path.read_text(encoding="utf-8")

    return {
        "evidence": Reader("evidence.jsonl", _evidence(), _report),
        "mark of the row in flight": Reader("evidence.jsonl.row", json.dumps(["a", "b", "c", 1]).encode(),
                                            lambda path: evidence.Flight(path.with_suffix("")), ()),
        "compile seconds": Reader(f"compiled-{machine.identity()}.json", json.dumps(
            {"schema": 1, "compiled": {"a": {"cold": 1.0}}, "rows": {"a": 1.0}}).encode(),
            lambda path: compiling.Ledger(path.parent).add("a", {"warm": 1.0}), ()),
        "ceilings": Reader("ceilings.json", json.dumps({"schema": 1, "machine": machine.identity(), "copy": 1.0,
                                                        "matmul": {"fp32": 1.0}}).encode(),
                           lambda path: roofline._load(path, machine.identity()), ()),
        "asv results": Reader(f"{published.H200}/{0:08d}-links.json", _published(f"{published.H200}/0*.json"),
                              _history, ()),
        "asv benchmarks": Reader("benchmarks.json", _published("benchmarks.json"),
                                 lambda path: _history(path.parent / "m" / path.name), ()),
        "comparison": Reader("night.json", comparison(bisected(finding(samples=((commit, 1.0),))), finding(
            "ok")).to_json().encode(), _sent),
        "night": Reader("night.json", json.dumps(told).encode(), lambda path: night.Machine.read(text(path)),
                        (ValueError, KeyError, TypeError)),
        "memory of nights": Reader("a.measured", night_file.encode(),
                                   lambda path: memory.load(path.parent, "cpu", 1e9), ()),
        "steps of a night": Reader("n/night.json", json.dumps({"schema": 1, "began": 1.0, "key": {"a": 1}}).encode(),
                                   lambda path: steps.take(path.parent.parent, {"a": 1}, ["tests"], 2.0), ()),
        "result of a step": Reader("steps/tests.json", json.dumps(asdict(steps.Result("tests", "ok"))).encode(),
                                   lambda path: steps.Folder(path.parents[1], 1.0).result("tests"), ()),
        "lines of a night": Reader("compared.jsonl", seal({"benchmark": "a"}).encode() + b"\n",
                                   lambda path: list(files.records(path))),
        "thresholds": Reader("thresholds.toml", thresholds.FILE.read_bytes(), _plan),
        "budgets": Reader("budgets.toml", budgets.FILE.read_bytes(),
                          lambda path: budgets.parse(files.from_toml(text(path)))),
        "accepted": Reader("accepted.toml", entry, lambda path: accepted.load(path, date(2026, 1, 1)), ()),
        "owners": Reader("owners.toml", owner, lambda path: owners.load(path)[0].of("softmax:eager"), ()),
        "marker of an issue": Reader("body", marker.encode(),
                                     lambda path: sets.Marker.read(path.read_bytes().decode(errors="replace")), ()),
        "id": Reader("id", workload.encode(), lambda path: ids.workload(path.read_bytes().decode(errors="replace"))),
        "invariance": Reader("i.jsonl", f'{{"kind": "invariance"}}\n{json.dumps(found)}\n'.encode(),
                             lambda path: docs.invariance_table(docs.load_invariance(path)[1])),
        "electricity": Reader("electricity.txt", series, electricity.read),
        "news": Reader("news.jsonl", b'{"article": "a b", "highlights": "a"}\n' * 2, news.read),
        "listops": Reader("list", b"[MAX 2 9 [MIN 4 7 ] 0 ]", lambda path: listops.value(
            path.read_bytes().decode(errors="replace").split())),
        "checkpoint": Reader("model.pt", _checkpoint(), lambda path: checkpoints.read(path, ("step",))),
        "quantised model": Reader("model.safetensors", _model(), lambda path: storage.load(path, _linear())),
    }


def _linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 2))


def _checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.write(Path(folder, "a"), {"step": 1, "model": {"a": torch.zeros(2)}})
        return Path(folder, "a").read_bytes()


def _model() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        storage.save(_linear(), Path(folder, "a"))
        return Path(folder, "a").read_bytes()


def fuzz(reader: Reader, inputs: int, ends: Counter[str]) -> Callable[[], None]:
    """Returns a test of so many inputs, which counts how they end."""
    @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.explicit, Phase.generate, Phase.shrink), print_blob=False, verbosity=Verbosity.quiet)
    @given(changed(reader.text))
    def test(text: bytes) -> None:
        ends["inputs"] += 1
        ends[outcome(reader, text)] += 1

    return test


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="of each reader")
    parser.add_argument("--reader", choices=(names := readers()), help="one alone")
    given = parser.parse_args()
    failures = 0
    for name, reader in names.items() if given.reader is None else [(given.reader, names[given.reader])]:
        ends: Counter[str] = Counter()
        test, began = fuzz(reader, given.inputs, ends), time.monotonic()
        try:
            test()
            found = "nothing"
        except Exception as error:
            failures += 1
            found = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        print(f"{name}: {ends['inputs']} inputs in {time.monotonic() - began:.1f} s, {ends['read']} read, "
              f"{ends['refused']} refused; found {found}", flush=True)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
