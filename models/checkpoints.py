"""Checkpoints of a training: written whole or not at all, refused in one line if they are not its own."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save(path: str | Path, what: str, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Replaces the file at once: a kill leaves the old one or the new one."""
    write(path, {"what": what, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()})


def resume(path: str | Path, what: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Puts weights and optimizer as they were; the number of steps done, 0 where there is no file.

    Raises ValueError for a file that is damaged or belongs to another training; nothing is changed then.
    """
    if not Path(path).exists():
        return 0
    found = read(path, ("what", "step", "model", "optimizer"))
    if found["what"] != what:
        raise ValueError(f"{path}: a checkpoint of another training ({found['what']}, here {what}): "
                         "name another file, or delete this one to start anew")
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    return found["step"]


def write(path: str | Path, content: dict[str, Any]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        torch.save(content, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: str | Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The content of a file with these keys. Raises ValueError, in one line, for anything else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is no checkpoint may raise anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a whole checkpoint ({reason}): delete it to start anew") from error
    if not isinstance(found, dict) or not set(keys) <= set(found):
        raise ValueError(f"{path}: not a checkpoint; expected {', '.join(keys)} in it")
    return found
