"""The Temporal Fusion Transformer against pytorch-forecasting's, with the same weights."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models import tft, tft_layers
from models.tests import cases, tft_oracle

# pytorch-forecasting 1.8.0 in float64: python -m models.tests.tft_oracle
FROZEN = [[[-5.6519844430, 2.7103236132, 2.0991632719], [-2.6087497783, 0.3311100142, 3.6235328464],
           [-2.1604938658, 0.1440739997, 3.7051873947], [-1.9140020256, 0.1548883280, 3.5107916476]],
          [[-4.7236244123, 2.1227709506, 1.3896727081], [-5.4778783031, 2.7186929115, 1.1652078079],
           [-4.4271262119, 2.3431464818, 0.9893710347], [-5.4016590854, 2.4544988207, 1.2001605156]]]


def ours(dtype: torch.dtype, preset=None, **x: torch.Tensor) -> tuple[torch.nn.Module, torch.Tensor, dict]:
    preset = preset or tft_oracle.preset()
    model = tft.build(preset, dtype=dtype)
    tft_oracle.fill(model)
    x = {**tft_oracle.formula_inputs(preset, batch=2, dtype=dtype), **x}
    with torch.no_grad():
        return model, model(**x), x


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-6)])
def test_equals_pytorch_forecasting_frozen(dtype, tolerance):
    _, forecast, _ = ours(dtype)
    frozen = torch.tensor(FROZEN, dtype=torch.float64)
    assert (forecast.double() - frozen).abs().max() <= tolerance * frozen.abs().max()


@pytest.mark.parametrize("sizes", [{}, {"heads": 1}, {"layers": 2}, {"static": (5,)}, {"known": 1}], ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_equals_pytorch_forecasting_live(sizes, padded):
    pytest.importorskip("pytorch_forecasting", reason="pytorch-forecasting is not installed (frozen numbers are)")
    preset = tft_oracle.preset(**sizes)
    lengths = {"lengths_B": torch.tensor([5, 12])} if padded else {}
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        model, forecast, x = ours(dtype, preset, **lengths)
        theirs = tft_oracle.forecast(preset, model.state_dict(), x)
        assert (forecast - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_the_frozen_numbers_notice_another_mask():
    _, forecast, _ = ours(torch.float64, tft_oracle.preset().resized(own_step=True))
    assert (forecast - torch.tensor(FROZEN, dtype=torch.float64)).abs().max() > 1e-3


@pytest.mark.parametrize("own_step", [True, False])
def test_what_a_query_sees(own_step):
    """The attention block alone: outputs move with the keys at and before the query's own step, or only before."""
    model = tft.build(models.get("tft-tiny").resized(own_step=own_step), dtype=torch.float64)
    block, context, horizon = model.multihead_attn, 6, 4
    steps = torch.randn(1, context + horizon, 16, dtype=torch.float64, requires_grad=True)
    keys = steps if own_step else steps[:, :-1]
    queries = torch.randn(1, horizon, 16, dtype=torch.float64)
    for t in range(horizon):
        gradient, = torch.autograd.grad(block(queries, keys)[0, t].square().sum(), steps)
        seen = gradient[0].abs().sum(-1).nonzero().flatten().tolist()
        assert seen == list(range(context + t + own_step))


