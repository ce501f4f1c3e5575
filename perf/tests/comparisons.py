"""Made-up nights, for the tests of alerts."""
from __future__ import annotations

from dataclasses import replace

from perf.compare.record import Comparison, Finding

BASE, HEAD, SINCE = "1" * 40, "2" * 40, "0123abcd" * 5
SDPA = "softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-bf16"
FA2 = "alibi:fa2-forward-causal-b4-h32-kv32-n4096-m4096-d64-bf16"
GPT2 = "gpt2-small-softmax:sdpa-train-step-causal-b8-h12-kv12-n1024-m1024-d64-bf16"
H200 = {"gpus": ["NVIDIA H200"], "driver": "580.82.07", "torch": "2.11.0+cu130", "clocks_locked_mhz": 1500,
        "cpu": "Xeon"}
COMMAND = f"python -m pytest perf/ --benchmark-only --perf-grid=quick --perf-against={BASE}"
RATIOS = {"regressed": 1.072, "ok": 1.001, "improved": 0.9, "inconclusive": 1.03}


def finding(word: str = "regressed", benchmark: str = SDPA, ratio: float | None = None, **changed) -> Finding:
    """Makes a finding; one that was not timed has no ratio."""
    ratio = ratio or RATIOS.get(word)
    seconds = {"base": 1e-3, "head": 1e-3 * ratio, "low": ratio - 0.011, "high": ratio + 0.012, "pairs": 12,
               "certified": 0.021} if ratio else {}
    why = "7.2 % slower [6.1, 8.4], 12 pairs; 3 more kernel launches: aten::clone" if word == "regressed" else \
        f"it is {word}"
    return Finding(benchmark, "time", "seconds", word, ratio=ratio, **seconds | {"why": why} | changed)


def bisected(f: Finding, commit: str = SINCE, author: str = "Ada Lovelace",
             subject: str = "Clone once more") -> Finding:
    return replace(f, since=commit, author=author, subject=subject)


def comparison(*findings: Finding, **changed) -> Comparison:
    made = Comparison(1764036000.0, "0123456789ab", H200, "", BASE, HEAD, COMMAND, findings)
    return replace(made, **changed)


def nobody(f: Finding) -> None:
    """Accepts nothing."""
