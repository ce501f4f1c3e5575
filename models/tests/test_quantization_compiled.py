"""torch.compile beside quantisation: one graph, still quantised; CUDA graphs where the method says so."""
from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import models
from models import gpt2, quantization
from models.tests import quantized
from models.tests.cases import DEVICES

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
METHODS = [pytest.param(name, device, id=f"{name}-{device}") for device in DEVICES for name in quantization.methods()
           if quantization.get(name).kinds and quantization.why_not(name, device=device) is None]
# bitsandbytes' outlier columns are as many as there are; PyTorch's packed weights are objects of TorchScript.
BREAKS = ("bnb-int8", "ptq-int8")


class FeedForward(nn.Module):
    """Not an nn.Sequential: of PyTorch's own containers torch.compile doesn't take the forward as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


def block(name: str, device: str, **settings: Any) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Builds a feed-forward block, plain and quantised, and its input (tokens, width)."""
    method = quantized.method(name, **settings)
    torch.manual_seed(0)
    plain = FeedForward().to(device, method.dtype).eval()
    x = torch.randn(20, 64).to(device, method.dtype)
    return plain, quantization.quantize(copy.deepcopy(plain), method), x


@pytest.mark.parametrize(("name", "device"), [p for p in METHODS if p.values[0] not in BREAKS])
def test_a_quantised_block_compiles_into_one_graph_and_stays_quantised(name, device):
    torch._dynamo.reset()
    plain, model, x = block(name, device)
    with torch.no_grad():
        expected, unquantised = model(x), plain(x)
        model.compile(fullgraph=True, backend="eager")
        assert torch.equal(model(x), expected)
    assert not torch.equal(expected, unquantised)
    assert quantization.quantized_layers(model) == ["up", "down"]


@pytest.mark.parametrize("device", DEVICES)
def test_int8_of_bitsandbytes_is_one_graph_without_outliers(device):
    torch._dynamo.reset()
    _, model, x = block("bnb-int8", device, threshold=0.0)
    with torch.no_grad():
        expected = model(x)
        model.compile(fullgraph=True, backend="eager")
        assert torch.equal(model(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_the_graph_gives_the_same_numbers(name):
    torch._dynamo.reset()
    counters.clear()
    _, model, x = block(name, "cpu")
    with torch.no_grad():
        expected = model(x)
        model.compile(backend="eager")
        assert torch.equal(model(x), expected)
    assert counters["graph_break"], f"{name} is one graph now: take it off BREAKS, and say so in docs/quantization.md"


@pytest.mark.parametrize(("compile", "quantization", "options"), [
    (True, None, None),
    (True, "bnb-nf4", None),
    (True, "ao-int8-dynamic", {"force_fuse_int_mm_with_mul": True}),
    ({"max_autotune": True}, "ao-int8-dynamic", {"force_fuse_int_mm_with_mul": True, "max_autotune": True}),
    ({"max_autotune": True}, "bf16", {"max_autotune": True}),
])
def test_create_compiles_in_place_with_what_the_method_needs(compile, quantization, options, monkeypatch):
    calls: list[Any] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: calls.append(settings))
    models.create("vit-tiny", quantization=quantization, compile=compile)
    assert calls == [{"options": options}]
    models.create("vit-tiny", quantization=quantization)
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "name", "device"), quantized.cases())
def test_a_whole_model_compiled_gives_the_same_numbers(preset, name, device):
    torch._dynamo.reset()
    counters.clear()
    expected = quantized.answers(quantized.create(preset, name, device), preset)
    actual = quantized.answers(quantized.create(preset, name, device, compile=True), preset)
    plain = quantized.answers(quantized.plain(preset, name, device), preset)
    # Compiled, sums are taken in another order, and what is rounded to 8 bits may fall to the other side. A step of
    # float8 is an eighth of the number, so these two differ by as much as quantising costs, which must stay the same.
    cost = quantized.distance(expected, plain)
    if name == "ao-fp8-dynamic":
        assert 0.8 * cost < quantized.distance(actual, plain) < 1.25 * cost
    else:
        assert quantized.distance(actual, expected) < 0.02
    assert quantized.distance(actual, expected) < cost or name not in ("bnb-nf4", "bnb-nf4-dq", "bnb-fp4")
    if name not in BREAKS:
        assert not counters["graph_break"]


