"""Attention functions and variants behind one interface.

Shape suffixes: B batch, H query heads, G key/value heads, N queries, M keys, D head_dim.

    >>> attend = attention.create("alibi:sdpa", heads=8, head_dim=64, causal=True)
    >>> out_BHND = attend(q_BHND, k_BGMD, v_BGMD)

`attention.functions()` lists the functions; the folder of that name, which registers them, is
imported first so that the name stays the lister's.
"""
from attention.backends.base import Unsupported
from attention.functions import alibi, sliding_window, softmax
from attention.module import Attention, create, oracle
from attention.registry import DTYPES, functions, names, peak_bytes, register, why_not

BUILT_IN = (softmax, alibi, sliding_window)

__all__ = ["BUILT_IN", "DTYPES", "Attention", "Unsupported", "create", "functions", "names", "oracle", "peak_bytes",
           "register", "why_not"]
