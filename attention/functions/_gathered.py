"""Block-sparse attention that gathers the blocks of keys that each block of queries sees and computes nothing else."""
from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad

from attention.backends.product import product, wide


class Plan:
    """A plan holds the indices and masks for queries at positions `start` ... `stop` - 1 on m keys.

    `layout`, bool (blocks, blocks), says which blocks of keys a block of queries sees. `edge`, bool (blocks,), marks
    the blocks of keys that every query sees; they are not gathered. `table_TW` lists the blocks that each block of
    queries gathers. `hidden_TbK` marks, among the keys of the edge and then the gathered keys, those that a query does
    not see.
    """

    def __init__(self, layout: torch.Tensor, edge: torch.Tensor, block: int, causal: bool, m: int, start: int,
                 stop: int, device: torch.device) -> None:
        rows = torch.arange(start // block, -(-stop // block))
        visible = layout[rows.clamp_min(0)] & ~edge
        width = max(1, int(visible.sum(-1).max()))
        table = visible.int().sort(dim=-1, descending=True, stable=True).indices[:, :width]
        valid = visible.gather(1, table)  # a row that sees fewer blocks than `width` fills its table up
        self.block, self.front, self.back = block, start - int(rows[0]) * block, (int(rows[-1]) + 1) * block - stop
        i = rows[:, None] * block + torch.arange(block)
        edge_keys = torch.arange(m)[edge.repeat_interleave(block)[:m]]
        j = (table[..., None] * block + torch.arange(block)).flatten(1)
        hidden = (j >= m) | ~valid.repeat_interleave(block, 1)
        j = torch.cat([edge_keys.expand(len(rows), -1), j], 1)
        hidden = torch.cat([torch.zeros(len(rows), len(edge_keys), dtype=torch.bool), hidden], 1)[:, None]
        if causal:
            hidden = hidden | (j[:, None] > i[..., None])
        self.edge_keys, self.table_TW, self.hidden_TbK, self.key_TK = (
            x.to(device) for x in (edge_keys, table, hidden, j.clamp_max(m - 1)))


class Gather(torch.autograd.Function):
    """Gathers blocks by a table, (B, G, blocks, ...) -> (B, G, T, W, ...).

    The gradients of a block are summed in float32 or wider, always in the same order.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(table)
        ctx.blocks = x.shape[2]
        return x[:, :, table]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (table,) = ctx.saved_tensors
        wide = torch.promote_types(grad.dtype, torch.float32)
        by_block = grad.permute(2, 3, 0, 1, 4, 5).to(wide)
        total = by_block.new_zeros(ctx.blocks, *by_block.shape[2:])
        total.index_put_((table,), by_block, accumulate=True)
        return total.permute(1, 2, 0, 3, 4).to(grad.dtype), None


def attend(plan: Plan, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float,
           key_mask: torch.Tensor | None) -> torch.Tensor:
    """Computes softmax(scale q kᵀ, masked) v -> (B, H, N, D); scores and softmax are in float32 or wider."""
    (B, G, m, _), R, n = k.shape, q.shape[1] // k.shape[1], q.shape[2]
    block = plan.block
    q_blocks = pad(wide(q), (0, 0, plan.front, plan.back)).view(B, G, R, -1, block, q.shape[3])
    q_BGTSD = q_blocks.transpose(2, 3).flatten(3, 4)
    blocks = (pad(x, (0, 0, 0, -m % block)).unflatten(2, (-1, block)) for x in (k, v))
    k_BGTKD, v_BGTKD = (Gather.apply(x, plan.table_TW).flatten(3, 4) for x in blocks)
    k_edge, v_edge = (x[:, :, plan.edge_keys] for x in (k, v))
    rows = q_BGTSD.shape[2:4]
    on_edge = product(q_BGTSD.flatten(2, 3), k_edge.mT, scale).unflatten(2, rows)
    scores = torch.cat([on_edge, product(q_BGTSD, k_BGTKD.mT, scale)], -1).unflatten(3, (R, block))

    hidden = plan.hidden_TbK[:, None]
    if key_mask is not None:
        hidden = hidden | ~key_mask[:, plan.key_TK][:, None, :, None, None]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    if key_mask is not None:
        weights = weights.masked_fill(hidden.all(-1, keepdim=True), 0)
    at_edge, at_blocks = weights.flatten(3, 4).split((k_edge.shape[2], k_BGTKD.shape[3]), -1)
    out = product(at_edge.flatten(2, 3), v_edge).unflatten(2, rows) + product(at_blocks, v_BGTKD)
    out = out.unflatten(3, (R, block)).transpose(2, 3).reshape(B, G * R, -1, v.shape[3])
    return out[:, :, plan.front:plan.front + n].to(q.dtype)
