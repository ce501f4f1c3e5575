"""bitsandbytes, torchao and PyTorch's quantisation change numbers silently; here that must not happen.

Each case is a known fault of the library alone. The tests use a model, then save, reload, copy and train it, and expect
the same numbers.
"""
from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor

import models
from models import quantization
from models.quantization import storage
from models.quantization.torchao import Float8Dynamic
from models.tests import quantized
from models.tests.cases import DEVICES

TRAINS = [p for p in quantized.cases(presets=("vit-tiny",)) if quantization.get(p.values[1]).trains]
INFERENCE = [p for p in quantized.cases() if not quantization.get(p.values[1]).trains]

# The weights of ptq-int8 are in C++: what Python is shown are copies.
VISIBLE = [p for p in quantized.cases(presets=("vit-tiny",)) if p.values[1] != "ptq-int8"]


def layer_cases(**settings: Any) -> list[Any]:
    return [pytest.param(quantized.method(name, **settings), device, id=f"{name}-{device}")
            for device in DEVICES for name in quantization.methods()
            if quantization.get(name).kinds and settings.get("dtype") in (None, *quantization.get(name).dtypes)
            and quantization.why_not(name, device=device) is None]


def near_cases(**settings: Any) -> list[Any]:
    """Lists the cases whose layers come near random weights."""
    return [case for case in layer_cases(**settings) if not case.values[0].learnt]


def pair(inputs: int, outputs: int, method: quantization.Method, device: str) -> tuple[Any, Any]:
    """Builds a layer in the method's dtype and its quantised twin."""
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(inputs, outputs)).to(device, method.dtype)
    return before, quantization.quantize(copy.deepcopy(before), method)


@pytest.mark.parametrize(("preset", "name", "device"), quantized.cases(plain=True))
def test_use_look_copy_save_and_reload_give_the_same_numbers(preset, name, device, tmp_path):
    model = quantized.create(preset, name, device)
    before = quantized.answers(model, preset)
    model.state_dict()  # bitsandbytes unpacks its live weights to list them
    copied = copy.deepcopy(model)
    quantization.save(model, tmp_path / "model.safetensors")
    loaded = quantization.load(tmp_path / "model.safetensors", preset, seed=1, device=device)
    for other in (model, copied, loaded, copy.deepcopy(loaded)):
        assert torch.equal(quantized.answers(other, preset), before)
    assert not torch.equal(before, quantized.answers(quantized.create(preset, name, device, seed=1), preset))


@pytest.mark.parametrize(("preset", "name", "device"), VISIBLE)
def test_a_copy_is_no_larger_and_shares_nothing(preset, name, device):
    model = quantized.create(preset, name, device)
    for used in (False, True):
        copied = copy.deepcopy(model)
        assert reachable(copied) == reachable(model)
        assert storages(model).isdisjoint(storages(copied))
        if not used:
            quantized.answers(model, preset)


def storages(model: nn.Module) -> set[int]:
    return {x.data_ptr() for _, x in list(storage.stored(model))}


def codes(model: nn.Module) -> list[torch.Tensor]:
    """Gives the quantised weights."""
    return [x.detach() for name, x in storage.stored(model) if name.endswith((".weight", ".qdata"))]


def reachable(model: nn.Module) -> int:
    """Counts the bytes of all tensors that Python reaches from a model, which model_bytes might overlook."""
    storages: dict[int, int] = {}
    visited: set[int] = set()

    def visit(x: Any) -> None:
        if id(x) in visited or isinstance(x, (type, str)) or (callable(x) and not isinstance(x, nn.Module)):
            return
        visited.add(id(x))
        if isinstance(x, torch.Tensor) and not hasattr(x, "__tensor_flatten__"):
            storages[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        for part in (x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else
                     vars(x).values() if hasattr(x, "__dict__") else ()):
            visit(part)

    visit(model)
    return sum(storages.values())


@pytest.mark.parametrize(("preset", "name", "device"), VISIBLE)
def test_nothing_is_kept_that_is_not_counted(preset, name, device):
    model = quantized.create(preset, name, device)
    quantized.answers(model, preset)
    buffers = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for module in model.modules()
               for key, x in module.named_buffers(recurse=False) if key in module._non_persistent_buffers_set}
    assert reachable(model) == quantization.model_bytes(model) + sum(buffers.values())


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize(("preset", "name", "device"), quantized.cases(presets=("vit-tiny",)))
def test_load_state_dict_is_right_or_refused(preset, name, device, used):
    """bitsandbytes' int8 rounds a float checkpoint to zeros, and its 4-bit types don't read what they wrote."""
    source = quantized.create(preset, name, device)
    for theirs, expected in ((source, source), (quantized.plain(preset, name, device), None)):
        model = quantized.create(preset, name, device, seed=1)
        if used:
            quantized.answers(model, preset)
        if expected is not None and not name.startswith(("bnb-nf4", "bnb-fp4")):
            model.load_state_dict(theirs.state_dict())
            assert torch.equal(quantized.answers(model, preset), quantized.answers(expected, preset))
        else:
            with pytest.raises((RuntimeError, KeyError)):
                model.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("name", ["bnb-int8", "bnb-nf4", "ao-int8-weight", "ptq-int8"])
