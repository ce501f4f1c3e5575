"""Holds what a night makes of what its steps left: base, findings, commits, exit code. All pure."""
from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from perf.alerts.markdown import command_block
from perf.commands import nightly as command
from perf.compare import record as nights
from perf.compare.side import Side
from perf.measure.evidence import Evidence, Writer
from perf.nightly import bisection, compare, measure, night, publish
from perf.nightly.bisection import LATE, with_commits
from perf.nightly.schedule import MEASURE, all_measured, exit_code, head_commit
from perf.nightly.steps import Folder, Result
from perf.nightly.verdict import failures, findings, last_quiet
from perf.system import exit_codes, files
from perf.tests.comparisons import FA2, SDPA, SINCE, bisected, comparison, finding, nobody
from perf.verdict.search import Outcome, Step
from perf.verdict.verdict import Verdict
from perf.workloads.workload import BARE, Workload

ROOT = Path(__file__).parents[2]
CELL = Workload(BARE, "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "bf16")
STEPS = (nights.Step("benchmarks", "ok"), nights.Step("verdict", "ok"))


def evidence(outcome="ok", **changed):
    return Evidence(CELL, outcome, **{"median": 1e-3} | changed)


def of(head, *found, steps=STEPS):
    return comparison(*found, head=head, steps=steps)


@pytest.mark.parametrize(("earlier", "base"), [
    ([], None),
    ([of("b", finding("ok")), of("a", finding("ok"))], "b"),
    ([of("b", finding("regressed")), of("a", finding("ok"))], "a"),
    ([of("b", finding("wrong")), of("a", finding("new"))], "a"),
    ([of("b", finding("inconclusive"), finding("missing", FA2))], "b"),
    ([of("b", steps=(nights.Step("benchmarks", "failed", "no disk"),)), of("a", finding("ok"))], "a"),
    ([of("b", finding("new"), steps=(STEPS[0], nights.Step("verdict", "skipped", "the first")))], "b"),
    ([of("b", finding("ok"), steps=(STEPS[0], nights.Step("verdict", "failed", "killed")))], None),
    ([of("b", steps=())], None),
])
def test_the_last_good_commit_is_that_of_the_last_quiet_night(earlier, base):
    assert last_quiet(earlier, nobody) == base


def test_what_was_accepted_since_is_no_regression():
    earlier = [of("b", finding("regressed")), of("a", finding("ok"))]
    assert last_quiet(earlier, lambda found: "it is worth it") == "b"


def test_each_benchmark_has_a_finding():
    compared = {SDPA: finding("ok")}
    assert findings({SDPA: evidence()}, compared, "late", first=False) == [compared[SDPA]]
    [wrong] = findings({SDPA: evidence("wrong", reason="off by 2")}, compared, "late", first=False)
    assert (wrong.word, wrong.why) == ("wrong", "off by 2")
    [late] = findings({SDPA: evidence()}, {}, "late", first=False)
    assert (late.word, late.why, late.head) == ("inconclusive", "late", 1e-3)
    [new] = findings({SDPA: evidence()}, {}, "the first night", first=True)
    assert (new.word, new.head) == ("new", 1e-3)
    [invalid] = findings({SDPA: evidence("invalid", reason="busy")}, {}, "late", first=True)
    assert (invalid.word, invalid.why) == ("invalid", "busy")
    assert findings({SDPA: evidence("invalid", reason="busy")}, compared, "late", first=False) == [compared[SDPA]]
    assert findings({SDPA: evidence("skipped"), FA2: evidence("failed")}, {}, "late", first=True) == []
    assert failures({SDPA: evidence("failed", reason="KeyError: 1")}) == [nights.Failed(SDPA, "KeyError: 1")]


def test_what_regressed_has_its_commit_or_why_not():
    found = [finding(), finding(benchmark=FA2), finding("ok", "other")]
    line = {"benchmark": SDPA, "since": SINCE, "why": "", "author": "Ada Lovelace", "subject": "Clone once more"}
    first, second, third = with_commits(found, {SDPA: line}, LATE)
    assert first == bisected(found[0])
    assert second == replace(found[1], why=f"{found[1].why}; {LATE}")
    assert third == found[2]
    unknown = with_commits(found, {SDPA: line | {"since": None, "why": "not bisected: it was ok"}}, LATE)[0]
    assert unknown.since is None
    assert unknown.why.endswith("; not bisected: it was ok")


@pytest.mark.parametrize(("outcomes", "words", "code"), [
    ({}, ["ok", "improved"], 0),
    ({}, ["new"], 0),
    ({"alert": "failed"}, ["ok"], 3),
    ({"alert": "failed"}, ["regressed", "ok"], 1),
    ({}, ["wrong"], 1),
    ({"machine": "unfit"}, [], 10),
    ({"verdict": "unfit"}, ["invalid", "invalid"], 10),
    ({"verdict": "unfit"}, ["ok", "invalid"], 3),
    ({"machine": "unfit", "tests": "failed"}, [], 10),
])
def test_exit_codes(outcomes, words, code):
    done = {name: Result(name, "failed" if outcome in ("failed", "unfit") else outcome, "why", unfit=outcome == "unfit")
            for name, outcome in outcomes.items()}
    made = comparison(*(finding(word, f"b{i}") for i, word in enumerate(words)))
    assert exit_code(done, made, nobody) == code


def test_an_accepted_regression_is_a_quiet_night():
    assert exit_code({}, comparison(finding()), lambda found: "worth it") == 0


@pytest.mark.parametrize(("became", "expected"), [
    ({}, True), ({"screen": "skipped", "verdict": "skipped"}, True),
    ({"machine": "failed", **dict.fromkeys(MEASURE, "skipped")}, False),  # an unfit night is not over
    ({"launches": "failed", "screen": "skipped"}, False), ({"verdict": None}, False)])
def test_whether_anything_is_left_to_measure(tmp_path, became, expected):
    folder = Folder(tmp_path, 1e9)
    for name, outcome in (dict.fromkeys(("machine", *MEASURE), "ok") | became).items():
        if outcome:
            folder.save(Result(name, outcome))
    assert all_measured(folder) is expected


def test_the_help_names_every_exit_code():
    said = command.__doc__.partition("Exit codes:")[2]
    for code in (exit_codes.OK, exit_codes.FAILED, exit_codes.STEP_FAILED, exit_codes.UNFIT):
        assert f" {code} " in f" {said} ".replace(":", " ")


def test_what_vanished():
    command = "python -m pytest --perf-grid=quick --perf-against=1"
    before = comparison(finding("ok"), finding("ok", FA2), command=command)
    of_another = comparison(finding("ok", "other"), command="python -m pytest --perf-grid=full")
    assert publish.vanished([of_another, before], {SDPA}, before.command) == [FA2]
    assert publish.vanished([before], {SDPA}, before.command.replace("=1", "=2")) == [FA2]  # against another commit
    assert publish.vanished([of_another, before], {SDPA, FA2, "more"}, before.command) == []
    assert publish.vanished([of_another], {SDPA}, before.command) == []
    assert publish.vanished([], {SDPA}, before.command) == []


def test_a_night_says_its_device():
    here = Path(".")
    options = night.Options(None, "quick", here, here, here, 1.0, None, None, more=("--perf-seqlens=512",))
    typed = night.command(here, "cuda:1", options, "1" * 40)
    assert typed == ("python -m pytest perf/ --benchmark-only --perf-device=cuda:1 --perf-grid=quick "
                     f"--perf-seqlens=512 --perf-against={'1' * 40}")
    assert command_block(typed)  # alerts take it for a command of ours
    assert night.device_of(comparison(command=typed)) == "cuda:1"
    assert "--perf-against" not in night.command(here, "cpu", options, None)
    elsewhere = night.command(ROOT / "examples/mykernels", "cpu", options, None)
    assert elsewhere.startswith("python -m pytest --pyargs perf --benchmark-only")
    assert command_block(elsewhere)
    assert night.device_of(comparison(command="an unclosed 'quote")) is None


def test_the_last_good_row_of_each_benchmark_counts(tmp_path):
    writer = Writer(tmp_path / "evidence.jsonl")
    for outcome, median in (("invalid", None), ("ok", 1e-3), ("ok", 2e-3), ("invalid", None)):
        writer.append(evidence(outcome, median=median))
    assert [(row.outcome, row.median) for row in measure.rows(writer.path).values()] == [("ok", 2e-3)]
    assert measure.rows(tmp_path / "none.jsonl") == {}


def test_a_comparison_that_the_machine_spoiled_is_made_again(tmp_path):
    path = tmp_path / "compared.jsonl"
    for word in ("invalid", "ok"):
        files.append(path, {"finding": json.loads(json.dumps(vars(finding(word)))), "seconds": 1.0})
        assert compare.findings(path) == {SDPA: finding(word)}


def steps_of(levels, *steps):
    return Outcome(None, tuple(itertools.starmap(Step, steps)),
                 {i: Verdict("regressed", ratio, ratio, ratio, 5, "", 0) for i, ratio in enumerate(levels) if i},
                 frozenset())


@pytest.mark.parametrize(("levels", "steps", "worst"), [
    ([1, 1, 1.1], [(1, 2)], (1, 2)),
    ([1, 1.1, 1.3, 1.2], [(0, 1), (1, 2), (2, 3)], (1, 2)),
    ([1, None, None], [(0, 1), (1, 2)], (0, 1)),
])
def test_the_step_that_takes_most_is_blamed(levels, steps, worst):
    assert bisection.worst(steps_of(levels, *steps)) == Step(*worst)


def test_time_that_has_ended_ends_the_search():
    now = iter([0.0, 9.0, 10.0])
    asked = []

    def compared(base, head, seconds):
        asked.append(seconds)
        return Verdict("ok", 1.0, 1.0, 1.0, 5, "", 0)

    limited, here = bisection.until(10.0, compared, lambda: next(now)), Side(Path("."), "here")
    limited(here, here, 60.0)
    limited(here, here, 60.0)
    with pytest.raises(bisection.Late):
        limited(here, here, 60.0)
    assert asked == [10.0, 1.0]


def git(root, *words):
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", "-C", str(root), *names, *words], capture_output=True, text=True,
                          check=True).stdout.strip()


