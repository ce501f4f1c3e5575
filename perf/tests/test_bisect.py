"""The search for the first bad commit, over measurements that are clear, noisy, or not to be had."""
from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.decide.bisect import between, bisect, comparing, main
from perf.decide.live import workload
from perf.decide.search import Step, search
from perf.decide.tree import ROOT
from perf.decide.verdict import Verdict

EFFECT = 0.05


@dataclass
class World:
    """Commits "1", "2", ... of given levels (time over good's), measured with a known half-width of the interval.

    The interval holds the truth; a broken commit can't be imported; `spread` halves with every measurement.
    """

    levels: Sequence[float]
    spread: float = 0.002
    broken: frozenset[int] = frozenset()
    seed: int = 0
    asked: Counter[int] = field(default_factory=Counter)
    unclear: set[int] = field(default_factory=set)

    def measure(self, commit: str) -> Verdict | None:
        position = int(commit)
        self.asked[position] += 1
        if position in self.broken:
            return None
        half = self.spread / 2 ** (self.asked[position] - 1)
        off = random.Random(f"{self.seed} {position} {self.asked[position]}").uniform(-half, half)
        ratio = self.levels[position - 1] * math.exp(off)
        found = verdict(ratio, ratio * math.exp(-half), ratio * math.exp(half))
        if found.word == "inconclusive":
            self.unclear.add(position)
        return found

    def search(self):
        return search([str(i + 1) for i in range(len(self.levels))], self.measure)

    @property
    def measured(self) -> int:
        return len([position for position in self.asked if position not in self.broken])


def verdict(ratio: float, low: float, high: float) -> Verdict:
    """The contract of words: clear of the smallest effect that matters on either side, or inconclusive."""
    word = ("regressed" if low > 1 + EFFECT / 2 else "improved" if high < 1 - EFFECT / 2 else
            "ok" if high < 1 + EFFECT else "inconclusive")
    return Verdict(word, ratio, low, high, 5, "", 0)


def levels(count: int, *steps: tuple[int, float]) -> list[float]:
    """The level of each of `count` commits: from the n-th one on, (n, level)."""
    found = [1.0] * count
    for first, level in sorted(steps):
        found[first - 1:] = [level] * (count - first + 1)
    return found


@settings(deadline=None)  # a busy machine takes its time
@given(st.integers(1, 64).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count))),
       st.floats(1.06, 2), st.integers(0, 99))
def test_one_step_among_64_commits_takes_8_measured_commits(where, level, seed):
    count, first = where
    world = World(levels(count, (first, level)), seed=seed)
    found = world.search()
    assert found.steps == (Step(first - 1, first),)
    assert world.measured <= 8
    assert world.asked.total() == world.measured  # clear measurements are not made twice
    assert found.end is not None
    assert found.end.word == "regressed"


def test_every_position_of_64():
    for first in range(1, 65):
        world = World(levels(64, (first, 1.08)))
        assert world.search().steps == (Step(first - 1, first),)
        assert world.measured <= 7


@settings(deadline=None)  # a busy machine takes its time
@given(st.integers(1, 64), st.integers(0, 999))
def test_an_inconclusive_step_is_measured_again_not_guessed(first, seed):
    world = World(levels(64, (first, 1.08)), spread=0.06, seed=seed)
    assert world.search().steps == (Step(first - 1, first),)
    assert all(world.asked[position] > 1 for position in world.unclear)
    assert max(world.asked.values()) <= 3


def test_noise_leaves_steps_inconclusive():
    found = World([1.08], spread=0.06, seed=4).measure("1")
    assert found is not None
    assert found.word == "inconclusive"


def test_a_commit_that_stays_inconclusive_is_left_aside():
    """Those around the step give no answer however often they are asked: the answer is that range, not a guess."""
    world = World(levels(64, (40, 1.08)))
    clear = world.measure

    def measure(commit: str) -> Verdict | None:
        found = clear(commit)
        return Verdict("inconclusive", 1.04, 0.9, 1.2, 5, "", 9) if int(commit) in (38, 39, 40, 41) else found

    found = search([str(i + 1) for i in range(64)], measure)
    assert found.steps == (Step(37, 42),)
    assert {world.asked[position] for position in (38, 39, 40, 41)} == {3}


