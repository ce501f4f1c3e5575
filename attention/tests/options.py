"""Options that the contract is held against: drawn by hypothesis, and fixed ones for tests on small shapes."""
from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

DRAWN: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "document": st.fixed_dictionaries({"length": st.sampled_from([1, 2, 7, 32, 64, 300])}),
    "softcap": st.fixed_dictionaries({"cap": st.sampled_from([1, 5.0, 50.0])}),
    "sliding-window": st.fixed_dictionaries({"window": st.sampled_from([1, 2, 5, 16, 64, 300])}),
    # With one feature q drops out of the quotient: its gradient, and most of k's, is rounding alone.
    "performer": st.fixed_dictionaries({"features": st.sampled_from([2, 16, 100]), "seed": st.sampled_from([0, 3])}),
    "rope": st.fixed_dictionaries({"base": st.sampled_from([10000.0, 100.0])}),
    "rope-alibi": st.fixed_dictionaries({"base": st.sampled_from([10000.0, 100.0])}),
    "relative-bias": st.sampled_from([{"buckets": 32, "max_distance": 128}, {"buckets": 6, "max_distance": 20}]),
    "probsparse": st.fixed_dictionaries({"factor": st.sampled_from([1, 2, 5]), "seed": st.sampled_from([0, 3]),
                                         "masked": st.just(False)}),
    "autocorrelation": st.fixed_dictionaries({"factor": st.sampled_from([1, 2.5, 6])}),
    "synthesizer": st.fixed_dictionaries({"form": st.sampled_from(["dense", "random", "factorised"])}),
    "sinkhorn": st.fixed_dictionaries({"block": st.sampled_from([4, 16, 64]), "iterations": st.sampled_from([1, 8])}),
    "reformer": st.fixed_dictionaries({"chunk": st.sampled_from([4, 16, 64]), "rounds": st.sampled_from([1, 3])}),
    "combiner": st.fixed_dictionaries({"block": st.sampled_from([None, 7, 16, 300]),
                                       "pooling": st.sampled_from(["max", "mean"])}),
    "fit": st.fixed_dictionaries({"group": st.sampled_from([None, 5, 64]), "latents": st.sampled_from([1, 8])}),
    "linformer": st.fixed_dictionaries({"rank": st.sampled_from([2, 5, 16]),
                                       "share": st.sampled_from(["none", "headwise", "key-value"])}),
    "low-rank": st.fixed_dictionaries({"rank": st.sampled_from([1, 5, 16])}),
    "low-rank-linear": st.fixed_dictionaries({"rank": st.sampled_from([1, 5, 16])}),
    "block-sparse": st.fixed_dictionaries(
        {"preset": st.sampled_from(["bigbird", "longformer", "strided"]), "block": st.sampled_from([1, 7, 16, 64])},
        optional={"local": st.sampled_from([0, 2, 300]), "first": st.sampled_from([0, 2]),
                  "random": st.sampled_from([0, 2]), "stride": st.sampled_from([0, 3]), "seed": st.just(1)}),
    "primer": st.fixed_dictionaries({"width": st.sampled_from([1, 3, 4])}),
    "nystrom": st.fixed_dictionaries({"landmarks": st.sampled_from([1, 7, 16])}),
    "hard-attention": st.fixed_dictionaries({"top": st.sampled_from([1, 3, 32, 300])}),
    "kv-quantised": st.fixed_dictionaries({"bits": st.sampled_from([4, 8]), "group": st.sampled_from([1, 16, 64]),
                                           "stairs": st.sampled_from([0, 5, 64])}),
    "recurrent-memory": st.fixed_dictionaries({"segment": st.sampled_from([1, 16, 64, 300])}),
    "kernelised-rpe": st.fixed_dictionaries({"features": st.sampled_from([1, 6])}),
}
FIXED: dict[str, dict[str, Any]] = {
    "document": {"length": 32},
    "softcap": {"cap": 2.0},
    "sliding-window": {"window": 5},
    "performer": {"features": 48},
    "rope": {"base": 10000.0},
    "rope-alibi": {"base": 10000.0},
    "relative-bias": {"buckets": 8, "max_distance": 20},
    "probsparse": {"factor": 2},
    "autocorrelation": {"factor": 2},
    "sinkhorn": {"block": 16},
    "reformer": {"chunk": 16, "rounds": 2},
    "combiner": {"block": 16},
    "fit": {"group": 16},
    "linformer": {"rank": 16},
    "low-rank": {"rank": 16},
    "low-rank-linear": {"rank": 16},
    "block-sparse": {"block": 8, "random": 1},
    "primer": {"width": 3},
    "nystrom": {"landmarks": 16},
    "hard-attention": {"top": 5},
    "kv-quantised": {"bits": 4, "group": 16, "stairs": 7},
    "recurrent-memory": {"segment": 16},
    "kernelised-rpe": {"features": 16},
}
