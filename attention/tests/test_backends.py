"""Single backends keep promises beyond the contract of all."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import attention
from attention import masks
from attention.backends import flex, flex_fa4, tiled
from attention.backends.base import Case, Unsupported
from attention.backends.fa2 import fa2
from attention.backends.sdpa import mask_dtype
from attention.functions.alibi import Alibi
from attention.functions.block_sparse import Pattern, Visible
from attention.functions.document import Documents
from attention.functions.varlen import Packed
from attention.testing import check, inputs


@pytest.mark.parametrize("function", ["softmax", "alibi", "sliding-window"])
def test_tiled_gradients_are_the_derivatives(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite differences cover several tiles, shared key/value heads and a padding mask."""
    monkeypatch.setattr(tiled, "QUERIES", 4)
    monkeypatch.setattr(tiled, "KEYS", 3)
    options: dict[str, Any] = {"window": 4} if function == "sliding-window" else {}
    module = attention.create(f"{function}:tiled", heads=2, kv_heads=1, head_dim=3, causal=True, **options)
    q, k, v = inputs(batch=1, heads=2, kv_heads=1, n=6, m=9, head_dim=3, dtype=torch.float64, grad=True)
    keep = torch.tensor([[True] * 4 + [False] * 2 + [True] * 3])
    assert torch.autograd.gradcheck(lambda *x: module(*x, key_mask_BM=keep), (q, k, v))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 7), (64, 16), (512, 512)])
def test_tile_sizes_do_not_show(queries: int, keys: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "QUERIES", queries)
    monkeypatch.setattr(tiled, "KEYS", keys)
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=23, m=31, head_dim=8)
    module = attention.create("softmax:tiled", heads=4, kv_heads=2, head_dim=8, causal=causal)
    report = check(module, q, k, v, grad=True)
    assert report.ok, report.message


def test_tiled_touches_only_the_tiles_of_its_band() -> None:
    q, k, _ = inputs(batch=1, heads=1, n=4096, head_dim=8)
    tiles = tiled._Tiles(q, k, 1.0, masks.window(256, causal=True), None, None)
    touched = sum((columns.stop - columns.start) * (rows.stop - rows.start)
                  for rows in tiles.rows() for columns in tiles.columns(rows))
    assert masks.window(256, causal=True).pairs(4096, 4096) <= touched <= 4096 * (256 + tiled.QUERIES)


def test_sdpa_keeps_its_mask_between_calls() -> None:
    module = attention.create("sliding-window:sdpa", heads=2, head_dim=8, causal=True, window=4)
    q, k, v = inputs(batch=1, heads=2, n=16, head_dim=8)
    module(q, k, v)
    first = module._attend.mask  # type: ignore[attr-defined]
    module(q, k, v)
    assert first is not None
    assert module._attend.mask is first  # type: ignore[attr-defined]
    longer = inputs(batch=1, heads=2, n=20, head_dim=8)
    assert check(module, *longer).ok, "a mask of another length was used"


def test_sdpa_alone_uses_one_kernel() -> None:
    """sdpa-math and sdpa-flash run the kernel of their name, as the operators in the profiler show."""
    q, k, v = inputs(batch=1, heads=2, n=64, head_dim=16)
    ran = {}
    for backend in ("sdpa-math", "sdpa-flash"):
        module = attention.create(f"softmax:{backend}", heads=2, head_dim=16)
        module(q, k, v)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            module(q, k, v)
        ran[backend] = {event.key for event in profile.key_averages()}
    assert any("_attention_math" in op for op in ran["sdpa-math"])
    assert any("flash_attention" in op for op in ran["sdpa-flash"])
    assert not any("_attention_math" in op for op in ran["sdpa-flash"])