def test_save_pretrained_is_refused(name, tmp_path):
    """transformers writes the codes of bitsandbytes' int8, and its from_pretrained would read them as weights."""
    model = quantized.create("vit-tiny", name)
    for saved in (model, copy.deepcopy(model)):
        with pytest.raises(RuntimeError, match=r"use models\.quantization\.save"):
            saved.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    quantized.create("vit-tiny", "bf16").save_pretrained(tmp_path)
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize(("preset", "name", "device"), TRAINS)
def test_training_after_use_lowers_the_loss_and_leaves_the_quantised_weights(preset, name, device):
    model = quantized.create(preset, name, device)
    quantized.answers(model, preset)
    layers = {layer: {key: x.clone() for key, x in quantization.get(name).tensors(model.get_submodule(layer)).items()}
              for layer in quantization.quantized_layers(model)}
    vit = models.family(preset)
    x = vit.inputs(preset, batch=4, device=device, dtype=quantization.get(name).dtype)
    loss = vit.loss(model.train(), x)
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    torch.optim.SGD(trained, lr=0.02).step()
    assert vit.loss(model, x) < loss
    for layer, before in layers.items():
        after = quantization.get(name).tensors(model.get_submodule(layer))
        stays = not quantization.get(name).learnt  # factors are trained further
        assert all(torch.equal(after[key], before[key]) is stays for key in before if key != "bias")


@pytest.mark.parametrize(("method", "device"), [
    p for p in layer_cases(dtype=torch.float32) if p.values[0].trains])
def test_the_gradient_is_that_of_the_decoded_weights(method, device):
    before, after = pair(64, 48, method, device)
    with torch.no_grad():
        after.train()  # then bnb-int8 does not quantise its inputs on a CPU
        before[0].weight.copy_((after(torch.eye(64, device=device)) - before[0].bias).t())
    x = torch.randn(5, 64, device=device)
    actual, expected = (torch.autograd.grad(model(y).square().sum(), y)[0]
                       for model, y in ((m, x.clone().requires_grad_()) for m in (after, before)))
    assert quantized.distance(actual, expected) < (0.03 if method.name == "bnb-int8" else 1e-5)


@pytest.mark.parametrize(("preset", "name", "device"), INFERENCE)
def test_a_method_without_a_gradient_refuses_to_train(preset, name, device):
    model = quantized.create(preset, name, device)
    family = models.family(preset)
    length = {"n": 9} if preset == "gpt2-tiny" else {}
    x = family.inputs(preset, batch=2, device=device, dtype=quantization.get(name).dtype, **length)
    with pytest.raises(RuntimeError, match=r"^this quantised layer has no gradient"):
        family.loss(model.train(), x)


@pytest.mark.parametrize("device", DEVICES)
def test_int8_of_bitsandbytes_answers_the_same_after_a_time_in_train_mode(device):
    model = quantized.create("vit-tiny", "bnb-int8", device)
    before = quantized.answers(model, "vit-tiny")
    between = quantized.answers(model.train(), "vit-tiny")
    assert quantized.distance(between, before) < 0.03  # on a CPU its inputs are not quantised in train mode
    assert torch.equal(quantized.answers(model.eval(), "vit-tiny"), before)


@pytest.mark.parametrize(("method", "device"), near_cases())
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (64, 40), (48, 64), (24, 104)])
def test_any_side_from_16_is_multiplied_right_or_kept(method, device, inputs, outputs):
    left_alone = method.refuses_layer(nn.Linear(inputs, outputs)) is not None
    if left_alone:
        pytest.skip(f"{method.name} keeps it")
    before, after = pair(inputs, outputs, method, device)
    x = torch.randn(3, 5, inputs, device=device).to(method.dtype)
    with torch.no_grad():
        assert 0 < quantized.distance(after(x).float(), before(x).float()) < 0.15


@pytest.mark.parametrize(("method", "device"), layer_cases())
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 32), (15, 64), (64, 15)])
def test_a_side_below_16_is_never_quantised(method, device, inputs, outputs):
    model: Any = nn.Sequential(nn.Linear(inputs, outputs), nn.Linear(1024, 128)).to(device)
    quantization.quantize(model, method)
    assert quantization.kept_layers(model) == {"0": "a side is smaller than 16"}
    x = torch.randn(4, inputs, device=device).to(method.dtype)
    assert torch.equal(model[0](x), nn.functional.linear(x, model[0].weight, model[0].bias))


@pytest.mark.parametrize(("method", "device"), [
    p for dtype in (torch.bfloat16, torch.float32) for p in near_cases(dtype=dtype)])