@pytest.mark.parametrize(("name", "device"), [p for p in METHODS if p.values[0] != "ptq-int8"])
def test_one_token_at_a_time_is_as_good_as_all_at_once(name, device):
    """Decoding multiplies a single row, for which libraries have other kernels (or none)."""
    method = quantized.method(name)
    if quantization.why_not(method, device=device, preset="gpt2-tiny"):
        pytest.skip("keeps every layer of gpt2-tiny")
    model = quantized.create("gpt2-tiny", name, device)
    x = gpt2.decode_inputs(model, "gpt2-tiny", batch=1, m=24)
    read = gpt2.inputs("gpt2-tiny", batch=1, n=24, device=device)["input_ids"]
    with torch.no_grad():
        whole = model(torch.cat([read, x["input_ids"]], dim=1)).logits[:, -1:].float()
        assert quantized.distance(gpt2.decode(model, x).float(), whole) < 0.03


@cuda
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("preset", "name", "device"), [p for p in quantized.cases() if p.values[2] == "cuda"])
def test_a_cuda_graph_captures_what_it_is_said_to(preset, name, device, compiled):
    if reason := quantization.why_not_captured(name, compiled=compiled):
        pytest.skip(reason)
    torch._dynamo.reset()
    model = quantized.create(preset, name, device, compile=compiled)
    family, dtype = models.family(preset), quantization.get(name).dtype
    x = family.inputs(preset, batch=3, device=device, dtype=dtype, **({"n": 24} if preset == "gpt2-tiny" else {}))
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                out = model(**x)
        torch.cuda.current_stream().wait_stream(side)
        expected = getattr(out, "logits", out).clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(**x)
        graph.replay()
    assert torch.equal(getattr(out, "logits", out), expected)


@cuda
@pytest.mark.parametrize("name", ["bnb-int8", "bnb-nf4", "bnb-nf4-dq", "bnb-fp4", "ao-int8-weight", "ao-int8-dynamic"])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_model_quantised_on_the_cpu_moves_to_the_gpu(name, used):
    model = quantized.create("vit-tiny", name)
    expected = quantized.answers(copy.deepcopy(model), "vit-tiny")
    if used:
        quantized.answers(model, "vit-tiny")
    size = quantization.model_bytes(model)
    model.to("cuda")
    assert quantized.distance(quantized.answers(model, "vit-tiny"), expected) < 0.02
    assert quantization.model_bytes(model) == size


@cuda
@pytest.mark.slow
def test_compiled_int8_weights_run_a_matrix_product_of_the_library():
    """Not `_weight_int8pack_mm`, four hundred times slower than bf16 at many rows."""
    layer = quantization.quantize(torch.nn.Sequential(torch.nn.Linear(256, 256)).cuda(), "ao-int8-weight")
    model, x = torch.compile(layer, dynamic=False), torch.randn(512, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        assert quantized.distance(model(x), layer(x)) < 0.01
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            model(x)
            torch.cuda.synchronize()
    names = [event.key for event in profile.key_averages()]
    assert any(re.search("nvjet|gemm|cutlass", name) for name in names), names
    assert not any("int8pack" in name for name in names)


@cuda
@pytest.mark.slow
@pytest.mark.skipif(quantization.why_not("ao-fp8-dynamic", device="cuda") is not None, reason="the GPU has no float8")
def test_a_row_is_scaled_in_the_pass_that_finds_its_largest_value():
    layer = quantization.quantize(nn.Sequential(nn.GELU(), nn.Linear(4096, 64)).cuda(), "ao-fp8-dynamic")
    model = torch.compile(layer, dynamic=False, options=dict(quantization.get("ao-fp8-dynamic").inductor))
    x = torch.randn(512, 4096, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        model(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            model(x)
            torch.cuda.synchronize()
    names = [event.key for event in profile.key_averages()]
    assert any("triton_per" in name for name in names), names  # persistent
    assert not any("triton_red" in name for name in names), names  # a loop over the row
