"""Pathfinder: a flood fill over the gaps finds the same answer, and the distance between the dots does not."""
from __future__ import annotations

import pytest
import torch

from models.data import pathfinder
from models.data.pathfinder import DOT


def joined(image: torch.Tensor) -> bool:
    """Says whether steps of two pixels at most, over what is drawn, lead from the first dot to the second."""
    drawn, (first, second) = set(map(tuple, image.nonzero().tolist())), (image == DOT).nonzero().tolist()
    reached, border = {tuple(first)}, [tuple(first)]
    while border:
        y, x = border.pop()
        near = {pixel for pixel in drawn - reached if max(abs(pixel[0] - y), abs(pixel[1] - x)) <= 2}
        reached |= near
        border += near
    return tuple(second) in reached


@pytest.mark.parametrize("side", [8, 16, 32])
def test_the_dots_are_joined_where_it_says_so(side):
    images, answers = pathfinder.items(60, side=side, seed=1)
    assert images.shape == (60, side, side)
    assert (images == DOT).sum((1, 2)).tolist() == [2] * 60
    assert [joined(image) for image in images] == answers.bool().tolist()
    assert 15 < answers.sum() < 45


def test_the_distance_between_the_dots_tells_little():
    images, answers = pathfinder.items(600, side=16, seed=2)
    distances = torch.stack([torch.pdist((image == DOT).nonzero().double())[0] for image in images])
    right = [((distances < limit) == answers.bool()).double().mean().item() for limit in distances.unique()]
    assert max(*right, 1 - min(right)) < 0.6


def test_images_repeat_by_their_seed():
    first, again, other = (pathfinder.items(5, side=8, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="8 x 8"):
        pathfinder.items(1, side=7, seed=0)