def test_padding_is_invisible():
    x = models.family("tft-tiny").inputs("tft-tiny", batch=2, dtype=torch.float64)
    model = models.create("tft-tiny", dtype=torch.float64)
    lengths = torch.tensor([12, 7])
    garbage = {**x, "observed_BCO": x["observed_BCO"].clone()}
    garbage["observed_BCO"][1, 7:] = 99.0
    with torch.no_grad():
        assert torch.equal(model(**x, lengths_B=lengths), model(**garbage, lengths_B=lengths))
        assert not torch.equal(model(**x)[1], model(**garbage)[1])
        assert torch.allclose(model(**x, lengths_B=torch.tensor([12, 12])), model(**x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("variant", "device"), cases.variants())
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_every_variant_is_as_exact_as_eager(variant, device, padded):
    preset = models.get("tft-tiny").resized(heads=1)  # some kernels refuse heads as narrow as four of them have
    dtype = cases.serve(variant, device, heads=1, head_dim=16, n=4, m=16, causal=True, key_mask=padded)

    def run(model):
        weight = model.output_layer.weight
        x = tft.inputs(preset, batch=2, dtype=weight.dtype, device=weight.device)
        lengths = {"lengths_B": torch.tensor([12, 7], device=weight.device)} if padded else {}
        return model(**x, **lengths)

    model = cases.create(preset, variant, dtype=dtype, device=device)
    cases.assert_as_exact(run, model, preset, variant, dtype)


@pytest.mark.parametrize(("size", "width"), [(8, 16), (32, 160), (160, 5), (5, 4), (1, 3), (3, 1), (7, 7)])
def test_the_interpolation_is_pytorchs(size, width):
    x = torch.randn(3, 2, size, dtype=torch.float64)
    theirs = torch.nn.functional.interpolate(x, width, mode="linear", align_corners=True)
    ours = x @ tft_layers.interpolation(size, width, torch.float64, x.device).t()
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


def test_an_interpolation_is_as_exact_in_float64_when_the_model_was_in_bfloat16():
    layer = tft_layers.ResampleNorm(8, 12).to(torch.bfloat16).double()
    assert torch.equal(layer.matrix, tft_layers.ResampleNorm(8, 12).double().matrix)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), variables=st.integers(1, 4), size=st.integers(1, 9), width=st.integers(2, 12),
       slope=st.sampled_from([0.0, 1e-9, 1.0, 30.0]), parallel=st.booleans())
def test_a_resampled_line_is_the_line_resampled(seed, variables, size, width, slope, parallel):
    """In flat lines, steep ones, and where offsets and slopes are in one direction, so that all is 0 at one x."""
    torch.manual_seed(seed)
    layers = [tft_layers.ResampleNorm(size, width).double() for _ in range(variables)]
    for layer in layers:
        for weight in layer.parameters():
            torch.nn.init.normal_(weight)
    x = torch.randn(7, variables, dtype=torch.float64)
    weight, bias = slope * torch.randn(variables, size, dtype=torch.float64), torch.randn(variables, size).double()
    bias = 0.3 * weight if parallel else bias
    leaves = [weight.requires_grad_(), bias.detach().requires_grad_()]
    lines = tft_layers.resample_lines(layers, x, *leaves)
    apart = torch.stack([layer(x[:, i, None] * weight + bias) for i, (layer, weight, bias) in
                         enumerate(zip(layers, *leaves, strict=True))])
    assert torch.allclose(lines, apart, rtol=1e-6, atol=1e-6)
    sent = torch.randn_like(lines)
    learned = [*leaves, *(weight for layer in layers for weight in layer.parameters())]
    for ours, plain in zip(torch.autograd.grad(lines, learned, sent), torch.autograd.grad(apart, learned, sent),
                           strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-5 * max(1.0, plain.abs().max().item()))


