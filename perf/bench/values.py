"""Values are what a timed call reads: the tensors stay where they are, and every round finds new numbers in them.

A result that is remembered by address, by shape or by an earlier value is then wrong, or costs as much as computing.
New numbers are the first ones, moved along the sequence, with other signs and up to a thirty-second smaller: as random,
and written in one pass. Each is hardly ever the same twice, so three of them do not tell what the others are.
"""
from __future__ import annotations

import random
from collections.abc import Iterable

import torch

# A seed tells, from its lowest bit on, the move, two patterns of signs, and how much smaller each of three tensors is.
MOVES = 64  # positions that numbers are moved by, at most
SIGNS = 64  # patterns of signs
SIZES = 2 ** 14
SMALLER = 1 / 32  # of a number, at most: bfloat16 has 4 to 8 numbers in between
TRIAL = 7919  # the seed of the trial's values


class Values:
    """Holds tensors at fixed addresses, whose values change: `restore` writes the first ones, `renew` others each
    time, `write` those given, and `trial` ones that are always the same."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self.tensors = tuple(tensors)
        self._pools = [_Floats(x) if x.is_floating_point() else _Integers(x) for x in self.tensors]
        self._random = random.Random(0)
        self._first = True

    def restore(self) -> None:
        """Writes the values that the tensors had first."""
        if not self._first:
            self._write(None)
        self._first = True

    def renew(self) -> None:
        """Writes values that have not been there before."""
        self._first = False
        self._write(self._random.randrange(MOVES * SIGNS * SIGNS * SIZES ** 3))

    def write(self, values: Iterable[torch.Tensor]) -> None:
        """Writes these values."""
        self._first = False
        with torch.no_grad():
            for x, value in zip(self.tensors, values, strict=True):
                x.copy_(value)

    def trial(self) -> None:
        """Writes the values of the trial."""
        self._first = False
        self._write(TRIAL)

    def _write(self, seed: int | None) -> None:
        """A seed moves all tensors alike, so that a key stays as far from its query, and signs q and k alike."""
        with torch.no_grad():
            for number, (x, pool) in enumerate(zip(self.tensors, self._pools, strict=True)):
                pool.write(x, seed, number)


class _Floats:
    """Holds the numbers of one floating-point tensor, and more of them to move along its last dimension but one."""

    def __init__(self, x: torch.Tensor) -> None:
        self.along = x.dim() - 2 if x.dim() > 1 else 0
        self.length = x.shape[self.along]
        self.moves = min(MOVES, self.length)
        self.pool = torch.cat([x, x.narrow(self.along, 0, self.moves)], self.along)
        generator = torch.Generator().manual_seed(x.shape[-1])
        signs = 2 * torch.randint(2, (SIGNS, x.shape[-1]), generator=generator) - 1
        self.signs = signs.to(x.device, x.dtype)

    def write(self, x: torch.Tensor, seed: int | None, number: int) -> None:
        if seed is None:
            x.copy_(self.pool.narrow(self.along, 0, self.length))
            return
        numbers = self.pool.narrow(self.along, seed % MOVES % self.moves, self.length)
        pattern = seed // MOVES // (SIGNS if number > 1 else 1)  # v has signs of its own
        size = seed // (MOVES * SIGNS * SIGNS * SIZES ** (number % 3)) % SIZES
        torch.mul(numbers, self.signs[pattern % SIGNS] * (1 - SMALLER * size / SIZES), out=x)


class _Integers:
    """Holds the numbers of one tensor of classes or tokens: new ones lie between 0 and the largest of their column."""

    def __init__(self, x: torch.Tensor) -> None:
        self.first = x.clone()
        self.bound = x.amax(0, keepdim=True) + 1
        self.generator = torch.Generator(x.device)

    def write(self, x: torch.Tensor, seed: int | None, number: int) -> None:
        if seed is None:
            x.copy_(self.first)
            return
        self.generator.manual_seed(seed)
        fractions = torch.rand(x.shape, generator=self.generator, device=x.device, dtype=torch.float64)
        x.copy_((fractions * self.bound).long())
