"""`python -m perf bisect`: what it prints of a search, and its exit codes."""
from __future__ import annotations

from dataclasses import replace

import pytest

from perf.compare.side import Side
from perf.tests import repositories
from perf.tests.bisection import run, verdict
from perf.verdict.verdict import Verdict

repository = repositories.repository


class Compared:
    """Compares what two folders say, and remembers what was asked; "broken" can't be imported."""

    def __init__(self, spread: float = 0.001) -> None:
        self.asked: list[tuple[float, float, float]] = []
        self.spread = spread

    def __call__(self, base: Side, head: Side, seconds: float) -> Verdict:
        levels = [(side.folder / "attention" / "__init__.py").read_text().split()[0] for side in (base, head)]
        if "broken" in levels:
            raise ValueError("head: its worker died (exit status 1): ImportError: broken")
        before, after = map(float, levels)
        self.asked.append((before, after, seconds))
        ratio = after / before
        found = verdict(ratio, ratio - self.spread, ratio + self.spread)
        return replace(found, why=f"{ratio:.3f}x")


def test_the_commit_is_named_with_its_evidence(repository, capsys):
    hashes = repository.grow(*["1"] * 6, *["1.08"] * 7)
    repository.git("tag", "good", hashes[0])
    compare = Compared()
    assert run(repository, compare) == 0
    out = capsys.readouterr().out
    assert f"got slower: {hashes[6][:8]} number 6\n    against {hashes[5][:8]} number 5: regressed: 1.080x" in out
    assert out.startswith(f"12 commits that touch attention/ or models/: 5 comparisons with {hashes[0][:8]} number 0")
    assert f"{hashes[12][:8]} number 12, 12 of 12\n    regressed: 1.080x (" in out
    assert "5 measured, 0 re-measurements, 0 skipped" in out
    assert len(compare.asked) == 5 + 1  # and the commit against its parent


def test_skipped_commits_say_why(repository, capsys):
    hashes = repository.grow("1", "1", "broken", "broken", "1.2", "1.2", "1.2")
    repository.git("tag", "good", hashes[0])
    assert run(repository, Compared()) == 0
    out = capsys.readouterr().out
    assert f"got slower: {hashes[4][:8]} number 4\n    against {hashes[1][:8]} number 1" in out
    assert f"or one of these, which gave no answer: {hashes[2][:8]} {hashes[3][:8]}" in out
    assert "skipped: head: its worker died (exit status 1): ImportError: broken" in out
    assert "2 skipped" in out


def test_a_commit_without_attention_is_skipped(repository, capsys):
    repository.grow("1", "1")
    repository.git("tag", "good", "HEAD~1")
    repository.git("rm", "--quiet", "-r", "attention")
    repository.git("commit", "--quiet", "--message", "without")
    (repository.root / "attention").mkdir(exist_ok=True)
    repository.grow("1.2", "1.2")
    assert run(repository, Compared()) == 0
    out = capsys.readouterr().out
    assert "has no attention/" in out
    assert "got slower" in out


def test_both_steps_and_a_repair_are_told(repository, capsys):
    hashes = repository.grow("1", "1", "1.1", "1.1", "1.1", "1.3", "1.3", "1.2", "1.2")
    repository.git("tag", "good", hashes[0])
    assert run(repository, Compared()) == 0
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if line.startswith("got ")]
    assert told == [f"got slower: {hashes[2][:8]} number 2", f"got slower: {hashes[5][:8]} number 5",
                    f"got faster: {hashes[7][:8]} number 7"]


def test_measured_again_for_longer(repository, capsys):
    hashes = repository.grow("1", "1.08")
    repository.git("tag", "good", hashes[0])
    compare = Compared(spread=0.2)

    def sharper(base: Side, head: Side, seconds: float) -> Verdict:
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
    hashes = repository.grow("1", "1.0", level)
    repository.git("tag", "good", hashes[0])
    assert run(repository, Compared(spread)) == code
    assert said in capsys.readouterr().out


def test_an_unfit_machine(repository, capsys):
    repository.git("tag", "good", repository.grow("1", "1.2")[0])
    assert run(repository, lambda *given: Verdict("invalid", None, None, None, 2, "throttled", 0)) == 10
    assert "the machine is unfit: throttled" in capsys.readouterr().out


def test_a_step_that_its_parent_does_not_show_is_not_confirmed(repository, capsys):
    """The commits around it are as fast as one another: what was seen against good was not the commit's doing."""
    hashes = repository.grow("1", "1", "1.08", "1.08")
    repository.git("tag", "good", hashes[0])
    compare = Compared()

    def odd(base: Side, head: Side, seconds: float) -> Verdict:
        found = compare(base, head, seconds)
        return found if len(compare.asked) <= 3 else verdict(1.0, 0.99, 1.01)

    assert run(repository, odd) == 11
    assert f"unconfirmed: {hashes[2][:8]}" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["missing", "wrong"])
def test_a_bad_end_that_says_nothing_is_refused(repository, word):
    repository.git("tag", "good", repository.grow("1", "1.2")[0])
    with pytest.raises(ValueError, match=r"^\w{8}, the bad end, can't be compared: no such variant$"):
        run(repository, lambda *given: Verdict(word, None, None, None, 0, "no such variant", 0))
