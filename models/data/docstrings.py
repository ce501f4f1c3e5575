"""Summaries of text with no network: of each docstring in Python's standard library the body, and its first line.

The first line says in a few words what the body explains, as a headline does of an article. Which docstrings
there are depends on the version of Python: `fingerprint` tells. A file is trained on or held out, never both.
"""
from __future__ import annotations

import ast
import functools
import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from models.data.packages import needs
from models.registry import Preset

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
END, SUMMARY = "<|endoftext|>", "<|summary|>"
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings",
            "pydoc_data", "distutils"}
SHORTEST = 80  # letters of a body that has something to sum up
SUMMARY_TOKENS = 32
IGNORED = -100  # of cross_entropy


class Pair(NamedTuple):
    file: str
    body: str
    first_line: str


@dataclass(frozen=True)
class Texts:
    """Prompts and their summaries as tokens; a prompt ends with the token that asks for the summary."""

    prompts: Sequence[Sequence[int]]
    summaries: Sequence[Sequence[int]]
    tokenizer: Tokenizer
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: str | torch.device) -> Texts:
        return Texts(self.prompts, self.summaries, self.tokenizer, device)

    def batch(self, items: torch.Tensor, generator: torch.Generator | None = None,
              ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Tokens of prompt, summary and end (B, N), padded behind, where causal attention needs no mask; and the
        token that follows each, or IGNORED."""
        end = self.end
        texts = [[*self.prompts[i], *self.summaries[i], end] for i in items.tolist()]
        longest = max(map(len, texts))
        tokens = torch.tensor([text + [end] * (longest - len(text)) for text in texts])
        following = torch.tensor([text[1:] + [IGNORED] * (longest - len(text) + 1) for text in texts])
        return {"input_ids": tokens.to(self.device)}, following.to(self.device)

    def prompt_batch(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        """Prompts alone (B, N), padded in front, with their mask: what `generate` takes."""
        prompts = [list(self.prompts[i]) for i in items.tolist()]
        longest = max(map(len, prompts))
        tokens = torch.tensor([[self.end] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return {"input_ids": tokens.to(self.device), "attention_mask": mask.to(self.device)}

    def references(self, items: torch.Tensor) -> list[str]:
        return self.decode([self.summaries[i] for i in items.tolist()])

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Texts of tokens, special ones dropped."""
        return [text.strip() for text in self.tokenizer.decode_batch([list(row) for row in tokens])]

    @property
    def end(self) -> int:
        return _number(self.tokenizer, END)


def _number(words: Tokenizer, token: str) -> int:
    """ValueError for a tokenizer without it."""
    if (number := words.token_to_id(token)) is None:
        raise ValueError(f"the tokenizer has no token {token}: train one as docstrings.tokenizer does, or add it")
    return number


@functools.cache
def pairs() -> tuple[Pair, ...]:
    """Every different (body, first line) of this Python's standard library, white space made single spaces."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[tuple[str, str], Pair] = {}
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if not LEFT_OUT & set(relative.parts):
            for body, first_line in _docstrings(file):
                found.setdefault((body, first_line), Pair(relative.as_posix(), body, first_line))
    return tuple(found.values())


def _docstrings(file: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # some files of the library are wrong on purpose
        return
    for node in _documented(tree):
        first_line, _, body = (ast.get_docstring(node) or "").partition("\n\n")
        if "\n" not in first_line and len(body) >= SHORTEST:
            yield " ".join(body.split()), " ".join(first_line.split())


def _documented(node: Documented) -> Iterator[Documented]:
    """The module, its classes and functions, and theirs: not what stands inside other statements."""
    yield node
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _documented(child)


def fingerprint() -> str:
    return hashlib.blake2b(repr(pairs()).encode(), digest_size=8).hexdigest()


def _held_out(pair: Pair) -> bool:
    """One file in eight, by its name."""
    return hashlib.blake2b(pair.file.encode(), digest_size=1).digest()[0] < 32


@functools.cache
def tokenizer(vocabulary: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al., arXiv 1508.07909; as GPT-2's) trained on what is not held out."""
    with needs("tokenizers", "for the texts", "models"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[SUMMARY, END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator((text for pair in pairs() if not _held_out(pair) for text in pair[1:]), trainer)
    return made


def texts(found: Sequence[tuple[str, str]], words: Tokenizer, positions: int) -> Texts:
    """(text, summary) pairs as tokens: a text is cut so that its summary still has room among the positions."""
    summary = _number(words, SUMMARY)
    room = positions - SUMMARY_TOKENS - 2
    if room < 1:
        raise ValueError(f"{positions} positions leave no room for a prompt before {SUMMARY_TOKENS} tokens of summary")
    prompts = [[*encoding.ids[:room], summary] for encoding in words.encode_batch([text for text, _ in found])]
    summaries = [encoding.ids[:SUMMARY_TOKENS] for encoding in words.encode_batch([line for _, line in found])]
    return Texts(prompts, summaries, words)


def split(preset: Preset) -> tuple[Texts, Texts]:
    """Training and held-out texts, in tokens of the preset's vocabulary."""
    return _split(preset.sizes["vocabulary"], preset.sizes["positions"])


@functools.lru_cache(maxsize=4)
def _split(vocabulary: int, positions: int) -> tuple[Texts, Texts]:
    words = tokenizer(vocabulary)
    train, held_out = ([pair[1:] for pair in pairs() if _held_out(pair) == held] for held in (False, True))
    return texts(train, words, positions), texts(held_out, words, positions)


def unigram_entropy(train: Texts, held_out: Texts) -> float:
    """Nats a token of the held-out texts if each is guessed by how often it is in the training ones: what a model
    that knows no context reaches."""
    before, now = (_counts(texts) for texts in (train, held_out))
    before = before + 1  # so that none costs infinity
    return -(now * (before / before.sum()).log()).sum().item() / now.sum().item()


def _counts(texts: Texts) -> torch.Tensor:
    _, following = texts.batch(torch.arange(len(texts)))
    return following[following != IGNORED].bincount(minlength=texts.tokenizer.get_vocab_size())
