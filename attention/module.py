"""`create` builds a variant as a module; `oracle` evaluates a function's formula."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from attention import fastest, registry


def create(name: str, *, heads: int, kv_heads: int | None = None, head_dim: int, seq_len: int | None = None,
           causal: bool = False, scale: float | None = None, value_dim: int | None = None,
           deterministic: bool = False, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
           **options: Any) -> Attention:
    """Builds the variant `name`. Its parameters, if the function has any, are on `device` in `dtype`.

    `heads` query heads share `kv_heads` key/value heads; by default there are as many of both. Functions whose
    parameters depend on a length need `seq_len`. `scale` multiplies the scores; by default it is 1/sqrt(head_dim).
    Values are `value_dim` wide; by default they are as wide as keys (multi-head latent attention has keys of 192 and
    values of 128). With `deterministic`, gradients repeat to the last bit, or the call is refused.
    The backend "fastest" is the fastest by this machine's records at the length `seq_len`; the module's `name` says
    which that is, see `attention.fastest`.
    Raises ValueError for an unknown name or option and for numbers that can't be.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    function, _, backend = name.partition(":")
    if backend == fastest.FASTEST:
        name = fastest.choose(function, heads=heads, kv_heads=kv_heads, head_dim=head_dim, n=seq_len, causal=causal,
                              dtype=dtype, device=torch.device(device), options=options).variant
    variant = registry.variant(name)
    value_dim = head_dim if value_dim is None else value_dim
    for what, value in (("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim), ("value_dim", value_dim)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {what}={value!r} must be a whole number >= 1")
    if heads % kv_heads:
        raise ValueError(f"{name}: heads={heads} must be a multiple of kv_heads={kv_heads}")
    if seq_len is not None and seq_len < 1:
        raise ValueError(f"{name}: seq_len={seq_len} must be at least 1")
    if causal and not variant.function.causal:
        raise ValueError(f"{name}: causal=True: {variant.function.name} has no causal form; pass causal=False")
    if value_dim != head_dim and not variant.function.values:
        raise ValueError(f"{name}: value_dim={value_dim}: {variant.function.name} takes values as wide as keys; pass "
                         f"value_dim={head_dim}")
    built = Attention(variant, heads, kv_heads, head_dim, seq_len, causal, scale, variant.function.complete(options),
                      value_dim, deterministic)
    return built.to(device, dtype)


class Attention(nn.Module):
    """The module of one variant: forward(q_BHND, k_BGMD, v_BGMD, key_mask_BM=None) -> (B, H, N, value_dim).

    Queries are aligned to the end of the keys. A row that sees no key gives zeros.
    """

    def __init__(self, variant: registry.Variant, heads: int, kv_heads: int, head_dim: int,
                 seq_len: int | None, causal: bool, scale: float | None, options: dict[str, Any],
                 value_dim: int | None = None, deterministic: bool = False) -> None:
        super().__init__()
        self.variant, self.name = variant, variant.name
        self.heads, self.kv_heads, self.head_dim, self.seq_len = heads, kv_heads, head_dim, seq_len
        self.value_dim = head_dim if value_dim is None else value_dim
        self.causal, self.deterministic, self.options = causal, deterministic, options
        self.scale = head_dim ** -0.5 if scale is None else float(scale)
        self._attend = variant.backend.attend_deterministic() if deterministic else variant.backend.attend()
        initial = variant.function.initial(heads=heads, kv_heads=kv_heads, head_dim=head_dim, seq_len=seq_len,
                                           causal=causal, **options)
        self._parameter_names = tuple(initial)
        for parameter, value in initial.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(parameter, value)
            else:
                self.register_buffer(parameter, value)
        self._possible: set[registry.Case] = set()  # kinds of calls that the backend can serve

    def forward(self, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor,
                key_mask_BM: torch.Tensor | None = None) -> torch.Tensor:
        """Computes attention. `key_mask_BM` is bool, True = keep.

        Raises ValueError, before any kernel starts, for shapes, dtypes or devices that don't fit and for a call that
        the backend can't serve.
        """
        self._check(q_BHND, k_BGMD, v_BGMD, key_mask_BM)
        n, m = q_BHND.shape[2], k_BGMD.shape[2]
        # Causal queries that stand before the first key see nothing.
        blind = n - m if self.causal and n > m else 0
        params = {"params": self.params} if self._parameter_names else {}
        out = self.variant.compute(self._attend, q_BHND[:, :, blind:], k_BGMD, v_BGMD, causal=self.causal,
                                   scale=self.scale, key_mask=key_mask_BM, **self.options, **params)
        return nn.functional.pad(out, (0, 0, blind, 0)) if blind else out

    @property
    def params(self) -> dict[str, torch.Tensor]:
        """The function's parameters by name, both the learned and the constant ones."""
        return {name: getattr(self, name) for name in self._parameter_names}

    def _check(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_mask: torch.Tensor | None) -> None:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        if q.dim() != 4 or k.dim() != 4 or v.shape[:-1] != k.shape[:-1] or q.shape[0] != k.shape[0]:
            raise ValueError(f"{self.name}: {shapes}: expected (B, H, N, D), (B, G, M, D), (B, G, M, D)")
        if (q.shape[1], k.shape[1], q.shape[3], k.shape[3], v.shape[3]) != (
                self.heads, self.kv_heads, self.head_dim, self.head_dim, self.value_dim):
            values = "" if self.value_dim == self.head_dim else f" and value_dim {self.value_dim}"
            raise ValueError(f"{self.name}: {shapes}: built for {self.heads} query heads, {self.kv_heads} "
                             f"key/value heads and head_dim {self.head_dim}{values}")
        if q.shape[2] == 0 or k.shape[2] == 0:
            raise ValueError(f"{self.name}: {shapes}: at least one query and one key are needed")
        if not q.dtype == k.dtype == v.dtype or not q.device == k.device == v.device:
            raise ValueError(f"{self.name}: q, k, v differ: {q.dtype} {k.dtype} {v.dtype} on "
                             f"{q.device} {k.device} {v.device}; give them one dtype and one device")
        for name, x in self.params.items():
            if x.device != q.device or (x.is_floating_point() and x.dtype != q.dtype):
                raise ValueError(f"{self.name}: parameter {name} is {x.dtype} on {x.device}, the inputs {q.dtype} on "
                                 f"{q.device}; move the module with .to(device, dtype)")
        if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape != (k.shape[0], k.shape[2])):
            raise ValueError(f"{self.name}: key_mask {key_mask.dtype} {tuple(key_mask.shape)}: expected bool "
                             f"({k.shape[0]}, {k.shape[2]}), True = keep")
        if torch.compiler.is_compiling():
            return  # asking the kernel would break the graph; it refuses by itself
        case = registry.case_of(q, k, v, causal=self.causal, key_mask=key_mask is not None,
                                options=tuple(sorted(self.options.items())), deterministic=self.deterministic,
                                learns=any(p.requires_grad for p in self.parameters()))
        if case not in self._possible:
            if reason := registry.why_not_case(self.variant, case):
                raise ValueError(reason)
            self._possible.add(case)

    def kept_bytes(self) -> int:
        """Counts the bytes that stay allocated between calls: parameters, buffers, and the backend's stored mask."""
        state = vars(self._attend).values() if hasattr(self._attend, "__dict__") else ()
        tensors = [*self.parameters(), *self.buffers(), *(x for x in state if isinstance(x, torch.Tensor))]
        return sum(x.numel() * x.element_size() for x in tensors)

    def extra_repr(self) -> str:
        """Names the variant and its heads, for `print(module)`."""
        return f"{self.name}, heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}"


