"""ListOps: lists are well formed and within their sizes, and come to what Python's own evaluation says."""
from __future__ import annotations

import random
import statistics

import pytest
import torch

from models.data import listops


def evaluate(tokens: list[str]) -> int:
    """Rewrites the tokens as a call of Python functions and evaluates it."""
    calls = {"[MIN": "MIN(", "[MAX": "MAX(", "[MED": "MED(", "[SM": "SM(", "]": "),"}
    names = {"MIN": lambda *x: min(x), "MAX": lambda *x: max(x), "SM": lambda *x: sum(x) % 10,
             "MED": lambda *x: int(statistics.median(x))}
    (digit,) = eval("".join(calls.get(token, f"{token},") for token in tokens), names)
    return digit


@pytest.mark.parametrize(("text", "digit"), [
    ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9), ("[MIN 4 7 ]", 4), ("[SM 9 9 [SM 1 1 ] ]", 0), ("[MED 1 2 ]", 1),
    ("[MED 5 [MAX 1 8 ] 0 ]", 5)])
def test_values_by_hand(text, digit):
    assert listops.value(text.split()) == digit == evaluate(text.split())


@pytest.mark.parametrize("seed", range(30))
def test_values_are_those_of_pythons_evaluation(seed):
    tokens = listops.expression(random.Random(seed), depth=6)
    assert listops.value(tokens) == evaluate(tokens)


def depth(tokens: list[str]) -> int:
    deepest = level = 0
    for token in tokens:
        level += (token in listops.OPERATORS) - (token == listops.END)
        deepest = max(deepest, level)
    assert level == 0
    return deepest


@pytest.mark.parametrize("most", [1, 3])
def test_lists_are_no_deeper_and_all_operators_and_numbers_of_arguments_come(most):
    lists = [listops.expression(random.Random(seed), depth=most) for seed in range(200)]
    assert max(map(depth, lists)) == most
    assert {tokens[0] for tokens in lists} == set(listops.OPERATORS)
    if most == 1:
        assert {len(tokens) - 2 for tokens in lists} == set(range(2, listops.ARGUMENTS + 1))


def test_items_have_their_lengths_are_padded_at_the_end_and_repeat():
    tokens_BN, digits_B = listops.items(20, shortest=16, longest=64, seed=3)
    assert tokens_BN.shape == (20, 64)
    assert digits_B.unique().numel() > 5
    for row, digit in zip(tokens_BN.tolist(), digits_B.tolist(), strict=True):
        tokens = [listops.VOCABULARY[number] for number in row]
        length = tokens.index(listops.PADDING) if listops.PADDING in tokens else 64
        assert length >= 16
        assert set(tokens[length:]) <= {listops.PADDING}
        assert evaluate(tokens[:length]) == digit
    again, _ = listops.items(20, shortest=16, longest=64, seed=3)
    other, _ = listops.items(20, shortest=16, longest=64, seed=4)
    assert torch.equal(tokens_BN, again)
    assert not torch.equal(tokens_BN, other)
