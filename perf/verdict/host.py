"""The host's seconds are a second figure, where launching takes longer than what is launched: a user waits for it.

A pair gives one log ratio of them, as of the time. They spread more, and what differs between two processes that run
the same Python is larger, so the settings are wider; no record of a GPU stands behind them yet. Only a certain rise
gates: what is undecided about the host is said, and leaves the word of the time as it is.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perf.policy.thresholds import Thresholds
from perf.verdict.causes import HOST
from perf.verdict.exact import Side
from perf.verdict.verdict import Verdict, decide

NOTHING = Side({}, None, None)


def settings(t: Thresholds) -> Thresholds:
    """Gives the thresholds of the host's seconds: 10 % is the floor, 25 % matters, twelve pairs are the most."""
    return replace(t, floor=0.1, effect=0.25, spread=0.05, weight=2.0, least_pairs=2, least_change=2, most_pairs=12)


def joined(timed: Verdict, ratios: Sequence[float], t: Thresholds) -> Verdict:
    """Joins the verdict on the time with that on the host's seconds, by one log ratio a pair."""
    if not ratios or timed.word in ("wrong", "invalid", "missing", "new"):
        return timed
    host = decide(ratios, NOTHING, NOTHING, settings(t))
    launching = f"launching: {host.why}"
    if host.word != "regressed" or timed.word == "regressed":
        return replace(timed, why=f"{timed.why}; {launching}")
    return replace(timed, word="regressed", cause=HOST, more_pairs=0, why=f"{launching}; the GPU: {timed.why}")