@pytest.mark.slow
def test_flex_past_its_recompile_limit_is_an_error_not_the_dense_path() -> None:
    module = attention.create("softmax:flex", heads=1, head_dim=16)

    def call(n: int) -> None:  # another batch and length: compiled anew, also where shapes may be dynamic
        module(*inputs(batch=n // 8, heads=1, n=n, head_dim=16))

    with torch._dynamo.config.patch(recompile_limit=1, automatic_dynamic_shapes=False):
        call(8)
        with pytest.raises(RuntimeError, match="more than 1 shapes"):
            call(16)


@pytest.mark.slow
def test_a_new_padding_mask_does_not_compile_flex_anew() -> None:
    module = attention.create("softmax:flex", heads=1, head_dim=16)
    q, k, v = inputs(batch=2, heads=1, n=16, head_dim=16)
    torch._dynamo.utils.counters.clear()
    for seed in range(3):
        keep = torch.rand(2, 16, generator=torch.Generator().manual_seed(seed)) > 0.3
        assert check(module, q, k, v, key_mask=keep).ok
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_stored_mask_counts_as_memory() -> None:
    """A dense mask that stays between calls costs memory, though no later call allocates it."""
    q, k, v = inputs(batch=1, heads=2, n=16, head_dim=8)
    stored = {}
    for name in ("alibi:sdpa", "softmax:sdpa"):
        module = attention.create(name, heads=2, head_dim=8, causal=True)
        assert module.kept_bytes() == 0
        module(q, k, v)
        stored[name] = module.kept_bytes()
    assert stored == {"alibi:sdpa": 2 * 16 * 16 * 4, "softmax:sdpa": 0}


@pytest.mark.parametrize(("causal", "n", "m", "refused"), [
    (False, 200, 1, True), (False, 64, 64, False), (False, 16, 64, False), (True, 64, 16, False)])
def test_fa2_refuses_windows_whose_rows_see_no_key(causal: bool, n: int, m: int, refused: bool) -> None:
    case = Case("cuda", torch.bfloat16, 4, 4, 64, n, m, causal, False, False, (("window", 16),))
    assert (fa2.refuses(case) is not None) == refused


def test_what_the_compiler_has_no_kernel_for_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InductorError

    def no_kernel(*args: object, **kwargs: object) -> None:
        raise InductorError(RuntimeError("No choices to select\nand forty more lines"), None)

    module = attention.create("softmax:flex", heads=1, head_dim=16)
    monkeypatch.setattr(module._attend, "kernel", no_kernel)
    with pytest.raises(attention.Unsupported, match=r"no kernel for q \(1, 1, 8, 16\).*No choices to select$"):
        module(*inputs(batch=1, heads=1, n=8, head_dim=16))


@pytest.mark.parametrize("visible", [Documents(4), Packed((5, 3), torch.device("cpu"))], ids=["document", "varlen"])
def test_flex_makes_one_block_mask_for_all_heads_that_see_the_same(visible: masks.Visible) -> None:
    """One mask for each head took 64 GiB for 32 heads of 16384 tokens."""
    q = torch.zeros(2, 3, 8, 16)
    attend = flex.Attend()
    attend._express(q, 8, masks.CAUSAL, visible, None, None, None, skips=False, sink=False)
    blocks = attend.options["block_mask"]
    assert blocks.shape == (1, 1, 8, 8)


def test_flex_takes_blocks_of_64_where_the_mask_has_them() -> None:
    """Then only those on the diagonal are seen in part, and need a mask."""
    q, pattern = torch.zeros(1, 2, 256, 16), Pattern.of(True, preset="bigbird", block=64, seed=0)
    visible = Visible(pattern, 4, torch.device("cpu"))
    attend = flex.Attend()
    assert attend._block(q, visible, learns=False) == 64
    assert attend._block(q, visible, learns=True) == attend._block(q[:, :, :100], visible, learns=False) == 128
    assert flex_fa4.Attend()._block(q, visible, learns=False) == attend._block(q, None, learns=False) == 128
    attend._express(q, 256, masks.CAUSAL, visible, None, None, None, skips=False, sink=False, size=64)
    blocks = attend.options["block_mask"]
    assert blocks.kv_num_blocks.tolist() == [[[1, 1, 1, 1]]]
    assert blocks.full_kv_num_blocks.tolist() == [[[0, 1, 2, 3]]]


@pytest.mark.parametrize("cap", [0.7, 50.0])
def test_the_soft_cap_of_half_precision_is_the_soft_cap(cap: float) -> None:
    score = torch.linspace(-60, 60, 4001, dtype=torch.float64) * cap / 10
    for dtype, allowed in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        results = []
        for capped in (flex._cap, flex._cap_of_half):
            leaf = score.to(dtype if capped is flex._cap_of_half else torch.float64).requires_grad_()
            out = capped(leaf, cap)
            results.append([x.double() for x in (out / cap, *torch.autograd.grad(out.sum(), leaf))])
        for exact, actual in zip(*results, strict=True):
            assert (exact - actual).abs().max() <= allowed
    ends = torch.tensor([-1e30, 1e30], requires_grad=True)
    out = flex._cap_of_half(ends, cap)
    assert out.tolist() == pytest.approx([-cap, cap])
    assert torch.autograd.grad(out.sum(), ends)[0].tolist() == [0, 0]


def test_distances_are_not_rounded_to_eight_bits() -> None:
    """SimpleNamespace stands for tensors of a GPU, whose kernels this test does not run."""
    bias, cpu = Alibi(2, torch.device("cpu"), True), torch.device("cpu")
    module = attention.create("alibi:sdpa", heads=2, head_dim=8, causal=True, dtype=torch.bfloat16)
    module(*inputs(batch=1, heads=2, n=300, head_dim=8, dtype=torch.bfloat16))
    assert module._attend.mask.dtype == torch.float32  # type: ignore[attr-defined]
    assert mask_dtype(torch.zeros(1, device=cpu, dtype=torch.float64), bias) == torch.float64
    with pytest.raises(Unsupported, match="ALiBi's distances as a mask in bfloat16"):
        mask_dtype(SimpleNamespace(dtype=torch.bfloat16, is_cuda=True), bias)  # type: ignore[arg-type]
    assert mask_dtype(SimpleNamespace(dtype=torch.float32, is_cuda=True), bias) == torch.float32  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["alibi:eager", "alibi:sdpa", "alibi:tiled", "rope-alibi:eager"])
def test_slopes_that_are_no_powers_of_two_are_of_float64_where_q_is(name: str) -> None:
    module = attention.create(name, heads=12, head_dim=16, causal=True, dtype=torch.float64)
    q, k, v = inputs(batch=1, heads=12, n=33, head_dim=16, dtype=torch.float64)
    report = check(module, q, k, v, grad=True)
    assert report.ok, report.message
