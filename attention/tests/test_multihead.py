"""The drop-in against torch.nn.MultiheadAttention itself."""
from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import attention
from attention.multihead import MultiheadAttention

E, H = 24, 4


def pair(seed: int = 0, variant: str = "softmax:sdpa",
         **arguments: Any) -> tuple[nn.MultiheadAttention, MultiheadAttention]:
    """torch's and ours, with the same weights (biases are no zeros)."""
    torch.manual_seed(seed)
    theirs = nn.MultiheadAttention(E, H, **arguments).eval()
    for name, x in theirs.named_parameters():
        if "bias" in name:
            nn.init.normal_(x)
    ours = MultiheadAttention(E, H, **arguments, attention=variant).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> None:
    if one is None or other is None:
        assert one is other
        return
    torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)


def holes(shape: tuple[int, ...], seed: int, floats: bool) -> torch.Tensor:
    """True where left out, the first key of a row never."""
    left_out = tokens(*shape, seed=seed) > 0.3
    left_out[..., 0] = False
    if not floats:
        return left_out
    return tokens(*shape, seed=seed + 1).masked_fill(left_out, -torch.inf)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    kdim = draw(st.sampled_from([None, 10]))
    constructor = {"bias": draw(st.booleans()), "add_bias_kv": draw(st.booleans()),
                   "add_zero_attn": draw(st.booleans()), "kdim": kdim, "vdim": draw(st.sampled_from([None, 7])),
                   "batch_first": draw(st.booleans()), "dropout": draw(st.sampled_from([0.0, 0.5]))}
    return {"constructor": constructor, "seed": draw(st.integers(0, 99)), "batch": draw(st.sampled_from([None, 1, 3])),
            "n": draw(st.integers(1, 9)), "m": draw(st.integers(1, 9)), "self": draw(st.booleans()),
            "attn_mask": draw(st.sampled_from([None, "2d bool", "2d float", "3d bool", "3d float", "causal"])),
            "padding": draw(st.sampled_from([None, "bool", "float"])),
            "need_weights": draw(st.booleans()), "average": draw(st.booleans()),
            "variant": draw(st.sampled_from(["softmax:sdpa", "softmax:eager"]))}


@settings(max_examples=100)
@given(configurations())
def test_softmax_is_torch_s(config: dict[str, Any]) -> None:
    constructor, batch, n = config["constructor"], config["batch"], config["n"]
    alone = config["self"] and constructor["kdim"] is None and constructor["vdim"] is None
    m = n if alone or config["attn_mask"] == "causal" else config["m"]
    theirs, ours = pair(config["seed"], config["variant"], **constructor)

    def shaped(length: int, width: int, seed: int) -> torch.Tensor:
        if batch is None:
            return tokens(length, width, seed=seed)
        return tokens(*((batch, length) if constructor["batch_first"] else (length, batch)), width, seed=seed)

    query = shaped(n, E, 1)
    key, value = (query, query) if alone else (shaped(m, theirs.kdim, 2), shaped(m, theirs.vdim, 3))
    call: dict[str, Any] = {"need_weights": config["need_weights"], "average_attn_weights": config["average"]}
    kind, floats = config["attn_mask"], str(config["attn_mask"]).endswith("float")
    if kind == "causal":
        call |= {"attn_mask": torch.ones(n, n, dtype=torch.bool).triu(1)}
        # With added keys torch's hint hides them and its mask shows them; the mask is what it documents.
        call["is_causal"] = not (constructor["add_bias_kv"] or constructor["add_zero_attn"])
    elif kind:
        call["attn_mask"] = holes((n, m) if kind.startswith("2d") else ((batch or 1) * H, n, m), 4, floats)
    if config["padding"]:
        call["key_padding_mask"] = holes((m,) if batch is None else (batch, m), 6, config["padding"] == "float")
    if config["padding"] == "bool" and floats:
        call["key_padding_mask"] = torch.zeros(call["key_padding_mask"].shape).masked_fill(
            call["key_padding_mask"], -torch.inf)  # torch wants both of one kind
    if config["padding"] == "float" and kind and not floats:
        call["attn_mask"] = torch.zeros(call["attn_mask"].shape).masked_fill(call["attn_mask"], -torch.inf)

    expected, actual = theirs(query, key, value, **call), ours(query, key, value, **call)
    same(actual[0], expected[0])
    same(actual[1], expected[1])


@pytest.mark.parametrize("arguments", [{}, {"bias": False}, {"kdim": 5, "vdim": 6}, {"add_bias_kv": True}])
def test_the_state_is_torch_s_both_ways(arguments: dict[str, Any]) -> None:
    theirs, ours = nn.MultiheadAttention(E, H, **arguments), MultiheadAttention(E, H, **arguments)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.load_state_dict(theirs.state_dict()) == theirs.load_state_dict(ours.state_dict())
    assert isinstance(ours, nn.MultiheadAttention)