@settings(deadline=None)  # a busy machine takes its time
@given(st.integers(1, 64), st.sets(st.integers(1, 63), max_size=30), st.integers(0, 99))
def test_commits_that_do_not_import_are_skipped(first, broken, seed):
    world = World(levels(64, (first, 1.08)), broken=frozenset(broken), seed=seed)
    found = world.search()
    before = max((p for p in range(first) if p not in broken), default=0)
    after = min(p for p in range(first, 65) if p not in broken)
    assert found.steps == (Step(before, after),)
    assert found.unusable <= broken
    assert world.measured <= 8 + len(broken)
    assert all(world.asked[position] <= 1 for position in broken)  # asking again makes nothing import


def test_a_run_of_broken_commits_is_left_quickly():
    """30 broken ones in the middle, the step elsewhere: not all of them are tried."""
    world = World(levels(64, (5, 1.08)), broken=frozenset(range(20, 50)))
    found = world.search()
    assert found.steps == (Step(4, 5),)
    assert len(found.unusable) <= 10


@pytest.mark.parametrize("word", ["missing", "wrong", "new"])
def test_words_that_say_nothing_of_time_skip_a_commit(word):
    world = World(levels(64, (40, 1.08)))

    def measure(commit: str) -> Verdict | None:
        found = world.measure(commit)
        return Verdict(word, None, None, None, 0, "", 0) if commit == "32" else found

    found = search([str(i + 1) for i in range(64)], measure)
    assert found.steps == (Step(39, 40),)
    assert found.unusable == {32}
    assert world.asked[32] == 1


@settings(deadline=None)  # a busy machine takes its time
@given(st.sets(st.integers(1, 64), min_size=2, max_size=2), st.floats(0.06, 0.3), st.floats(0.5, 2),
       st.integers(0, 99))
def test_two_steps_are_both_named(positions, size, relative, seed):
    first, second = sorted(positions)
    world = World(levels(64, (first, 1 + size), (second, 1 + size + size * relative)), seed=seed)
    assert world.search().steps == (Step(first - 1, first), Step(second - 1, second))


def test_two_steps_each_below_what_matters():
    """3.4 % twice: only both together are regressed, both are named."""
    world = World(levels(64, (20, 1.034), (50, 1.069)), spread=0.004)
    clear = world.measure

    def measure(commit: str) -> Verdict | None:
        found = clear(commit)
        assert found is not None
        assert found.low is not None
        return found if found.low > 1.05 else Verdict("ok", found.ratio, found.low, found.high, 5, "", 0)

    assert search([str(i + 1) for i in range(64)], measure).steps == (Step(19, 20), Step(49, 50))


@settings(deadline=None)  # a busy machine takes its time
@given(st.sets(st.integers(1, 64), min_size=2, max_size=2), st.integers(0, 999))
def test_the_second_of_two_steps_is_measured_again_too(positions, seed):
    """At first an interval spans both levels: it tells neither where it is, and is not taken for either."""
    first, second = sorted(positions)
    world = World(levels(64, (first, 1.15), (second, 1.2)), spread=0.03, seed=seed)
    sharp = World(world.levels, spread=0.002)
    known = {64: sharp.measure("64")}  # the end is known well: there is a second part

    def measure(commit: str) -> Verdict | None:
        return known.get(int(commit)) or world.measure(commit)

    found = search([str(i + 1) for i in range(64)], measure)
    assert {Step(first - 1, first)} <= {*found.steps} <= {Step(first - 1, first), Step(second - 1, second)}


def test_a_small_part_is_not_searched_for():
    """0.4 % of 10 %, though certain."""
    world = World(levels(64, (10, 1.004), (40, 1.1), (60, 1.096)), spread=0.0005)
    assert world.search().steps == (Step(39, 40),)
    assert world.asked.total() == 7


@settings(deadline=None)  # a busy machine takes its time
@given(st.sets(st.integers(1, 64), min_size=2, max_size=2), st.integers(0, 99))
def test_a_repair_in_part_is_named_with_its_regression(positions, seed):
    first, second = sorted(positions)
    world = World(levels(64, (first, 1.2), (second, 1.1)), seed=seed)
    assert world.search().steps == (Step(first - 1, first), Step(second - 1, second))


def test_a_repair_of_all_and_a_second_regression():
    world = World(levels(64, (10, 1.2), (20, 1.0), (40, 1.1)))
    found = world.search()
    assert Step(39, 40) in found.steps or Step(9, 10) in found.steps


