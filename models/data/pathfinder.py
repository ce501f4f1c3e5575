"""Pathfinder: images of dashed curves with two dots; are both dots the ends of one curve? (Linsley et al., arXiv
1805.08315; as a sequence of pixels a task of Long Range Arena, Tay et al., arXiv 2011.04006, section 2.5.)

Each image has two long curves of the same length and shorter ones that distract. Two pixels at least are between any
two curves, one between two dashes. The dots are two of the four ends of the long ones. In each image two ends of one
curve and two ends of both are equally far apart, but for a pixel, and chance chooses between them: the distance between
the dots gives the answer away in six images of ten at most.
"""
from __future__ import annotations

import itertools
import math
import random

import torch

NOTHING, DASH, DOT = 0, 1, 2
TURN = 0.3  # the chance that a curve turns by 45 degrees at a pixel, to either side
PERIOD = 3  # the pixels of a dash and of the gap behind it, one; both ends of a curve are drawn
ASIDE = tuple(itertools.product(range(-2, 3), repeat=2))  # steps to where no other curve may be
BESIDE = tuple(itertools.product(range(-1, 2), repeat=2))  # and to where the curve itself may not come again
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
TRIALS = 50  # of a curve

Curve = list[tuple[int, int]]


def curve(draw: random.Random, side: int, length: int, taken: set[tuple[int, int]]) -> Curve | None:
    """Draws a smooth curve of `length` pixels that stays off its own past and what is `taken`; None if it got stuck."""
    y, x, direction = draw.randrange(side), draw.randrange(side), draw.randrange(8)
    pixels: Curve = []
    while len(pixels) < length:
        if not (0 <= y < side and 0 <= x < side) or (y, x) in taken or not set(pixels[:-2]).isdisjoint(
                (y + dy, x + dx) for dy, dx in BESIDE):
            return None
        pixels.append((y, x))
        if draw.random() < TURN:
            direction = (direction + draw.choice((-1, 1))) % 8
        y, x = y + DIRECTIONS[direction][0], x + DIRECTIONS[direction][1]
    return pixels


def curves(draw: random.Random, side: int) -> list[Curve]:
    """Draws two long curves, then up to two short ones where there is room."""
    drawn: list[Curve] = []
    taken: set[tuple[int, int]] = set()
    while len(drawn) < 2:
        drawn, taken = [], set()
        for size in (side // 2, side // 2, side // 4, side // 4):
            made = next(filter(None, (curve(draw, side, size, taken) for _ in range(TRIALS))), None)
            if made is None and size == side // 2:
                break
            if made is not None:
                drawn.append(made)
                taken |= {(y + dy, x + dx) for y, x in made for dy, dx in ASIDE}
    return drawn


def image(draw: random.Random, side: int, joined: bool) -> torch.Tensor:
    """Draws an image (side, side) of NOTHING, DASH and DOT; `joined` says whether the dots end one curve."""
    while True:
        first, second, *others = curves(draw, side)
        ends = first[0], first[-1]
        apart = min(itertools.product(ends, (second[0], second[-1])),
                    key=lambda pair: abs(math.dist(*pair) - math.dist(*ends)))
        if abs(math.dist(*apart) - math.dist(*ends)) <= 1:
            break
    picture = torch.full((side, side), NOTHING)
    for pixels in (first, second, *others):
        for step, pixel in enumerate(pixels):
            if step % PERIOD != PERIOD - 1 or pixel == pixels[-1]:
                picture[pixel] = DASH
    for pixel in ends if joined else apart:
        picture[pixel] = DOT
    return picture


def items(count: int, *, side: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws images (count, side, side), and for each 1 if the dots end one curve, else 0. Raises ValueError for a side
    of less than 8 pixels, which has no room."""
    if side < 8:
        raise ValueError(f"Pathfinder needs at least 8 x 8 pixels, not {side} x {side}")
    draw = random.Random(seed)
    joined = [draw.random() < 0.5 for _ in range(count)]
    return torch.stack([image(draw, side, each) for each in joined]), torch.tensor(joined, dtype=torch.long)
