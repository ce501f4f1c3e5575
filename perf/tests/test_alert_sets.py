"""Plays many nights, and holds which issues each opens, updates and closes, whatever those say."""
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.alerts.sets import CLEAR, REGRESSIONS, TROUBLE, Action, Marker, Set, Trouble, alarms, key, limit, plan
from perf.compare.record import ALARMS, WORDS, Comparison, Failed, Finding, Step
from perf.tests.comparisons import FA2, GPT2, SDPA, bisected, comparison, finding, nobody


def played(nights, accepted=nobody):
    """Returns what became of the issues: by number, their markers while open; and all actions, night by night."""
    opened: dict[int, Marker] = {}
    told: list[list[Action]] = []
    count = 0
    for one in nights:
        told.append(plan(one, opened, accepted))
        for action in told[-1]:
            number = action.number
            if number is None:
                count = number = count + 1
            if action.about is None:
                del opened[number]
            else:
                marker = Marker.read(f"text\n{action.about.marker(one.hardware)}\n")
                assert marker is not None
                opened[number] = marker
    return opened, told


def kinds(actions):
    return [("close" if a.about is None else "open" if a.number is None else "update", a.number) for a in actions]


def test_one_issue_while_it_lasts_closed_when_it_recovers():
    good = comparison(finding("ok", ratio=1.001))
    opened, told = played([comparison(finding()), comparison(finding(ratio=1.08)), good, good])
    assert [kinds(actions) for actions in told] == [[("open", None)], [("update", 1)], [("close", 1)], []]
    assert told[2][0].recovered == (f"{SDPA} time",)
    assert opened == {}


def test_what_got_slower_in_one_commit_is_one_issue():
    _, [actions] = played([comparison(bisected(finding()), bisected(finding(benchmark=FA2)),
                                 bisected(finding(benchmark=GPT2), commit="f" * 40))])
    assert kinds(actions) == [("open", None)] * 2
    assert [len(action.about.findings) for action in actions] == [2, 1]


def test_a_regression_that_is_bisected_later_keeps_its_issue():
    _, told = played([comparison(finding(), finding(benchmark=FA2)),
                      comparison(bisected(finding()), finding(benchmark=FA2))])
    assert sorted(map(str, kinds(told[1]))) == ["('open', None)", "('update', 1)"]


@pytest.mark.parametrize("word", ["invalid", "inconclusive", "missing", "skipped", "new", "unchanged", None])
def test_a_night_that_can_t_tell_closes_nothing(word):
    second = comparison(finding(word)) if word else comparison()
    opened, told = played([comparison(finding()), second])
    assert told[1] == []
    assert list(opened) == [1]


def test_what_is_undecided_stays_in_the_issue_of_what_still_is_slower():
    both = comparison(finding(), finding(benchmark=FA2))
    opened, told = played([both, comparison(finding(), finding("invalid", FA2))])
    [action] = told[1]
    assert action.about.pending == (f"{FA2} time",)
    assert opened[1].members.keys() == {f"{SDPA} time", f"{FA2} time"}
    later = comparison(finding("ok"), finding(benchmark=FA2))
    opened, told = played([both, comparison(finding(), finding("invalid", FA2)), later])
    assert kinds(told[2]) == [("update", 1)]
    assert opened[1].members.keys() == {f"{FA2} time"}


def test_what_is_called_ok_and_is_as_slow_as_before_stays_open():
    """The base is slow itself once the last good commit is long ago."""
    still = replace(finding("ok"), base=1.07e-3, head=1.0705e-3)
    opened, told = played([comparison(finding()), comparison(still), comparison(still), comparison(finding("ok"))])
    assert [kinds(actions) for actions in told] == [[("open", None)], [], [], [("close", 1)]]
    opened, told = played([comparison(finding(), finding(benchmark=FA2)), comparison(still, finding(benchmark=FA2))])
    assert told[1][0].about.pending == (f"{SDPA} time",)
    assert opened[1].members[f"{SDPA} time"] == limit(finding()) == 1.036e-3


def test_what_is_good_is_what_was_good_at_first():
    worse = replace(finding(), base=1.072e-3, head=1.2e-3)
    opened, _ = played([comparison(finding()), comparison(worse)])
    assert opened[1].members == {f"{SDPA} time": 1.036e-3}


def test_without_values_the_word_alone_decides():
    _, told = played([comparison(finding("wrong")), comparison(finding("ok"))])
    assert kinds(told[1]) == [("close", 1)]
    assert limit(replace(finding(), base=2.0, head=1.0)) is None


