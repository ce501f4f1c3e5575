"""Stand-ins for what FlashAttention-4 runs in its kernels: modified scores over listed blocks, forward and backward,
with the signatures of 4.0.0b36, and the modifiers of `_fa4_scores` in plain PyTorch."""
from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class BlockSparseTensorsTorch(NamedTuple):
    mask_block_cnt: torch.Tensor
    mask_block_idx: torch.Tensor
    full_block_cnt: torch.Tensor | None = None
    full_block_idx: torch.Tensor | None = None
    cu_total_m_blocks: torch.Tensor | None = None
    cu_block_idx_offsets: torch.Tensor | None = None
    block_size: tuple[int, int] | None = None

    def listed(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tells which pairs of `rows` x `columns` tokens lie in blocks listed as partial, and which in whole ones."""
        result = []
        for count, index in ((self.mask_block_cnt, self.mask_block_idx), (self.full_block_cnt, self.full_block_idx)):
            assert count is not None
            assert index is not None
            assert count.dtype == index.dtype == torch.int32
            valid = torch.arange(index.shape[-1]) < count.unsqueeze(-1)
            blocks = torch.zeros(index.shape, dtype=torch.int32).scatter_add_(-1, index.long(), valid.int())
            assert blocks.max() <= 1, "a block is listed twice"
            assert self.block_size is not None
            for axis, size in zip((-2, -1), self.block_size, strict=True):
                blocks = blocks.repeat_interleave(size, axis)
            result.append(blocks[..., :rows, :columns].bool())
        return result[0], result[1]


class Kernels:
    """Stands in for `_flash_attn_fwd` and `_flash_attn_bwd` and records the pairs in each call's blocks."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def modules(self) -> dict[str, types.ModuleType]:
        names = ("flash_attn.cute.interface", "flash_attn.cute.block_sparsity", "attention.backends._fa4_scores")
        result = {name: types.ModuleType(name) for name in names}
        interface, sparsity, scores = result.values()
        interface._flash_attn_fwd, interface._flash_attn_bwd = self.fwd, self.bwd  # type: ignore[attr-defined]
        sparsity.BlockSparseTensorsTorch = BlockSparseTensorsTorch  # type: ignore[attr-defined]
        scores.alibi, scores.softcap = alibi, softcap  # type: ignore[attr-defined]
        return result

    def _scores(self, q: torch.Tensor, k: torch.Tensor, scale: float, causal: bool, score_mod: Callable,
                mask_mod: Callable | None, blocks: BlockSparseTensorsTorch | None, by_keys: bool) -> tuple:
        b, h, i, j = (torch.arange(x).view([-1 if at == axis else 1 for at in range(4)])
                      for axis, x in enumerate((q.shape[0], q.shape[2], q.shape[1], k.shape[1])))
        plain = scale * torch.einsum("bnhd,bmhd->bhnm", q, k)
        arguments: dict[str, Any] = {"q_idx": i, "kv_idx": j, "seqlen_info": None, "aux_tensors": ()}
        score = score_mod(plain, b, h, **arguments)
        if blocks is None:
            visible = j <= i + k.shape[1] - q.shape[1] if causal else torch.ones(1, 1, 1, 1, dtype=torch.bool)
        else:
            assert not causal, "a mask_mod takes the place of causal"
            assert mask_mod is not None
            partly, wholly = blocks.listed(*((len(j.flatten()), len(i.flatten())) if by_keys
                                             else (len(i.flatten()), len(j.flatten()))))
            partly, wholly = (x.mT if by_keys else x for x in (partly, wholly))
            visible = wholly | (partly & mask_mod(b, h, i, j, None, None))
            self.calls.append({"pairs": (partly | wholly).sum().item()})
        return plain, score.masked_fill(~visible, -torch.inf), (b, h), arguments

    def fwd(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, softmax_scale: float, causal: bool = False,
            score_mod: Callable, mask_mod: Callable | None = None, return_lse: bool,
            block_sparse_tensors: BlockSparseTensorsTorch | None = None) -> tuple:
        q, k, v = (x.detach() for x in _expanded(q, k, v))
        _, score, _, _ = self._scores(q, k, softmax_scale, causal, score_mod, mask_mod, block_sparse_tensors, False)
        return torch.einsum("bhnm,bmhd->bnhd", score.softmax(-1), v), score.logsumexp(-1), None, None, None

    def bwd(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, dout: torch.Tensor,
            lse: torch.Tensor, softmax_scale: float, causal: bool = False, softcap: float = 0.0, *, score_mod: Callable,
            score_mod_bwd: Callable, mask_mod: Callable | None = None, deterministic: bool = False,
            block_sparse_tensors: BlockSparseTensorsTorch | None = None) -> tuple:
        assert block_sparse_tensors is None or q.shape[2] == k.shape[2], "on Hopper, wrong positions for grouped heads"
        self.calls.append({"deterministic": deterministic})
        groups = k.shape[2]
        q, k, v = _expanded(q, k, v)
        plain, score, at, arguments = self._scores(q, k, softmax_scale, causal, score_mod, mask_mod,
                                                   block_sparse_tensors, True)
        p = (score - lse.unsqueeze(-1)).exp()
        delta = (dout * out).sum(-1).transpose(1, 2).unsqueeze(-1)
        ds = score_mod_bwd(p * (torch.einsum("bnhd,bmhd->bhnm", dout, v) - delta), plain, *at, **arguments)
        dk, dv = (torch.einsum("bhnm,bnhd->bmhd", x, y).unflatten(2, (groups, -1)).sum(3)
                  for x, y in ((softmax_scale * ds, q), (p, dout)))
        return torch.einsum("bhnm,bmhd->bnhd", softmax_scale * ds, k), dk, dv


def _expanded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], 2) for x in (k, v))
    return q, k, v


class Scores(NamedTuple):
    forward: Callable
    again: Callable
    backward: Callable
    mask: Callable | None = None


def alibi(slopes: tuple[float, ...], offset: int, causal: bool) -> Scores:
    def score(score: torch.Tensor, b: Any, h: torch.Tensor, *, q_idx: torch.Tensor, kv_idx: torch.Tensor,
              seqlen_info: Any, aux_tensors: Any) -> torch.Tensor:
        return score - torch.tensor(slopes)[h] * (kv_idx - q_idx - offset).abs()

    def same(grad: torch.Tensor, *rest: Any, **arguments: Any) -> torch.Tensor:
        return grad

    def mask(b: Any, h: Any, i: torch.Tensor, j: torch.Tensor, lengths: Any, aux: Any) -> torch.Tensor:
        return j <= i + offset if causal else j >= 0

    return Scores(score, score, same, mask)


def softcap(cap: float) -> Scores:
    def score(score: torch.Tensor, *at: Any, **arguments: Any) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    def derivative(grad: torch.Tensor, score: torch.Tensor, *at: Any, **arguments: Any) -> torch.Tensor:
        return grad * (1 - torch.tanh(score / cap) ** 2)

    return Scores(score, score, derivative)
