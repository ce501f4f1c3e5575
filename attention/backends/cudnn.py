"""Attention by cuDNN's own graphs, from the package nvidia-cudnn-frontend (github.com/NVIDIA/cudnn-frontend); half
precision on CUDA GPUs. Unlike `sdpa-cudnn`, PyTorch's way to cuDNN, it has ALiBi, windows and sinks.

The package's ALiBi copies its slopes from host memory at every call, and that memory is freed before a CUDA graph
replays. Here the slopes are a tensor on the device, and ALiBi is a modifier of the scores. It writes the causal mask as
the package does, so cuDNN recognises it and skips hidden keys.
"""
from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from attention import masks
from attention.backends.base import PRODUCT, SOFTMAX, Backend, Case, Kernels, Unsupported, wants_gradients

KERNELS = {"cuda": Kernels((r"cudnn\w*_sdpa\w*fprop",), (r"cudnn\w*_sdpa\w*bprop",),
                           never=(PRODUCT["cuda"], SOFTMAX["cuda"]))}


class CuDNN(Backend):
    """This backend builds a cuDNN graph for each kind of call and shape."""

    name = "cudnn"
    probes = True
    deterministic_backward = False
    kernels = KERNELS

    def missing(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"cuDNN runs on CUDA GPUs only, not on {device.type}"
        if importlib.util.find_spec("cudnn") is None:
            return "nvidia-cudnn-frontend is not installed; pip install nvidia-cudnn-frontend==1.23.0"
        return super().missing(device)

    def refuses(self, case: Case) -> str | None:
        if case.dtype not in (torch.float16, torch.bfloat16):
            return f"cuDNN's attention takes float16 and bfloat16, not {str(case.dtype).removeprefix('torch.')}"
        if case.key_mask:
            return "cuDNN takes lengths, no padding mask; use a backend that does, or pass sequences of one length"
        if not case.causal and "window" in dict(case.options) and case.n > case.m:
            return "cuDNN has no windows where queries outnumber keys"
        return None

    def scatters(self, case: Case) -> str | None:
        return None  # its backward pass has a deterministic form

    def attend(self) -> Callable[..., torch.Tensor]:
        return Attend()

    def attend_deterministic(self) -> Callable[..., torch.Tensor]:
        return Attend(deterministic=True)


@dataclass(frozen=True)
class _Kind:
    """The kind of a graph, beside its shapes. `per_head` names the tensor of one number for each head, if any."""

    scale: float
    band: masks.Band
    per_head: str | None  # "slopes" or "sinks"
    deterministic: bool


class Attend:
    """An instance holds the plans of one caller; cuDNN makes one for each shape, forward and backward."""

    def __init__(self, deterministic: bool = False) -> None:
        self.deterministic = deterministic
        self.plans: dict[tuple, _Plan] = {}

    def __call__(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
                 band: masks.Band = masks.FULL, bias: Any = None, key_mask: None = None,
                 sinks_H: torch.Tensor | None = None) -> torch.Tensor:
        """Computes attention -> (B, H, N, D).

        Raises ValueError for a bias that is not ALiBi's and for ALiBi on a cache, and Unsupported if cuDNN has no plan.
        """
        n, m = q_BHND.shape[2], k_BGMD.shape[2]
        if bias is not None and not hasattr(bias, "slopes_H"):
            raise ValueError("the cudnn backend takes no bias but ALiBi's")
        if bias is not None and n != m:
            raise ValueError("the cudnn backend's ALiBi takes as many queries as keys")
        if band.causal and n == 1:
            band = masks.FULL  # the last query sees every key
        per_head = "slopes" if bias is not None else "sinks" if sinks_H is not None else None
        heads = bias.slopes_H if bias is not None else None if sinks_H is None else sinks_H.float()
        kind = _Kind(scale, band, per_head, self.deterministic)
        q, k, v = (_plain(x) for x in (q_BHND, k_BGMD, v_BGMD))
        return _Attention.apply(self.plans, kind, wants_gradients(q, k, v, *([] if sinks_H is None else [sinks_H])),
                                q, k, v, heads)


def _plain(x: torch.Tensor) -> torch.Tensor:
    """Copies x if its channels are not contiguous or its rows overlap, as in an expanded gradient."""
    return x if x.stride(-1) == 1 and 0 not in x.stride() else x.contiguous()


class _Attention(torch.autograd.Function):
    """Runs cuDNN's forward and backward graphs."""

    @staticmethod
    def forward(ctx: Any, plans: dict, kind: _Kind, learns: bool, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                heads: torch.Tensor | None) -> torch.Tensor:
        out = q.new_empty(*q.shape[:3], v.shape[3])
        sums = q.new_empty(*q.shape[:3], 1, dtype=torch.float32) if learns else None
        _run(plans, kind, {"q": q, "k": k, "v": v}, heads, [out] if sums is None else [out, sums])
        ctx.plans, ctx.kind = plans, kind
        ctx.save_for_backward(q, k, v, heads, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, heads, out, sums = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in (q, k, v)]
        if ctx.kind.per_head == "sinks":
            gradients.append(torch.zeros_like(heads))
        inputs = {"q": q, "k": k, "v": v, "o": out, "dO": _plain(grad_out), "stats": sums}
        _run(ctx.plans, ctx.kind, inputs, heads, gradients)
        return None, None, None, *gradients, *([None] * (4 - len(gradients)))


def _run(plans: dict[tuple, _Plan], kind: _Kind, inputs: dict[str, torch.Tensor], heads: torch.Tensor | None,
         outputs: list[torch.Tensor]) -> None:
    """Makes the plan for these shapes at the first call with them, and runs it on the current stream."""
    import cudnn

    device = inputs["q"].device
    tensors = [*inputs.values(), *([] if heads is None else [heads]), *outputs]
    key = kind, tuple(inputs), *((x.shape, x.stride(), x.dtype, x.device) for x in tensors)
    with torch.cuda.device(device):
        handle = _handle(device)
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        if key not in plans:
            plans[key] = _Plan(handle, kind, inputs, heads, outputs)
        plan = plans[key]
        workspace = torch.empty(max(1, plan.graph.get_workspace_size()), dtype=torch.uint8, device=device)
        plan.graph.execute(dict(zip(plan.symbols, tensors, strict=True)), workspace, handle=handle)


@functools.cache
def _handle(device: torch.device) -> Any:
    import cudnn

    return cudnn.create_handle()


def settle_runtime() -> None:
    """Makes the package find its CUDA runtime now, as it does for its first graph.

    It refuses to after a second runtime is loaded, and FlashAttention-3's library loads one.
    """
    if importlib.util.find_spec("cudnn") is None:
        return
    import cudnn

    graph = cudnn.pygraph(io_data_type=cudnn.data_type.HALF, intermediate_data_type=cudnn.data_type.FLOAT,
                          compute_data_type=cudnn.data_type.FLOAT)
    shape, strides = [1, 1, 64, 64], [4096, 4096, 64, 1]
    x = graph.tensor(dim=shape, stride=strides, data_type=cudnn.data_type.HALF)
    graph.sdpa(q=x, k=x, v=x, generate_stats=False)[0].set_output(True).set_dim(shape).set_stride(strides)
    graph.validate()


class _Plan:
    """A plan is a cuDNN graph for one kind of call: attention forward, or backward if `inputs` has "dO".

    `symbols` are its tensors: the inputs, the tensor of one number for each head if any, and the outputs.
    """

    def __init__(self, handle: Any, kind: _Kind, inputs: dict[str, torch.Tensor], heads: torch.Tensor | None,
                 outputs: list[torch.Tensor]) -> None:
        import cudnn

        types = {torch.bfloat16: cudnn.data_type.BFLOAT16, torch.float16: cudnn.data_type.HALF,
                 torch.float32: cudnn.data_type.FLOAT}
        wide = cudnn.data_type.FLOAT
        graph = cudnn.pygraph(handle=handle, io_data_type=types[inputs["q"].dtype], intermediate_data_type=wide,
                              compute_data_type=wide)

        def tensor(x: torch.Tensor) -> Any:
            x = x.view(1, -1, 1, 1) if x.dim() == 1 else x
            return graph.tensor(dim=list(x.shape), stride=list(x.stride()), data_type=types[x.dtype])

        symbols = {name: tensor(x) for name, x in inputs.items()}
        extra = [] if heads is None else [tensor(heads)]
        n, m = inputs["q"].shape[2], inputs["k"].shape[2]
        options: dict[str, Any] = {"attn_scale": kind.scale}
        if kind.per_head == "slopes":
            options["score_mod"] = _alibi(cudnn, kind.band.causal, extra[0])
        else:
            options |= _band(cudnn, kind.band, n, m)
        if kind.per_head == "sinks":
            options["sink_token"] = extra[0]
        if "dO" in inputs:
            dsinks = [tensor(outputs[3])] if kind.per_head == "sinks" else []
            results = [*graph.sdpa_backward(**symbols, **options, use_deterministic_algorithm=kind.deterministic,
                                         **({"dSink_token": dsinks[0]} if dsinks else {})), *dsinks]
        else:
            results = graph.sdpa(**symbols, **options, generate_stats=len(outputs) == 2)[:len(outputs)]
        for symbol, x in zip(results, outputs, strict=True):
            x = x.view(1, -1, 1, 1) if x.dim() == 1 else x
            symbol.set_output(True).set_dim(list(x.shape)).set_stride(list(x.stride()))
            symbol.set_data_type(types[x.dtype])
        try:
            graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        except cudnn.cudnnGraphNotSupportedError as error:
            raise Unsupported(f"cudnn: no plan for q {tuple(inputs['q'].shape)}, k {tuple(inputs['k'].shape)}: "
                              f"{str(error).splitlines()[0]}") from error
        self.graph, self.symbols = graph, [*symbols.values(), *extra, *results]


def _band(cudnn: Any, band: masks.Band, n: int, m: int) -> dict[str, Any]:
    """Writes a band as cuDNN's arguments. Queries stand at the end of the keys; the left bound counts the own key."""
    ends = cudnn.diagonal_alignment.TOP_LEFT if n == m else cudnn.diagonal_alignment.BOTTOM_RIGHT
    return {"diagonal_alignment": ends, "diagonal_band_left_bound": None if band.left is None else band.left + 1,
            "diagonal_band_right_bound": band.right}


def _alibi(cudnn: Any, causal: bool, slopes: Any) -> Callable[[Any, Any], Any]:
    """Builds score - slope |i - j| and, causal, -inf after the query's own key; its derivative by the score is one."""
    whole, flag = cudnn.data_type.INT32, cudnn.data_type.BOOLEAN

    def positions(graph: Any, score: Any) -> list[Any]:
        indices = [graph.gen_index(score, axis=axis, compute_data_type=whole) for axis in (2, 3)]
        for x in indices:
            x.set_data_type(whole)
        return indices

    def modify(graph: Any, score: Any) -> Any:
        i, j = positions(graph, score)
        after = graph.sub(j, i, compute_data_type=whole)
        after.set_data_type(whole)
        bias = graph.mul(after, slopes)
        if not causal:
            return graph.sub(score, graph.abs(bias))
        score = graph.add(score, bias)
        i, j = positions(graph, score)
        visible = graph.cmp_ge(i, j, compute_data_type=flag)
        visible.set_data_type(flag)
        return graph.binary_select(score, graph.tensor_scalar(-torch.inf, cudnn.scalar_type.RUNTIME_PARAM), visible)

    return modify


cudnn_frontend = CuDNN()
