"""torch.nn.MultiheadAttention with any registered attention function in its middle."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from torch.nn import functional as F

from attention import registry

if TYPE_CHECKING:
    from attention.module import Attention

Mask = torch.Tensor | None


class MultiheadAttention(nn.MultiheadAttention):
    """Drop-in for `torch.nn.MultiheadAttention`: its arguments, its state_dict, its masks (True = leave out).

    `attention` names the variant, `options` are its function's, `seq_len` is for functions that need a length. A
    function's own parameters stand in the state_dict under ``attention.``.

    softmax computes what torch's does. Where its backend has no place for a thing, stated here and nowhere silent:
    `need_weights` computes the weights explicitly, n x n, on any backend, as torch's does; `attn_mask`, a float
    `key_padding_mask` and dropout in training are computed on the backends eager and sdpa and refused on others.
    `is_causal` is torch's hint that `attn_mask` is the causal mask, taken at its word where there are as many
    queries as keys; here it may also stand without the mask. A row that sees no key gives zeros (torch's: NaN).

    Other functions take `is_causal`, a `key_padding_mask` of True and False or of 0 and -inf, and, where they are
    exact or structured, `need_weights`: they are run once more on the columns of the identity, as many at a time as
    head_dim. They refuse any other `attn_mask`, dropout in training, `add_bias_kv` and `add_zero_attn`.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
                 vdim: int | None = None, batch_first: bool = False, device: Any = None,
                 dtype: torch.dtype | None = None, *, attention: str = "softmax:sdpa", seq_len: int | None = None,
                 **options: Any) -> None:
        """Raises ValueError for an unknown variant or option and for numbers that can't be."""
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: embed_dim={embed_dim} must be a multiple of num_heads={num_heads}, "
                             "both at least 1")
        self._softmax = registry.variant(attention).function.name == "softmax"
        for name, given in (("add_bias_kv", add_bias_kv), ("add_zero_attn", add_zero_attn)):
            if given and not self._softmax:
                raise ValueError(f"{attention}: {name}=True adds a key that has no position; softmax alone takes it")
        super().__init__(embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first,
                         device, dtype)
        self._build = {"name": attention, "heads": num_heads, "head_dim": self.head_dim, "seq_len": seq_len, **options}
        self.attention: Attention = self._created(causal=False)
        self._causal: list[Attention] = []  # its causal twin, once it is called for; a list hides it from state_dict

    def _created(self, causal: bool) -> Attention:
        from attention import create

        weight = self.out_proj.weight
        return create(**self._build, causal=causal, device=weight.device, dtype=weight.dtype)

    def _reset_parameters(self) -> None:
        self._qkv_same_embed_dim = self.in_proj_weight is not None
        super()._reset_parameters()
        # False keeps torch.nn.TransformerEncoderLayer off its fast path, which computes softmax without asking forward.
        self._qkv_same_embed_dim = False

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_padding_mask: Mask = None,
                need_weights: bool = True, attn_mask: Mask = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """query (L, B, E), key (S, B, kdim), value (S, B, vdim), or batch first, or without B -> output like query,
        and the weights (B, L, S) or, not averaged, (B, H, L, S), or None.

        `key_padding_mask` (B, S), `attn_mask` (L, S) or (B H, L, S): bool, True = leave out, or float, added to the
        scores. Raises ValueError for shapes and dtypes that don't fit and for what the variant can't compute.
        """
        self._check(query, key, value)
        q, k, v = self._projected(query, key, value)
        (batch, _, n, _), m = q.shape, k.shape[2]
        self._check_mask("attn_mask", attn_mask, [(n, m), (batch * self.num_heads, n, m)])
        self._check_mask("key_padding_mask", key_padding_mask, [(batch, m) if query.dim() == 3 else (m,)])
        if is_causal and n != m and attn_mask is None:
            self._refuse(f"is_causal=True with {n} queries on {m} keys", "attn_mask says which of them it means")
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.reshape(batch, m)
        attend = self._attend_softmax if self._softmax else self._attend
        out_BHLD, weights = attend(q, k, v, key_padding_mask, attn_mask, is_causal, need_weights)

        out = self.out_proj(out_BHLD.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if query.dim() == 2:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """q (B, H, L, D), k and v (B, H, S, D)."""
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if query is key is value and self.in_proj_weight is not None:
            projected = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weights = ((self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if self.in_proj_weight is None
                       else self.in_proj_weight.chunk(3))
            projected = tuple(F.linear(*x) for x in zip((query, key, value), weights, biases, strict=True))
        if query.dim() == 2:
            projected = tuple(x.unsqueeze(0) for x in projected)
        elif not self.batch_first:
            projected = tuple(x.transpose(0, 1) for x in projected)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in projected)
        return q, k, v

    def _attend_softmax(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_padding_mask: Mask,
                        attn_mask: Mask, is_causal: bool, need_weights: bool) -> tuple[torch.Tensor, Mask]:
        n, m = q.shape[2], k.shape[2]
        k, v, more = self._with_added_keys(k, v)
        as_hint = is_causal and n == m and not more
        dropout = self.dropout if self.training else 0.0
        floats = key_padding_mask is not None and key_padding_mask.dtype != torch.bool
        if not need_weights and not dropout and not floats and (as_hint or (attn_mask is None and not is_causal)):
            keep = None if key_padding_mask is None else ~F.pad(key_padding_mask, (0, more))
            return self._function(as_hint)(q, k, v, keep), None

        backend = self.attention.variant.backend.name
        if not need_weights and backend not in ("eager", "sdpa"):
            what = ("an attn_mask that is not told to be causal" if attn_mask is not None else
                    f"dropout={dropout} in training" if dropout else
                    "a float key_padding_mask" if floats else "is_causal=True with added keys")
            self._refuse(what, "softmax:eager and softmax:sdpa compute it")
        if is_causal and attn_mask is None:
            attn_mask = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(1)
        mask, blind = self._merged(q, key_padding_mask, attn_mask, more)
        if need_weights or backend == "eager":
            scores = (q * self.attention.scale) @ k.transpose(-1, -2)
            wide = torch.promote_types(q.dtype, torch.float32)
            weights = (scores if mask is None else scores + mask).softmax(-1, dtype=wide).to(q.dtype)
            if blind is not None:
                weights = weights.masked_fill(blind, 0)
            weights = F.dropout(weights, dropout) if dropout else weights
            return weights @ v, weights if need_weights else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return out if blind is None else out.masked_fill(blind, 0), None

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_padding_mask: Mask, attn_mask: Mask,
                is_causal: bool, need_weights: bool) -> tuple[torch.Tensor, Mask]:
        """Any function but softmax."""
        if attn_mask is not None and not (is_causal and q.shape[2] == k.shape[2]):
            self._refuse("an attn_mask that is not told to be causal", "pass is_causal=True or a key_padding_mask")
        if self.dropout and self.training:
            self._refuse(f"dropout={self.dropout} in training", "softmax:eager and softmax:sdpa compute it")
        function = self._function(is_causal)
        if need_weights and self.attention.variant.function.kind == "approximate":
            self._refuse("need_weights=True", "it has no softmax weights; pass need_weights=False")
        keep = None if key_padding_mask is None else self._kept(key_padding_mask)
        out = function(q, k, v, keep)
        if not need_weights:
            return out, None
        width, size = v.shape[3], k.shape[2]
        columns = F.pad(torch.eye(size, dtype=v.dtype, device=v.device), (0, -size % width))
        weights = [function(q, k, part, keep) for part in columns.expand(*v.shape[:2], -1, -1).split(width, -1)]
        return out, torch.cat(weights, -1)[..., :size]

    def _function(self, causal: bool) -> Attention:
        """The built function, or its causal twin, which has the same parameters."""
        if not causal:
            return self.attention
        if not self._causal:
            twin = self._created(causal=True)
            shapes, own = ({name: x.shape for name, x in f.state_dict().items()} for f in (twin, self.attention))
            if shapes != own:
                self._refuse("is_causal=True", "its parameters differ where it is causal")
            twin._parameters, twin._buffers = self.attention._parameters, self.attention._buffers
            self._causal.append(twin)
        return self._causal[0]

    def _with_added_keys(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """k and v with the learned key and the zero key that the constructor asked for, and how many they are."""
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, bias.view(1, self.num_heads, 1, -1).expand(len(x), -1, -1, -1)], 2)
                    for x, bias in ((k, self.bias_k), (v, self.bias_v)))
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return k, v, (self.bias_k is not None) + self.add_zero_attn

    def _merged(self, q: torch.Tensor, key_padding_mask: Mask, attn_mask: Mask, more: int) -> tuple[Mask, Mask]:
        """What is added to the scores (B or 1, H or 1, L or 1, S), and which rows see no key."""
        mask = None
        if attn_mask is not None:
            attn_mask = attn_mask.view(1, 1, *attn_mask.shape) if attn_mask.dim() == 2 else (
                attn_mask.unflatten(0, (-1, self.num_heads)))
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask[:, None, None]
        for given in (attn_mask, key_padding_mask):
            if given is None:
                continue
            added = (torch.zeros(given.shape, dtype=q.dtype, device=q.device).masked_fill(given, -torch.inf)
                     if given.dtype == torch.bool else given.to(q.dtype))
            mask = added if mask is None else mask + added
        if mask is None:
            return None, None
        mask = F.pad(mask, (0, more))
        blind = (mask == -torch.inf).all(-1, keepdim=True)
        return mask.masked_fill(blind, 0), blind

    def _kept(self, key_padding_mask: torch.Tensor) -> torch.Tensor:
        """The padding mask as bool, True = keep."""
        if key_padding_mask.dtype == torch.bool:
            return ~key_padding_mask
        if not ((key_padding_mask == 0) | (key_padding_mask == -torch.inf)).all():
            self._refuse("a key_padding_mask of other numbers than 0 and -inf", "softmax alone takes it")
        return key_padding_mask == 0

    def _check(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
        if query.is_nested or key.is_nested or value.is_nested:
            self._refuse("nested tensors", "pass padded ones and a key_padding_mask")
        if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
            raise ValueError(f"{self.attention.name}: {shapes}: expected three tensors of three dimensions, or of two "
                             "without a batch")
        axis = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (query.dim() == 3 and query.shape[axis] != key.shape[axis]):
            raise ValueError(f"{self.attention.name}: {shapes}: key and value must be as many, in batches like query's")
        if (query.shape[-1], key.shape[-1], value.shape[-1]) != (self.embed_dim, self.kdim, self.vdim):
            raise ValueError(f"{self.attention.name}: {shapes}: the last dimensions must be {self.embed_dim}, "
                             f"{self.kdim}, {self.vdim}")
        told = {(x.dtype, x.device) for x in (query, key, value, self.out_proj.weight)}
        mixed = len({device for _, device in told}) > 1 or (
            len(told) > 1 and not torch.is_autocast_enabled(query.device.type))
        if mixed:
            raise ValueError(f"{self.attention.name}: query, key, value and parameters differ: "
                             f"{', '.join(sorted(f'{t} on {d}' for t, d in told))}; give them one dtype and one device")

    def _check_mask(self, name: str, mask: Mask, allowed: list[tuple[int, ...]]) -> None:
        if mask is None:
            return
        if mask.dtype != torch.bool and not mask.is_floating_point():
            raise ValueError(f"{self.attention.name}: {name} is {mask.dtype}: expected bool, True = leave out, or "
                             "float")
        if tuple(mask.shape) not in allowed:
            raise ValueError(f"{self.attention.name}: {name} {tuple(mask.shape)}: expected "
                             f"{' or '.join(map(str, allowed))}")

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise ValueError(f"{self.attention.name}: it can't compute {what}; {instead}")
