"""accepted.toml and owners.toml: what holds, and a line about what does not."""
from __future__ import annotations

import tomllib
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.policy import accepted, owners
from perf.policy.accepted import ANY, Acceptance, read
from perf.tests.comparisons import FA2, SDPA

TODAY = date(2026, 11, 25)
ENTRY = """
[[accepted]]
workload = "softmax:sdpa-*"
commit = "0123abcd"
reason = "worth it"
until = 2026-11-25
"""


def test_an_entry_holds_up_to_its_last_day():
    entries, problems = read(ENTRY, TODAY)
    assert problems == []
    assert accepted.why_accepted(entries, SDPA) == "worth it (accepted until 2026-11-25)"
    assert accepted.why_accepted(entries, FA2) is None
    entries, problems = read(ENTRY, TODAY + timedelta(days=1))
    assert entries == []
    assert problems == [
        "accepted.toml: entry 1 (softmax:sdpa-*) ended on 2026-11-25; remove it, or give it a later day"]


@pytest.mark.parametrize(("commit", "since", "holds"), [
    ("0123abcd", "0123abcd" * 5, True), ("0123abcd" * 5, "0123abcd", True), ("0123abcd", None, True),
    ("0123abcd", "fedcba98" * 5, False), (ANY, "fedcba98" * 5, True), (ANY, None, True)])
def test_an_entry_is_about_one_commit(commit, since, holds):
    assert Acceptance("softmax:*", commit, "worth it", TODAY).holds(SDPA, since) == holds


@pytest.mark.parametrize(("text", "problem"), [
    ("x = [", "not TOML: "), ("[accepted]\nworkload = 1", "write [[accepted]], in two brackets"),
    ("accepted = [1]", "entry 1: write [[accepted]], in two brackets; it accepts nothing"),
    ("[other]", "unknown 'other'; write [[accepted]] entries"),
    (ENTRY.replace('reason = "worth it"', ""), "entry 1: reason is missing; it takes workload, commit, reason, until"),
    (ENTRY + 'mood = "good"', "entry 1: unknown 'mood'; it takes workload"),
    (ENTRY.replace("2026-11-25", '"2026-11-25"'), "until must be a date such as 2027-02-28, without quotes"),
    (ENTRY.replace("2026-11-25", "2026-11-25T10:00:00"), "until must be a date"),
    (ENTRY.replace("0123abcd", "main"), "commit must be 7 to 40 digits of its hash, or 'any', not 'main'"),
    (ENTRY.replace("worth it", " "), "reason must be a line of text"),
    (ENTRY.replace('"softmax:sdpa-*"', "1"), "workload must be a line of text, not 1"),
])
def test_what_is_malformed_is_one_line_and_accepts_nothing(text, problem):
    entries, problems = read(text, TODAY)
    assert entries == []
    assert len(problems) == 1
    assert problems[0].startswith("accepted.toml: ")
    assert problem in problems[0]
    assert "\n" not in problems[0]
    if "accepted]]" in text:  # the others hold
        kept, problems = read(ENTRY + text, TODAY)
        assert len(kept) == len(problems) == 1


lines = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1)


@given(lines, st.just(ANY) | st.from_regex(r"[0-9a-f]{7,40}", fullmatch=True), lines, st.dates(min_value=TODAY))
def test_an_entry_comes_back_from_the_file(workload, commit, reason, until):
    entry = Acceptance(workload, commit, reason, until)
    assert read(ENTRY + entry.to_toml() + entry.to_toml(), TODAY)[0][1:] == [entry, entry]


@given(st.text())
def test_no_text_breaks_the_readers(text):
    assert all("\n" not in problem for problem in (*read(text, TODAY)[1], *owners.read(text)[1]))


def test_the_committed_files_are_well_formed():
    assert accepted.load(today=date.min)[1] == []
    assert owners.load()[1] == []
    example = accepted.FILE.read_text().partition("# [[accepted]]")[2].replace("\n# ", "\n")
    assert read(f"[[accepted]]{example}", TODAY)[1] == []
    example = owners.FILE.read_text().partition('# ["')[2].partition('\n\n')[0].replace("\n# ", "\n")
    assert owners.read(f'["{example}')[1] == []
    assert tomllib.loads(f'["{example}')["softmax:fa2-*"]["assignees"] == ["ada"]


def test_files_that_can_t_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"\xff")
    for load in (accepted.load, owners.load):
        assert load(tmp_path / "none")[1] == []
        [problem] = load(tmp_path / "latin")[1]
        assert "can't be read" in problem


def test_later_patterns_override_earlier_ones_field_by_field():
    result, problems = owners.read("""
["*"]
owner = "all"
assignees = ["ada"]
["softmax:*"]
owner = "kernels"
mention = "@o/kernels"
""")
    assert problems == []
    assert result.of(SDPA) == owners.Owner("kernels", ("ada",), ("@o/kernels",))
    assert result.of(FA2) == owners.Owner("all", ("ada",))
    assert result.all([SDPA, FA2, SDPA]) == [result.of(SDPA), result.of(FA2)]


@pytest.mark.parametrize("said", ['assignees = ["@ada"]', 'mention = ["everyone"]', 'mention = ["@a @b"]', "owner = 1",
                                  "mention = 1", 'assignees = ["a/b"]', 'mood = "good"', 'mention = ["@o/[x](y)"]'])
def test_an_owner_that_can_t_be_one_is_left_aside(said):
    result, problems = owners.read(f'["*"]\nowner = "all"\n["softmax:*"]\n{said}\n')
    assert len(problems) == 1
    assert problems[0].endswith("this pattern is left aside")
    assert result.of(SDPA).owner == "all"
