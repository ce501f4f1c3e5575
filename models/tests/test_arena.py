"""Long Range Arena's tasks: tokens within the vocabulary, held-out items that are no training items, true answers."""
from __future__ import annotations

import pytest
import torch

from models.data import digits, passages
from models.data.arena import TASKS


@pytest.mark.parametrize("name", TASKS)
def test_items_have_their_shape_and_all_classes(name):
    task = TASKS[name]
    train, held_out = (task.items(200, 100, part) for part in (False, True))
    for tokens, labels in (train, held_out):
        assert tokens.shape == ((200, 2, 100) if task.pairs else (200, 100))
        assert tokens.min() >= 0
        assert 10 < tokens.max() < task.vocabulary or name == "pathfinder"
        assert labels.unique().tolist() == list(range(task.classes))
    texts, others = ({tuple(row.tolist()) for row in tokens.flatten(0, -2)} for tokens, _ in (train, held_out))
    assert not texts & others


def test_a_passage_is_of_its_package_and_a_pair_of_one_or_two():
    def text(row: torch.Tensor) -> bytes:
        return bytes(byte - 1 for byte in row.tolist() if byte)

    def packages(row: torch.Tensor) -> set[int]:
        return {number for number, texts in enumerate(passages.files(True)) if any(text(row) in one for one in texts)}

    tokens, labels = passages.items(20, length=200, held_out=True, seed=0)
    assert all(label in packages(row) for row, label in zip(tokens, labels.tolist(), strict=True))
    pairs, same = passages.pairs(20, length=200, held_out=True, seed=0)
    assert [bool(packages(first) & packages(second)) for first, second in pairs] == same.bool().tolist()


def test_every_package_has_files_on_both_sides_and_none_on_both():
    train, held_out = passages.files(False), passages.files(True)
    assert all(len(texts) >= 2 for texts in (*train, *held_out))
    assert not set().union(*train) & set().union(*held_out) - {b""}


def test_pixels_are_the_ink_of_the_digits_row_by_row():
    tokens, labels = TASKS["pixels"].items(3, 70, True)
    items = next(digits.folds(digits.load(), digits.FOLDS))[1][:3]
    ink = digits.load().images_NHW[items].flatten(1) * digits.LARGEST
    assert torch.equal(tokens[:, :64] - 1, ink.round().long())
    assert tokens[:, 64:].sum() == 0
    assert torch.equal(labels, digits.load().labels_N[items])
