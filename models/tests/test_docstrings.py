"""Texts: taken from the standard library, split by file, batched for training and for generation."""
from __future__ import annotations

import math
import textwrap

import pytest
import torch

import models
from models.data import docstrings, split
from models.tests import cases

PRESET = models.get("gpt2-docstrings")


def test_pairs_are_a_body_and_its_first_line():
    pairs = docstrings.pairs()
    assert len(pairs) > 1500
    assert len({pair[1:] for pair in pairs}) == len(pairs)
    text = " ".join((textwrap.dedent.__doc__ or "").split())
    assert text in {f"{pair.first_line} {pair.body}" for pair in pairs}


def test_a_file_is_on_one_side():
    sides: dict[str, bool] = {}
    for pair in docstrings.pairs():
        assert sides.setdefault(pair.file, docstrings._held_out(pair)) == docstrings._held_out(pair)
    train, held_out = split(PRESET)
    assert 0.05 < len(held_out) / (len(held_out) + len(train)) < 0.2


def test_a_batch_is_prompt_summary_end_and_what_follows_each():
    train, _ = split(PRESET)
    items = torch.tensor([3, 4, 5])
    inputs, following = train.batch(items)
    tokens, asks = inputs["input_ids"], train.tokenizer.token_to_id(docstrings.SUMMARY)
    assert tokens.shape == following.shape
    for row, item in enumerate(items.tolist()):
        text = [*train.prompts[item], *train.summaries[item], train.end]
        assert tokens[row].tolist() == text + [train.end] * (tokens.shape[1] - len(text))
        assert following[row, :len(text) - 1].tolist() == text[1:]
        assert set(following[row, len(text) - 1:].tolist()) == {docstrings.IGNORED}
        assert text[len(train.prompts[item]) - 1] == asks
        assert len(text) <= PRESET.sizes["positions"]


def test_prompts_are_padded_in_front_and_hold_no_summary():
    train, _ = split(PRESET)
    batch = train.prompt_batch(torch.tensor([3, 4, 5]))
    for row, item in enumerate((3, 4, 5)):
        real = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        assert real == list(train.prompts[item])
        assert batch["attention_mask"][row].tolist() == sorted(batch["attention_mask"][row].tolist())


def test_the_tokenizer_gives_back_what_it_read():
    train, _ = split(PRESET)
    assert train.tokenizer.get_vocab_size() == PRESET.sizes["vocabulary"]
    text = "Return the naïve sum, or raise ValueError."
    assert train.decode([[*train.tokenizer.encode(text).ids, train.end]]) == [text]


def test_unigram_entropy_by_hand():
    words = docstrings.tokenizer(PRESET.sizes["vocabulary"])
    train = docstrings.Texts([[2]], [[2, 3]], words)  # followed by 2, 3, end (1)
    held_out = docstrings.Texts([[2]], [[2]], words)  # followed by 2, end
    assert cases.unigram_entropy(train, held_out) == pytest.approx(math.log((1024 + 3) / 2))


def test_a_text_that_has_no_room_is_refused():
    with pytest.raises(ValueError, match=r"^34 positions leave no room for a prompt before 32 tokens of summary$"):
        split(PRESET.resized(positions=34))