def test_another_machine_s_issues_are_left_alone():
    other = replace(comparison(finding("ok")), fingerprint={"gpus": ["NVIDIA L4"]})
    opened, told = played([comparison(finding()), other])
    assert told[1] == []
    assert list(opened) == [1]


def test_a_new_driver_is_no_other_machine():
    _, told = played([comparison(finding()), replace(comparison(finding()), machine="ffffffffffff")])
    assert kinds(told[1]) == [("update", 1)]


def test_what_is_accepted_opens_nothing_and_closes_its_issue():
    def accepted(f: Finding) -> str | None:
        return "worth it" if f.benchmark == SDPA else None

    assert plan(comparison(finding()), {}, accepted) == []
    marker = Set((finding(),)).marker("NVIDIA H200")
    assert plan(comparison(finding()), {7: marker}, accepted) == [Action(7, None, (), (f"{SDPA} time",))]
    both = Set((finding(), finding(benchmark=FA2))).marker("NVIDIA H200")
    assert plan(comparison(finding(), finding("invalid", FA2)), {7: both}, accepted) == []  # FA2's stays, undecided


def test_a_wrong_result_can_t_be_accepted():
    assert alarms(comparison(finding("wrong")), lambda f: "worth it") == [finding("wrong")]
    assert kinds(plan(comparison(finding("wrong")), {}, lambda f: "worth it")) == [("open", None)]


def test_a_night_s_trouble_is_one_issue():
    troubled = comparison(finding("ok"), vanished=("softmax:gone",), failed=(Failed("3333", "can't be imported"),),
                     steps=(Step("tests", "failed", "2 failed"), Step("site", "ok"), Step("bisect", "skipped")))
    opened, told = played([troubled, replace(troubled, vanished=()), comparison(finding("ok"))])
    assert [kinds(actions) for actions in told] == [[("open", None)], [("update", 1)], [("close", 1)]]
    assert told[0][0].about == Trouble((
        ("step tests", "2 failed"), ("3333", "can't be imported"),
        ("softmax:gone", "vanished: the history has it, tonight's revision does not")))
    assert opened == {}


words = st.sampled_from(WORDS)
commits = st.sampled_from([None, "a" * 40, "b" * 40])
one_night = st.dictionaries(st.sampled_from([SDPA, FA2, GPT2]), st.tuples(words, commits)).map(
    lambda told: comparison(*(replace(finding(word, name), since=since) for name, (word, since) in told.items())))


@given(st.lists(one_night, max_size=6))
def test_every_alarm_is_in_one_open_issue_and_none_is_forgotten(nights: list[Comparison]):
    """After any nights an issue holds a benchmark exactly if its last word that tells was an alarm."""
    opened, told = played(nights)
    last: dict[str, str] = {}
    for one in nights:
        last |= {key(f): f.word for f in one.findings if f.word in (*ALARMS, *CLEAR)}
    held = [member for marker in opened.values() for member in marker.members if last[member] in ALARMS]
    assert sorted(set(held)) == sorted(member for member, word in last.items() if word in ALARMS)
    for one, actions in zip(nights, told, strict=True):
        shown = [key(f) for action in actions if action.about for f in action.about.findings]
        assert sorted(shown) == sorted(key(f) for f in one.findings if f.word in ALARMS)
        numbers = [action.number for action in actions if action.number is not None]
        assert len(numbers) == len(set(numbers))


values = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.sampled_from([REGRESSIONS, TROUBLE]), st.text(), st.dictionaries(st.text(), values))
def test_a_marker_comes_back_from_a_body(kind, hardware, members):
    marker = Marker(kind, hardware, members)
    assert "--" not in str(marker)[4:-3]
    assert Marker.read(f"before {marker} after") == marker


@pytest.mark.parametrize("inside", ["", "x", "AAAA", "eJw=", "eJyLjgUAARUAuQ==", "=" * 50])
def test_a_marker_that_can_t_be_read_is_none(inside):
    assert Marker.read(f"<!-- attention-perf set: {inside} -->") is None


def test_a_marker_of_many_benchmarks_is_short():
    names = {f"{SDPA.replace('n512', f'n{i}')} time": 1e-3 + i / 1e6 for i in range(2000)}
    assert len(str(Marker(REGRESSIONS, "NVIDIA H200", names))) < 30_000
