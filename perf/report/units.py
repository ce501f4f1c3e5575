"""Writes figures as text, the same in the terminal and on the page; a figure that is not known is "-"."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perf.measure.evidence import Evidence
    from perf.workloads.workload import Workload

UNKNOWN = "-"
NO_PRODUCT = "^"  # beside a kernel that is none and takes more than half of the time


def row_text(cells: Mapping[str, object], widths: Mapping[str, str]) -> str:
    """Sets a row of a terminal's table, each cell in the format of its column; those that it lacks stay empty."""
    return "".join(format(str(cells.get(name, "")), width) for name, width in widths.items())


def seconds(value: float | None) -> str:
    """Writes "1.23 ms", three or four digits in the unit that suits."""
    if value is None:
        return UNKNOWN
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:#.4g} {unit}"
    return f"{value * 1e6:#.4g} us"


def size(value: float | None) -> str:
    """Writes "12.6 MB" (a million bytes)."""
    if value is None:
        return UNKNOWN
    unit, factor = next((u, f) for u, f in (("GB", 1e9), ("MB", 1e6), ("kB", 0)) if value >= f)
    return f"{value / (factor or 1e3):.1f} {unit}"


def with_unit(value: float | None, unit: str) -> str:
    """Writes a value with its unit: "1.072 ms", "12.6 MB", "0.250", "3"."""
    if value is None:
        return UNKNOWN
    if unit == "seconds" and value > 0:
        return seconds(value)
    if unit == "bytes" and 0 <= value < 1e15:
        return size(value)
    return number(value, "#.3g" if value % 1 else ".0f")


def number(value: float | None, form: str = "#.3g") -> str:
    """Writes a number in `form`, without decimals from a thousand on, by its power of ten from a million on or far
    below one."""
    if value is None:
        return UNKNOWN
    if value >= 1e6 or (0 < value < 1e-3 and form == "#.3g"):
        return f"{value:.0e}"
    if value >= 1000:
        return f"{value:.0f}"
    return format(value, form).rstrip(".")


def percent(value: float | None) -> str:
    """Writes "0.04%", "0.3%", "12%" for a part of one."""
    if value is None:
        return UNKNOWN
    return f"{value:.{0 if value >= 0.1 else 1 if value >= 0.001 else 2}%}"


def change_in_percent(ratio: float) -> str:
    """Writes "+7.2", "-0.4", "+900" for a ratio of 1.072, 0.996, 10."""
    amount = 100 * (ratio - 1)
    text = f"{amount:+.1f}" if abs(amount) < 99.95 else f"{amount:+.0f}" if abs(amount) < 1e6 else f"{amount:+.0e}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def length(n: int) -> str:
    """Writes "512", "16K"."""
    return f"{n // 1024}K" if n % 1024 == 0 else str(n)


def mask(w: Workload) -> str:
    """Writes "causal" or "full"."""
    return "causal" if w.causal else "full"


def heads(w: Workload) -> str:
    """Writes "16 heads", and "16 heads (4 kv)" where keys and values have fewer."""
    return f"{w.heads} heads" if w.heads == w.kv_heads else f"{w.heads} heads ({w.kv_heads} kv)"


def keys(w: Workload) -> str:
    """Writes ", 192 keys", and nothing where there are as many as queries."""
    return f", {w.m} keys" if w.m != w.n else ""


def items(w: Workload) -> tuple[int, str]:
    """Counts what one call works through, and names it: sequences' tokens (queries), images or time series."""
    from perf.workloads.families import family

    unit = family(w.model).items
    return (w.batch * w.n if unit == "tokens" else w.batch), unit


def tflops(row: Evidence) -> float | None:
    """Returns the TFLOP/s of a timed row."""
    return row.flops / row.median / 1e12 if row.flops and row.median else None


def gigabytes(row: Evidence) -> float | None:
    """Returns the GB/s of a timed row: what it must move at least, over its time."""
    return row.bytes / row.median / 1e9 if row.bytes and row.median else None


def share(row: Evidence) -> float | None:
    """Divides the floor by the time: 1 is as fast as this machine's ceilings allow."""
    return row.floor / row.median if row.floor and row.median else None


def error_ratio(row: Evidence) -> float | None:
    """Divides the error by what the error-ratio rule allows: above 1 is wrong."""
    if row.error is None or row.bound is None:
        return None
    if row.bound == 0:
        return 0.0 if row.error == 0 else float("inf")
    return row.error / row.bound


def calls(row: Evidence) -> int | None:
    """Counts the kernel launches of one call, or a CPU's operators."""
    return row.counters.get("launches", row.counters.get("operators"))


def largest_kernel(row: Evidence, width: int = 16) -> str:
    """Writes "addmm 61%", "upsample_linear1d 96%^": the name has no namespaces and template arguments, and is at most
    `width` long."""
    from perf.measure.shares import brief, largest, stands_out

    top = largest(row.kernel_shares)
    if top is None:
        return UNKNOWN
    name = brief(top[0]).rpartition("::")[2].removeprefix("_scaled_dot_product_").lstrip("_")
    short = name if len(name) <= width else f"{name[:width - 1]}…"
    return f"{short} {percent(top[1])}{NO_PRODUCT if stands_out(row.kernel_shares) else ''}"
