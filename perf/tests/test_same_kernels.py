"""Sides that run the same kernels get their verdict without a time; sides that do not are never called the same."""
from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perf.compare import closure, pairs
from perf.compare.neutral import emptied, neutral, qualified
from perf.compare.record import SAME_KERNELS, Row
from perf.compare.side import ROOT, Side
from perf.measure.compiled_code import FunctionTrace, code_hashes, graphs, kernels
from perf.measure.counters import count
from perf.tests.sides import SIDE
from perf.verdict import exact
from perf.verdict.verdict import Thresholds
from perf.workloads.workload import BARE, Workload

LINEAR, FLEX, WHOLE, MASKS = (Path("attention") / name for name in (
    "functions/linear.py", "backends/flex.py", "backends/fused.py", "masks.py"))
FUSED = Workload(BARE, "linear", "fused", "forward", True, 1, 2, 2, 128, 128, 32, "fp32")
EAGER, SOFTCAP = replace(FUSED, backend="eager"), replace(FUSED, function="softcap", backend="flex")
PHI, SCORE = "elu(q.to(wide)) + 1, elu", "return softcap * torch.tanh(score / softcap)"
CHUNKS = ("    compute = _linear.causal if causal else _linear.full\n"
          "    return compute(*_features(q, k, v, key_mask)).to(q.dtype)")

BOTH = (ROOT / FLEX).read_text().partition("def _block_mask(")[2].partition("class FlexSums")[0]
MASK, START, SUMS = BOTH.partition("def _sums(")

