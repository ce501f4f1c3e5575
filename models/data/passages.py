"""Passages: bytes of source files in Python's standard library, with the package that they are from.

They stand in for the texts of Long Range Arena (Tay et al., arXiv 2011.04006, sections 2.3 and 2.4), which need a
network: a passage's package is asked for, or whether two passages are from one package. A file is either for training
or held out, one in four by a hash of its name. The text depends on the version of Python.
"""
from __future__ import annotations

import functools
import hashlib
import random
import sysconfig
from pathlib import Path

import torch

PACKAGES = ("asyncio", "email", "multiprocessing", "xml")  # a class each: packages of many files, in every Python


@functools.cache
def files(held_out: bool) -> tuple[tuple[bytes, ...], ...]:
    """Reads the files for training, or the held-out ones, of each package."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return tuple(tuple(file.read_bytes() for file in sorted((root / package).rglob("*.py"))
                       if _held_out(file.relative_to(root).as_posix()) == held_out) for package in PACKAGES)


def _held_out(name: str) -> bool:
    return hashlib.blake2b(name.encode(), digest_size=1).digest()[0] < 64


def _passage(draw: random.Random, package: int, length: int, held_out: bool) -> bytes:
    """Draws a passage of `length` bytes from any place of the package's files, which is all of a shorter file."""
    texts = files(held_out)[package]
    text = draw.choices(texts, weights=[len(text) for text in texts])[0]
    start = draw.randint(0, max(0, len(text) - length))
    return text[start:start + length]


def _tokens(passages: list[bytes], length: int) -> torch.Tensor:
    """Gives bytes as numbers from 1 on, (len(passages), length); 0 is the padding at the end."""
    return torch.tensor([[1 + byte for byte in passage] + [0] * (length - len(passage)) for passage in passages])


def items(count: int, *, length: int, held_out: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws passages (count, length), and the number of each one's package."""
    draw = random.Random(seed)
    packages = [draw.randrange(len(PACKAGES)) for _ in range(count)]
    return (_tokens([_passage(draw, package, length, held_out) for package in packages], length),
            torch.tensor(packages))


def pairs(count: int, *, length: int, held_out: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws pairs of passages (count, 2, length), and for each 1 if both are from one package, else 0."""
    draw = random.Random(seed)
    same, passages = [draw.random() < 0.5 for _ in range(count)], []
    for each in same:
        first, second = draw.sample(range(len(PACKAGES)), 2)
        passages += [_passage(draw, package, length, held_out) for package in (first, first if each else second)]
    return _tokens(passages, length).unflatten(0, (count, 2)), torch.tensor(same, dtype=torch.long)
