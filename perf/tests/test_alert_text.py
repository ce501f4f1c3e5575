"""Tests what an issue and the comment on a pull request say."""
from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.alerts import exports, sets, text
from perf.alerts.client import LONGEST
from perf.alerts.sets import Action, Set, Trouble
from perf.alerts.table import FOLDED, SHOWN, change, counts
from perf.alerts.text import MARKER, comment, summary, verdict
from perf.compare.record import WORDS, Failed, Finding, Step
from perf.policy.owners import Owners, read
from perf.report.units import change_in_percent, with_unit
from perf.tests.comparisons import BASE, FA2, GPT2, HEAD, SDPA, SINCE, bisected, comparison, finding, nobody
from perf.tests.markdown_tokens import tokens

GOLDEN = Path(__file__).with_name("comment.golden.md")
OTHERS = [SDPA.replace("n512", f"n{n}") for n in range(1, 40)]
OWNED, _ = read('["*"]\nowner = "whoever"\n["softmax:*"]\nowner = "kernels"\nmention = ["@o/k"]\nassignees = ["ada"]\n')
OUR_HTML = re.compile(r"(</?details>|<summary>[\w ]+</summary>|<!-- attention-perf [^<>]+-->|\s)+")
HOSTILE = "](http://e) @everyone | `x` </details> <!-- -->\n\n::error::\u202e#1"


def compared():
    """Returns twelve benchmarks: more than are shown."""
    return comparison(
        finding(), finding(benchmark=FA2, ratio=1.25, why="25.0 % slower [23.9, 26.2], 12 pairs"),
        finding("improved", GPT2, 0.9), finding("inconclusive", OTHERS[0], 1.03), finding("invalid", OTHERS[1]),
        finding("missing", OTHERS[2]), finding("regressed", OTHERS[3], 1.05), finding("unchanged", OTHERS[4]),
        finding("skipped", OTHERS[5]), *(finding("ok", name, 1.001) for name in OTHERS[6:10]),
        notes=("one finding: 3 of 5 benchmarks regressed",))


def body(*found: Finding, accepted=nobody, **changed) -> str:
    made = comparison(*found, **changed)
    [action] = sets.plan(made, {}, accepted)
    assert action.about is not None
    return text.body(made, action.about, OWNED, accepted)


def test_the_comment_is_word_for_word():
    """To change its text: change both, or write what this gives to the file."""
    said = comment(compared(), lambda f: "worth it (accepted until 2027-02-28)" if f.benchmark == OTHERS[3] else None)
    assert said == GOLDEN.read_text(encoding="utf-8")


def test_ten_rows_are_in_sight_the_worst_first():
    said = comment(compared(), nobody)
    seen, _, folded = said.partition("<details><summary>2 more</summary>")
    rows = [line for line in seen.splitlines() if line.startswith("| `")]
    assert len(rows) == SHOWN
    assert FA2 in rows[0]
    assert SDPA in rows[1]
    assert folded.count("| `softmax") == 2
    assert "it is skipped" not in said


@pytest.mark.parametrize(("found", "said"), [
    ([], "nothing was compared"),
    ([finding("ok")], "nothing regressed"),
    ([finding("ok"), finding("invalid", FA2)], "nothing regressed, 1 undecided"),
    ([finding("invalid")], "undecided: 1 benchmark: 1 invalid"),
    ([finding()], "1 benchmark regressed"),
    ([finding(), replace(finding(), figure="peak_bytes")], "1 benchmark regressed"),
    ([finding("wrong"), finding(benchmark=FA2), finding(benchmark=GPT2)], "1 benchmark wrong, 2 benchmarks regressed"),
])
def test_the_verdict_is_one_sentence(found, said):
    assert verdict(comparison(*found), nobody) == said


def test_what_is_accepted_is_told_and_does_not_count():
    said = comment(comparison(finding()), lambda f: "worth it (accepted until 2027-02-28)")
    assert said.startswith("### Performance: nothing else regressed, 1 accepted\n")
    assert f"- accepted: `{SDPA}`: `worth it (accepted until 2027-02-28)`" in said
    assert "perf accept" not in said


@pytest.mark.parametrize(("ratio", "said"), [
    (1.072, "+7.2"), (0.5, "-50.0"), (1.0, "0.0"), (0.99999, "0.0"), (2.5, "+150"), (0.0, "-100"), (1e9, "+1e+11")])
def test_percent(ratio, said):
    assert change_in_percent(ratio) == said


def test_a_change_without_a_ratio_is_its_word():
    assert change(finding("missing")) == "missing"
    assert change(finding()) == "**+7.2 %** [+6.1, +8.4]"
    assert change(finding("ok", ratio=1.001)) == "+0.1 % [-1.0, +1.3]"
    assert change(finding("inconclusive", ratio=1.03, low=None)) == "+3.0 %, inconclusive"