def test_a_regression_partly_hidden_before_the_first_bad_commit():
    """+10 %, repaired to +3.5 % (which is ok), then +8 %: the bisection lands on the last, and looks back."""
    world = World(levels(64, (5, 1.10), (30, 1.035), (50, 1.08)))
    clear = world.measure

    def measure(commit: str) -> Verdict | None:
        found = clear(commit)
        assert found is not None
        assert found.high is not None
        return Verdict("ok", found.ratio, found.low, found.high, 5, "", 0) if found.high < 1.045 else found

    found = search([str(i + 1) for i in range(64)], measure)
    assert Step(49, 50) in found.steps
    assert Step(4, 5) in found.steps


@pytest.mark.parametrize("level", [1.0, 0.9, 1.01])
def test_no_regression_between_the_ends(level):
    world = World(levels(64, (30, level)))
    found = world.search()
    assert found.steps == ()
    assert found.end is not None
    assert found.end.word in ("ok", "improved")
    assert world.asked == {64: 1}


def test_an_end_that_cannot_be_measured():
    found = World(levels(8, (3, 1.2)), broken=frozenset({8})).search()
    assert (found.end, found.steps) == (None, ())


def test_an_end_that_stays_inconclusive_is_no_regression():
    found = search(["1", "2"], lambda commit: Verdict("inconclusive", 1.05, 0.9, 1.2, 5, "", 9))
    assert found.steps == ()
    assert found.end is not None
    assert found.end.word == "inconclusive"


def test_counters_alone_decide_where_the_time_says_nothing():
    """Launches rose twice at the same time: the first one is named, and nothing is made of the times."""
    def measure(commit: str) -> Verdict:
        return Verdict("regressed" if int(commit) >= 7 else "ok", 1.0, 0.99, 1.01, 3, "", 0)

    assert search([str(i + 1) for i in range(16)], measure).steps == (Step(6, 7),)


class Repository:
    """A git repository whose attention/ says how long it takes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch=main")
        (root / "attention").mkdir()

    def git(self, *arguments: str) -> str:
        who = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return subprocess.run(["git", "-C", str(self.root), *arguments], check=True, capture_output=True, text=True,
                              env={**os.environ, **who}).stdout.strip()

    def commit(self, level: str, subject: str, path: str = "attention/__init__.py") -> str:
        (self.root / path).write_text(f"{level}\n# {subject}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


class Compared:
    """Compares what two folders say, and remembers what was asked; "broken" can't be imported."""

    def __init__(self, spread: float = 0.001) -> None:
        self.asked: list[tuple[float, float, float]] = []
        self.spread = spread

    def __call__(self, base: Path, head: Path, seconds: float) -> Verdict:
        levels = [(folder / "attention" / "__init__.py").read_text().split()[0] for folder in (base, head)]
        if "broken" in levels:
            raise ValueError("head: its worker died (exit status 1): ImportError: broken")
        before, after = map(float, levels)
        self.asked.append((before, after, seconds))
        ratio = after / before
        found = verdict(ratio, ratio - self.spread, ratio + self.spread)
        return replace(found, why=f"{ratio:.3f}x")


def grown(repository: Repository, *commits: str) -> list[str]:
    return [repository.commit(level, f"number {i}") for i, level in enumerate(commits)]


def run(repository: Repository, compare, seconds: float = 10.0) -> int:
    commits = between(repository.root, "good", "main")
    return bisect(commits, repository.git("rev-parse", "good"), compare, seconds, repository.root)


def test_the_commit_is_named_with_its_evidence(repository, capsys):
    hashes = grown(repository, *["1"] * 6, *["1.08"] * 7)
    repository.git("tag", "good", hashes[0])
    compare = Compared()
    assert run(repository, compare) == 0
    out = capsys.readouterr().out
    assert f"got slower: {hashes[6][:8]} number 6\n    against {hashes[5][:8]} number 5: regressed: 1.080x" in out
    assert out.startswith(f"12 commits that touch attention/ or models/: 5 comparisons with {hashes[0][:8]} number 0")
    assert f"{hashes[12][:8]} number 12, 12 of 12\n    regressed: 1.080x (" in out
    assert "5 commits measured, 0 re-measurements, 0 skipped" in out
    assert len(compare.asked) == 5 + 1  # and the commit against its parent


def test_skipped_commits_say_why(repository, capsys):
    hashes = grown(repository, "1", "1", "broken", "broken", "1.2", "1.2", "1.2")
    repository.git("tag", "good", hashes[0])
    assert run(repository, Compared()) == 0
    out = capsys.readouterr().out
    assert f"got slower: {hashes[4][:8]} number 4\n    against {hashes[1][:8]} number 1" in out
    assert f"or one of these, which gave no answer: {hashes[2][:8]} {hashes[3][:8]}" in out
    assert "skipped: head: its worker died (exit status 1): ImportError: broken" in out
    assert "2 skipped" in out


