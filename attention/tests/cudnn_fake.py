"""A stand-in for the package nvidia-cudnn-frontend 1.23.0: graphs are built from its tensors, checked as the package
checks them, and executed in plain PyTorch."""
from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import torch


class Tensor:
    """A tensor of a graph: given, or worked out by `value` from the given ones."""

    def __init__(self, value: Callable[[dict], torch.Tensor] | None = None, dim: list[int] | None = None,
                 data_type: Any = None) -> None:
        self.value, self.dim, self.data_type, self.output = value, dim, data_type, False

    def of(self, given: dict) -> torch.Tensor:
        return given[self] if self.value is None else self.value(given)

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
    """cudnn.pygraph."""

    def __init__(self, package: Package, *, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any,
                 handle: Any = None) -> None:
        assert intermediate_data_type == compute_data_type == "FLOAT"
        self.package, self.outputs = package, dict[Tensor, Callable[[dict], torch.Tensor]]()

    def tensor(self, *, dim: list[int], stride: list[int], data_type: Any) -> Tensor:
        assert len(dim) == len(stride)
        assert data_type in ("FLOAT", "HALF", "BFLOAT16")
        return Tensor(dim=dim, data_type=data_type)

    def tensor_scalar(self, value: float, scalar_type: Any) -> Tensor:
        return Tensor(lambda given: torch.tensor(value), [1], "FLOAT")

    def _made(self, function: Callable, *inputs: Tensor) -> Tensor:
        return Tensor(lambda given: function(*(x.of(given) for x in inputs)))

    def gen_index(self, input: Tensor, axis: int, compute_data_type: Any = None) -> Tensor:
        def index(x: torch.Tensor) -> torch.Tensor:
            return torch.arange(x.shape[axis]).view([-1 if at == axis else 1 for at in range(4)]).expand(x.shape)

        return self._made(index, input)

    def sub(self, a: Tensor, b: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._made(torch.sub, a, b)

    def add(self, a: Tensor, b: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._made(torch.add, a, b)

    def mul(self, a: Tensor, b: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._made(torch.mul, a, b)

    def abs(self, input: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._made(torch.abs, input)

    def cmp_ge(self, input: Tensor, comparison: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._made(torch.ge, input, comparison)

    def binary_select(self, input0: Tensor, input1: Tensor, mask: Tensor, compute_data_type: Any = None) -> Tensor:
        return self._made(lambda x, y, mask: torch.where(mask, x, y), input0, input1, mask)

    def sdpa(self, q: Tensor, k: Tensor, v: Tensor, attn_scale: float | None = None, *, generate_stats: bool,
             score_mod: Callable | None = None, sink_token: Tensor | None = None, **band: Any) -> list[Tensor | None]:
        compute = _attention(self, attn_scale, score_mod, sink_token, **band)
        out = Tensor(lambda given: compute(given, *(x.of(given) for x in (q, k, v)))[0])
        stats = Tensor(lambda given: compute(given, *(x.of(given) for x in (q, k, v)))[1].unsqueeze(-1))
        self.made = [out, stats] if generate_stats else [out]
        return [out, stats if generate_stats else None]

    def sdpa_backward(self, q: Tensor, k: Tensor, v: Tensor, o: Tensor, dO: Tensor,
                      stats: Tensor, attn_scale: float | None = None, use_deterministic_algorithm: bool = False, *,
                      score_mod: Callable | None = None, sink_token: Tensor | None = None,
                      dSink_token: Tensor | None = None, **band: Any) -> list[Tensor]:
        assert (sink_token is None) == (dSink_token is None)
        self.package.told.append({"deterministic": use_deterministic_algorithm})
        compute = _attention(self, attn_scale, score_mod, sink_token, **band)

        def gradients(given: dict) -> tuple[torch.Tensor, ...]:
            leaves = [x.of(given).detach().requires_grad_() for x in (q, k, v)]
            sinks = None if sink_token is None else given[sink_token].detach().requires_grad_()
            with torch.enable_grad():
                out, lse = compute(given, *leaves, sinks)
                assert torch.allclose(out, given[o], atol=1e-4)
                assert torch.allclose(lse.unsqueeze(-1), given[stats], atol=1e-4)
                return torch.autograd.grad(out, leaves + ([] if sinks is None else [sinks]), given[dO])

        def gradient(at: int) -> Callable[[dict], torch.Tensor]:
            return lambda given: gradients(given)[at]

        made = [Tensor(gradient(at)) for at in range(3)]
        if dSink_token is not None:
            dSink_token.value = gradient(3)
        self.made = [*made, *([] if dSink_token is None else [dSink_token])]
        return made

    def validate(self) -> None:
        assert all(x.output and x.dim for x in self.made)

    def build(self, modes: list[Any]) -> None:
        self.validate()
        if self.package.refuses:
            raise self.package.module.cudnnGraphNotSupportedError("No valid engine configs\nand more")

    def get_workspace_size(self) -> int:
        return 0

    def execute(self, pack: dict[Tensor, torch.Tensor], workspace: torch.Tensor, handle: Any) -> None:
        given = {x: y.view(1, -1, 1, 1) if y.dim() == 1 else y for x, y in pack.items()}
        found = {x: x.of(given) for x in self.made}  # all of them before any is written
        for x, y in found.items():
            assert list(given[x].shape) == x.dim == list(y.shape)
            given[x].copy_(y)


def _attention(graph: Graph, scale: float | None, score_mod: Callable | None, sink_token: Tensor | None, *,
               diagonal_alignment: str = "TOP_LEFT", diagonal_band_left_bound: int | None = None,
               diagonal_band_right_bound: int | None = None) -> Callable:
    bounds = (diagonal_band_left_bound, diagonal_band_right_bound)
    assert score_mod is None or bounds == (None, None), "with a score mod other subgraphs are disabled"
    assert bounds[0] is None or bounds[0] > 0

    def compute(given: dict, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                sinks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        n, m, shared = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(shared, 1) for x in (k, v))
        assert scale is not None
        score = scale * (q @ k.mT)
        if score_mod is not None:
            score = _modified(graph, score_mod, score, given)
        ago = torch.arange(n)[:, None] + (m - n if diagonal_alignment == "BOTTOM_RIGHT" else 0) - torch.arange(m)
        left, right = bounds
        if left is not None:
            score = score.masked_fill(ago >= left, -torch.inf)
        if right is not None:
            score = score.masked_fill(-ago > right, -torch.inf)
        if sink_token is not None:
            sinks = given[sink_token] if sinks is None else sinks
            score = torch.cat([score, sinks.expand(*score.shape[:3], 1)], -1)
        return score.softmax(-1)[..., :m] @ v, score.logsumexp(-1)

    return compute


def _modified(graph: Graph, score_mod: Callable, score: torch.Tensor, given: dict) -> torch.Tensor:
    return score_mod(graph, Tensor(lambda _: score)).of(given)


class Package:
    """The package, and what its backward graphs were told. `refuses`: cuDNN has no plan for anything."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
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
            pygraph=lambda **told: Graph(self, **told))
