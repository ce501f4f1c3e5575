"""The contract, over every registered variant this machine can run; what it can't run is a skip with its reason."""
from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

import attention
from attention.registry import function, functions, variant
from attention.tests import properties
from attention.tests.options import any_options, fixed
from attention.tests.properties import Call

LENGTHS = st.sampled_from([1, 2, 7, 16, 63, 64, 113, 128, 200])
HEAD_DIMS = st.sampled_from([16, 32, 40, 59, 64, 96, 128])

CORE = tuple(name for name, described in functions().items() if described.core)
COMPILED = [name for name in attention.names() if variant(name).backend.compiled]

# A compiled variant costs seconds a shape: by default those of the core, and rope's, run one test, on one shape. Of
# the functions outside the core the default run holds the error rule and their own tests; the rest of the contract is
# slow.
def each(names: list[str], core: tuple[str, ...] = CORE) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [
        pytest.param(name, marks=pytest.mark.slow if name in COMPILED or name.partition(":")[0] not in core else ())
        for name in names])


every_variant = each(attention.names(), core=tuple(functions()))
each_variant = each(attention.names())
CONVEX = each([name for name in attention.names() if variant(name).function.convex])
CAUSAL = each([name for name in attention.names() if variant(name).function.causal])


def build(call: Call, backend: str, device: torch.device, *, grad: bool = False) -> attention.Attention:
    """Builds the variant for `call`, or skips with the reason why it can't."""
    if reason := call.why_not(backend, device, grad=grad):
        pytest.skip(reason)
    return call.build(backend, device)


@functools.cache
def dtypes(name: str, device: torch.device) -> tuple[torch.dtype, ...]:
    """Lists the dtypes that the variant can compute here."""
    return tuple(t for t in attention.DTYPES.values()
                 if attention.why_not(name, device=device, dtype=t, head_dim=64, causal=not variant(name).function.full,
                                      **fixed(name.partition(":")[0])) is None)


def call_for(name: str, device: torch.device, **shape: object) -> Call:
    """Makes a call in the dtype nearest to float32 that the variant takes, causal if the function can be, or skips."""
    described = variant(name).function
    able = dtypes(name, device)
    if not able:
        pytest.skip(attention.why_not(name, device=device, dtype=torch.bfloat16) or f"{name}: no dtype works")
    dtype = torch.float32 if torch.float32 in able else able[0]
    shape.setdefault("heads", 4)
    shape["causal"] = bool(shape.get("causal")) and described.causal
    if not described.cross:
        shape["m"] = shape.get("n", shape.get("m", 24))
        shape["n"] = shape["m"]
    shape["causal"] = shape["causal"] or not described.full
    if attention.why_not(name, device=device, dtype=dtype, heads=4, kv_heads=2, causal=not described.full,
                         **fixed(described.name)):
        shape["kv_heads"] = shape["heads"]  # a kernel without shared key/value heads
    return Call(described.name, dtype=dtype, head_dim=64, options=fixed(described.name), **shape)  # type: ignore[arg-type]


def gradable(call: Call, backend: str, device: torch.device) -> bool:
    return call.why_not(backend, device, grad=True) is None


@st.composite
def calls(draw: st.DrawFn, name: str, able: tuple[torch.dtype, ...]) -> Call:
    can = function(name)
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 4])) if can.grouped else kv_heads
    n = draw(LENGTHS)
    masks = [causal for causal in (False, True) if (can.causal if causal else can.full)]
    return Call(name, batch=draw(st.sampled_from([1, 2])), heads=heads, kv_heads=kv_heads, n=n,
                m=draw(st.one_of(st.just(n), LENGTHS)) if can.cross else n, head_dim=draw(HEAD_DIMS),
                causal=draw(st.sampled_from(masks)), scale=draw(st.sampled_from([None, 0.05, 0.3])),
                dtype=draw(st.sampled_from(able)), seed=draw(st.integers(0, 99)),
                padded=draw(st.booleans()) if can.padding else False,
                options=draw(any_options(name)))


