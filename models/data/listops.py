"""ListOps: nested lists of digits under MIN, MAX, MED and SM, and the digit that each comes to (Nangia and Bowman,
arXiv 1804.06028), drawn as in Long Range Arena (Tay et al., arXiv 2011.04006, section 2.2).

    [MAX 2 9 [MIN 4 7 ] 0 ]  is  9

MED is the median, rounded down, and SM the sum modulo 10. Long Range Arena has 500 to 2000 tokens, 10 deep, of 2 to 10
arguments a list.
"""
from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence

import torch

OPERATORS: dict[str, Callable[[Sequence[int]], int]] = {
    "[MIN": min, "[MAX": max, "[MED": lambda digits: int(statistics.median(digits)),
    "[SM": lambda digits: sum(digits) % 10}
PADDING, END = "_", "]"
VOCABULARY = (PADDING, *map(str, range(10)), *OPERATORS, END)
NUMBERS = {token: number for number, token in enumerate(VOCABULARY)}
LISTS = 0.25  # the chance that an argument is a list
DEPTH, ARGUMENTS = 10, 10


def expression(draw: random.Random, depth: int = DEPTH) -> list[str]:
    """Draws the tokens of one list, whose lists within are `depth` - 1 deep at most."""
    tokens = [draw.choice(list(OPERATORS))]
    for _ in range(draw.randint(2, ARGUMENTS)):
        if depth > 1 and draw.random() < LISTS:
            tokens += expression(draw, depth - 1)
        else:
            tokens.append(str(draw.randrange(10)))
    return [*tokens, END]


def value(tokens: Sequence[str]) -> int:
    """Computes the digit that the tokens of one list come to. Raises ValueError for what is no such list."""
    open_lists: list[tuple[str, list[int]]] = [("", [])]
    for token in tokens:
        if token in OPERATORS:
            open_lists.append((token, []))
            continue
        if token == END and len(open_lists) > 1 and open_lists[-1][1]:
            operator, digits = open_lists.pop()
            open_lists[-1][1].append(OPERATORS[operator](digits))
        elif token in NUMBERS and token.isdigit():
            open_lists[-1][1].append(int(token))
        else:
            raise ValueError(f"{token!r} has no place in a list, or not there")
    if len(open_lists) != 1 or len(open_lists[0][1]) != 1:
        raise ValueError(f"{len(tokens)} tokens are not one whole list")
    return open_lists[0][1][0]


def items(count: int, *, shortest: int, longest: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws lists of `shortest` to `longest` tokens: their numbers (count, longest), padded at the end, and the digits
    (count,)."""
    draw = random.Random(seed)
    lists: list[list[str]] = []
    while len(lists) < count:
        if shortest <= len(tokens := expression(draw)) <= longest:
            lists.append(tokens)
    tokens_BN = torch.tensor([[NUMBERS[token] for token in tokens] + [NUMBERS[PADDING]] * (longest - len(tokens))
                              for tokens in lists])
    return tokens_BN, torch.tensor([value(tokens) for tokens in lists])