@pytest.mark.parametrize(("dtype", "tolerance"),
                         [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_a_narrow_layer_norm_is_pytorchs(dtype, tolerance):
    narrow = tft_layers.layer_norm(5).to(dtype)
    assert type(narrow) is not torch.nn.LayerNorm
    torch.nn.init.normal_(narrow.weight)
    torch.nn.init.normal_(narrow.bias)
    x = (3 * torch.randn(2, 7, 5) + 2).to(dtype)
    theirs = torch.nn.functional.layer_norm(x.double(), (5,), narrow.weight.double(), narrow.bias.double())
    assert (narrow(x) - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN keeps its weights together on a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("phase", ["forward", "train-step"])
def test_a_cuda_graph_takes_it_and_no_weights_are_compacted(dtype, phase, recwarn):
    model = tft.build("tft-tiny", dtype=dtype, device="cuda").train(phase == "train-step")
    x = tft.inputs("tft-tiny", batch=4, dtype=dtype, device="cuda")

    def call():
        if phase == "forward":
            with torch.no_grad():
                return model(**x)
        loss = tft.loss(model, x)
        loss.backward()
        return loss

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            call()
        graph.replay()
    stream.synchronize()
    assert not [w for w in recwarn if "contiguous chunk" in str(w.message)]


def test_work_is_the_one_counted_by_hand():
    sizes = {"context": 10, "horizon": 4, "known": 3, "observed": 2, "static": (5, 3), "own_step": False}
    preset = models.get("tft-160").resized(**sizes)
    width, size, head_dim, quantiles = 160, 32, 40, 3

    def network(inputs: int, hidden: int, outputs: int) -> int:
        return inputs * hidden + hidden * hidden + hidden * 2 * outputs

    def selection(variables: int) -> int:
        return variables * network(size, size, width) + network(variables * size, variables, variables)

    whole, gate, lstm = network(width, width, width), 2 * width * width, 4 * width * 2 * width
    series = network(2 * size, 2, 2) + 4 * whole + 5 * width + 3 * width + width * width  # the last three: contexts
    context = 10 * (selection(5) + lstm + gate + whole)
    horizon = 4 * (selection(3) + lstm + gate + whole)
    keys = 13 * width * (width + head_dim)
    answers = 4 * (width * width + head_dim * width + gate + whole + gate + width * quantiles)
    work = tft.work(preset)
    assert work.flops == 2 * (series + context + horizon + keys + answers)
    assert work.numbers == 2 + 14 * 3 + 10 * 2 + 4 * quantiles
    assert work.weights == sum(weight.numel() for weight in tft.build(preset).parameters())


def test_quantile_loss_is_the_pinball_loss():
    forecast = torch.tensor([[[1.0, 2.0], [5.0, 5.0]]])
    target = torch.tensor([[3.0, 1.0]])
    # Too low by 2 and 1 at quantiles .1 and .9, then too high by 4 and 4.
    expected = (0.1 * 2 + 0.9 * 1 + 0.9 * 4 + 0.1 * 4) / 4
    assert tft.quantile_loss(forecast, target, (0.1, 0.9)).item() == pytest.approx(expected)


def test_heads_that_cross_are_sorted():
    model = tft.build("tft-tiny")
    x = tft.inputs("tft-tiny", batch=8)
    with torch.no_grad():
        heads, forecast = model(**x), tft.forecast(model, x)
    assert (heads.diff(dim=-1) < 0).any()
    assert (forecast.diff(dim=-1) >= 0).all()
    assert torch.equal(forecast.sum(-1).round(decimals=4), heads.sum(-1).round(decimals=4))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), quantiles=st.sets(st.floats(0.01, 0.99), min_size=1, max_size=7))
def test_sorting_never_raises_the_quantile_loss(seed, quantiles):
    random = torch.Generator().manual_seed(seed)
    levels = tuple(sorted(quantiles))
    heads = torch.randn(3, 4, len(levels), generator=random, dtype=torch.float64)
    target = torch.randn(3, 4, generator=random, dtype=torch.float64)
    sorted_heads = heads.sort(-1).values
    assert tft.quantile_loss(sorted_heads, target, levels) <= tft.quantile_loss(heads, target, levels) + 1e-12


def test_the_same_seed_trains_to_the_same_numbers():
    first, again, other = (trained(seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def trained(seed: int) -> torch.Tensor:
    """The forecast after three steps with dropout."""
    model = tft.build("tft-tiny", seed=seed).train()
    x = tft.inputs("tft-tiny", batch=4, seed=seed)
    steps = torch.optim.Adam(model.parameters(), lr=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(3):
            steps.zero_grad()
            tft.loss(model, x).backward()
            steps.step()
    with torch.no_grad():
        return tft.forecast(model.eval(), x)


def test_a_training_step_reaches_every_weight_and_lowers_the_loss():
    model = tft.build(models.get("tft-tiny").resized(dropout=0.0))
    x = tft.inputs("tft-tiny", batch=4)
    before = tft.loss(model.train(), x)
    before.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    assert tft.loss(model, x) < before