def test_inputs_beyond_65504_stay_finite(method, device):
    """fp16 ends at 65504; bitsandbytes turns larger inputs in bf16 and float32 into NaN."""
    before, after = pair(64, 48, method, device)
    for size in (1.0, 3e4, 7e4, 1e9):
        x = size * torch.randn(6, 64, device=device).to(method.dtype)
        with torch.no_grad():
            assert quantized.distance(after(x).float(), before(x).float()) < 0.15


@pytest.mark.parametrize("method", ["bnb-int8", "bnb-nf4", "ao-int8-weight", "ptq-int8"])
def test_inputs_may_have_four_dimensions(method):
    """bitsandbytes takes the largest of the second dimension for that of each row."""
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64))
    x = torch.randn(2, 64, 3, 64)
    quantized = quantization.quantize(layer, method, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(quantized(x), quantized(x.flatten(0, 2)).view_as(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", quantized.PRESETS)
def test_int8_of_bitsandbytes_leaves_the_dtype_of_biases(preset):
    model = quantized.create(preset, "bnb-int8", dtype=torch.bfloat16)
    quantized.answers(model, preset)
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {torch.bfloat16}


@pytest.mark.parametrize(("preset", "name", "device"), VISIBLE)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_model_moves(preset, name, device, used):
    """Every tensor into another place, which is how a model goes to another device."""
    model = quantized.create(preset, name, device)
    before, size = quantized.answers(copy.deepcopy(model), preset), quantization.model_bytes(model)
    if used:
        quantized.answers(model, preset)
    reached, old = reachable(model), codes(model)
    model._apply(torch.clone)
    assert reachable(model) == reached
    for moved in (copy.deepcopy(model), model):
        assert torch.equal(quantized.answers(moved, preset), before)
        assert quantization.model_bytes(moved) == size
        assert {x.data_ptr() for x in codes(moved)}.isdisjoint(x.data_ptr() for x in old)


@pytest.mark.parametrize("feeds_attention", [False, True])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_zeros_are_zeros_in_float8_and_all_else_is_torchaos_product(compiled, feeds_attention):
    """torchao divides each row by its largest value. PyTorch (from 2.12 on) multiplies float8 rows on a CPU too."""
    device = "cuda" if quantization.why_not("ao-fp8-dynamic", device="cuda") is None else "cpu"
    if device == "cpu" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12):
        pytest.skip("a CPU's float8 product takes no scale a row in this torch")
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = nn.Linear(64, 48, device=device).bfloat16()
    with torch.no_grad():
        layer.weight[3] = 0
        after: Any = Float8Dynamic().twin(layer)
        after.feeds_attention = feeds_attention
        x = torch.randn(5, 64, device=device).bfloat16()
        x[2] = 0
        actual = (torch.compile(after, dynamic=False) if compiled else after)(x).float()
        expected, torchaos = layer(x).float(), nn.functional.linear(x, after.weight, after.bias).float()
    assert torch.equal(actual[2], layer.bias.float())
    assert torch.equal(actual[:, 3], layer.bias[3].float().expand(5))
    assert 0 < quantized.distance(actual, expected) < 0.06
    # torchao rounds a token's scale to bfloat16, so that a code may fall to the other side.
    assert quantized.distance(actual, torchaos) < 0.5 * quantized.distance(actual, expected)


@pytest.mark.skipif("cuda" not in DEVICES, reason="needs a CUDA device")
@pytest.mark.parametrize(("method", "device"), [p for p in layer_cases() if p.values[1] == "cuda"])
def test_weights_that_a_stream_is_still_writing_are_waited_for(method, device):
    """bitsandbytes quantises to 4 bits on the default stream, of weights that were copied on the current one."""
    torch.manual_seed(0)
    layer: Any = nn.Sequential(nn.Linear(256, 128)).to(device, method.dtype)
    source, x = layer[0].weight.detach().clone(), torch.randn(4, 256, device=device, dtype=method.dtype)
    expected = quantization.quantize(copy.deepcopy(layer), method)(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
        layer[0].weight.zero_()
        torch.cuda._sleep(200_000_000)  # a tenth of a second
        layer[0].weight.copy_(source)
        actual = quantization.quantize(layer, method)(x)
    torch.cuda.synchronize()
    assert torch.equal(actual, expected)


def test_quantising_leaves_the_compiler_alone():
    """torchao would set options for every model that is compiled later, the one it is compared with included."""
    before = copy.deepcopy({key: getattr(inductor, key) for key in (
        "coordinate_descent_tuning", "coordinate_descent_check_all_directions", "force_fuse_int_mm_with_mul")})
    for name in ("ao-int8-weight", "ao-int8-dynamic"):
        quantized.create("vit-tiny", name)
    assert before == {key: getattr(inductor, key) for key in before}
    assert not any(before.values())
