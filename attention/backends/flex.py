"""FlexAttention, always compiled (Dong et al., arXiv 2412.05496). With ALiBi each call skips the blocks of keys that
are too far away to matter (`near`).

Past its recompile limit torch.compile runs the dense fallback and says nothing; `compiling` prevents that.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from attention import masks
from attention.backends import near
from attention.backends.base import PRODUCT, SOFTMAX, Backend, Case, Kernels, wants_gradients
from attention.backends.compiling import compiled, no_compiler, refusals
from attention.backends.sinks import SinksGradient

# On the CPU there is no backward pass, and the profiler names the compiled graph, not the C++ kernel in it.
KERNELS = {"cpu": Kernels(("^CompiledFxGraph$",), (), never=(PRODUCT["cpu"], SOFTMAX["cpu"])),
           "cuda": Kernels((r"triton_tem\w*flex_attention(?!_backward)",), (r"triton_tem\w*flex_attention_backward",),
                           never=(PRODUCT["cuda"], SOFTMAX["cuda"]))}


class Flex(Backend):
    """This backend compiles PyTorch's flex_attention."""

    name = "flex"
    compiled = True
    kernels = KERNELS

    def missing(self, device: torch.device) -> str | None:
        return no_compiler(device) or super().missing(device)

    def refuses(self, case: Case) -> str | None:
        if case.dtype == torch.float64:
            return "compiled FlexAttention has no float64"
        if case.device == "cpu" and case.grad:
            return "FlexAttention has no backward on the CPU"
        return None

    def attend(self) -> Callable[..., torch.Tensor]:
        return Attend()


class Attend:
    """An instance holds the compiled kernel of one caller and its last masks.

    With `static`, each shape and number is compiled into a kernel of its own.
    """

    kernel_options: ClassVar[dict[str, Any]] = {}
    static = False

    def __init__(self) -> None:
        self.kernel: Callable[..., torch.Tensor] | None = None
        self.near: Callable[..., Any] | None = None
        self.key: tuple | None = None
        self.mask_mod: Callable | None = None
        self.sink: torch.Tensor | None = None  # the number of the key that is the sink
        self.options: dict[str, Any] = {}

    def __call__(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, scale: float,
                 band: masks.Band = masks.FULL, visible: masks.Visible | None = None,
                 bias: Any = None, key_mask: torch.Tensor | None = None,
                 softcap: float | None = None, sinks_H: torch.Tensor | None = None) -> torch.Tensor:
        n, m, device = q_BHND.shape[2], k_BGMD.shape[2], q_BHND.device
        skips = hasattr(bias, "slopes_H") and visible is None and n <= m
        if self.kernel is None:
            from torch.nn.attention.flex_attention import flex_attention  # imports torch._dynamo, two seconds

            # With dynamic shapes the C++ that inductor writes for the CPU does not compile (torch 2.11, 2.13).
            dynamic = False if self.static or device.type == "cpu" else None
            self.kernel = compiled(flex_attention, dynamic=dynamic)
            self.near = near.select if device.type == "cpu" else compiled(near.select, dynamic=dynamic)
        if sinks_H is not None:  # a sink is one more key without a value
            k_BGMD, v_BGMD = (_filled(x) for x in (k_BGMD, v_BGMD))
        size = self._block(q_BHND, visible, wants_gradients(q_BHND, k_BGMD, v_BGMD))
        key = (n, m, band, visible, bias, softcap, sinks_H is None, device, q_BHND.dtype, size)
        if key_mask is not None or key != self.key:
            self._express(q_BHND, m, band, visible, bias, key_mask, softcap, skips, sinks_H is not None, size)
            self.key = None if key_mask is not None else key
        arguments: dict[str, Any] = {**self.options, "scale": scale, "enable_gqa": q_BHND.shape[1] != k_BGMD.shape[1]}
        with refusals("flex", q_BHND, k_BGMD):
            if skips:
                assert self.near is not None
                blocks = self.near(q_BHND.detach(), k_BGMD.detach(), bias.slopes_H, scale, band.causal, key_mask)
                arguments["block_mask"] = _block_mask(n, m, blocks, self.mask_mod)
            if sinks_H is None:
                return self.kernel(q_BHND, k_BGMD, v_BGMD, **arguments)
            assert self.sink is not None
            arguments["score_mod"] = _sink_mod(self.sink, sinks_H.detach())
            if not wants_gradients(sinks_H):
                return self.kernel(q_BHND, k_BGMD, v_BGMD, **arguments)
            out, aux = self.kernel(q_BHND, k_BGMD, v_BGMD, return_aux=_sums(), **arguments)
            return SinksGradient.apply(out, aux.lse.detach(), sinks_H)

    def _block(self, q: torch.Tensor, visible: masks.Visible | None, learns: bool) -> int:
        """Gives the tokens of a block of the block_mask: 64 where the mask is one of blocks of 64, so that queries see
        them whole or not at all and no mask is computed for each score.

        Backward passes, other dtypes on a GPU, FlashAttention-4 and the kernel for fewer than 128 queries have tiles of
        `near.SIZE`.
        """
        able = not (learns or self.static) and q.shape[2] >= near.SIZE and (not q.is_cuda or q.itemsize == 2)
        return 64 if able and getattr(visible, "block", None) == 64 else near.SIZE

    def _express(self, q: torch.Tensor, m: int, band: masks.Band, visible: masks.Visible | None, bias: Any,
                 key_mask: torch.Tensor | None, softcap: float | None, skips: bool, sink: bool,
                 size: int = near.SIZE) -> None:
        """Writes masks, bias and soft cap as FlexAttention's mask_mod, block_mask and score_mod.

        With `skips` the block_mask is made at each call instead. With `sink` every query sees key m as well, and no
        key behind it.
        """
        from torch.nn.attention.flex_attention import create_block_mask

        heads, n = q.shape[1:3]
        position = _positions(n, m, None if self.static else q.device)
        self.mask_mod = _mask_mod(position, masks.FULL if band.causal and n == 1 else band, visible, key_mask)
        if sink:
            self.sink = torch.tensor(m, dtype=torch.int32, device=q.device)
            self.mask_mod = _and_sink(self.mask_mod, self.sink)
        self.options = {}
        if self.mask_mod is not None and not skips:
            batch = None if key_mask is None else key_mask.shape[0]
            by_head = visible is not None and getattr(visible, "by_head", True)
            keys = _with_sink(m) if sink else m
            self.options["block_mask"] = create_block_mask(self.mask_mod, batch, heads if by_head else None, n, keys,
                                                           device=q.device, BLOCK_SIZE=size)
        if softcap is not None or bias is not None:
            cap = _cap_of_half if q.itemsize == 2 and not self.static else _cap
            self.options["score_mod"] = _score_mod(position, bias, softcap, cap)
        kernel = getattr(bias, "kernel_options", {}) if q.is_cuda and q.itemsize == 2 else {}
        if size != near.SIZE and q.is_cuda:
            kernel = {"fwd_BLOCK_M": size, "fwd_BLOCK_N": size, "fwd_num_warps": 4}
        if kernel | self.kernel_options:
            self.options["kernel_options"] = kernel | self.kernel_options


