"""Lists the rows of study 003: softmax attention, what the study puts in its place, and how to look at their
weights."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

import attention
from attention.registry import variant

BLOCK = 16  # of the text's 160 tokens; of 64, all would be seen
INITS = ("as registered", "orthogonal", "xavier", "normal")


@dataclass(frozen=True)
class Size:
    """Says how much is measured: `ranks` at most head_dim, `own` of them for the study's table; `projected` for
    Linformer and Performer; `texts` that are read, all if None."""

    lengths: tuple[int, ...]
    ranks: tuple[int, ...] = (16, 32, 64)
    own: int = 32
    projected: tuple[int, ...] = (64, 256)
    heads: int = 8
    head_dim: int = 64
    preset: str = "gpt2-docstrings"
    steps: int = 400
    texts: int | None = None
    dtypes: tuple[str, ...] = ("fp32", "bf16")


CPU = Size((512, 1024, 2048), steps=150)
GPU = Size((512, 1024, 2048, 4096, 8192, 16384), dtypes=("fp32", "fp16"))
TINY = Size((128,), (8, 16), 8, (16,), 2, 16, steps=2, texts=8)


@dataclass(frozen=True)
class Candidate:
    """Is a variant with its options, `k` in its name being the study's knob: a rank, or a number of features. `scale`
    of the scores is 1/sqrt(head_dim) if None; `trains` says whether a language model is trained with it."""

    name: str
    variant: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    scale: float | None = None
    trains: bool = True

    def create(self, heads: int, head_dim: int, n: int, dtype: torch.dtype = torch.float32,
               device: torch.device | str = "cpu", causal: bool = False) -> attention.Attention:
        return attention.create(self.variant, heads=heads, head_dim=head_dim, seq_len=n, causal=causal, dtype=dtype,
                                device=device, scale=self.scale, **self.options)

    def why_not(self, heads: int, head_dim: int, n: int, **case: Any) -> str | None:
        return attention.why_not(self.variant, heads=heads, head_dim=head_dim, n=n, **case, **self.options)

    def flops(self, heads: int, head_dim: int, n: int, causal: bool = False) -> int:
        """Counts the FLOPs of one forward pass, by the registry's formulas: products alone."""
        function = variant(self.variant).function
        return heads * function.forward_flops(n, n, head_dim, causal, **function.complete(self.options))


BASELINE = Candidate("softmax", "softmax:eager")
EXACT = Candidate("softmax, fused", "softmax:sdpa")
TILED = Candidate("softmax, tiled", "softmax:tiled", trains=False)  # the same function: trained, it is the baseline
# The control, for what attention is worth; PyTorch's CPU kernel gives NaN under a scale of 0.
UNIFORM = Candidate("uniform weights", "softmax:sdpa", scale=1e-6, trains=False)
BLOCKS = Candidate("block-sparse", "block-sparse:chunked")


def low_rank(k: int) -> Candidate:
    """Gives the study's own row: softmax over n x n scores of rank k, on the backend of the baseline."""
    return Candidate(f"low-rank k={k}", "low-rank:eager", {"rank": k})


def rows(size: Size) -> list[Candidate]:
    """Lists all that is timed: the study's ranks, its version without n x n scores, and what else it names."""
    return [BASELINE, EXACT, *(low_rank(k) for k in size.ranks),
            Candidate(f"low-rank, linear k={size.own}", "low-rank-linear:chunked", {"rank": size.own}),
            *(_linformer(k) for k in size.projected), *(_performer(k) for k in size.projected), TILED, BLOCKS]


def in_text(size: Size) -> list[Candidate]:
    """Chooses the rows that a language model is asked to read with, softmax first; block-sparse leaves something out
    there."""
    return [replace(BASELINE, variant=EXACT.variant), *(low_rank(k) for k in size.ranks if k < size.head_dim),
            _linformer(size.projected[0]), _performer(size.projected[0]), TILED,
            replace(BLOCKS, options={"block": BLOCK}), UNIFORM]


def _linformer(k: int) -> Candidate:
    return Candidate(f"Linformer k={k}", "linformer:eager", {"rank": k})


def _performer(k: int) -> Candidate:
    return Candidate(f"Performer k={k}", "performer:chunked", {"features": k})


def initialise(attend: attention.Attention, how: str) -> attention.Attention:
    """Starts the learned parameters, each head's matrix by itself, in another of the study's ways."""
    ways = {"orthogonal": nn.init.orthogonal_, "xavier": nn.init.xavier_uniform_,
            "normal": lambda matrix: nn.init.normal_(matrix, std=matrix.shape[-1] ** -0.5)}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in attend.parameters() if how in ways else ():
            for matrix in parameter:
                started = torch.empty(matrix.shape)
                ways[how](started)
                matrix.copy_(started)
    return attend


def weights(attend: attention.Attention, q_BHND: torch.Tensor, k_BHMD: torch.Tensor) -> torch.Tensor:
    """Computes what each query takes of each value (B, H, N, M): the variant on the identity's columns as values,
    head_dim at a time. Every row here is linear in its values; Linformer's are no probabilities."""
    m, width = k_BHMD.shape[2], k_BHMD.shape[3]
    identity = torch.eye(m, dtype=q_BHND.dtype, device=q_BHND.device)
    parts = []
    for first in range(0, m, width):
        columns = nn.functional.pad(identity[:, first:first + width], (0, max(0, first + width - m)))
        parts.append(attend(q_BHND, k_BHMD, columns.expand(*k_BHMD.shape[:2], m, width)))
    return torch.cat(parts, -1)[..., :m]