def oracle(name: str, q_BHND: torch.Tensor, k_BGMD: torch.Tensor, v_BGMD: torch.Tensor, *, causal: bool = False,
           scale: float | None = None, key_mask: torch.Tensor | None = None,
           dtype: torch.dtype = torch.float64, params: dict[str, torch.Tensor] | None = None,
           **options: Any) -> torch.Tensor:
    """Evaluates the formula of a function (or of a variant's function) in `dtype` -> (B, H, N, D).

    `params` are the function's parameters, if it has any; by default they are those that a variant starts with. The
    result is differentiable, and it is computed in blocks, so memory stays bounded.
    Raises ValueError for an unknown name or option.
    """
    function = registry.function(name.partition(":")[0])
    options = function.complete(options)
    if function.parameters is not None:
        params = params or function.initial(heads=q_BHND.shape[1], kv_heads=k_BGMD.shape[1],
                                            head_dim=q_BHND.shape[3], seq_len=k_BGMD.shape[2], causal=causal,
                                            **options)
        options["params"] = {x: p.to(q_BHND.device, dtype if p.is_floating_point() else p.dtype)
                             for x, p in params.items()}
    return function.oracle(q_BHND, k_BGMD, v_BGMD, causal=causal, scale=scale, key_mask=key_mask, dtype=dtype,
                           **options)
