"""Sets speed, size, quality and compile seconds of models side by side, each treatment against its plain model.

A model that is smaller and slower, or faster once it was compiled for a minute, says both in one line. A pure
function: evidence in, lines out.
"""
from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from perf.measure.evidence import Evidence
from perf.report.notes import doubt
from perf.report.units import calls, error_ratio, items, keys, number, row_text, seconds, size
from perf.system.tools import group_by
from perf.workloads.workload import UNQUANTISED, Workload

SPEED = {"model": "<34", "b": ">5", "time ": ">11", "items/s": ">9", "weights": ">11"}
SPREAD = {"model": "<34", "b": ">5", "mean": ">11", "p95": ">11", "p99": ">11", "over weights": ">13",
          "launches": ">10", "ratio": ">6"}
WIDTH = 120
SAME = 1.005  # times: less is no difference

LEGEND = (
    "Of a model: items are images, series or tokens. Weights are all bytes of the model, over weights is what a call "
    "allocates besides. A treatment is compared with the same model unquantised (compiled too, unless that was not "
    "timed: eager), one that is only compiled with the uncompiled; compile is seconds, cold / from the disk cache. "
    "Ratio is error / what is allowed: of a quantised model its method's budget (perf/policy/budgets.toml), of the "
    "worst layer or the logits. Quality is a trained preset's, treated alike, with its change and the 95 % interval "
    "of that over paired items.")


def lines(rows: Sequence[Evidence], called: str) -> list[str]:
    """Returns both tables of each model, phase and length; none for rows of bare kernels. `called` names what is
    counted of a call: launches or operators."""
    sections = group_by((row for row in rows if not row.workload.bare and row.outcome != "skipped"),
                        lambda row: replace(row.workload.plain, backend="", batch=0, dtype=""))
    timed = by_workload(rows)
    return [line for section, members in sections.items() for line in (*_speed(section, members, timed),
                                                                       *_spread(members, called), "")]


def by_workload(rows: Sequence[Evidence]) -> dict[Workload, Evidence]:
    """Returns the timed rows by their workloads; of two of one the later."""
    return {row.workload: row for row in rows if row.outcome == "ok" and row.median}


def name(w: Workload) -> str:
    """Writes "sdpa bf16 bnb-int8 compiled"."""
    return " ".join((w.backend, w.dtype, *w.treatment))


def reference(w: Workload, timed: Mapping[Workload, Evidence]) -> Evidence | None:
    """Returns what a treated model is compared with: the unquantised one, compiled too if that was timed; a model that
    is only compiled is compared with the uncompiled one. Returns None for a model that is neither."""
    if not w.treatment:
        return None
    alike = replace(w, quantization=UNQUANTISED)
    return timed.get(alike if alike != w and alike in timed else w.plain)


def against(row: Evidence, base: Evidence | None) -> str:
    """Writes "3.9x smaller, 3.1x slower, compile 41.2/3.1 s"."""
    phrases = []
    if base and row.workload.quantization != UNQUANTISED and base.kept_bytes and row.kept_bytes:
        phrases.append(_times(base.kept_bytes / row.kept_bytes, "smaller", "larger", "the same size"))
    if base and base.median and row.median:
        unlike = row.workload.quantization != UNQUANTISED and row.workload.compiled != base.workload.compiled
        phrases.append(_times(base.median / row.median, "faster", "slower", "the same speed") + " (eager)" * unlike)
    elif row.workload.treatment and row.outcome == "ok":
        phrases.append("the plain model was not timed")
    if row.workload.compiled and row.compiled:
        cold, warm = (number(row.compiled.get(kind), ".1f") for kind in ("cold", "warm"))
        phrases.append(f"compile {cold}/{warm} s")
    return ", ".join(phrases)


def _times(ratio: float, better: str, worse: str, same: str) -> str:
    if 1 / SAME < ratio < SAME:
        return same
    factor = max(ratio, 1 / ratio)
    return f"{factor:.{2 if factor < 1.1 else 1}f}x {better if ratio > 1 else worse}"


def quality(row: Evidence) -> str:
    """Writes "97.2 -0.28 [-1.1, +0.6]", or that there is none, where it was asked for and can't be had."""
    figures = row.quality
    if not figures:
        return "not measured"
    if "new" not in figures:
        return "none: see below"
    text = number(figures["new"], "#.4g")
    if "base" in figures:
        text += f" {figures['new'] - figures['base']:+.2g} [{figures['low']:+.2g}, {figures['high']:+.2g}]"
    return text + ("?" if figures.get("doubt") else "")


def percentile(samples: Sequence[float], part: float) -> float | None:
    """Returns the value that a `part` (0.95) of the samples does not pass, interpolated; None for fewer than two."""
    if len(samples) < 2:
        return None
    return statistics.quantiles(samples, n=100, method="inclusive")[round(100 * part) - 1]


def _speed(section: Workload, rows: Sequence[Evidence], timed: Mapping[Workload, Evidence]) -> list[str]:
    w = section
    title = f" {w.model}: {w.function} {w.phase}, n {w.n}{keys(w)}: speed, size and quality "
    lines = [title.center(WIDTH, "-"), row_text({key: key for key in SPEED}, SPEED) + "  against the plain model"]
    for row in rows:
        cells = {"model": name(row.workload), "b": row.workload.batch, "time ": row.outcome.upper() + " ",
                 "weights": size(row.kept_bytes)}
        if row.outcome == "ok" and row.median:
            cells |= {"time ": seconds(row.median) + ("!" if doubt(row) else " "),
                      "items/s": number(items(row.workload)[0] / row.median)}
        start = f"{row_text(cells, SPEED)}  "
        lines += textwrap.wrap(against(row, reference(row.workload, timed)), WIDTH, initial_indent=start,
                               subsequent_indent=" " * len(start)) or [start.rstrip()]
    return lines


def _spread(rows: Sequence[Evidence], called: str) -> list[str]:
    lines = [row_text({**{key: key for key in SPREAD}, "launches": called}, SPREAD) + "  quality"]
    for row in rows:
        over = None if row.peak_bytes is None or row.kept_bytes is None else row.peak_bytes - row.kept_bytes
        cells = {"model": name(row.workload), "b": row.workload.batch, "over weights": size(over),
                 "launches": number(calls(row), "d"), "ratio": number(error_ratio(row), ".2f")}
        if row.outcome == "ok" and row.samples:
            cells |= {"mean": seconds(statistics.fmean(row.samples)), "p95": seconds(percentile(row.samples, 0.95)),
                      "p99": seconds(percentile(row.samples, 0.99))}
        lines.append(f"{row_text(cells, SPREAD)}  {quality(row)}")
    return lines


def notes(rows: Sequence[Evidence]) -> list[str]:
    """Explains the tables, and says what quality can't be had; gives no line where there is no model."""
    shown = [row for row in rows if not row.workload.bare and row.outcome != "skipped"]
    if not shown:
        return []
    reasons = dict.fromkeys(row.quality["reason"] for row in shown if row.quality.get("reason"))
    doubts = dict.fromkeys(f"{row.workload.quantization}: {row.quality['doubt']}" for row in shown
                           if row.quality.get("doubt"))
    measured = any(row.quality for row in shown)
    return [LEGEND + ("" if measured else " It was not asked for (--perf-quality)."),
            *(f"no quality: {reason}" for reason in reasons), *(f"? {text}" for text in doubts)]