Edit = tuple[Path, str, str]
# Of 20 neutral edits these come to the same source,
NO_CODE: list[Edit] = [
    (LINEAR, "    wide = torch", "    # the features are computed in it\n    wide = torch"),
    (LINEAR, "Computes φ(q), φ(k) and v in float32 or wider", "Gives the features"),
    (LINEAR, "arXiv\n2006.16236", "2020, arXiv\n2006.16236"),
    (LINEAR, "    wide = torch", "    wide: torch.dtype = torch"),
    (LINEAR, "wide", "dtype"),
    (LINEAR, "phi_q", "features_q"),
    (LINEAR, ") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:", "):"),
    (LINEAR, "from collections.abc import Callable\n", "from collections.abc import Callable, Sequence\n"),
    (LINEAR, PHI, "(\n        elu(q.to(wide)) + 1), elu"),
    (FLEX, "band_mod", "of_the_band"),
    (FLEX, "others_mod", "rest"),
    (FLEX, "cap: Callable) -> Callable:", "cap: Callable):"),
    (FLEX, "from attention import masks\n", "from attention import masks\nif TYPE_CHECKING:\n    import numpy\n"),
    (FLEX, f"def _block_mask({BOTH}", f"{START}{SUMS}def _block_mask({MASK}"),
    (FLEX, 'def _sums() -> Any:', 'def _sums():'),
    (FLEX, '    """Gives the request for the log-sum-exp of each row\'s scores."""\n', ""),
]
# and these to the same kernels.
NO_KERNEL: list[tuple[Workload, Edit]] = [
    (FUSED, (LINEAR, PHI, "1 + elu(q.to(wide)), elu")),
    (SOFTCAP, (FLEX, SCORE, "ratio = score / softcap\n    return torch.tanh(ratio) * softcap")),
    (EAGER, (LINEAR, CHUNKS, CHUNKS.replace("causal if causal else _linear.full", "full"))),
    (EAGER, (LINEAR, "def flops(", "def _unused(n):\n    return n\n\n\ndef flops(")),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return copied(tmp_path_factory.mktemp("base"))


def copied(folder: Path) -> Side:
    for package in ("attention", "models"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    (folder / "perf").symlink_to(ROOT / "perf")
    return Side(folder, folder.name)


@pytest.fixture
def edited(base: Side, tmp_path: Path) -> Callable[..., Side]:
    def made(path: Path, before: str, after: str) -> Side:
        """Links to the base, but for one file."""
        for package in ("attention", "models", "perf"):
            shutil.copytree(base.folder / package, tmp_path / package, symlinks=True, copy_function=link) if (
                package != "perf") else (tmp_path / package).symlink_to(ROOT / package)
        text = (base.folder / path).read_text()
        assert before in text
        (tmp_path / path).unlink()
        (tmp_path / path).write_text(text.replace(before, after))
        return Side(tmp_path, "the head")

    def link(source: str, target: str) -> None:
        Path(target).symlink_to(source)

    return made


def compared(w: Workload, base: Side, head: Side) -> tuple[Row, pairs.Case]:
    cases: dict[str, pairs.Case] = {}
    told = pairs.compare([w], base, head, "cpu", lambda w: Thresholds(least_pairs=2, most_pairs=2, rounds=1), 0.0,
                         cases=cases, changed=lambda w: closure.changed(w, base, head))
    [row] = [cases[w.id].row(verdict) for w, verdict in told]
    return row, cases[w.id]


@pytest.mark.parametrize("edit", NO_CODE, ids=range(len(NO_CODE)))
def test_a_neutral_edit_needs_no_process(base: Side, edited: Callable[..., Side], edit: Edit) -> None:
    head = edited(*edit)
    assert all(closure.unchanged(w, base, head) for w in (FUSED, SOFTCAP, EAGER))


@pytest.mark.slow  # starts processes that compile
@pytest.mark.parametrize(("w", "edit"), NO_KERNEL, ids=range(len(NO_KERNEL)))
def test_a_neutral_edit_of_compiled_or_idle_code_is_not_timed(base: Side, edited: Callable[..., Side], w: Workload,
                                                              edit: Edit) -> None:
    head = edited(*edit)
    assert not closure.unchanged(w, base, head)
    row, case = compared(w, base, head)
    assert (row.sentence, row.word) == (f"ok, the same kernels: {SAME_KERNELS}", "unchanged")
    assert (case.ratios, row.base, row.verdict.pairs) == ([], None, 0)


@pytest.mark.slow
@pytest.mark.parametrize("edit", [
    (WHOLE, "    return call\n", "    made = call\n    return made and call\n"),
    (LINEAR, PHI, "1 + elu(q.to(wide)), elu")], ids=["on import", "in the call"])
def test_what_python_runs_is_timed(base: Side, edited: Callable[..., Side], edit: Edit) -> None:
    head = edited(*edit)
    assert closure.changed(EAGER, base, head)
    row, case = compared(EAGER, base, head)
    assert row.word != "unchanged"
    assert row.verdict.pairs == len(case.ratios) == 2


@pytest.mark.parametrize(("edit", "names"), [
    ((LINEAR, PHI, "1 + elu(q.to(wide)), elu"), {"_features"}),
    ((LINEAR, PHI, "_phi(q, wide), elu"), {"_features"}),
    ((LINEAR, "lambda q, k, mask, i, j: q @ k.mT", "lambda q, k, mask, i, j: q @ k.mT * 1"), {"oracle"}),
    ((LINEAR, "def _features(q", "def _more(x):\n    return x\n\n\ndef _features(q"), {"_more"}),
    ((LINEAR, "def _features(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,\n", "def _features(q, k, v, *,\n"),
     {"_features"}),
    ((WHOLE, "attend(compute, inner, q", "attend(compute, None, q"), {"whole.<locals>.call"}),
    ((WHOLE, "torch.Tensor] | None = None", "torch.Tensor] | None = ()"), {"Whole.__init__"}),
    ((LINEAR, "register(\"linear\", backends=[fused]", "SIZE = 1\nregister(\"linear\", backends=[fused]"), None),
    ((LINEAR, 'cost="n"', 'cost="n2"'), None),
    ((LINEAR, "def by_chunks(attend: Callable, q", "def by_chunks(attend: Callable, more, q"), None),
    ((LINEAR, "import torch\n", "import numpy\nimport torch\n"), None),
    ((LINEAR, "    wide = torch", "    import triton\n    wide = torch"), None),
    ((LINEAR, "    wide = torch", "    exec('')\n    wide = torch"), None),
    ((LINEAR, "    wide = torch", "    torch.jit.script(q)\n    wide = torch"), None),
    ((LINEAR, "def _features(q", "def elu(x):\n    return x\n\n\ndef _features(q"), None),
    ((LINEAR, "def _features(q", "def tuple(x):\n    return x\n\n\ndef _features(q"), None),
    ((WHOLE, 'name = "fused"', 'name = "fused"\n    more = 1'), None),
    ((WHOLE, "    def attend(self)", "    def more(self):\n        pass\n\n    def attend(self)"), None),
    ((Path("attention/testing/rule.py"), "def ", "def _more(x):\n    return x\n\n\ndef "), None),
])
def test_the_functions_are_named_in_whose_bodies_alone_two_sides_differ(
        base: Side, edited: Callable[..., Side], edit: Edit, names: set[str] | None) -> None:
    head, path = edited(*edit), edit[0].as_posix()
    expected = None if names is None else {f"{path}:{name}" for name in names}
    assert closure.changed(FUSED, base, head) == closure.changed(FUSED, head, base) == expected


# A module of numbers: those of a module's statements, signatures and classes, and those of bodies.
OUTSIDE = ("A = {}\n@op({})\ndef f(x={}): return {}\n"
           "class C:\n    b = {}\n    def m(self, y={}): return {}\ndef g(): return {}\n")
PLACES = {3: "f", 6: "C.m", 7: "g"}
NUMBERS = st.lists(st.integers(0, 1), min_size=8, max_size=8)


@given(NUMBERS, NUMBERS)
def test_no_difference_is_lost_between_what_is_left_and_the_bodies(one: list[int], other: list[int]) -> None:
    (left, bodies), (left_there, there) = (parted(OUTSIDE.format(*numbers)) for numbers in (one, other))
    differ = {i for i in range(8) if one[i] != other[i]}
    assert (left != left_there) == bool(differ - PLACES.keys())
    assert {name for name in bodies if bodies[name] != there[name]} == {PLACES[i] for i in differ & PLACES.keys()}


def parted(code: str) -> tuple[list[str], dict[str, str]]:
    tree = ast.parse(code)
    names = dict(qualified(tree))
    neutral(tree)
    return emptied(tree, names)


KNOWN = replace(SIDE, written=["aa"], launches=4 * ({"kernel": "triton_poi_fused_add_0", "code": "bb"},))
OTHERS: dict[str, Any] = {"counters": {"launches": 3}, "error": 0.5, "peak_bytes": 1, "missing": "no", "invalid": "no",
                          "wrong": "no", "kernels": {"gemm": 4}, "launches": (), "written": ["ab"]}


def test_sides_are_the_same_in_all_that_carries_no_noise() -> None:
    noisy = {"seconds", "mhz", "compile_seconds", "metrics", "unread"}
    assert {field.name for field in fields(exact.Side)} == OTHERS.keys() | noisy
    assert exact.same(KNOWN, replace(KNOWN, seconds={"gemm": 1.0}, mhz=1.0, compile_seconds=1.0))


@given(st.sets(st.sampled_from(sorted(OTHERS)), min_size=1))
def test_sides_that_differ_in_any_of_it_are_not(names: set[str]) -> None:
    other = replace(KNOWN, **{name: OTHERS[name] for name in names})
    assert not exact.same(KNOWN, other)
    assert not exact.same(other, KNOWN)


@pytest.mark.parametrize("unknown", [
    replace(KNOWN, written=None), replace(KNOWN, missing="no"), replace(KNOWN, wrong="no"),
    replace(KNOWN, launches=4 * ({"kernel": "triton_poi_fused_add_0", "registers": 8},)),
    replace(KNOWN, launches=KNOWN.launches[:3])])
def test_what_is_not_known_is_not_the_same(unknown: exact.Side) -> None:
    assert not exact.same(unknown, unknown)


def test_functions_that_ran_are_named_and_those_of_others_are_not() -> None:
    def inner() -> list[int]:
        return [i for i in map(lambda i: i, range(3))]  # noqa: C416, C417

    def idle() -> None: ...

    with FunctionTrace(["perf"]) as ran:
        inner()
    here = f"perf/tests/test_same_kernels.py:{test_functions_that_ran_are_named_and_those_of_others_are_not.__name__}"
    assert {name for name in ran.names if name.startswith(here)} == {f"{here}.<locals>.inner"}
    assert not ran.generated
    with ran:
        idle()
    assert {f"{here}.<locals>.inner", f"{here}.<locals>.idle"} <= ran.names
    with FunctionTrace(["attention"]) as other:
        inner()
    assert not other.names


class CompiledFxGraph:
    """Stands for the class of the same name in torch's inductor."""

    def __init__(self, source_code: str, **constants: torch.Tensor) -> None:
        self.source_code, self.constants, self._fx_graph_cache_key = source_code, constants, "key"


TEXT = """# Source Nodes: [{local}]
cpp_fused_add_0 = async_compile.cpp_pybinding(['float*'], r'''
for(x0) at::vec::Vectorized<float>(x0);
''')


cpp_fused_mul_1 = async_compile.cpp_pybinding(['float*'], r'''
for(x0) for(x1) {factor} * x1;
''')


def call(args):
    cpp_fused_add_0(args)  # reuse
"""


def test_graphs_are_found_by_the_keys_that_ran() -> None:
    def event(name: str) -> Any:
        return SimpleNamespace(name=lambda: name)

    graph = CompiledFxGraph("")
    assert graphs([event("aten::mm"), event("## Call CompiledFxGraph key ##")]) == [graph]
    assert graphs([event("## Call CompiledFxGraph another ##")]) is None
    assert graphs([event("aten::mm")]) == []


def test_compiled_code_is_the_same_by_its_text_without_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perf.measure.compiled_code._entries", lambda: ["guards"])
    monkeypatch.setitem(__import__("sys").modules, "torch._dynamo", torch)
    one, renamed, faster = (CompiledFxGraph(TEXT.format(local=local, factor=factor))
                            for local, factor in (("phi", 2), ("features", 2), ("phi", 3)))
    assert code_hashes([one]) == code_hashes([renamed]) != code_hashes([faster])
    assert code_hashes([one, one]) != code_hashes([one])
    assert code_hashes([CompiledFxGraph("", c=torch.ones(2))]) != code_hashes([CompiledFxGraph("", c=torch.zeros(2))])
    found = kernels(one)
    assert [(k["kernel"], k["loops"], k["vectors"]) for k in found] == [("cpp_fused_add_0", 1, 1),
                                                                        ("cpp_fused_mul_1", 2, 0)]
    assert [a["code"] == b["code"] for a, b in zip(found, kernels(faster), strict=True)] == [True, False]


# Faults of code generation. A Triton kernel's record is made up; what inductor writes for a CPU is real below.
TRITON = {"kernel": "triton_red_fused_add_exp_sum_0", "grid": [64, 1, 1], "block": [128, 1, 1], "registers": 40,
          "shared": 2048, "code": "aa", "spills": 0, "stages": 3, "warps": 4, "tile": {"XBLOCK": 1, "RBLOCK": 1024}}


@pytest.mark.parametrize(("head", "words"), [
    ([{"stages": 1, "code": "bb"}], "stages 1 (was 3)"),
    ([{"warps": 8, "block": [256, 1, 1], "code": "bb"}], "warps 8 (was 4), block 256 x 1 x 1 (was 128 x 1 x 1)"),
    ([{"tile": {"XBLOCK": 1, "RBLOCK": 64}, "code": "bb"}], "tile RBLOCK=64 XBLOCK=1 (was RBLOCK=1024 XBLOCK=1)"),
    ([{"spills": 96, "registers": 32, "code": "bb"}], "spilled registers 96 (was 0), registers 32 (was 40)"),
    ([{"shared": 65536, "code": "bb"}], "shared bytes 65536 (was 2048)"),
    ([{"kernel": "triton_poi_fused_add_exp_0"}, {"kernel": "triton_red_fused_sum_1"}],
     "a lost fusion: triton_poi_fused_add_exp, triton_red_fused_sum for triton_red_fused_add_exp_sum")])
def test_a_fault_in_a_kernel_of_triton_is_named(head: list[dict[str, Any]], words: str) -> None:
    [change] = exact.changes(replace(SIDE, launches=(TRITON,)),
                             replace(SIDE, launches=tuple(TRITON | one for one in head)), Thresholds())
    assert change.words.removeprefix("triton_red_fused_add_exp_sum_0: ") == words


def plain(x: torch.Tensor) -> torch.Tensor:
    return ((x.exp() + 1) * x.sigmoid()).sum(-1)


def wide(x: torch.Tensor) -> torch.Tensor:
    return ((x.double().exp() + 1).float() * x.sigmoid()).sum(-1)


def apart(x: torch.Tensor) -> torch.Tensor:
    y = x.exp() + 1
    torch._dynamo.graph_break()
    return (y * x.sigmoid()).sum(-1)


def alike(x: torch.Tensor) -> torch.Tensor:
    larger = 1 + x.exp()
    return (larger * x.sigmoid()).sum(dim=-1)


@pytest.mark.slow  # compiles C++
def test_a_fault_in_code_that_is_compiled_for_a_cpu_is_named() -> None:
    def side(call: Callable, **options: Any) -> exact.Side:
        torch.compiler.reset()
        compiled, x = torch.compile(call, dynamic=False, options=options or None), torch.ones(64, 256)
        compiled(x)
        counted = count(lambda: compiled(x), torch.device("cpu"))
        assert counted.graphs
        return exact.Side(counted.counters, None, None, kernels=counted.kernels, launches=tuple(counted.launches),
                          written=code_hashes(counted.graphs))

    def words(head: exact.Side) -> str:
        assert not exact.same(before, head)
        return "; ".join(change.words for change in exact.changes(before, head, Thresholds()))

    before, name = side(plain), "cpp_fused_add_exp_mul_sigmoid_sum"
    assert exact.same(before, side(plain))
    assert side(alike).launches == before.launches
    assert words(side(plain, **{"cpp.simdlen": 1})) == f"{name}_0: vectors 0 (was 6)"
    assert words(side(apart)).endswith(f"a lost fusion: cpp_fused_add_exp, cpp_fused_mul_sigmoid_sum for {name}")
    assert words(side(wide)) == f"other kernels: cpp_fused__to_copy_add_exp_mul_sigmoid_sum for {name}"