def test_a_commit_without_attention_is_skipped(repository, capsys):
    grown(repository, "1", "1")
    repository.git("tag", "good", "HEAD~1")
    repository.git("rm", "--quiet", "-r", "attention")
    repository.git("commit", "--quiet", "--message", "without")
    (repository.root / "attention").mkdir(exist_ok=True)
    grown(repository, "1.2", "1.2")
    assert run(repository, Compared()) == 0
    out = capsys.readouterr().out
    assert "has no attention/" in out
    assert "got slower" in out


def test_both_steps_and_a_repair_are_told(repository, capsys):
    hashes = grown(repository, "1", "1", "1.1", "1.1", "1.1", "1.3", "1.3", "1.2", "1.2")
    repository.git("tag", "good", hashes[0])
    assert run(repository, Compared()) == 0
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if line.startswith("got ")]
    assert told == [f"got slower: {hashes[2][:8]} number 2", f"got slower: {hashes[5][:8]} number 5",
                    f"got faster: {hashes[7][:8]} number 7"]


def test_measured_again_for_longer(repository, capsys):
    hashes = grown(repository, "1", "1.08")
    repository.git("tag", "good", hashes[0])
    compare = Compared(spread=0.2)

    def sharper(base: Path, head: Path, seconds: float) -> Verdict:
        found = compare(base, head, seconds)
        compare.spread /= 8
        return found

    assert run(repository, sharper) == 0
    assert [seconds for _, _, seconds in compare.asked] == [10.0, 20.0]
    assert "measured again (2)" in capsys.readouterr().out


@pytest.mark.parametrize(("level", "spread", "code", "said"), [
    ("1.0", 0.001, 1, "no regression between the two ends: ok, 1.000x"),
    ("0.8", 0.001, 1, "no regression between the two ends: improved, 0.800x"),
    ("1.05", 0.3, 11, "undecided between the two ends: 1.050x")])
def test_ends_that_do_not_differ(repository, level, spread, code, said, capsys):
    hashes = grown(repository, "1", "1.0", level)
    repository.git("tag", "good", hashes[0])
    assert run(repository, Compared(spread)) == code
    assert said in capsys.readouterr().out


def test_an_unfit_machine(repository, capsys):
    repository.git("tag", "good", grown(repository, "1", "1.2")[0])
    assert run(repository, lambda *given: Verdict("invalid", None, None, None, 2, "throttled", 0)) == 10
    assert "the machine is unfit: throttled" in capsys.readouterr().out


def test_a_step_that_its_parent_does_not_show_is_not_confirmed(repository, capsys):
    """The commits around it are as fast as one another: what was seen against good was not the commit's doing."""
    hashes = grown(repository, "1", "1", "1.08", "1.08")
    repository.git("tag", "good", hashes[0])
    compare = Compared()

    def odd(base: Path, head: Path, seconds: float) -> Verdict:
        found = compare(base, head, seconds)
        return found if len(compare.asked) <= 3 else verdict(1.0, 0.99, 1.01)

    assert run(repository, odd) == 11
    assert f"unconfirmed: {hashes[2][:8]}" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["missing", "wrong"])
def test_a_bad_end_that_says_nothing_is_refused(repository, word):
    repository.git("tag", "good", grown(repository, "1", "1.2")[0])
    with pytest.raises(ValueError, match=r"^\w{8}, the bad end, can't be compared: no such variant$"):
        run(repository, lambda *given: Verdict(word, None, None, None, 0, "no such variant", 0))


def test_only_commits_that_touch_what_is_measured(repository):
    first, second = grown(repository, "1", "1")
    repository.commit("", "a note", "notes.txt")
    fourth = repository.commit("2", "slower")
    repository.commit("", "another", "notes.txt")
    assert between(repository.root, first, "main") == [second, fourth]
    with pytest.raises(ValueError, match=r"^no commit of main~1\.\.main touches attention/ or models/"):
        between(repository.root, "main~1", "main")


def test_a_merge_stands_for_its_branch(repository):
    first = grown(repository, "1")[0]
    repository.git("checkout", "--quiet", "-b", "side")
    repository.commit("x", "on the side", "attention/other.py")
    repository.git("checkout", "--quiet", "main")
    second = repository.commit("2", "on main")
    repository.git("merge", "--quiet", "--no-ff", "--message", "merge", "side")
    assert between(repository.root, first, "main") == [second, repository.git("rev-parse", "main")]


