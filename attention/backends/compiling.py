"""torch.compile with no silent way out: a code object of its own for each caller, one graph, every refusal in one line.

Past its recompile limit torch.compile runs the uncompiled function without a word. Dynamo counts by code object, so
each caller gets a copy, and a cache that no other caller fills; `fullgraph=True` turns the limit into an error.
"""
from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator

import torch

from attention.backends.base import Unsupported


def no_compiler(device: torch.device) -> str | None:
    """Why nothing can be compiled for `device`, or None."""
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler here; install g++"
    return None


def compiled(function: Callable[..., torch.Tensor], *, dynamic: bool | None) -> Callable[..., torch.Tensor]:
    """`function`, compiled for one caller. `dynamic` as torch.compile has it."""
    def alone(*args: object, **told: object) -> torch.Tensor:
        return function(*args, **told)

    alone.__code__ = alone.__code__.replace()
    return torch.compile(alone, fullgraph=True, dynamic=dynamic)


@contextlib.contextmanager
def refusals(backend: str, q: torch.Tensor, k: torch.Tensor) -> Iterator[None]:
    """Raises RuntimeError for more shapes than torch.compile takes, Unsupported where it finds no kernel."""
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