@pytest.mark.parametrize("share", [0.25, pytest.param(1.0, marks=pytest.mark.slow)], ids=["few", "many"])
@every_variant
def test_output_and_gradients_keep_the_error_rule(name: str, share: float, device: torch.device) -> None:
    of, _, backend = name.partition(":")
    able = dtypes(name, device)
    if not able:
        call_for(name, device)
    base = call_for(name, device, batch=1, n=63, m=113, causal=True)

    # A compiled kernel, and cuDNN's plan for a shape on a GPU, take seconds a call.
    many = 25 if of in CORE and device.type == "cpu" else 15
    @settings(max_examples=round(share * (5 if name in COMPILED else many)))
    @given(calls(of, able))
    @example(base)
    def holds(call: Call) -> None:
        if call.why_not(backend, device):
            reject()
        try:
            properties.is_right(call, call.build(backend, device), device, grad=gradable(call, backend, device))
        except attention.Unsupported:  # the compiler's no, which only a call can get
            reject()

    holds()


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name.partition(":")[0] in (*CORE, "rope") else pytest.mark.slow)
    for name in COMPILED])
def test_a_compiled_variant_is_right_on_one_shape(name: str, device: torch.device) -> None:
    call = call_for(name, device, batch=1, n=63, m=113, causal=True)
    backend = name.partition(":")[2]
    try:
        properties.is_right(call, build(call, backend, device), device, grad=gradable(call, backend, device))
    except attention.Unsupported as error:
        pytest.skip(str(error))


@CAUSAL
@pytest.mark.parametrize(("n", "m"), [(64, 64), (17, 64)], ids=["self", "cached"])
def test_the_future_does_not_show(name: str, n: int, m: int, device: torch.device) -> None:
    if n != m and not variant(name).function.cross:
        pytest.skip(f"{name} attends within one sequence")
    call = call_for(name, device, n=n, m=m, causal=True)
    if name.startswith("sliding-window"):
        call = Call(**{**call.__dict__, "options": {"window": 40}})
    properties.is_causal(call, build(call, name.partition(":")[2], device), device)


@each([name for name in attention.names() if variant(name).function.apart])
def test_sequences_and_heads_are_independent(name: str, device: torch.device) -> None:
    call = call_for(name, device, heads=6, kv_heads=3 if variant(name).function.grouped else 6, causal=True)
    properties.keeps_sequences_and_heads_apart(call, build(call, name.partition(":")[2], device), device)


@each(attention.names(function="softmax"))
def test_the_order_of_keys_does_not_show(name: str, device: torch.device) -> None:
    call = call_for(name, device, n=16, m=64)
    properties.ignores_key_order(call, build(call, name.partition(":")[2], device), device)


@CONVEX
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_outputs_lie_in_the_hull_of_the_values(name: str, causal: bool, device: torch.device) -> None:
    if causal and not variant(name).function.causal:
        pytest.skip(f"{name} has no causal form")
    call = call_for(name, device, n=64, m=64, causal=causal)
    properties.stays_in_the_hull(call, build(call, name.partition(":")[2], device), device)


@each_variant
def test_large_inputs_stay_finite_in_every_dtype(name: str, device: torch.device) -> None:
    call_for(name, device)  # skips where nothing works
    backend = name.partition(":")[2]
    for dtype in dtypes(name, device):
        call = call_for(name, device, n=64, m=64, causal=True)
        call = Call(**{**call.__dict__, "dtype": dtype})
        if call.why_not(backend, device):
            call = Call(**{**call.__dict__, "causal": False})
        properties.stays_finite(call, call.build(backend, device), device, grad=gradable(call, backend, device))


@each([name for name in attention.names() if variant(name).function.causal and variant(name).function.cross])
def test_rows_that_see_nothing_give_zeros(name: str, device: torch.device) -> None:
    call = call_for(name, device, n=64, m=40, causal=True)
    backend = name.partition(":")[2]
    module = build(call, backend, device)
    properties.gives_zeros_where_nothing_is_seen(call, module, device, grad=gradable(call, backend, device))


@each([name for name in attention.names() if variant(name).function.padding])
def test_sequences_without_a_key_give_zeros(name: str, device: torch.device) -> None:
    call = call_for(name, device, padded=True)
    out = call.run(build(call, name.partition(":")[2], device), *call.inputs(device))
    assert (out[-1] == 0).all()
    assert out.isfinite().all()
    assert (out[0] != 0).any()


@each_variant
def test_the_same_input_gives_the_same_output(name: str, device: torch.device) -> None:
    call = call_for(name, device, n=128, m=128, causal=True)
    properties.repeats_itself(call, build(call, name.partition(":")[2], device), device)


@each_variant
def test_strides_do_not_show(name: str, device: torch.device) -> None:
    call = call_for(name, device, n=64, m=64, causal=True)
    properties.takes_any_strides(call, build(call, name.partition(":")[2], device), device)
