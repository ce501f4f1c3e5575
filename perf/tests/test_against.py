"""`--perf-against`: verdicts become tests, exit codes and properties."""
from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

import models
from perf.__main__ import main
from perf.compare import record as night
from perf.compare.record import Row
from perf.measure import machine
from perf.policy import accepted
from perf.policy.accepted import Acceptance
from perf.run import against as pytest_against
from perf.run.revision import Against
from perf.run.workers import Workers
from perf.tests.repositories import git
from perf.verdict.verdict import Verdict
from perf.workloads.workload import BARE, Workload

pytest_plugins = "pytester"
ROOT = Path(__file__).parents[2]
HEAVY = (models, pytest_against)  # imported here once: pytester unloads what an inner run imports
TEST = """
import pytest

@pytest.mark.workloads("attention")
def test_it(measure):
    measure()
"""
SMALL = ("-p", "no:hypothesispytest", "--perf-device=cpu", "--perf-grid=quick", "--perf-functions=softmax",
         "--perf-seqlens=64", "--perf-heads=2", "--perf-causal=both")
CELL = Workload(BARE, "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
SENTENCE = "7.2 % slower [6.1, 8.4], 12 pairs; 3 more launches: aten::clone"


class Fake:
    """Gives each backend the word that `words` says; a backend without one is unchanged."""

    words: ClassVar[dict[str, str]] = {}
    name = "main (01234567)"
    commit = "01234567" * 5
    versions: ClassVar[dict[str, dict[str, str]]] = {}
    code, count, unlisted = "c0de", 0, False

    def __init__(self, settings):
        if settings.against == "nowhere":
            raise ValueError("unknown revision 'nowhere'; give a branch")
        self.settings, self.notes, self.compared = settings, ["a note"], []

    def close(self):
        pass

    def only_base(self):
        return []

    def untimed(self, workloads):
        self.count = sum(w.backend in self.words for w in workloads)
        return [self._row(w, "unchanged") for w in workloads if w.backend not in self.words]

    def compare(self, workloads, say):
        self.compared.append([w.id for w in workloads])
        say("a line of progress")
        for w in workloads:
            yield self._row(w, self.words[w.backend])

    def _row(self, w, word):
        if word in ("regressed", "improved", "ok", "inconclusive"):
            verdict = Verdict(word, 1.072, 1.061, 1.084, 12, SENTENCE, 0)
            return Row(w, verdict, word, 1e-3, 1.072e-3, (1.0e-3, 1.1e-3, 1.072e-3))
        return Row(w, Verdict(word, None, None, None, 0, f"it is {word}", 0), word)


@pytest.fixture
def compared(pytester, monkeypatch):
    """Runs pytest in a folder with one test that measures, where the words of the backends are known beforehand."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(pytest_against, "Against", Fake)
    pytester.makeconftest((ROOT / "conftest.py").read_text())
    pytester.makepyfile(TEST)

    def run(*arguments, only="--benchmark-only", **words):
        monkeypatch.setattr(Fake, "words", words)
        backends = f"--perf-backends={','.join(dict.fromkeys((*words, 'eager')))}"
        return pytester.runpytest_inprocess(*SMALL, only, backends, "--perf-against=main", *arguments)

    return SimpleNamespace(run=run, path=pytester.path)


def test_a_regressed_row_is_a_failed_test_with_a_sentence(compared):
    result = compared.run(sdpa="regressed")
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=2)
    text = result.stdout.str()
    assert text.count(f"\nregressed: {SENTENCE} (against main (01234567))\n") == 2
    assert "Traceback" not in text
    assert "4 benchmarks: 2 regressed, 2 ok, unchanged" in text
    assert "softmax: 1.072x the base's time" in text
    assert "a note" in text
    table = text.partition("perf: quick grid on cpu")[2].partition("=== short test")[0]
    assert max(map(len, table.splitlines())) <= 120


def test_progress_shows_each_verdict(compared):
    lines = compared.run(sdpa="regressed", tiled="improved").outlines
    assert any("test_it[softmax:eager" in line and "ok, unchanged" in line for line in lines)
    assert any("test_it[softmax:tiled" in line and "improved 1.072x" in line for line in lines)
    assert "  1/2 softmax:sdpa-forward-causal-b1-h2-kv2-n64-m64-d64-fp32: regressed 1.072x" in lines
    assert "  softmax:tiled: a line of progress" in lines


def test_pytest_benchmark_s_own_table_is_shown_only_if_asked_for(compared):
    compared.run(sdpa="ok").stdout.no_fnmatch_line("*Name (time in*")
    compared.run("--benchmark-group-by=param:n", sdpa="ok").stdout.fnmatch_lines(["*benchmark 'n=64': 2 tests*"])


def test_a_variant_s_benchmarks_are_decided_together(compared, monkeypatch):
    seen = []

    def compare(self, workloads, say):
        seen.append([w.backend for w in workloads])
        return (self._row(w, "ok") for w in workloads)

    monkeypatch.setattr(Fake, "compare", compare)
    assert compared.run("--perf-seqlens=64,32", sdpa="ok", tiled="ok").ret == 0
    assert sorted(seen) == [["sdpa"] * 4, ["tiled"] * 4]


@pytest.mark.parametrize(("words", "lenient", "code"), [
    ({"sdpa": "ok"}, 0, 0),
    ({"sdpa": "improved", "tiled": "new"}, 0, 0),
    ({"sdpa": "ok", "tiled": "inconclusive"}, 0, 11),
    ({"tiled": "missing"}, 0, 11),
    ({"sdpa": "ok", "tiled": "invalid"}, 0, 11),
    ({"tiled": "invalid"}, 10, 10),
    ({"sdpa": "inconclusive", "tiled": "invalid"}, 10, 10),
    ({"sdpa": "regressed", "tiled": "invalid"}, 1, 1),
    ({"sdpa": "regressed", "tiled": "missing"}, 1, 1),
    ({"sdpa": "wrong"}, 1, 1),
    ({"sdpa": "wrong", "tiled": "inconclusive"}, 1, 1),
    ({"sdpa": "skipped"}, 0, 0),
    ({}, 0, 0),
])
def test_exit_codes(compared, words, lenient, code):
    assert compared.run(**words).ret == code
    assert compared.run("--perf-lenient", **words).ret == lenient


@pytest.mark.parametrize(("unlisted", "code"), [(False, 0), (True, 11)])
def test_a_base_that_can_t_be_imported_decides_nothing(compared, monkeypatch, unlisted, code):
    monkeypatch.setattr(Fake, "unlisted", unlisted)
    monkeypatch.setattr(Fake, "untimed", lambda self, workloads: [self._row(w, "new") for w in workloads])
    assert compared.run().ret == code


def test_what_lies_above_its_floor_fails_though_pairs_are_missing(compared, monkeypatch):
    slower = Verdict("inconclusive", 1.1, 1.03, 1.18, 4, "10.0 % slower [3.0, 18.0], 4 pairs", 2, slower=True)
    monkeypatch.setattr(Fake, "_row", lambda self, w, word: Row(w, slower, word, 1e-3, 1.1e-3, (1.1e-3,)))
    for option in ((), ("--perf-lenient",)):
        result = compared.run(*option, sdpa="inconclusive", eager="inconclusive")
        assert result.ret == 1
        assert "inconclusive: 10.0 % slower [3.0, 18.0], 4 pairs (against main" in result.stdout.str()


def test_another_failure_is_no_verdict(compared):
    (compared.path / "test_other.py").write_text("def test_other(benchmark):\n    benchmark(int)\n    assert False\n")
    assert compared.run(tiled="missing").ret == 1


def test_first_failure_stops(compared):
    result = compared.run("-x", sdpa="missing", tiled="missing")
    result.assert_outcomes(failed=1)
    assert result.ret == 11


def test_a_machine_that_stays_unfit_ends_the_run(compared):
    result = compared.run("--perf-seqlens=16,32,64", sdpa="invalid", tiled="regressed")
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*perf: the machine was unfit for all 6 benchmarks that were tried: it is invalid*"])
    assert "regressed" not in result.stdout.str()


def test_junit_properties(compared):
    compared.run("--junitxml=out.xml", sdpa="regressed")
    cases = {case.attrib["name"]: case for case in ElementTree.parse(compared.path / "out.xml").iter("testcase")}
    found = {name: {p.get("name"): p.get("value") for p in case.iter("property")} for name, case in cases.items()}
    sdpa, eager = (next(said for name, said in found.items() if backend in name) for backend in ("sdpa", "eager"))
    assert sdpa == {"base": "0.001", "head": "0.001072", "ratio": "1.072", "interval": "[1.061, 1.084]",
                    "verdict": "regressed", "why": SENTENCE}
    assert eager == {"verdict": "ok, unchanged", "why": "it is unchanged"}
    failures = [failure.get("message") for case in cases.values() for failure in case.iter("failure")]
    assert failures == [f"Failed: regressed: {SENTENCE} (against main (01234567))"] * 2


def test_samples_of_the_head_are_played_to_pytest_benchmark(compared):
    compared.run("--benchmark-json=out.json", sdpa="regressed")
    saved = json.loads((compared.path / "out.json").read_text())
    assert saved["perf"]["against"] == "main (01234567)"
    assert len(saved["benchmarks"]) == 2
    assert saved["benchmarks"][0]["stats"]["median"] == pytest.approx(1.072e-3)
    assert saved["benchmarks"][0]["extra_info"]["verdict"] == "regressed"


def test_k_and_lf(compared):
    result = compared.run("-k", "sdpa and causal", sdpa="regressed")
    result.assert_outcomes(failed=1, deselected=3)
    result = compared.run("--lf", sdpa="regressed")
    result.assert_outcomes(failed=1)
    assert result.ret == 1


def test_collecting_measures_nothing(compared, monkeypatch):
    monkeypatch.setattr(Fake, "untimed", None)
    assert compared.run("--collect-only", "-q", sdpa="regressed").ret == 0


REFUSED = {
    "--perf-against=nowhere": "--perf-against: unknown revision 'nowhere'; give a branch",
    "--perf-profile=torch": "--perf-against: doesn't go together with --perf-profile",
    "--perf-resume": "--perf-against: doesn't go together with --perf-resume",
    "--perf-report=a.html": "--perf-against: doesn't go together with --perf-report",
    "--perf-shard-seconds=a.jsonl": "--perf-against: doesn't go together with --perf-shard-seconds",
    "--perf-shard=1/2": "--perf-shard: python -m perf merge needs the verdicts of each part; give --perf-verdicts=FILE",
    "-n999": "-n 999: there are not as many GPUs, or cores of a CPU, here; give fewer",
}


@pytest.mark.parametrize(("option", "message"), REFUSED.items(), ids=REFUSED)
def test_refusals_are_one_line(compared, option, message):
    refused(compared.run(option), message)


def test_a_run_that_measures_nothing_is_no_comparison(compared):
    refused(compared.run(only="--benchmark-skip"), "--perf-against: measures benchmarks only; add --benchmark-only")


def refused(result, message):
    said = [line for line in result.errlines + result.outlines if line.strip()]
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said
    assert len(said) == 1
    assert message in said[0]


@pytest.mark.parametrize("option", ["--perf-all", "--perf-lenient", "--perf-verdicts=x"])
def test_what_says_how_to_compare_needs_a_revision(pytester, monkeypatch, option):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeconftest((ROOT / "conftest.py").read_text())
    result = pytester.runpytest_inprocess(*SMALL, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{option.partition('=')[0]}: says how --perf-against compares; give it a revision" in result.stderr.str()


def test_ini_twins(compared, pytester):
    (compared.path / "pytest.ini").write_text("[pytest]\nperf_against = main\nperf_lenient = true\n")
    assert compared.run(sdpa="missing").ret == 0
    plain = pytester.runpytest_inprocess(*SMALL, "--benchmark-skip")  # the revision is for when benchmarks are measured
    plain.assert_outcomes(skipped=plain.parseoutcomes()["skipped"])
    assert plain.ret == 0


def test_verdicts_are_kept_for_alerts(compared, monkeypatch):
    monkeypatch.setattr(machine, "revision", lambda: "89abcdef" * 5)
    words = ("--perf-verdicts=out/verdicts.json", "--junitxml=out.xml", "-k", "sdpa or tiled or eager")
    assert compared.run(*words, sdpa="regressed", tiled="missing").ret == 1
    kept = night.load(compared.path / "out" / "verdicts.json")
    found = {(f.benchmark.partition("-")[0], f.word) for f in kept.findings}
    assert found == {("softmax:eager", "unchanged"), ("softmax:sdpa", "regressed"), ("softmax:tiled", "missing")}
    first = next(f for f in kept.findings if f.word == "regressed")
    assert (first.base, first.head, first.low, first.high) == (1e-3, 1.072e-3, 1.061, 1.084)
    assert (kept.base, kept.head, kept.notes) == (Fake.commit, "89abcdef" * 5, ("a note",))
    assert kept.fingerprint["torch"]
    assert kept.command == (
        "python -m pytest perf/ --benchmark-only -k 'sdpa or tiled or eager' --perf-functions=softmax "
        "--perf-backends=sdpa,tiled,eager --perf-seqlens=64 --perf-heads=2 --perf-causal=both --perf-device=cpu "
        f"--perf-grid=quick --perf-against={Fake.commit}")


def test_shards_of_a_comparison_are_one_comparison(compared, pytester):
    """Each part counts what the whole run times, which sets how sure an alarm has to be (Thresholds.among)."""
    words: dict[str, str] = {"sdpa": "regressed", "tiled": "missing"}
    assert compared.run("--perf-verdicts=whole.json", **words).ret == 1
    for index in (1, 2):
        result = compared.run(f"--perf-shard={index}/2", f"--perf-verdicts={index}.json", **words)
        assert f"shard {index}/2: 3 of 6 rows, split by the 4 that are timed" in result.outlines
        part = night.load(compared.path / f"{index}.json")
        assert part.shard["options"]["timed"] == 4
        assert part.shard["revision"] == Fake.code
        assert len({f.benchmark for f in part.findings}) == 3
        assert sum(len(f.rounds) for f in part.findings) == 3
    assert main(["merge", *(str(compared.path / f"{index}.json") for index in (1, 2)),
                 "-o", str(compared.path / "merged.json")]) == 1
    whole, merged = (night.load(compared.path / f"{name}.json") for name in ("whole", "merged"))
    assert {f.benchmark: f for f in merged.findings} == {f.benchmark: f for f in whole.findings}
    assert (merged.command, merged.base, merged.head, merged.notes) == (whole.command, whole.base, whole.head,
                                                                       whole.notes)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two cores")
def test_workers_verdicts_are_played_and_what_they_lack_is_compared(compared, monkeypatch):
    """One worker measured the first of two variants, once on an unfit machine; the other one died."""
    first, second = (replace(CELL, heads=2, kv_heads=2, n=64, m=64, causal=causal) for causal in (True, False))
    began = []

    def start(self, place, file, part, settings):
        began.append((part, sorted(place.cores)))
        if part == "1/2":
            rows = Fake(settings)._row(first, "regressed"), Fake(settings)._row(second, "invalid")
            made = night.Comparison(0.0, "m", {}, "", "b", "h", "pytest",
                                    tuple(night.Finding.of(row, rounds=True) for row in rows))
            made.save(file)
        else:
            file.parent.mkdir(parents=True)
            file.with_name("log.txt").write_text("its last words")
        return subprocess.Popen(["true"] if part == "1/2" else ["sh", "-c", "exit 7"])

    measured, kept = [], []

    def compare(self, workloads, say):
        measured.extend(workloads)
        return (self._row(w, "ok") for w in workloads)

    monkeypatch.setattr(Workers, "_start", start)
    monkeypatch.setattr("perf.run.workers._keep_to", lambda place: kept.append(sorted(place.cores)))
    monkeypatch.setattr(Fake, "compare", compare)
    result = compared.run("-n2", "--benchmark-json=out.json", sdpa="ok", tiled="ok")
    assert result.ret == 1
    result.assert_outcomes(passed=5, failed=1)
    assert [part for part, _ in began[:2]] == ["1/2", "2/2"]
    assert not {*began[0][1]} & {*began[1][1]}
    assert kept[-1] == began[0][1]  # whose child did not die
    assert "exit status 7: its last words; this run measures what it left" in result.stdout.str()
    assert {w.id for w in measured} == {second.id, *(replace(w, backend="tiled").id for w in (first, second))}
    assert len(json.loads((compared.path / "out.json").read_text())["benchmarks"]) == 4


def test_an_accepted_regression_passes(compared, monkeypatch):
    entry = Acceptance("softmax:sdpa-*-causal-*", "any", "worth it", date(2999, 1, 1))
    monkeypatch.setattr(accepted, "load", lambda _: ([entry], ["accepted.toml: entry 2: reason is missing"]))
    result = compared.run("--junitxml=out.xml", sdpa="regressed")
    result.assert_outcomes(passed=3, failed=1)  # sdpa without a mask is not accepted
    assert result.ret == 1
    assert any("regressed 1.072x, accepted" in line for line in result.outlines)
    assert "entry 2: reason is missing" in result.stdout.str()
    said = {p.get("value") for p in ElementTree.parse(compared.path / "out.xml").iter("property")}
    assert "worth it (accepted until 2999-01-01)" in said
    compared.run(sdpa="wrong").assert_outcomes(passed=2, failed=2)


def test_properties_leave_out_what_is_not_known():
    verdict = Verdict("inconclusive", 1.5, 0.0, math.inf, 1, "one pair", 2)
    assert pytest_against.properties(Row(CELL, verdict, "inconclusive")) == {
        "ratio": 1.5, "verdict": "inconclusive", "why": "one pair"}


@pytest.fixture
def repository(tmp_path):
    """Gives three commits: without attention/, tagged empty, with it, and another one; and a clone of the last
    alone."""
    tree = tmp_path / "tree"
    (tree / "attention").mkdir(parents=True)
    (tree / "attention" / "__init__.py").write_text("")
    git(tree, "init", "--quiet")
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "nothing")
    git(tree, "tag", "empty")
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "attention")
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "another")
    git(tmp_path, "clone", "--quiet", "--depth=1", tree.as_uri(), "shallow")
    return tree


@pytest.mark.parametrize(("revision", "where", "message"), [
    ("nowhere", "tree", "unknown revision 'nowhere'; give a branch, tag or commit"),
    ("empty", "tree", "revision 'empty' has no attention/"),
    ("second", "shallow", "this is a shallow clone, which may lack the commit; git fetch --unshallow"),
    ("main", "nothing", "is in no git repository"),
    ("main", "no git", "there is no git here; install it"),
], ids=lambda value: value)
def test_a_revision_that_can_t_be_compared_with(compared, repository, monkeypatch, revision, where, message):
    given = git(repository, "rev-parse", "HEAD~1") if revision == "second" else revision
    root = repository.parent / where
    root.mkdir(exist_ok=True)
    monkeypatch.setattr(pytest_against, "Against", functools.partial(Against, root=root))
    if where == "no git":
        monkeypatch.setenv("PATH", "")
    refused(compared.run(f"--perf-against={given}"), message)
