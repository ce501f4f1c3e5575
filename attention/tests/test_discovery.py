"""A new function or backend is one new file: it joins by being there, and a broken one is named."""
from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import attention
from attention import discovery, registry
from attention.testing import check, inputs
from attention.tests.options import fixed

FUNCTION = '''
"""Softmax attention at a temperature."""
from attention import masks
from attention.backends.eager import eager
from attention.functions.softmax import pairs as all_pairs
from attention.reference import softmax_attention
from attention.registry import register

def pairs(n, m, causal, heat):
    return all_pairs(n, m, causal)

def validate(heat):
    if not heat > 0:
        raise ValueError(f"heated: heat={heat!r} must be a number > 0")

@register("heated", kind="structured", paper="-", pairs=pairs, options={"heat": 100.0}, validate=validate,
          test_values={"heat": (2.0, 0.5)})
def oracle(q, k, v, *, causal, scale, key_mask, dtype, heat):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return softmax_attention(q, k, v, scale=scale / heat, key_mask=key_mask, dtype=dtype,
                             visible=(lambda i, j: j <= i) if causal else None)

@register("heated", backends=[eager])
def heated(attend, q, k, v, *, causal, scale, key_mask, heat):
    return attend(q, k, v, scale=scale / heat, band=masks.band(causal), key_mask=key_mask)
'''
BACKEND = '''
"""Softmax attention one query head after the other."""
import torch
from attention import masks
from attention.backends import eager
from attention.backends.base import Backend
from attention.registry import register

class HeadByHead(Backend):
    name = "head-by-head"

    def attend(self):
        return attend

def attend(q, k, v, *, scale, band, key_mask):
    shared = q.shape[1] // k.shape[1]
    return torch.cat([eager.attend(q[:, h:h + 1], k[:, h // shared:h // shared + 1], v[:, h // shared:h // shared + 1],
                                   scale=scale, band=band, key_mask=key_mask) for h in range(q.shape[1])], 1)

@register("softmax", backends=[HeadByHead()])
def softmax(attend, q, k, v, *, causal, scale, key_mask):
    return attend(q, k, v, scale=scale, band=masks.band(causal), key_mask=key_mask)
'''


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose `functions/` and `backends/` count as parts of the packages of these names."""
    before = set(sys.modules)
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))
    monkeypatch.setattr(registry, "_variants", dict(registry._variants))
    for name in ("functions", "backends"):
        (tmp_path / name).mkdir()
        package = importlib.import_module(f"attention.{name}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("attention."):
            del sys.modules[name]


def load() -> None:
    importlib.invalidate_caches()
    discovery.load("attention.functions", "attention.backends")


def test_a_function_joins_by_one_file(folders: Path) -> None:
    before = attention.names()
    (folders / "functions" / "heated.py").write_text(FUNCTION)
    load()
    assert attention.names() == [*before, "heated:eager"]
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=9, head_dim=8, grad=True)
    options = fixed("heated")
    assert options == {"heat": 2.0}
    module = attention.create("heated:eager", heads=4, kv_heads=2, head_dim=8, causal=True, **options)
    assert check(module, q, k, v, grad=True).ok
    with pytest.raises(ValueError, match="heat=0 must be a number > 0"):
        attention.create("heated:eager", heads=1, head_dim=8, heat=0)


def test_a_function_that_is_wrong_is_found_out(folders: Path) -> None:
    (folders / "functions" / "heated.py").write_text(FUNCTION.replace("attend(q, k, v, scale=scale / heat",
                                                                      "attend(q, k, v, scale=scale"))
    load()
    module = attention.create("heated:eager", heads=2, head_dim=8, **fixed("heated"))
    assert not check(module, *inputs(batch=1, heads=2, n=9, head_dim=8)).ok


def test_a_backend_joins_by_one_file(folders: Path) -> None:
    before = attention.names()
    (folders / "backends" / "head_by_head.py").write_text(BACKEND)
    load()
    assert attention.names() == [*before, "softmax:head-by-head"]
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=9, head_dim=8, grad=True)
    module = attention.create("softmax:head-by-head", heads=4, kv_heads=2, head_dim=8, causal=True)
    assert check(module, q, k, v, grad=True, key_mask=torch.arange(9).expand(2, 9) > 2).ok


@pytest.mark.parametrize("folder", ["functions", "backends"])
@pytest.mark.parametrize(("text", "reason"), [
    ("def broken(:\n", "SyntaxError: "),
    ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
    ("from attention.registry import register\n\n@register('mine', pairs=len)\ndef oracle(): ...\n",
     "ValueError: function 'mine' needs paper="),
    (FUNCTION.replace('test_values={"heat"', 'test_values={"heet"'),
     "ValueError: function 'heated': test_values names 'heet'"),
    (BACKEND.replace("[HeadByHead()]", "[eager.eager]"),
     "ValueError: attention variant 'softmax:eager' is registered already"),
])
def test_a_broken_file_is_named_in_one_line(folder: str, text: str, reason: str, folders: Path) -> None:
    """Also where another file, which comes earlier in the alphabet, imports it and fails first."""
    (folders / folder / "mine.py").write_text(text)
    (folders / folder / "earlier.py").write_text(f"from attention.{folder} import mine\n")
    expected = re.escape(f"{folders / folder / 'mine.py'} can't be imported: {reason}")
    with pytest.raises(ImportError, match=f"^{expected}") as error:
        load()
    assert "\n" not in str(error.value)


def test_a_helper_is_imported_by_those_that_need_it(folders: Path) -> None:
    (folders / "functions" / "_helper.py").write_text("raise AssertionError('nobody needs it')\n")
    load()
