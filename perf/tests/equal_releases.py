"""Compares equal releases of the stub package, 50 pairs of environments: python -m perf.tests.equal_releases OUT.jsonl

Of 16 releases, 1.9 and those after it take 5 % more time, and 1.11 doesn't install: 51 pairs are equal. A line is
written for each comparison, and one that has its line is not made again. Exit code 1: some comparison gave an alarm.
"""
from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from perf.compare.checkout import working_tree
from perf.compare.environments import inside, with_versions
from perf.compare.pairs import comparing
from perf.compare.side import ROOT
from perf.measure import machine
from perf.system import files
from perf.tests.wheels import CELL, index, variant
from perf.workloads.ids import workload

COUNT, SECONDS = 50, 30.0
SLOWER, BROKEN = 9, 11  # minor versions


def equal() -> list[tuple[str, str]]:
    """Lists pairs of releases that run the same code."""
    fast, slow = range(SLOWER), [i for i in range(SLOWER, 16) if i != BROKEN]
    chosen = [*itertools.combinations(fast, 2), *itertools.combinations(slow, 2)][:COUNT]
    return [(f"1.{i}", f"1.{j}") for i, j in chosen]


def main(out: Path) -> int:
    """Makes the comparisons that have no line yet, and counts the words of all."""
    with tempfile.TemporaryDirectory(prefix="perf-releases-") as folder, working_tree() as tree:
        index(Path(folder, "index"), SLOWER, BROKEN)
        path = str(variant(Path(folder, "variant")))
        sys.path.insert(0, path)
        os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(Path(folder, "index")),
                       "PYTHONPATH": os.pathsep.join([str(ROOT), path])}
        compare, benchmark = comparing(torch.device("cpu")), workload(CELL)
        if not out.exists():
            files.append(out, {"machine": machine.fingerprint(), "revision": machine.revision(), "benchmark": CELL,
                               "seconds": SECONDS})
        words = Counter(record["word"] for record in files.records(out) if "word" in record)
        for one, other in equal()[words.total():]:
            base, head = (inside(tree, with_versions([f"stubkernel=={name}"], Path(folder))) for name in (one, other))
            started = time.monotonic()
            [(_, verdict)] = compare([benchmark], base, head, SECONDS)
            files.append(out, {"base": one, "head": other, "word": verdict.word, "ratio": verdict.ratio,
                               "low": verdict.low, "high": verdict.high, "pairs": verdict.pairs, "why": verdict.why,
                               "seconds": round(time.monotonic() - started, 1)})
            words[verdict.word] += 1
            print(f"{one} and {other}: {verdict.word}: {verdict.why}", flush=True)
    print(", ".join(f"{count} {word}" for word, count in words.most_common()))
    return int(any(word not in ("ok", "inconclusive", "invalid") for word in words))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
