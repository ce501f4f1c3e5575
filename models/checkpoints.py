"""Writes and reads checkpoints of a training. A file is whole or absent; one of another training is refused."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save(path: str | Path, what: str, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Replaces the file atomically: a kill leaves the old one or the new one."""
    write(path, {"what": what, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()})


def resume(path: str | Path, what: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restores weights and optimizer and gives the number of steps done; 0 if there is no file.

    Raises ValueError for a file that is damaged or belongs to another training; then nothing changes.
    """
    if not Path(path).exists():
        return 0
    content = read(path, ("what", "step", "model", "optimizer"))
    if content["what"] != what:
        raise ValueError(f"{path}: a checkpoint of another training ({content['what']}, here {what}): "
                         "name another file, or delete this one to start anew")
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return content["step"]


def write(path: str | Path, content: dict[str, Any]) -> None:
    """Writes `content` with torch.save, atomically; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        torch.save(content, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: str | Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Reads the content of a file that has these keys. Raises ValueError, in one line, for any other file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a file that is no checkpoint may raise anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a whole checkpoint ({reason}): delete it to start anew") from error
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise ValueError(f"{path}: not a checkpoint; expected {', '.join(keys)} in it")
    return content
