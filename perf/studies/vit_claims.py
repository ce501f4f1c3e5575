"""Sets what the ViT study published (its README: ViT-L/16, Flowers-102) beside what the rows here measured."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.quality import Change
from perf.policy.budgets import budget
from perf.studies.claims import Claims
from perf.studies.ratio import change
from perf.studies.vit_rows import BASE, FLASH, HALF, Treatment
from perf.studies.vit_times import Speed

INT8, NF4 = Treatment("fp16", method="bnb-int8"), Treatment("fp16", method="bnb-nf4-dq")
NF4_FLASH = Treatment("fp16", FLASH, "bnb-nf4-dq")
LATENCY = {BASE: 58.9, NF4_FLASH: 35.0, NF4: 42.1, INT8: 60.8}  # ms
SMALLER = {NF4: 4, INT8: 2}
TOP1 = {BASE: 90.6, NF4: 88.6, INT8: 90.1}  # points
POINTS, FASTER = 3, 2  # "within 2-3 points", "2-3x faster"
SENSITIVE = {"bnb-nf4-dq": ("layer 21", 88.63, 89.61), "bnb-int8": ("layer 23", 90.10, 90.46)}
IMAGES, LAYERS = 819, 24  # in its test set, of its encoder


def claim_times(claims: Claims, speeds: Mapping[Treatment, Speed], apart: str) -> None:
    """Claims latency and size; `apart` says why they can't be compared, or is empty."""
    if BASE not in speeds:
        return
    times = [(f"{row.name}: time against fp32", row, BASE) for row in (NF4_FLASH, NF4, INT8)]
    for claim, row, base in (*times, ("time of flash on top of NF4", NF4_FLASH, NF4)):
        if row in speeds and base in speeds:
            ratio, published = speeds[row].against(speeds[base]), LATENCY[row] / LATENCY[base]
            half = (f"; against fp16, which the study lacks, {speeds[row].against(speeds[HALF])}"
                    if base == BASE and HALF in speeds else "")
            claims.add(claim, change(1, published), f"{ratio}{half}",
                       ratio.at_most(published), apart=apart)
    for row, factor in SMALLER.items():
        if row in speeds:
            size = speeds[BASE].bytes / speeds[row].bytes
            beside = f"; of fp16's size, {speeds[HALF].bytes / speeds[row].bytes:.2f}x" if HALF in speeds else ""
            claims.add(f"{row.name}: smaller than fp32", f"{factor}x", f"{size:.2f}x{beside}",
                       size >= factor, apart=apart)
    if quantised := [row for row in speeds if row.method]:
        best = min(quantised, key=lambda row: speeds[row].against(speeds[BASE]).median)
        ratio = speeds[best].against(speeds[BASE])
        claims.add("a quantised model is faster than fp32 (goal)", f"{FASTER}-3x", f"{best.name}: {ratio}",
                   ratio.at_most(1 / FASTER), apart=apart)


def claim_quality(claims: Claims, changes: Mapping[Treatment, Change], apart: str) -> None:
    """Claims that each quantised model loses few points of Top-1."""
    for row, published in TOP1.items():
        if row in changes:
            claims.add(f"{row.name}: Top-1 within {POINTS} points of fp32", f"{published - TOP1[BASE]:+.1f}",
                       str(changes[row]), changes[row].within(POINTS), "digits, not flowers", apart=apart)


def claim_gate(claims: Claims, speeds: Mapping[Treatment, Speed], changes: Mapping[Treatment, Change]) -> None:
    """Claims that each row with a method passes the joint gate beside fp32: smaller, no slower, no more memory, and of
    Top-1 no more lost than its budget."""
    for row in (row for row in speeds if row.method and row in changes and BASE in speeds):
        points = budget(str(row.method)).points
        size, memory = speeds[row].bytes / speeds[BASE].bytes, speeds[row].peak / speeds[BASE].peak
        time, change = speeds[row].against(speeds[BASE]), changes[row]
        parts = (size < 1, time.at_most(1), memory <= 1, change.within(points))
        claims.add(f"{row.name}: joint gate", f"smaller, no slower, no more memory, at most {points} points lost",
                   f"{size:.2f} of the bytes, time {time}, {memory:.2f} of the peak, {change}",
                   False if False in parts else None if None in parts else True)


def by_chance(images: int, tries: int) -> float:
    """Gives the least chance with which the best of so many tries gains so many images by luck alone: the sign test in
    the study's favour, no image having changed the other way (Bonferroni over the tries)."""
    return min(1.0, tries * 2 * 0.5 ** images)


def claim_ablation(claims: Claims, ablations: Mapping[str, Sequence[tuple[str, Change]]]) -> None:
    """Claims the most sensitive layer: by the study's own count, and here."""
    for method, all_kept in ablations.items():
        if each := [one for one in all_kept if one[0].startswith("layer")]:
            layer, base, best = SENSITIVE[method]
            gained = round((best - base) * IMAGES / 100)
            chance = by_chance(gained, LAYERS)
            name, gain = max(each, key=lambda one: one[1].difference)
            beyond = sum(one.verdict == "better" for _, one in each)
            claims.add(f"{method}: one layer is the most sensitive", f"{layer}, kept, gains {best - base:.2f} points, "
                       f"{gained} of {IMAGES} images, as the best of {LAYERS}", f"{beyond} of {len(each)} beyond the "
                       f"noise, the best {name}: {gain}", chance < 0.05 and beyond > 0,
                       f"the study's own count comes by chance with p >= {chance:.2f}" if chance >= 0.05 else "")
