"""Faults in the measured code, each caused: the row says what happened, and the next row's figures are the same."""
from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attention.backends.eager import Eager
from attention.backends.eager import attend as honest
from perf.bench.prepare import Preparer
from perf.bench.subject import Missing, Subject, Wrong
from perf.measure import memory, switches
from perf.system.tools import failure
from perf.tests.test_cheats import CELL, CPU

ASKED = 2 ** 48  # bytes, which no address space has


def faulty(monkeypatch: pytest.MonkeyPatch, fault: Callable[[torch.Tensor], Any]) -> None:
    """Lets the kernel do something else than return its result."""
    monkeypatch.setattr(Eager, "attend", lambda self: lambda *qkv, **told: fault(honest(*qkv, **told)))


def test_out_of_memory_is_a_row_that_says_what_was_asked_for(monkeypatch):
    before = Subject(Preparer(CPU), CELL).check()
    held: list[weakref.ref[torch.Tensor]] = []

    def greedy(out: torch.Tensor) -> torch.Tensor:
        large = torch.ones(2 ** 22)
        held.append(weakref.ref(large))
        return out + torch.empty(ASKED // 4).sum()

    preparer = Preparer(CPU)
    with monkeypatch.context() as patch:
        faulty(patch, greedy)
        with pytest.raises(Missing, match=rf"^softmax:eager: does not fit: asked for {ASKED} bytes more$"):
            Subject(preparer, CELL)
    assert [one() for one in held] == [None]  # given back while the exception is still at hand
    preparer.release()
    after = Subject(preparer, CELL).check()
    assert (after.peak_bytes, after.counters, after.error) == (before.peak_bytes, before.counters, before.error)


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA error: out of memory\nCompile with x"),
                                   torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")])
def test_every_allocator_s_error_is_a_shortage(error):
    assert memory.shortage(error) == str(error).splitlines()[0]


def test_another_error_is_no_shortage(monkeypatch):
    def fault(out: torch.Tensor) -> None:
        raise RuntimeError("out of luck")

    faulty(monkeypatch, fault)
    with pytest.raises(RuntimeError, match="out of luck"):
        Subject(Preparer(CPU), CELL)


@pytest.mark.parametrize(("number", "word"), [(torch.nan, "NaN"), (-torch.inf, "Inf")])
def test_what_is_no_number_is_wrong_and_says_where(monkeypatch, number, word):
    def fault(out: torch.Tensor) -> torch.Tensor:
        out[1, 2, 3:5, 6] = number
        return out

    faulty(monkeypatch, fault)
    with pytest.raises(Wrong, match=f"out has 2 {word} of {CELL.batch * 4 * 256 * 32}, the first in sequence 1, "
                                    "head 2, row 3, column 6$"):
        Subject(Preparer(CPU), CELL).check()


def test_a_row_that_fails_leaves_no_switch_behind(monkeypatch):
    def fault(out: torch.Tensor) -> None:
        torch.set_default_dtype(torch.float64)
        os.environ["PERF_A_FAULT"] = "secret"
        raise ZeroDivisionError

    faulty(monkeypatch, fault)
    with pytest.warns(UserWarning, match=r"softmax:eager \(forward\) changed the default dtype of the whole process"), \
            pytest.raises(ZeroDivisionError):
        Subject(Preparer(CPU), CELL)
    assert torch.get_default_dtype() == torch.float32
    assert "PERF_A_FAULT" not in os.environ


@pytest.mark.parametrize(("move", "words"), [
    (lambda: torch.manual_seed(12345), "the seed of random numbers of the whole process from "),
    (lambda: os.environ.update(PERF_A_FAULT="secret"), "the environment of the whole process: PERF_A_FAULT"),
    (lambda: setattr(torch.backends.cudnn, "benchmark", True), "whether cuDNN tries its algorithms of "),
    (lambda: torch.set_grad_enabled(False), "whether gradients are recorded of the whole process from True to False")])
def test_a_switch_is_named_and_set_back(move, words):
    before = switches.positions()
    torch.rand(3)  # to draw is not to seed
    assert switches.restore(before) is None
    move()
    assert (switches.restore(before) or "").startswith(f"changed {words}")
    assert switches.positions() == before


class InductorError(RuntimeError):
    """Stands for torch's, whose import takes seconds."""


InductorError.__module__ = "torch._inductor.exc"


def test_a_failed_compilation_carries_the_compiler_s_last_line():
    text = ("CppCompileError: C++ compile error\n\nCommand:\ng++ x.cpp -Werror\n\nOutput:\n"
            "x.cpp:3:5: error: expected ';'\ncompilation terminated.\n\n"
            "Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace")
    assert failure(InductorError(text)) == (
        "InductorError: CppCompileError: C++ compile error x.cpp:3:5: error: expected ';'")
    assert failure(RuntimeError(text)) == "RuntimeError: CppCompileError: C++ compile error"
    assert failure(KeyError()) == "KeyError: KeyError"


@pytest.mark.slow  # runs torch's compiler as far as g++
def test_torch_s_own_failure_is_told_so(tmp_path):
    import torch._inductor.config as inductor

    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *--version*) exec g++ "$@";; esac\n'
                        'echo "x.cpp:3:5: error: no such thing" >&2\nexit 1\n')
    compiler.chmod(0o755)
    broken = inductor.patch({"cpp.cxx": (str(compiler),)})
    uncached = torch.compiler.config.patch(force_disable_caches=True)  # type: ignore[attr-defined]
    with broken, uncached, pytest.raises(Exception, match="compile error") as caught:
        torch.compile(lambda x: (7 * x + 3).relu().sum(-1))(torch.randn(64, 64))
    torch.compiler.reset()
    assert failure(caught.value).endswith("x.cpp:3:5: error: no such thing")