@pytest.fixture
def commits(tmp_path):
    """Makes eight commits of a repository whose attention/ holds a level, which rises at the sixth; the first is
    good."""
    git(tmp_path, "init", "--quiet")
    made = []
    for i in range(8):
        path = tmp_path / "attention" / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{1.0 if i < 5 else 1.1} # {i}\n")
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "--quiet", "--message", f"number {i}")
        made.append(git(tmp_path, "rev-parse", "HEAD"))
    return made


class Levels:
    """Compares the levels that two folders hold, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, base, head, seconds):
        self.asked += 1
        levels = [float((side.folder / "attention/__init__.py").read_text().split()[0]) for side in (base, head)]
        ratio = levels[1] / levels[0]
        return Verdict("regressed" if ratio > 1.05 else "ok", ratio, ratio * 0.99, ratio * 1.01, 5, "", 0)


def test_a_commit_is_found_and_asked_first_of_the_next_benchmark(tmp_path, commits, capsys):
    good, *rest = commits
    compare_ = Levels()
    assert bisection.find(rest, good, compare_, 1.0, tmp_path) == bisection.Blame(commits[5])
    assert compare_.asked > 1
    compare_.asked = 0
    assert bisection.find(rest, good, compare_, 1.0, tmp_path, [commits[5]]) == bisection.Blame(commits[5])
    assert compare_.asked == 1
    assert bisection.find(rest, good, compare_, 1.0, tmp_path, [commits[2]]) == bisection.Blame(commits[5])


def never(base, head, seconds):
    raise AssertionError("nothing is to be measured")


def test_the_only_commit_needs_no_measuring(tmp_path, commits):
    assert bisection.find(commits[-1:], commits[0], never, 1.0, tmp_path) == bisection.Blame(commits[-1])


@pytest.mark.slow
def test_commits_that_do_not_touch_a_benchmark_s_code_are_not_asked(tmp_path):
    """A repository whose only backends are the project's own files, and another that a commit breaks."""
    for package in ("attention", "models"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    git(tmp_path, "init", "--quiet")
    made = []
    for path, added in ((None, ""), ("tiled", "X = 1\n"), ("eager", "# words\n"), ("eager", "X = 1\n"),
                        ("tiled", "X = (\n"), ("tiled", "1)\n")):
        if path:
            with (tmp_path / f"attention/backends/{path}.py").open("a") as file:
                file.write(added)
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "--quiet", "--message", f"{path}")
        made.append(git(tmp_path, "rev-parse", "HEAD"))
    eager, tiled = (replace(CELL, backend=name) for name in ("eager", "tiled"))
    good, *commits = made
    found = bisection.changes([eager], good, commits[:3], tmp_path)
    assert found == {eager.id: [made[3]]}
    found = bisection.changes([eager, tiled], good, commits, tmp_path)
    assert made[1] in found[tiled.id]
    assert made[2] not in found[tiled.id]
    assert {made[3], made[4]} <= set(found[eager.id])  # what can't be read may be the one
    git(tmp_path, "rm", "-r", "--quiet", "attention")
    git(tmp_path, "commit", "--quiet", "--message", "without attention/")
    without = git(tmp_path, "rev-parse", "HEAD")
    assert bisection.changes([eager], good, [made[1], without], tmp_path) == {eager.id: [without]}
    gone = replace(CELL, backend="gone")
    assert bisection.changes([gone], good, commits[:3], tmp_path) == {gone.id: commits[:3]}


