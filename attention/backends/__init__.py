"""Backends say how attention is computed. Each file holds one family of kernels as ready `Backend` objects.

To add a backend, write one file here, `mine.py`, with a subclass of `base.Backend`: a name, `attend()`, which calls the
kernel, the `kernels` that a profiler must see, and a reason in `missing` or `refuses` for what it can't do. No list
names it, for `attention` imports every file of this folder. It registers itself for the functions that it computes:

    @register("softmax", backends=[Mine()])
    def softmax(attend, q, k, v, *, causal, scale, key_mask):
        return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)

A function's file may name it in its own `register(..., backends=[...])` instead. `eager.py` is the shortest example.
"""
