"""Study 003 measured: figures that can be worked out by hand, and what can't be measured says why."""
from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from attention.testing import inputs
from perf.measure import clocks
from perf.studies import low_rank, low_rank_stability, low_rank_text
from perf.studies.claims import Claims
from perf.studies.low_rank_claims import growth
from perf.studies.low_rank_kernels import Kernels
from perf.studies.low_rank_rows import BASELINE, EXACT, UNIFORM, Candidate, initialise, weights
from perf.studies.low_rank_rows import low_rank as of_rank
from perf.studies.measuring import Study

CPU = torch.device("cpu")
N, HEADS, WIDTH = 48, 2, 16


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(clocks.CpuClock, "warm_up", 0.0)
    monkeypatch.setattr(clocks.CpuClock, "budget", 0.01)


def test_flops_are_the_registrys():
    n, d, k = 1024, 64, 32
    assert BASELINE.flops(8, d, n) == 8 * 4 * d * n ** 2
    assert of_rank(k).flops(8, d, n) == 8 * (4 * n * d * k + 2 * (k + d) * n ** 2)
    assert growth(BASELINE, 8, d) == 2
    assert growth(of_rank(k), 8, d) > 1.99  # (Q F)(K F)ᵀ under a softmax is still n x n
    assert growth(Candidate("Linformer", "linformer:eager", {"rank": 64}), 8, d) == 1


def test_softmax_attention_differs_from_itself_by_nothing(tmp_path, quick):
    kernels = Kernels(Study(CPU, tmp_path / "out.jsonl"), HEADS, WIDTH, 30)
    kernels.measure([BASELINE, EXACT, of_rank(WIDTH), of_rank(4)], N, "fp32")
    errors = {name: cost.mse for (name, _, _), cost in kernels.costs.items()}
    assert errors["softmax, fused"] == 0
    assert errors["softmax"] < 1e-12
    assert errors[f"low-rank k={WIDTH}"] < 1e-12  # orthonormal columns, as many as there are
    assert errors["low-rank k=4"] > 1e-3
    assert kernels.costs["low-rank k=4", N, "fp32"].parameters == HEADS * WIDTH * 4
    assert kernels.study.failures == []


def test_past_its_time_a_length_is_a_line_and_its_table_is_printed(tmp_path, capsys):
    kernels = Kernels(Study(CPU, tmp_path / "out.jsonl", seconds=-1), HEADS, WIDTH, 30)
    kernels.measure([BASELINE, EXACT], N, "fp32")
    assert [why.partition(": not begun")[0] for why in kernels.study.failures] == [
        f"softmax attention, n={N}, fp32: TimeoutError"]
    assert f"n={N}, fp32, {HEADS} heads x {WIDTH}" in capsys.readouterr().out


def test_weights_are_the_probabilities_of_softmax():
    q, k, _ = inputs(batch=1, heads=HEADS, n=N + 3, head_dim=WIDTH)  # a length that head_dim doesn't divide
    with torch.no_grad():
        found = weights(BASELINE.create(HEADS, WIDTH, N + 3), q, k)
    torch.testing.assert_close(found, (q @ k.mT / WIDTH ** 0.5).softmax(-1))


def test_parameters_start_as_told():
    attend = of_rank(8).create(HEADS, WIDTH, N)
    registered = attend.params["F"].detach().clone()
    assert torch.equal(initialise(attend, "as registered").params["F"], registered)
    F = initialise(attend, "orthogonal").params["F"].detach()
    torch.testing.assert_close(F.mT @ F, torch.eye(8).expand(HEADS, 8, 8))
    assert not torch.equal(F, registered)
    assert initialise(attend, "xavier").params["F"].abs().max() <= (6 / (WIDTH + 8)) ** 0.5


def test_a_swapped_in_attention_reads_with_the_same_weights():
    base = low_rank_text.create("gpt2-tiny", EXACT, CPU)
    tokens = torch.arange(24).view(2, 12)
    exact = base(input_ids=tokens).logits
    full, half = (low_rank_text.swapped(base, "gpt2-tiny", of_rank(k), CPU) for k in (16, 8))
    torch.testing.assert_close(full(input_ids=tokens).logits, exact)
    assert not torch.allclose(half(input_ids=tokens).logits, exact)
    own = [name for name, _ in half.named_parameters() if name.endswith("core.F")]
    assert len(own) == 2  # one a layer
    with pytest.raises(ValueError, match="no causal form"):
        low_rank_text.create("gpt2-tiny", Candidate("Linformer", "linformer:eager", {"rank": 16}), CPU)


def test_the_control_weighs_all_that_it_sees_alike():
    q, k, _ = inputs(batch=1, heads=HEADS, n=N, head_dim=WIDTH)
    found = weights(UNIFORM.create(HEADS, WIDTH, N, causal=True), q, k)
    torch.testing.assert_close(found[0, 0], torch.ones(N, N).tril() / torch.arange(1, N + 1)[:, None], atol=1e-5,
                               rtol=0)


def test_in_fp16_gradients_vanish_unless_the_loss_is_scaled(tmp_path):
    study = Study(CPU, tmp_path / "out.jsonl")
    low_rank_stability.measure(study, claims := Claims(study), [of_rank(4), BASELINE], HEADS, WIDTH, 1024)
    assert study.failures == []
    rows = [record for record in map(json.loads, study.out.read_text().splitlines()) if record["kind"] == "gradients"]
    assert len(rows) == 2 * 2 * (2 + 1)  # dtypes, scales; softmax has no parameters
    off = {(row["dtype"], row["scale"]): row["error"] for row in rows if row["gradient of"] == "parameters"}
    assert off["fp16", "65536"] < 0.005 < 0.05 < off["fp16", "1"]
    assert off["bf16", "1"] < 0.02
    vanished = {(row["attention"], row["scale"]): row["vanished, %"] for row in rows
                if (row["dtype"], row["gradient of"]) == ("fp16", "q, k, v")}
    assert min(vanished["softmax", "1"], vanished["low-rank k=4", "1"]) > 0.5
    assert max(vanished["softmax", "65536"], vanished["low-rank k=4", "65536"]) < 0.1
    assert [claim.word for claim in claims.all] == ["holds"]


@pytest.mark.slow
def test_the_tables_of_study_003_on_short_sequences(tmp_path, capsys, quick, monkeypatch):
    monkeypatch.setattr(low_rank, "TINY", replace(low_rank.TINY, dtypes=("fp32",), steps=1))
    out = tmp_path / "low-rank.jsonl"
    assert low_rank.main(["--out", str(out), "--tiny", "--device", "cpu"]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    rows = {record["row"] for record in records if record["kind"] == "003"}
    assert rows == {"softmax", "softmax, fused", "low-rank k=8", "low-rank k=16", "low-rank, linear k=8",
                    "Linformer k=16", "Performer k=16", "softmax, tiled", "block-sparse"}
    read = {(record["row"], record["how"]): record["perplexity"]["new"] for record in records
            if record["kind"] == "text"}
    assert ("softmax, tiled", "trained") not in read
    assert read["softmax, tiled", "swapped in"] == pytest.approx(read["softmax", "trained"], rel=1e-4)
    assert not any(name.startswith("Linformer") for name, _ in read)
    told = capsys.readouterr().out
    assert "Linformer k=16: n/a, linformer:eager: it has no causal form" in told
    assert all(record["measured"] in told for record in records if record["kind"] == "claim")
