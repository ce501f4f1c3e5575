"""Reads Flowers-102 (Nilsback and Zisserman, ICVGIP 2008) from one folder of images for each class.

    folder/train/1/image_06734.jpg ... folder/valid/1/... folder/test/102/...
    folder/cat_to_name.json        {"21": "fire lily", ...}; this file may also be beside the folder

The name of a class folder is a number, and folder 1 is class 0.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.data.wrong import wrong
from models.packages import needs

SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Photographs:
    """Image files with their classes; `batch` reads them and cuts them to `side` x `side` pixels."""

    files: tuple[Path, ...]
    labels_N: torch.Tensor
    names: tuple[str, ...]
    side: int
    device: str | torch.device = "cpu"

    def __len__(self) -> int:
        return len(self.files)

    def to(self, device: str | torch.device) -> Photographs:
        """Sets the device of the batches."""
        return replace(self, device=device)

    def batch(self, items: torch.Tensor, generator: torch.Generator | None = None,
              ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Gives the inputs of a ViT and the labels of these items; a generator mirrors half of them."""
        images = torch.stack([_read(self.files[i], self.side) for i in items.tolist()])
        if generator is not None:
            mirror = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirror[:, None, None, None], images.flip(-1), images)
        return {"pixel_values": images.to(self.device)}, self.labels_N[items.cpu()].to(self.device)


def pixels(image: np.ndarray, side: int) -> torch.Tensor:
    """Turns uint8 (height, width, 3) into (3, side, side), -1 to 1.

    The short side is resized to 8/7 of `side`, bilinearly, and the middle is cut out, as is usual (256, then 224).
    """
    with needs("pillow", "to resize images"):
        from PIL import Image
    height, width = image.shape[:2]
    factor = side * 8 / 7 / min(height, width)
    size = max(side, round(width * factor)), max(side, round(height * factor))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    cut = image[top:top + side, left:left + side].astype(np.float32)
    return torch.from_numpy(cut / 127.5 - 1).permute(2, 0, 1)


def read(folder: str | Path, part: str, side: int = 224) -> Photographs:
    """Lists the images of `part`: "train", "valid" or "test".

    Raises ValueError, which names the file or folder, the line of a bad `cat_to_name.json`, and what was expected
    there.
    """
    folder = Path(folder)
    names = _names(folder)
    if not (folder / part).is_dir():
        others = sorted(each.name for each in folder.iterdir() if each.is_dir())
        raise wrong(folder / part, "a folder of class folders", f"only {', '.join(others) or 'nothing'} in {folder}")
    files, labels = [], []
    for each in sorted((folder / part).iterdir()):
        if each.name not in names:
            raise wrong(each, "a class folder that cat_to_name.json names", each.name)
        images = sorted(file for file in each.iterdir() if file.suffix.lower() in SUFFIXES)
        if not images:
            raise wrong(each, f"images ({', '.join(sorted(SUFFIXES))})", "none")
        files += images
        labels += [int(each.name) - 1] * len(images)
    if not files:
        raise wrong(folder / part, "class folders with images", "none")
    ordered = tuple(names.get(str(number + 1), "") for number in range(max(map(int, names))))
    return Photographs(tuple(files), torch.tensor(labels), ordered, side)


def _names(folder: Path) -> dict[str, str]:
    path = next((place / "cat_to_name.json" for place in (folder, folder.parent)
                 if (place / "cat_to_name.json").is_file()), None)
    if path is None:
        raise wrong(folder / "cat_to_name.json", "the names of the classes", "no such file, nor one beside the folder")
    try:
        names: Any = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise wrong(path, 'JSON like {"21": "fire lily"}', error.msg, error.lineno) from error
    except UnicodeDecodeError as error:
        raise wrong(path, "UTF-8", str(error)) from error
    if not isinstance(names, dict) or not names:
        raise wrong(path, 'JSON like {"21": "fire lily"}', names)
    for number, name in names.items():
        if not number.isdecimal() or int(number) < 1 or not isinstance(name, str):
            raise wrong(path, 'class numbers from 1 with names, like "21": "fire lily"', f"{number!r}: {name!r}")
    return names


def _read(file: Path, side: int) -> torch.Tensor:
    with needs("pillow", "to read images"):
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(file) as image:
            return pixels(np.asarray(image.convert("RGB")), side)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise wrong(file, "an image", str(error)) from error
