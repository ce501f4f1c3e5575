"""Edits that change no time, and edits that look like them and may."""
from __future__ import annotations

import ast

import pytest

from perf.compare.neutral import neutral

CODE = '''"""A module."""
from __future__ import annotations

import torch
from torch import nn

SCALE = 2.0


def _scores(q, k, *, scale=None):
    """Their products."""
    scores = q @ k.transpose(-1, -2)
    if scale is not None:
        scores = scores * scale
    return scores


class Attention(nn.Module):
    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def forward(self, q, k, v):
        mask = [i for i in range(self.heads)]
        try:
            scores = _scores(q, k, scale=SCALE)
        except ValueError as error:
            raise TypeError(str(error))
        weights = scores.softmax(-1)

        def score(x, i):
            return weights[i] + x

        with torch.no_grad() as context:
            total = sum((part := score(x, i)) for i, x in enumerate(mask))
        return (weights @ v, total, part, context)


def _unused(x):
    return x
'''
IMPORT = "from torch import nn\n"
NEUTRAL = [
    [("import torch\n", "import torch  # the library\n")],
    [("SCALE = 2.0", "\n\nSCALE = (2.0)")],
    [("SCALE = 2.0", "SCALE: float = 2.0")],
    [("A module.", "Another sentence about it.")],
    [('    """Their products."""\n', "")],
    [("q, k, *, scale=None):", "q: torch.Tensor, k, *, scale: float | None = None) -> torch.Tensor:")],
    [("    scores = q @ k", "    scores: torch.Tensor = q @ k")],
    [("heads: int", "heads")],
    [("weights", "probabilities")],
    [("    scores = q @", "    products = q @"), ("scores = scores * scale", "products = products * scale"),
     ("return scores\n", "return products\n")],
    [("as error", "as failure"), ("str(error)", "str(failure)")],
    [("[i for i in range(self.heads)]", "[one for one in range(self.heads)]")],
    [("score(x, i)) for i, x in", "score(y, j)) for j, y in")],
    [("as context", "as nothing"), ("part, context", "part, nothing")],
    [("part", "piece")],
    [("def score(x, i)", "def modified(x, i)"), (":= score(x", ":= modified(x")],
    [(IMPORT, IMPORT + "from typing import Any\n")],
    [(IMPORT, IMPORT + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy\n")],
    [("    return x\n", "    pass\n    return x\n")],
    [("def forward(self, q, k, v):", "def forward(self, q, k, v):  # (B, H, N, D)\n        '''Attends.'''")],
    [("_scores(q, k, scale=SCALE)", "_scores(\n                q, k, scale=SCALE,\n            )")],
]


def digest(code: str) -> list[str]:
    return [text for _, text in neutral(ast.parse(code))]


@pytest.mark.parametrize("edits", NEUTRAL, ids=range(len(NEUTRAL)))
def test_a_neutral_edit_comes_to_the_same(edits: list[tuple[str, str]]) -> None:
    edited = CODE
    for before, after in edits:
        assert before in edited
        edited = edited.replace(before, after)
    compile(edited, "edited", "exec")
    assert edited != CODE
    assert digest(edited) == digest(CODE)


def test_a_helper_that_moves_within_its_file_comes_to_the_same() -> None:
    head, start, rest = CODE.partition("def _scores")
    helper, middle, tail = rest.partition("class Attention")
    assert digest(head + middle + tail + "\n\n" + start + helper) == digest(CODE)
    init, forward, end = (CODE.index(text) for text in ("    def __init__", "    def forward", "\n\ndef _unused"))
    moved = CODE[:init] + CODE[forward:end] + "\n\n" + CODE[init:forward].rstrip() + "\n" + CODE[end:]
    compile(moved, "moved", "exec")
    assert digest(moved) == digest(CODE)


@pytest.mark.parametrize(("before", "after"), [
    ("SCALE = 2.0", "SCALE = 3.0"),
    ("scores * scale", "scores * scale * 1"),
    ("q @ k", "k @ q"),
    ("scores.softmax(-1)", "scores.softmax(-2)"),
    ("*, scale=None", "*, scale=1"),
    ("def _scores(q, k", "def _scores(k, q"),  # who is called by position gets another
    ("        self.heads = heads", "        self.heads = heads\n        self.more = 1"),
    ("class Attention(nn.Module)", "@torch.compile\nclass Attention(nn.Module)"),
    ("def _unused", "@torch.compile\ndef _unused"),
    ("import torch\n", "import torch\nimport numpy\n"),
    ("weights[i] + x", "weights[i] + i"),
    ("return (weights @ v, total", "return (total, weights @ v"),
    ("torch.no_grad()", "torch.enable_grad()"),
    ("raise TypeError(str(error))", "pass"),
])
def test_another_edit_does_not(before: str, after: str) -> None:
    assert before in CODE
    assert digest(CODE.replace(before, after)) != digest(CODE)


@pytest.mark.parametrize(("one", "other"), [
    ("def f(x):\n    a = 1\n    b = 2\n    return a", "def f(x):\n    a = 1\n    b = 2\n    return b"),
    ("def f(x):\n    a = x\n    return a", "def f(x):\n    b = x\n    return a"),  # a global
    ("def f(x):\n    global a\n    a = x", "def f(x):\n    global b\n    b = x"),
    ("def f(x):\n    a = x\n    return locals()", "def f(x):\n    b = x\n    return locals()"),
    ("def f(x):\n    return [a for a in x]", "def f(x):\n    return [b for a in x]"),
    ("def f():\n    a = 1\n    def g():\n        nonlocal a\n        a = 2\n    g()\n    return a",
     "def f():\n    a = 1\n    def g():\n        a = 2\n    g()\n    return a"),
    ("@op\ndef f(x: int): ...", "@op\ndef f(x: float): ..."),
    ("class A:\n    x: int", "class A:\n    x: float"),
    ("def f(): return 1\ndef f(): return 2", "def f(): return 2\ndef f(): return 1"),
    ("def f(a): return g(a=a)", "def f(a): return g(b=a)"),
])
def test_what_looks_neutral_and_is_not(one: str, other: str) -> None:
    assert digest(one) != digest(other)


@pytest.mark.parametrize(("one", "other"), [
    ("def f():\n    a = 1\n    def g():\n        nonlocal a\n        a = 2\n    g()\n    return a",
     "def f():\n    b = 1\n    def h():\n        nonlocal b\n        b = 2\n    h()\n    return b"),
    ("def f(x):\n    return {a: b for a, b in x if (c := a)}, c",
     "def f(x):\n    return {d: e for d, e in x if (k := d)}, k"),
    ("async def f(x):\n    y = await x\n    return y", "async def f(x):\n    z = await x\n    return z"),
    ("def f(x):\n    for a in x: del a", "def f(x):\n    for b in x: del b"),
    ("def f(x):\n    y = 2\n    return (lambda z: z + y)", "def f(x):\n    w = 2\n    return (lambda z: z + w)"),
])
def test_renamed_in_every_scope(one: str, other: str) -> None:
    assert digest(one) == digest(other)
