"""A stand-in for the package nvidia-cudnn-frontend 1.23.0: graphs are built from its tensors, checked as the package
checks them, and executed in plain PyTorch."""
from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import torch


class Tensor:
    """A tensor of a graph is an input, or `value` computes it from the inputs."""

    def __init__(self, value: Callable[[dict], torch.Tensor] | None = None, dim: list[int] | None = None,
                 data_type: Any = None) -> None:
        self.value, self.dim, self.data_type, self.output = value, dim, data_type, False

    def of(self, values: dict) -> torch.Tensor:
        return values[self] if self.value is None else self.value(values)

    def set_data_type(self, data_type: Any) -> Tensor:
        self.data_type = data_type
        return self

    def set_output(self, output: bool) -> Tensor:
        self.output = output
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        assert len(stride) == len(self.dim or ())
        return self


class Graph:
    """Stands in for cudnn.pygraph."""

    def __init__(self, package: Package, *, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any,
                 handle: Any = None) -> None:
        assert intermediate_data_type == compute_data_type == "FLOAT"
        self.package = package
        self.results: list[Tensor] = []

    def tensor(self, *, dim: list[int], stride: list[int], data_type: Any) -> Tensor:
        assert len(dim) == len(stride)
        assert data_type in ("FLOAT", "HALF", "BFLOAT16")
        return Tensor(dim=dim, data_type=data_type)

    def tensor_scalar(self, value: float, scalar_type: Any) -> Tensor:
        return Tensor(lambda values: torch.tensor(value), [1], "FLOAT")

    def _operation(self, function: Callable, *inputs: Tensor) -> Tensor:
        return Tensor(lambda values: function(*(x.of(values) for x in inputs)))

    def gen_index(self, input: Tensor, axis: int, compute_data_type: Any = None) -> Tensor:
        def index(x: torch.Tensor) -> torch.Tensor:
            return torch.arange(x.shape[axis]).view([-1 if at == axis else 1 for at in range(4)]).expand(x.shape)

        return self._operation(index, input)

    def sub(self, a: Tensor, b: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._operation(torch.sub, a, b)

    def add(self, a: Tensor, b: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._operation(torch.add, a, b)

    def mul(self, a: Tensor, b: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._operation(torch.mul, a, b)

    def abs(self, input: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._operation(torch.abs, input)

    def cmp_ge(self, input: Tensor, comparison: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._operation(torch.ge, input, comparison)

    def binary_select(self, input0: Tensor, input1: Tensor, mask: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._operation(lambda x, y, mask: torch.where(mask, x, y), input0, input1, mask)

    def sdpa(self, q: Tensor, k: Tensor, v: Tensor, attn_scale: float | None = None, *, generate_stats: bool,
             score_mod: Callable | None = None, sink_token: Tensor | None = None, **band: Any) -> list[Tensor | None]:
        compute = _attention(self, attn_scale, score_mod, sink_token, **band)
        out = Tensor(lambda values: compute(values, *(x.of(values) for x in (q, k, v)))[0])
        stats = Tensor(lambda values: compute(values, *(x.of(values) for x in (q, k, v)))[1].unsqueeze(-1))
        self.results = [out, stats] if generate_stats else [out]
        return [out, stats if generate_stats else None]

    def sdpa_backward(self, q: Tensor, k: Tensor, v: Tensor, o: Tensor, dO: Tensor,
                      stats: Tensor, attn_scale: float | None = None, use_deterministic_algorithm: bool = False, *,
                      score_mod: Callable | None = None, sink_token: Tensor | None = None,
                      dSink_token: Tensor | None = None, **band: Any) -> list[Tensor]:
        assert (sink_token is None) == (dSink_token is None)
        self.package.calls.append({"deterministic": use_deterministic_algorithm})
        compute = _attention(self, attn_scale, score_mod, sink_token, **band)

        def gradients(values: dict) -> tuple[torch.Tensor, ...]:
            leaves = [x.of(values).detach().requires_grad_() for x in (q, k, v)]
            sinks = None if sink_token is None else values[sink_token].detach().requires_grad_()
            with torch.enable_grad():
                out, lse = compute(values, *leaves, sinks)
                assert torch.allclose(out, values[o], atol=1e-4)
                assert torch.allclose(lse.unsqueeze(-1), values[stats], atol=1e-4)
                return torch.autograd.grad(out, leaves + ([] if sinks is None else [sinks]), values[dO])

        def gradient(at: int) -> Callable[[dict], torch.Tensor]:
            return lambda values: gradients(values)[at]

        outputs = [Tensor(gradient(at)) for at in range(3)]
        if dSink_token is not None:
            dSink_token.value = gradient(3)
        self.results = [*outputs, *([] if dSink_token is None else [dSink_token])]
        return outputs

    def validate(self) -> None:
        assert all(x.output and x.dim for x in self.results)

    def build(self, modes: list[Any]) -> None:
        self.validate()
        if self.package.refuses:
            raise self.package.module.cudnnGraphNotSupportedError("No valid engine configs\nand more")

    def get_workspace_size(self) -> int:
        return 0

    def execute(self, pack: dict[Tensor, torch.Tensor], workspace: torch.Tensor, handle: Any) -> None:
        values = {x: y.view(1, -1, 1, 1) if y.dim() == 1 else y for x, y in pack.items()}
        results = {x: x.of(values) for x in self.results}  # all are computed before one is written
        for x, y in results.items():
            assert list(values[x].shape) == x.dim == list(y.shape)
            values[x].copy_(y)


def _attention(graph: Graph, scale: float | None, score_mod: Callable | None, sink_token: Tensor | None, *,
               diagonal_alignment: str = "TOP_LEFT", diagonal_band_left_bound: int | None = None,
               diagonal_band_right_bound: int | None = None) -> Callable:
    bounds = (diagonal_band_left_bound, diagonal_band_right_bound)
    assert score_mod is None or bounds == (None, None), "with a score mod other subgraphs are disabled"
    assert bounds[0] is None or bounds[0] > 0

    def compute(values: dict, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                sinks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        n, m, shared = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(shared, 1) for x in (k, v))
        assert scale is not None
        score = scale * (q @ k.mT)
        if score_mod is not None:
            score = _modified(graph, score_mod, score, values)
        ago = torch.arange(n)[:, None] + (m - n if diagonal_alignment == "BOTTOM_RIGHT" else 0) - torch.arange(m)
        left, right = bounds
        if left is not None:
            score = score.masked_fill(ago >= left, -torch.inf)
        if right is not None:
            score = score.masked_fill(-ago > right, -torch.inf)
        if sink_token is not None:
            sinks = values[sink_token] if sinks is None else sinks
            score = torch.cat([score, sinks.expand(*score.shape[:3], 1)], -1)
        return score.softmax(-1)[..., :m] @ v, score.logsumexp(-1)

    return compute


def _modified(graph: Graph, score_mod: Callable, score: torch.Tensor, values: dict) -> torch.Tensor:
    return score_mod(graph, Tensor(lambda _: score)).of(values)


class Package:
    """Stands in for the package and records the arguments of backward graphs. With `refuses` cuDNN has no plan."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.refuses = False
        self.module: Any = types.ModuleType("cudnn")
        handles = itertools.count()
        self.module.__dict__.update(
            data_type=types.SimpleNamespace(**{x: x for x in ("FLOAT", "HALF", "BFLOAT16", "INT32", "BOOLEAN")}),
            diagonal_alignment=types.SimpleNamespace(TOP_LEFT="TOP_LEFT", BOTTOM_RIGHT="BOTTOM_RIGHT"),
            heur_mode=types.SimpleNamespace(A="A", FALLBACK="FALLBACK"),
            scalar_type=types.SimpleNamespace(RUNTIME_PARAM="RUNTIME_PARAM"),
            cudnnGraphNotSupportedError=type("cudnnGraphNotSupportedError", (Exception,), {}),
            create_handle=lambda: next(handles), set_stream=lambda handle, stream: None,
            pygraph=lambda **arguments: Graph(self, **arguments))
