"""Edits copies of attention/ and models/, and asks which workloads that concerns."""
from __future__ import annotations

import ast
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import attention
import models
from models import registry as model_registry
from perf.compare.closure import _closure, fingerprint, unchanged
from perf.compare.side import Side
from perf.workloads.workload import BARE, Workload

ROOT = Path(__file__).parents[2]
SDPA = Workload(BARE, "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")


def copied(folder: Path) -> Side:
    for package in ("attention", "models"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    return Side(folder, folder.name)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return copied(tmp_path_factory.mktemp("base"))


@pytest.fixture
def head(tmp_path: Path) -> Side:
    return copied(tmp_path)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def sources(work: Workload | str, side: Side) -> set[str]:
    """Lists the files that it depends on."""
    return {path for path in _closure(work, side).digests if not path.startswith("(")}


def changed(base: Side, head: Side) -> set[str]:
    """Variants of every function, and presets."""
    names = (*attention.names(), *models.presets())
    return {name for name in names if fingerprint(name, base) != fingerprint(name, head)}


def test_the_same_sources_are_unchanged(base: Side, head: Side) -> None:
    assert changed(base, head) == set()
    assert unchanged(SDPA, base, head)


def test_an_edited_backend_concerns_its_variants_exactly(base: Side, head: Side) -> None:
    append(head.folder / "attention" / "backends" / "tiled.py", "\n_more = 1\n")
    assert changed(base, head) == set(attention.names(backend="tiled"))


def test_an_edited_function_concerns_its_variants_and_those_that_use_it(base: Side, head: Side) -> None:
    append(head.folder / "attention" / "functions" / "alibi.py", "\n_more = 1\n")
    assert changed(base, head) == {*attention.names(function="alibi"), *attention.names(function="rope-alibi")}


def test_edited_masks_concern_whatever_imports_them(base: Side, head: Side) -> None:
    append(head.folder / "attention" / "masks.py", "\n_more = 1\n")
    found = changed(base, head)
    assert {"softmax:sdpa", "alibi:fa2", "linformer:eager"} <= found  # all backends but those without masks
    assert not found & {"autocorrelation:fft", *models.presets()}
    for name in found:
        assert "attention/masks.py" in sources(name, base)


@pytest.mark.parametrize("path", ["module.py", "registry.py", "function.py", "backends/base.py", "testing/rule.py"])
def test_what_every_call_goes_through_concerns_all(base: Side, head: Side, path: str) -> None:
    append(head.folder / "attention" / path, "\n_more = 1\n")
    names = {"softmax:sdpa", "autocorrelation:fft", "alibi:fa2", "decode:fa2-paged", "distilgpt2", "tft-160", "vit-b16"}
    assert {name for name in names if fingerprint(name, base) != fingerprint(name, head)} == names


def test_comments_docstrings_and_layout_do_not_count(base: Side, head: Side) -> None:
    path = head.folder / "attention" / "backends" / "sdpa.py"
    path.write_text('"""Another docstring."""\n# a comment\n' + path.read_text().partition('"""\nfrom')[2].join(
        ["from", "\n\n"]))
    assert fingerprint("softmax:sdpa", base) == fingerprint("softmax:sdpa", head)
    path.write_text(path.read_text().replace("n == 1", "n == 2"))
    assert fingerprint("softmax:sdpa", base) != fingerprint("softmax:sdpa", head)


def test_a_new_function_concerns_nothing_else(base: Side, head: Side) -> None:
    """It joins by being there."""
    path = head.folder / "attention" / "functions" / "fresh.py"
    path.write_text("from attention.backends.sdpa import sdpa\nfresh = 1\n")
    assert changed(base, head) == set()


def test_a_new_backend_concerns_nothing_else(base: Side, head: Side) -> None:
    """It registers itself for functions that are there already."""
    (head.folder / "attention" / "backends" / "fresh.py").write_text(
        "from attention.backends.base import Backend\nfrom attention.registry import register\n"
        "@register('softmax', backends=[Backend()])\ndef softmax(attend, q, k, v, **call):\n    return q\n")
    assert changed(base, head) == set()


@pytest.mark.parametrize(("path", "text"), [
    ("attention/functions/fresh.py", "import torch\ntorch.set_float32_matmul_precision('high')\n"),
    ("attention/functions/fresh.py", "from attention import masks\nmasks.dense = None\n"),
    ("attention/functions/fresh.py", "if True:\n    x = 1\n"),
    ("attention/functions/fresh.py", "def broken(:\n"),
    ("attention/__init__.py", "setting = {'fast': True}\n"),
    ("attention/backends/kernel.cu", "__global__ void attend();\n"),
])
def test_what_importing_any_file_does_concerns_all(base: Side, head: Side, path: str, text: str) -> None:
    target = head.folder / path
    target.write_text((target.read_text() if target.exists() else "") + text)
    assert not unchanged(SDPA, base, head)
    assert not unchanged(SDPA, head, base)


def test_a_name_that_a_package_passes_on_is_followed(base: Side, head: Side) -> None:
    """The import of `create` from attention.module becomes another module's, which is a copy."""
    shutil.copy(head.folder / "attention" / "module.py", head.folder / "attention" / "other.py")
    init = head.folder / "attention" / "__init__.py"
    init.write_text(init.read_text().replace("from attention.module import", "from attention.other import"))
    assert "attention/other.py" in sources(SDPA, head)
    assert not unchanged(SDPA, base, head)


@pytest.mark.parametrize("line", [
    "from attention.helper import speed", "from attention import helper", "import attention.helper",
    "from . import masks, helper", "from .helper import *", "from .helper import speed as quick",
    "def late():\n    from attention.helper import speed\n    return speed",
    "import importlib\nmodule = importlib.import_module('attention.helper')",
    "import importlib\nmodule = importlib.import_module('.'.join(['attention', 'helper']))",
    "import attention\nspeed = attention.helper.speed", "import attention as a\nspeed = getattr(a, 'helper').speed",
])
def test_every_way_of_importing_is_seen(base: Side, head: Side, line: str) -> None:
    (head.folder / "attention" / "helper.py").write_text("speed = 1\n")
    if "getattr" in line or "attention.helper.speed" in line:
        append(head.folder / "attention" / "__init__.py", "from attention import helper\n")
    append(head.folder / "attention" / "reference.py", f"\n{line}\n")  # which the oracle of softmax is made of
    assert "attention/helper.py" in sources(SDPA, head)
    before = fingerprint(SDPA, head)
    append(head.folder / "attention" / "helper.py", "speed = 2\n")
    assert fingerprint(SDPA, head) != before


def test_a_file_on_one_side_only_is_a_change(base: Side, head: Side) -> None:
    (head.folder / "attention" / "functions" / "softmax.py").unlink()
    assert not unchanged(SDPA, base, head)
    assert not unchanged(SDPA, head, base)


def test_a_model_depends_on_its_family_and_its_attention(base: Side, head: Side) -> None:
    def concerned() -> set[str]:
        works = {"distilgpt2": "sdpa", "vit-b16": "tiled", "tft-160": "sdpa", "gpt2": "tiled"}
        return {name for name, backend in works.items()
                if not unchanged(replace(SDPA, model=name, backend=backend), base, head)}

    assert concerned() == set()
    append(head.folder / "models" / "vit.py", "\n_more = 1\n")
    assert concerned() == {"vit-b16"}
    append(head.folder / "attention" / "backends" / "tiled.py", "\n_more = 1\n")
    assert concerned() == {"vit-b16", "gpt2"}
    append(head.folder / "models" / "transformers_attention.py", "\n_more = 1\n")
    assert concerned() == {"vit-b16", "gpt2", "distilgpt2"}
    append(head.folder / "attention" / "backends" / "eager.py", "\n_more = 1\n")  # which models are built on
    assert concerned() == {"vit-b16", "gpt2", "distilgpt2", "tft-160"}


def test_a_method_of_quantization_concerns_what_it_quantises(base: Side, head: Side) -> None:
    plain = replace(SDPA, model="tft-160")
    works = [replace(plain, quantization=method) for method in ("none", "bnb-int8", "bnb-nf4", "ao-int8-weight")]

    def concerned() -> list[str]:
        return [w.quantization for w in works if not unchanged(w, base, head)]

    assert concerned() == []
    append(head.folder / "models" / "quantization" / "bitsandbytes.py", "\n_more = 1\n")
    assert concerned() == ["bnb-int8", "bnb-nf4"]
    append(head.folder / "models" / "quantization" / "quantize.py", "\n_more = 1\n")
    assert concerned() == ["none", "bnb-int8", "bnb-nf4", "ao-int8-weight"]
    assert not unchanged(replace(plain, quantization="int3"), base, base)  # not known here


def test_families_are_built_by_the_files_of_their_names() -> None:
    """Which module builds a preset is known only when it is built: `models.registry` imports it by name."""
    for preset in models.presets().values():
        if (ROOT / "models" / f"{preset.family}.py").exists():
            assert model_registry._modules[preset.family] == f"models.{preset.family}"


def test_what_is_not_registered_here_is_never_unchanged(base: Side) -> None:
    assert sources("softmax:nowhere", base) == sources("no-model", base) == set()
    assert not unchanged(replace(SDPA, backend="nowhere"), base, base)
    assert not unchanged(replace(SDPA, model="no-model"), base, base)


def test_a_tree_that_was_only_reformatted_is_unchanged(base: Side, head: Side) -> None:
    """Every file written anew from its syntax: without comments, in other lines, with other quotes."""
    for path in head.folder.rglob("*.py"):
        path.write_text(ast.unparse(ast.parse(path.read_text())))
    assert changed(base, head) == set()
