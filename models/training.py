"""Trains a preset from a seed: on one machine the weights are the same each time, also after a kill and a resume.

Everything random in step s (the order of the items, augmentation, dropout) comes from a generator seeded with
(seed, s). So a checkpoint needs weights, optimizer and the number of steps, but no state of a generator. A training
with a time budget (`seconds`) follows the clock and repeats only approximately.
"""
from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import models
from models import checkpoints
from models.losses import loss
from models.recipes import Recipe, recipe
from models.registry import Preset


class Data(Protocol):
    """Data for training and evaluation: items, which `batch` turns into model inputs and targets."""

    def __len__(self) -> int: ...
    def to(self, device: str | torch.device) -> Any: ...
    def batch(self, items: torch.Tensor, generator: torch.Generator | None = None) -> tuple[dict[str, Any], Any]: ...


Progress = Callable[[int, int, float, float], None]


def train(preset: str | Preset, *, attention: str = "softmax:sdpa", seed: int = 0,
          attention_options: Mapping[str, Any] | None = None, device: str | torch.device = "cpu",
          dtype: torch.dtype = torch.float32, data: Data | None = None, how: Recipe | None = None,
          seconds: float | None = None, checkpoint: str | Path | None = None, every: int = 100,
          progress: Progress | None = None) -> nn.Module:
    """Trains a preset by its recipe on its data, or on `data` by `how`; gives it in eval mode with float32 weights.

    A `dtype` narrower than float32 is that of the products (autocast), which the attention variant must support.
    `checkpoint` names a file that is written `every` so many steps; if it exists, training resumes from it. `seconds`
    ends the training early, and the learning rate then follows the clock. `progress` is called with (step, steps, loss,
    seconds).
    Raises ValueError as `models.create` does, and for a checkpoint of another training or a damaged one.
    """
    preset = models.get(preset)
    how = how or recipe(preset)
    if data is None:
        from models.data import split

        data, _ = split(preset)
    # It is built in the dtype of the products, so that attention refuses at once, and trained in float32.
    model = models.create(preset, attention=attention, seed=seed, dtype=dtype, device=device,
                          attention_options=attention_options).float()
    what = fingerprint(preset, attention, attention_options, seed, how, str(dtype), len(data))
    return fit(model, preset, data, how, seed=seed, dtype=dtype, seconds=seconds, checkpoint=checkpoint,
               every=every, progress=progress, what=what)


def fit(model: nn.Module, preset: Preset, data: Data, how: Recipe, *, seed: int = 0,
        dtype: torch.dtype = torch.float32, seconds: float | None = None, checkpoint: str | Path | None = None,
        every: int = 100, progress: Progress | None = None, what: str = "") -> nn.Module:
    """Trains in place the weights of `model` that want a gradient; the arguments are those of `train`.

    Raises ValueError for fewer items than one batch.
    """
    if len(data) < how.batch:
        raise ValueError(f"{preset.name}: {len(data)} items are fewer than one batch of {how.batch}")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    device = weights[0].device
    data = data.to(device)
    optimizer = _optimizer(weights, how)
    first = checkpoints.resume(checkpoint, what, model, optimizer) if checkpoint else 0
    start = time.monotonic()
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step in range(first, how.steps):
            spent = time.monotonic() - start
            done = max(step / how.steps, spent / seconds if seconds else 0.0)
            if done >= 1:
                break
            value = _step(model, preset, data, how, optimizer, weights, seed, step, done, dtype)
            last = step + 1 == how.steps
            if progress and (last or (step + 1) % 10 == 0):
                progress(step + 1, how.steps, value.item(), time.monotonic() - start)
            if checkpoint and (last or (step + 1) % every == 0):
                checkpoints.save(checkpoint, what, model, optimizer, step + 1)
    optimizer.zero_grad(set_to_none=True)
    return model.eval()


def _step(model: nn.Module, preset: Preset, data: Data, how: Recipe, optimizer: torch.optim.Optimizer,
          weights: list[nn.Parameter], seed: int, step: int, done: float, dtype: torch.dtype) -> torch.Tensor:
    random = torch.Generator().manual_seed(_mix(seed, "step", step))
    torch.manual_seed(_mix(seed, "dropout", step))  # dropout uses the generator of the device
    rate = how.rate(done)
    for group in optimizer.param_groups:
        group["lr"] = rate
    inputs, target = data.batch(_items(len(data), how.batch, seed, step), random if how.augment else None)
    device = weights[0].device.type
    lower = torch.autocast(device, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    with lower:
        value = loss(model, preset, inputs, target, how.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(weights, how.clip)
    optimizer.step()
    return value.detach()


def _items(count: int, batch: int, seed: int, step: int) -> torch.Tensor:
    """Gives the items of a step. Every epoch has another order, and items that fill no batch are left out."""
    batches = count // batch
    epoch, place = divmod(step, batches)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_mix(seed, "epoch", epoch)))
    return order[place * batch:(place + 1) * batch]


def _optimizer(weights: list[nn.Parameter], how: Recipe) -> torch.optim.Optimizer:
    """Builds AdamW without weight decay for biases and norms, which are no matrices."""
    groups = [{"params": [w for w in weights if w.dim() > 1], "weight_decay": how.weight_decay},
              {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=how.learning_rate, betas=how.betas, fused=True)


def _mix(seed: int, *parts: Any) -> int:
    """Hashes seed and parts to a new seed, so that neighbouring steps have unrelated random numbers."""
    return int.from_bytes(hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=7).digest(), "little")


def fingerprint(*parts: Any) -> str:
    """Hashes the things that determine the weights to a short word."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def report(step: int, steps: int, loss: float, seconds: float) -> None:
    """Prints progress on one line of a terminal."""
    end = "\n" if step == steps else "\r"
    print(f"step {step:5d}/{steps}  loss {loss:8.4f}  {seconds:6.1f} s", end=end, file=sys.stderr, flush=True)
