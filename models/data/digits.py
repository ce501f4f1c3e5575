"""Handwritten digits: the 1797 images of 8 x 8 pixels that ship with scikit-learn.

They are the test set of Alpaydin and Kaynak (UCI, 1998): 13 writers, who stand on both sides of any split made
here, so the figures say how a model changed, not how it reads a stranger's hand.
"""
from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from models.data.packages import needs
from models.registry import Preset

FOLDS = 5  # the held-out images of a single split are the first of five folds
LARGEST = 16  # ink of a pixel
# Light augmentation: turned by up to 10 degrees, sized by up to 10 %, moved by up to 0.8 of an 8 x 8 pixel.
TURN, SIZE, MOVE = 10 * torch.pi / 180, 0.1, 0.2


@dataclass(frozen=True)
class Images:
    """Images (N, height, width) of ink 0 to 1 with class numbers (N,), given out `side` pixels square."""

    images_NHW: torch.Tensor
    labels_N: torch.Tensor
    side: int

    def __len__(self) -> int:
        return len(self.labels_N)

    def to(self, device: str | torch.device) -> Images:
        return replace(self, images_NHW=self.images_NHW.to(device), labels_N=self.labels_N.to(device))

    def take(self, items: Any) -> Images:
        return replace(self, images_NHW=self.images_NHW[items], labels_N=self.labels_N[items])

    def batch(self, items: torch.Tensor, generator: torch.Generator | None = None,
              ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Inputs of a ViT and labels of these items, where the images are; augmented if there is a generator."""
        items = items.to(self.labels_N.device, non_blocking=True)  # a GPU is not waited for
        images = self.images_NHW[items]
        moves = None if generator is None else _moves(len(images), generator).to(images.device, non_blocking=True)
        return {"pixel_values": pixels(images, self.side, moves)}, self.labels_N[items]


@functools.cache
def load() -> Images:
    """All 1797, 8 pixels square; ImportError, in one line, without scikit-learn."""
    with needs("scikit-learn", "for its handwritten digits"):
        from sklearn.datasets import load_digits
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32) / LARGEST
    return Images(images, torch.tensor(found.target, dtype=torch.long), images.shape[1])


def pixels(images_NHW: torch.Tensor, side: int, moves_N23: torch.Tensor | None = None) -> torch.Tensor:
    """Bilinearly resized to (N, 3, side, side), -1 to 1 as ViT reads them, with no ink beyond the border;
    `moves_N23` are affine maps of coordinates -1 to 1."""
    n = len(images_NHW)
    if moves_N23 is None:
        moves_N23 = torch.eye(2, 3, device=images_NHW.device).expand(n, 2, 3)
    grid = functional.affine_grid(moves_N23, [n, 1, side, side], align_corners=False)
    resized = functional.grid_sample(images_NHW.unsqueeze(1), grid, mode="bilinear", padding_mode="zeros",
                                     align_corners=False)
    return (resized * 2 - 1).expand(n, 3, side, side)


def _moves(n: int, generator: torch.Generator) -> torch.Tensor:
    angle, size, x, y = (2 * torch.rand(4, n, generator=generator) - 1)
    angle, size = angle * TURN, 1 + size * SIZE
    cos, sin = size * angle.cos(), size * angle.sin()
    rows = [torch.stack(row, dim=-1) for row in ((cos, -sin, x * MOVE), (sin, cos, y * MOVE))]
    return torch.stack(rows, dim=-2)


def folds(images: Images, count: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(training, held-out) item numbers of `count` folds, every class spread evenly; each item is held out once.

    Raises ValueError for fewer than two folds, or more than the rarest class has images.
    """
    rarest = int(images.labels_N.bincount().min())
    if not 2 <= count <= rarest:
        raise ValueError(f"{count} folds of {len(images)} images: choose 2 to {rarest}, the rarest class's number")
    with needs("scikit-learn", "to split the digits"):
        from sklearn.model_selection import StratifiedKFold
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    yield from splitter.split(np.zeros(len(images)), images.labels_N.cpu().numpy())


def fingerprint() -> str:
    return "uci-1998"


def split(preset: Preset) -> tuple[Images, Images]:
    """Training and held-out digits, resized to the preset's images when they are given out."""
    images = replace(load(), side=preset.sizes["image"])
    train, held_out = next(folds(images, FOLDS))
    return images.take(train), images.take(held_out)


def photographs() -> dict[str, np.ndarray]:
    """scikit-learn's two photographs by name, uint8 (427, 640, 3): something real for pre-processing."""
    with needs("scikit-learn and pillow", "for the sample photographs"):
        from sklearn.datasets import load_sample_images
        found = load_sample_images()
    return {name.rsplit("/", 1)[-1].removesuffix(".jpg"): image
            for name, image in zip(found.filenames, found.images, strict=True)}
