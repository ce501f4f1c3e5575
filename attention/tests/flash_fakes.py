"""Stand-ins for the flash-attn packages, with their signatures and what they document, in plain PyTorch. What runs in
FlashAttention-4's kernels, blocks and modifiers of scores, is in `fa4_fakes`.

They show on any machine that the backends say the right thing to the right function; that the kernels keep what their
packages document only a GPU shows.
"""
from __future__ import annotations

import types
from typing import Any

import torch

Sides = tuple[int | None, int | None]


class Packages:
    """Stands in for the packages and records the arguments of their functions, call by call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.kernels: Any = None

    def modules(self) -> dict[str, types.ModuleType]:
        """Gives the modules by the names under which they are imported."""
        contents = {
            "flash_attn": (self.flash_attn_func, self.flash_attn_varlen_func, self.flash_attn_with_kvcache),
            "flash_attn.cute": (self.fa4_func, self.fa4_varlen_func),
        }
        public = ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache")
        result = {}
        for name, functions in contents.items():
            result[name] = types.ModuleType(name)
            for public_name, function in zip(public, functions, strict=False):
                setattr(result[name], public_name, function)
        return result

    # FlashAttention-2, flash-attn 2.8.3.
    def flash_attn_func(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout_p: float = 0.0,
                        softmax_scale: float | None = None, causal: bool = False, window_size: Sides = (-1, -1),
                        softcap: float = 0.0, alibi_slopes: torch.Tensor | None = None, deterministic: bool = False,
                        return_attn_probs: bool = False) -> Any:
        self.calls.append(("fa2", {"deterministic": deterministic}))
        assert q.shape[-1] == v.shape[-1], "one head dimension"
        out, lse = _attention(q, k, v, softmax_scale, causal, window_size, softcap, alibi_slopes)
        return (out, lse.detach(), None) if return_attn_probs else out

    def flash_attn_varlen_func(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens_q: torch.Tensor,
                               cu_seqlens_k: torch.Tensor, max_seqlen_q: int, max_seqlen_k: int,
                               dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
                               window_size: Sides = (-1, -1), softcap: float = 0.0,
                               alibi_slopes: torch.Tensor | None = None, deterministic: bool = False,
                               return_attn_probs: bool = False, block_table: None = None) -> torch.Tensor:
        self.calls.append(("fa2 varlen", {"deterministic": deterministic}))
        return _packed(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal)

    def flash_attn_with_kvcache(self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, k: None = None,
                                v: None = None, rotary_cos: None = None, rotary_sin: None = None,
                                cache_seqlens: int | torch.Tensor | None = None, cache_batch_idx: None = None,
                                cache_leftpad: None = None, block_table: torch.Tensor | None = None,
                                softmax_scale: float | None = None, causal: bool = False,
                                window_size: Sides = (-1, -1), softcap: float = 0.0) -> torch.Tensor:
        self.calls.append(("fa2 kvcache", {"page_table": block_table, "k": k_cache}))
        if isinstance(cache_seqlens, int):
            cache_seqlens = torch.full((len(k_cache),), cache_seqlens, dtype=torch.int32)
        if cache_seqlens is not None and len(cache_seqlens) != len(q):
            raise RuntimeError("seqlens_k must have shape (batch_size)")
        if block_table is not None:
            assert block_table.dtype == torch.int32
            assert k_cache.shape[1] % 256 == 0, "pages of a multiple of 256"
            k_cache, v_cache = (x[block_table.long()].flatten(1, 2) for x in (k_cache, v_cache))
        if cache_seqlens is not None:
            assert (cache_seqlens == cache_seqlens[0]).all(), "the stand-in takes sequences of one length"
            k_cache, v_cache = (x[:, :int(cache_seqlens[0])] for x in (k_cache, v_cache))
        k_cache, v_cache = k_cache.detach(), v_cache.detach()
        return _attention(q.detach(), k_cache, v_cache, softmax_scale, causal, window_size, softcap, None)[0]

    # FlashAttention-3, torch.ops.flash_attn_3 as the library of xformers 0.0.34 declares them.
    def fwd(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_new: None = None, v_new: None = None,
            q_v: None = None, out: None = None, cu_seqlens_q: torch.Tensor | None = None,
            cu_seqlens_k: torch.Tensor | None = None, cu_seqlens_k_new: None = None, seqused_q: None = None,
            seqused_k: torch.Tensor | None = None, max_seqlen_q: int | None = None, max_seqlen_k: int | None = None,
            page_table: torch.Tensor | None = None, kv_batch_idx: None = None, leftpad_k: None = None,
            rotary_cos: None = None, rotary_sin: None = None, seqlens_rotary: None = None, q_descale: None = None,
            k_descale: None = None, v_descale: None = None, softmax_scale: float | None = None,
            is_causal: bool = False, window_size_left: int = -1, window_size_right: int = -1, attention_chunk: int = 0,
            softcap: float = 0.0, is_rotary_interleaved: bool = False, scheduler_metadata: None = None,
            num_splits: int = 0, pack_gqa: None = None, sm_margin: int = 0) -> Any:
        self.calls.append(("fa3", {"page_table": page_table, "k": k, "num_splits": num_splits}))
        q, k, v = (x.detach() for x in (q, k, v))
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        if page_table is not None:
            assert page_table.dtype == torch.int32
            assert seqused_k is not None
            k, v = (x[page_table.long()].flatten(1, 2)[:, :int(seqused_k[0])] for x in (k, v))
        window = (window_size_left, window_size_right)
        if cu_seqlens_q is not None:
            assert cu_seqlens_k is not None
            return (_packed(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, is_causal),
                    torch.zeros(q.shape[1], len(q)), None, None)
        return *_attention(q, k, v, softmax_scale, is_causal, window, softcap, None), None, None

    def bwd(self, dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor,
            softmax_lse: torch.Tensor, dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor,
            cu_seqlens_q: torch.Tensor | None = None, cu_seqlens_k: torch.Tensor | None = None, seqused_q: None = None,
            seqused_k: None = None, max_seqlen_q: int | None = None, max_seqlen_k: int | None = None,
            softmax_scale: float | None = None, is_causal: bool = False, window_size_left: int = -1,
            window_size_right: int = -1, softcap: float = 0.0, deterministic: bool = False, sm_margin: int = 0) -> None:
        self.calls.append(("fa3 bwd", {"deterministic": deterministic}))
        assert dout.stride(-1) == 1
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        with torch.enable_grad():
            if cu_seqlens_q is not None:
                assert cu_seqlens_k is not None
                again = _packed(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale,
                                is_causal)
            else:
                window = (window_size_left, window_size_right)
                again, _ = _attention(q, k, v, softmax_scale, is_causal, window, softcap, None)
            gradients = torch.autograd.grad(again, (q, k, v), dout)
        for into, x in zip((dq, dk, dv), gradients, strict=True):
            into.copy_(x)

    # FlashAttention-4, flash_attn/cute/interface.py; it always gives the log-sum-exp as well, or None.
    def fa4_func(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, qv: None = None,
                 gather_kv_indices: None = None, softmax_scale: float | None = None, causal: bool = False,
                 window_size: Sides = (None, None), learnable_sink: torch.Tensor | None = None, softcap: float = 0.0,
                 num_splits: int = 1, pack_gqa: None = None, deterministic: bool = False) -> Any:
        self.calls.append(("fa4", {"deterministic": deterministic}))
        assert -1 not in window_size, "no bound is None here"
        out, lse = _attention(q, k, v, softmax_scale, causal, window_size, softcap, None)
        if learnable_sink is not None:
            out = out * torch.sigmoid(lse - learnable_sink[:, None]).transpose(1, 2).unsqueeze(-1)
        return out, None

    def fa4_varlen_func(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, qv: None = None,
                        cu_seqlens_q: torch.Tensor | None = None, cu_seqlens_k: torch.Tensor | None = None,
                        max_seqlen_q: int | None = None, max_seqlen_k: int | None = None,
                        softmax_scale: float | None = None, causal: bool = False, window_size: Sides = (None, None),
                        softcap: float = 0.0, deterministic: bool = False) -> Any:
        self.calls.append(("fa4 varlen", {"deterministic": deterministic}))
        assert cu_seqlens_q is not None
        assert cu_seqlens_k is not None
        return _packed(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal), None


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None, causal: bool, window: Sides,
               softcap: float, slopes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes (B, N, H, D) and the log-sum-exp (B, H, N), which is +inf in rows that see no key, as in flash-attn."""
    n, m, shared = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(shared, 2) for x in (k, v))
    assert scale is not None
    s = scale * torch.einsum("bnhd,bmhd->bhnm", q, k)
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    ago = (torch.arange(n) + m - n)[:, None] - torch.arange(m)
    if slopes is not None:
        s = s - slopes[:, None, None] * ago.abs()
    left, right = (None if side == -1 else side for side in window)
    if causal:
        right = 0
    visible = torch.ones(n, m, dtype=torch.bool)
    if left is not None:
        visible &= ago <= left
    if right is not None:
        visible &= -ago <= right
    blind = ~visible.any(-1, keepdim=True)
    s = s.masked_fill(~(visible | blind), -torch.inf)
    weights = s.softmax(-1).masked_fill(blind, 0)
    return (torch.einsum("bhnm,bmhd->bnhd", weights, v), s.logsumexp(-1).masked_fill(blind.squeeze(-1), torch.inf))


def _packed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts_q: torch.Tensor, starts_k: torch.Tensor,
            longest_q: int | None, longest_k: int | None, scale: float | None, causal: bool) -> torch.Tensor:
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert starts_q[-1] == len(q)
    assert starts_k[-1] == len(k)
    assert longest_q == starts_q.diff().max()
    assert longest_k == starts_k.diff().max()
    parts = [x.split(starts.diff().tolist()) for x, starts in ((q, starts_q), (k, starts_k), (v, starts_k))]
    outs = [_attention(q[None], k[None], v[None], scale, causal, (-1, -1), 0.0, None)[0][0]
            for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outs)