@pytest.mark.parametrize(("unit", "value", "said"), [
    ("seconds", 1.072e-3, "1.072 ms"), ("bytes", 12_600_000, "12.6 MB"), ("", 3, "3"), ("seconds", None, "-"),
    ("seconds", 0.0, "0"), ("bytes", 1e300, "1e+300"), ("error / bound", 0.25, "0.250"), ("launches", 12345, "12345"),
    ("launches", math.inf, "inf")])
def test_a_value_has_its_unit(unit, value, said):
    assert with_unit(value, unit) == said


def test_benchmarks_are_counted_once_by_their_worst_figure():
    found = [finding("ok"), replace(finding(), figure="peak_bytes"), finding("ok", FA2)]
    assert counts(found) == "2 benchmarks: 1 regressed, 1 ok"


def test_an_issue_says_all_of_it():
    found = bisected(finding(samples=((BASE, 1e-3), (BASE, 1e-3), (HEAD, 1.072e-3))))
    said = body(found, bisected(finding(benchmark=FA2)), finding("improved", GPT2, 0.9), finding("invalid", OTHERS[0]))
    for part in ("**2 regressed** on `NVIDIA H200`", f"Since `{SINCE}` by `Ada Lovelace`: `Clone once more`",
                 "Owner: `kernels` @o/k", "Owner: `whoever`", "**+7.2 %** [+6.1, +8.4]", "`▁▁█`",
                 f"Improved: `{GPT2}`", f"Invalid: `{OTHERS[0]}`", "told from none: 2.1 %",
                 f"--perf-against={BASE}\n```", "| `0123456789ab` |",
                 f"python -m perf accept {FA2} --commit {SINCE} --reason REASON", "| `1500` |"):
        assert part in said


def test_an_issue_that_is_not_bisected_says_so():
    assert f"Not bisected yet: a commit after `{BASE}`, up to `{HEAD}`." in body(finding())


def test_what_is_undecided_is_named():
    made, about = comparison(finding()), Set((finding(),), (f"{FA2} time",))
    assert f"Regressed before, undecided tonight: `{FA2} time`." in text.body(made, about, OWNED, nobody)


@pytest.mark.parametrize(("found", "title"), [
    ([finding()], f"7.2 % slower: {SDPA} on NVIDIA H200"),
    ([finding(), finding("wrong", FA2)], f"Wrong results: {FA2} and 1 more on NVIDIA H200"),
    ([replace(finding(), figure="peak_bytes")], f"7.2 % more peak_bytes: {SDPA} on NVIDIA H200"),
    ([finding(ratio=0.99)], f"Regressed: {SDPA} on NVIDIA H200"),  # of a counter that rose
])
def test_a_title_names_the_worst(found, title):
    [action] = sets.plan(comparison(*found), {}, nobody)
    assert action.about is not None
    assert text.title(comparison(*found), action.about) == title


def test_trouble_is_told_with_its_reasons():
    made = comparison(failed=(Failed("3333", "can't be imported"),), vanished=("softmax:gone",),
                 steps=(Step("tests", "failed", "2 failed"),))
    about = sets.trouble(made)
    assert about is not None
    assert "This went unwatched:\n\n| what | why |" in summary(made, nobody)
    assert text.title(made, about) == "Performance is not fully watched on NVIDIA H200: 3 reasons"
    assert "| `step tests` | `2 failed` |\n| `3333` | `can't be imported` |" in text.body(made, about, OWNED, nobody)


def test_an_issue_ends_with_why():
    said = text.closing(comparison(), Action(1, None, (f"{SDPA} time",), (f"{FA2} time",)))
    assert said.startswith(f"Recovered: `{SDPA} time`.\n\nAccepted in perf/policy/accepted.toml: `{FA2} time`.\n\n")
    assert "Nothing of this was seen again." in text.closing(comparison(), Action(1, None))


def test_whoever_owns_a_benchmark_is_assigned():
    assert text.assignees(Set((finding(), finding(benchmark=FA2))), OWNED) == ["ada"]
    assert text.assignees(Trouble((("a", "b"),)), OWNED) == []


def texts(made):
    """Yields all that is sent of a night."""
    yield comment(made, nobody)
    yield json.dumps(exports.to_webhook(made, nobody))
    for action in sets.plan(made, {}, nobody):
        if action.about:
            yield text.body(made, action.about, Owners(), nobody)
            assert len(text.title(made, action.about)) <= 250


