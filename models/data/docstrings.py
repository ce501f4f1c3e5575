"""Texts with summaries, without a network: the body of each docstring in Python's standard library and its first line.

The first line says in a few words what the body explains, as a headline does for an article. The docstrings depend on
the version of Python, and so does `fingerprint`. All docstrings of a file are either for training or held out.
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

from models.packages import needs
from models.registry import Preset

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
END, SUMMARY = "<|endoftext|>", "<|summary|>"
EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings",
            "pydoc_data", "distutils"}
SHORTEST = 80  # letters of the shortest body that is worth a summary
SUMMARY_TOKENS = 32
IGNORED = -100  # the target that cross_entropy ignores


class Pair(NamedTuple):
    """A pair is the body of a docstring with its first line, and the file they are from."""

    file: str
    body: str
    first_line: str


@dataclass(frozen=True)
class Texts:
    """Prompts and their summaries as tokens; the last token of a prompt asks for the summary."""

    prompts: Sequence[Sequence[int]]
    summaries: Sequence[Sequence[int]]
    tokenizer: Tokenizer
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: str | torch.device) -> Texts:
        """Sets the device of the batches."""
        return Texts(self.prompts, self.summaries, self.tokenizer, device)

    def batch(self, items: torch.Tensor, generator: torch.Generator | None = None,
              ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Gives the tokens (B, N) of prompt, summary and end, and for each the next token or IGNORED.

        The padding is at the end, where causal attention needs no mask.
        """
        end = self.end
        texts = [[*self.prompts[i], *self.summaries[i], end] for i in items.tolist()]
        longest = max(map(len, texts))
        tokens = torch.tensor([text + [end] * (longest - len(text)) for text in texts])
        targets = torch.tensor([text[1:] + [IGNORED] * (longest - len(text) + 1) for text in texts])
        return {"input_ids": tokens.to(self.device)}, targets.to(self.device)

    def prompt_batch(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gives the prompts (B, N), with the padding in front, and their mask, as `generate` takes them."""
        prompts = [list(self.prompts[i]) for i in items.tolist()]
        longest = max(map(len, prompts))
        tokens = torch.tensor([[self.end] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return {"input_ids": tokens.to(self.device), "attention_mask": mask.to(self.device)}

    def references(self, items: torch.Tensor) -> list[str]:
        """Gives the summaries as texts."""
        return self.decode([self.summaries[i] for i in items.tolist()])

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Turns tokens into texts, without special tokens."""
        return [text.strip() for text in self.tokenizer.decode_batch([list(row) for row in tokens])]

    @property
    def end(self) -> int:
        """The number of the token that ends a text."""
        return _number(self.tokenizer, END)


def _number(words: Tokenizer, token: str) -> int:
    """Gives the number of a special token. Raises ValueError for a tokenizer without it."""
    if (number := words.token_to_id(token)) is None:
        raise ValueError(f"the tokenizer has no token {token}: train one as docstrings.tokenizer does, or add it")
    return number


@functools.cache
def pairs() -> tuple[Pair, ...]:
    """Lists every different (body, first line) in this Python's standard library, with single spaces."""
    root = Path(sysconfig.get_paths()["stdlib"])
    unique: dict[tuple[str, str], Pair] = {}
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if not EXCLUDED & set(relative.parts):
            for body, first_line in _docstrings(file):
                unique.setdefault((body, first_line), Pair(relative.as_posix(), body, first_line))
    return tuple(unique.values())


def _docstrings(file: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # some files of the library are broken on purpose
        return
    for node in _definitions(tree):
        first_line, _, body = (ast.get_docstring(node) or "").partition("\n\n")
        if "\n" not in first_line and len(body) >= SHORTEST:
            yield " ".join(body.split()), " ".join(first_line.split())


def _definitions(node: Definition) -> Iterator[Definition]:
    """Yields the module, its classes and functions, and those inside them, but none inside other statements."""
    yield node
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _definitions(child)


def fingerprint() -> str:
    """Hashes all pairs, for `training.fingerprint`."""
    return hashlib.blake2b(repr(pairs()).encode(), digest_size=8).hexdigest()


def _held_out(pair: Pair) -> bool:
    """Tells whether the pair is held out, as one file in eight is, by a hash of its name."""
    return hashlib.blake2b(pair.file.encode(), digest_size=1).digest()[0] < 32


@functools.cache
def tokenizer(vocabulary: int) -> Tokenizer:
    """Trains byte-level BPE (Sennrich et al., arXiv 1508.07909; as in GPT-2) on the pairs that are not held out."""
    with needs("tokenizers", "for the texts", "models"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[SUMMARY, END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    words.train_from_iterator((text for pair in pairs() if not _held_out(pair) for text in pair[1:]), trainer)
    return words


def texts(rows: Sequence[tuple[str, str]], words: Tokenizer, positions: int) -> Texts:
    """Turns (text, summary) pairs into tokens and cuts a text so that its summary fits into the positions.

    Raises ValueError for too few positions.
    """
    summary = _number(words, SUMMARY)
    room = positions - SUMMARY_TOKENS - 2
    if room < 1:
        raise ValueError(f"{positions} positions leave no room for a prompt before {SUMMARY_TOKENS} tokens of summary")
    prompts = [[*encoding.ids[:room], summary] for encoding in words.encode_batch([text for text, _ in rows])]
    summaries = [encoding.ids[:SUMMARY_TOKENS] for encoding in words.encode_batch([line for _, line in rows])]
    return Texts(prompts, summaries, words)


def split(preset: Preset) -> tuple[Texts, Texts]:
    """Gives training and held-out texts in tokens of the preset's vocabulary."""
    return _split(preset.sizes["vocabulary"], preset.sizes["positions"])


@functools.lru_cache(maxsize=4)
def _split(vocabulary: int, positions: int) -> tuple[Texts, Texts]:
    words = tokenizer(vocabulary)
    train, held_out = ([pair[1:] for pair in pairs() if _held_out(pair) == part] for part in (False, True))
    return texts(train, words, positions), texts(held_out, words, positions)
