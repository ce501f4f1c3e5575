"""Races and invariance: what is planted is found every time, in the check that it belongs to, and nowhere else."""
from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attention.backends.eager import Eager
from attention.backends.eager import attend as honest
from perf.__main__ import main
from perf.bench import invariance
from perf.bench.invariance import CHECKS, Case, Finding, examine
from perf.report.docs import difference, invariance_summary, invariance_table, load_invariance
from perf.tests.cheats import GPU_CHEATS, MOMENT
from perf.tests.cheats.late import a_host_thread

CPU = torch.device("cpu")
CASE = Case(CPU, torch.float32, batch=2, heads=2, n=64, head_dim=16)
DOCS = Path(__file__).parents[2] / "docs" / "invariance.md"
RECORDS = Path(__file__).parents[1] / "records"
TIMES = 10  # that what is planted is looked for


def planted(monkeypatch: pytest.MonkeyPatch, attend: Callable[..., torch.Tensor], phase: str = "forward",
            case: Case = CASE) -> dict[str, Any]:
    monkeypatch.setattr(Eager, "attend", lambda self: attend)
    finding = examine("softmax:eager", phase, case, runs=5)
    assert finding.reason is None
    return dict(finding.differences)


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_an_honest_variant_repeats_and_knows_no_neighbours(phase: str) -> None:
    finding = examine("softmax:eager", phase, CASE, runs=5)
    assert finding.differences["repeats"] == finding.differences["neighbours"] == 0
    assert max(difference or 0 for difference in finding.differences.values()) < 1e-5
    assert finding.differences["graph"] is finding.differences["producer"] is None
    assert not finding.faults


def test_a_thread_that_nobody_waits_for_is_found_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads are waited for, since a busy machine may give them no time within `LATE` seconds."""
    threads: list[threading.Thread] = []

    def late(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        out = torch.zeros_like(q)
        out[:, :1] = honest(q, k, v, **options)[:, :1]

        def work() -> None:
            time.sleep(0.001)
            with torch.no_grad():
                out[:, 1:] = honest(q, k, v, **options)[:, 1:]

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return out

    def join(device: torch.device) -> None:
        for thread in threads:
            thread.join()

    monkeypatch.setattr(invariance, "_let_late_work_end", join)
    for _ in range(TIMES):
        assert planted(monkeypatch, late)["repeats"] > 0


def test_sums_in_any_order_are_found_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)

    def any_order(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, **_: Any) -> torch.Tensor:
        order = torch.randperm(k.shape[2], generator=generator)
        return (scale * q @ k[:, :, order].mT).softmax(-1) @ v[:, :, order]

    for _ in range(TIMES):
        assert planted(monkeypatch, any_order)["repeats"] > 0


def test_a_sequence_that_sees_its_neighbours_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        return honest(q, k, v, **options) * (1 + 1e-3 * v.abs().max())

    differences = planted(monkeypatch, mixed)
    assert differences["neighbours"] > 1e-4
    assert differences["repeats"] == 0


def test_work_that_is_split_by_the_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_parts(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, **_: Any) -> torch.Tensor:
        weights, part = (scale * q @ k.mT).softmax(-1), k.shape[2] // (1 + len(q))
        return weights[..., :part] @ v[:, :, :part] + weights[..., part:] @ v[:, :, part:]

    differences = planted(monkeypatch, two_parts)
    assert 0 < differences["alone"] < 1e-5
    assert differences["repeats"] == 0


def test_a_masked_key_that_is_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        return honest(q, k, v, **options) + 1e-3 * v.sum(2, keepdim=True)

    assert planted(monkeypatch, reads)["padding"] > 0


def test_a_row_that_depends_on_the_length_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        return honest(q, k, v, **options) * (1 + k.shape[2] / 1e4)

    differences = planted(monkeypatch, reads)
    assert differences["longer"] > 1e-4
    assert differences["alone"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's streams")
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_a_missing_wait_is_found_every_time(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both a kernel that does not wait for its inputs and one whose result nobody waits for."""
    gpu = Case(torch.device("cuda"), torch.bfloat16, n=1024)
    assert not examine("softmax:eager", phase, gpu, runs=5).faults
    if phase == "backward":
        return
    monkeypatch.setattr(MOMENT, "stage", "plan")
    for name, _ in itertools.product(("another stream that does not wait for inputs",
                                      "another stream that nobody waits for"), range(TIMES)):
        result = planted(monkeypatch, GPU_CHEATS[name][0](), phase, gpu)
        assert result["producer"] or result["repeats"], name


def test_the_command_writes_a_record_that_its_table_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "record.jsonl"
    assert main(["invariance", "softmax:eager", "--device", "cpu", "--runs", "2", "--out", str(out)]) == 0
    assert "2 variants and phases; the same bits: repeats 2 of 2" in capsys.readouterr().out
    head, findings = load_invariance(out)
    assert (head["dtype"], head["runs"]) == ("fp32", 2)
    assert [finding.phase for finding in findings] == ["forward", "backward"]
    assert main(["invariance", "--table", str(out)]) == 0
    assert "| softmax:eager | forward | same |" in capsys.readouterr().out
    assert main(["invariance", "softmax:nowhere", "--device", "cpu"]) == 2


def test_a_race_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(MOMENT, "stage", "plan")
    monkeypatch.setattr(Eager, "attend", lambda self: a_host_thread())
    assert main(["invariance", "softmax:eager", "--device", "cpu", "--runs", "20"]) == 1
    assert "RACE: softmax:eager forward: repeats" in capsys.readouterr().out


def test_differences_in_words() -> None:
    assert [difference(x) for x in (0.0, 6.1e-8, None)] == ["same", "6e-08", "-"]
    nothing = dict.fromkeys(CHECKS)
    findings = [Finding("softmax:eager", "forward", {**nothing, "repeats": 0.0, "alone": 1e-7}),
                Finding("softmax:fa2", "forward", reason="flash-attn runs on CUDA GPUs only, not on cpu")]
    assert invariance_summary(findings) == "1 variants and phases; the same bits: repeats 1 of 1, alone 0 of 1."
    assert len(invariance_table(findings).splitlines()) == 3


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*/invariance.jsonl.gz")), ids=lambda path: path.parent.name)
def test_the_docs_have_the_table_of_each_record(path: Path) -> None:
    findings = load_invariance(path)[1]
    assert invariance_table(findings) in DOCS.read_text()
    assert invariance_summary(findings) in DOCS.read_text()
