"""`tiled` computes attention in tiles with an online softmax, in pure PyTorch: O(n) memory, forward and backward.

It is the algorithm of FlashAttention (Dao et al., arXiv 2205.14135) with the loop order and the backward pass of
FlashAttention-2 (arXiv 2307.08691), on any device and in any dtype. Sums are in float32 or wider. A tile in which no
query sees a key is skipped.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from attention import masks
from attention.backends.base import FUSED, PRODUCT, SOFTMAX, Backend, Case, Kernels

QUERIES, KEYS = 512, 512  # the size of a tile
KERNELS = {device: Kernels((PRODUCT[device],), (PRODUCT[device],), never=(SOFTMAX[device], FUSED[device]))
           for device in PRODUCT}


class Tiled(Backend):
    """This backend loops over tiles in Python and shows what a fused kernel saves."""

    name = "tiled"
    kernels = KERNELS

    def attend(self) -> Callable[..., torch.Tensor]:
        return attend

    def peak_bytes(self, case: Case) -> int:
        tile = 4 * case.heads * min(case.n, QUERIES) * min(case.m, KEYS) * 4
        sums = 2 * max(case.dtype.itemsize, 4) * case.head_dim * (case.heads * case.n + case.kv_heads * case.m)
        return super().peak_bytes(case) + tile + sums


def attend(q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
           band: masks.Band = masks.FULL, bias: Callable | None = None,
           key_mask: torch.Tensor | None = None, softcap: float | None = None) -> torch.Tensor:
    """Computes softmax(scale q kᵀ + bias, masked) v -> (B, H, N, D). No gradient flows into `bias`."""
    return _Tiled.apply(q_BHND, k_BGMD, v_BGMD, _Tiles(q_BHND, k_BGMD, scale, band, bias, key_mask, softcap))


class _Tiles:
    """An instance computes the tiles of one call.

    Query heads that share keys are rows of one product in a batch of B G: q is viewed as (B G, R, N, D), and the scores
    of a tile are (B G, R, rows, columns).
    """

    def __init__(self, q: torch.Tensor, k: torch.Tensor, scale: float, band: masks.Band,
                 bias: Callable | None, key_mask: torch.Tensor | None, softcap: float | None = None) -> None:
        B, H, self.N, _ = q.shape
        G, self.M = k.shape[1:3]
        self.groups, self.R = B * G, H // G
        self.scale, self.band, self.bias, self.softcap = scale, band, bias, softcap
        self.wide = torch.promote_types(q.dtype, torch.float32)
        self.i, self.j = masks.positions(self.N, self.M, q.device)
        self.head = torch.arange(H, device=q.device).view(G, self.R, 1, 1).repeat(B, 1, 1, 1)
        self.keep = None if key_mask is None else key_mask.repeat_interleave(G, 0)[:, None, None]

    def rows(self) -> Iterator[slice]:
        """Yields the query tiles."""
        return (slice(r, min(r + QUERIES, self.N)) for r in range(0, self.N, QUERIES))

    def columns(self, rows: slice) -> Iterator[slice]:
        """Yields the key tiles that some query of `rows` sees."""
        shift = self.M - self.N
        keys = self.band.keys(rows.start + shift, rows.stop - 1 + shift, self.M)
        return (slice(c, min(c + KEYS, keys.stop)) for c in range(keys.start, keys.stop, KEYS))

    def raw(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Computes the scores of a tile before cap, bias and mask."""
        return self.product(q, k.transpose(1, 2)).view(self.groups, self.R, -1, k.shape[1]).mul_(self.scale)

    def scores(self, q: torch.Tensor, k: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        """Computes the scores of a tile; a hidden key has -inf."""
        s = self.raw(q, k)
        if self.softcap is not None:
            s.div_(self.softcap).tanh_().mul_(self.softcap)
        i, j = self.i[rows], self.j[:, columns]
        if self.bias is not None:
            s += self.bias(self.head, i, j)
        if self.band != masks.FULL:
            s.masked_fill_(~self.band(i, j), -torch.inf)
        if self.keep is not None:
            s.masked_fill_(~self.keep[..., columns], -torch.inf)
        return s

    def product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Multiplies two batches of matrices of the inputs' dtype; sums and result are in `wide`."""
        if a.dtype == self.wide:
            return torch.bmm(a, b)
        if a.is_cuda:
            return torch.bmm(a, b, out_dtype=self.wide)
        return torch.bmm(a.to(self.wide), b.to(self.wide))

    def by_group(self, x_BHND: torch.Tensor) -> torch.Tensor:
        """Views heads as (B G, R, N, D)."""
        return x_BHND.reshape(self.groups, -1, *x_BHND.shape[2:])


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor,
                tiles: _Tiles) -> torch.Tensor:
        q, k, v = tiles.by_group(q_BHND), tiles.by_group(k_BGMD)[:, 0], tiles.by_group(v_BGMD)[:, 0]
        out = q.new_empty(*q.shape[:3], v.shape[-1])
        lse = q.new_empty(q.shape[:3], dtype=tiles.wide)
        for rows in tiles.rows():
            q_tile = q[:, :, rows].flatten(1, 2)
            top = lse.new_full((*lse[:, :, rows].shape, 1), -torch.inf)
            total = torch.zeros_like(top)
            acc = lse.new_zeros(*top.shape[:3], v.shape[-1])
            for columns in tiles.columns(rows):
                s = tiles.scores(q_tile, k[:, columns], rows, columns)
                new = torch.maximum(top, s.amax(-1, keepdim=True))
                base = new.masked_fill(new == -torch.inf, 0)  # this row has seen no key so far
                p = s.sub_(base).exp_()
                shrink = (top - base).exp_()
                total = total * shrink + p.sum(-1, keepdim=True)
                part = tiles.product(p.to(q.dtype).flatten(1, 2), v[:, columns])
                acc = acc * shrink + part.view_as(acc)
                top = new
            blind = total == 0
            out[:, :, rows] = (acc / total.masked_fill(blind, 1)).to(q.dtype)
            lse[:, :, rows] = torch.where(blind, torch.inf, top + total.log()).squeeze(-1)
        ctx.tiles = tiles
        ctx.save_for_backward(q_BHND, k_BGMD, v_BGMD, out, lse)
        return out.view(*q_BHND.shape[:3], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BHND: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tiles: _Tiles = ctx.tiles
        q_BHND, k_BGMD, v_BGMD, out, lse = ctx.saved_tensors
        q, k, v = tiles.by_group(q_BHND), tiles.by_group(k_BGMD)[:, 0], tiles.by_group(v_BGMD)[:, 0]
        grad = tiles.by_group(grad_BHND)
        delta = (grad.to(tiles.wide) * out.to(tiles.wide)).sum(-1, keepdim=True)
        dq, dk, dv = (torch.zeros_like(x, dtype=tiles.wide, memory_format=torch.contiguous_format)
                      for x in (q, k, v))
        for rows in tiles.rows():
            q_tile, grad_tile = (x[:, :, rows].flatten(1, 2) for x in (q, grad))
            for columns in tiles.columns(rows):
                s = tiles.scores(q_tile, k[:, columns], rows, columns)
                p = s.sub_(lse[:, :, rows, None]).exp_()
                dp = tiles.product(grad_tile, v[:, columns].transpose(1, 2)).view_as(p)
                ds = dp.sub_(delta[:, :, rows]).mul_(p).mul_(tiles.scale)
                if tiles.softcap is not None:  # d (c tanh(s/c)) / ds
                    ds.mul_(1 - tiles.raw(q_tile, k[:, columns]).div_(tiles.softcap).tanh_().square_())
                ds = ds.to(q.dtype).flatten(1, 2)
                p = p.to(q.dtype).flatten(1, 2)
                dv[:, columns] += tiles.product(p.transpose(1, 2), grad_tile)
                dk[:, columns] += tiles.product(ds.transpose(1, 2), q_tile)
                dq[:, :, rows] += tiles.product(ds, k[:, columns]).view_as(dq[:, :, rows])
        return (dq.view_as(q_BHND).to(q.dtype), dk.view_as(k_BGMD).to(q.dtype), dv.view_as(v_BGMD).to(q.dtype),
                None)


tiled = Tiled()