Position = Callable[[torch.Tensor], torch.Tensor]


def _positions(n: int, m: int, device: torch.device | None) -> Position:
    """Gives the function from query i to its position among the keys.

    The offset is a tensor on `device`, if there is one, since a number would be compiled in for each length.
    """
    if n == m:
        return lambda i: i
    offset = m - n if device is None else torch.tensor(m - n, dtype=torch.int32, device=device)
    return lambda i: i + offset


def _mask_mod(position: Position, band: masks.Band, visible: masks.Visible | None,
              key_mask: torch.Tensor | None) -> Callable | None:
    """Builds the mask_mod of these masks together; None if every query sees every key."""
    mask_mod = None
    if band != masks.FULL:
        def mask_mod(b, h, i, j):
            return band(position(i), j)
    if visible is not None:
        band_mod = mask_mod

        def mask_mod(b, h, i, j):
            mask = visible(h, position(i), j)
            return mask if band_mod is None else band_mod(b, h, i, j) & mask
    if key_mask is not None:
        others_mod = mask_mod

        def mask_mod(b, h, i, j):
            return key_mask[b, j] if others_mod is None else others_mod(b, h, i, j) & key_mask[b, j]

    return mask_mod


def _score_mod(position: Position, bias: Callable | None, softcap: float | None, cap: Callable) -> Callable:
    def score_mod(score, b, h, i, j):
        if softcap is not None:
            score = cap(score, softcap)
        return score if bias is None else score + bias(h, position(i), j)

    return score_mod


def _cap(score: torch.Tensor, softcap: float) -> torch.Tensor:
    return softcap * torch.tanh(score / softcap)


def _cap_of_half(score: torch.Tensor, softcap: float) -> torch.Tensor:
    """Computes the same as c (2 sigmoid(2 s / c) - 1), which is one exponential and one reciprocal on a GPU.

    It is off by some 1e-7 c, which float32 would see, but not the half precision in which weights are multiplied.
    """
    return 2 * softcap * torch.sigmoid(score * (2 / softcap)) - softcap


def _with_sink(m: int) -> int:
    """Counts the keys with room for a sink, in whole blocks, which a kernel reads without looking for an end."""
    return (m // near.SIZE + 1) * near.SIZE


def _filled(x_BGMD: torch.Tensor) -> torch.Tensor:
    """Adds zeros for the sink and behind it."""
    batch, groups, m, width = x_BGMD.shape
    return torch.cat([x_BGMD, x_BGMD.new_zeros(batch, groups, _with_sink(m) - m, width)], 2)


def _and_sink(mask_mod: Callable | None, sink: torch.Tensor) -> Callable:
    """Lets every query see the sink as well, but no key behind it. Its number is a tensor, as in `_positions`."""
    if mask_mod is None:
        return lambda b, h, i, j: j <= sink
    return lambda b, h, i, j: (j == sink) | (j < sink) & mask_mod(b, h, i, torch.minimum(j, sink - 1))


def _sink_mod(sink: torch.Tensor, sinks_H: torch.Tensor) -> Callable:
    """Adds the logits to the sink's scores, which are 0, since its key is.

    What is added depends on the key alone, so it is not chosen anew for each score. No gradient flows to the logits: it
    would be one sum over all scores of a head, by atomic additions.
    """
    return lambda score, b, h, i, j: score + torch.where(j == sink, sinks_H[h].to(score.dtype), 0.0)


def _all_keys(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Hides no key, in a way that a compiler can't remove: without a mask FlashAttention-4 would take all blocks."""
    return j >= 0


def _block_mask(n: int, m: int, blocks: near.Blocks, mask_mod: Callable | None) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    return BlockMask((n, m), *blocks, BLOCK_SIZE=(near.SIZE, near.SIZE), mask_mod=mask_mod or _all_keys)


def _sums() -> Any:
    """Gives the request for the log-sum-exp of each row's scores."""
    from torch.nn.attention.flex_attention import AuxRequest

    return AuxRequest(lse=True)


flex = Flex()
