"""A variant, built: the module that `attention.create` returns."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from attention import registry


def create(name: str, *, heads: int, kv_heads: int | None = None, head_dim: int, seq_len: int | None = None,
           causal: bool = False, scale: float | None = None, **options: Any) -> Attention:
    """Builds the variant `name`.

    `heads` query heads share `kv_heads` key/value heads (as many unless given). `seq_len` is for
    functions whose parameters depend on a length. `scale` is 1/sqrt(head_dim) unless given.
    Raises ValueError for an unknown name or option and for numbers that can't be.
    """
    variant = registry.variant(name)
    kv_heads = heads if kv_heads is None else kv_heads
    for what, value in (("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {what}={value!r} must be a whole number >= 1")
    if heads % kv_heads:
        raise ValueError(f"{name}: heads={heads} must be a multiple of kv_heads={kv_heads}")
    if seq_len is not None and seq_len < 1:
        raise ValueError(f"{name}: seq_len={seq_len} must be at least 1")
    return Attention(variant, heads, kv_heads, head_dim, seq_len, causal, scale, variant.function.complete(options))


class Attention(nn.Module):
    """One variant. forward(q_BHND, k_BGMD, v_BGMD, key_mask_BM=None) -> (B, H, N, D).

    Queries are aligned to the end of the keys; a row that sees no key gives zeros.
    """

    def __init__(self, variant: registry.Variant, heads: int, kv_heads: int, head_dim: int,
                 seq_len: int | None, causal: bool, scale: float | None, options: dict[str, Any]) -> None:
        super().__init__()
        self.variant, self.name = variant, variant.name
        self.heads, self.kv_heads, self.head_dim, self.seq_len = heads, kv_heads, head_dim, seq_len
        self.causal, self.options = causal, options
        self.scale = head_dim ** -0.5 if scale is None else float(scale)
        self._attend = variant.backend.attend()
        self._served: set[registry.Case] = set()

    def forward(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor,
                key_mask_BM: torch.Tensor | None = None) -> torch.Tensor:
        """Raises ValueError for shapes, dtypes or devices that don't fit, and for what the backend
        can't serve, before any kernel starts."""
        self._check(q_BHND, k_BGMD, v_BGMD, key_mask_BM)
        n, m = q_BHND.shape[2], k_BGMD.shape[2]
        # Causal queries that stand before the first key see nothing.
        blind = n - m if self.causal and n > m else 0
        out = self.variant.compute(self._attend, q_BHND[:, :, blind:], k_BGMD, v_BGMD, causal=self.causal,
                                   scale=self.scale, key_mask=key_mask_BM, **self.options)
        return nn.functional.pad(out, (0, 0, blind, 0)) if blind else out

    def _check(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_mask: torch.Tensor | None) -> None:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        if q.dim() != 4 or k.dim() != 4 or v.shape != k.shape or q.shape[0] != k.shape[0]:
            raise ValueError(f"{self.name}: {shapes}: expected (B, H, N, D), (B, G, M, D), (B, G, M, D)")
        if (q.shape[1], k.shape[1], q.shape[3], k.shape[3]) != (
                self.heads, self.kv_heads, self.head_dim, self.head_dim):
            raise ValueError(f"{self.name}: {shapes}: built for {self.heads} query heads, {self.kv_heads} "
                             f"key/value heads and head_dim {self.head_dim}")
        if q.shape[2] == 0 or k.shape[2] == 0:
            raise ValueError(f"{self.name}: {shapes}: at least one query and one key are needed")
        if not q.dtype == k.dtype == v.dtype or not q.device == k.device == v.device:
            raise ValueError(f"{self.name}: q, k, v differ: {q.dtype} {k.dtype} {v.dtype} on "
                             f"{q.device} {k.device} {v.device}; give them one dtype and one device")
        if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape != (k.shape[0], k.shape[2])):
            raise ValueError(f"{self.name}: key_mask {key_mask.dtype} {tuple(key_mask.shape)}: expected bool "
                             f"({k.shape[0]}, {k.shape[2]}), True = keep")
        if torch.compiler.is_compiling():
            return  # the kernel itself refuses; asking it would break the graph
        case = registry.case_of(self.variant, q, k, causal=self.causal, key_mask=key_mask is not None,
                                options=tuple(sorted(self.options.items())))
        if case not in self._served:
            if reason := registry.why_not_case(self.variant, case):
                raise ValueError(reason)
            self._served.add(case)

    def kept_bytes(self) -> int:
        """Bytes kept between calls: parameters, buffers, and a mask that the backend holds on to."""
        held = vars(self._attend).values() if hasattr(self._attend, "__dict__") else ()
        tensors = [*self.parameters(), *self.buffers(), *(x for x in held if isinstance(x, torch.Tensor))]
        return sum(x.numel() * x.element_size() for x in tensors)

    def extra_repr(self) -> str:
        return f"{self.name}, heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}"


def oracle(name: str, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, causal: bool = False,
           scale: float | None = None, key_mask: torch.Tensor | None = None,
           dtype: torch.dtype = torch.float64, **options: Any) -> torch.Tensor:
    """The formula of a function (or of a variant's function), evaluated in `dtype` -> (B, H, N, D).

    Differentiable, in blocks, so its memory stays bounded. ValueError for an unknown name or option.
    """
    function = registry.function(name.partition(":")[0])
    return function.oracle(q_BHND, k_BGMD, v_BGMD, causal=causal, scale=scale, key_mask=key_mask, dtype=dtype,
                           **function.complete(options))
