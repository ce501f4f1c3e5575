"""The five tasks of Long Range Arena (Tay et al., arXiv 2011.04006), each of any length and without a network.

| task | what is asked | here of |
| --- | --- | --- |
| listops | the digit that nested lists come to | `listops`, drawn |
| text | the class of a text, byte by byte | `passages`: which package a passage is from |
| retrieval | whether two texts belong together | `passages`: whether two are from one package |
| pixels | the class of an image, pixel by pixel | `digits`, resized |
| pathfinder | whether a curve joins two dots, pixel by pixel | `pathfinder`, drawn |
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from models.data import digits, listops, passages, pathfinder

Items = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """Is a task with tokens below `vocabulary`, of which 0 is padding.

    `items(count, n, held_out)` gives at most `count` items: tokens (I, n), or (I, 2, n) for `pairs`, and the numbers of
    their classes (I,). Held-out items are others than those for training.
    """

    vocabulary: int
    classes: int
    items: Callable[[int, int, bool], Items]
    pairs: bool = False


def _row(images_IYX: torch.Tensor, n: int) -> torch.Tensor:
    """Makes a row of n tokens of each image's pixels, 0 upwards."""
    return torch.nn.functional.pad(1 + images_IYX.flatten(1), (0, n - images_IYX[0].numel()))


def _pixels(count: int, n: int, held_out: bool) -> Items:
    images = replace(digits.load(), side=math.isqrt(n))
    images = images.take(next(digits.folds(images, digits.FOLDS))[held_out][:count])
    ink_IYX = (images.batch(torch.arange(len(images)))[0]["pixel_values"][:, 0] + 1) / 2
    return _row((digits.LARGEST * ink_IYX).round().long(), n), images.labels_N


def _pathfinder(count: int, n: int, held_out: bool) -> Items:
    images, joined = pathfinder.items(count, side=math.isqrt(n), seed=held_out)
    return _row(images, n), joined


TASKS = {
    "listops": Task(len(listops.VOCABULARY), 10, lambda count, n, held_out: listops.items(
        count, shortest=n // 4, longest=n, seed=held_out)),
    "text": Task(257, len(passages.PACKAGES), lambda count, n, held_out: passages.items(
        count, length=n, held_out=held_out, seed=held_out)),
    "retrieval": Task(257, 2, lambda count, n, held_out: passages.pairs(
        count, length=n, held_out=held_out, seed=held_out), pairs=True),
    "pixels": Task(digits.LARGEST + 2, 10, _pixels),
    "pathfinder": Task(pathfinder.DOT + 2, 2, _pathfinder)}