def test_revisions_that_cannot_be_bisected(repository):
    first, second = grown(repository, "1", "2")
    with pytest.raises(ValueError, match=rf"^{second} is no ancestor of {first}; "):
        between(repository.root, second, first)
    with pytest.raises(ValueError, match=r"^unknown revision 'nothing'"):
        between(repository.root, "nothing", "main")
    with pytest.raises(ValueError, match="touches"):
        between(repository.root, "main", "main")


def test_ids_are_read_back():
    from perf.workloads import grid

    cells = [*grid("default", "cpu", with_shapes=True), *grid("default", "cuda", with_zoo=True)]
    assert len(cells) > 300
    assert all(workload(w.id) == w for w in cells)


@pytest.mark.parametrize("treatment", ["", "-compiled", "-bnb-int8", "-ao-int8-dynamic-compiled"])
def test_ids_of_treated_models_are_read_back(treatment):
    name = f"vit-b16-softmax:sdpa-forward-full-b1-h12-kv12-n197-m197-d64-fp32{treatment}"
    assert workload(name).id == name


@pytest.mark.parametrize("said", ["{}", "test_attention[{}]", "perf/test_attention.py::test_attention[{}]"])
def test_an_id_as_pytest_prints_it(said):
    name = "softmax:sdpa-flash-forward-backward-full-b2-h8-kv4-n512-m1024-d64-bf16"
    found = workload(said.format(name))
    assert (found.variant, found.phase, found.kv_heads, found.m) == ("softmax:sdpa-flash", "forward-backward", 4,
                                                                     1024)


@pytest.mark.parametrize(("name", "said"), [
    ("softmax", "unknown benchmark 'softmax'; give the id of a test"),
    ("softmax:sdpa-sideways-causal-b1-h8-kv8-n512-m512-d64-fp32", "unknown benchmark"),
    ("softmax:sdqa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32", "unknown attention variant 'softmax:sdqa'; did you"),
    ("gpt9-softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32", "unknown attention variant 'gpt9-softmax:sdpa'"),
    ("softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp31", "unknown benchmark"),
    ("vit-b16-softmax:sdpa-forward-full-b1-h12-kv12-n197-m197-d64-fp32-int3", "unknown quantization 'int3'")])
def test_an_unknown_benchmark_is_one_line(name, said):
    with pytest.raises(ValueError, match="unknown") as refusal:
        workload(name)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("device", "said"), [("tpu", "no device 'tpu' here; choose from cpu")])
def test_an_impossible_device(device, said):
    with pytest.raises(ValueError, match=said):
        main(["--good", "HEAD~1", "--bad", "HEAD", "--device", device,
              "softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32"])


@pytest.mark.slow
def test_live_pairs_find_a_commit_that_clones_too_much(repository, capsys):
    """The project's own variant, a commit that doesn't import, and one whose counters rose: one pair tells."""
    root = repository.root
    for package in ("attention", "models"):
        shutil.copytree(ROOT / package, root / package, dirs_exist_ok=True)
    (root / "perf").symlink_to(ROOT / "perf")
    (root / ".gitignore").write_text("perf\n__pycache__\n")
    source = root / "attention" / "functions" / "softmax.py"
    fine, call = source.read_text(), "return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)"
    assert call in fine
    slow = fine.replace(call, f"{call}.clone()")
    hashes = [repository.commit(text, f"number {i}", "attention/functions/softmax.py")
              for i, text in enumerate((fine, f"{fine}\n1 / 0", slow, slow))]
    repository.git("tag", "good", hashes[0])
    w = workload("softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32")
    assert run(repository, comparing(w, torch.device("cpu")), seconds=0.0) == 0
    out = capsys.readouterr().out
    assert f"got slower: {hashes[2][:8]} number 2" in out
    assert f"{hashes[1][:8]} number 1, 1 of 3\n    skipped, wrong: ZeroDivisionError: division by zero" in out
    assert "aten::clone" in out
    assert "2 commits measured, 0 re-measurements, 1 skipped" in out


def test_times_of_a_regression_that_only_counters_show_are_not_searched():
    """Launches rose at 7; the time fell before and after, which is no part of it."""
    def measure(commit: str) -> Verdict:
        ratio = 1 - 0.01 * (int(commit) // 3)
        return Verdict("regressed" if int(commit) >= 7 else "improved", ratio, ratio - 0.001, ratio + 0.001, 3, "", 0)

    assert search([str(i + 1) for i in range(16)], measure).steps == (Step(6, 7),)
