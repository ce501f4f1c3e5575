"""Attention functions and variants behind one interface.

Shape suffixes: B batch, H query heads, G key/value heads, N queries, M keys, D head_dim.

    >>> attend = attention.create("alibi:sdpa", heads=8, head_dim=64, causal=True)
    >>> out_BHND = attend(q_BHND, k_BGMD, v_BGMD)

Every file in `functions/` and `backends/` is imported here, so a new one is a new file and nothing else; the docstrings
of those two packages say what to write in it.
"""
from attention import discovery
from attention.backends.base import Unsupported
from attention.module import Attention, create, oracle
from attention.multihead import MultiheadAttention
from attention.registry import DTYPES, names, peak_bytes, register, why_not

__all__ = ["DTYPES", "Attention", "MultiheadAttention", "Unsupported", "create", "names", "oracle", "peak_bytes",
           "register", "why_not"]

discovery.load("attention.functions", "attention.backends")