def test_the_same_seed_initialises_the_same_weights() -> None:
    torch.manual_seed(3)
    theirs = nn.MultiheadAttention(E, H).state_dict()
    torch.manual_seed(3)
    ours = MultiheadAttention(E, H).state_dict()
    assert all(torch.equal(ours[name], x) for name, x in theirs.items())


@pytest.mark.parametrize("need_weights", [True, False])
def test_gradients_are_torch_s(need_weights: bool) -> None:
    theirs, ours = pair(dtype=torch.float64)
    x, left_out = tokens(5, 2, E, dtype=torch.float64), holes((5, 5), 1, floats=False)
    gradients = []
    for module in (theirs, ours):
        out, weights = module(x, x, x, attn_mask=left_out, need_weights=need_weights)
        loss = out.square().sum() + (0 if weights is None else weights.square().sum())
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_dropout_drops_what_torch_s_drops() -> None:
    theirs, ours = (module.train() for module in pair(dropout=0.4))
    x, out = tokens(6, 2, E), []
    for module in (theirs, ours):
        torch.manual_seed(5)
        out.append(module(x, x, x)[0])
    same(*out)
    assert not torch.equal(out[1], ours.eval()(x, x, x)[0])


def test_weights_are_within_the_study_s_tolerance_of_the_formula() -> None:
    """Study 003 asks for 1e-3."""
    _, ours = pair()
    x = tokens(7, 2, E)
    weights = ours(x, x, x, average_attn_weights=False)[1]
    q, k = (F.unflatten(-1, (H, -1)).permute(1, 2, 0, 3).double() for F in
            nn.functional.linear(x, ours.in_proj_weight, ours.in_proj_bias).chunk(3, -1)[:2])
    exact = ((q @ k.transpose(-1, -2)) / (E // H) ** 0.5).softmax(-1)
    assert (weights.double() - exact).abs().max() < 1e-6


@pytest.mark.parametrize("variant", ["softmax:sdpa", "softmax:eager", "alibi:eager"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_a_row_that_sees_nothing_gives_zeros_before_the_output_projection(variant: str, need_weights: bool) -> None:
    _, ours = pair(variant=variant)
    x = tokens(4, 2, E)
    padding = torch.tensor([[False] * 4, [True] * 4])
    out, weights = ours(x, x, x, key_padding_mask=padding, need_weights=need_weights)
    torch.testing.assert_close(out[:, 1], ours.out_proj.bias.expand(4, E))
    assert out.isfinite().all()
    assert weights is None or (weights[1] == 0).all()


def test_a_variant_takes_the_place_of_softmax() -> None:
    _, ours = pair(variant="alibi:sdpa")
    x = tokens(6, 2, E)
    q, k, v = (y.unflatten(-1, (H, -1)).permute(1, 2, 0, 3) for y in
               nn.functional.linear(x, ours.in_proj_weight, ours.in_proj_bias).chunk(3, -1))
    padding = holes((2, 6), 1, floats=False)
    for is_causal in (False, True):
        expected = attention.oracle("alibi", q, k, v, causal=is_causal, key_mask=~padding).float()
        expected = ours.out_proj(expected.permute(2, 0, 1, 3).flatten(2))
        hint = {"is_causal": is_causal, "attn_mask": nn.Transformer.generate_square_subsequent_mask(6)}
        out, weights = ours(x, x, x, key_padding_mask=padding, **(hint if is_causal else {}))
        same(out, expected)
        assert weights.shape == (2, 6, 6)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 6))
        assert not weights.masked_select(padding[:, None]).any()


def test_weights_of_another_function_are_those_it_uses() -> None:
    """Also where head_dim does not divide the number of keys."""
    _, ours = pair(variant="alibi:eager")
    x = tokens(7, E)
    out, weights = ours(x, x, x, average_attn_weights=False)
    v = nn.functional.linear(x, ours.in_proj_weight, ours.in_proj_bias).chunk(3, -1)[2].unflatten(-1, (H, -1))
    same(ours.out_proj((weights @ v.transpose(0, 1)).transpose(0, 1).flatten(1)), out)


def test_a_hint_without_a_mask_is_the_causal_mask() -> None:
    theirs, ours = pair()
    x, mask = tokens(5, 2, E), torch.ones(5, 5, dtype=torch.bool).triu(1)
    for need_weights in (True, False):
        same(ours(x, x, x, is_causal=True, need_weights=need_weights)[0], theirs(x, x, x, attn_mask=mask)[0])


@pytest.mark.parametrize("arguments", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_a_causal_hint_hides_no_added_key(arguments: dict[str, Any]) -> None:
    """torch's own hint does, and differs from its mask."""
    theirs, ours = pair(**arguments)
    x, mask = tokens(5, 2, E), torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected = theirs(x, x, x, attn_mask=mask)[0]
    for need_weights in (True, False):
        for mask_argument in (mask, None):
            same(ours(x, x, x, attn_mask=mask_argument, is_causal=True, need_weights=need_weights)[0], expected)


def test_copies_and_moves_keep_the_causal_twin_on_their_own_parameters() -> None:
    torch.manual_seed(0)
    ours = MultiheadAttention(E, H, attention="relative-bias:eager", buckets=8, max_distance=9)
    assert set(ours.state_dict()) - set(nn.MultiheadAttention(E, H).state_dict()) == {"attention.table"}
    x = tokens(5, 1, E)
    before = ours(x, x, x, is_causal=True)[0]
    other = copy.deepcopy(ours).double()
    y = x.double()
    same(other(y, y, y, is_causal=True)[0].float(), before)
    with torch.no_grad():
        other.attention.params["table"].mul_(-30)
    assert not torch.allclose(other(y, y, y, is_causal=True)[0].float(), before, atol=1e-2)
    same(ours(x, x, x, is_causal=True)[0], before)
    other.load_state_dict(ours.state_dict())
    same(other(y, y, y, is_causal=True)[0].float(), before)
    other(y, y, y, is_causal=True)[0].sum().backward()
    assert other.attention.params["table"].grad is not None


def test_a_function_of_a_fixed_length_takes_the_place_of_softmax() -> None:
    ours = MultiheadAttention(E, H, batch_first=True, attention="linformer:eager", seq_len=7, rank=4)
    x = tokens(2, 7, E)
    q, k, v = (y.unflatten(-1, (H, -1)).transpose(1, 2) for y in
               nn.functional.linear(x, ours.in_proj_weight, ours.in_proj_bias).chunk(3, -1))
    expected = attention.oracle("linformer", q, k, v, params=ours.attention.params, rank=4).float()
    same(ours(x, x, x, need_weights=False)[0], ours.out_proj(expected.transpose(1, 2).flatten(2)))
    for call, message in (({"need_weights": True}, "it can't compute need_weights=True; it has no softmax weights"),
                       ({"need_weights": False, "is_causal": True}, "linformer has no causal form")):
        with pytest.raises(ValueError, match=re.escape(message)):
            ours(x, x, x, **call)


LEFT_OUT = torch.zeros(3, 3, dtype=torch.bool)


@pytest.mark.parametrize(("variant", "arguments", "call", "message"), [
    ("softmax:tiled", {}, {"attn_mask": LEFT_OUT}, "an attn_mask without is_causal=True; softmax:eager"),
    ("softmax:tiled", {"dropout": 0.1}, {}, "dropout=0.1 in training"),
    ("softmax:tiled", {}, {"key_padding_mask": torch.ones(2, 3)}, "other numbers than 0 and -inf"),
    ("alibi:eager", {}, {"attn_mask": LEFT_OUT}, "pass is_causal=True or a key_padding_mask"),
    ("alibi:eager", {"dropout": 0.1}, {}, "dropout=0.1 in training"),
    ("alibi:eager", {}, {"key_padding_mask": torch.ones(2, 3)}, "other numbers than 0 and -inf"),
    ("softmax:eager", {}, {"attn_mask": LEFT_OUT[:2]}, "attn_mask (2, 3): expected (3, 3) or (8, 3, 3)"),
    ("softmax:eager", {}, {"attn_mask": LEFT_OUT.int()}, "attn_mask is torch.int32: expected bool"),
    ("softmax:eager", {}, {"key_padding_mask": LEFT_OUT}, "key_padding_mask (3, 3): expected (2, 3)"),
])
def test_what_a_call_cannot_have_is_refused_in_one_line(variant: str, arguments: dict[str, Any], call: dict[str, Any],
                                                     message: str) -> None:
    module = MultiheadAttention(E, H, attention=variant, **arguments).train()
    x = tokens(3, 2, E)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        module(x, x, x, need_weights=False, **call)
    assert str(error.value).startswith(f"{variant}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("query", "key", "message"), [
    (tokens(3, E), tokens(3, 1, E), "expected three tensors of three dimensions"),
    (tokens(3, 2, E), tokens(3, 1, E), "in batches like query's"),
    (tokens(3, 2, E), tokens(3, 2, E - 1), "the last dimensions must be 24, 24, 24"),
    (tokens(3, 2, E), tokens(3, 2, E).double(), "give them one dtype and one device"),
    (tokens(3, 2, E), tokens(3, 2, E).to("meta"), "give them one dtype and one device"),
])
def test_wrong_inputs_are_refused_in_one_line(query: torch.Tensor, key: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        MultiheadAttention(E, H)(query, key, key)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: MultiheadAttention(10, 4), "embed_dim=10 must be a multiple of num_heads=4"),
    (lambda: MultiheadAttention(E, H, attention="softmx:sdpa"), "did you mean 'softmax:sdpa'?"),
    (lambda: MultiheadAttention(E, H, attention="alibi:sdpa", add_bias_kv=True), "add_bias_kv=True adds a key"),
    (lambda: MultiheadAttention(E, H, attention="alibi:sdpa", window=3), "unknown option 'window'"),
    (lambda: MultiheadAttention(E, H)(tokens(2, E), tokens(3, E), tokens(3, E), is_causal=True),
     "is_causal=True with 2 queries on 3 keys"),
])
def test_what_cannot_be_built_is_refused_in_one_line(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build()
    assert "\n" not in str(error.value)