def test_benchmarks_are_told_apart_and_what_can_t_be_bisected_says_why(tmp_path, commits, monkeypatch, capsys):
    """The first one's commit is found; the second's good commit is the bad one itself."""
    monkeypatch.setattr(bisection, "comparing", lambda w, device: Levels())
    other = replace(CELL, n=1024, m=1024)
    request, results = tmp_path / "bisect.json", tmp_path / "bisected.jsonl"
    wanted = [{"benchmark": CELL.id, "good": commits[0]}, {"benchmark": other.id, "good": commits[7]}]
    request.write_text(json.dumps({"device": "cpu", "seconds": 60.0, "bad": commits[7], "wanted": wanted}))
    bisection.main(request, results, tmp_path)
    bisection.main(request, results, tmp_path)  # all is known
    first, second = files.records(results)
    assert (first["benchmark"], first["since"], first["why"]) == (CELL.id, commits[5], "")
    assert (second["benchmark"], second["since"]) == (other.id, None)
    assert second["why"].startswith("not bisected: no commit of")


def test_a_regression_that_is_not_seen_again_has_no_commit(tmp_path, commits, capsys):
    found = bisection.find(commits[1:4], commits[0], Levels(), 1.0, tmp_path)
    assert found.since is None
    assert found.why.startswith("not bisected: measured again, it was ok")


