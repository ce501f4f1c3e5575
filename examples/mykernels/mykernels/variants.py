"""softmax:einsum, softmax attention as two einsums."""
from __future__ import annotations

import torch

import attention
from attention import masks
from attention.backends.base import Backend, Case, score_bytes


class Einsum(Backend):
    name = "einsum"

    def attend(self):
        return attend

    def refuses(self, case: Case) -> str | None:
        return "knows neither grouped heads nor padding" if case.kv_heads != case.heads or case.key_mask else None

    def peak_bytes(self, case: Case) -> int:
        return super().peak_bytes(case) + score_bytes(case, forward=2, backward=4)


def attend(q_BHND: torch.Tensor, k_BHMD: torch.Tensor, v_BHMD: torch.Tensor, *, scale: float,
           band: masks.Band) -> torch.Tensor:
    """softmax(scale q kᵀ, masked) v -> (B, H, N, D)."""
    scores = torch.einsum("bhnd,bhmd->bhnm", scale * q_BHND, k_BHMD)
    mask = masks.dense(band, q_BHND.shape[2], k_BHMD.shape[2], q_BHND.device, None)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), v_BHMD)


@attention.register("softmax", backends=[Einsum()])
def softmax(attend, q, k, v, *, causal: bool, scale: float, key_mask: torch.Tensor | None) -> torch.Tensor:
    return attend(q, k, v, scale=scale, band=masks.band(causal))
