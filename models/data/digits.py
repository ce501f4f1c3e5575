"""Handwritten digits: the 1797 images of 8 x 8 pixels inside scikit-learn.

They are the test set of Alpaydin and Kaynak (UCI, 1998), by 13 writers. Every split here has all writers on both sides,
so the figures show how a model changed, but not how well it reads other writers.
"""
from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from models.packages import needs
from models.registry import Preset

FOLDS = 5  # the held-out images of a single split are the first of five folds
LARGEST = 16  # the most ink of a pixel
# Light augmentation rotates by up to 10 degrees, scales by up to 10 % and shifts by up to 0.8 of an 8 x 8 pixel.
TURN, SIZE, MOVE = 10 * torch.pi / 180, 0.1, 0.2


@dataclass(frozen=True)
class Images:
    """Images (N, height, width) of ink 0 to 1 with class numbers (N,); `batch` resizes them to `side` pixels square."""

    images_NHW: torch.Tensor
    labels_N: torch.Tensor
    side: int

    def __len__(self) -> int:
        return len(self.labels_N)

    def to(self, device: str | torch.device) -> Images:
        """Copies the images to a device."""
        return replace(self, images_NHW=self.images_NHW.to(device), labels_N=self.labels_N.to(device))

    def take(self, items: Any) -> Images:
        """Selects items."""
        return replace(self, images_NHW=self.images_NHW[items], labels_N=self.labels_N[items])

    def batch(self, items: torch.Tensor, generator: torch.Generator | None = None,
              ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Gives the inputs of a ViT and the labels of these items, on the images' device; a generator augments them."""
        items = items.to(self.labels_N.device, non_blocking=True)  # the host does not wait for a GPU
        images = self.images_NHW[items]
        moves = None if generator is None else _moves(len(images), generator).to(images.device, non_blocking=True)
        return {"pixel_values": pixels(images, self.side, moves)}, self.labels_N[items]


@functools.cache
def load() -> Images:
    """Loads all 1797 images of 8 x 8 pixels. Raises ImportError, in one line, without scikit-learn."""
    with needs("scikit-learn", "for its handwritten digits"):
        from sklearn.datasets import load_digits
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / LARGEST
    return Images(images, torch.tensor(data.target, dtype=torch.long), images.shape[1])


def pixels(images_NHW: torch.Tensor, side: int, moves_N23: torch.Tensor | None = None) -> torch.Tensor:
    """Resizes images bilinearly to (N, 3, side, side), -1 to 1 as ViT reads them; beyond the border is no ink.

    `moves_N23` are affine maps of coordinates from -1 to 1.
    """
    n = len(images_NHW)
    if moves_N23 is None:
        moves_N23 = torch.eye(2, 3, device=images_NHW.device).expand(n, 2, 3)
    grid = functional.affine_grid(moves_N23, [n, 1, side, side], align_corners=False)
    images = functional.grid_sample(images_NHW.unsqueeze(1), grid, mode="bilinear", padding_mode="zeros",
                                    align_corners=False)
    return (images * 2 - 1).expand(n, 3, side, side)


def _moves(n: int, generator: torch.Generator) -> torch.Tensor:
    angle, size, x, y = (2 * torch.rand(4, n, generator=generator) - 1)
    angle, size = angle * TURN, 1 + size * SIZE
    cos, sin = size * angle.cos(), size * angle.sin()
    rows = [torch.stack(row, dim=-1) for row in ((cos, -sin, x * MOVE), (sin, cos, y * MOVE))]
    return torch.stack(rows, dim=-2)


def folds(images: Images, count: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (training, held-out) item numbers of `count` folds, with even classes; each item is held out once.

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
    """Names the data, for `training.fingerprint`."""
    return "uci-1998"


def split(preset: Preset) -> tuple[Images, Images]:
    """Gives training and held-out digits; `batch` resizes them to the preset's images."""
    images = replace(load(), side=preset.sizes["image"])
    train, held_out = next(folds(images, FOLDS))
    return images.take(train), images.take(held_out)


def photographs() -> dict[str, np.ndarray]:
    """Loads scikit-learn's two photographs by name, uint8 (427, 640, 3), to test pre-processing on."""
    with needs("scikit-learn and pillow", "for the sample photographs"):
        from sklearn.datasets import load_sample_images
        data = load_sample_images()
    return {name.rsplit("/", 1)[-1].removesuffix(".jpg"): image
            for name, image in zip(data.filenames, data.images, strict=True)}