def test_what_others_wrote_means_nothing():
    made = comparison(bisected(replace(finding(benchmark=HOSTILE), why=HOSTILE), HOSTILE, HOSTILE, HOSTILE),
                 head=HOSTILE, fingerprint={"gpus": [HOSTILE]}, notes=(HOSTILE,), command=HOSTILE, environment=HOSTILE,
                 vanished=(HOSTILE,), failed=(Failed(HOSTILE, HOSTILE),))
    for said in texts(made):
        assert "\u202e" not in said
        assert "\n::" not in said
        if said.startswith('{"text"'):
            continue
        seen = tokens(said)
        assert any("@everyone" in content for kind, content in seen if kind == "code_inline")
        for kind, content in seen:
            assert kind in ("text", "code_inline", "html_block", "html_inline", "fence", "softbreak", "strong_open",
                            "strong_close")
            if kind != "code_inline":
                assert not any(word in content for word in ("everyone", "error", "http", "`x`", "#1"))
            if kind.startswith("html"):
                assert OUR_HTML.fullmatch(content)
    [error] = [line for line in exports.annotate(made, nobody) if line.startswith("::error")]
    assert "\n" not in error
    assert "&lt;!-- --&gt;" in exports.to_webhook(made, nobody)["text"]


def test_an_annotation_says_what_and_why():
    made = comparison(*(finding(benchmark=name, why="100% slower, a: b") for name in OTHERS[:12]), finding("invalid"),
                 finding("ok", FA2))
    lines = list(exports.annotate(made, nobody))
    assert len(lines) == 11
    assert lines[0].startswith("::error title=softmax%3Asdpa-forward")
    assert lines[0].endswith("::regressed: 100%25 slower, a: b")
    assert lines[-1].startswith("::warning title=")


def test_a_summary_stays_within_what_a_step_may_have(tmp_path):
    path = tmp_path / "summary.md"
    exports.append(path, "first\n")
    exports.append(path, "é" * 1024 * 1024)
    written = path.read_text(encoding="utf-8")
    assert written.startswith("first\né")
    assert len(written.encode()) <= 1024 * 1024 + 6


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.floats(min_value=0), st.text(max_size=300)), max_size=3))
def test_any_night_can_be_told(rows):
    found = [replace(finding(word), benchmark=f"{name}{i}", ratio=ratio, head=ratio, low=ratio, high=ratio, why=name)
             for i, (word, ratio, name) in enumerate(rows)]
    for said in texts(comparison(*found)):
        assert len(said) <= LONGEST


def test_a_night_of_everything_fits():
    name = "model-with-a-long-name-" * 8
    found = [finding(benchmark=f"{name}{i}", why=name * 3) for i in range(2000)]
    for said in texts(comparison(*found, vanished=tuple(name + str(i) for i in range(2000)))):
        assert len(said) <= LONGEST or said.startswith('{"text"')
    said = comment(comparison(*found), nobody)
    assert f"and {2000 - SHOWN - FOLDED} more, in the record" in said
    assert said.endswith(f"{MARKER}\n")


def test_csv_has_a_row_a_finding_and_no_formula():
    made = comparison(bisected(finding(), subject="=HYPERLINK(evil)"), finding("missing", FA2))
    first, second = csv.DictReader(io.StringIO(exports.to_csv(made)))
    assert (first["benchmark"], first["ratio"], first["hardware"]) == (SDPA, "1.072", "NVIDIA H200")
    assert first["subject"] == "'=HYPERLINK(evil)"
    assert (second["word"], second["ratio"]) == ("missing", "")
    assert (second["head_revision"], second["base_revision"]) == (HEAD, BASE)


def test_pytorch_s_database_gets_a_record_a_figure():
    """The keys are the database's: pytorch/test-infra, oss_ci_benchmark_v3; maps are of text to text."""
    records = json.loads(exports.to_pytorch(comparison(finding(), finding("missing", FA2), finding("ok", GPT2, 1.0))))
    assert [record["model"]["name"] for record in records] == [SDPA, GPT2]
    first, second = records
    assert set(first) == {"benchmark", "model", "metric"}
    assert first["benchmark"] | {"extra_info": {}} == {
        "name": "attention-perf", "mode": "inference", "dtype": "bf16", "extra_info": {}}
    assert second["benchmark"]["mode"] == "training"
    assert first["model"]["backend"] == "sdpa"
    assert first["metric"]["name"] == "time"
    assert first["metric"]["benchmark_values"] == [1.072e-3]
    for record in records:
        for part in record.values():
            assert all(isinstance(value, str) for value in part.get("extra_info", {}).values())


def test_the_webhook_s_text_names_the_worst():
    said = exports.to_webhook(comparison(*(finding(benchmark=name) for name in OTHERS[:12])), nobody)
    lines = said["text"].splitlines()
    assert lines[0] == "Performance, 2025-11-25 02:00 UTC, NVIDIA H200: 12 benchmarks regressed"
    assert lines[1] == f"regressed: {min(OTHERS[:12])}, +7.2 %"
    assert lines[-1] == "and 2 more"
    assert len(said["alarms"]) == 12


def test_a_summary_is_the_comment_without_its_marker():
    assert summary(compared(), nobody) + f"\n{MARKER}\n" == comment(compared(), nobody)
