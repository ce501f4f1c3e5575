"""Attention functions and variants behind one interface.

Shape suffixes: B batch, H query heads, G key/value heads, N queries, M keys, D head_dim.

    >>> attend = attention.create("alibi:sdpa", heads=8, head_dim=64, causal=True)
    >>> out_BHND = attend(q_BHND, k_BGMD, v_BGMD)
"""
from attention.module import Attention, create, oracle
from attention.registry import DTYPES, functions, names, peak_bytes, register, why_not

__all__ = ["DTYPES", "Attention", "create", "functions", "names", "oracle", "peak_bytes", "register", "why_not"]
