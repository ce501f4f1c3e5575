"""`MultiheadAttention` in the code of others: torch's encoders, compiled too, its functional form, and peft."""
from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from attention.multihead import MultiheadAttention

E, H, N = 24, 4, 7
PADDED = ["softmax:sdpa", "softmax:tiled", "softmax:eager", "alibi:sdpa", "sliding-window:tiled"]
OPTIONS: dict[str, dict[str, Any]] = {"sliding-window:tiled": {"window": 3}}


def tokens(batch: int = 3, n: int = N) -> torch.Tensor:
    return torch.randn(batch, n, E, generator=torch.Generator().manual_seed(1))


def padding(*lengths: int) -> torch.Tensor:
    """True where left out, behind so many tokens."""
    return torch.arange(N) >= torch.tensor(lengths).unsqueeze(1)


def stock(**arguments: Any) -> nn.TransformerEncoderLayer:
    """torch's layer, with biases that are no zeros."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, H, 32, dropout=0.0, batch_first=True, **arguments).eval()
    for name, x in layer.named_parameters():
        if "bias" in name:
            nn.init.normal_(x)
    return layer


def ours(layer: nn.TransformerEncoderLayer, variant: str) -> nn.TransformerEncoderLayer:
    """A copy of torch's layer with ours in it."""
    twin = copy.deepcopy(layer)
    twin.self_attn = MultiheadAttention(E, H, batch_first=True, attention=variant,
                                        **OPTIONS.get(variant, {})).eval()
    twin.self_attn.load_state_dict(layer.self_attn.state_dict())
    return twin


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", PADDED)
@pytest.mark.parametrize("layers", [0, 2], ids=["layer", "encoder"])
@pytest.mark.parametrize("lengths", [(7, 7, 7), (7, 2, 5)], ids=["whole", "padded"])
def test_an_encoder_asks_it_in_evaluation_as_in_training(variant: str, layers: int, lengths: tuple[int, ...]) -> None:
    """torch's layer has a path of its own in evaluation, which computes softmax; its encoder makes nested tensors."""
    plain: nn.Module = stock()
    twin: nn.Module = ours(stock(), variant)
    if layers:
        plain, twin = (nn.TransformerEncoder(x, layers).eval() for x in (stock(), ours(stock(), variant)))
    x, mask = tokens(), padding(*lengths)
    real = ~mask
    trained = twin(x, src_key_padding_mask=mask)[real]
    with torch.no_grad():
        evaluated = twin(x, src_key_padding_mask=mask)[real]
        softmax = plain(x, src_key_padding_mask=mask)[real]
    assert close(evaluated, trained)
    assert close(evaluated, softmax) is variant.startswith("softmax")


@pytest.mark.slow
def test_flex_takes_the_padding_that_an_encoder_makes() -> None:
    plain, twin = stock(), ours(stock(), "softmax:flex")
    x, mask = tokens(), padding(7, 2, 5)
    with torch.no_grad():
        assert close(twin(x, src_key_padding_mask=mask)[~mask], plain(x, src_key_padding_mask=mask)[~mask])


@pytest.mark.parametrize("variant", [pytest.param(name, marks=pytest.mark.slow if number else ())
                                     for number, name in enumerate(PADDED)])
def test_a_padded_encoder_compiles_into_one_graph(variant: str) -> None:
    twin = nn.TransformerEncoder(ours(stock(), variant), 2, enable_nested_tensor=False).eval()
    x, mask = tokens(), padding(7, 2, 5)
    torch._dynamo.reset()
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert close(compiled(x, src_key_padding_mask=mask), twin(x, src_key_padding_mask=mask))


@pytest.mark.parametrize("variant", ["softmax:tiled", "alibi:sdpa"])
def test_a_compiled_call_refuses_other_numbers_in_a_mask(variant: str) -> None:
    module = MultiheadAttention(E, H, batch_first=True, attention=variant).eval()
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    x = tokens()
    compiled(x, x, x, torch.zeros(3, N), need_weights=False)
    with pytest.raises(RuntimeError, match=f"{variant} can't compute a key_padding_mask of other numbers"):
        compiled(x, x, x, torch.full((3, N), -1.0), need_weights=False)


def test_torch_s_functional_form_takes_its_weights() -> None:
    module = MultiheadAttention(E, H)
    x = tokens().transpose(0, 1)
    out, _ = nn.functional.multi_head_attention_forward(
        x, x, x, E, H, module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0, module.out_proj.weight,
        module.out_proj.bias, use_separate_proj_weight=not module._qkv_same_embed_dim,
        q_proj_weight=module.q_proj_weight, k_proj_weight=module.k_proj_weight, v_proj_weight=module.v_proj_weight)
    assert close(module(x, x, x)[0], out)


def test_peft_adapts_it_as_it_adapts_torch_s() -> None:
    peft = pytest.importorskip("peft")
    outputs, gradients, merged = [], [], []
    x = tokens()
    for layer in (stock(), ours(stock(), "softmax:sdpa")):
        torch.manual_seed(5)
        config = peft.LoraConfig(target_modules=["self_attn"], r=3, init_lora_weights=False)
        model = peft.get_peft_model(layer, config).train()  # in evaluation torch's layer forgets the adapter
        out = model(x)
        out.square().sum().backward()
        outputs.append(out.detach())
        gradients.append({name: w.grad for name, w in model.named_parameters() if w.grad is not None})
        evaluated = model.eval()(x)
        merged.append(model.merge_and_unload())
    assert close(evaluated, outputs[1])
    assert not close(outputs[1], stock()(x))
    assert close(outputs[1], outputs[0])
    assert gradients[1].keys() == gradients[0].keys()
    assert all(close(gradients[1][name], x) for name, x in gradients[0].items())
    assert isinstance(merged[1].self_attn, MultiheadAttention)
    assert close(merged[1](x), merged[0](x))


@pytest.mark.parametrize("name", ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"])
def test_a_weight_of_another_dtype_is_named(name: str) -> None:
    module = MultiheadAttention(E, H)
    parent, _, last = name.rpartition(".")
    owner = module.get_submodule(parent)
    setattr(owner, last, nn.Parameter(getattr(owner, last).detach().double()))
    x = tokens()
    with pytest.raises(ValueError, match=r"parameters differ: torch\.float32 on cpu, torch\.float64 on cpu"):
        module(x, x, x)


def test_a_quantised_output_projection_is_its_own_matter() -> None:
    """Its weights are whole numbers, and it converts what it is given."""

    class Quantised(nn.Module):
        def __init__(self, plain: nn.Linear) -> None:
            super().__init__()
            self.scale = plain.weight.detach().abs().max() / 127
            self.weight = nn.Parameter((plain.weight / self.scale).round().to(torch.int8), requires_grad=False)
            self.bias = plain.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)

    module = MultiheadAttention(E, H).eval()
    x = tokens()
    expected = module(x, x, x)[0]
    module.out_proj = Quantised(module.out_proj)  # type: ignore[assignment]
    assert (module(x, x, x)[0] - expected).abs().max() < 0.02
