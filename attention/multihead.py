"""`MultiheadAttention` replaces torch.nn.MultiheadAttention and computes any registered attention function."""
from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn import functional as F

from attention import registry
from attention.module import Attention, create

Mask = torch.Tensor | None


def _no_fast_path(module: nn.Module, args: Any) -> None:
    """A hook that does nothing but be there."""


class MultiheadAttention(nn.MultiheadAttention):
    """This module has the arguments, the state_dict and the masks (True = leave out) of `torch.nn.MultiheadAttention`.

    `attention` names the variant, `options` are options of its function, and `seq_len` is for functions that need a
    length. The function's own parameters are in the state_dict under ``attention.``.

    With softmax it computes what torch's module computes. A backend can't do everything that torch's arguments ask for:
    `need_weights` computes the weights explicitly, n x n, on any backend, as torch does. `attn_mask`, dropout in
    training and a `key_padding_mask` of other numbers than 0 and -inf are computed on the backends eager and sdpa and
    refused on others. `is_causal` is torch's hint that `attn_mask` is the causal mask; it is believed where there are
    as many queries as keys. Here it may also be passed without the mask. A row that sees no key gives zeros (torch
    gives NaN).

    Other functions take `is_causal`, a `key_padding_mask` of True and False or of 0 and -inf, and, if they are exact or
    structured, `need_weights`: they run once more on the columns of the identity, head_dim columns at a time. They
    refuse any other `attn_mask`, dropout in training, `add_bias_kv` and `add_zero_attn`.
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
        for name, value in (("add_bias_kv", add_bias_kv), ("add_zero_attn", add_zero_attn)):
            if value and not self._softmax:
                raise ValueError(f"{attention}: {name}=True adds a key that has no position; softmax alone takes it")
        super().__init__(embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first,
                         device, dtype)
        self._settings = {"name": attention, "heads": num_heads, "head_dim": self.head_dim, "seq_len": seq_len,
                          **options}
        self.attention: Attention = self._create(causal=False)
        self._causal: list[Attention] = []  # the causal twin, built when it is needed; a list hides it from state_dict
        # torch.nn.TransformerEncoderLayer has a fast path that computes softmax and never calls `forward`. It is not
        # taken where a module has a hook.
        self.register_forward_pre_hook(_no_fast_path)

    def _create(self, causal: bool) -> Attention:
        weight = self.out_proj.weight
        return create(**self._settings, causal=causal, device=weight.device, dtype=weight.dtype)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_padding_mask: Mask = None,
                need_weights: bool = True, attn_mask: Mask = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Gives the output, shaped like `query`, and the weights: (B, L, S), or (B, H, L, S) not averaged, or None.

        `query` is (L, B, E), `key` (S, B, kdim), `value` (S, B, vdim); with `batch_first` B comes first, and B may be
        absent. `key_padding_mask` is (B, S), `attn_mask` (L, S) or (B H, L, S); both are bool, True = leave out, or
        float, which is added to the scores.
        Raises ValueError for shapes and dtypes that don't fit and for what the variant can't compute.
        """
        if query.is_nested:
            if not query is key is value or key_padding_mask is not None or attn_mask is not None or need_weights:
                self._refuse("nested tensors but for self-attention without masks and weights",
                             "pass padded ones and a key_padding_mask")
            return self._attend_nested(query, is_causal), None
        self._check(query, key, value)
        q, k, v = self._project(query, key, value)
        (batch, _, n, _), m = q.shape, k.shape[2]
        self._check_mask("attn_mask", attn_mask, [(n, m), (batch * self.num_heads, n, m)])
        self._check_mask("key_padding_mask", key_padding_mask, [(batch, m) if query.dim() == 3 else (m,)])
        if is_causal and n != m and attn_mask is None:
            self._refuse(f"is_causal=True with {n} queries on {m} keys", "pass the mask as attn_mask")
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

    def _attend_nested(self, x: torch.Tensor, is_causal: bool) -> torch.Tensor:
        """Computes self-attention of the sequences that torch.nn.TransformerEncoder makes of a padded batch."""
        lengths = [len(sequence) for sequence in x.unbind()]
        padded = x.to_padded_tensor(0.0)
        steps = torch.arange(padded.shape[1], device=x.device)
        padding = steps >= torch.tensor(lengths, device=x.device).unsqueeze(1)
        out, _ = self(padded, padded, padded, padding, need_weights=False, is_causal=is_causal)
        return torch.nested.as_nested_tensor([row[:n] for row, n in zip(out, lengths, strict=True)])

    def _project(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes q (B, H, L, D) and k and v (B, H, S, D)."""
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if query is key is value and self.in_proj_weight is not None:
            qkv = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weights = ((self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if self.in_proj_weight is None
                       else self.in_proj_weight.chunk(3))
            qkv = tuple(F.linear(*x) for x in zip((query, key, value), weights, biases, strict=True))
        if query.dim() == 2:
            qkv = tuple(x.unsqueeze(0) for x in qkv)
        elif not self.batch_first:
            qkv = tuple(x.transpose(0, 1) for x in qkv)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in qkv)
        return q, k, v

    def _attend_softmax(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_padding_mask: Mask,
                        attn_mask: Mask, is_causal: bool, need_weights: bool) -> tuple[torch.Tensor, Mask]:
        """Computes softmax: by the variant where it takes the masks, else by the formula or PyTorch's function."""
        n, m = q.shape[2], k.shape[2]
        k, v, extra = self._append_keys(k, v)
        causal = is_causal and n == m and not extra
        dropout = self.dropout if self.training else 0.0
        backend = self.attention.variant.backend.name
        if key_padding_mask is not None and not need_weights and backend not in ("eager", "sdpa"):
            key_padding_mask = ~self._keep(key_padding_mask)
        is_float = key_padding_mask is not None and key_padding_mask.dtype != torch.bool
        if not need_weights and not dropout and not is_float and (causal or (attn_mask is None and not is_causal)):
            keep = None if key_padding_mask is None else ~F.pad(key_padding_mask, (0, extra))
            return self._function(causal)(q, k, v, keep), None

        if not need_weights and backend not in ("eager", "sdpa"):
            what = ("an attn_mask without is_causal=True" if attn_mask is not None else
                    f"dropout={dropout} in training" if dropout else "is_causal=True with added keys")
            self._refuse(what, "softmax:eager and softmax:sdpa compute it")
        if is_causal and attn_mask is None:
            attn_mask = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(1)
        mask, blind = self._merge(q, key_padding_mask, attn_mask, extra)
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
        """Computes a function other than softmax."""
        if attn_mask is not None and not (is_causal and q.shape[2] == k.shape[2]):
            self._refuse("an attn_mask without is_causal=True", "pass is_causal=True or a key_padding_mask")
        if self.dropout and self.training:
            self._refuse(f"dropout={self.dropout} in training", "softmax:eager and softmax:sdpa compute it")
        function = self._function(is_causal)
        if need_weights and self.attention.variant.function.kind == "approximate":
            self._refuse("need_weights=True", "it has no softmax weights; pass need_weights=False")
        keep = None if key_padding_mask is None else self._keep(key_padding_mask)
        out = function(q, k, v, keep)
        if not need_weights:
            return out, None
        width, size = v.shape[3], k.shape[2]
        columns = F.pad(torch.eye(size, dtype=v.dtype, device=v.device), (0, -size % width))
        weights = [function(q, k, part, keep) for part in columns.expand(*v.shape[:2], -1, -1).split(width, -1)]
        return out, torch.cat(weights, -1)[..., :size]

    def _function(self, causal: bool) -> Attention:
        """Gives the module of the function or of its causal form, which shares the parameters.

        Raises ValueError for a function whose parameters differ in the two forms.
        """
        if not causal:
            return self.attention
        if not self._causal:
            twin = self._create(causal=True)
            shapes, own = ({name: x.shape for name, x in f.state_dict().items()} for f in (twin, self.attention))
            if shapes != own:
                self._refuse("is_causal=True", "its parameters differ where it is causal")
            twin._parameters, twin._buffers = self.attention._parameters, self.attention._buffers
            self._causal.append(twin)
        return self._causal[0]

    def _append_keys(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Appends the learned key and the zero key that the constructor asked for; gives k, v and their number."""
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, bias.view(1, self.num_heads, 1, -1).expand(len(x), -1, -1, -1)], 2)
                    for x, bias in ((k, self.bias_k), (v, self.bias_v)))
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return k, v, (self.bias_k is not None) + self.add_zero_attn

    def _merge(self, q: torch.Tensor, key_padding_mask: Mask, attn_mask: Mask, extra: int) -> tuple[Mask, Mask]:
        """Merges the masks into one to add to the scores (B or 1, H or 1, L or 1, S) and marks rows that see no key."""
        mask = None
        if attn_mask is not None:
            attn_mask = attn_mask.view(1, 1, *attn_mask.shape) if attn_mask.dim() == 2 else (
                attn_mask.unflatten(0, (-1, self.num_heads)))
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask[:, None, None]
        for part in (attn_mask, key_padding_mask):
            if part is None:
                continue
            bias = (torch.zeros(part.shape, dtype=q.dtype, device=q.device).masked_fill(part, -torch.inf)
                    if part.dtype == torch.bool else part.to(q.dtype))
            mask = bias if mask is None else mask + bias
        if mask is None:
            return None, None
        mask = F.pad(mask, (0, extra))
        blind = (mask == -torch.inf).all(-1, keepdim=True)
        return mask.masked_fill(blind, 0), blind

    def _keep(self, key_padding_mask: torch.Tensor) -> torch.Tensor:
        """Turns the padding mask into a bool mask, True = keep. Raises ValueError for numbers but 0 and -inf; while a
        graph is recorded nobody can look at them, and running the graph raises RuntimeError."""
        if key_padding_mask.dtype == torch.bool:
            return ~key_padding_mask
        known = ((key_padding_mask == 0) | (key_padding_mask == -torch.inf)).all()
        numbers = "a key_padding_mask of other numbers than 0 and -inf"
        if torch.compiler.is_compiling() or (known.is_cuda and torch.cuda.is_current_stream_capturing()):
            torch._assert_async(known, f"{self.attention.name} can't compute {numbers}")
        elif not known:
            self._refuse(numbers, "softmax:eager and softmax:sdpa compute it")
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
        own = (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight, self.in_proj_bias,
               self.bias_k, self.bias_v, *self.out_proj.parameters(recurse=False))
        weights = [x for x in own if x is not None and x.is_floating_point()]  # a quantised layer converts by itself
        kinds = {(x.dtype, x.device) for x in (query, key, value, *weights)}
        mixed = len({device for _, device in kinds}) > 1 or (
            len(kinds) > 1 and not torch.is_autocast_enabled(query.device.type))
        if mixed:
            differ = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ValueError(f"{self.attention.name}: query, key, value and parameters differ: {differ}; give them one "
                             "dtype and one device")

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
