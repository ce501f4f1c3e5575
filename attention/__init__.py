"""Attention functions and variants behind one interface.

Shape suffixes: B batch, H query heads, G key/value heads, N queries, M keys, D head_dim.

    >>> attend = attention.create("alibi:sdpa", heads=8, head_dim=64, causal=True)
    >>> out_BHND = attend(q_BHND, k_BGMD, v_BGMD)

`attention.functions()` lists the functions; the folder of that name, which registers them, is
imported first so that the name stays the lister's.
"""
from attention.backends.base import Unsupported
from attention.functions import (
    alibi,
    autocorrelation,
    block_sparse,
    combiner,
    decode,
    document,
    fit,
    hard_attention,
    kernelised_rpe,
    kv_quantised,
    linear,
    linformer,
    low_rank,
    low_rank_linear,
    nystrom,
    performer,
    prefix_softmax,
    primer,
    probsparse,
    recurrent_memory,
    reformer,
    relative_bias,
    rope,
    rope_alibi,
    shared_value,
    sinkhorn,
    sinks,
    sliding_window,
    softcap,
    softmax,
    synthesizer,
    varlen,
)
from attention.module import Attention, MultiheadAttention, create, oracle
from attention.registry import DTYPES, functions, names, peak_bytes, register, why_not

BUILT_IN = (softmax, alibi, sliding_window, linear, performer, varlen, decode, prefix_softmax, softcap, sinks,
            document, rope, rope_alibi, relative_bias, probsparse, autocorrelation, synthesizer, sinkhorn, reformer,
            combiner, fit, linformer, low_rank, low_rank_linear, block_sparse, primer, nystrom, hard_attention,
            kv_quantised, recurrent_memory, shared_value, kernelised_rpe)

__all__ = ["BUILT_IN", "DTYPES", "Attention", "MultiheadAttention", "Unsupported", "create", "functions", "names",
           "oracle", "peak_bytes", "register", "why_not"]
