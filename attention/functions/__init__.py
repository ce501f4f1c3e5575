"""Functions say what attention computes. Each file holds one function: its paper, its oracle, its variants.

To add a function, write one file here, `mine.py`. No list names it: `attention` imports every file of this folder.

    @register("mine", kind="structured", paper="arXiv 0000.00000", pairs=pairs, options={"size": 64},
              test_values={"size": (16, 1, 300)})
    def oracle(q, k, v, *, causal, scale, key_mask, dtype, size): ...       # the formula, to be read

    @register("mine", backends=[eager, sdpa])
    def mine(attend, q, k, v, *, causal, scale, key_mask, size): ...        # what a backend's `attend` is asked for

`attention.function.Function` lists what the first decorator takes: options, limits, parameters, FLOPs. The tests find
the function by its name (`python -m pytest attention/tests -k mine`), and so do the default grid of `perf/` and the
README's table. `sliding_window.py` is a short example; a file whose name starts with an underscore is a helper.
"""
