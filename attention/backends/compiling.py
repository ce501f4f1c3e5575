"""Helpers that use torch.compile so that it can't fall back silently.

Past its recompile limit torch.compile runs the uncompiled function and says nothing. Dynamo counts recompilations per
code object, so each caller here gets a copy of the code object and thus a cache of its own, and `fullgraph=True` turns
the limit into an error.
"""
from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch

from attention.backends.base import Unsupported


def no_compiler(device: torch.device) -> str | None:
    """Gives the reason why nothing can be compiled for `device`; None if it can."""
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler here; install g++"
    return None


def compiled(function: Callable[..., Any], *, dynamic: bool | None) -> Callable[..., Any]:
    """Compiles `function` for one caller. `dynamic` is torch.compile's argument."""
    def copy(*args: object, **options: object) -> Any:
        return function(*args, **options)

    copy.__code__ = copy.__code__.replace()
    return torch.compile(copy, fullgraph=True, dynamic=dynamic)


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
