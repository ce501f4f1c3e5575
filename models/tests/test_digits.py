"""The digits: resized, augmented, split."""
from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

import models
from models.data import digits, split

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def test_there_are_1797_of_ten_classes_with_ink_from_0_to_1():
    images = digits.load()
    assert (len(images), images.images_NHW.shape[1:], len(images.labels_N.unique())) == (1797, (8, 8), 10)
    assert (images.images_NHW.min().item(), images.images_NHW.max().item()) == (0, 1)


def test_resizing_keeps_each_pixel_where_it_was():
    one = torch.zeros(1, 8, 8)
    one[0, 2, 5] = 1
    large = digits.pixels(one, 224)
    assert large.shape == (1, 3, 224, 224)
    assert torch.equal(large[:, 0], large[:, 2])
    row, column = divmod(int(large[0, 0].argmax()), 224)
    assert (row // 28, column // 28) == (2, 5)
    assert large.max() > 0.9
    assert large.min() == -1


def test_augmentation_is_light_and_repeats_for_a_seed():
    images = digits.load()
    items = torch.arange(200)
    first, again, other = (images.batch(items, torch.Generator().manual_seed(seed))[0]["pixel_values"]
                           for seed in (1, 1, 2))
    plain = images.batch(items)[0]["pixel_values"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(((first - plain) ** 2).mean((1, 2, 3)))) == 200  # each moved by its own
    # What was done is less than what tells digits apart.
    shuffled = plain[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert ((first - plain) ** 2).mean() < 0.6 * ((shuffled - plain) ** 2).mean()


def test_every_image_is_held_out_once_and_never_trained_on_then():
    images = digits.load()
    items: list[int] = []
    for train, held_out in digits.folds(images, 4):
        assert not set(train) & set(held_out)
        assert len(train) + len(held_out) == 1797
        shares = images.labels_N[torch.from_numpy(held_out)].bincount() / len(held_out)
        assert (shares - images.labels_N.bincount() / 1797).abs().max() < 0.005
        items.extend(held_out)
    assert sorted(items) == list(range(1797))


def test_the_split_is_the_same_every_time_and_of_the_presets_size():
    (train, held_out), (_, again) = split("vit-digits"), split("vit-digits")
    assert torch.equal(held_out.labels_N, again.labels_N)
    assert (len(train), len(held_out)) == (1437, 360)
    pixels, labels = split(models.get("vit-l16"))[1].batch(torch.tensor([0, 1]))
    assert pixels["pixel_values"].shape == (2, 3, 224, 224)
    assert torch.equal(labels, held_out.labels_N[:2])


@pytest.mark.parametrize("count", [1, 175])
def test_folds_that_can_not_be_made_are_refused(count):
    with pytest.raises(ValueError, match=f"^{count} folds of 1797 images: choose 2 to 174, "):
        next(digits.folds(digits.load(), count))


def test_photographs():
    pytest.importorskip("PIL", reason="pillow is not installed")
    images = digits.photographs()
    assert {name: (image.shape, image.dtype) for name, image in images.items()} == {
        name: ((427, 640, 3), np.dtype("uint8")) for name in ("china", "flower")}


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=re.escape(
            "scikit-learn is needed for its handwritten digits: pip install 'attention-perf[quality]' (")) as error:
        digits.load.__wrapped__()
    assert "\n" not in str(error.value)
