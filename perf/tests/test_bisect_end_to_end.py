"""`python -m perf bisect` with live pairs, on commits of the project itself."""
from __future__ import annotations

import shutil

import torch

from perf.compare.bisect import comparing
from perf.compare.side import ROOT
from perf.tests import repositories
from perf.tests.bisection import run
from perf.workloads.ids import workload

repository = repositories.repository


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
    assert f"{hashes[1][:8]} number 1, 1 of 3\n    skipped, wrong: ImportError: " in out
    assert "softmax.py can't be imported: ZeroDivisionError: division by zero" in " ".join(out.split())
    assert "aten::clone" in out
    assert "2 measured, 0 re-measurements, 1 skipped" in out
