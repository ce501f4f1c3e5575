"""Helpers that use torch.compile so that it can't fall back silently.

Past its recompile limit torch.compile runs the uncompiled function and says nothing. Dynamo counts recompilations per
code object, so each caller here gets a copy of the code object and thus a cache of its own, and `fullgraph=True` turns
the limit into an error. Dynamo also remembers by name which sizes change, so each copy has a name of its own: its first
shape is compiled as it is, whatever others were called with.
"""
from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from attention.backends.base import Unsupported

LARGE = 2 ** 20  # numbers
_copies = itertools.count()


def no_compiler(device: torch.device) -> str | None:
    """Gives the reason why nothing can be compiled for `device`; None if it can."""
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler here; install g++"
    if device.type == "cpu" and not Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").exists():
        return "torch.compile needs Python's headers here, and there is no Python.h; install python3-dev"
    return None


def compiled(function: Callable[..., Any], *, dynamic: bool | None) -> Callable[..., Any]:
    """Compiles `function` for one caller. `dynamic` is torch.compile's argument."""
    def copy(*args: object, **options: object) -> Any:
        return function(*args, **options)

    copy.__code__ = copy.__code__.replace(co_name=f"copy_{next(_copies)}")
    return torch.compile(copy, fullgraph=True, dynamic=dynamic)


def compiled_on_gpu(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Makes elementwise operations one kernel on a GPU, where each of them would read and write whole tensors.

    Elsewhere, on small tensors, and in code that is being compiled already, `function` runs as it is written. Its first
    argument is a tensor. All that may differ between calls of one compiled copy is the last axis but one, the length.
    Gradients of gradients are an error there.
    """
    @functools.wraps(function)
    def call(*args: Any) -> torch.Tensor:
        if torch.compiler.is_compiling() or not pays(args[0]):
            return function(*args)
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with refusals(function.__name__, args[0], args[0]):
            return _copy(function, modes, tuple(_kind(x) for x in args))(*args)

    return call


def pays(x: torch.Tensor) -> bool:
    """Tells whether it pays to compile what is done to x, for seconds: below `LARGE` a GPU mostly launches."""
    return x.is_cuda and x.numel() >= LARGE


@functools.cache
def _copy(function: Callable[..., torch.Tensor], *kinds: Any) -> Callable[..., torch.Tensor]:
    return compiled(function, dynamic=None)


def _kind(x: Any) -> Any:
    """Gives all of an argument but its length."""
    if not isinstance(x, torch.Tensor):
        return x
    return x.dtype, x.device, x.requires_grad, x.is_contiguous(), x.shape[:-2], x.shape[-1]


@contextlib.contextmanager
def refusals(backend: str, q: torch.Tensor, k: torch.Tensor) -> Iterator[None]:
    """Turns torch.compile's errors into one line each.

    Raises RuntimeError for more shapes than the recompile limit, and Unsupported if the compiler finds no kernel.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit
    from torch._inductor.exc import InductorError

    try:
        yield
    except FailOnRecompileLimitHit as error:
        limit = torch._dynamo.config.recompile_limit
        raise RuntimeError(f"{backend}: one module was called in more than {limit} shapes, each compiled anew; "
                           "build one module a shape, or use another backend") from error
    except InductorError as error:
        why = str(error).splitlines()[0].removeprefix("LoweringException: ")
        raise Unsupported(f"{backend}: torch.compile has no kernel for q {tuple(q.shape)}, "
                          f"k {tuple(k.shape)} in {q.dtype}: {why}") from error