@pytest.mark.parametrize(("words", "said"), [
    (["--grid", "huge"], "invalid choice: 'huge'"),
    (["--budget", "-1"], "'-1' is no number of seconds"),
    (["--last-good", "nothing"], "unknown revision 'nothing'"),
    (["what"], "unrecognized arguments: what"),
])
def test_what_is_refused_is_one_line(words, said, capsys):
    from perf.__main__ import main

    assert main(["nightly", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_uncommitted_changes_are_refused(tmp_path, commits):
    assert head_commit(tmp_path) == commits[-1]
    (tmp_path / "attention/__init__.py").write_text("changed\n")
    with pytest.raises(ValueError, match=r"uncommitted changes \(attention/__init__.py among them\)"):
        head_commit(tmp_path)


def test_a_machine_is_looked_at_until_it_is_fit(tmp_path, monkeypatch):
    answers = iter(["busy", "busy", None])
    slept: list[float] = []

    def run(words, **options):
        assert words == [sys.executable, "-m", "perf", "machine", "cpu"]
        why = next(answers)
        text = json.dumps({"id": "0123", "gpus": [], "torch": "2.13", "clocks": None, "state": {}, "unfit": why})
        return subprocess.CompletedProcess(words, 1 if why else 0, text, "")

    monkeypatch.setattr(subprocess, "run", run)
    found = measure.look(tmp_path, "cpu", slept.append)
    assert found == night.Machine("0123", {"gpus": [], "torch": "2.13"}, None)
    assert found.device == "cpu"
    assert slept == [measure.PAUSE] * 2
    answers = iter(["busy"] * 3)
    assert measure.look(tmp_path, "cpu", slept.append).unfit == "busy"


def test_a_machine_without_the_device_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda words, **options: subprocess.CompletedProcess(
        words, 2, "", "warning\npython -m perf machine: no device 'tpu' here"))
    with pytest.raises(ValueError, match=r"^python -m perf machine: no device 'tpu' here$"):
        measure.look(tmp_path, "tpu")
